"""How owners change: each document of a move, and that neighbours can be in use at once without a read missing a write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations, pairwise
from typing import Any

import pytest

from kvstore.errors import InvalidArgument, JoinRefused
from kvstore.ids import ClusterId, NodeId, PartitionId
from kvstore.ring import (
    BucketProperties,
    Member,
    MemberState,
    MovePhase,
    Topology,
    begin_move,
    cancel_move,
    finish_move,
    flip_move,
    found,
    with_bucket,
)
from kvstore.ring.move import places_for, sources_of

CLUSTER = ClusterId(b"c" * 16)
A, B, C, D, J = (NodeId(name * 8) for name in (b"a", b"b", b"c", b"d", b"j"))
P0 = PartitionId(0)


def member(node_id: NodeId, **fields: Any) -> Member:
    return Member(node_id, f"{node_id.decode()}:1", **fields)


def cluster(*owners: tuple[NodeId, ...]) -> Topology:
    """A settled topology with these owners, n=3."""
    ids = sorted(set(chain(*owners)))
    bits = len(owners).bit_length() - 1
    return Topology(CLUSTER, "t", 5, bits, 3, ids[0], tuple(map(member, ids)), owners, (7,) * len(owners))


def copying(before: Topology, *owners: tuple[NodeId, ...], replaces: NodeId | None = None) -> Topology:
    return begin_move(before, member(J), owners, replaces=replaces)


def test_while_it_copies_a_joiner_is_a_guest_and_the_owners_are_as_before() -> None:
    """Only partitions with a guest have a new placement version."""
    topology = copying(cluster((A, B, C), (B, C, A)), (J, B, C), (B, C, A))

    assert topology.epoch == 6 and topology.member(J).state is MemberState.JOINING
    assert topology.owners == ((A, B, C), (B, C, A))
    assert (topology.guests_of(P0), topology.guests_of(PartitionId(1))) == ((J,), ())
    assert topology.holders_of(P0) == (A, B, C, J)
    assert topology.placement_versions == (8, 7)
    assert topology.move is not None and (topology.move.began, topology.move.phase) == (6, MovePhase.COPYING)


def test_after_the_flip_the_one_that_leaves_is_the_guest() -> None:
    """It still takes writes; the joiner is a member like the others."""
    topology = flip_move(copying(cluster((A, B, C), (B, C, A)), (J, B, C), (B, C, A)))

    assert topology.member(J).state is MemberState.NORMAL
    assert topology.owners_of(P0) == (J, B, C) and topology.guests_of(P0) == (A,)
    assert topology.placement_versions == (9, 7)


def test_the_end_dismisses_the_guests() -> None:
    """And only partitions that had one have a new placement version."""
    after = finish_move(flip_move(copying(cluster((A, B, C), (B, C, A)), (J, B, C), (B, C, A))))

    assert after.move is None and after.guests_of(P0) == ()
    assert after.placement_versions == (10, 7) and after.epoch == 8


def test_a_cancelled_joiner_is_gone_and_may_try_again() -> None:
    """It served nobody, so it is not among the removed; a version is never used for two placements."""
    cancelled = cancel_move(copying(cluster((A, B, C)), (J, B, C)))

    assert cancelled.owners == ((A, B, C),) and cancelled.maybe_member(J) is None and cancelled.removed == ()
    assert cancelled.placement_versions == (9,)
    assert copying(cancelled, (J, B, C)).move is not None


def test_a_replaced_member_is_no_guest_and_is_removed_by_the_flip() -> None:
    """It is dead: nothing is written to it, and it may not come back."""
    before = copying(cluster((D, B, C)), (J, B, C), replaces=D)
    after = flip_move(before)

    assert before.guests_of(P0) == (J,) and before.maybe_member(D) is not None
    assert after.guests_of(P0) == () and after.removed == (D,) and after.maybe_member(D) is None
    assert finish_move(after).members == tuple(map(member, (B, C, J)))


def test_the_flip_may_also_change_the_order_of_owners_elsewhere() -> None:
    """That is another placement too."""
    topology = flip_move(copying(cluster((A, B, C), (B, C, A)), (J, B, C), (A, B, C)))

    assert topology.owners_of(PartitionId(1)) == (A, B, C) and topology.guests_of(PartitionId(1)) == ()
    assert topology.placement_versions == (9, 8)


@pytest.mark.parametrize(
    ("before", "after", "replaces", "sources"),
    [
        ((A, B, C), (J, B, C), None, ((A,), (B, C))),
        ((A, B, C), (A, B, C), None, ((), ())),
        ((A,), (A, J), None, ((A,), (A,))),
        ((A, B), (A, B, J), None, ((A, B), (A, B))),
        ((D, B, C), (J, B, C), D, ((B, C), (B, C))),
    ],
)
def test_a_joiner_copies_from_the_giver_or_from_everybody_who_is_left(
    before: tuple[NodeId, ...], after: tuple[NodeId, ...], replaces: NodeId | None,
    sources: tuple[tuple[NodeId, ...], tuple[NodeId, ...]],
) -> None:  # fmt: skip
    """`correctness` 15: one owner's place from that owner, else from every other one."""
    members = tuple(map(member, (A, B, C, D)))
    topology = begin_move(
        Topology(CLUSTER, "t", 1, 0, 3, A, members, (before,), (1,)), member(J), (after,), replaces=replaces
    )

    assert sources_of(topology, P0) == sources


