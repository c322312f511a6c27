"""Told and shown while it is not on enough disks, and missed by a read that had to see it: each at the moment it happens."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.dots import Binding, Dot, DotWitness
from jepsen_lite.checkers.durable import Copy, DurableJudge
from jepsen_lite.checkers.verdict import Broken
from kvstore.causality.context import UNUSABLE, encode_context
from kvstore.causality.version_vector import encode_vector
from kvstore.ids import ActorId, ObjectType
from kvstore.storage.keyspace import object_name, storage_key

K = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
A, B = ActorId(b"a" * 20), ActorId(b"b" * 20)


class Disks:
    """Three disks set by hand, and a judge that looks at them. Value `x` has dot (a, 1), `y` has (a, 2) and (b, 1)."""

    def __init__(self) -> None:
        self.copies = [Copy(f"n{number}", {}) for number in range(3)]
        self.is_harmed = False
        witness = DotWitness()
        witness.see("n0", K, Dot(A, 1), Binding(b"1" * 16, "x"))
        witness.see("n0", K, Dot(A, 2), Binding(b"2" * 16, "y|300000|ab"))
        witness.see("n1", K, Dot(B, 1), Binding(b"2" * 16, "y|300000|ab"))
        self.judge = DurableJudge(witness, lambda key: self.copies, lambda key: self.is_harmed)

    def sync(self, number: int, actor: ActorId, counter: int) -> None:
        """Let one disk have this dot."""
        self.copies[number] = self.copies[number]._replace(vector={actor: counter})

    @property
    def broken(self) -> list[Broken]:
        """What was found."""
        return [violation.broken for violation in self.judge.verdict().violations]


@pytest.fixture
def disks() -> Disks:
    return Disks()


def context(**counters: int) -> bytes:
    """Return a context that has seen so many dots of a and b."""
    vector = {ActorId(name.encode() * 20): counter for name, counter in counters.items()}
    return encode_context(K[:8], 1, encode_vector(vector))


@pytest.mark.parametrize("durable", [1, 2, 3])
def test_an_acknowledgement_is_good_on_as_many_disks_as_it_says(disks: Disks, durable: int) -> None:
    """One disk fewer, and it was given too early."""
    for number in range(durable - 1):
        disks.sync(number, A, 1)
    disks.judge.acknowledged(K, "x", durable, 0)
    assert disks.broken == [Broken.UNSYNCED]

    disks.sync(2, A, 5)
    disks.judge.acknowledged(K, "x", durable, 0)
    assert disks.broken == [Broken.UNSYNCED], "what has seen a later dot of the actor has seen this one"


def test_any_dot_of_a_write_counts(disks: Disks) -> None:
    """A retry met another coordinator; the padding of a large value does not belong to its name."""
    disks.sync(0, A, 2)
    disks.sync(1, B, 1)
    disks.judge.acknowledged(K, "y", 2, 0)

    assert disks.broken == [] and disks.judge.writes == 1


def test_a_damaged_copy_is_given_the_benefit_of_the_doubt(disks: Disks) -> None:
    """It may have been whole when it was counted."""
    disks.sync(0, A, 1)
    disks.copies[1] = disks.copies[1]._replace(is_excused=True)
    disks.judge.acknowledged(K, "x", 2, 0)
    disks.judge.shown(K, ["y"], 1)

    assert disks.broken == []


def test_what_nobody_knows_a_dot_of_is_not_judged(disks: Disks) -> None:
    """An lww put that lost on arrival, or a value that another judge calls a phantom."""
    disks.judge.acknowledged(K, "z", 2, 0)
    disks.judge.shown(K, ["z"], 1)

    assert disks.broken == [] and disks.judge.writes == disks.judge.values == 0


def test_a_value_is_shown_only_once_some_disk_has_it(disks: Disks) -> None:
    """A power loss of all could else take it away again."""
    disks.judge.shown(K, ["x"], 0)
    assert disks.broken == [Broken.UNSYNCED]

    disks.sync(1, A, 1)
    disks.judge.shown(K, ["x"], 1)
    assert disks.broken == [Broken.UNSYNCED]


QUORUMS = [
    ("it has seen the write", 2, 2, context(a=1), []),
    ("it has seen more", 2, 2, context(a=2, b=1), []),
    ("it has seen nothing", 2, 2, UNUSABLE, [Broken.MISSED]),
    ("it has seen something else", 2, 2, context(b=1), [Broken.MISSED]),
    ("one replica of three, the write on two", 2, 1, context(b=1), []),
    ("one replica of three, the write on all", 3, 1, context(b=1), [Broken.MISSED]),
    ("two replicas of three, the write on one", 1, 2, context(b=1), []),
    ("all replicas, the write on one", 1, 3, context(b=1), [Broken.MISSED]),
]


@pytest.mark.parametrize(
    ("durable", "replied", "seen", "broken"), [q[1:] for q in QUORUMS], ids=[q[0] for q in QUORUMS]
)
def test_a_read_that_must_meet_a_write_has_seen_it(
    disks: Disks, durable: int, replied: int, seen: bytes, broken: list[Broken]
) -> None:
    """`durable + replied > n`: some replica that answered had it."""
    for number in range(durable):
        disks.sync(number, A, 1)
    disks.judge.acknowledged(K, "x", durable, 0)
    disks.judge.answered(K, seen, disks.judge.floor(K), replied=replied, n=3, index=1)

    assert disks.broken == broken


def test_a_guest_may_drop_its_copy_while_the_answer_is_on_its_way(disks: Disks) -> None:
    """It is dismissed once the owners have everything (`run --moves` seed 343 found it); the owners' copies are still due."""
    for number in range(2):
        disks.sync(number, A, 1)
    disks.judge.acknowledged(K, "x", 3, 0, guests=1)
    assert disks.broken == []

    disks.judge.acknowledged(K, "x", 3, 1)
    assert disks.broken == [Broken.UNSYNCED]


