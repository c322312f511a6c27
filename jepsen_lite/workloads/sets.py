"""The grow-only set: elements added by all clients to registers whose siblings are united; no acknowledged element is lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from jepsen_lite.history import ContextKind, Kind
from jepsen_lite.recorder import Recorder, Target
from jepsen_lite.workloads.pace import Pace, pick, targets, write_context

__all__ = ["Sets"]


class Sets:
    """Adds and reads; an add with an old or foreign context leaves siblings, which the next one unites."""

    NAME: ClassVar[str] = "set"
    says: ClassVar[str] = "grow-only sets kept as united siblings: no element that was known to be there goes missing"

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.objects: Sequence[Target] = targets(Kind.SET, "s", max(1, pace.keys_count // 2))

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Add an element, or read."""
        target = pick(self.objects, self.pace, rng)
        counts = self.pace.counts_for(target, self.objects, rng)
        if rng.random() < 0.4:
            await recorder.get(target, counts=counts)
        else:
            how = ContextKind.FRESH if rng.random() < 0.4 else write_context(self.pace, rng)
            await recorder.add(target, how, counts=counts)
