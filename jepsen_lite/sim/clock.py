"""Simulated wall clock of one machine: virtual time plus an offset that can step and a rate that can drift.

    wall_ns = base + (loop time - time of base) * rate        a change of rate starts a new base: no jump

Invariants
  1. Only `step` makes it jump; `set_rate` changes its speed and is continuous.
  2. Durations are not affected: they come from the loop's `time()`, which all machines share.
Source: `reliability` faults C1 (step), C2 (strobe: step back and forth) and C3 (drift).
"""

from __future__ import annotations

import asyncio

__all__ = ["EPOCH_NS", "SimClock"]

EPOCH_NS = 1_700_000_000_000_000_000
"""Wall time at the start of every run (November 2023): fixed, so that no run depends on the day it is made."""
NS_PER_S = 1_000_000_000


class SimClock:
    """Implements `kvstore.env.Clock`; every node and client has its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, epoch_ns: int = EPOCH_NS, offset_ns: int = 0) -> None:
        self._loop = loop
        self._base_ns = epoch_ns + offset_ns
        self._base_at_s = loop.time()
        self._rate = 1.0

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 as this machine believes."""
        return self._base_ns + round((self._loop.time() - self._base_at_s) * self._rate * NS_PER_S)

    def step(self, delta_ns: int) -> None:
        """Jump by `delta_ns`, forward or back, as a careless NTP client does."""
        self._base_ns += delta_ns

    def set_rate(self, rate: float) -> None:
        """Run `rate` times as fast as true time from now on (1.0 is exact)."""
        if rate <= 0:
            raise ValueError(f"a clock of rate {rate} would stand or run backwards: use step")
        self._base_ns, self._base_at_s = self.wall_ns(), self._loop.time()
        self._rate = rate
