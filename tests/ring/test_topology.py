"""The topology document: what it refuses to be, what it answers, and how it evolves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvstore.errors import InvalidArgument, NoSuchBucket
from kvstore.ids import ClusterId, NodeId, ObjectType, PartitionId
from kvstore.ring import (
    DEFAULT_BUCKET,
    BucketProperties,
    Member,
    MemberState,
    Move,
    MovePhase,
    Topology,
    begin_move,
    finish_move,
    flip_move,
    found,
    with_bucket,
)
from kvstore.ring.topology import with_address

CLUSTER = ClusterId(b"c" * 16)
A, B, C = (NodeId(name * 8) for name in (b"a", b"b", b"c"))


def member(node_id: NodeId, **fields: Any) -> Member:
    return Member(node_id, f"{node_id.decode()}:1", **fields)


def one_node(partition_bits: int = 2) -> Topology:
    return found(CLUSTER, "test", member(B), partition_bits, 3)


def grown() -> Topology:
    """B has taken A in, which is first in partition 0, second in 1 and 2, and owns nothing of 3."""
    return finish_move(flip_move(begin_move(one_node(), member(A), [(A, B), (B, A), (B, A), (B,)])))


def test_founder_owns_everything_at_epoch_one() -> None:
    """One node alone is a complete cluster with the default bucket."""
    topology = one_node()

    assert (topology.epoch, topology.partitions_count, topology.founder) == (1, 4, B)
    assert topology.owners == ((B,),) * 4 and topology.placement_versions == (1,) * 4
    assert topology.buckets == (DEFAULT_BUCKET,) and topology.move is None


@pytest.mark.parametrize(
    ("owners_count", "n", "n_effective", "quorum"),
    [(1, 3, 1, 1), (2, 3, 2, 2), (3, 3, 3, 2), (2, 2, 2, 2), (1, 1, 1, 1)],
)
def test_quorum_is_a_majority_of_the_replicas_there_are(
    owners_count: int, n: int, n_effective: int, quorum: int
) -> None:
    """N // 2 + 1, of fewer while there are fewer owners than N."""
    members = tuple(map(member, (A, B, C)))
    owners = ((A, B, C)[:owners_count],)
    topology = Topology(CLUSTER, "t", 1, 0, n, A, members, owners, (1,))

    assert topology.n_effective(PartitionId(0)) == n_effective
    assert topology.quorum(PartitionId(0)) == quorum


def test_lookups_find_members_and_buckets() -> None:
    """By id and by name, text or encoded."""
    topology = with_bucket(one_node(), BucketProperties("logs", ObjectType.LWW))

    assert topology.member(B) is topology.maybe_member(B) is topology.members[0]
    assert topology.maybe_member(A) is None
    assert topology.bucket("logs") is topology.bucket_by_bytes(b"logs") is topology.buckets[1]
    with pytest.raises(InvalidArgument):
        topology.member(A)


@pytest.mark.parametrize("name", ["carts", "ca\udc80rts", "\u2603"])
def test_unknown_bucket_names_the_command_that_creates_it(name: str) -> None:
    """Also for names that cannot be encoded: it is the same refusal."""
    with pytest.raises(NoSuchBucket, match="kvctl bucket create "):
        one_node().bucket(name)


def test_bucket_refusal_shows_the_name() -> None:
    """So that the command can be copied from the message."""
    with pytest.raises(NoSuchBucket, match=r"kvctl bucket create carts$"):
        one_node().bucket_by_bytes(b"carts")


def test_adding_a_bucket_is_one_epoch_and_idempotent() -> None:
    """The same bucket again changes nothing; another one under its name is refused."""
    before = one_node()
    properties = BucketProperties("aaa", w=2)

    after = with_bucket(before, properties)

    assert after.epoch == 2 and [bucket.name for bucket in after.buckets] == ["aaa", "default"]
    assert after.placement_versions == before.placement_versions
    assert with_bucket(after, BucketProperties("aaa", w=2)) is after
    with pytest.raises(InvalidArgument):
        with_bucket(after, BucketProperties("aaa", w=3))


def test_a_member_may_move_to_another_address() -> None:
    """The same node elsewhere: one epoch more, the same placement. Not onto an address that is taken."""
    before = grown()

    after = with_address(before, A, "elsewhere:2")

    assert (after.epoch, after.member(A).address) == (before.epoch + 1, "elsewhere:2")
    assert (after.owners, after.placement_versions) == (before.owners, before.placement_versions)
    with pytest.raises(InvalidArgument):
        with_address(before, A, before.member(B).address)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cluster_id": b"short"},
        {"cluster_name": ""},
        {"cluster_name": "x" * 65},
        {"cluster_name": "new\nline"},
        {"epoch": 0},
        {"epoch": 1 << 63},
        {"partition_bits": 17},
        {"partition_bits": 3},
        {"n": 0},
        {"n": 101},
        {"founder": b""},
        {"members": ()},
        {"members": (member(C), member(B))},
        {"members": (member(B), member(B))},
        {"members": (member(B), Member(C, "bbbbbbbb:1"))},
        {"members": (member(A),)},
        {"members": (member(B, state=MemberState.JOINING),)},
        {"owners": ((B,),) * 3},
        {"owners": ((B,),) * 3 + ((),)},
        {"owners": ((B,),) * 3 + ((A,),)},
        {"placement_versions": (1,) * 5},
        {"placement_versions": (1, 1, 1, 0)},
        {"buckets": ()},
        {"buckets": (DEFAULT_BUCKET, BucketProperties("aaa"))},
        {"removed": (C, A)},
        {"removed": (B,)},
        {"removed": (b"short",)},
        {"move": Move(B, MovePhase.COPYING, 1, ((B,),) * 4)},
        {"move": Move(A, MovePhase.COPYING, 1, ((B,),) * 4)},
        {"move": Move(B, MovePhase.SETTLING, 1, ((B,),) * 4)},
        {"move": Move(A, MovePhase.SETTLING, 2, ((B,),) * 4)},
    ],
)
def test_documents_that_break_an_invariant_cannot_exist(wrong: dict[str, Any]) -> None:
    """Whatever a peer or a disk sends, a `Topology` in hand is a sound one."""
    with pytest.raises(InvalidArgument):
        replace(one_node(), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": b"short"},
        {"address": ""},
        {"address": "x" * 262},
        {"address": "a b\t:1"},
        {"zone": "z" * 65},
        {"weight": 0},
        {"weight": 1001},
        {"weight": True},
        {"state": 1},
    ],
)
def test_members_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    """The fields of a member are printable and bounded."""
    with pytest.raises(InvalidArgument):
        replace(member(A), **wrong)
