"""All workloads at once over disjoint keys, weighted by the seed: what `run` does unless told otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Final

from jepsen_lite.recorder import Recorder, Target
from jepsen_lite.workloads.deletes import Deletes
from jepsen_lite.workloads.pace import Forget, Pace, Workload
from jepsen_lite.workloads.registers import Churn, Hot, Large, Lww, Registers
from jepsen_lite.workloads.sets import Sets

__all__ = ["Mix"]

ABSENT_SHARE: Final = 0.25
LARGE_WEIGHT: Final = 0.06
"""A large value costs as much as dozens of others."""


class Mix:
    """Each part has its own keys; a part is absent in some seeds, registers in none."""

    NAME: ClassVar[str] = "mix"
    says: ClassVar[str] = "all of them over disjoint keys, weighted by the seed"

    def __init__(self, pace: Pace, rng: random.Random, *, forget: Forget | None = None) -> None:
        self.pace = pace
        parts: list[tuple[Workload, float]] = [
            (Lww(pace), 2.0), (Sets(pace), 2.0), (Deletes(pace), 3.0), (Churn(pace), 1.5), (Hot(pace), 2.0),
            (Large(pace), LARGE_WEIGHT),
        ]  # fmt: skip
        drawn = [(part, weight * rng.uniform(0.3, 1.0) * (rng.random() >= ABSENT_SHARE)) for part, weight in parts]
        self._parts = [(Registers(pace, forget=forget), 2.0), *[(part, weight) for part, weight in drawn if weight]]

    @property
    def objects(self) -> Sequence[Target]:
        """The objects of all parts."""
        return [target for part, _ in self._parts for target in part.objects]

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Let one part do a step."""
        parts, weights = zip(*self._parts, strict=True)
        await rng.choices(parts, weights)[0].step(recorder, rng)

    def line(self) -> str:
        """Return the parts and their weights."""
        return ",".join(f"{part.NAME}:{weight:.2g}" for part, weight in self._parts)