def test_a_disk_of_a_guest_holds_no_read_to_a_write(disks: Disks) -> None:
    """While a node takes over a partition a write asks one more, whom reads do not ask yet (`sessions` seed 10 found it)."""
    for number in range(3):
        disks.sync(number, A, 1)
    disks.judge.acknowledged(K, "x", 3, 0, guests=1)
    disks.judge.answered(K, UNUSABLE, disks.judge.floor(K), replied=1, n=3, index=1)
    assert disks.broken == []

    disks.judge.answered(K, UNUSABLE, disks.judge.floor(K), replied=2, n=3, index=2)
    assert disks.broken == [Broken.MISSED]


def test_a_read_owes_nothing_to_what_was_acknowledged_after_it_began(disks: Disks) -> None:
    """Nor to an object of which a copy was ever damaged: the replica that answered may have lost it."""
    disks.sync(0, A, 1)
    disks.sync(1, A, 1)
    before = disks.judge.floor(K)
    disks.judge.acknowledged(K, "x", 2, 0)
    disks.judge.answered(K, UNUSABLE, before, replied=2, n=3, index=1)
    disks.is_harmed = True
    disks.judge.answered(K, UNUSABLE, disks.judge.floor(K), replied=2, n=3, index=2)

    assert disks.broken == [] and disks.judge.reads == 0


def test_the_missed_value_is_named(disks: Disks) -> None:
    """And the operation that missed it is the evidence."""
    disks.sync(0, A, 1)
    disks.sync(1, A, 1)
    disks.judge.acknowledged(K, "x", 2, 0)
    disks.judge.answered(K, UNUSABLE, disks.judge.floor(K), replied=2, n=3, index=7)

    [violation] = disks.judge.verdict().violations
    assert (violation.key, violation.evidence) == ("k", (7,)) and "has not seen x" in violation.message
