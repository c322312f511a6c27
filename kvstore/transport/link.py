"""A link: the asking side of one connection. Numbers operations, matches replies, keeps itself connected and honest.

    down ──connect, HELLO──► up ◄──silence / heard──► suspect ──dead──► down (reconnect with jittered backoff)

Invariants
  1. Every `ask` that returned leads to exactly one final `on_reply`: the reply, `Timeout` at its deadline, or
     `CoordinatorLost` when the connection ends. Never from inside `ask`.
  2. An operation is sent at most once. What was refused by `ask` itself was not sent.
  3. Silence is counted in heartbeats that really ran, so a stall of our own loop does not make the peer suspect.

No task or timer per operation: one sweep, planned for the earliest deadline, looks for all that have passed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.env import Connection, Transport
from kvstore.errors import (
    CoordinatorLost,
    DecodeError,
    KVStoreError,
    Overloaded,
    Timeout,
    Unavailable,
    error_from_wire,
    error_to_wire,
)
from kvstore.limits import CHUNK_SIZE_BYTES_MAX, CONNECTION_BACKLOG_BYTES_MAX, INFLIGHT_PER_LINK_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.chunks import Reassembly, split
from kvstore.transport.coalescer import Coalescer
from kvstore.transport.frames import FrameKind, Hello, decode_frame, encode_frame, hello_fields, hello_from
from kvstore.transport.silence import Silence

__all__ = ["Link", "LinkOptions", "OnReply"]

# Plain ints: an enum's attribute costs more than the comparison.
_REQUESTS = int(FrameKind.REQUESTS)
_OK, _PART, _APPLIED = int(Status.OK), int(Status.PART), int(Status.APPLIED)
OnReply = Callable[[int, bytes], None]
"""(status, body); body of ERROR is `errors.error_to_wire`."""
_Waiter = OnReply | asyncio.Future[bytes]
"""Who waits for a reply. A future is settled by the link itself: a closure for each to do it costs 0.5 us an operation."""


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Times of a link, in seconds. Suspicion begins after `suspect_beats` heartbeats without a word from the peer; `idle_beats`:
    see Silence.

    `company`: see Coalescer. With 3, a frame goes out once it has half as many operations as are under way already."""

    connect_timeout_s: float = 2.0
    backoff_s_min: float = 0.05
    backoff_s_max: float = 1.0
    heartbeat_s: float = 0.5
    idle_beats: int = 1
    suspect_beats: int = 3
    dead_beats: int = 12
    sweep_s: float = 0.02
    company: int = 3
    in_flight_max: int = INFLIGHT_PER_LINK_MAX


