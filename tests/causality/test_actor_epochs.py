"""Actor epochs: why a node that lost history must mint under a new name (riak_kv issue 679)."""

from __future__ import annotations

import random

from kvstore.causality.actor import history_is_behind, make_actor, next_dot_counter
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, sync, update
from kvstore.ids import ACTOR_SIZE_BYTES, ActorId, HlcTimestamp, NodeId, PartitionId
from kvstore.storage.record import value_hash
from tests.causality.histories import operation_id, put

NODE = NodeId(b"node-one")
RNG = random.Random(679)
OLD = make_actor(NODE, PartitionId(3), RNG)
NEW = make_actor(NODE, PartitionId(3), RNG)


def values(state: DVVSet) -> set[bytes | None]:
    return {sibling.value for sibling in state.siblings}


def put_at_counter(state: DVVSet, actor: ActorId, counter: int, value: bytes) -> DVVSet:
    new = Sibling(actor, counter, HlcTimestamp(1), HlcTimestamp(0), operation_id(counter), value)
    return update(state, {}, new, value_hash(value, 0))


def test_reusing_the_actor_after_losing_the_disk_loses_an_acknowledged_value() -> None:
    """What would happen without a new epoch: the second (OLD, 1) is taken for one that was replaced long ago."""
    before = put(put(EMPTY, {}, OLD, 1, b"one"), {OLD: 1}, OLD, 2, b"two")
    peer = before

    after_amnesia = put(EMPTY, {}, OLD, 3, b"acknowledged after the restart")

    assert values(sync(after_amnesia, peer)) == {b"two"}


def test_a_larger_counter_does_not_help_a_reused_actor() -> None:
    """The merge of {a:100} with an older {a:3} drops what is live in the older one: the gap says it was all seen."""
    peer = EMPTY
    for number in (1, 2, 3):
        peer = put(peer, {}, OLD, number, b"%d" % number)

    after_amnesia = put_at_counter(EMPTY, OLD, 100, b"new")

    assert values(sync(after_amnesia, peer)) == {b"new"}


def test_with_a_new_epoch_nothing_is_lost() -> None:
    """The same story with the actor that `make_actor` gives: both values survive as siblings, in both orders."""
    before = put(put(EMPTY, {}, OLD, 1, b"one"), {OLD: 1}, OLD, 2, b"two")

    after_amnesia = put(EMPTY, {}, NEW, 3, b"acknowledged after the restart")

    assert values(sync(after_amnesia, before)) == {b"two", b"acknowledged after the restart"}
    assert values(sync(before, after_amnesia)) == {b"two", b"acknowledged after the restart"}


def test_with_a_new_epoch_a_context_of_before_still_replaces_what_it_saw() -> None:
    """The client's context names the old actor; writing with it after the amnesia does not bring the old value back."""
    before = put(EMPTY, {}, OLD, 1, b"old")

    after_amnesia = put(EMPTY, before.vector, NEW, 2, b"new")

    assert values(sync(after_amnesia, before)) == {b"new"}


def test_an_actor_is_its_node_its_partition_and_a_random_epoch() -> None:
    """Equal nodes and partitions share a prefix; the epoch makes the difference."""
    assert len(OLD) == len(NEW) == ACTOR_SIZE_BYTES
    assert OLD != NEW
    assert OLD[:12] == NEW[:12] == NODE + bytes([0, 0, 0, 3])
    assert make_actor(NODE, PartitionId(3), random.Random(679)) == OLD


def test_a_vector_that_names_us_above_our_own_record_is_evidence_of_lost_history() -> None:
    """Rule 1: mint a new epoch before the next dot."""
    assert history_is_behind(OLD, {}, {OLD: 1})
    assert history_is_behind(OLD, {OLD: 2}, {OLD: 3})
    assert not history_is_behind(OLD, {OLD: 3}, {OLD: 3})
    assert not history_is_behind(OLD, {OLD: 3}, {NEW: 9})


def test_dots_are_contiguous_from_one() -> None:
    """A vector stands for a run of dots, so an actor may not skip any."""
    assert next_dot_counter(OLD, {}) == 1
    assert next_dot_counter(OLD, {OLD: 7}) == 8
