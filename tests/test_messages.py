"""The bodies of puts and gets: what goes in comes out, and whatever a stranger sends is at most a `DecodeError`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import DecodeError
from kvstore.limits import CONTEXT_SIZE_BYTES_MAX
from kvstore.messages import (
    GetReply,
    PutReply,
    PutRequest,
    WireSibling,
    decode_delete,
    decode_get,
    decode_get_reply,
    decode_put,
    decode_put_reply,
    encode_body,
    encode_get_reply,
    get_reply_fields,
)
from tests.support.cost import assert_cheap_refusal

ID = b"o" * 16
PUT: list[Any] = [ID, b"value", b"context", 7, 2, None, 101]
DELETE: list[Any] = [ID, b"context", None, 2, 0]
PUT_REPLY: list[Any] = [2, 2, 3, 2, 1, 1, False, b"context"]
ONE: list[Any] = [b"context", 2, 3, 2, b"a" * 20, 7, 8, 0, b"value"]
DECODERS: list[Callable[[bytes], Any]] = [decode_put, decode_delete, decode_get, decode_put_reply, get_reply_fields]


def test_bodies_round_trip() -> None:
    """Every field in its place."""
    assert decode_put(encode_body(PUT)) == PutRequest(*PUT)
    deleted = decode_delete(encode_body(DELETE))
    assert [deleted.operation_id, deleted.context, deleted.w, deleted.dw, deleted.pw] == DELETE
    assert decode_put_reply(encode_body(PUT_REPLY)) == PutReply(*PUT_REPLY)


@pytest.mark.parametrize("siblings_count", [0, 1, 2, 3, 64])
def test_a_get_reply_holds_any_number_of_siblings(siblings_count: int) -> None:
    """One value is decoded by a way of its own; it must not be told apart."""
    siblings = [WireSibling(bytes([i]) * 20, i, 1 << 60, 0, b"value %d" % i) for i in range(siblings_count)]
    body = encode_get_reply(b"context", 2, 3, 1, [field for sibling in siblings for field in sibling])

    assert decode_get_reply(body) == GetReply(b"context", 2, 3, 1, siblings)


def test_a_value_of_a_megabyte_is_a_body_like_any_other() -> None:
    """No limit of the short ways may end the long one."""
    large = bytes(1 << 20)

    assert decode_put(encode_body([ID, large, None, 0, None, None, None])).value == large
    assert get_reply_fields(encode_body([*ONE[:8], large]))[8] == large


@pytest.mark.parametrize(
    ("decode", "fields"),
    [
        (decode_put, PUT[:-1]),
        (decode_put, [*PUT, 1]),
        (decode_put, [ID[:-1], *PUT[1:]]),
        (decode_put, ["o" * 16, *PUT[1:]]),
        (decode_put, [ID, "value", *PUT[2:]]),
        (decode_put, [ID, b"value", bytes(CONTEXT_SIZE_BYTES_MAX + 1), *PUT[3:]]),
        (decode_put, [*PUT[:3], -1, *PUT[4:]]),
        (decode_put, [*PUT[:3], 1 << 45, *PUT[4:]]),
        (decode_put, [*PUT[:3], True, *PUT[4:]]),
        (decode_put, [*PUT[:6], 103]),
        (decode_put, [*PUT[:6], -1]),
        (decode_put, [*PUT[:6], [1]]),
        (decode_delete, DELETE[:-1]),
        (decode_delete, [ID, None, *DELETE[2:]]),
        (decode_delete, [b"", *DELETE[1:]]),
        (decode_delete, [*DELETE[:4], 1.0]),
        (decode_put_reply, PUT_REPLY[:-1]),
        (decode_put_reply, [*PUT_REPLY[:-1], None]),
        (decode_put_reply, ["2", *PUT_REPLY[1:]]),
        (get_reply_fields, ONE[:-1]),
        (get_reply_fields, [*ONE[:-1], "text"]),
        (get_reply_fields, [None, *ONE[1:]]),
        (get_reply_fields, [*ONE[:8], [b"value"]]),
        (get_reply_fields, ONE[:3]),
    ],
)
def test_a_body_of_other_fields_is_a_decode_error(decode: Callable[[bytes], Any], fields: list[Any]) -> None:
    """Too few, too many, of the wrong type, out of range."""
    with pytest.raises(DecodeError):
        decode(msgpack.packb(fields))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DECODERS), st.sampled_from([PUT, DELETE, PUT_REPLY, ONE]), st.data())
def test_a_mutated_body_is_never_more_than_a_decode_error(
    decode: Callable[[bytes], Any], fields: list[Any], data: st.DataObject
) -> None:
    """Cut, with bytes replaced, with bytes after its end."""
    body = bytearray(encode_body(fields))
    start = data.draw(st.integers(0, len(body)))
    body[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    with suppress(DecodeError):
        decode(bytes(body))


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xdc\xea\x60" * 60_000,
        b"\x99\xc4\x00" + b"\xdd\x00\x3f\xff\xff" + b"\x90" * 4_194_303,
        b"\x97" + b"\xc6\xff\xff\xff\xff",
        b"\x9f" * 4_000_000,
    ],
    ids=[
        "2^32-1 fields",
        "very deep",
        "nested headers",
        "4 MiB of empty lists",
        "a binary of 4 GiB",
        "4 MB of headers",
    ],
)
def test_a_bomb_is_refused_before_it_takes_memory(decode: Callable[[bytes], Any], bomb: bytes) -> None:
    """What headers promise is not reserved."""
    assert_cheap_refusal(lambda: decode(bomb), DecodeError, peak_bytes_max=8 << 20, cpu_s_max=0.3)