class Link:
    """One peer address. Reconnects until closed or finally refused; `on_event(link)` runs whenever `is_up` may have
    changed, and after every refusal and failed attempt to connect."""

    def __init__(
        self, *, transport: Transport, address: str, hello: Callable[[], Hello], rng: random.Random,
        on_event: Callable[[Link], None] | None = None, options: LinkOptions | None = None, chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self.address, self.options, self._chaos = address, _disturbed(options or LinkOptions(), chaos), chaos
        self.is_up = False
        self.refused: KVStoreError | None = None
        self.refusal: KVStoreError | None = None
        """Why the peer last refused us, final or not; None once it welcomed us."""
        self.remote: Hello | None = None
        self.remote_epoch = 0
        self.last_error: str = "not connected yet"
        self._transport, self._hello, self._rng, self._on_event = transport, hello, rng, on_event
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[float, _Waiter]] = {}
        self._last_id = 0
        self._connection: Connection | None = None
        self._coalescer: Coalescer | None = None
        self._parts = Reassembly()
        self._in_flight_max = self.options.in_flight_max
        self._chunk_bytes = chaos.pick(Point.CHUNK_SMALL, CHUNK_SIZE_BYTES_MAX, 300, 4_000)
        self._task: asyncio.Task[None] | None = None
        self._changed, self._lost = asyncio.Event(), asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._beater: asyncio.TimerHandle | None = None
        self._was_up = False
        """Whether the connection that is open now, or was the last, was up at a heartbeat."""
        self._earliest = inf
        self._heard = False
        self._silence = Silence(self.options.idle_beats)
        self._closed = False

    # --- asking ---------------------------------------------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        """Operations sent and not yet answered."""
        return len(self._waiting)

    def ask(self, verb: int, version: int, deadline: float, key: bytes, body: bytes, on_reply: OnReply) -> None:
        """Send one operation; `deadline` is in loop time. See the invariants for what follows.

        Raises: Unavailable (the link is not up) or Overloaded (a bound is reached); nothing was sent.
        """
        self._send(self._usable(), verb, version, deadline, key, body, on_reply)

    def request(self, verb: int, version: int, deadline: float, key: bytes, body: bytes) -> asyncio.Future[bytes]:
        """Ask; the future gives the OK body or raises the error of the reply. Raises what `ask` raises."""
        done: asyncio.Future[bytes] = self._loop.create_future()
        self._send(self._usable(), verb, version, deadline, key, body, done)
        return done

    async def call(self, verb: int, version: int, deadline: float, key: bytes, body: bytes) -> bytes:
        """Ask, and wait for the OK body. Raises the error of the reply, or what `ask` raises."""
        return await self.request(verb, version, deadline, key, body)

    def _usable(self) -> Coalescer:
        """Return what sends, if one operation more may be sent."""
        coalescer, connection = self._coalescer, self._connection
        if coalescer is None or connection is None or not self.is_up:
            raise Unavailable(f"no connection to {self.address}: {self.last_error}")
        if len(self._waiting) >= self._in_flight_max or connection.backlog_bytes > CONNECTION_BACKLOG_BYTES_MAX:
            self._chaos.hit(Probe.LINK_FULL)
            raise Overloaded(f"too much in flight to {self.address}", retry_after_s=0.05, in_flight=len(self._waiting))
        return coalescer

    def _send(
        self, coalescer: Coalescer, verb: int, version: int, deadline: float, key: bytes, body: bytes, waiter: _Waiter
    ) -> None:
        remaining_ms = int((deadline - self._loop.time()) * 1000)
        self._last_id = operation_id = self._last_id + 1
        self._waiting[operation_id] = (deadline, waiter)
        if len(body) > self._chunk_bytes:
            self._chaos.hit(Probe.CHUNKED_REQUEST)
            *parts, body = split(body, self._chunk_bytes)
            for part in parts:
                coalescer.add((operation_id, int(Verb.PART), 0, 0, b"", part), len(part))
        if remaining_ms < 0:
            remaining_ms = 0
        coalescer.add((operation_id, verb, version, remaining_ms, key, body), len(key) + len(body))
        if deadline < self._earliest:
            self._sweep_after(deadline)

    def _sweep_after(self, deadline: float) -> None:
        """Sweep once `deadline`, the earliest of all, has passed: with those that pass within `sweep_s` after it."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._earliest = deadline
        self._sweeper = self._loop.call_at(deadline + self.options.sweep_s, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        self._sweeper, self._earliest = None, inf
        expired = [i for i, (deadline, _) in self._waiting.items() if deadline <= now]
        if len(expired) < len(self._waiting):  # before the callbacks: none of them can end the sweep
            self._sweep_after(min(deadline for deadline, _ in self._waiting.values() if deadline > now))
        if expired:
            self._chaos.hit(Probe.OPERATION_TIMED_OUT)
            error = error_to_wire(Timeout(f"no answer from {self.address} before the deadline"))
            for operation_id in expired:
                entry = self._waiting.pop(operation_id, None)  # an earlier callback may have closed the link
                if entry is not None:
                    _answer(entry[1], Status.ERROR, error)

    # --- frames ---------------------------------------------------------------------------------------------------

    def _frame_received(self, connection: Connection, frame: bytes) -> None:
        if connection is not self._connection:
            return
        self._heard = True
        try:
            fields = decode_frame(frame)
            if fields[0] == FrameKind.REPLIES:
                self._replies(fields)
            elif fields[0] == FrameKind.HELLO and self.remote is None:
                self._welcomed(hello_from(fields))
            elif fields[0] == FrameKind.REFUSED:
                self._refused(error_from_wire(fields[1]))
            else:
                raise DecodeError("a frame of this kind was not expected here")
        except DecodeError as error:
            self._disconnect(error)

    def _replies(self, fields: list[Any]) -> None:
        flat = iter(fields)
        next(flat)
        epoch = next(flat)
        if epoch > self.remote_epoch:
            self.remote_epoch = epoch
            self._notify()
        waiting, unfinished = self._waiting, self._parts.unfinished
        for operation_id, status, body in zip(flat, flat, flat, strict=True):
            if status == _PART:
                self._parts.add(operation_id, body)
                continue
            if unfinished:
                body = self._parts.take(operation_id, body)
            if status == _APPLIED:
                entry = waiting.get(operation_id)
            else:
                entry = waiting.pop(operation_id, None)
            if entry is not None:
                _answer(entry[1], status, body)
            elif operation_id:  # its deadline passed before (no operation has number 0: Point.REPLY_DROPPED)
                self._chaos.hit(Probe.REPLY_TOO_LATE)
        if self._coalescer is not None:
            self._coalescer.poke()

    def _request_header(self) -> list[Any]:
        return [_REQUESTS, int(self._loop.time() * 1000)]

    def _welcomed(self, hello: Hello) -> None:
        self.remote, self.remote_epoch = hello, hello.topology_epoch
        self.is_up, self.last_error, self.refusal = True, "", None
        self._silence = Silence(self.options.idle_beats)
        self._changed.set()
        self._notify()

    def _refused(self, error: KVStoreError) -> None:
        self._chaos.hit(Probe.LINK_REFUSED)
        if not error.retryable and not isinstance(
            error, DecodeError
        ):  # a damaged frame costs its connection, not the link
            self.refused = error
        self.refusal, self.last_error = error, str(error)
        self._disconnect(error)
        self._notify()

    # --- staying connected ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, and stay connected until `close`."""
        assert self._task is None, "a link is started once"
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def wait_up(self, timeout_s: float) -> None:
        """Wait until the link is up. Raises the peer's final refusal, or Unavailable when the time is over."""
        deadline = self._loop.time() + timeout_s
        while not self.is_up:
            if self.refused is not None:
                raise self.refused
            if self._closed or self._loop.time() >= deadline:
                raise Unavailable(f"cannot reach {self.address}: {self.last_error}")
            self._changed.clear()
            timer = self._loop.call_at(deadline, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()

    def drop(self, error: KVStoreError) -> None:
        """End the connection because of `error`, and connect again later: whoever answers then may be another."""
        self._disconnect(error)

    async def close(self) -> None:
        """End the link; what still waits is answered with `CoordinatorLost`."""
        self._closed = True
        if self._coalescer is not None:
            self._coalescer.flush()
        self._disconnect(None)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.last_error = "the link is closed"
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._changed.set()

    async def _run(self) -> None:
        failures = 0
        while not self._closed and self.refused is None:
            if await self._connect_once():
                failures = 0
            failures += 1
            ceiling = min(self.options.backoff_s_max, self.options.backoff_s_min * 2 ** min(failures, 16))
            await asyncio.sleep(self._rng.uniform(self.options.backoff_s_min, ceiling))

    async def _connect_once(self) -> bool:
        """Connect, greet and stay until the connection ends. Returns whether the link came up."""
        self.remote, self._was_up = None, False
        try:
            timeout_s = self.options.connect_timeout_s
            connection = await self._transport.connect(self.address, self._accept, timeout_s=timeout_s)
        except Unavailable as error:
            self.last_error = error.message
            self._changed.set()
            self._notify()
            return False
        connection.send(encode_frame(hello_fields(self._hello())))
        self._heard = False
        self._beats_next(connection, self._loop.time())
        while self._connection is connection:
            self._lost.clear()
            await self._lost.wait()
        return self._was_up

    def _accept(self, connection: Connection) -> _Incoming:
        self._connection = connection
        self._coalescer = Coalescer(
            connection.send, self._request_header, unanswered=self._waiting.__len__, company=self.options.company,
            chaos=self._chaos,
        )  # fmt: skip
        self._parts = Reassembly()
        return _Incoming(self, connection)

    def _beats_next(self, connection: Connection, started: float) -> None:
        self._beater = self._loop.call_later(self.options.heartbeat_s, self._beats, connection, started)

    def _beats(self, connection: Connection, started: float) -> None:
        """One heartbeat, and plan the next: a timer without a task, because a process may have a thousand links."""
        if self._connection is not connection:
            return  # it was lost before its first heartbeat was planned
        self._was_up = self._was_up or self.is_up
        self._beat(connection, started)
        self._heard = False
        if self._connection is connection:
            self._beats_next(connection, started)

    def _beat(self, connection: Connection, started: float) -> None:
        if self.remote is None:
            if self._loop.time() - started > self.options.connect_timeout_s:
                self._disconnect(Unavailable("the peer accepted the connection but did not greet"))
            return
        if self._chaos.fires(Point.LINK_DROPPED):
            self._disconnect(Unavailable("the connection was lost"))
            return
        self._silence.beat(heard=self._heard, owes=bool(self._waiting))
        if self._heard and not self.is_up:
            self._chaos.hit(Probe.LINK_REVIVED)
            self.is_up = True
            self._changed.set()
            self._notify()
        elif self._silence.beats >= self.options.dead_beats:
            self._chaos.hit(Probe.LINK_DEAD)
            self._disconnect(Unavailable("the peer has been silent too long"))
            return
        elif self.is_up and (
            self._silence.beats >= self.options.suspect_beats or self._chaos.fires(Point.LINK_SUSPECT_EARLY)
        ):
            self._chaos.hit(Probe.LINK_SUSPECT)
            self.is_up, self.last_error = False, "suspect: it does not answer"
            self._notify()
        if self._silence.beats and self._coalescer is not None:
            deadline = self._loop.time() + self.options.heartbeat_s * self.options.dead_beats
            self._send(self._coalescer, Verb.PING, 0, deadline, b"", b"", _ignore)

    def _connection_closed(self, connection: Connection, error: Exception | None) -> None:
        if connection is self._connection:
            self._disconnect(error or Unavailable("the peer ended the connection"))

    def _disconnect(self, error: Exception | None) -> None:
        connection, self._connection, self._coalescer = self._connection, None, None
        was_up, self.is_up = self.is_up, False
        if self._beater is not None:
            self._beater.cancel()
            self._beater = None
        if error is not None:
            self.last_error = str(error)
        if connection is not None:
            connection.close(error)
        self._fail_waiting()
        self._lost.set()
        self._changed.set()
        if was_up:
            self._notify()

    def _fail_waiting(self) -> None:
        waiting = list(self._waiting.values())
        self._waiting.clear()  # the same dict: a frame of replies that is being handled right now must see it empty
        if waiting:
            self._chaos.hit(Probe.OPERATION_LOST)
            lost = error_to_wire(CoordinatorLost(f"the connection to {self.address} broke: {self.last_error}"))
            for _, waiter in waiting:
                self._loop.call_soon(_answer, waiter, Status.ERROR, lost)

    def _notify(self) -> None:
        if self._on_event is not None:
            self._on_event(self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._disconnect(problem if isinstance(problem, Exception) else None)
            self._loop.call_exception_handler({"message": f"link to {self.address} ended", "exception": problem})


class _Incoming:
    """What the transport calls for one connection; a word from one that the link has already given up is ignored."""

    __slots__ = ("_connection", "_link")

    def __init__(self, link: Link, connection: Connection) -> None:
        self._link, self._connection = link, connection

    def frame_received(self, frame: bytes) -> None:
        self._link._frame_received(self._connection, frame)

    def connection_closed(self, error: Exception | None) -> None:
        self._link._connection_closed(self._connection, error)


def _disturbed(options: LinkOptions, chaos: Chaos) -> LinkOptions:
    if chaos.is_calm:
        return options
    return replace(
        options, heartbeat_s=chaos.pick(Point.HEARTBEAT_FAST, options.heartbeat_s, 0.05, 0.15),
        company=chaos.pick(Point.FRAME_COMPANY, options.company, 1, 50),
        backoff_s_min=chaos.pick(Point.RECONNECT_LATE, options.backoff_s_min, options.backoff_s_max / 2),
    )  # fmt: skip


def _answer(waiter: _Waiter, status: int, body: bytes) -> None:
    if not isinstance(waiter, asyncio.Future):
        waiter(status, body)
    elif waiter.done() or status == _APPLIED:  # done: the caller was cancelled
        return
    elif status == _OK:
        waiter.set_result(body)
    else:
        waiter.set_exception(error_from_wire(body))


def _ignore(status: int, body: bytes) -> None:
    """A heartbeat's answer counts by having been heard."""
