"""What a node writes is judged as it writes it: nothing forgotten, nothing minted twice, a heal that knows what it replaces."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import cast

import pytest

from jepsen_lite.checkers.dots import DotWitness
from jepsen_lite.checkers.verdict import Broken
from jepsen_lite.sim.disk import SimDisk
from jepsen_lite.sim.trace import Trace
from jepsen_lite.sim.witness import WitnessedEngine
from kvstore.causality.dvvset import EMPTY, DVVSet
from kvstore.causality.version_vector import VersionVector
from kvstore.errors import StorageError
from kvstore.ids import ObjectType
from kvstore.storage.engine import Family, Put
from kvstore.storage.identity import META_NODE_ID
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import encode_record
from tests.causality.histories import actor_of, put

K = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
FIRST = put(EMPTY, {}, actor_of(0), 1, b"1")
SECOND = put(FIRST, FIRST.vector, actor_of(0), 2, b"2")
BESIDE = put(FIRST, {}, actor_of(1), 3, b"3")
ANOTHER_SECOND = put(FIRST, FIRST.vector, actor_of(0), 4, b"4")
ELSEWHERE = put(EMPTY, {}, actor_of(1), 5, b"5")
META: Put = (Family.META, b"actor", b"a new one")


def data(state: DVVSet) -> Put:
    """Return the write of a state."""
    return Family.DATA, K, encode_record(K, state)


class Node:
    """An engine on a simulated disk, and who watches it."""

    def __init__(self, due: VersionVector | None = None) -> None:
        self.disk, self.witness = SimDisk("n0", random.Random(1)), DotWitness()
        trace = cast(Trace, SimpleNamespace(record=lambda *fields: None))
        self.engine = WitnessedEngine(
            self.disk.open(),
            node="n0",
            trace=trace,
            witness=self.witness,
            disk=self.disk,
            due_from_heal=lambda key: due,
        )

    async def write_durably(self, state: DVVSet) -> None:
        """Write, and sync."""
        self.engine.apply([data(state)])
        await self.engine.sync()

    @property
    def broken(self) -> list[Broken]:
        """What was found."""
        return [violation.broken for violation in self.witness.violations]


@pytest.mark.parametrize(("after", "broken"), [(SECOND, []), (FIRST, []), (ELSEWHERE, [Broken.WENT_BACK])])
def test_a_record_is_replaced_only_by_what_has_seen_all_of_it(after: DVVSet, broken: list[Broken]) -> None:
    """By the next one, or by itself; never by one of another history."""
    node = Node()
    node.engine.apply([data(FIRST)])
    node.engine.apply([data(after)])

    assert node.broken == broken


async def test_two_writes_of_a_key_in_one_batch_come_after_each_other() -> None:
    """The second one replaces the first, not what was there before."""
    node = Node()
    node.engine.apply([data(FIRST)])
    node.engine.apply([data(SECOND), data(FIRST)])

    assert node.broken == [Broken.WENT_BACK]


HEALS = [
    ("a good heal", SECOND, [META], []),
    ("without a new actor", SECOND, [], [Broken.EPOCH_KEPT]),
    ("without what others held", FIRST, [META], [Broken.WENT_BACK]),
]


@pytest.mark.parametrize(("by", "more", "broken"), [heal[1:] for heal in HEALS], ids=[heal[0] for heal in HEALS])
@pytest.mark.parametrize("rot", ["engine", "record"])
async def test_an_unreadable_record_is_replaced_by_what_others_held_and_under_a_new_actor(
    rot: str, by: DVVSet, more: list[Put], broken: list[Broken]
) -> None:
    """What it held itself nobody knows any more, whoever noticed that it is unreadable."""
    node = Node(due=SECOND.vector)
    await node.write_durably(SECOND)
    if rot == "engine":
        node.disk.corrupt(Family.DATA, K)
    else:
        node.disk.flip_bits(K)
    node.engine.apply([data(by), *more])

    assert node.broken == broken


@pytest.mark.parametrize(("after", "broken"), [
    (ANOTHER_SECOND, [Broken.DOT_REUSED]), (BESIDE, []), (SECOND, []),
])  # fmt: skip
def test_a_write_in_doubt_keeps_its_dots(after: DVVSet, broken: list[Broken]) -> None:
    """It is in the log, perhaps: another write with its dot would be its double after the next start."""
    node = Node()
    node.engine.apply([data(FIRST)])
    node.disk.fill(free_bytes=0, until_s=0.5)
    node.disk.rng = random.Random(2)  # of what may become of it: nothing
    with pytest.raises(StorageError):
        node.engine.apply([data(SECOND)])
    assert node.disk.peek(K) == data(FIRST)[2]
    node.disk.now = lambda: 100.0
    node.engine.apply([data(after)])

    assert node.broken == broken


@pytest.mark.parametrize(("node_id", "broken"), [(actor_of(0)[:8], [Broken.EPOCH_KEPT]), (actor_of(1)[:8], [])])
async def test_a_node_without_all_its_history_mints_with_a_new_actor(node_id: bytes, broken: list[Broken]) -> None:
    """The lost part may hold dots of the old one. What others mint with theirs, and what was seen before, is no news."""
    node = Node()
    node.engine.apply([(Family.META, META_NODE_ID, node_id)])
    await node.write_durably(FIRST)
    node.disk.lose_power()
    again = node.disk.open(boot_id="another")
    assert again.report.history_may_be_missing
    trace = cast(Trace, SimpleNamespace(record=lambda *fields: None))
    engine = WitnessedEngine(again, node="n0", trace=trace, witness=node.witness, disk=node.disk)
    engine.see_all()
    engine.apply([data(FIRST)])
    assert node.broken == []
    engine.apply([data(SECOND)])

    assert node.broken == broken
