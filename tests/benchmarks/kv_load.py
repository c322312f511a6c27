"""One generator process of a comparison: the workers of `kvctl bench` over many clients, started and ended in step with others.

`kvctl bench` itself starts measuring when it is ready; several of them would measure different moments, and their percentiles
cannot be added up. So its `Runner` is driven here by the protocol of load_process.py, with keys as long as the peer's.

Each client has a link, and so a TCP connection, to every node it needs: three, as a client of etcd has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import uvloop

from cluster.cli.bench_core import WORKLOADS
from cluster.cli.bench_run import BenchPlan, Measured, Runner
from cluster.cli.session import parse_duration_s, quiet_collector
from cluster.cli.workers import run_all
from kvstore.client.bucket import AsyncBucket
from kvstore.client.client import AsyncClient
from tests.benchmarks.figures import rounded_us

__all__ = ["DIGITS", "SizedPlan"]

DIGITS = 12
CONNECTING_MAX = 8
"""Clients that connect at once: with 32, in four processes, 384 handshakes on two busy cores timed each other out."""
CONNECT_S_MAX = 30
WARM_KEYS = 8
"""Absent keys that a client reads before it is ready. The first one opens links to all owners; the others give them time."""


@dataclass(frozen=True, slots=True)
class SizedPlan(BenchPlan):
    """A plan whose keys have a given size, and a prefix that makes them this process's own."""

    prefix: bytes
    key_size: int

    def key(self, index: int) -> bytes:
        """Return the prefix, filled up with dots, and twelve digits; the same as main.go's."""
        return self.prefix.ljust(self.key_size - DIGITS, b".") + b"%0*d" % (DIGITS, index)


def main() -> None:
    """Run one generator."""
    options = _parse()
    quiet_collector()
    uvloop.run(_limited(options))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-endpoints", required=True)
    parser.add_argument("-operation", choices=["put", "get", "fill"], default="put")
    parser.add_argument("-prefix", type=str.encode, default=b"load")
    for name, default in (("connections", 1), ("in-flight", 64), ("key-size", 276), ("value-size", 1024),
                          ("keys", 10_000), ("seed", 1)):  # fmt: skip
        parser.add_argument(f"-{name}", type=int, default=default)
    for name, duration in (("warmup", "1s"), ("duration", "5s"), ("limit", "10m")):
        parser.add_argument(f"-{name}", type=_duration_s, default=duration)
    return parser.parse_args()


def _duration_s(text: str) -> float:
    """`0s` is a duration here: no warm-up."""
    return 0.0 if text.rstrip("s").rstrip(".0") in ("", "0") else parse_duration_s(text)


async def _limited(options: argparse.Namespace) -> None:
    async with asyncio.timeout(options.limit):
        await _run(options)


async def _run(options: argparse.Namespace) -> None:
    plan = _plan(options)
    async with AsyncExitStack() as closing:
        buckets = await _connect(options, plan, closing)
        _say("ready")
        await _line_of_stdin()
        _say(
            json.dumps(
                await (_fill(buckets[0], plan) if options.operation == "fill" else _load(options, plan, buckets))
            )
        )
        await _line_of_stdin()  # until it ends: our CPU time can still be read


async def _load(options: argparse.Namespace, plan: SizedPlan, buckets: list[AsyncBucket[Any]]) -> dict[str, Any]:
    runner = Runner(plan, buckets)
    if options.warmup:
        await runner.phase(options.warmup, None)
    _say("begin")
    measured = await runner.phase(options.duration, None)
    _say("end")
    return _document(measured)


async def _line_of_stdin() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def _plan(options: argparse.Namespace) -> SizedPlan:
    return SizedPlan(
        mix=WORKLOADS["get" if options.operation == "get" else "put"], distribution="uniform", keys_count=options.keys,
        value=random.Random(options.seed).randbytes(options.value_size), policy="fresh",
        concurrency=options.in_flight, rate_per_s=None, duration_s=options.duration, operations_max=None,
        seed=options.seed, fresh_offset=0, prefix=options.prefix, key_size=options.key_size,
    )  # fmt: skip


async def _connect(options: argparse.Namespace, plan: SizedPlan, closing: AsyncExitStack) -> list[AsyncBucket[Any]]:
    buckets: list[AsyncBucket[Any]] = []
    url = f"kv://{options.endpoints}/?timeout=10s&connect_timeout={CONNECT_S_MAX}s"

    async def connect(_: int) -> None:
        client = AsyncClient.from_url(url)
        closing.push_async_callback(client.close)
        await client.connect(timeout=CONNECT_S_MAX)
        bucket = client.bucket("default")
        for number in range(WARM_KEYS):
            await bucket.get(b"nothing-%d" % number)
        buckets.append(bucket)

    await run_all(range(options.connections), connect, CONNECTING_MAX)
    return buckets


async def _fill(bucket: AsyncBucket[Any], plan: SizedPlan) -> dict[str, Any]:
    start_s = asyncio.get_running_loop().time()

    async def put(index: int) -> None:
        await bucket.put(plan.key(index), plan.value)

    await run_all(range(plan.keys_count), put, plan.concurrency)
    elapsed_s = asyncio.get_running_loop().time() - start_s
    return {
        "operations": plan.keys_count, "elapsed_s": elapsed_s, "errors": 0, "not_found": 0, "first_error": "",
        "latencies_us": {},
    }  # fmt: skip


def _document(measured: Measured) -> dict[str, Any]:
    latencies = Counter(rounded_us(ns // 1_000) for each in measured.latencies_ns.values() for ns in each)
    return {
        "operations": measured.operations, "elapsed_s": measured.elapsed_s, "errors": sum(measured.errors.values()),
        "not_found": measured.not_found, "first_error": ", ".join(sorted(measured.errors)), "latencies_us": latencies,
    }  # fmt: skip


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
