"""How owners change: a joiner takes its share, or the place of a dead member, while clients are served.

                   owners (read by quorum)     guests (written as well)       the joiner
    before         A B C                       -                              -
    COPYING        A B C                       J   pending                    JOINING: copies what A holds; serves nobody
    SETTLING       J B C                       A   leaving                    NORMAL: serves; copies what A took meanwhile
    after          J B C                       -                              A deletes its copy

Where somebody leaves, writes need one acknowledgement more for each guest, so what one document acknowledges has a quorum among
the owners of the next one and of the one before. Each document is used only after *every* living member has durably adopted the
one before it, and a replica refuses requests of another placement version: so nobody reads by a document while somebody writes
by one two steps away (`correctness` 14). Without a giver (the cluster had fewer than N members) the joiner copies what every
owner holds; with a dead one (`replaces`), what every other owner holds (15).

COPYING can be cancelled: every write has a quorum among the owners without the joiner. SETTLING goes on until it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kvstore.errors import InvalidArgument, JoinRefused
from kvstore.ids import NodeId, PartitionId
from kvstore.ring.topology import Member, MemberState, Move, MovePhase, Owners, Topology

__all__ = ["begin_move", "cancel_move", "finish_move", "flip_move", "places_for", "sources_of"]


def places_for(joiner: NodeId, current: Owners, planned: Owners) -> Owners:
    """Return `planned` as far as only the joiner receives anything: a plan may also want to shift others among themselves."""
    places = []
    for now, wanted in zip(current, planned, strict=True):
        if set(wanted) <= {*now, joiner}:
            places.append(wanted)
        else:
            places.append((*now[:-1], joiner) if joiner in wanted else now)
    return tuple(places)


def begin_move(
    topology: Topology, joiner: Member, owners: Sequence[Sequence[NodeId]], *, replaces: NodeId | None = None
) -> Topology:
    """Admit `joiner` as JOINING, on its way to `owners`. `replaces`: the member whose place it takes.

    InvalidArgument: another move is under way. JoinRefused: the node is, was, or shares an address with, a member.
    """
    if topology.move is not None:
        raise InvalidArgument("another move is under way", joiner=topology.move.joiner)
    if topology.maybe_member(joiner.node_id) is not None:
        raise JoinRefused("the node is a member already", node_id=joiner.node_id)
    if joiner.node_id in topology.removed:
        raise JoinRefused("the node was removed; it may return with an empty data directory", node_id=joiner.node_id)
    if any(member.address == joiner.address for member in topology.members if member.node_id != replaces):
        raise JoinRefused(f"another member has the address {joiner.address}")
    if replaces is not None:
        topology.member(replaces)
    members = (*topology.members, replace(joiner, state=MemberState.JOINING))
    target = tuple(tuple(each) for each in owners)
    if len(target) != topology.partitions_count:
        raise InvalidArgument("owners must name every partition", partitions=len(target))
    move = Move(joiner.node_id, MovePhase.COPYING, topology.epoch + 1, target, replaces)
    return _next(topology, members=_sorted(members), move=move)


def flip_move(topology: Topology) -> Topology:
    """Make the owners to come the owners; those before, if alive, are guests. `InvalidArgument` unless it is COPYING."""
    move = _move_of(topology, MovePhase.COPYING)
    members = [
        replace(member, state=MemberState.NORMAL) if member.node_id == move.joiner else member
        for member in topology.members
        if member.node_id != move.replaces
    ]
    removed = topology.removed if move.replaces is None else tuple(sorted((*topology.removed, move.replaces)))
    settling = replace(move, phase=MovePhase.SETTLING, owners=topology.owners)
    return _next(topology, members=_sorted(members), removed=removed, owners=move.owners, move=settling)


def finish_move(topology: Topology) -> Topology:
    """Dismiss the guests. `InvalidArgument` unless it is SETTLING."""
    _move_of(topology, MovePhase.SETTLING)
    return _next(topology, move=None)


def cancel_move(topology: Topology) -> Topology:
    """Drop the joiner. `InvalidArgument` unless it is COPYING.

    It served no client, so nothing is lost with it and it is not among `removed`: it may try again, from the beginning.
    """
    joiner = _move_of(topology, MovePhase.COPYING).joiner
    members = tuple(member for member in topology.members if member.node_id != joiner)
    return _next(topology, members=members, move=None)


def sources_of(topology: Topology, partition: PartitionId) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...]]:
    """Return from whom the joiner copies a partition that it gets: those that suffice, and those that do if one of these is gone.

    Both empty: the joiner gets nothing of it. While SETTLING only what leaves is left to copy.
    """
    move = topology.move
    assert move is not None, "somebody is joining"
    if move.phase is MovePhase.SETTLING:
        return topology.guests_of(partition), ()
    before, after = topology.owners[partition], move.owners[partition]
    if move.joiner not in after:
        return (), ()
    others = tuple(node for node in before if node != move.replaces)
    giver = tuple(node for node in others if node not in after)
    return (giver, tuple(node for node in others if node not in giver)) if giver else (others, others)


def _move_of(topology: Topology, phase: MovePhase) -> Move:
    move = topology.move
    if move is None or move.phase is not phase:
        raise InvalidArgument(f"no move is {phase.name}", topology_epoch=topology.epoch)
    return move


def _next(topology: Topology, **changes: Any) -> Topology:
    """Return the next epoch, with the placement versions that follow from it (invariant 4 of the topology)."""
    after = replace(topology, epoch=topology.epoch + 1, **changes)
    versions = [
        version
        + (
            topology.holders_of(PartitionId(p)) != after.holders_of(PartitionId(p))
            or topology.owners[p] != after.owners[p]
        )
        for p, version in enumerate(topology.placement_versions)
    ]
    return replace(after, placement_versions=tuple(versions))


def _sorted(members: Sequence[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.node_id))
