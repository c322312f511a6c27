"""Simulated wall clock of one machine: virtual time plus an offset that can step and a rate that can drift.

    wall_ns = base + (loop time - time of base) * rate        a change of rate starts a new base: no jump

Invariants
  1. Only `step` makes it jump; `set_rate` changes its speed and is continuous.
  2. Durations are not affected: they come from the loop's `time()`, which all machines share.
  3. It remembers every change, so that a judge can ask how wrong it was at any time; it never forgets a jump.
Source: `reliability` faults C1 (step), C2 (strobe: step back and forth) and C3 (drift).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["EPOCH_NS", "SimClock", "error_bounds_ns", "max_skew_ns", "must_win"]

EPOCH_NS = 1_700_000_000_000_000_000
"""Wall time at the start of every run (November 2023): fixed, so that no run depends on the day it is made."""
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Leg:
    """From `at_s` on, until the next leg, the clock shows `wall_ns` and runs at `rate`."""

    at_s: float
    wall_ns: int
    rate: float

    def wall_at(self, at_s: float) -> int:
        return self.wall_ns + round((at_s - self.at_s) * self.rate * NS_PER_S)

    def error_at(self, at_s: float) -> int:
        return self.wall_at(at_s) - EPOCH_NS - round(at_s * NS_PER_S)


class SimClock:
    """Implements `kvstore.env.Clock`; every node and client has its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, epoch_ns: int = EPOCH_NS, offset_ns: int = 0) -> None:
        self._loop = loop
        self._legs = [_Leg(loop.time(), epoch_ns + offset_ns, 1.0)]

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 as this machine believes."""
        return self._legs[-1].wall_at(self._loop.time())

    def error_ns(self) -> int:
        """Return how far the clock is ahead of true time now."""
        return self._legs[-1].error_at(self._loop.time())

    @property
    def rate(self) -> float:
        """Return how fast the clock runs, 1.0 being exact."""
        return self._legs[-1].rate

    def step(self, delta_ns: int) -> None:
        """Jump by `delta_ns`, forward or back, as a careless NTP client does."""
        self._begin_leg(self.wall_ns() + delta_ns, self.rate)

    def set_rate(self, rate: float) -> None:
        """Run `rate` times as fast as true time from now on (1.0 is exact)."""
        if rate <= 0:
            raise ValueError(f"a clock of rate {rate} would stand or run backwards: use step")
        self._begin_leg(self.wall_ns(), rate)

    def _begin_leg(self, wall_ns: int, rate: float) -> None:
        self._legs.append(_Leg(self._loop.time(), wall_ns, rate))

    def set_right(self) -> None:
        """Show true time from now on."""
        self.step(-self.error_ns())
        self.set_rate(1.0)

    # --- what it has shown --------------------------------------------------------------------------------------------

    def breakpoints_s(self) -> list[float]:
        """Return when it was changed, oldest first."""
        return [leg.at_s for leg in self._legs]

    def errors_at(self, at_s: float) -> tuple[int, int]:
        """Return how far it was ahead just before and at a past moment: they differ if it was stepped then."""
        after = next((leg for leg in reversed(self._legs) if leg.at_s <= at_s), self._legs[0])
        before = next((leg for leg in reversed(self._legs) if leg.at_s < at_s), after)
        return before.error_at(at_s), after.error_at(at_s)

    def reach_ns(self, from_s: float, to_s: float) -> tuple[int, int]:
        """Return the least and the greatest wall time shown within [from_s, to_s]: between changes it is a line."""
        moments = [from_s, to_s, *[at_s for at_s in self.breakpoints_s() if from_s < at_s < to_s]]
        shown = [EPOCH_NS + round(at_s * NS_PER_S) + error for at_s in moments for error in self.errors_at(at_s)]
        return min(shown), max(shown)


def error_bounds_ns(clocks: Iterable[SimClock], from_s: float, to_s: float) -> tuple[int, int]:
    """Return the least and the greatest error (ahead is positive) of any of the clocks within [from_s, to_s]."""
    clocks = list(clocks)
    moments = [from_s, to_s, *[at for clock in clocks for at in clock.breakpoints_s() if from_s < at < to_s]]
    errors = [error for clock in clocks for at_s in moments for error in clock.errors_at(at_s)]
    return min(errors), max(errors)


def max_skew_ns(clocks: Iterable[SimClock], from_s: float, to_s: float) -> int:
    """Return the greatest difference that two of the clocks had at one moment within [from_s, to_s]."""
    clocks = list(clocks)
    moments = [from_s, to_s, *[at for clock in clocks for at in clock.breakpoints_s() if from_s < at < to_s]]
    skews = [0]
    for at_s in moments:
        # Before and after a step apart: a clock stepped by a minute was never a minute off itself.
        for side in (0, 1):
            errors = [clock.errors_at(at_s)[side] for clock in clocks]
            skews.append(max(errors) - min(errors))
    return max(skews)


def must_win(clocks: Iterable[SimClock], *, first_ended_s: float, second_from_s: float, second_to_s: float) -> bool:
    """Whether lww order covers two puts: the second must get the greater timestamp, whichever nodes coordinated.

    `clocks` are those of all nodes. A hybrid clock never shows more than the latest wall time that any node had shown by
    then, however a clock was stepped back since, and never less than the wall time of its own node.
    """
    if second_from_s < first_ended_s:
        return False
    clocks = list(clocks)
    first_latest_ns = max(clock.reach_ns(0.0, first_ended_s)[1] for clock in clocks)
    second_earliest_ns = min(clock.reach_ns(second_from_s, second_to_s)[0] for clock in clocks)
    # Two milliseconds: timestamps are whole milliseconds, and one of them may be counted up logically.
    return second_earliest_ns > first_latest_ns + 2_000_000
