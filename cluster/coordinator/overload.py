"""How much a node coordinates at once, and when whoever was refused may ask again: decided from what operations take.

    operations take longer than TARGET_S     the limit shrinks, by up to a quarter for each window of them
    they take less                           it grows again, slowly
    more is refused than is done             the pause that refusals ask for grows; else it shrinks

A fixed limit is too much for a slow machine: 4,096 operations at 1,500/s are three seconds of work, so every client would have
given up by the time its answer came, and nothing useful would be done at all. Refusals that come back at once are no better:
they are answered at the same cost.

Pure: `now` is an argument, in seconds. Invariants: the limit stays within [IN_FLIGHT_MIN, in_flight_max], the pause within
[RETRY_S_MIN, RETRY_S_MAX].
Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), as in Netflix's concurrency-limits.
"""

from __future__ import annotations

__all__ = ["IN_FLIGHT_MIN", "RETRY_S_MAX", "RETRY_S_MIN", "TARGET_S", "OverloadGuard"]

TARGET_S = 0.5
"""Half of what an impatient client waits. A slow disk alone takes less."""
IN_FLIGHT_MIN = 512
SHRINK, GROW = 0.25, 0.05
"""Of the operations that ended: by how much the limit changes."""
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
WINDOW_S = 0.1


class OverloadGuard:
    """One node's."""

    __slots__ = ("_done", "_limit_max", "_limit_min", "_refused", "_window_ends_s", "limit", "retry_after_s")

    def __init__(self, in_flight_max: int) -> None:
        self._limit_max = float(in_flight_max)
        self._limit_min = float(min(IN_FLIGHT_MIN, in_flight_max))
        self.limit = self._limit_max
        """Operations that may be in flight."""
        self.retry_after_s = RETRY_S_MIN
        self._refused = self._done = 0
        self._window_ends_s = 0.0

    def ended(self, count: int, took_s: float) -> None:
        """`count` operations were answered, `took_s` after they began."""
        self._done += count
        if took_s > TARGET_S:
            self.limit = max(self._limit_min, self.limit - count * SHRINK)
        elif self.limit < self._limit_max:
            self.limit = min(self._limit_max, self.limit + count * GROW)

    def refuse(self, now: float) -> float:
        """One more operation is refused: return the seconds after which it may come again."""
        self._refused += 1
        if now >= self._window_ends_s:
            factor = 1.5 if self._refused > self._done else 0.8
            self.retry_after_s = min(RETRY_S_MAX, max(RETRY_S_MIN, self.retry_after_s * factor))
            self._refused = self._done = 0
            self._window_ends_s = now + WINDOW_S
        return self.retry_after_s
