"""The topology codec: every topology survives it, and no bytes from outside do anything but raise `DecodeError`."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.plan import plan
from kvstore.errors import DecodeError, InvalidArgument
from kvstore.ids import ClusterId, NodeId, ObjectType
from kvstore.limits import TOPOLOGY_SIZE_BYTES_MAX
from kvstore.ring import BucketProperties, Member, Topology, begin_move, flip_move, found, with_bucket
from kvstore.ring.move import places_for
from kvstore.ring.topology import N_MAX
from kvstore.ring.topology_codec import FORMAT_VERSION, decode, encode

TEXT = st.text("aZ09 .:-_äΩ☃", min_size=1, max_size=8)
COUNTS = st.none() | st.integers(0, 102)
BUCKETS = st.builds(
    BucketProperties,
    st.text("ABCxyz019_.-", min_size=1, max_size=12),
    st.sampled_from(ObjectType), COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, (1 << 45) - 1),
)  # fmt: skip


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Clusters of up to five nodes with buckets, removed nodes and perhaps a node that is joining."""
    ids = draw(st.lists(st.binary(min_size=8, max_size=8), min_size=2, max_size=7, unique=True))
    members = [
        Member(NodeId(node), f"{draw(TEXT)}:{index}", draw(TEXT), draw(st.integers(1, 1000)))
        for index, node in enumerate(ids)
    ]
    bits, n = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    owners = plan(members=members[:-2] or members[:1], current_owners=None, partition_bits=bits, n=n).owners
    settled = sorted(members[:-2] or members[:1], key=lambda member: member.node_id)
    versions = draw(st.lists(st.integers(1, 1 << 40), min_size=1 << bits, max_size=1 << bits))
    topology = Topology(
        ClusterId(draw(st.binary(min_size=16, max_size=16))), draw(TEXT), draw(st.integers(1, 1 << 62)), bits, n,
        settled[0].node_id, tuple(settled), owners, tuple(versions),
    )  # fmt: skip
    for bucket in draw(st.lists(BUCKETS, max_size=3, unique_by=lambda bucket: bucket.name)):
        topology = with_bucket(topology, bucket)
    if draw(st.booleans()) and len(members) > 2:
        topology = replace(topology, removed=(members[-2].node_id,))
    if draw(st.booleans()):
        joined = plan(members=[*settled, members[-1]], current_owners=owners, partition_bits=bits, n=n).owners
        replaces = settled[0].node_id if len(settled) > 1 and draw(st.booleans()) else None
        topology = begin_move(topology, members[-1], places_for(members[-1].node_id, owners, joined), replaces=replaces)
        if draw(st.booleans()) and replaces is None:
            topology = flip_move(topology)
    return topology


def sample() -> Topology:
    """One node, two partitions, one bucket more; small enough to mutate every byte of it."""
    founded = found(ClusterId(b"c" * 16), "t", Member(NodeId(b"n" * 8), "h:1", "z", 2), partition_bits=1)
    bucketed = with_bucket(founded, BucketProperties("b", ObjectType.LWW, r=1, ttl_ms=9))
    return begin_move(bucketed, Member(NodeId(b"o" * 8), "i:1"), [(NodeId(b"o" * 8), NodeId(b"n" * 8))] * 2)


def decoded_or_refused(document: bytes) -> Topology | None:
    """Decode; a refusal is fine, any other exception fails the test."""
    try:
        return decode(document)
    except DecodeError:
        return None


@settings(max_examples=80, deadline=None)
@given(topologies())
def test_every_topology_survives_the_round_trip_in_one_encoding(topology: Topology) -> None:
    """Equal topologies are equal bytes, whoever built them."""
    document = encode(topology)
    decoded = decode(document)

    assert decoded == topology
    assert encode(decoded) == document


def test_format_is_what_the_module_draws() -> None:
    """Pinned bytes: a change here is a change of the format and needs a new version."""
    topology = found(ClusterId(b"c" * 16), "t", Member(NodeId(b"n" * 8), "h:1", "z", 2), partition_bits=1, n=3)

    assert msgpack.unpackb(encode(topology)) == [
        1, b"c" * 16, "t", 1, 1, 3, b"n" * 8,
        [[b"n" * 8, "h:1", "z", 2, 1]],
        [b"\x00\x00", b"\x00\x00"],
        [1, 1],
        [["default", 1, None, None, None, None, None, 0, [1, 2]]],
        [],
        [],
    ]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(document: bytes) -> None:
    """Never another exception than `DecodeError`."""
    decoded_or_refused(document)


