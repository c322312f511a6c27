"""The composition root of a real node: uvloop, gRPC, RocksDB, the system's clock and chance, handed to `Node` as `Env`.

    open store ── start ── ready ──────── SIGTERM/SIGINT ──► drain, sync, clean mark, close ──► exit 0
                    │        └─ fatal ──► log, exit 1 at once: nothing more is acknowledged
                    └─ refused ──► the error, to whoever called

Invariants
  1. Once `node.fatal` is set the process ends without unwinding, in the same turn of the loop. (That nothing is
     acknowledged between is the node's and the poisoned engine's part.)
  2. A second signal ends the process at once. That is a crash, which the store survives. One right behind the first is
     the same wish said twice: timeout(1), shells and container runtimes signal the process and then its group.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from cluster.node import Node, NodeOptions
from cluster.server.unary_service import UnaryService
from kvstore.client.operation_ids import OperationIds
from kvstore.env import Env
from kvstore.errors import KVStoreError
from kvstore.storage.rocksdb import RocksEngine
from kvstore.storage.witness_file import default_run_directory
from kvstore.system import SystemClock, system_random
from kvstore.transport.grpc_transport import GrpcTransport
from kvstore.transport.grpc_unary import UnaryServices

__all__ = ["run_node"]

EXIT_FATAL = 1
OPEN_FILES_WANTED = 65_536
SECOND_SIGNAL_AFTER_S = 0.3
GC_THRESHOLDS = (50_000, 20, 50)
"""Objects allocated before a young collection (CPython's default is 700). Requests die by reference count, so collections
find almost nothing. Measured over 40,000 puts and 40,000 gets at 256 in flight, per node: with the defaults 230 young
collections (50-90 ms in all) and 2 full ones that stop the loop for 25-50 ms each; with these and `freeze`, none."""
SWITCH_INTERVAL_S = 0.0005
"""How long the sync thread waits for the interpreter when the loop is busy (CPython's default is 5 ms): every commit group waits
for it once, and a commit itself takes about 0.5 ms."""
OnReady = Callable[[Node], None]


def run_node(
    data: Path, options: NodeOptions, on_ready: OnReady, *, run_directory: Path | None = None, lane_port: int = 0
) -> int:
    """Run one node until a signal or a fatal error; returns the exit code. `on_ready` is called once it serves.

    `lane_port` is where direct lanes begin: 0 for any free port, -1 for no lanes.

    `run_directory` is where the store's witness lives (None: in shared memory); see `witness_file.py` for what it must be.
    Raises `KVStoreError` if the store does not open or the node refuses to start; nothing is left open then.
    """
    transport = GrpcTransport(has_lanes=lane_port >= 0, lane_port=max(0, lane_port))
    return uvloop.run(_run(data, options, on_ready, run_directory or default_run_directory(), transport))


async def _run(
    data: Path, options: NodeOptions, on_ready: OnReady, run_directory: Path, transport: GrpcTransport
) -> int:
    _allow_open_files()
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)
    engine = RocksEngine.open(data, run_directory=run_directory)
    node: Node | None = None
    try:
        env = Env(transport=transport, engine=engine, clock=SystemClock(), random=system_random())
        node = Node(env, options)
        transport.also_serve(UnaryServices(UnaryService(node), OperationIds(env.clock, env.random).next))
        node.fatal.add_done_callback(_end_at_once)
        if await _started(node, stop):
            _quiet_collector()
            on_ready(node)
            await stop
    finally:
        if node is not None:
            await node.stop()
        else:
            await engine.close(clean=False)
    structlog.get_logger("kvnode").info("stopped", reason=stop.result())
    return 0


async def _started(node: Node, stop: asyncio.Future[str]) -> bool:
    """Start the node; False if a signal came first (a join may take long)."""
    starting = asyncio.ensure_future(node.start())
    stop.add_done_callback(lambda _: starting.cancel())
    try:
        await starting
    except asyncio.CancelledError:
        if not stop.done():
            raise
        return False
    return True


def _on_signal(number: signal.Signals, stop: asyncio.Future[str]) -> None:
    if stop.done():
        return
    loop = asyncio.get_running_loop()
    loop.call_later(SECOND_SIGNAL_AFTER_S, _arm_second_signal, loop)
    structlog.get_logger("kvnode").info("stopping", signal=number.name)
    stop.set_result(number.name)


def _arm_second_signal(loop: asyncio.AbstractEventLoop) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 128 + number)


def _end_at_once(fatal: asyncio.Future[None]) -> None:
    """End the process without unwinding: unwinding would flush replies that must not be sent."""
    if fatal.cancelled():
        return
    error = fatal.exception()
    structlog.get_logger("kvnode").critical("fatal: ending at once", error=str(error), kind=type(error).__name__)
    logging.shutdown()
    os._exit(error.exit_code if isinstance(error, KVStoreError) else EXIT_FATAL)


def _allow_open_files() -> None:
    """Raise the soft limit as far as we may: connections and tables are files, and 1,024 (a common default) is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _quiet_collector() -> None:
    """Take what start-up made out of the collector's sight, and collect rarely from now on."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
