"""One connection of the network in memory: two ends, and a direction from each to the other.

    send ─► direction: queue of arrivals, times never decreasing ─► other end: held while it pauses ─► frame_received
     └── backlog_bytes counts until the other end took the frame, or for ever if the direction swallowed it

The invariants are in memory.py. A timer of a direction takes whatever is first in its queue, so that order does not
depend on how the loop orders timers of the same instant.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from kvstore.env import FrameHandler
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX
from kvstore.transport.rules import BACKLOG_RESUME_BYTES, refuse_oversize, report_bug

__all__ = ["MemoryConnection", "Weather"]


class Weather(Protocol):
    """What a connection asks of its network."""

    def delay_s(self, source: str, target: str) -> float | None:
        """Return how long something sent now is under way, or None if it will never arrive."""

    def is_cut(self, source: str, target: str) -> bool:
        """Return whether nothing may arrive now."""

    def frame_delivered(self, source: str, target: str, frame: bytes) -> None:
        """Trace a frame just before its handler gets it."""

    def forget(self, end: MemoryConnection) -> None:
        """An end was closed."""


class _Direction:
    """From one end to the other: runs actions in order, each at its arrival, until one of them is swallowed."""

    __slots__ = ("_arrivals", "_last_arrival", "_loop", "_source", "_target", "_weather", "is_lost")

    def __init__(self, weather: Weather, source: str, target: str) -> None:
        self._weather, self._source, self._target = weather, source, target
        self._loop = asyncio.get_running_loop()
        self._arrivals: deque[Callable[[], None]] = deque()
        self._last_arrival = 0.0
        self.is_lost = False

    def push(self, arrive: Callable[[], None]) -> None:
        delay_s = self._weather.delay_s(self._source, self._target)
        if delay_s is None:
            self.is_lost = True
        if self.is_lost or delay_s is None:
            return
        self._last_arrival = max(self._last_arrival, self._loop.time() + delay_s)
        self._arrivals.append(arrive)
        self._loop.call_at(self._last_arrival, self._arrive_first)

    def _arrive_first(self) -> None:
        arrive = self._arrivals.popleft()
        if self._weather.is_cut(self._source, self._target):
            self.is_lost = True
        if not self.is_lost:
            arrive()


class MemoryConnection:
    """A `Connection`: one end. The other end is `_other`."""

    __slots__ = (
        "_direction", "_error", "_handler", "_held", "_is_accepted", "_is_paused", "_is_silent", "_loop",
        "_loses_frames", "_other", "_weather", "backlog_bytes", "host", "is_closed", "peer", "peer_host",
    )  # fmt: skip

    def __init__(self, weather: Weather, *, host: str, peer_host: str, peer: str, is_accepted: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._weather = weather
        self.host, self.peer_host, self.peer = host, peer_host, peer
        self._is_accepted = is_accepted
        self._direction = _Direction(weather, host, peer_host)
        self._other = self
        self._handler: FrameHandler | None = None
        self._held: deque[bytes] = deque()
        self.is_closed = self._is_paused = self._is_silent = self._loses_frames = False
        self._error: Exception | None = None
        self.backlog_bytes = 0

    @staticmethod
    def pair(weather: Weather, *, source: str, address: str, target: str) -> tuple[MemoryConnection, MemoryConnection]:
        """Return (connecting end on the host `source`, accepting end on the host `target`), not yet started."""
        ours = MemoryConnection(weather, host=source, peer_host=target, peer=address, is_accepted=False)
        theirs = MemoryConnection(weather, host=target, peer_host=source, peer=source, is_accepted=True)
        ours._other, theirs._other = theirs, ours
        return ours, theirs

    def signal(self, arrive: Callable[[], None]) -> None:
        """Run `arrive` at the other end, in order with the frames (for the handshake)."""
        self._direction.push(arrive)

    def start(self, handler: FrameHandler) -> None:
        """Attach the handler; what arrived or happened before is handed over."""
        self._handler = handler
        self._loop.call_soon(self._take)
        if self.is_closed:
            self._loop.call_soon(handler.connection_closed, self._error)

    def send(self, frame: bytes) -> None:
        refuse_oversize(frame)
        if self.is_closed:
            return
        self.backlog_bytes += len(frame)
        self._direction.push(partial(self._other._frame_arrived, frame))

    def close(self, error: Exception | None = None) -> None:
        if self.is_closed:
            return
        self._loses_frames = error is not None
        self._shut(error)
        theirs = None if error is None else ConnectionResetError(f"the connection to {self.host} was lost: {error}")
        self._direction.push(partial(self._other._end_arrived, theirs))

    def reset(self) -> None:
        """End this end with an error, now; what is under way from here is lost, and the other end is told nothing."""
        if not self.is_closed:
            self._loses_frames = True
            self._shut(ConnectionResetError(f"the connection to {self.peer} was lost: reset"))

    def crash(self) -> None:
        """The process of this end dies: nobody is left to call here. What it sent travels on, then the other end knows."""
        if not self.is_closed:
            self._handler, self._is_silent = None, True
            self._shut(None)
            lost = ConnectionResetError(f"the connection to {self.host} was lost: its process ended")
            self._direction.push(partial(self._other._end_arrived, lost))

    def _shut(self, error: Exception | None) -> None:
        self.is_closed, self._error = True, error
        self.backlog_bytes = 0
        self._held.clear()
        self._weather.forget(self)
        if self._handler is not None:
            self._loop.call_soon(self._handler.connection_closed, error)

    def _end_arrived(self, error: Exception | None) -> None:
        if not self.is_closed:
            self._shut(error)

    def _frame_arrived(self, frame: bytes) -> None:
        if self._other._loses_frames:
            return
        if self.is_closed:
            self._refuse()
            return
        self._held.append(frame)
        self._take()

    def _refuse(self) -> None:
        # Who still sends has not heard of the end. If word of it is under way, it needs no second one; else the machine
        # answers a frame for a connection it does not know with a reset, as TCP does.
        delay_s = self._weather.delay_s(self.host, self.peer_host)
        if delay_s is not None and (self._is_silent or self._direction.is_lost):
            lost = ConnectionResetError(f"the connection to {self.host} was lost: it does not exist there")
            self._loop.call_later(delay_s, self._other._end_arrived, lost)

    def _take(self) -> None:
        """Hand over what arrived, unless our own frames are not taken."""
        while self._held and self._handler is not None and not self._is_paused:
            frame = self._held.popleft()
            self._other._frame_taken(len(frame))
            self._weather.frame_delivered(self.peer_host, self.host, frame)
            try:
                self._handler.frame_received(frame)
            except Exception as bug:  # the task boundary, as in the gRPC twin
                self.close(report_bug(self.peer, bug))
            self._is_paused = self._is_accepted and self.backlog_bytes > CONNECTION_BACKLOG_BYTES_MAX

    def _frame_taken(self, size_bytes: int) -> None:
        if self.is_closed:
            return
        self.backlog_bytes -= size_bytes
        if self._is_paused and self.backlog_bytes < BACKLOG_RESUME_BYTES:
            self._is_paused = False
            self._loop.call_soon(self._take)
