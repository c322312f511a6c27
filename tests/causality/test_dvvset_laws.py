"""The laws that let replicas exchange states in any order, on states that histories really reach."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.dvvset import EMPTY, DVVSet, sync
from kvstore.causality.version_vector import descends
from tests.causality.histories import World, actor_of, put, worlds

LAWS = settings(max_examples=80, deadline=None)


def draw_states(world: World, data: st.DataObject, count: int) -> list[DVVSet]:
    """Draw states that existed at some moment at some replica: old ones meet new ones, as on a slow network."""
    return [data.draw(st.sampled_from(world.snapshots)) for _ in range(count)]


@LAWS
@given(worlds(), st.data())
def test_sync_is_commutative(world: World, data: st.DataObject) -> None:
    """Who sends and who receives makes no difference."""
    ours, theirs = draw_states(world, data, 2)

    assert sync(ours, theirs) == sync(theirs, ours)


@LAWS
@given(worlds(), st.data())
def test_sync_is_associative_without_duplicated_operation_ids(world: World, data: st.DataObject) -> None:
    """The order in which states meet makes no difference."""
    one, two, three = draw_states(world, data, 3)

    assert sync(sync(one, two), three) == sync(one, sync(two, three))


@LAWS
@given(worlds(), st.data())
def test_sync_is_idempotent(world: World, data: st.DataObject) -> None:
    """A state that arrives again, late or at once, changes nothing."""
    ours, theirs = draw_states(world, data, 2)
    merged = sync(ours, theirs)

    assert sync(ours, ours) == ours
    assert sync(merged, theirs) == sync(merged, ours) == sync(merged, merged) == merged


@LAWS
@given(worlds(), st.data())
def test_sync_is_inflationary(world: World, data: st.DataObject) -> None:
    """The result has seen what both saw; a sibling is missing only if the other side had seen it and let it go."""
    ours, theirs = draw_states(world, data, 2)
    merged = sync(ours, theirs)

    assert descends(merged.vector, ours.vector)
    assert descends(merged.vector, theirs.vector)
    for side, other in ((ours, theirs), (theirs, ours)):
        for lost in set(side.siblings) - set(merged.siblings):
            assert other.vector.get(lost.actor, 0) >= lost.counter
            assert lost not in other.siblings
    assert set(merged.siblings) <= set(ours.siblings) | set(theirs.siblings)


@LAWS
@given(worlds())
def test_equal_vectors_mean_equal_siblings_without_duplicated_operation_ids(world: World) -> None:
    """The vector is the whole history, so it decides which values are left."""
    by_vector: dict[frozenset[tuple[bytes, int]], DVVSet] = {}

    for state in world.snapshots:
        same = by_vector.setdefault(frozenset(state.vector.items()), state)
        assert same.siblings == state.siblings


@LAWS
@given(worlds())
def test_the_empty_state_is_neutral(world: World) -> None:
    """A replica that never heard of the object adds nothing and takes everything."""
    for state in world.snapshots:
        assert sync(state, EMPTY) == sync(EMPTY, state) == state


def test_with_one_operation_at_three_coordinators_every_order_of_merging_agrees() -> None:
    """Commutativity and idempotence hold even then; and as long as nobody replaced the value, so does associativity."""
    states = [put(EMPTY, {}, actor_of(node), 1, b"once") for node in (1, 2, 3)]

    merged = {
        (sync(sync(a, b), c).siblings, tuple(sorted(sync(sync(a, b), c).vector.items())))
        for a, b, c in itertools.permutations(states)
    }

    assert len(merged) == 1
