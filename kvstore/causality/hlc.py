"""Hybrid logical clock: timestamps close to wall time that never run backwards along cause and effect.

    timestamp = milliseconds since 1970 << 16 | logical counter         (one unsigned 64-bit integer, so it compares as an int)

Invariants
  1. `tick` returns strictly increasing timestamps, whatever the wall clock does.
  2. After `observe(t)` the next `tick` is greater than `t`, unless `t` is further ahead than the skew bound.
  3. A timestamp further ahead than `max_skew_ms` never advances this clock: one bad clock cannot drag the cluster with it.

Source: Kulkarni et al., "Logical Physical Clocks and Consistent Snapshots", 2014, section 3.3, with the bound of its section 4.
The wall clock arrives as an argument; this module knows no time of its own.
"""

from __future__ import annotations

from kvstore.ids import HlcTimestamp

__all__ = ["LOGICAL_BITS", "MAX_CLOCK_SKEW_MS", "HybridLogicalClock", "hlc_from_ms", "hlc_to_ms"]

LOGICAL_BITS = 16
MAX_CLOCK_SKEW_MS = 2_000
"""Default bound: far above what synchronised clocks show, far below what would let a bad clock own a key for long."""


def hlc_from_ms(wall_ms: int) -> HlcTimestamp:
    """Return the smallest timestamp of a millisecond."""
    return HlcTimestamp(wall_ms << LOGICAL_BITS)


def hlc_to_ms(timestamp: HlcTimestamp) -> int:
    """Return the milliseconds since 1970 that a timestamp shows."""
    return timestamp >> LOGICAL_BITS


class HybridLogicalClock:
    """One node's clock. Not shared between nodes and not persisted: dots, not times, order registers."""

    __slots__ = ("_last", "max_skew_ms", "refused_count")

    def __init__(self, *, max_skew_ms: int = MAX_CLOCK_SKEW_MS) -> None:
        self._last = 0
        self.max_skew_ms = max_skew_ms
        self.refused_count = 0

    def tick(self, wall_ms: int) -> HlcTimestamp:
        """Return a new timestamp: the wall's millisecond if it moved on, else the last timestamp plus one."""
        wall = wall_ms << LOGICAL_BITS
        self._last = wall if wall > self._last else self._last + 1
        return HlcTimestamp(self._last)

    def observe(self, timestamp: HlcTimestamp, wall_ms: int) -> bool:
        """Move past a timestamp seen elsewhere. Returns False, changes nothing and counts it if it is too far ahead."""
        if timestamp <= self._last:
            return True
        if self.is_too_far_ahead(timestamp, wall_ms):
            self.refused_count += 1
            return False
        self._last = timestamp
        return True

    def is_too_far_ahead(self, timestamp: HlcTimestamp, wall_ms: int) -> bool:
        """Return whether `timestamp` is beyond this wall clock by more than the bound."""
        return (timestamp >> LOGICAL_BITS) > wall_ms + self.max_skew_ms
