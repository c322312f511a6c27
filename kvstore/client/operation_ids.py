"""Operation ids: 8 bytes of time (big endian ns, strictly increasing) and 8 of chance. The same id twice is one write."""

from __future__ import annotations

import random

from kvstore.env import Clock
from kvstore.ids import OperationId

__all__ = ["OperationIds"]


class OperationIds:
    """Mints the ids of one client. Time first, so that ids sort by age; strictly increasing, so that none repeats even
    if the wall clock stands still or steps back. `rng` is drawn from once, for a seed: asking the kernel for every id would
    cost a put 1 us, and time already tells apart what a fork or a snapshot of the machine would repeat."""

    __slots__ = ("_getrandbits", "_last_ns", "_wall_ns")

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._wall_ns = clock.wall_ns
        self._getrandbits = random.Random(rng.getrandbits(256)).getrandbits
        self._last_ns = 0

    def next(self) -> OperationId:
        """Return a new id."""
        now_ns = self._wall_ns()
        if now_ns <= self._last_ns:
            now_ns = self._last_ns + 1
        self._last_ns = now_ns
        return OperationId((now_ns << 64 | self._getrandbits(64)).to_bytes(16, "big"))
