"""Dotted siblings against a model that keeps every event: what may be in a state, and why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, discard, join, sync, update
from kvstore.causality.version_vector import VersionVector, merge_vectors
from kvstore.ids import ActorId, HlcTimestamp
from kvstore.limits import OPERATIONS_KEPT_MAX
from kvstore.storage.record import value_hash
from tests.causality.histories import World, actor_of, history, operation_id, put, worlds

A, B, C = sorted(actor_of(node) for node in (1, 2, 3))


def values(state: DVVSet) -> list[bytes | None]:
    return [sibling.value for sibling in state.siblings]


@settings(max_examples=100, deadline=None)
@given(history)
def test_every_state_holds_exactly_the_values_nobody_replaced(steps: list[tuple[str, int, int, str]]) -> None:
    """After each step of any history: a value is there if and only if no known put came from a client that saw it."""
    world = World()
    for step in steps:
        world.step(step)
        world.check()


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_after_everybody_synced_all_replicas_hold_the_same(world: World) -> None:
    """Two rounds of sync around the ring carry everything everywhere."""
    for _ in range(2):
        for replica in range(3):
            world.step(("sync", replica, (replica + 1) % 3, ""))

    world.check()
    assert world.states[0] == world.states[1] == world.states[2]


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_update_replaces_exactly_what_the_context_covers(world: World, data: st.DataObject) -> None:
    """Siblings the client saw are replaced, the others stay, and everything the context covers is now seen."""
    state = data.draw(st.sampled_from(world.snapshots))
    context = join(data.draw(st.sampled_from(world.snapshots)))

    after = put(state, context, actor_of(9), 1_000, b"new")

    kept = [s for s in state.siblings if context.get(s.actor, 0) < s.counter]
    new = [s for s in after.siblings if s.actor == actor_of(9)]
    assert [s for s in after.siblings if s not in new] == kept
    assert values(DVVSet({}, tuple(new), ())) == [b"new"]
    assert after.vector == merge_vectors(merge_vectors(state.vector, context), {actor_of(9): 1})


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_discard_drops_exactly_what_the_context_covers(world: World, data: st.DataObject) -> None:
    """It is `update` without a new value."""
    state = data.draw(st.sampled_from(world.snapshots))
    context = join(data.draw(st.sampled_from(world.snapshots)))

    after = discard(state, context)

    assert after.siblings == tuple(s for s in state.siblings if context.get(s.actor, 0) < s.counter)
    assert after.vector == merge_vectors(state.vector, context)


def test_update_and_sync_leave_their_arguments_alone() -> None:
    """States share vectors, so nobody may change one in place."""
    first = put(EMPTY, {}, A, 1)
    second = put(EMPTY, {}, B, 2)
    context: VersionVector = dict(first.vector)
    before = (dict(first.vector), dict(second.vector), dict(EMPTY.vector))

    put(first, context, B, 3)
    sync(first, second)
    discard(first, second.vector)

    assert (first.vector, second.vector, EMPTY.vector) == before
    assert context == first.vector


def test_two_clients_that_never_see_each_other_leave_two_siblings_after_101_writes() -> None:
    """Each write replaces what its client saw in its last reply; a version vector without dots would keep them all."""
    state = EMPTY
    contexts: list[VersionVector] = [{}, {}]

    for number in range(101):
        client = number % 2
        state = put(state, contexts[client], A, number + 1, b"%d" % number)
        contexts[client] = join(state)

    assert values(state) == [b"99", b"100"]


def test_a_write_without_context_adds_a_sibling() -> None:
    """Nothing was seen, so nothing is replaced."""
    state = put(put(EMPTY, {}, A, 1, b"one"), {}, A, 2, b"two")

    assert values(state) == [b"one", b"two"]
    assert state.vector == {A: 2}


def test_a_dot_below_what_was_seen_is_refused_as_a_bug() -> None:
    """Minting a dot that the state or the context already covers would bind it to two values."""
    state = put(EMPTY, {}, A, 1)
    again = Sibling(A, 1, HlcTimestamp(1), HlcTimestamp(0), operation_id(2), b"x")

    with pytest.raises(AssertionError, match="never minted twice"):
        update(state, {}, again, value_hash(b"x", 0))
    with pytest.raises(AssertionError, match="context"):
        update(EMPTY, {A: 1}, again, value_hash(b"x", 0))


def test_one_operation_through_two_coordinators_becomes_one_sibling_with_the_smallest_dot() -> None:
    """A client that retries at another node wrote one value; every order of merging agrees which dot stays."""
    at_a, at_b, at_c = (put(EMPTY, {}, actor, 1, b"once") for actor in (A, B, C))

    merged = sync(sync(at_a, at_b), at_c)

    assert [s[:2] for s in merged.siblings] == [(A, 1)]
    assert merged.vector == {A: 1, B: 1, C: 1}
    assert [o.actor for o in merged.operations] == [A, B, C], "who replaces it at one dot replaces it at all of them"
    assert merged == sync(at_c, sync(at_b, at_a)) == sync(at_b, sync(at_c, at_a))


def test_equal_vectors_with_different_siblings_still_merge_to_one() -> None:
    """Rule 6: such states exist after a retry at two nodes, so equal vectors must never be taken for equal states."""
    at_a, at_b = put(EMPTY, {}, A, 1, b"once"), put(EMPTY, {}, B, 1, b"once")
    merged = sync(at_a, at_b)
    only_b = DVVSet(merged.vector, at_b.siblings, at_b.operations)

    assert merged.vector == only_b.vector
    assert merged.siblings != only_b.siblings
    assert sync(merged, only_b) == sync(only_b, merged)


def test_who_replaced_a_value_at_one_dot_replaced_it_at_all() -> None:
    """The retry's dot was never seen by who wrote "newer", but its value was: it does not come back."""
    at_a, at_b = put(EMPTY, {}, A, 1, b"once"), put(EMPTY, {}, B, 1, b"once")
    replaced = put(at_a, at_a.vector, A, 2, b"newer")

    assert values(sync(replaced, at_b)) == values(sync(at_b, replaced)) == [b"newer"]


