"""The topology as bytes: what nodes send each other, clients receive and disks keep.

    [1, cluster id, cluster name, epoch, partition bits, n, founder,
     [[node id, address, zone, weight, state], ...],
     [owners of partition 0, owners of partition 1, ...],        owners: bin of 2-byte big-endian indexes of members
     [placement version, ...],
     [[name, default type, r, w, dw, pr, pw, ttl ms, [type, ...]], ...],
     [removed node id, ...],
     [] | [index of the joiner, phase, epoch it began, node id replaced or nil, [owners, ...]]]    the move under way

In the owners of a move the index after the last member stands for a replaced node that is no member any more.

Canonical: equal topologies are equal bytes, so a digest of the bytes identifies a document.

Invariants
  1. `decode(encode(t)) == t`.
  2. `decode` of any bytes gives a valid `Topology` or raises `DecodeError`, nothing else.
  3. `decode` allocates in proportion to the input: it pulls one header at a time and checks each length before it
     loops. (`msgpack.unpackb` would first build whatever nesting a stranger sent: 4 MiB of `[]` become 300 MB.)
Rule for editing: any change of meaning needs a new FORMAT_VERSION, and a decoder for the old one.
"""

from __future__ import annotations

import struct
from typing import Any, Final, TypeVar

import msgpack

from kvstore.errors import DecodeError, InvalidArgument
from kvstore.ids import ClusterId, NodeId, ObjectType
from kvstore.limits import BUCKETS_COUNT_MAX, MEMBERS_COUNT_MAX, TOPOLOGY_SIZE_BYTES_MAX
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.member import Member, MemberState
from kvstore.ring.token import PARTITION_BITS_MAX
from kvstore.ring.topology import N_MAX, REMOVED_COUNT_MAX, Move, MovePhase, Owners, Topology

__all__ = ["FORMAT_VERSION", "decode", "encode"]

FORMAT_VERSION: Final = 1
FIELDS_COUNT: Final = 13
FIELDS_COUNT_MAX: Final = 100
"""What a newer format may have, so that it is reported as newer and not as malformed."""
MOVE_FIELDS_COUNT: Final = 5
MEMBER_FIELDS_COUNT: Final = 5
BUCKET_FIELDS_COUNT: Final = 9
SCALAR_SIZE_BYTES_MAX: Final = 4 * 512
"""One string or bin: the longest is an address of 261 characters, each up to four bytes of UTF-8."""

_T = TypeVar("_T")


def encode(topology: Topology) -> bytes:
    """Return the one encoding of the topology. `InvalidArgument` if it exceeds TOPOLOGY_SIZE_BYTES_MAX."""
    index_of = {member.node_id: index for index, member in enumerate(topology.members)}
    packed: bytes = msgpack.packb([
        FORMAT_VERSION, topology.cluster_id, topology.cluster_name, topology.epoch, topology.partition_bits,
        topology.n, topology.founder,
        [[each.node_id, each.address, each.zone, each.weight, int(each.state)] for each in topology.members],
        _encode_owners(topology.owners, index_of), topology.placement_versions,
        [_encode_bucket(each) for each in topology.buckets], topology.removed,
        _encode_move(topology.move, index_of) if topology.move else [],
    ])  # fmt: skip
    if len(packed) > TOPOLOGY_SIZE_BYTES_MAX:
        raise InvalidArgument("topology too large", size_bytes=len(packed), limit_bytes=TOPOLOGY_SIZE_BYTES_MAX)
    return packed


def _encode_move(move: Move, index_of: dict[NodeId, int]) -> list[Any]:
    known = index_of if move.replaces is None else {move.replaces: len(index_of), **index_of}
    return [index_of[move.joiner], int(move.phase), move.began, move.replaces, _encode_owners(move.owners, known)]


def _encode_owners(owners: Owners, index_of: dict[NodeId, int]) -> list[bytes]:
    known = {each: struct.pack(f">{len(each)}H", *(index_of[node] for node in each)) for each in dict.fromkeys(owners)}
    return [known[each] for each in owners]


def _encode_bucket(bucket: BucketProperties) -> list[Any]:
    counts = (bucket.r, bucket.w, bucket.dw, bucket.pr, bucket.pw)
    return [bucket.name, int(bucket.default_type), *counts, bucket.ttl_ms, [int(each) for each in bucket.allowed_types]]


def decode(document: bytes) -> Topology:
    """Return the topology in `document`, which may come from a stranger. `DecodeError` for anything malformed."""
    if type(document) is not bytes or len(document) > TOPOLOGY_SIZE_BYTES_MAX:
        raise DecodeError("a topology document must be bytes within its limit", limit_bytes=TOPOLOGY_SIZE_BYTES_MAX)
    try:
        reader = _Reader(document)
        topology = _read_topology(reader)
        reader.check_end()
        return topology
    except InvalidArgument as problem:
        raise DecodeError(f"invalid topology document: {problem}") from None
    except (ValueError, msgpack.UnpackException) as problem:
        # UnicodeDecodeError, StackError, FormatError, unknown enum values are ValueErrors; OutOfData is the other.
        raise DecodeError(f"unreadable topology document: {type(problem).__name__} {problem}") from None


