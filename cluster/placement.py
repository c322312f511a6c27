"""Placement: what the current topology means for this node, precomputed for each partition.

The request path asks "who owns this key, and can I reach them" for every operation, so the answer is one tuple index away and is
rebuilt as a whole whenever a topology is adopted. Links to the other members live here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.ids import NodeId, PartitionId
from kvstore.ring.topology import MovePhase, Topology
from kvstore.transport.link import Link

__all__ = ["Peers", "Placement", "Slot"]


class Slot(NamedTuple):
    """One partition as this node sees it. `peers` are the links to the other owners in preference order; `readers` are orders
    in which a read may ask, None for this node: see Coordinator.next_frame. `is_holder`: an owner, or a guest (ring/move.py),
    which takes writes. `guests` are the links to the guests where somebody leaves, `guests_count` how many there are: each
    makes a write need one acknowledgement more. Where nobody leaves they are `onlookers`, whose acknowledgements count for
    nothing."""

    partition: PartitionId
    version: int
    is_owner: bool
    peers: tuple[Link, ...]
    readers: tuple[tuple[Link | None, ...], ...]
    n: int
    n_effective: int
    is_holder: bool = True
    guests: tuple[Link, ...] = ()
    guests_count: int = 0
    onlookers: tuple[Link, ...] = ()

    @property
    def writers(self) -> tuple[Link, ...]:
        """The links to everybody else whose acknowledgement counts."""
        return self.peers + self.guests if self.guests else self.peers

    def reachable(self) -> int:
        """Return how many owners can be asked now, this node included if it is one."""
        count = 1 if self.is_owner else 0
        for link in self.peers:
            if link.is_up:
                count += 1
        return count

    def reachable_guests(self) -> int:
        """Return how many guests can be written to now."""
        return sum(1 for link in self.guests if link.is_up)


class Peers:
    """The links to the other members, one for each node id, kept in step with the topology."""

    def __init__(self, node_id: NodeId, open_link: Callable[[str], Link], retire: Callable[[Link], None]) -> None:
        self._node_id, self._open_link, self._retire = node_id, open_link, retire
        self._links: dict[NodeId, Link] = {}
        self._learned: dict[NodeId, str] = {}

    def learn(self, node_id: NodeId, address: str) -> bool:
        """Remember where a member says it listens now; True if its link goes elsewhere (`adopt` again then)."""
        link = self._links.get(node_id)
        if link is None or not address or link.address == address:
            return False
        self._learned[node_id] = address
        return True

    def link(self, node_id: NodeId) -> Link | None:
        """Return the link to a member, or None if it is not one (or is this node)."""
        return self._links.get(node_id)

    def all(self) -> list[tuple[NodeId, Link]]:
        """Return every link in node id order."""
        return sorted(self._links.items())

    def adopt(self, topology: Topology) -> None:
        """Open links to new members and addresses, retire those that are gone."""
        wanted = {m.node_id: m.address for m in topology.members if m.node_id != self._node_id}
        self._learned = {i: a for i, a in self._learned.items() if i in wanted and wanted[i] != a}
        wanted.update(self._learned)
        for node_id, link in self.all():
            if wanted.get(node_id) != link.address:
                del self._links[node_id]
                self._retire(link)
        for node_id in sorted(wanted):
            if node_id not in self._links:
                self._links[node_id] = self._open_link(wanted[node_id])

    def forget_all(self) -> list[Link]:
        """Return every link for closing and hold none any more."""
        links = [link for _, link in self.all()]
        self._links.clear()
        return links


class Placement:
    """The adopted topology and its slots."""

    def __init__(self, node_id: NodeId, peers: Peers, *, chaos: Chaos = CALM) -> None:
        self._node_id, self._peers, self._chaos = node_id, peers, chaos
        self.topology: Topology | None = None
        self._slots: tuple[Slot, ...] = ()
        self._shift = 64

    @property
    def epoch(self) -> int:
        """The adopted topology's epoch; 0 before there is one."""
        return self.topology.epoch if self.topology is not None else 0

    @property
    def is_settled(self) -> bool:
        """Whether there is a topology and no move is under way."""
        return self.topology is not None and self.topology.move is None

    def slot(self, storage_key: bytes) -> Slot:
        """Return the slot of a key; needs a topology."""
        return self._slots[int.from_bytes(storage_key[:8], "big") >> self._shift]

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot in partition order."""
        return self._slots

    def heal_sources(self, slot: Slot) -> tuple[Link, ...]:
        """Return the links to all that have to be read before an unreadable record of ours is replaced: the other owners.

        While partitions move: without a dead one that is being replaced, whose data is given up; and with the one that leaves,
        if it is there, because a write that fell short may be nowhere else, and a joiner cannot settle without it.
        """
        move = self.topology.move if self.topology is not None else None
        if move is None:
            return slot.peers
        replaced = None if move.replaces is None else self._peers.link(move.replaces)
        leaving = [link for link in slot.guests if link.is_up] if move.phase is MovePhase.SETTLING else []
        return (*[link for link in slot.peers if link is not replaced or link.is_up], *leaving)

    def adopt(self, topology: Topology) -> None:
        """Take a newer topology into use."""
        self._peers.adopt(topology)
        self.topology, self._shift = topology, 64 - topology.partition_bits
        self._slots = tuple(self._slot(topology, PartitionId(p)) for p in range(topology.partitions_count))

    def learn_address(self, node_id: NodeId, address: str) -> None:
        """Follow a member that restarted on another address before the topology says so."""
        if self.topology is not None and self._peers.learn(node_id, address):
            self._chaos.hit(Probe.ADDRESS_LEARNED)
            self.adopt(self.topology)

    def _slot(self, topology: Topology, partition: PartitionId) -> Slot:
        owners, guests = topology.owners_of(partition), topology.guests_of(partition)
        peers, guest_links, is_counted = (
            self._links_to(owners),
            self._links_to(guests),
            topology.counts_guests(partition),
        )
        return Slot(
            partition, topology.placement_versions[partition], self._node_id in owners,
            self._chaos.pick(Point.PEERS_SHUFFLED, peers, peers[::-1]), _rotations(self._links_to(sorted(owners))),
            topology.n, min(topology.n, len(owners)), self._node_id in owners or self._node_id in guests,
            guest_links if is_counted else (), len(guests) if is_counted else 0, () if is_counted else guest_links,
        )  # fmt: skip

    def _links_to(self, owners: Sequence[NodeId]) -> tuple[Link, ...]:
        links = [self._peers.link(owner) for owner in owners if owner != self._node_id]
        return tuple(link for link in links if link is not None)


def _rotations(links: tuple[Link, ...]) -> tuple[tuple[Link | None, ...], ...]:
    """Return the local replica followed by `links`, once beginning with each of them."""
    return tuple((None, *links[i:], *links[:i]) for i in range(max(1, len(links))))
