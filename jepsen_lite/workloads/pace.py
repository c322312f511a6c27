"""How the clients of one run behave: drawn once per seed, printed in one line, the same for all clients of the run.

    steady    op ── think ── op ── think ── op           think is uniform in [0, think_s_max)
    bursts    op op op op ············ op op op op       all clients together, `burst_s` of every BURST_PERIOD_S

Short attempts on a few hot keys are the hard part: a retry then often meets a coordinator where its value is known and
already replaced. Only bursts make clients really concurrent in a run that is long enough for slow faults.

What is promised: an acknowledged write is durable on `dw` replicas, and the `FaultAtlas`, which hears how many they were, lets
no more of them lose it. So every acknowledged write must survive, whatever it asked for, and the judges need no exception:
a write with dw=1 costs the run its damage to that key, and that is why only *weak* objects (one or two of a run) have any.
No write asks for dw=0: nothing is promised for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Protocol

from jepsen_lite.history import ContextKind, Kind
from jepsen_lite.recorder import Counts, Recorder, Target

__all__ = ["Forget", "Pace", "Workload", "pick", "targets", "work", "write_context"]

BURST_PERIOD_S: Final = 3.0
HOT_COUNT: Final = 2
THINK_IN_BURST_S_MAX: Final = 0.02
WEAK: Final = Counts(w=1, dw=1)
Forget = Callable[[bytes], Awaitable[None]]
"""(storage key) -> one owner loses its local copy, if the budget allows it: the world's part."""
_STRONG: Final = (
    Counts(r=1), Counts(r=3), Counts(w=3), Counts(w=3, dw=3), Counts(w=2, dw=2), Counts(pw=2), Counts(w=1, dw=2),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How clients behave. Shares are of steps or writes, times in seconds."""

    think_s_max: float = 0.3
    burst_s: float = 0.0
    """0: steadily."""
    blind_share: float = 0.15
    refused_share: float = 0.02
    hot_share: float = 0.3
    forget_share: float = 0.005
    timeout_s: float = 1.5
    attempt_timeout_s: float = 0.4
    keys_count: int = 5
    counts: tuple[Counts, ...] = (Counts(),)
    """What the operations of this run ask for, each as likely as the next."""
    has_weak: bool = False
    """Whether the last object of a kind is written with w=1 and dw=1."""

    @classmethod
    def draw(cls, rng: random.Random) -> Pace:
        """Draw the pace of a seed."""
        return cls(
            think_s_max=rng.choice([0.1, 0.2, 0.4]), burst_s=rng.choice([0.0, 0.0, 0.5, 1.0]),
            blind_share=rng.uniform(0.05, 0.4), refused_share=rng.choice([0.0, 0.01, 0.05]),
            hot_share=rng.choice([0.0, 0.5, 0.9]), forget_share=rng.choice([0.0, 0.005, 0.02]),
            timeout_s=rng.choice([0.7, 1.5]), attempt_timeout_s=rng.choice([0.08, 0.15, 0.4]),
            keys_count=rng.choice([2, 4, 8]),
            counts=(Counts(), *rng.sample(_STRONG, rng.choice([0, 0, 1, 3]))), has_weak=rng.random() < 0.3,
        )  # fmt: skip

    def hotter(self) -> Pace:
        """Return the same with short attempts, all on the hot objects."""
        return replace(self, hot_share=1.0, attempt_timeout_s=min(0.08, self.attempt_timeout_s))

    def line(self) -> str:
        """Return everything in one line."""
        think = f"burst={self.burst_s:g}/{BURST_PERIOD_S:g}s" if self.burst_s else f"think<={self.think_s_max:g}s"
        return (
            f"{think} blind={self.blind_share:.2f} refused={self.refused_share:g} hot={self.hot_share:g} "
            f"forget={self.forget_share:g} timeout={self.timeout_s:g}s attempt={self.attempt_timeout_s:g}s "
            f"keys={self.keys_count} counts={'|'.join(map(str, self.counts))} weak={int(self.has_weak)}"
        )

    def pause_s(self, now_s: float, rng: random.Random) -> float:
        """Return how long a client waits before its next step."""
        if not self.burst_s:
            return rng.uniform(0, self.think_s_max)
        into_s = now_s % BURST_PERIOD_S
        wait_s = 0.0 if into_s < self.burst_s else BURST_PERIOD_S - into_s
        return wait_s + rng.uniform(0, THINK_IN_BURST_S_MAX)

    def counts_for(self, target: Target, objects: Sequence[Target], rng: random.Random) -> Counts:
        """Draw what one operation asks for."""
        if self.has_weak and len(objects) > 1 and target == objects[-1]:
            return WEAK
        return rng.choice(self.counts)


class Workload(Protocol):
    """What one kind of client does. `objects` may grow while it runs; `says` is for lists of workloads."""

    NAME: ClassVar[str]
    says: ClassVar[str]
    pace: Pace

    @property
    def objects(self) -> Sequence[Target]:
        """Everything that it has written to so far."""

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Do the next thing: one operation, or a read and the write that needed it."""


async def work(workload: Workload, recorder: Recorder, rng: random.Random, ends_at_s: float) -> None:
    """Be one client until `ends_at_s`. The recorder stays open."""
    while recorder.now_s() < ends_at_s:
        await asyncio.sleep(workload.pace.pause_s(recorder.now_s(), rng))
        await workload.step(recorder, rng)


def targets(kind: Kind, prefix: str, count: int) -> tuple[Target, ...]:
    """Return objects named prefix0, prefix1, and so on."""
    return tuple(Target(kind, f"{prefix}{number}") for number in range(count))


def pick(objects: Sequence[Target], pace: Pace, rng: random.Random) -> Target:
    """Draw an object; the first HOT_COUNT are the hot ones."""
    return rng.choice(objects[:HOT_COUNT] if rng.random() < pace.hot_share else objects)


def write_context(pace: Pace, rng: random.Random) -> ContextKind:
    """Draw the context of a write."""
    draw = rng.random()
    if draw < pace.refused_share:
        return rng.choice([ContextKind.MISSING, ContextKind.OTHER_KEY])
    if draw < pace.refused_share + pace.blind_share:
        return ContextKind.BLIND
    usable = (ContextKind.FRESH, ContextKind.OWN, ContextKind.STALE, ContextKind.FOREIGN)
    return rng.choices(usable, (4, 2, 2, 2))[0]