class _Reader:
    """Pulls one scalar or one array header at a time; a container where a scalar is due is an error."""

    def __init__(self, document: bytes) -> None:
        self._size_bytes = len(document)
        self._unpacker = msgpack.Unpacker(
            None, max_buffer_size=max(len(document), 1), max_array_len=0, max_map_len=0, max_ext_len=0,
            max_str_len=SCALAR_SIZE_BYTES_MAX, max_bin_len=SCALAR_SIZE_BYTES_MAX,
        )  # fmt: skip
        self._unpacker.feed(document)

    def array(self, count_max: int) -> int:
        count: int = self._unpacker.read_array_header()
        if count > count_max:
            raise DecodeError("an array of the topology document is too long", count=count, count_max=count_max)
        return count

    def record(self, count: int) -> None:
        if self.array(count) != count:
            raise DecodeError("a record of the topology document has the wrong number of fields", expected=count)

    def scalar(self, kind: type[_T]) -> _T:
        value = self._unpacker.unpack()
        if type(value) is not kind:
            raise DecodeError(f"the topology document holds {type(value).__name__} where {kind.__name__} is due")
        return value

    def maybe_int(self) -> int | None:
        value = self._unpacker.unpack()
        if value is not None and type(value) is not int:
            raise DecodeError(f"the topology document holds {type(value).__name__} where an int or nil is due")
        return value

    def maybe_bytes(self) -> bytes | None:
        value = self._unpacker.unpack()
        if value is not None and type(value) is not bytes:
            raise DecodeError(f"the topology document holds {type(value).__name__} where bytes or nil are due")
        return value

    def check_end(self) -> None:
        if self._unpacker.tell() != self._size_bytes:
            raise DecodeError("bytes follow the topology document", size_bytes=self._size_bytes)


def _read_topology(reader: _Reader) -> Topology:
    fields_count = reader.array(FIELDS_COUNT_MAX)
    version = reader.scalar(int)
    if version > FORMAT_VERSION:
        raise DecodeError(f"topology document has format {version}, this build reads up to {FORMAT_VERSION}")
    if version != FORMAT_VERSION or fields_count != FIELDS_COUNT:
        raise DecodeError("not a topology document", format=version, fields=fields_count)
    return _read_fields(reader)


def _read_fields(reader: _Reader) -> Topology:
    """Read what follows the format version, in the order of the module's picture."""
    cluster_id, cluster_name, epoch = ClusterId(reader.scalar(bytes)), reader.scalar(str), reader.scalar(int)
    partition_bits, n, founder = reader.scalar(int), reader.scalar(int), NodeId(reader.scalar(bytes))
    if not 0 <= partition_bits <= PARTITION_BITS_MAX:
        raise DecodeError("partition_bits out of range", partition_bits=partition_bits)
    partitions_count = 1 << partition_bits
    members = tuple(_read_member(reader) for _ in range(reader.array(MEMBERS_COUNT_MAX)))
    ids = tuple(member.node_id for member in members)
    owners = _read_owners(reader, ids, partitions_count)
    versions = tuple(reader.scalar(int) for _ in range(reader.array(partitions_count)))
    buckets = tuple(_read_bucket(reader) for _ in range(reader.array(BUCKETS_COUNT_MAX)))
    removed = tuple(NodeId(reader.scalar(bytes)) for _ in range(reader.array(REMOVED_COUNT_MAX)))
    move = _read_move(reader, ids, partitions_count)
    return Topology(
        cluster_id=cluster_id, cluster_name=cluster_name, epoch=epoch, partition_bits=partition_bits, n=n,
        founder=founder, members=members, owners=owners, placement_versions=versions, buckets=buckets,
        removed=removed, move=move,
    )  # fmt: skip


def _read_member(reader: _Reader) -> Member:
    reader.record(MEMBER_FIELDS_COUNT)
    node_id, address, zone = NodeId(reader.scalar(bytes)), reader.scalar(str), reader.scalar(str)
    return Member(node_id, address, zone, reader.scalar(int), MemberState(reader.scalar(int)))


def _read_owners(reader: _Reader, ids: tuple[NodeId, ...], partitions_count: int) -> Owners:
    # Equal lists become one tuple: a large document then costs memory for its few distinct lists only.
    known: dict[bytes, tuple[NodeId, ...]] = {}
    owners = []
    for _ in range(reader.array(partitions_count)):
        indexes = reader.scalar(bytes)
        if indexes not in known:
            known[indexes] = _owners_at(indexes, ids)
        owners.append(known[indexes])
    return tuple(owners)


def _owners_at(indexes: bytes, ids: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    count, rest = divmod(len(indexes), 2)
    if rest or count > N_MAX:
        raise DecodeError("an owner list of the topology document has an impossible length", size_bytes=len(indexes))
    return tuple(_id_at(index, ids) for index in struct.unpack(f">{count}H", indexes))


def _id_at(index: int, ids: tuple[NodeId, ...]) -> NodeId:
    if not 0 <= index < len(ids):
        raise DecodeError("the topology document names a member it does not list", index=index)
    return ids[index]


def _read_bucket(reader: _Reader) -> BucketProperties:
    reader.record(BUCKET_FIELDS_COUNT)
    name, default_type = reader.scalar(str), ObjectType(reader.scalar(int))
    r, w, dw, pr, pw = (reader.maybe_int() for _ in range(5))
    ttl_ms = reader.scalar(int)
    allowed_types = tuple(ObjectType(reader.scalar(int)) for _ in range(reader.array(len(ObjectType))))
    return BucketProperties(name, default_type, r, w, dw, pr, pw, ttl_ms, allowed_types)


def _read_move(reader: _Reader, ids: tuple[NodeId, ...], partitions_count: int) -> Move | None:
    count = reader.array(MOVE_FIELDS_COUNT)
    if count == 0:
        return None
    if count != MOVE_FIELDS_COUNT:
        raise DecodeError("a move of the topology document has the wrong number of fields", fields=count)
    joiner, phase, began = _id_at(reader.scalar(int), ids), MovePhase(reader.scalar(int)), reader.scalar(int)
    replaced = reader.maybe_bytes()
    replaces = NodeId(replaced) if replaced is not None else None
    known = ids if replaces is None or replaces in ids else (*ids, replaces)
    return Move(joiner, phase, began, _read_owners(reader, known, partitions_count), replaces)