scalars = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary() | st.text()
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=3))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 12), trees)
def test_any_field_may_be_anything(position: int, tree: object) -> None:
    """Well-formed msgpack of the wrong types and depths is refused field by field."""
    fields = msgpack.unpackb(encode(sample()))
    fields[position] = tree

    decoded_or_refused(msgpack.packb(fields))


def test_every_changed_byte_is_refused_or_another_sound_topology() -> None:
    """All single-byte mutations of one document: 255 for each of its bytes would be slow, these find the edges."""
    document = encode(sample())
    for position in range(len(document)):
        for value in (0x00, 0x01, 0x7F, 0x80, 0x90, 0x91, 0x9F, 0xC0, 0xC1, 0xC4, 0xC7, 0xD9, 0xDD, 0xDF, 0xFF):
            decoded_or_refused(document[:position] + bytes([value]) + document[position + 1 :])


@settings(max_examples=150, deadline=None)
@given(topologies(), st.data())
def test_spliced_documents_are_refused_or_sound(topology: Topology, data: st.DataObject) -> None:
    """Cuts, insertions and repeats; what decodes also encodes again."""
    document = encode(topology)
    start = data.draw(st.integers(0, len(document)))
    end = data.draw(st.integers(start, len(document)))
    decoded = decoded_or_refused(document[:start] + data.draw(st.binary(max_size=6)) + document[end:])

    if decoded is not None:
        assert decode(encode(decoded)) == decoded


def test_truncated_and_extended_documents_are_refused() -> None:
    """A document has one end."""
    document = encode(sample())

    for length in range(len(document)):
        assert decoded_or_refused(document[:length]) is None
    assert decoded_or_refused(document + b"\xc0") is None


@pytest.mark.parametrize("rest", [[], [1, "what", {"a": []}], [b""] * 30])
def test_a_newer_format_is_named(rest: list[object]) -> None:
    """Whatever follows the version; the operator learns that this build is too old, not that the bytes are broken."""
    with pytest.raises(DecodeError, match=r"format 2, this build reads up to 1"):
        decode(msgpack.packb([FORMAT_VERSION + 1, *rest]))


def test_small_bytes_cannot_ask_for_much_memory() -> None:
    """Nested empty arrays (60 bytes of memory for each byte sent) and lengths that are lies cost nothing."""
    bomb = msgpack.packb([1, [[[]] * 60_000] * 12])
    lies = b"\x9d\x01\xc4\x10" + bytes(16) + b"\xa1t\x01\x00\x01\xc4\x08" + bytes(8) + b"\xdd\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        assert decoded_or_refused(bomb) is None and decoded_or_refused(lies) is None
        assert tracemalloc.get_traced_memory()[1] < 4 * len(bomb)
    finally:
        tracemalloc.stop()


def test_oversized_documents_are_refused_unread_and_never_made() -> None:
    """The limit is the same on both sides."""
    with pytest.raises(DecodeError):
        decode(b"\x00" * (TOPOLOGY_SIZE_BYTES_MAX + 1))
    members = tuple(Member(NodeId(bytes([0] * 7 + [index])), f"h:{index}") for index in range(N_MAX))
    everybody = tuple(member.node_id for member in members)
    topology = Topology(
        ClusterId(bytes(16)), "t", 1, 14, N_MAX, everybody[0], members, (everybody,) * (1 << 14), (1,) * (1 << 14)
    )
    with pytest.raises(InvalidArgument):
        encode(topology)


def test_the_largest_supported_cluster_fits() -> None:
    """1,000 members and 65,536 partitions with N = 3, in the middle of a move."""
    ids = [NodeId(index.to_bytes(8, "big")) for index in range(1000)]
    members = tuple(Member(node, f"{index:0>60}.example.com:7000", "zone") for index, node in enumerate(ids))
    owners = tuple((ids[at % 997], ids[at % 997 + 1], ids[at % 997 + 2]) for at in range(1 << 16))
    founded = Topology(ClusterId(bytes(16)), "t", 1, 16, 3, ids[0], members[:-1], owners, (1 << 20,) * (1 << 16))
    topology = begin_move(founded, members[-1], owners)

    assert decode(encode(topology)) == topology
