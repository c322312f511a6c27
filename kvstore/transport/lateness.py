"""How late a frame is: what it waited on its way, without any agreement about clocks.

    sender    ──[ sent at 5.000 ]──────────────►  received at 912.001       offset 907.001   the quickest so far: 0 late
              ──[ sent at 6.000 ]──────── … ───►  received at 914.501       offset 908.501   1.5 s late

A clock's offset is unknown, but the same for all frames of a connection; so the smallest difference ever seen is the quickest
way, and whatever a frame took longer it spent waiting: in a clogged network, in a queue of ours, or while we were stopped.
Without
that, a node that is behind works for clients that gave up long ago, and a paused one carries out old writes as if they were new.

The floor is that of the last one or two windows, because clocks drift apart (50 ppm are 3 ms a minute).
Source: one-way queueing delay as in LEDBAT (RFC 6817, section 3.4.2). Pure: both times are arguments, in milliseconds.
"""

from __future__ import annotations

__all__ = ["WINDOW_MS", "Lateness"]

WINDOW_MS = 60_000


class Lateness:
    """Of one direction of one connection."""

    __slots__ = ("_before", "_floor", "_turns_at")

    def __init__(self) -> None:
        self._floor: int | None = None
        self._before: int | None = None
        self._turns_at = 0

    def of(self, sent_ms: int, received_ms: int) -> int:
        """Return how many milliseconds the frame waited beyond the quickest one; 0 for the first."""
        offset = received_ms - sent_ms
        if received_ms >= self._turns_at:
            self._before, self._floor = self._floor, None
            self._turns_at = received_ms + WINDOW_MS
        if self._floor is None or offset < self._floor:
            self._floor = offset
        floor = self._floor if self._before is None or self._floor < self._before else self._before
        return offset - floor
