"""The topology: one immutable, versioned document that says who is a member, who owns what, and which buckets exist.

Every change makes a new document with the next epoch; who may make one is decided elsewhere (a compare-and-set). How owners
change is in ring/move.py.

Invariants (checked on construction, because documents also come from peers and disks)
  1. `members`, `buckets` and `removed` are sorted and without duplicates; `default` is among the buckets.
  2. Each partition has 1 to `n` distinct owners, all of them members.
  3. A member is JOINING exactly while it is the joiner of a `move` that is COPYING; then it owns nothing yet.
  4. Between two successive epochs the placement version of a partition rises by one if its owners (their order included) or
     its guests differ, and stays otherwise. It never repeats, also when a move is cancelled (correctness rule 14).

Lookups (`owners_of`, `bucket_by_bytes`, `maybe_member`) are one tuple or dict access: every request makes them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from kvstore.errors import InvalidArgument, NoSuchBucket
from kvstore.ids import CLUSTER_ID_SIZE_BYTES, NODE_ID_SIZE_BYTES, ClusterId, NodeId, PartitionId
from kvstore.limits import BUCKETS_COUNT_MAX, MEMBERS_COUNT_MAX
from kvstore.ring.buckets import DEFAULT_BUCKET, DEFAULT_BUCKET_NAME, BucketProperties
from kvstore.ring.member import NAME_LENGTH_MAX, Member, MemberState, check_id, check_text
from kvstore.ring.token import PARTITION_BITS_DEFAULT, check_partition_bits

__all__ = [
    "EPOCH_LIMIT", "N_DEFAULT", "N_MAX", "REMOVED_COUNT_MAX", "Member", "MemberState", "Move", "MovePhase", "Owners",
    "Topology", "found", "with_address", "with_bucket",
]  # fmt: skip

N_DEFAULT: Final = 3
N_MAX: Final = 100
"""Replicas of a partition; larger numbers are symbolic in a consistency count (CONSISTENCY_QUORUM is 101)."""
REMOVED_COUNT_MAX: Final = 10_000
"""Node ids that may never come back; a cluster that replaces a node daily needs 27 years to fill it."""
EPOCH_LIMIT: Final = 1 << 63
"""Exclusive bound of epochs and placement versions, so that they fit a signed 64-bit integer anywhere."""

Owners = tuple[tuple[NodeId, ...], ...]
"""For each partition its primaries in the order in which they are asked; the first one usually coordinates."""


class MovePhase(IntEnum):
    """How far a change of owners has come; see ring/move.py."""

    COPYING = 1
    SETTLING = 2


@dataclass(frozen=True, slots=True)
class Move:
    """A change of owners under way. `owners`: while COPYING those to come, while SETTLING those before. `began`: the epoch of
    its first document, which names it. `replaces`: the dead member whose place the joiner takes; no member any more once
    SETTLING.
    """

    joiner: NodeId
    phase: MovePhase
    began: int
    owners: Owners
    replaces: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """See the module docstring. Raises `InvalidArgument` if an invariant does not hold."""

    cluster_id: ClusterId
    cluster_name: str
    epoch: int
    partition_bits: int
    n: int
    founder: NodeId
    members: tuple[Member, ...]
    owners: Owners
    placement_versions: tuple[int, ...]
    buckets: tuple[BucketProperties, ...] = (DEFAULT_BUCKET,)
    removed: tuple[NodeId, ...] = ()
    move: Move | None = None
    _members_by_id: dict[NodeId, Member] = field(init=False, repr=False, compare=False)
    _buckets_by_bytes: dict[bytes, BucketProperties] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_members_by_id", {member.node_id: member for member in self.members})
        object.__setattr__(self, "_buckets_by_bytes", {bucket.name.encode(): bucket for bucket in self.buckets})
        _check_head(self)
        _check_members(self)
        _check_buckets(self)
        _check_placement(self)
        _check_move(self)

    @property
    def partitions_count(self) -> int:
        """Q, a power of two."""
        return 1 << self.partition_bits

    def owners_of(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """Return the primaries of a partition in order; never empty."""
        return self.owners[partition]

    def guests_of(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """Return the members that hold a partition without owning it: pending while COPYING, leaving while SETTLING."""
        if self.move is None:
            return ()
        owners = self.owners[partition]
        return tuple(n for n in self.move.owners[partition] if n not in owners and n in self._members_by_id)

    def counts_guests(self, partition: PartitionId) -> bool:
        """Whether a write needs one acknowledgement more for each guest: somebody leaves (see ring/move.py)."""
        move = self.move
        if move is None or move.phase is MovePhase.SETTLING:
            return move is not None
        return any(node not in move.owners[partition] for node in self.owners[partition])

    def holders_of(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """Return the owners of a partition, then its guests: all that take its writes."""
        return self.owners[partition] + self.guests_of(partition)

    def n_effective(self, partition: PartitionId) -> int:
        """Return how many replicas the partition has: N, or fewer while there are fewer members."""
        return min(self.n, len(self.owners[partition]))

    def quorum(self, partition: PartitionId) -> int:
        """Return the majority of the partition's replicas, dead ones counted: the default of r, w and dw."""
        return self.n_effective(partition) // 2 + 1

    def maybe_member(self, node_id: NodeId) -> Member | None:
        """Return the member with this id, or None."""
        return self._members_by_id.get(node_id)

    def member(self, node_id: NodeId) -> Member:
        """Return the member with this id, or raise `InvalidArgument`."""
        member = self._members_by_id.get(node_id)
        if member is None:
            raise InvalidArgument(f"node {node_id.hex()} is not a member", topology_epoch=self.epoch)
        return member

    def bucket(self, name: str) -> BucketProperties:
        """Return the properties of a bucket, or raise `NoSuchBucket` naming the command that creates it."""
        return self.bucket_by_bytes(name.encode("utf-8", "replace"))

    def bucket_by_bytes(self, name: bytes) -> BucketProperties:
        """Return the properties of a bucket by its encoded name; the hot path's form of `bucket`."""
        properties = self._buckets_by_bytes.get(name)
        if properties is None:
            shown = name.decode("utf-8", "backslashreplace")
            raise NoSuchBucket(f"bucket {shown!r} does not exist; create it with: kvctl bucket create {shown}")
        return properties


