"""Flat arrays: what is unpacked from outside, and what is refused before it costs anything."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.flat import unpack_flat
from tests.support.cost import assert_cheap_refusal

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False),
    st.binary(max_size=300), st.text(max_size=20),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(SCALARS, max_size=40), st.binary(max_size=9))
def test_an_array_of_scalars_is_unpacked_as_msgpack_does(fields: list[Any], before: bytes) -> None:
    """Arrays of up to 15 fields and longer ones, from any position."""
    packed = before + msgpack.packb(fields)

    assert unpack_flat(packed, start=len(before), fields_max=40, text_length_max=80) == fields


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda rest: b"\x96" + rest))
def test_arbitrary_bytes_are_scalars_or_a_value_error(packed: bytes) -> None:
    """And what is accepted is what msgpack itself reads there, all of it."""
    try:
        fields = unpack_flat(packed, fields_max=100, text_length_max=100)
    except ValueError:
        return
    assert repr(fields) == repr(msgpack.unpackb(packed))


@pytest.mark.parametrize(
    ("case", "packed"),
    [
        ("nothing", b""),
        ("an integer", msgpack.packb(7)),
        ("a map", msgpack.packb({1: 2})),
        ("a header cut short", b"\xdc\x00"),
        ("too many fields", msgpack.packb([0] * 9)),
        ("more fields than bytes", b"\xdd\x00\x00\x00\x08\x00"),
        ("too few bytes", msgpack.packb([1, b"abc"])[:-1]),
        ("a trailing byte", msgpack.packb([1]) + b"\x00"),
        ("a nested array", msgpack.packb([1, [2]])),
        ("a nested map", msgpack.packb([1, {2: 3}])),
        ("an extension", msgpack.packb([msgpack.ExtType(5, b"data")])),
        ("a timestamp", msgpack.packb([msgpack.Timestamp(1)])),
        ("a text too long", msgpack.packb(["12345"])),
        ("a text that is not UTF-8", b"\x91\xa1\xff"),
        ("the reserved byte", b"\x91\xc1"),
    ],
)
def test_everything_else_is_a_value_error(case: str, packed: bytes) -> None:
    """One kind of failure, so that callers turn it into their own error in one place."""
    with pytest.raises(ValueError, match=r"."):
        unpack_flat(packed, fields_max=8, text_length_max=4)


def test_nested_headers_allocate_nothing() -> None:
    """One call of `unpackb` would reserve 60,000 slots for each of 512 levels: 240 MB."""
    bomb = b"\xdc\xea\x60" * 60_000

    assert_cheap_refusal(
        lambda: unpack_flat(bomb, fields_max=60_000), ValueError, peak_bytes_max=2 << 20, cpu_s_max=0.1
    )
