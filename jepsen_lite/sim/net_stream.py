"""One direction of one connection: what TCP makes of a wire. Everything arrives in order and once, or nothing more does.

    push ─► waiting ─launch─► flight, in order (who is early waits for who is late) ─arrive─► the other end
              ▲                 │ met a cut: it and all behind it go back
              └──── retry after RTO, 2 RTO, 4 RTO … ◄── lost          more than `losses_max` in a row: dead

Invariants
  1. Order of arrival is order of `push`; a lost segment holds up all behind it (head-of-line blocking).
  2. At most one timer for the flight and one for the retry, whatever the load.
  3. Nothing arrives after `abandon` but what was under way then; after `stop`, nothing.

Simplified: a frame is one segment whatever its size, loss is noticed only by the retransmission timer (no fast
retransmit), and acknowledgements are free. The first makes loss rarer for large frames, the second makes it cost more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from jepsen_lite.sim.net_wire import Wire

__all__ = ["Segment", "Stream", "TcpTimes"]


@dataclass(frozen=True, slots=True)
class TcpTimes:
    """Times and bounds of every connection. `losses_max` retries take 0.2+0.4+0.8+1.6+3.2+3.2+3.2+3.2 = 15.8 s.

    Keepalive is that of gRPC (kvstore/transport/grpc_options.py): a ping after `keepalive_s` of silence, the end
    `silence_s` later. Each end draws its own times, up to `spread` shorter or longer, so that they learn at different times.
    """

    rto_s_min: float = 0.2
    rto_s_max: float = 3.2
    losses_max: int = 8
    keepalive_s: float = 10.0
    silence_s: float = 5.0
    spread: float = 0.2
    queue_bytes_max: int = 64 * 1024 * 1024
    """Bytes one direction may hold; above, its connection breaks. Far above what the product's own bounds admit."""


@dataclass(slots=True)
class Segment:
    """Something that travels in order: a frame, or an event of the connection (`frame` is None)."""

    arrive: Callable[[], object]
    frame: bytes | None = None
    is_knock: bool = False
    arrival_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        return len(self.frame) if self.frame is not None else 0


class Stream:
    """`on_dead(cause)` asks its end to break the connection; `on_drop(frame)` is told of each frame that never arrives."""

    def __init__(
        self, wire: Wire, times: TcpTimes, *, on_dead: Callable[[str], None], on_drop: Callable[[bytes], None]
    ) -> None:
        self._wire, self._times = wire, times
        self._on_dead, self._on_drop = on_dead, on_drop
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Segment] = deque()
        self._flight: deque[Segment] = deque()
        self._queued_bytes = self._losses = 0
        self._arrival: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._is_over = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not self._waiting and not self._flight

    @property
    def in_flight_count(self) -> int:
        return len(self._flight)

    def push(self, segment: Segment) -> None:
        """Send something behind everything sent before; dropped after the end."""
        if self._is_over:
            self._drop(segment)
            return
        self._waiting.append(segment)
        self._queued_bytes += segment.size_bytes
        if self._queued_bytes > self._times.queue_bytes_max:
            self._on_dead("queue")
        else:
            self._launch()

    def abandon(self, *, extra_s: float = 0.0) -> None:
        """Send nothing any more. What is under way still arrives, `extra_s` later than it would have."""
        self._is_over = True
        self._drop_all(self._waiting)
        self._cancel(self._retry)
        self._retry = None
        for segment in self._flight:
            segment.arrival_s += extra_s
        if self._flight and extra_s:
            self._cancel(self._arrival)
            self._arm()

    def stop(self) -> None:
        """Let nothing arrive any more."""
        self.abandon()
        self._drop_all(self._flight)
        self._cancel(self._arrival)
        self._arrival = None

    # Sending.

    def _launch(self) -> None:
        while self._waiting and self._retry is None and not self._wire.stops(self._launch):
            segment = self._waiting[0]
            arrival_s = self._wire.arrival_s(self._loop.time(), segment.size_bytes, is_knock=segment.is_knock)
            if arrival_s is None:
                self._count_loss()
                return
            self._waiting.popleft()
            self._losses = 0
            segment.arrival_s = arrival_s
            self._flight.append(segment)
            if self._arrival is None:
                self._arm()

    def _count_loss(self) -> None:
        self._losses += 1
        if self._losses > self._times.losses_max:
            self._on_dead("losses")
        else:
            rto_s = min(self._times.rto_s_max, self._times.rto_s_min * 2 ** (self._losses - 1))
            self._retry = self._loop.call_later(rto_s, self._launch_again)

    def _launch_again(self) -> None:
        self._retry = None
        self._launch()

    # Arriving.

    def _arm(self) -> None:
        self._arrival = self._loop.call_at(self._flight[0].arrival_s, self._arrive)

    def _arrive(self) -> None:
        self._arrival = None
        if not self._flight or self._wire.stops(self._arrive_late):
            return
        if self._wire.blocks():
            self._go_back()
            return
        segment = self._flight.popleft()
        self._queued_bytes -= segment.size_bytes
        if self._flight:
            self._arm()
        segment.arrive()

    def _arrive_late(self) -> None:
        if self._arrival is None:
            self._arrive()

    def _go_back(self) -> None:
        """The first of the flight met a cut: it and, for simplicity, all behind it must be sent again."""
        if self._is_over:
            self._drop_all(self._flight)
            return
        self._waiting.extendleft(reversed(self._flight))
        self._flight.clear()
        if self._retry is None:
            self._count_loss()

    def _drop_all(self, segments: deque[Segment]) -> None:
        while segments:
            self._drop(segments.popleft())

    def _drop(self, segment: Segment) -> None:
        if segment.frame is not None:
            self._on_drop(segment.frame)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