def found(
    cluster_id: ClusterId, cluster_name: str, member: Member, partition_bits: int = PARTITION_BITS_DEFAULT,
    n: int = N_DEFAULT,
) -> Topology:  # fmt: skip
    """Return the first topology of a new cluster: one member owns everything, epoch 1."""
    check_partition_bits(partition_bits)
    partitions_count = 1 << partition_bits
    return Topology(
        cluster_id=cluster_id, cluster_name=cluster_name, epoch=1, partition_bits=partition_bits, n=n,
        founder=member.node_id, members=(member,), owners=((member.node_id,),) * partitions_count,
        placement_versions=(1,) * partitions_count,
    )  # fmt: skip


def with_bucket(topology: Topology, properties: BucketProperties) -> Topology:
    """Add a bucket. The same topology if it is there already; `InvalidArgument` if it is there and differs."""
    existing = next((bucket for bucket in topology.buckets if bucket.name == properties.name), None)
    if existing == properties:
        return topology
    if existing is not None:
        raise InvalidArgument(f"bucket {properties.name!r} exists with other properties; they cannot be changed")
    buckets = sorted((*topology.buckets, properties), key=lambda bucket: bucket.name)
    return replace(topology, epoch=topology.epoch + 1, buckets=tuple(buckets))


def with_address(topology: Topology, node_id: NodeId, address: str) -> Topology:
    """Give a member another address (it was restarted elsewhere with its data). `InvalidArgument` if it is taken."""
    moved = replace(topology.member(node_id), address=address)
    members = tuple(moved if member.node_id == node_id else member for member in topology.members)
    return replace(topology, epoch=topology.epoch + 1, members=members)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidArgument(f"topology: {message}")


