"""Placement as a pure function: given the members and who owns what now, who should own what, and what has to move.

    members A B C (weight 1), D joins, Q = 4, N = 2:      before  AB BC CA AB        after  AB DC CA DB     2 moves

Guarantees, in this order
  1. Each partition has min(n, members) distinct nodes.
  2. Each node holds floor or ceil of its share: replicas in proportion to weight, at most one of each partition; what a
     capped node cannot take is shared by the others.
  3. As many distinct zones in each partition as 1 and 2 allow, summed over the partitions.
  4. The fewest replicas move that 1 to 3 allow.
  5. Each node is first (the usual coordinator) in floor or ceil of its replicas / N, with the fewest changes of order.
Deterministic: the result depends on neither hash seed nor order of `members`. Does not look at liveness, data sizes or
the network. How it works and what it costs: docs/placement.md and claim.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.claim import Claim, mixed, water_fill
from kvstore.errors import InvalidArgument
from kvstore.ids import NodeId, PartitionId, short_id
from kvstore.ring.token import check_partition_bits
from kvstore.ring.topology import N_MAX, Member, Owners

__all__ = ["Move", "Plan", "plan"]

Step = tuple[NodeId, int, NodeId]
"""(leader, partition, its next leader)"""
Led = dict[NodeId, dict[int, None]]
"""The partitions each node is first in, as an ordered set."""


@dataclass(frozen=True, slots=True)
class Move:
    """One replica to build on `receiver`. It takes the place of `giver`'s, which may have left the cluster already;
    None if the partition had fewer replicas before."""

    partition: PartitionId
    giver: NodeId | None
    receiver: NodeId


@dataclass(frozen=True, slots=True)
class Plan:
    """The owners to come, what has to move to get there (by partition), and what an operator should know."""

    owners: Owners
    moves: tuple[Move, ...]
    warnings: tuple[str, ...]


def plan(*, members: Sequence[Member], current_owners: Owners | None, partition_bits: int, n: int) -> Plan:
    """Place every partition on `members`; see the module docstring. `current_owners` None means nothing is owned yet.

    Owners that are not members are replaced. Raises `InvalidArgument` for no or duplicate members, or an impossible n.
    """
    ordered = sorted(members, key=lambda member: member.node_id)
    current = _checked(ordered, current_owners, partition_bits, n)
    replicas = min(n, len(ordered))
    index_of = {member.node_id: index for index, member in enumerate(ordered)}
    zone_names = sorted({member.zone for member in ordered})
    holders = Claim(
        zones=[zone_names.index(member.zone) for member in ordered],
        shares=water_fill([member.weight for member in ordered], len(current) * replicas, len(current)),
        current=[frozenset(index_of[node] for node in nodes if node in index_of) for nodes in current],
        replicas=replicas,
    ).run()
    slots, moves = _fill_slots(ordered, current, holders)
    _spread_firsts(ordered, slots, replicas)
    owners = tuple(tuple(nodes) for nodes in slots)
    return Plan(owners=owners, moves=tuple(moves), warnings=_warnings(ordered, owners, n))


def _checked(members: list[Member], owners: Owners | None, partition_bits: int, n: int) -> Owners:
    check_partition_bits(partition_bits)
    if not members:
        raise InvalidArgument("a plan needs at least one member")
    if len({member.node_id for member in members}) != len(members):
        raise InvalidArgument("a member is listed twice")
    if not 1 <= n <= N_MAX:
        raise InvalidArgument(f"n must be 1 to {N_MAX}", n=n)
    if owners is None:
        return ((),) * (1 << partition_bits)
    if len(owners) != 1 << partition_bits:
        raise InvalidArgument("current_owners must name every partition", partitions=len(owners))
    return owners


def _fill_slots(
    members: list[Member], current: Owners, holders: list[set[int]]
) -> tuple[list[list[NodeId]], list[Move]]:
    """Turn sets into lists: who stays keeps its place, and a receiver takes the place of the node it replaces."""
    slots, moves = [], []
    for number, (before, nodes) in enumerate(zip(current, holders, strict=True)):
        partition = PartitionId(number)
        after = {members[index].node_id: None for index in sorted(nodes, key=lambda node: mixed(number, node))}
        arriving = [node for node in after if node not in before]
        places: list[NodeId] = []
        for node in dict.fromkeys(before):
            if node in after:
                places.append(node)
            elif arriving:
                places.append(arriving.pop(0))
                moves.append(Move(partition, giver=node, receiver=places[-1]))
        moves.extend(Move(partition, giver=None, receiver=node) for node in arriving)
        slots.append(places + arriving)
    return slots, moves


def _spread_firsts(members: list[Member], slots: list[list[NodeId]], replicas: int) -> None:
    """Reorder in place so that each node is first in floor or ceil of (its replicas / replicas) partitions.

    That is always possible (the fraction 1/replicas of each place is a flow, so a whole-numbered one exists), and
    shortest chains of swaps find it: the overloaded node's partition is led by another of its owners, and so on.
    """
    counts = {member.node_id: 0 for member in members}
    led: Led = {member.node_id: {} for member in members}
    for partition, places in enumerate(slots):
        led[places[0]][partition] = None
        for node in places:
            counts[node] += 1
    low = {node: count // replicas for node, count in counts.items()}
    high = {node: -(-count // replicas) for node, count in counts.items()}
    for node in counts:
        while len(led[node]) > high[node]:
            _swap_along(_chain([node], lambda end: len(led[end]) < high[end], slots, led), led, slots)
    for node in counts:
        while len(led[node]) < low[node]:
            spare = [other for other in counts if len(led[other]) > low[other]]
            _swap_along(_chain(spare, node.__eq__, slots, led), led, slots)


def _chain(starts: list[NodeId], is_end: Callable[[NodeId], bool], slots: list[list[NodeId]], led: Led) -> list[Step]:
    """Return a shortest chain of steps from one of `starts` to an end, the last step first."""
    step_to: dict[NodeId, tuple[NodeId, int] | None] = dict.fromkeys(starts)
    queue = deque(starts)
    while queue:
        leader = queue.popleft()
        for partition in led[leader]:
            for node in slots[partition]:
                if node in step_to:
                    continue
                step_to[node] = (leader, partition)
                if is_end(node):
                    return _steps_back(node, step_to)
                queue.append(node)
    raise AssertionError("leaders can always be spread evenly")


def _steps_back(node: NodeId, step_to: dict[NodeId, tuple[NodeId, int] | None]) -> list[Step]:
    steps: list[Step] = []
    while (step := step_to[node]) is not None:
        steps.append((*step, node))
        node = step[0]
    return steps


def _swap_along(steps: list[Step], led: Led, slots: list[list[NodeId]]) -> None:
    for leader, partition, successor in steps:
        places = slots[partition]
        other = places.index(successor)
        places[0], places[other] = successor, leader
        del led[leader][partition]
        led[successor][partition] = None


def _warnings(members: list[Member], owners: Owners, n: int) -> tuple[str, ...]:
    """Return sentences for an operator: each is a promise of placement that the members do not allow to keep."""
    warnings = []
    if len(members) < n:
        warnings.append(f"under-replicated: {len(members)} of {n} replicas; add {n - len(members)} more nodes")
    zone_of = {member.node_id: member.zone for member in members}
    zones_wanted = min(n, len(members), len(set(zone_of.values())))
    crowded = sum(len({zone_of[node] for node in nodes}) < zones_wanted for nodes in owners)
    if crowded:
        warnings.append(f"{crowded} of {len(owners)} partitions are in fewer than {zones_wanted} zones; "
                        "a balanced placement does not allow more: even out the weight of the zones")  # fmt: skip
    warnings.extend(_load_warnings(members, owners))
    return tuple(warnings)


def _load_warnings(members: list[Member], owners: Owners) -> list[str]:
    counts = {member.node_id: 0 for member in members}
    for nodes in owners:
        for node in nodes:
            counts[node] += 1
    replicas_count, weight_total = sum(counts.values()), sum(member.weight for member in members)
    warnings = []
    idle = [short_id(node) for node, count in counts.items() if count == 0]
    if idle:
        warnings.append(f"no partition for {', '.join(idle)}: {len(owners)} partitions are too few")
    capped = [short_id(member.node_id) for member in members
              if replicas_count * member.weight > len(owners) * weight_total]  # fmt: skip
    if capped:
        warnings.append(f"{', '.join(capped)} cannot use all of its weight: it holds every partition already")
    return warnings
