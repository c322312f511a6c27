"""Workloads over registers and lww objects: puts with every kind of context, a few hot keys, short-lived keys, large values."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

from jepsen_lite.history import ContextKind, Kind
from jepsen_lite.recorder import Recorder, Target
from jepsen_lite.workloads.pace import Forget, Pace, pick, targets, write_context

__all__ = ["Churn", "Hot", "Large", "Lww", "Registers"]

LIVE_KEYS: Final = 4
LIFE_OPS: Final = (3, 12)
"""Steps of all clients together before a key of `churn` is left for good, and another takes its place."""
TOGETHER_SHARE: Final = 0.08
LARGE_BYTES: Final = (100 * 1024, 1024 * 1024 - 16)
"""The limit of a value holds for its msgpack, which has a few bytes more."""
LARGE_SIBLINGS_MAX: Final = 5
"""More are resolved by the next writer: above one chunk together, and not a burden."""
LARGE_BLIND_SHARE: Final = 0.7
LARGE_TIMEOUT_S: Final = 6.0
LARGE_ATTEMPT_TIMEOUT_S: Final = 1.0
LARGE_THINK_S_MAX: Final = 1.2
"""A large operation costs some 20 ms of real CPU: at the pace of the others a run would take minutes."""


class Registers:
    """Siblings: reads, puts and deletes with fresh, stale, foreign, own and unusable contexts."""

    NAME: ClassVar[str] = "registers"
    says: ClassVar[str] = "siblings: puts and deletes with every kind of context; no update is lost, nothing returns"

    def __init__(self, pace: Pace, *, forget: Forget | None = None) -> None:
        self.pace, self._forget = pace, forget
        self.objects: Sequence[Target] = targets(Kind.REGISTER, "r", pace.keys_count)

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Read, put, delete, or (rarely) let a replica forget its copy."""
        target, draw = pick(self.objects, self.pace, rng), rng.random()
        counts = self.pace.counts_for(target, self.objects, rng)
        if self._forget is not None and draw < self.pace.forget_share:
            await self._forget(target.storage_key)
        elif draw < 0.35:
            await recorder.get(target, counts=counts)
        elif draw < 0.9:
            await recorder.put(target, write_context(self.pace, rng), counts=counts)
        else:
            how = write_context(self.pace, rng)
            await recorder.delete(target, ContextKind.FRESH if how is ContextKind.BLIND else how, counts=counts)


class Lww:
    """Last writer wins: the newest put must be there at the end if the clocks could tell."""

    NAME: ClassVar[str] = "lww"
    says: ClassVar[str] = "last writer wins: an older value never wins where clocks or contexts could tell"

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.objects: Sequence[Target] = targets(Kind.LWW, "w", pace.keys_count)

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Read, put (mostly blind, as lww objects are used), or delete."""
        target, draw = pick(self.objects, self.pace, rng), rng.random()
        counts = self.pace.counts_for(target, self.objects, rng)
        if draw < 0.3:
            await recorder.get(target, counts=counts)
        elif draw < 0.9:
            how = ContextKind.BLIND if rng.random() < 0.5 else write_context(self.pace, rng)
            await recorder.put(target, how, counts=counts)
        else:
            await recorder.delete(
                target, rng.choice([ContextKind.FRESH, ContextKind.STALE, ContextKind.BLIND]), counts=counts
            )


class Hot:
    """Two keys, all clients, short attempts: retries meet what has already replaced them."""

    NAME: ClassVar[str] = "hot"
    says: ClassVar[str] = (
        "two keys, all clients, short attempts, several puts in one frame: what a retry finds when its write was replaced"
    )

    def __init__(self, pace: Pace) -> None:
        self.pace = pace.hotter()
        self.objects: Sequence[Target] = (Target(Kind.REGISTER, "hot0"), Target(Kind.LWW, "hot1"))

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Put, or sometimes read; once in a while put several at once."""
        target, draw = rng.choices(self.objects, (3, 1))[0], rng.random()
        if draw < 0.2:
            await recorder.get(target)
        elif draw < 0.2 + TOGETHER_SHARE:
            await recorder.put_together(target, rng.choice([2, 3]))
            await recorder.get_together([*self.objects, target])
        else:
            await recorder.put(target, write_context(self.pace, rng))


class Churn:
    """Many keys that live for a few operations, written by whoever comes by, and are mostly deleted in the end."""

    NAME: ClassVar[str] = "churn"
    says: ClassVar[str] = "many short-lived keys: created, changed, deleted and left"

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._objects = list(targets(Kind.REGISTER, "churn", LIVE_KEYS))
        self._live = {slot: (target, LIFE_OPS[1]) for slot, target in enumerate(self._objects)}

    @property
    def objects(self) -> Sequence[Target]:
        """All keys so far, the dead ones too."""
        return self._objects

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Do something with a live key; with its last step mostly delete it."""
        slot = rng.randrange(LIVE_KEYS)
        target, left = self._live[slot]
        self._live[slot] = (target, left - 1) if left > 1 else (self._born(), rng.randint(*LIFE_OPS))
        if left <= 1 and rng.random() < 0.7:
            await recorder.delete(target, ContextKind.FRESH)
        elif rng.random() < 0.3:
            await recorder.get(target)
        else:
            await recorder.put(target, write_context(self.pace, rng))

    def _born(self) -> Target:
        self._objects.append(Target(Kind.REGISTER, f"churn{len(self._objects)}"))
        return self._objects[-1]


class Large:
    """Values of 100 KB to 1 MiB; a few blind ones together make records that travel in chunks."""

    NAME: ClassVar[str] = "large"
    says: ClassVar[str] = "values up to 1 MiB, and records of several of them, which travel in chunks"

    def __init__(self, pace: Pace) -> None:
        attempt_timeout_s = max(LARGE_ATTEMPT_TIMEOUT_S, pace.attempt_timeout_s)
        self.pace = replace(pace, think_s_max=LARGE_THINK_S_MAX, burst_s=0.0, attempt_timeout_s=attempt_timeout_s)
        self.objects: Sequence[Target] = targets(Kind.REGISTER, "large", 2)

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Read, add a large sibling, or resolve what has become too much."""
        target = rng.choice(self.objects)
        known = recorder.known(target)
        if rng.random() < 0.3 or known is None:
            await recorder.get(target, timeout_s=LARGE_TIMEOUT_S)
        elif len(known.shown) >= LARGE_SIBLINGS_MAX:
            await recorder.put(target, ContextKind.FRESH, timeout_s=LARGE_TIMEOUT_S)
        else:
            how = ContextKind.BLIND if rng.random() < LARGE_BLIND_SHARE else write_context(self.pace, rng)
            await recorder.put(target, how, size_bytes=_large(rng), timeout_s=LARGE_TIMEOUT_S)


def _large(rng: random.Random) -> int:
    """Mostly the smaller ones: a run writes dozens, and all versions pass through every disk and link."""
    return rng.choices([LARGE_BYTES[0], rng.randint(*LARGE_BYTES), LARGE_BYTES[1]], (5, 3, 2))[0]