def _is_counter(number: int) -> bool:
    return type(number) is int and 1 <= number < EPOCH_LIMIT


def _check_head(topology: Topology) -> None:
    check_partition_bits(topology.partition_bits)
    check_id("cluster_id", topology.cluster_id, CLUSTER_ID_SIZE_BYTES)
    check_text("cluster_name", topology.cluster_name, 1, NAME_LENGTH_MAX)
    check_id("founder", topology.founder, NODE_ID_SIZE_BYTES)
    _require(_is_counter(topology.epoch), "epoch is out of range")
    _require(type(topology.n) is int and 1 <= topology.n <= N_MAX, f"n must be 1 to {N_MAX}")


def _check_members(topology: Topology) -> None:
    ids = [member.node_id for member in topology.members]
    _require(1 <= len(ids) <= MEMBERS_COUNT_MAX, f"members must be 1 to {MEMBERS_COUNT_MAX}")
    _require(ids == sorted(set(ids)), "members must be sorted by node id, each once")
    _require(len({member.address for member in topology.members}) == len(ids), "two members share an address")
    for node_id in topology.removed:
        check_id("removed", node_id, NODE_ID_SIZE_BYTES)
    _require(len(topology.removed) <= REMOVED_COUNT_MAX, f"removed must be at most {REMOVED_COUNT_MAX}")
    _require(list(topology.removed) == sorted(set(topology.removed)), "removed must be sorted, each once")
    _require(not any(node_id in topology._members_by_id for node_id in topology.removed), "a removed node is a member")


def _check_buckets(topology: Topology) -> None:
    names = [bucket.name for bucket in topology.buckets]
    _require(len(names) <= BUCKETS_COUNT_MAX, f"buckets must be at most {BUCKETS_COUNT_MAX}")
    _require(names == sorted(set(names)), "buckets must be sorted by name, each once")
    _require(DEFAULT_BUCKET_NAME in names, "the default bucket is missing")


def _check_placement(topology: Topology) -> None:
    _check_owners(topology, topology.owners, topology._members_by_id.keys())
    _require(len(topology.placement_versions) == topology.partitions_count, "a placement version per partition")
    _require(all(map(_is_counter, topology.placement_versions)), "a placement version is out of range")


def _check_owners(topology: Topology, owners: Owners, allowed: Collection[NodeId]) -> None:
    _require(len(owners) == topology.partitions_count, "owners must name every partition")
    # Many partitions share few lists: checking each list once keeps 65,536 partitions cheap.
    for each in dict.fromkeys(owners):
        _require(1 <= len(each) <= topology.n and len(set(each)) == len(each), "owners must be 1 to n distinct nodes")
        _require(all(node_id in allowed for node_id in each), "an owner is not a member")


def _check_move(topology: Topology) -> None:
    joining = [member.node_id for member in topology.members if member.state is MemberState.JOINING]
    move = topology.move
    is_copying = move is not None and move.phase is MovePhase.COPYING
    _require(
        joining == ([move.joiner] if move and is_copying else []), "exactly the joiner of a copying move is JOINING"
    )
    if move is None:
        return
    _require(move.joiner in topology._members_by_id, "the joiner of a move is a member")
    _require(_is_counter(move.began) and move.began <= topology.epoch, "a move began before now")
    if move.replaces is not None:
        check_id("replaces", move.replaces, NODE_ID_SIZE_BYTES)
    allowed = topology._members_by_id.keys() | ({move.replaces} if move.replaces is not None else set())
    _check_owners(topology, move.owners, allowed)
    before = topology.owners if is_copying else move.owners
    _require(not any(move.joiner in each for each in dict.fromkeys(before)), "a joiner owns nothing before its move")
