"""The end of a run: once everything is healed, read every object from all its replicas until their owners agree.

    last_writes: what is healed takes writes again, also large ones

    healed ── settle ──► read all (r=all, repairs) ──► owners agree? ──no──► read those again … until the bound
                                                           └─yes─► read all once more ──► Finals

There is no anti-entropy yet, so only reads make replicas agree. The last read shows what a user finds then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from jepsen_lite.checkers.convergence import StateSeen
from jepsen_lite.history import ContextKind, Kind, OpType
from jepsen_lite.recorder import Recorder, Target
from kvstore.causality.dvvset import DVVSet
from kvstore.errors import Corruption
from kvstore.ids import StorageKey
from kvstore.limits import VALUE_SIZE_BYTES_MAX
from kvstore.storage.record import decode_record

__all__ = ["Finals", "FinalWorld", "decoded", "fingerprint", "final_reads", "last_writes"]

BOUND_S: Final = 60.0
POLL_S: Final = 0.25
SETTLE_S: Final = 5.0
"""Longer than the last operations of clients and their retries: what is still on its way then is lost or applied."""
LAST_ATTEMPTS: Final = 3
WRITE_QUORUM: Final = 2
HEADER_BYTES: Final = 16
"""The limit of a value holds for its msgpack, which has a few bytes more."""
READ_TIMEOUT_S: Final = 15.0
"""Of one read of all replicas: several MiB may come over a slow link."""


class FinalWorld(Protocol):
    """What is asked of the world."""

    def states(self, storage_key: bytes) -> Mapping[str, bytes]: ...
    def owners(self, storage_key: bytes) -> Sequence[str]: ...


@dataclass(slots=True)
class Finals:
    """How it ended. Keys of `states` and `owners` are objects; a state is a record's bytes, empty if there is none."""

    healed_ns: int
    bound_ns: int
    states: dict[Target, dict[str, bytes]] = field(default_factory=dict)
    owners: dict[Target, tuple[str, ...]] = field(default_factory=dict)
    seen: list[StateSeen] = field(default_factory=list)
    converged_ns: int | None = None
    """When the owners of all objects were first seen to agree; None if never."""
    unread: list[Target] = field(default_factory=list)
    """Objects that all their replicas never answered for together after the heal."""


async def final_reads(
    world: FinalWorld, recorder: Recorder, objects: Sequence[Target], *, healed_s: float | None = None,
    settle_s: float = SETTLE_S, bound_s: float = BOUND_S,
) -> Finals:  # fmt: skip
    """Carry out the end of a run. `healed_s`: when the last fault and the last load ended, now unless given.

    Every owner must be up: an object that one of them never answers for is `unread`, which the judges call a violation.
    """
    healed_s = recorder.now_s() if healed_s is None else healed_s
    finals = Finals(round(healed_s * 1e9), round(bound_s * 1e9))
    ends_s = healed_s + settle_s + bound_s
    await asyncio.sleep(max(0.0, healed_s + settle_s - recorder.now_s()))
    missing = await _read(world, recorder, objects)
    apart = _look(world, recorder, objects, finals)
    while (missing or apart) and recorder.now_s() < ends_s:
        await asyncio.sleep(POLL_S)
        again = [target for target in objects if target in missing or target in apart]
        apart = _look(world, recorder, again, finals)  # repair of the last reads may just have done it
        missing = await _read(world, recorder, [target for target in again if target in missing or target in apart])
        apart = _look(world, recorder, objects, finals)
    if not apart:
        finals.converged_ns = round(recorder.now_s() * 1e9)
    finals.unread = await _read(world, recorder, objects)
    _look(world, recorder, objects, finals)
    return finals


async def last_writes(
    world: FinalWorld, recorder: Recorder, *, is_large: bool, settle_s: float = SETTLE_S
) -> list[Target]:
    """Write to new objects once everything is healed and the nodes have found each other; returns those that did not become
    writable. `is_large`: two values that together need several chunks. Objects whose owners are mostly gone are left out."""
    await asyncio.sleep(settle_s)
    unwritten = []
    for target, size_bytes in (
        (Target(Kind.LWW, "last0"), 0), (Target(Kind.REGISTER, "last1"), 0),
        *[(Target(Kind.REGISTER, "last2"), VALUE_SIZE_BYTES_MAX - HEADER_BYTES)] * (2 * is_large),
    ):  # fmt: skip
        if len(world.owners(target.storage_key)) < WRITE_QUORUM:
            continue
        for _ in range(LAST_ATTEMPTS):
            if await recorder.put(target, ContextKind.BLIND, size_bytes=size_bytes) is OpType.OK:
                break
        else:
            unwritten.append(target)
    return unwritten


async def _read(world: FinalWorld, recorder: Recorder, objects: Sequence[Target]) -> list[Target]:
    """Read all; return those that were not answered."""
    missing = []
    for target in objects:
        replicas = len(world.owners(target.storage_key))
        if await recorder.final(target, replicas=replicas, timeout_s=READ_TIMEOUT_S) is not OpType.OK:
            missing.append(target)
    return missing


def _look(world: FinalWorld, recorder: Recorder, objects: Sequence[Target], finals: Finals) -> list[Target]:
    """Note what the owners hold; return the objects about which they do not agree."""
    apart, now_ns = [], round(recorder.now_s() * 1e9)
    for target in objects:
        owners = finals.owners[target] = tuple(world.owners(target.storage_key))
        held = world.states(target.storage_key)
        before = finals.states.get(target, {})
        states = finals.states[target] = {owner: held.get(owner, b"") for owner in owners}
        prints = {owner: fingerprint(target, record) for owner, record in states.items()}
        for owner, found in prints.items():
            if before.get(owner) != states[owner]:
                finals.seen.append(StateSeen(now_ns, owner, str(target), found))
        if len(dict.fromkeys(prints.values())) > 1:
            apart.append(target)
    return apart


def decoded(target: Target, record: bytes) -> DVVSet | None:
    """Return the state in a record; None if there is none, or it cannot be read."""
    try:
        return decode_record(StorageKey(target.storage_key), record) if record else None
    except Corruption:
        return None


def fingerprint(target: Target, record: bytes) -> bytes | None:
    """Return what two replicas must have in common: vector and siblings. (Remembered operations may differ.)"""
    state = decoded(target, record)
    if state is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(sorted(state.vector.items())).encode())
    for sibling in sorted(state.siblings, key=lambda each: (each.actor, each.counter)):
        digest.update(repr(sibling).encode())
    return digest.digest()
