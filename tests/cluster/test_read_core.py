"""The read accumulator: when a get may answer, what it answers, and whom to repair."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.coordinator.read_core import ReadCore
from kvstore.causality.actor import make_actor
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, sync, update
from kvstore.causality.version_vector import descends
from kvstore.errors import Corruption
from kvstore.ids import ActorId, HlcTimestamp, NodeId, ObjectType, OperationId, PartitionId
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import encode_record

KEY = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
ACTORS = [make_actor(NodeId(bytes([i]) * 8), PartitionId(0), random.Random(i)) for i in range(3)]


def state_of(*writes: int) -> DVVSet:
    """Return a state with blind writes by these actors, in order."""
    state = EMPTY
    for actor in writes:
        counter = state.vector.get(ACTORS[actor], 0) + 1
        operation = OperationId(b"%08d%08d" % (actor, counter))
        new = Sibling(
            ACTORS[actor], counter, HlcTimestamp(counter), HlcTimestamp(0), operation, b"%d.%d" % (actor, counter)
        )
        state = update(state, {}, new, b"12345678")
    return state


def record_of(*writes: int) -> bytes:
    return encode_record(KEY, state_of(*writes)) if writes else b""


def core_of(r: int, pr: int = 0) -> ReadCore[str]:
    return ReadCore(r, pr)


def test_r_replies_that_agree_are_enough_and_nobody_is_stale() -> None:
    """Equal bytes are equal states."""
    core = core_of(2)
    core.add_result("a", record_of(0))
    assert not core.enough
    core.add_result("b", record_of(0))
    assert core.enough
    record = core.merged(KEY, sync)
    assert (record, core.stale(record)) == (record_of(0), [])


def test_a_failure_never_counts_as_not_found() -> None:
    """One answer and two failures are not two answers."""
    core = core_of(2)
    core.add_failure()
    core.add_failure()
    core.add_result("a", b"")
    assert not core.enough and core.merged(KEY, sync) == b""


def test_not_found_replies_are_repaired_when_somebody_holds_a_record() -> None:
    """An empty answer is stale against a record, not a veto."""
    core = core_of(2)
    core.add_result("a", b"")
    core.add_result("b", record_of(1))
    record = core.merged(KEY, sync)
    assert record == record_of(1) and core.stale(record) == ["a"]


def test_pr_waits_for_primaries() -> None:
    """Answers of fallbacks do not count."""
    core = core_of(1, pr=2)
    core.add_result("fallback", b"", primary=False)
    core.add_result("a", b"")
    assert not core.enough
    core.add_result("b", b"")
    assert core.enough and core.primaries == 2


def test_an_unreadable_reply_raises_and_is_not_merged() -> None:
    """The driver checks each reply; the join verifies again what it decodes."""
    core = core_of(2)
    core.add_result("a", record_of(1))
    core.add_result("b", record_of(0)[:-1] + b"?")
    with pytest.raises(Corruption):
        core.merged(KEY, sync)


@given(st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_answer_is_the_join_in_any_order_and_only_the_behind_are_stale(
    held: list[list[int]], rng: random.Random
) -> None:
    """Whatever the order of replies: one record, and exactly those that hold other bytes are repaired."""
    replies = [(str(i), record_of(*sorted(writes))) for i, writes in enumerate(held)]
    rng.shuffle(replies)
    core = core_of(len(replies))
    for replica, record in replies:
        core.add_result(replica, record)
    expected = EMPTY
    for writes in held:
        expected = sync(expected, state_of(*sorted(writes)))

    record = core.merged(KEY, sync)

    assert core.enough
    assert record == (encode_record(KEY, expected) if expected.vector else b"")
    assert sorted(core.stale(record)) == sorted(replica for replica, held_record in replies if held_record != record)


# --- in a session -----------------------------------------------------------------------------------------------------


def test_answers_that_have_not_seen_the_history_are_not_enough() -> None:
    """Two agree on what is old; the third one has what the session has seen."""
    core: ReadCore[str] = ReadCore(2, 0, state_of(0, 1).vector)
    core.add_result("a", record_of(0))
    assert not core.enough and not core.is_behind, "too few have answered to say so"
    core.add_result("b", b"")
    assert not core.enough and core.is_behind
    core.add_result("c", record_of(0, 1))
    assert core.enough and not core.is_behind and core.lacking is None
    assert core.stale(core.merged(KEY, sync)) == ["a", "b"]


def test_two_answers_may_cover_together_what_neither_does() -> None:
    """It is the join that is shown."""
    core: ReadCore[str] = ReadCore(1, 0, state_of(0, 1).vector)
    core.add_result("a", record_of(0))
    core.add_result("b", record_of(1))
    assert core.enough


def test_a_record_that_cannot_be_decoded_is_not_counted_in_a_session() -> None:
    """Its checksum fits, so some build wrote it; what it has seen is not known."""
    core: ReadCore[str] = ReadCore(1, 0, state_of(0).vector)
    with pytest.raises(Corruption):
        core.add_result("a", b"checksum" + b"\x93\x01\xc4\x05short\xc4\x00")
    assert (core.results, core.enough) == ([], False)


VECTORS = st.dictionaries(st.sampled_from(ACTORS), st.integers(1, 3))


@settings(max_examples=200, deadline=None)
@given(
    history=VECTORS,
    r=st.integers(1, 3),
    answers=st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=5)), max_size=5),
)
def test_enough_is_r_answers_whose_join_descends_the_history(
    history: dict[ActorId, int], r: int, answers: list[list[int] | None]
) -> None:
    """The model joins whole states and compares vectors after every answer; None is an owner that fails."""
    core: ReadCore[int] = ReadCore(r, 0, history)
    joined, count = EMPTY, 0
    for number, writes in enumerate(answers):
        was_enough = core.enough
        if writes is None:
            core.add_failure()
        else:
            core.add_result(number, record_of(*writes))
            joined, count = sync(joined, state_of(*writes)), count + 1
        assert core.enough == (count >= r and descends(joined.vector, history)) and core.enough >= was_enough
        assert core.is_behind == (count >= r and not core.enough)
        if core.enough:
            assert core.merged(KEY, sync) == (encode_record(KEY, joined) if joined.vector else b"")
