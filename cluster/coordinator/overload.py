"""How much a node coordinates at once, and when whoever was refused may ask again: decided from what operations take.

    operations take longer than TARGET_S     the limit shrinks, by up to a quarter for each window of them
    they take less                           it grows again, slowly
    frames wait too long before we see them  what they ask is refused at once, until they wait less again
    more is refused than is done             the pause that refusals ask for grows; else it shrinks

A fixed limit is too much for a slow machine: 4,096 operations at 1,500/s are three seconds of work, so every client would have
given up by the time its answer came, and nothing useful would be done at all. Refusals that come back at once are no better:
they are answered at the same cost.

What an operation takes is counted from when its frame is handled. Too much of an open loop waits before that, in the connection,
where no count of ours sees it: a node had 700 in flight that took 0.2 s each, refused nothing, and did all of its work 1.1 s
late, for clients that had given up. So frames that waited too long are refused: that is cheap, and the queue shrinks.

One late frame says little: the way from a client may be slow, or we may have been stopped for a moment. Only when most frames
of a window were late, and we have work under way, is it we who are behind.

Pure: `now` is an argument, in seconds. Invariants: the limit stays within [IN_FLIGHT_MIN, in_flight_max], the pause within
[RETRY_S_MIN, RETRY_S_MAX].
Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), as in Netflix's concurrency-limits;
a bound on the time in a standing queue (Nichols and Jacobson, "Controlling Queue Delay", 2012), without its control law.
"""

from __future__ import annotations

__all__ = [
    "BUSY_MIN", "IN_FLIGHT_MIN", "QUEUE_S_MAX", "RETRY_S_MAX", "RETRY_S_MIN", "TARGET_S", "WINDOW_S", "OverloadGuard",
]  # fmt: skip

TARGET_S = 0.5
"""Half of what an impatient client waits. A slow disk alone takes less."""
IN_FLIGHT_MIN = 128
"""Three times that is a twentieth of a second of work, and batches are as large as they need to be. With 512, and offered twice
what it could do, a run kept 0.08 of its peak: nearly all of its work was too late."""
SHRINK, GROW = 0.25, 0.05
"""Of the operations that ended: by how much the limit changes."""
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
WINDOW_S = 0.1
QUEUE_S_MAX = TARGET_S / 5
"""How long a frame may wait before it is handled. There is as much again to wait in other queues, ours and the client's. A guess
between two: with 0.25 s one run kept 0.46 of its peak and with 0.1 s another 0.80, both beside other work; and near the
capacity, before any deadline is missed, up to 7 % are refused that could have waited."""
BUSY_MIN = 32
"""Operations in flight without which late frames are the network's doing: 32 at a time are several thousand a second."""


class OverloadGuard:
    """One node's."""

    __slots__ = (
        "_arrivals_end_s", "_arrived", "_busy_min", "_done", "_is_behind", "_late", "_limit_max", "_limit_min",
        "_refused", "_window_ends_s", "limit", "retry_after_s",
    )  # fmt: skip

    def __init__(self, in_flight_max: int) -> None:
        self._limit_max = float(in_flight_max)
        self._limit_min = float(min(IN_FLIGHT_MIN, in_flight_max))
        self.limit = self._limit_max
        """Operations that may be in flight."""
        self.retry_after_s = RETRY_S_MIN
        self._refused = self._done = 0
        self._window_ends_s = 0.0
        self._busy_min = min(BUSY_MIN, in_flight_max)
        self._arrived = self._late = 0
        self._is_behind = False
        self._arrivals_end_s = 0.0

    def is_too_late(self, late_s: float, in_flight: int, now: float) -> bool:
        """A frame of a client arrived, `late_s` later than such frames can: return whether to refuse what it asks."""
        if now >= self._arrivals_end_s:
            self._is_behind = 2 * self._late > self._arrived
            self._arrived = self._late = 0
            self._arrivals_end_s = now + WINDOW_S
        self._arrived += 1
        if late_s <= QUEUE_S_MAX:
            return False
        self._late += 1
        return self._is_behind and in_flight >= self._busy_min

    def ended(self, count: int, took_s: float) -> None:
        """`count` operations were answered, `took_s` after they began."""
        self._done += count
        if took_s > TARGET_S:
            self.limit = max(self._limit_min, self.limit - count * SHRINK)
        elif self.limit < self._limit_max:
            self.limit = min(self._limit_max, self.limit + count * GROW)

    def refuse(self, now: float, count: int = 1) -> float:
        """So many more operations are refused: return the seconds after which they may come again."""
        self._refused += count
        if now >= self._window_ends_s:
            factor = 1.5 if self._refused > self._done else 0.8
            self.retry_after_s = min(RETRY_S_MAX, max(RETRY_S_MIN, self.retry_after_s * factor))
            self._refused = self._done = 0
            self._window_ends_s = now + WINDOW_S
        return self.retry_after_s
