"""Where a simulated process ends and its world begins: the twins' transport and engine, as one process may use them.

    product code, in the process           │  twins, as the harness
    connection.send(frame) ────────────────┼─► frames travel in timers that outlive the sender
    handler.frame_received(frame) ◄─ queue ┼── and wait for the receiver's CPU, also while it is paused
    engine.apply, engine.sync ─────────────┼─► the disk

Invariants
  1. Whatever a twin schedules belongs to the harness; whatever product code runs belongs to its process.
  2. What a handler is told comes in the order in which the twin said it.
  3. A dead process passes nothing through: `point` raises `ProcessKilled` before anything is touched.
Points where a nemesis may kill: "frame sent", "about to apply", "applied", "about to sync", "synced".
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.processes import Process
from kvstore.env import Accept, Connection, FrameHandler, Listener, Transport
from kvstore.storage.engine import Engine, Family, OpenReport, Put
from kvstore.transport.rules import report_bug

__all__ = ["ProcessEngine", "ProcessTransport"]

T = TypeVar("T")


class ProcessTransport:
    """The transport of one process, on the twin's of its host."""

    def __init__(self, loop: VirtualLoop, process: Process, inner: Transport) -> None:
        self._loop, self._process, self._inner = loop, process, inner
        self._ears: dict[_Ear, None] = {}  # of open connections, in the order of creation
        process.on_death.append(self._forget_all)

    def _forget_all(self) -> None:
        """The other end of a connection may live long, and must not keep a dead process in memory."""
        for ear in self._ears:
            ear.handler = None
        self._ears.clear()

    def forget(self, ear: _Ear) -> None:
        """Its connection ended."""
        self._ears.pop(ear, None)

    def _new_ear(self) -> _Ear:
        ear = _Ear(self._loop, self._process, self)
        self._ears[ear] = None
        return ear

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        self._loop.check_alive()
        ear = self._new_ear()
        connecting = self._start(self._inner.connect(address, ear.attach, timeout_s=timeout_s))
        try:
            inner = await connecting
        except BaseException:  # boundary: also a cancellation; it may just have been opened, and nobody wants it
            self.forget(ear)
            connecting.add_done_callback(_close_if_open, context=self._loop.outside)
            raise
        connection = _Connection(self._loop, inner)
        ear.handler = accept(connection)
        return connection

    async def serve(self, address: str, accept: Accept) -> Listener:
        self._loop.check_alive()
        listener = await self._start(self._inner.serve(address, partial(self._accepted, accept)))
        return _Listener(self, listener)

    def _accepted(self, accept: Accept, inner: Connection) -> FrameHandler:
        ear = self._new_ear()
        ear.attach(inner)
        self._loop.call_in(self._process, ear.open, accept, _Connection(self._loop, inner))
        return ear

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a twin's coroutine as the harness. Its error is seen even if who asked is dead by then."""
        task: asyncio.Task[T] = self._loop.as_harness(self._loop.create_task, work)
        task.add_done_callback(_see_error, context=self._loop.outside)
        return task


class _Ear:
    """What the twin takes for the handler: passes everything on to the process, when that comes to it."""

    __slots__ = ("_connection", "_loop", "_process", "_transport", "handler")

    def __init__(self, loop: VirtualLoop, process: Process, transport: ProcessTransport) -> None:
        self._loop, self._process, self._transport = loop, process, transport
        self._connection: Connection | None = None
        self.handler: FrameHandler | None = None

    def attach(self, connection: Connection) -> FrameHandler:
        self._connection = connection
        return self

    def open(self, accept: Accept, connection: Connection) -> None:
        """In the process: get the handler of an accepted connection."""
        try:
            self.handler = accept(connection)
        except Exception as bug:  # the task boundary: one connection must not cost the listener
            self._end(bug)

    def frame_received(self, frame: bytes) -> None:
        self._loop.call_in(self._process, self._hear, frame)

    def connection_closed(self, error: Exception | None) -> None:
        self._loop.call_in(self._process, self._hear_end, error)

    def _hear(self, frame: bytes) -> None:
        handler = self.handler
        if handler is not None:
            try:
                handler.frame_received(frame)
            except Exception as bug:  # the task boundary, as in the twins
                self._end(bug)

    def _hear_end(self, error: Exception | None) -> None:
        handler, self.handler = self.handler, None
        self._transport.forget(self)
        if handler is not None:
            handler.connection_closed(error)

    def _end(self, bug: Exception) -> None:
        assert self._connection is not None, "a handler is told nothing before its connection is there"
        self._loop.as_harness(self._connection.close, report_bug(self._connection.peer, bug))


class _Connection:
    """One end, as product code holds it."""

    __slots__ = ("_inner", "_loop")

    def __init__(self, loop: VirtualLoop, inner: Connection) -> None:
        self._loop, self._inner = loop, inner

    @property
    def peer(self) -> str:
        return self._inner.peer

    @property
    def backlog_bytes(self) -> int:
        return self._inner.backlog_bytes

    def send(self, frame: bytes) -> None:
        loop = self._loop
        loop.check_alive()
        loop.as_harness(self._inner.send, frame)
        if loop.on_point is not None:
            loop.point("frame sent")

    def close(self, error: Exception | None = None) -> None:
        self._loop.check_alive()
        self._loop.as_harness(self._inner.close, error)


class _Listener:
    """A served address, as product code holds it."""

    def __init__(self, transport: ProcessTransport, inner: Listener) -> None:
        self._transport, self._inner = transport, inner

    @property
    def address(self) -> str:
        return self._inner.address

    async def set_serving(self, is_serving: bool) -> None:
        self._transport._loop.check_alive()
        await self._transport._start(self._inner.set_serving(is_serving))

    async def close(self) -> None:
        self._transport._loop.check_alive()
        await self._transport._start(self._inner.close())


class ProcessEngine:
    """The engine of one process. Its syncs are waited for in the process: one that is paused learns of them when it resumes."""

    def __init__(self, loop: VirtualLoop, inner: Engine) -> None:
        self._loop, self._inner = loop, inner

    @property
    def report(self) -> OpenReport:
        return self._inner.report

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._inner.get(family, key)

    def apply(self, puts: Sequence[Put]) -> None:
        self._loop.point("about to apply")
        self._inner.apply(puts)
        self._loop.point("applied")

    def delete_range(self, family: Family, lower: bytes, upper: bytes) -> None:
        self._loop.point("about to apply")
        self._inner.delete_range(family, lower, upper)
        self._loop.point("applied")

    def scan(self, family: Family, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._inner.scan(family, lower, upper)

    async def sync(self) -> None:
        self._loop.point("about to sync")
        await self._inner.sync()
        self._loop.point("synced")

    def remember_refusal(self, refused: bytes) -> bool:
        self._loop.check_alive()
        return self._inner.remember_refusal(refused)

    def keys_estimate(self) -> int:
        return self._inner.keys_estimate()

    def size_bytes(self) -> int:
        return self._inner.size_bytes()

    async def close(self, *, clean: bool) -> None:
        self._loop.point("about to sync")
        await self._inner.close(clean=clean)


def _see_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _close_if_open(connecting: asyncio.Task[Connection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close(ConnectionAbortedError("given up while connecting"))
