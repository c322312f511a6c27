"""Last-writer-wins objects: one rule, the greatest (HLC, actor, counter, value), and vectors never choose."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.actor import next_dot_counter
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, sync_lww, update_lww
from kvstore.ids import HlcTimestamp
from kvstore.storage.record import encode_record, value_hash
from tests.causality.histories import KEY, actor_of, operation_id

Put = tuple[int, int, bytes | None, int]
"""(replica, hlc, value, expires)"""

PUTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 5), st.none() | st.binary(max_size=2), st.sampled_from([0, 9])),
    min_size=1,
    max_size=12,
)


def put_lww(state: DVVSet, node: int, number: int, hlc: int, value: bytes | None, expires: int) -> tuple[DVVSet, bool]:
    actor = actor_of(node)
    counter = next_dot_counter(actor, state.vector)
    new = Sibling(actor, counter, HlcTimestamp(hlc), HlcTimestamp(expires), operation_id(number), value)
    return update_lww(state, new, value_hash(value, expires))


def run(puts: list[Put]) -> tuple[list[DVVSet], list[Sibling]]:
    """Return every state that any replica ever had, without syncs between them, and everything that was written."""
    current, states, written = [EMPTY] * 3, [EMPTY], []
    for number, (replica, hlc, value, expires) in enumerate(puts, start=1):
        current[replica], _ = put_lww(current[replica], replica, number, hlc, value, expires)
        states.append(current[replica])
        counter = current[replica].vector[actor_of(replica)]
        times = (HlcTimestamp(hlc), HlcTimestamp(expires))
        written.append(Sibling(actor_of(replica), counter, *times, operation_id(number), value))
    return states, written


@settings(max_examples=80, deadline=None)
@given(PUTS, st.data())
def test_any_order_and_duplication_of_merges_gives_the_same_bytes(puts: list[Put], data: st.DataObject) -> None:
    """All replicas that saw the same writes hold byte-identical records."""
    states, _ = run(puts)
    straight = functools.reduce(sync_lww, states)
    shuffled = data.draw(st.permutations([*states, *data.draw(st.lists(st.sampled_from(states), max_size=4))]))

    merged = functools.reduce(sync_lww, shuffled)

    assert encode_record(KEY, merged) == encode_record(KEY, straight)


@settings(max_examples=80, deadline=None)
@given(PUTS)
def test_the_greatest_time_wins_then_the_greatest_actor(puts: list[Put]) -> None:
    """Whatever the vectors say: a write with an older time never replaces a newer one, even if its client saw it."""
    states, written = run(puts)

    merged = functools.reduce(sync_lww, states)

    assert merged.siblings == (max(written, key=lambda s: (s.hlc, s.actor, s.counter)),)


@settings(max_examples=100, deadline=None)
@given(PUTS, st.data())
def test_sync_lww_obeys_the_laws_of_a_join(puts: list[Put], data: st.DataObject) -> None:
    """Commutative, associative, idempotent; EMPTY is neutral."""
    states, _ = run(puts)
    one, two, three = (data.draw(st.sampled_from(states)) for _ in range(3))

    assert sync_lww(one, two) == sync_lww(two, one)
    assert sync_lww(sync_lww(one, two), three) == sync_lww(one, sync_lww(two, three))
    assert sync_lww(one, one) == sync_lww(one, EMPTY) == sync_lww(EMPTY, one) == one


def test_a_put_with_an_older_time_loses_and_says_so() -> None:
    """The ack reports it as superseded; its dot and operation id are remembered all the same."""
    state, lost = put_lww(EMPTY, 1, 1, 100, b"new", 0)
    assert not lost

    after, lost = put_lww(state, 2, 2, 50, b"old", 0)

    assert lost
    assert [s.value for s in after.siblings] == [b"new"]
    assert after.vector == {actor_of(1): 1, actor_of(2): 1}
    assert [o.operation_id for o in after.operations] == [operation_id(2), operation_id(1)], "by time"


def test_a_tombstone_wins_by_the_same_rule() -> None:
    """A delete is a write whose value is nothing."""
    state, _ = put_lww(EMPTY, 1, 1, 100, b"value", 0)

    deleted, lost = put_lww(state, 1, 2, 101, None, 0)

    assert not lost
    assert [s.value for s in deleted.siblings] == [None]
