"""Preference lists: primaries in order, then everybody else as the ring continues."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import plan
from kvstore.ids import ClusterId, NodeId, PartitionId
from kvstore.ring import Member, PreferenceEntry, PreferenceKind, Topology, preference_list

NODES = [NodeId(bytes([letter]) * 8) for letter in b"abcdefgh"]


def topology_of(letters: list[str], nodes_count: int) -> Topology:
    """A ring with the owners written as letters, one word for each partition."""
    members = tuple(Member(node, f"{node.decode()}:1") for node in NODES[:nodes_count])
    owners = tuple(tuple(NODES[ord(letter) - ord("a")] for letter in word) for word in letters)
    bits = len(letters).bit_length() - 1
    return Topology(ClusterId(bytes(16)), "t", 1, bits, 5, NODES[0], members, owners, (1,) * len(letters))


def letters_of(entries: tuple[PreferenceEntry, ...], kind: PreferenceKind) -> str:
    return "".join(entry.node_id[:1].decode() for entry in entries if entry.kind is kind)


def test_fallbacks_follow_the_ring_from_the_next_partition() -> None:
    """The example drawn in the module: 7 falls back to who comes first at 8, then at 9, round the end."""
    topology = topology_of(["bca", "cda", "ebc", "abc"], nodes_count=5)

    first, last = preference_list(topology, PartitionId(0)), preference_list(topology, PartitionId(3))

    assert (letters_of(first, PreferenceKind.PRIMARY), letters_of(first, PreferenceKind.FALLBACK)) == ("bca", "de")
    assert (letters_of(last, PreferenceKind.PRIMARY), letters_of(last, PreferenceKind.FALLBACK)) == ("abc", "de")


def test_members_that_own_nothing_are_asked_last() -> None:
    """They can still keep a hint; by node id, so that everybody agrees."""
    entries = preference_list(topology_of(["b", "d"], nodes_count=5), PartitionId(0))

    assert letters_of(entries, PreferenceKind.FALLBACK) == "dace"


def test_one_node_has_no_fallback() -> None:
    """There is nobody else to ask."""
    assert preference_list(topology_of(["a"], 1), PartitionId(0)) == (
        PreferenceEntry(NODES[0], PreferenceKind.PRIMARY),
    )


@given(nodes_count=st.integers(1, 8), n=st.integers(1, 4), bits=st.integers(0, 5))
def test_every_member_is_listed_once_and_primaries_lead(nodes_count: int, n: int, bits: int) -> None:
    """For every partition of planned rings."""
    members = [Member(node, f"{node.decode()}:1") for node in NODES[:nodes_count]]
    owners = plan(members=members, current_owners=None, partition_bits=bits, n=n).owners
    topology = Topology(ClusterId(bytes(16)), "t", 1, bits, n, NODES[0], tuple(members), owners, (1,) * len(owners))

    for partition in map(PartitionId, range(1 << bits)):
        entries = preference_list(topology, partition)
        kinds = [entry.kind for entry in entries]

        assert sorted(entry.node_id for entry in entries) == NODES[:nodes_count]
        assert tuple(entry.node_id for entry in entries)[: len(owners[partition])] == owners[partition]
        assert kinds == sorted(kinds)


def test_partitions_of_a_dead_node_fall_back_to_many_nodes() -> None:
    """One neighbour would otherwise take all of its load."""
    members = [Member(node, f"{node.decode()}:1") for node in NODES]
    owners = plan(members=members, current_owners=None, partition_bits=8, n=3).owners
    topology = Topology(ClusterId(bytes(16)), "t", 1, 8, 3, NODES[0], tuple(members), owners, (1,) * 256)

    takers = {
        preference_list(topology, PartitionId(partition))[3].node_id
        for partition, nodes in enumerate(owners)
        if NODES[0] in nodes
    }

    assert takers == set(NODES[1:])
