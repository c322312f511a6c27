"""Deletes and what comes after: nothing replaced returns (zombie), nothing written later goes with the deleted (doomstone)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from jepsen_lite.history import ContextKind, Kind
from jepsen_lite.recorder import Recorder, Target
from jepsen_lite.workloads.pace import Pace, pick, targets

__all__ = ["Deletes"]


class Deletes:
    """Delete, create again at once, delete with contexts that are too old, and put while others delete."""

    NAME: ClassVar[str] = "deletes"
    says: ClassVar[str] = (
        "deletes with fresh and old contexts, racing puts, and keys that are created again: doomstones"
    )

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        # A delete without a context excuses the absence of all that was put before it, so only one object has any.
        self._careless = Target(Kind.REGISTER, "doomcareless")
        self.objects: Sequence[Target] = (*targets(Kind.REGISTER, "doom", max(2, pace.keys_count // 2)), self._careless)

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """One of: read, delete, delete and create again, put into whatever is there."""
        target, draw = pick(self.objects, self.pace, rng), rng.random()
        counts = self.pace.counts_for(target, self.objects[:-1], rng)
        if draw < 0.25:
            await recorder.get(target, counts=counts)
        elif draw < 0.5:
            await recorder.delete(target, self._delete_context(target, rng), counts=counts)
        elif draw < 0.65:
            await recorder.delete(target, ContextKind.FRESH, counts=counts)
            again = rng.choice([ContextKind.BLIND, ContextKind.OWN, ContextKind.STALE, ContextKind.FRESH])
            await recorder.put(target, again, counts=counts)
        else:
            how = rng.choice([ContextKind.BLIND, ContextKind.STALE, ContextKind.FOREIGN, ContextKind.FRESH])
            await recorder.put(target, how, counts=counts)

    def _delete_context(self, target: Target, rng: random.Random) -> ContextKind:
        if target == self._careless and rng.random() < 0.5:
            return ContextKind.BLIND
        if rng.random() < self.pace.refused_share:
            return rng.choice([ContextKind.MISSING, ContextKind.OTHER_KEY])
        return rng.choice([ContextKind.FRESH, ContextKind.STALE, ContextKind.STALE, ContextKind.FOREIGN])
