"""Frames: what goes in comes out, and whatever a stranger sends costs at most its connection."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import DecodeError, Overloaded, error_from_wire, error_to_wire
from kvstore.limits import CHUNK_SIZE_BYTES_MAX, FRAME_OPERATIONS_MAX, FRAME_SIZE_BYTES_MAX
from kvstore.transport.frames import (
    FrameKind,
    Hello,
    decode_frame,
    encode_frame,
    hello_fields,
    hello_from,
)
from tests.support.cost import assert_cheap_refusal

U64 = st.integers(0, (1 << 64) - 1)
BODY = st.binary(max_size=99)


def _maybe_id(size_bytes: int) -> st.SearchStrategy[bytes]:
    return st.one_of(st.just(b""), st.binary(min_size=size_bytes, max_size=size_bytes))


REQUEST = st.tuples(U64, st.integers(0, 63), U64, st.integers(0, 1 << 31), st.binary(max_size=30), BODY)
REPLY = st.tuples(U64, st.integers(0, 3), BODY)
HELLOS = st.builds(
    Hello, U64, U64, _maybe_id(16), _maybe_id(8), U64, U64, U64, st.text(max_size=20), st.text(max_size=9)
)
FRAMES = st.one_of(
    st.lists(REQUEST, min_size=1, max_size=20).map(lambda operations: [1, 5, *(f for o in operations for f in o)]),
    st.tuples(U64, st.lists(REPLY, min_size=1, max_size=20)).map(lambda r: [2, r[0], *(f for o in r[1] for f in o)]),
    HELLOS.map(hello_fields),
    st.binary(max_size=50).map(lambda error: [3, error]),
)

HELLO = Hello(1, 1, b"c" * 16, b"n" * 8, 5, 6, 7, "127.0.0.1:7001", "")
REQUESTS: list[Any] = [1, 5, 10, 2, 3, 900, b"key", b"body"]
REPLIES: list[Any] = [2, 7, 10, 0, b"body"]


def decode_or_none(frame: bytes) -> list[Any] | None:
    """Decode; None for `DecodeError`. Any other exception is what these tests look for."""
    try:
        return decode_frame(frame)
    except DecodeError:
        return None


@settings(max_examples=80, deadline=None)
@given(FRAMES)
def test_frames_round_trip(fields: list[Any]) -> None:
    """All four kinds."""
    assert decode_frame(encode_frame(fields)) == fields


@settings(max_examples=100, deadline=None)
@given(HELLOS)
def test_hello_round_trips(hello: Hello) -> None:
    """Every field of it."""
    assert hello_from(decode_frame(encode_frame(hello_fields(hello)))) == hello


def test_fields_that_a_newer_peer_adds_to_hello_are_ignored() -> None:
    """So that HELLO can grow without a new protocol version."""
    assert hello_from(decode_frame(encode_frame([*hello_fields(HELLO), 1, b"new", "more"]))) == HELLO


def test_a_refusal_carries_its_error() -> None:
    """With the numbers that explain it."""
    frame = encode_frame([FrameKind.REFUSED, error_to_wire(Overloaded("full", retry_after_s=0.5))])

    error = error_from_wire(decode_frame(frame)[1])

    assert type(error) is Overloaded
    assert error.retry_after_s == 0.5


@settings(max_examples=200, deadline=None)
@given(FRAMES, st.data())
def test_a_mutated_frame_is_a_decode_error_or_another_well_typed_frame(fields: list[Any], data: st.DataObject) -> None:
    """Bytes replaced, inserted, or cut: nothing but `DecodeError`, and never a field of the wrong type."""
    frame = bytearray(encode_frame(fields))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(frame)))
        end = min(len(frame), start + data.draw(st.integers(0, 3)))
        frame[start:end] = data.draw(st.binary(max_size=3))

    decoded = decode_or_none(bytes(frame))

    if decoded is not None and decoded[0] in (FrameKind.REQUESTS, FrameKind.REPLIES):
        start, kinds = (2, [int] * 4 + [bytes] * 2) if decoded[0] == 1 else (2, [int, int, bytes])
        assert [type(f) for f in decoded[start:]] == kinds * ((len(decoded) - start) // len(kinds))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"\x97\x01" + rest))
def test_arbitrary_bytes_are_never_more_than_a_decode_error(frame: bytes) -> None:
    """Also what begins like a frame."""
    decoded = decode_or_none(frame)

    if decoded is not None and decoded[0] == FrameKind.HELLO:
        with pytest.raises(DecodeError):  # nine fields do not come about by chance
            hello_from(decoded)


@pytest.mark.parametrize(
    ("case", "frame"),
    [
        ("nothing", b""),
        ("an empty array", encode_frame([])),
        ("an integer", msgpack.packb(1)),
        ("a map", msgpack.packb({1: 2})),
        ("an unknown kind", encode_frame([4, b"x"])),
        ("a negative kind", encode_frame([-1, b"x"])),
        ("kind true", encode_frame([True, *REQUESTS[1:]])),
        ("kind 1.0", encode_frame([1.0, *REQUESTS[1:]])),
        ("a kind of bytes", encode_frame([b"\x01", *REQUESTS[1:]])),
        ("an empty list for a kind", encode_frame([[], *REQUESTS[1:]])),
        ("no operation", encode_frame([1])),
        ("no reply", encode_frame([2, 7])),
        ("no topology epoch", encode_frame([2])),
        ("an epoch of bytes", encode_frame([2, b"7", 10, 0, b"body"])),
        ("half a request", encode_frame(REQUESTS[:-1])),
        ("half a reply", encode_frame(REPLIES[:-1])),
        ("a body of text", encode_frame([*REQUESTS[:-1], "body"])),
        ("a body of nil", encode_frame([*REPLIES[:-1], None])),
        ("an id of bytes", encode_frame([1, 5, b"10", *REQUESTS[3:]])),
        ("a status true", encode_frame([2, 7, 10, True, b"body"])),
        ("a time of 1.5", encode_frame([1, 5, 10, 2, 3, 1.5, b"key", b"body"])),
        ("a nested body", encode_frame([*REQUESTS[:-1], [b"body"]])),
        ("an empty list for a body", encode_frame([*REQUESTS[:-1], []])),
        ("an empty map for a body", encode_frame([*REQUESTS[:-1], {}])),
        ("an extension for a body", encode_frame([*REQUESTS[:-1], msgpack.ExtType(1, b"body")])),
        ("a refusal without error", encode_frame([3])),
        ("a refusal of text", encode_frame([3, "no"])),
        ("a refusal with more", encode_frame([3, b"no", 1])),
        ("a trailing byte", encode_frame(REQUESTS) + b"\x00"),
        ("one byte short", encode_frame(REQUESTS)[:-1]),
        ("one operation too many", encode_frame([1, 5, *REQUESTS[2:] * (FRAME_OPERATIONS_MAX + 1)])),
        ("one byte too large", bytes(FRAME_SIZE_BYTES_MAX + 1)),
    ],
)  # fmt: skip
def test_a_malformed_frame_is_a_decode_error(case: str, frame: bytes) -> None:
    """The connection ends with a typed refusal, and nothing of the frame was handled."""
    with pytest.raises(DecodeError):
        decode_frame(frame)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (1, -1), (1, b"1"), (2, 1.0), (3, "c"), (3, b"c" * 17), (3, b"c" * 8), (4, None), (4, "n"), (4, b"n"), (4, b"n" * 9),
        (4, b"n" * 16), (5, True), (6, -1), (7, b""), (8, b"a"), (8, "a" * 257), (9, 1),
    ],
)  # fmt: skip
def test_a_malformed_hello_is_a_decode_error(index: int, value: Any) -> None:
    """Who greets with nonsense is not admitted."""
    fields = hello_fields(HELLO)
    fields[index] = value

    with pytest.raises(DecodeError):
        hello_from(decode_frame(encode_frame(fields)))


def test_a_short_hello_is_a_decode_error() -> None:
    """An older format has no peer any more."""
    with pytest.raises(DecodeError, match="9 fields"):
        hello_from(decode_frame(encode_frame(hello_fields(HELLO)[:-1])))


def test_the_largest_frames_are_accepted() -> None:
    """The most operations, and the most bytes."""
    operations = [1, 5, *REQUESTS[2:] * FRAME_OPERATIONS_MAX]
    large: list[Any] = [1, 5]
    for body in (bytes(CHUNK_SIZE_BYTES_MAX), bytes(FRAME_SIZE_BYTES_MAX // 2)):
        large += [10, 2, 3, 900, b"key", body]

    assert decode_frame(encode_frame(operations)) == operations
    assert decode_frame(encode_frame(large)) == large


def filled(head: bytes, repeated: bytes) -> bytes:
    return head + repeated * ((FRAME_SIZE_BYTES_MAX - len(head)) // len(repeated))


BOMBS = {
    "4 MiB of empty lists": filled(b"\xdd\x00\x00\x60\x02", b"\x90"),
    "4 MiB of empty lists inside one operation": filled(b"\x97\x01\x01\x01\x01\x01\xc0\xdd\x00\x30\x00\x00", b"\x90"),
    "4 MiB of empty maps": filled(b"\xdc\x60\x02", b"\x80"),
    "an array of 4096 arrays of 1,000": filled(b"\xdc\x10\x00", b"\xdc\x03\xe8" + b"\x01" * 1_000),
    "nested 2,000 deep": b"\x91" * 2_000,
    "nested 4 million deep": filled(b"", b"\x91"),
    "nested headers of 24,578 fields": filled(b"\xdc\x60\x02\x01", b"\xdc\x60\x02"),
    "an array of 2^32-1 fields": b"\xdd\xff\xff\xff\xff" + bytes(100),
    "a binary of 4 GiB": b"\x92\x01\xc6\xff\xff\xff\xff" + bytes(100),
    "a text of 4 MiB": filled(b"\x92\x00\xdb\x00\x3f\x00\x00", b"a"),
    "24,578 short texts": filled(b"\xdc\x60\x02", b"\xd9\xa0" + b"a" * 160),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_costs_little_memory_and_time(bomb: bytes) -> None:
    """msgpack has no depth limit and reserves what headers promise; a frame of 4 MiB must not become hundreds."""
    assert_cheap_refusal(lambda: decode_frame(bomb), DecodeError, peak_bytes_max=24 << 20, cpu_s_max=0.5)


# Golden bytes: nodes of two versions talk to each other during every rolling upgrade.


@pytest.mark.parametrize(
    ("fields", "golden"),
    [
        (
            hello_fields(HELLO),
            "9a000101c41063636363636363636363636363636363c4086e6e6e6e6e6e6e6e050607ae3132372e302e302e313a3730"
            "3031a0",
        ),
        (REQUESTS, "9801050a0203cd0384c4036b6579c404626f6479"),
        (REPLIES, "9502070a00c404626f6479"),
    ],
    ids=["HELLO", "REQUESTS", "REPLIES"],
)  # fmt: skip
def test_the_frame_format_is_what_it_was(fields: list[Any], golden: str) -> None:
    """A change here needs a new protocol version, not another golden."""
    assert encode_frame(fields).hex() == golden
    assert decode_frame(bytes.fromhex(golden)) == fields
