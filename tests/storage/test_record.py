"""Records: canonical, tied to their place, and never half believed."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.context import decode_context, encode_context
from kvstore.causality.dvvset import EMPTY, DVVSet, Operation, Sibling, sync
from kvstore.causality.version_vector import encode_vector
from kvstore.errors import Corruption
from kvstore.ids import ActorId, HlcTimestamp, OperationId, StorageKey
from kvstore.storage.record import check_record, decode_record, encode_record, value_hash
from tests.causality.histories import KEY, World, actor_of, operation_id, put, worlds
from tests.support.cost import assert_cheap_refusal

OTHER_KEY = StorageKey(KEY[:-1] + b"z")
A, B = sorted((actor_of(1), actor_of(2)))
STATE = put(put(put(EMPTY, {}, A, 1, b"red"), {}, B, 2, b"blue"), {A: 1}, A, 3, None)
RECORD = encode_record(KEY, STATE)


def sealed(body: bytes) -> bytes:
    """Return `body` as a record whose checksum is right: what only a bug or another version writes."""
    return xxhash.xxh3_64_digest(KEY + body) + body


def fields_of(record: bytes) -> list[Any]:
    fields: list[Any] = msgpack.unpackb(record[8:])
    return fields


def decode_or_none(record: bytes) -> DVVSet | None:
    """Decode; None for `Corruption`. Any other exception is what these tests look for."""
    try:
        return decode_record(KEY, record)
    except Corruption:
        return None


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_reachable_states_round_trip(world: World) -> None:
    """What is written is read, down to the remembered operations; the same state always gives the same bytes."""
    for state in world.snapshots:
        record = encode_record(KEY, state)
        assert decode_record(KEY, record) == state
        assert check_record(KEY, record)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_states_that_met_in_another_order_are_equal_bytes(world: World, data: st.DataObject) -> None:
    """Replicas and the Merkle trie compare bytes, so the order of meeting must leave no trace."""
    one, two, three = (data.draw(st.sampled_from(world.snapshots)) for _ in range(3))

    left, right = sync(sync(one, two), three), sync(sync(three, two), one)

    assert encode_record(KEY, left) == encode_record(KEY, right)


def test_the_order_in_which_a_vector_was_built_leaves_no_trace() -> None:
    """Dictionaries remember insertion; records do not."""
    backwards = STATE._replace(vector=dict(reversed(STATE.vector.items())))

    assert encode_record(KEY, backwards) == RECORD


def test_every_flipped_bit_is_noticed() -> None:
    """One bit anywhere, in the checksum or in the body, and the record is not served."""
    for position in range(len(RECORD) * 8):
        flipped = bytearray(RECORD)
        flipped[position // 8] ^= 1 << position % 8
        assert not check_record(KEY, bytes(flipped))
        with pytest.raises(Corruption, match="checksum"):
            decode_record(KEY, bytes(flipped))


def test_every_truncation_is_noticed() -> None:
    """Also the empty record, which is not the same as no record."""
    for size in range(len(RECORD)):
        with pytest.raises(Corruption):
            decode_record(KEY, RECORD[:size])


def test_a_record_in_the_wrong_place_is_noticed() -> None:
    """The checksum covers the storage key, so a misdirected write or read is not served as another object."""
    assert not check_record(OTHER_KEY, RECORD)
    with pytest.raises(Corruption, match="checksum"):
        decode_record(OTHER_KEY, RECORD)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=64).map(lambda tail: RECORD[8:40] + tail))
def test_arbitrary_bytes_under_a_right_checksum_are_corruption_or_a_sound_state(body: bytes) -> None:
    """Nothing but `Corruption` leaves the decoder; whatever it accepts, it would write and read again."""
    state = decode_or_none(sealed(body))

    if state is not None:
        assert decode_or_none(encode_record(KEY, state)) == state


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text(max_size=4),
    st.binary(max_size=40), st.sampled_from([A + bytes(7) + b"\x01", b"o" * 16, b"x" * 34, 0, 1]),
    st.just([]), st.just({}),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(SCALARS, max_size=16) | st.lists(st.tuples(st.integers(0, 20), SCALARS), max_size=3))
def test_fields_of_any_type_and_count_are_corruption_or_a_sound_state(fields: list[Any]) -> None:
    """The same with well-formed msgpack: arbitrary arrays, and a good record with some fields replaced."""
    if fields and type(fields[0]) is tuple:
        replaced = fields_of(RECORD)
        for index, value in fields:
            replaced[index % len(replaced)] = value
        fields = replaced

    state = decode_or_none(sealed(msgpack.packb(fields)))

    if state is not None:
        assert decode_or_none(encode_record(KEY, state)) == state


def replace(index: int, value: Any) -> bytes:
    fields = fields_of(RECORD)
    fields[index] = value
    packed: bytes = msgpack.packb(fields)
    return packed


FIELDS = fields_of(RECORD)
ONE = fields_of(encode_record(KEY, put(EMPTY, {}, A, 1)))


@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("nothing", b""),
        ("not an array", msgpack.packb(1)),
        ("bytes that begin like a record", msgpack.packb(b"\x01\x00\x00")),
        ("an empty map", b"\x80" + bytes(8)),
        ("an empty array", b"\x90" + bytes(8)),
        ("only a format", msgpack.packb([1])),
        ("format true", replace(0, True)),
        ("half a sibling", msgpack.packb(fields_of(RECORD)[:-1])),
        ("a trailing byte", RECORD[8:] + b"\x00"),
        ("a vector of text", replace(1, "a" * 28)),
        ("operations that are nil", replace(2, None)),
        ("operations cut in the middle", replace(2, b"x" * 33)),
        ("seventeen operations", replace(2, bytes(34 * 17))),
        ("an operation of an unknown actor", replace(2, bytes(24) + b"\x00\x09" + bytes(8))),
        ("an actor that is not in the vector", replace(3, 9)),
        ("a negative actor", replace(3, -1)),
        ("a dot above the vector", replace(4, 99)),
        ("counter zero", replace(4, 0)),
        ("a negative time", replace(5, -1)),
        ("a negative expiry", replace(6, -1)),
        ("a short operation id", replace(7, b"short")),
        ("a value of text", replace(8, "text")),
        ("siblings out of order", msgpack.packb([*FIELDS[:3], *FIELDS[9:], *FIELDS[3:9]])),
        ("a dot twice", msgpack.packb([*ONE, *ONE[3:]])),
    ],
)  # fmt: skip
def test_a_malformed_body_under_a_right_checksum_is_corruption(case: str, body: bytes) -> None:
    """A bug elsewhere must end as a refused record, never as a partial state or as "not found"."""
    with pytest.raises(Corruption):
        decode_record(KEY, sealed(body))


def test_a_record_of_a_newer_version_names_both_formats() -> None:
    """After a downgrade a person must see at once what happened."""
    with pytest.raises(Corruption, match="format 2, this build reads up to 1"):
        decode_record(KEY, sealed(replace(0, 2)))


def tree(depth: int) -> bytes:
    """Return lists in lists, 15 in each."""
    return b"\x90" if depth == 0 else b"\x9f" + tree(depth - 1) * 15


BOMBS = {
    "an array of 2^31 elements": b"\xdd\x80\x00\x00\x00" + bytes(64),
    "an array of 2^32-1 elements behind a record's first fields": b"\x93\x01\xc4\x00\xdd\xff\xff\xff\xff" + bytes(64),
    "a binary of 4 GiB": b"\x93\x01\xc6\xff\xff\xff\xff" + bytes(64),
    "a map of 2^31 entries": b"\xdf\x80\x00\x00\x00" + bytes(64),
    "60,000 arrays of 60,000 elements inside each other": b"\xdc\xea\x60" * 60_000,
    "nested headers of 65,535 elements behind a short array": (b"\x9f" + b"\xdc\xff\xff" * 20_000),
    "15 lists in each of 15 lists, five deep": tree(5),
    "4 MiB of empty lists": b"\xdd\x00\x3f\xff\x00" + b"\x90" * 0x3FFF00,
    "4 MiB of empty lists in lists of 65,535": (b"\xdc\xff\xff" + b"\x90" * 65_535) * 64,
    "nesting as deep as it is long": b"\x91" * 1_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_costs_little_memory_and_time(bomb: bytes) -> None:
    """msgpack allocates by what headers promise and knows no depth: the decoder must not believe them."""
    record = sealed(bomb)

    assert_cheap_refusal(lambda: decode_record(KEY, record), Corruption, peak_bytes_max=32 << 20, cpu_s_max=0.5)


def test_many_large_siblings_round_trip() -> None:
    """Size limits bind client puts only: a record that merging made large must stay readable."""
    state = EMPTY
    for number in range(1, 201):
        state = put(state, {}, A if number % 2 else B, number, bytes([number]) * 30_000)

    record = encode_record(KEY, state)

    assert len(record) > 5 * 1024 * 1024
    assert decode_record(KEY, record) == state


def test_a_common_record_is_small() -> None:
    """One live value and its own operation: 88 bytes around the value is what every key costs on every replica."""
    record = encode_record(KEY, put(EMPTY, {}, A, 1, b"", hlc=1_700_000_000_000 << 16))

    assert len(record) <= 88


def test_a_value_its_absence_and_its_expiry_hash_differently() -> None:
    """The hash tells a retried operation from a reused operation id."""
    hashes = {value_hash(None, 0), value_hash(b"", 0), value_hash(b"", 5), value_hash(b"\x00", 0), value_hash(None, 5)}

    assert len(hashes) == 5
    assert value_hash(b"v", 5) == value_hash(b"v", 6), "a retry gets another absolute expiry from the same ttl"


# Golden bytes: data directories and clients outlive a build. If one of these fails, the change needs a new format
# number and a decoder for the old one, not another golden.

GOLDEN_ACTORS = [ActorId(node + bytes([0, 0, 0, 7]) + b"epoch--1") for node in (b"node-one", b"node-two")]
GOLDEN_STATE = DVVSet(
    {GOLDEN_ACTORS[0]: 3, GOLDEN_ACTORS[1]: 1},
    (
        Sibling(GOLDEN_ACTORS[0], 3, HlcTimestamp(0x018BCFE568000001), HlcTimestamp(0), operation_id(3), None),
        Sibling(GOLDEN_ACTORS[1], 1, HlcTimestamp(0x018BCFE568000000), HlcTimestamp(9), operation_id(2), b"blue"),
    ),
    (
        Operation(HlcTimestamp(0x018BCFE568000000), OperationId(operation_id(2)), b"\x02" * 8, GOLDEN_ACTORS[1], 1),
        Operation(HlcTimestamp(0x018BCFE568000001), OperationId(operation_id(3)), b"\x03" * 8, GOLDEN_ACTORS[0], 3),
    ),
)  # fmt: skip
GOLDEN_RECORD = (
    "86d00808542aaf729f01c4386e6f64652d6f6e650000000765706f63682d2d3100000000000000036e6f64652d74776f0000"
    "000765706f63682d2d310000000000000001c454018bcfe5680000000000000000000002636c69656e742d31020202020202"
    "020200010000000000000001018bcfe5680000010000000000000003636c69656e742d310303030303030303000000000000"
    "000000030003cf018bcfe56800000100c4100000000000000003636c69656e742d31c00101cf018bcfe56800000009c41000"
    "00000000000002636c69656e742d31c404626c7565"
)
GOLDEN_SMALL_RECORD = (
    "1b4a365dabcff8749901c41c6e6f64652d6f6e650000000765706f63682d2d310000000000000001c40000010100c4100000"
    "000000000001636c69656e742d31c40176"
)
GOLDEN_CONTEXT = (
    "010000000000000007018bcfe5680000016e6f64652d6f6e650000000765706f63682d2d3100000000000000036e6f64652d"
    "74776f0000000765706f63682d2d310000000000000001"
)


def test_the_record_format_is_what_it_was() -> None:
    """Two siblings (one a tombstone, one expiring) and two operations; and the short form with an implied operation."""
    small = put(EMPTY, {}, GOLDEN_ACTORS[0], 1, b"v")

    assert encode_record(KEY, GOLDEN_STATE).hex() == GOLDEN_RECORD
    assert decode_record(KEY, bytes.fromhex(GOLDEN_RECORD)) == GOLDEN_STATE
    assert encode_record(KEY, small).hex() == GOLDEN_SMALL_RECORD
    assert decode_record(KEY, bytes.fromhex(GOLDEN_SMALL_RECORD)) == small


def test_the_context_format_is_what_it_was() -> None:
    """Clients may keep a context for as long as they like."""
    context = encode_context(KEY[:8], 0x018BCFE568000001, encode_vector(GOLDEN_STATE.vector))

    assert context.hex() == GOLDEN_CONTEXT
    assert decode_context(bytes.fromhex(GOLDEN_CONTEXT), KEY[:8]) == (GOLDEN_STATE.vector, 0x018BCFE568000001)