@pytest.mark.parametrize("shown", [A, B])
def test_a_context_that_covers_one_dot_of_an_operation_replaces_the_other(shown: ActorId) -> None:
    """The client read before the two attempts met, and writes after that: it was shown the only value there is."""
    states = {actor: put(EMPTY, {}, actor, 1, b"once") for actor in (A, B)}
    met = sync(states[A], states[B])

    assert values(put(met, states[shown].vector, C, 2, b"newer")) == [b"newer"]
    assert values(discard(met, states[shown].vector)) == []


def test_a_retry_is_kept_by_who_replaced_something_else() -> None:
    """A context that covers other operations of the same actors says nothing about this one."""
    before = put(EMPTY, {}, A, 1, b"before")
    once = put(EMPTY, {}, B, 2, b"once")
    newer = put(before, before.vector, A, 3, b"newer")

    assert values(sync(newer, once)) == [b"newer", b"once"]


def test_a_retry_that_nobody_remembers_may_come_back() -> None:
    """The documented limit of rule 6: more than OPERATIONS_KEPT_MAX newer operations, and nobody knows it any more."""
    state = put(EMPTY, {}, A, 1, b"once")
    late = put(EMPTY, {}, B, 1, b"once")
    for number in range(OPERATIONS_KEPT_MAX):
        state = put(state, state.vector, A, 2 + number, b"%d" % number)

    assert values(sync(state, late)) == [b"15", b"once"]


def test_the_newest_sixteen_operations_are_remembered_replaced_ones_too() -> None:
    """So a retry is recognised for a while, and a record stays small."""
    state = EMPTY
    for number in range(1, 41):
        state = put(state, state.vector, A, number)

    assert OPERATIONS_KEPT_MAX == 16
    assert [o.operation_id for o in state.operations] == [operation_id(n) for n in range(25, 41)]
    assert [o.counter for o in state.operations] == list(range(25, 41))


def test_merged_states_remember_the_newest_operations_of_both() -> None:
    """Sixteen of the union, by the time in the operation id."""
    evens = odds = EMPTY
    for number in range(0, 40, 2):
        evens = put(evens, evens.vector, A, number + 2)
        odds = put(odds, odds.vector, B, number + 1)

    merged = sync(evens, odds)

    assert [o.operation_id for o in merged.operations] == [operation_id(n) for n in range(25, 41)]
    assert merged == sync(odds, evens)


def test_states_with_equal_vectors_may_remember_different_operations() -> None:
    """A write with a context covers dots whose operations it never met. So equal vectors are not equal records either,
    and what compares records (trie, fast paths) must compare bytes or merge."""
    first = put(EMPTY, {}, A, 1)
    second = put(EMPTY, first.vector, B, 2)  # a client read `first` and wrote at a replica that had nothing

    merged = sync(first, second)

    assert merged.vector == second.vector
    assert merged.siblings == second.siblings
    assert merged.operations != second.operations
    assert sync(second, merged) == merged
