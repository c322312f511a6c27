"""Dot uniqueness, online: from dots as a world sees them, and from the bytes of records."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings

from jepsen_lite.checkers.dots import Binding, Dot, DotWitness, key_of, value_of
from jepsen_lite.checkers.verdict import Broken
from kvstore.causality.dvvset import EMPTY, DVVSet
from kvstore.causality.version_vector import merge_vectors
from kvstore.ids import ObjectType
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import encode_record
from tests.causality.histories import World, actor_of, put, worlds

K = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
J = storage_key(object_name("default", ObjectType.REGISTER, b"j"))

A1, A2, B1 = Dot(b"a" * 20, 1), Dot(b"a" * 20, 2), Dot(b"b" * 20, 1)
X, Y = Binding(b"1" * 16, "x"), Binding(b"2" * 16, "y")

GOOD = [
    ("the same on two nodes", [("n1", K, A1, X), ("n2", K, A1, X)]),
    ("the next dot of an actor", [("n1", K, A1, X), ("n1", K, A2, Y)]),
    ("another actor", [("n1", K, A1, X), ("n2", K, B1, Y)]),
    ("another object", [("n1", K, A1, X), ("n1", J, A1, Y)]),
    ("a retry at another coordinator", [("n1", K, A1, X), ("n2", K, B1, X)]),
    ("seen again with another time", [("n1", K, A1, X), ("n2", K, A1, X._replace(hlc=7))]),
    ("a tombstone, twice", [("n1", K, A1, X._replace(value=None)), ("n2", K, A1, X._replace(value=None))]),
]
BAD = [
    ("another write", [("n1", K, A1, X), ("n1", K, A1, Y)]),
    ("on another node, with no record in common", [("n1", K, A1, X), ("n2", K, A1, Y)]),
    ("another value under the same operation", [("n1", K, A1, X), ("n2", K, A1, X._replace(value="z"))]),
    ("the same value of another operation", [("n1", K, A1, X), ("n2", K, A1, X._replace(operation_id=b"3" * 16))]),
    ("a tombstone where there was a value", [("n1", K, A1, X), ("n2", K, A1, X._replace(value=None))]),
    ("a value where there was a tombstone", [("n1", K, A1, X._replace(value=None)), ("n2", K, A1, X)]),
    ("long after", [("n1", K, A1, X), ("n1", K, A2, Y), ("n2", K, B1, Y), ("n2", K, A2, X)]),
    ("the first is believed, however often the second comes", [("n1", K, A1, X), ("n2", K, A1, Y), ("n3", K, A1, X)]),
]
Seen = list[tuple[str, bytes, Dot, Binding]]


@pytest.mark.parametrize("seen", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_one_dot_is_one_write(seen: Seen) -> None:
    """Nothing here breaks the promise."""
    witness = DotWitness()

    assert [witness.see(*each) for each in seen] == [None] * len(seen)
    assert witness.verdict().is_ok
    assert witness.count == len({each[1:3] for each in seen})


@pytest.mark.parametrize("seen", [row[1] for row in BAD], ids=[row[0] for row in BAD])
def test_a_dot_that_is_bound_twice_is_told_at_once(seen: Seen) -> None:
    """The observation that breaks the promise returns the violation; it stays in the verdict."""
    witness = DotWitness()
    told = [violation for each in seen if (violation := witness.see(*each)) is not None]

    assert [(v.broken, v.key) for v in told] == [(Broken.DOT_REUSED, "k")]
    assert witness.verdict().violations == tuple(told)


def test_values_with_two_dots_are_known() -> None:
    """They may come back after they were replaced."""
    witness = DotWitness()
    witness.see("n1", K, A1, X)
    witness.see("n1", K, A2, Y)
    witness.see("n2", K, B1, X)

    assert witness.written_twice() == ["x"]
    assert dict(witness.bindings(K)) == {A1: X, A2: Y, B1: X}


def test_records_are_taken_apart_and_seen_once() -> None:
    """What a node applies are bytes; the same bytes again cost nothing and say nothing."""
    witness = DotWitness()
    first = put(EMPTY, {}, actor_of(0), 1, msgpack.packb(b"c0:1"))
    again = put(EMPTY, {}, actor_of(0), 2, msgpack.packb(b"c0:2"))

    assert witness.see_record("n1", K, encode_record(K, first)) == []
    assert witness.see_record("n2", K, encode_record(K, first)) == []
    told = witness.see_record("n1", K, encode_record(K, again))

    assert [v.broken for v in told] == [Broken.DOT_REUSED]
    assert "'c0:2'" in told[0].message
    assert "'c0:1'" in told[0].message


def test_an_overwritten_value_still_owns_its_dot() -> None:
    """The record has only the new value, but it remembers the operation of the old one."""
    witness = DotWitness()
    old = put(EMPTY, {}, actor_of(0), 1)
    new = put(old, old.vector, actor_of(0), 2)
    other = put(EMPTY, {}, actor_of(0), 3)
    witness.see_record("n1", K, encode_record(K, new))

    assert [v.broken for v in witness.see_record("n2", K, encode_record(K, other))] == [Broken.DOT_REUSED]


def test_a_record_that_cannot_be_read_is_a_violation() -> None:
    """A node must never write one."""
    witness = DotWitness()
    record = encode_record(K, put(EMPTY, {}, actor_of(0), 1))

    assert [v.broken for v in witness.see_record("n1", K, record[:-1])] == [Broken.UNREADABLE]
    assert [v.broken for v in witness.see_record("n1", J, record)] == [Broken.UNREADABLE]


def test_the_dots_of_a_write_are_found_by_the_name_of_its_value() -> None:
    """Also those that a record only remembers: an lww put that lost on arrival, a value that was overwritten."""
    witness = DotWitness()
    witness.see("n1", K, A1, X._replace(value="x|300000|padding"))
    witness.see_operation("n2", K, B1, X.operation_id)

    assert list(witness.dots_of(K, "x")) == [A1, B1]
    assert witness.dots_of(K, "y") == () and witness.dots_of(J, "x") == ()


def test_a_value_under_two_operation_ids_is_a_violation() -> None:
    """Its client numbered a retry anew, so nobody can recognise it."""
    witness = DotWitness()
    witness.see("n1", K, A1, X)
    witness.see("n2", K, B1, Binding(b"3" * 16, "x"))

    assert [v.broken for v in witness.verdict().violations] == [Broken.MINTED_TWICE]


def test_a_node_forgets_nothing_by_replacing_a_record() -> None:
    """The new vector descends from the old one, whatever became of the values."""
    witness = DotWitness()
    first = put(EMPTY, {}, actor_of(0), 1)
    second = put(first, first.vector, actor_of(0), 2)
    elsewhere = put(EMPTY, {}, actor_of(1), 3)
    records = [encode_record(K, state) for state in (first, second, elsewhere)]

    assert witness.see_replaced("n1", K, records[0], records[1]) is None
    assert witness.see_replaced("n1", K, records[1], records[1]) is None
    for before, after in ((1, 0), (0, 2), (2, 1)):
        found = witness.see_replaced("n1", K, records[before], records[after])
        assert found is not None and found.broken is Broken.WENT_BACK


def test_nodes_that_have_seen_the_same_lww_writes_show_the_same_one() -> None:
    """A tie that every node decides for itself never ends."""
    witness = DotWitness()
    key = storage_key(object_name("default", ObjectType.LWW, b"w"))
    one, two = put(EMPTY, {}, actor_of(0), 1, b"1"), put(EMPTY, {}, actor_of(1), 2, b"2")
    both = merge_vectors(one.vector, two.vector)
    witness.see_record("n1", key, encode_record(key, DVVSet(both, one.siblings, ())))
    assert witness.verdict().is_ok
    witness.see_record("n2", key, encode_record(key, DVVSet(both, two.siblings, ())))

    assert [v.broken for v in witness.verdict().violations] == [Broken.DIVERGED]


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_real_states_never_bind_a_dot_twice(world: World) -> None:
    """Every state that replicas of the real DVVSet reach."""
    witness = DotWitness()
    for state in world.snapshots:
        if state != DVVSet({}, (), ()):
            assert witness.see_record("n", K, encode_record(K, state)) == []

    assert witness.count <= len(world.events)


def test_values_and_keys_read_as_in_the_history() -> None:
    """Clients store msgpack; what is none is shown as its bytes."""
    packed: bytes = msgpack.packb(b"c1:7")

    assert value_of(packed) == value_of(msgpack.packb("c1:7")) == "c1:7"
    assert value_of(None) is None
    assert value_of(b"") == ""
    assert value_of(b"c1:7") == "c1:7"
    assert value_of(msgpack.packb(7)) == "\x07"
    assert (key_of(K), key_of(b"?")) == ("k", "3f")
