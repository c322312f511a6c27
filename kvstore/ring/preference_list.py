"""Who to ask for a partition, in order: its primaries, then everybody else as fallbacks.

    owners of partition 7: (B, C, A)      walking on: 8 -> (C, D, A)   9 -> (E, B, C)
    preference list of 7:  B C A primary, then D E fallback

Fallbacks come in ring order from the next partition, so that the partitions of one dead node fall back to different
nodes, and every coordinator that knows the same topology picks the same ones.

Invariants
  1. Every member is in the list exactly once; the primaries come first, in their order in the topology.
  2. The list depends on the topology and the partition only.
Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.3 (preference list); the annotation is riak's `preflist_ann`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from kvstore.ids import NodeId, PartitionId
from kvstore.ring.topology import Topology

__all__ = ["PreferenceEntry", "PreferenceKind", "preference_list"]


class PreferenceKind(IntEnum):
    """Why a node is in the list. Only primaries count to `pr` and `pw`."""

    PRIMARY = 1
    FALLBACK = 2


class PreferenceEntry(NamedTuple):
    """One node to ask."""

    node_id: NodeId
    kind: PreferenceKind


def preference_list(topology: Topology, partition: PartitionId) -> tuple[PreferenceEntry, ...]:
    """Return all members in the order in which to ask them for the partition.

    Usually takes about as many steps as there are members; worth keeping per (topology, partition) on a hot path.
    """
    primaries = topology.owners_of(partition)
    entries = [PreferenceEntry(node_id, PreferenceKind.PRIMARY) for node_id in primaries]
    entries += [PreferenceEntry(node_id, PreferenceKind.FALLBACK) for node_id in _fallbacks(topology, partition)]
    return tuple(entries)


def _fallbacks(topology: Topology, partition: PartitionId) -> list[NodeId]:
    order = dict.fromkeys(topology.owners_of(partition))
    primaries_count, members_count = len(order), len(topology.members)
    for step in range(1, topology.partitions_count):
        if len(order) == members_count:
            break
        order.update(dict.fromkeys(topology.owners[(partition + step) % topology.partitions_count]))
    # Members that own nothing (more nodes than partitions, or just joining) come last, by node id.
    order.update(dict.fromkeys(member.node_id for member in topology.members))
    return list(order)[primaries_count:]