def test_only_the_joiner_receives() -> None:
    """A plan may shift others among themselves; that would need copies of their own."""
    current, planned = ((A, B, C), (A, B, C), (A, B, C)), ((J, B, C), (D, B, C), (J, D, C))

    assert places_for(J, current, planned) == ((J, B, C), (A, B, C), (A, B, J))


def test_buckets_can_be_added_during_a_move() -> None:
    """The two have nothing to do with each other."""
    topology = finish_move(flip_move(with_bucket(copying(cluster((A, B, C)), (J, B, C)), BucketProperties("b"))))

    assert topology.bucket("b").name == "b" and topology.epoch == 9


def test_each_step_needs_the_one_before() -> None:
    """A second joiner waits; nothing is flipped, finished or cancelled twice."""
    settled, moving = cluster((A, B, C)), copying(cluster((A, B, C)), (J, B, C))
    for step, topology in ((flip_move, settled), (finish_move, settled), (cancel_move, settled), (finish_move, moving),
                           (cancel_move, flip_move(moving)), (flip_move, flip_move(moving))):  # fmt: skip
        with pytest.raises(InvalidArgument):
            step(topology)
    with pytest.raises(InvalidArgument):
        begin_move(moving, member(D), ((D, B, C),))


def test_members_removed_nodes_and_taken_addresses_are_not_admitted() -> None:
    """Each of them would make two nodes one, or one node two."""
    topology = replace(found(CLUSTER, "t", member(B), 2, 3), removed=(A,))

    with pytest.raises(JoinRefused, match="member already"):
        begin_move(topology, Member(B, "elsewhere:1"), [(B,)] * 4)
    with pytest.raises(JoinRefused, match="removed"):
        begin_move(topology, member(A), [(B, A)] * 4)
    with pytest.raises(JoinRefused, match="address"):
        begin_move(topology, Member(C, topology.members[0].address), [(B, C)] * 4)


@pytest.mark.parametrize("owners", [[(B, A)] * 3, [(B, C)] * 4, [()] * 4, [(B, B)] * 4])
def test_impossible_owners_are_refused_at_the_beginning(owners: list[tuple[NodeId, ...]]) -> None:
    """Too few partitions, an unknown node, nobody, somebody twice."""
    with pytest.raises(InvalidArgument):
        begin_move(found(CLUSTER, "t", member(B), 2, 3), member(A), owners)


# --- quorums --------------------------------------------------------------------------------------------------------------


def subsets(nodes: tuple[NodeId, ...], count: int) -> Iterator[frozenset[NodeId]]:
    return (frozenset(each) for each in combinations(nodes, count))


def written(topology: Topology) -> list[frozenset[NodeId]]:
    """Every smallest set of nodes whose acknowledgements make a strict write in this document."""
    if not topology.counts_guests(P0):
        return list(subsets(topology.owners_of(P0), topology.quorum(P0)))
    return list(subsets(topology.holders_of(P0), topology.quorum(P0) + len(topology.guests_of(P0))))


def read(topology: Topology) -> list[frozenset[NodeId]]:
    """Every smallest set of nodes whose answers make a strict read in this document."""
    return list(subsets(topology.owners_of(P0), topology.quorum(P0)))


MOVES = [
    ((A, B, C), (J, B, C), None), ((A, B, C), (A, J, C), None), ((A,), (A, J), None), ((A, B), (A, B, J), None),
    ((D, B, C), (J, B, C), D),
]  # fmt: skip


@pytest.mark.parametrize(("owners", "to", "replaces"), MOVES)
def test_documents_that_are_in_use_together_read_each_others_writes(
    owners: tuple[NodeId, ...], to: tuple[NodeId, ...], replaces: NodeId | None
) -> None:
    """A document and the next one: whichever was written by, every strict read by either meets a holder of the write.

    A replaced member answers nobody; a write before the copy counts as held by the joiner once that has copied.
    """
    before = cluster(owners)
    first = copying(before, to, replaces=replaces)
    second = flip_move(first)
    documents = [before, first, second, finish_move(second)]

    for earlier, later in pairwise(documents):
        for writer, reader in ((earlier, later), (later, earlier), (earlier, earlier)):
            for acknowledged in written(writer):
                for answering in read(reader):
                    if replaces not in acknowledged | answering:
                        assert acknowledged & answering, f"{writer.epoch} wrote, {reader.epoch} read"


@pytest.mark.parametrize(("owners", "to", "replaces"), MOVES)
def test_what_was_written_before_a_move_is_read_after_it(
    owners: tuple[NodeId, ...], to: tuple[NodeId, ...], replaces: NodeId | None
) -> None:
    """Because the joiner holds what its sources held; without its copy some read would miss."""
    before = cluster(owners)
    first = copying(before, to, replaces=replaces)
    after = finish_move(flip_move(first))
    wanted, instead = sources_of(first, P0)

    for sources in (wanted, instead):
        for acknowledged in written(before):
            holders = acknowledged | ({J} if acknowledged & set(sources) else set())
            for answering in read(after):
                assert holders & answering


def test_without_the_copy_a_read_after_the_move_would_miss() -> None:
    """So the model above can fail."""
    first = copying(cluster((A, B, C)), (J, B, C))
    after = finish_move(flip_move(first))

    assert any(
        not acknowledged & answering for acknowledged in written(cluster((A, B, C))) for answering in read(after)
    )
