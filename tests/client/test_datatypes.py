"""Values of users on the wire: msgpack, typed where the bucket has a type, refused before sending where they do not fit."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import random
import uuid
from typing import Any, ClassVar, NamedTuple, TypedDict

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import errors
from kvstore.client.datatypes import Codec, key_bytes
from kvstore.client.operation_ids import OperationIds
from kvstore.limits import VALUE_DEPTH_MAX, VALUE_SIZE_BYTES_MAX


@dataclasses.dataclass
class User:
    name: str
    photo: bytes = b""
    born: datetime.date | None = None
    tags: set[str] = dataclasses.field(default_factory=set)


class Point(NamedTuple):
    x: int
    y: int


class Settings(TypedDict):
    dark: bool
    size: int


class Order(msgspec.Struct):
    id: uuid.UUID
    lines: list[Point]


class Colour(enum.Enum):
    RED = "red"


TYPED: list[tuple[Any, Any]] = [
    (User, User("Ada", b"\x00\xff", datetime.date(1815, 12, 10), {"math", "poet"})),
    (Point, Point(1, 2)),
    (Settings, {"dark": True, "size": 3}),
    (Order, Order(uuid.UUID(int=7), [Point(0, 1)])),
    (Colour, Colour.RED),
    (list[int], [1, 2]),
    (dict[str, Point], {"a": Point(1, 2)}),
    (bytes, b"\x00"),
    (int | None, None),
]


@pytest.mark.parametrize(("kind", "value"), TYPED, ids=lambda item: str(item)[:40])
def test_a_typed_value_comes_back_as_it_was(kind: Any, value: Any) -> None:
    """Dataclasses, NamedTuples, TypedDicts, Structs, enums and plain types."""
    codec: Codec[Any] = Codec(kind)

    assert codec.decode(codec.encode(value)) == value


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=4),
    max_leaves=9,
)


@given(values)
def test_an_untyped_value_comes_back_as_it_was(value: Any) -> None:
    """bytes and str stay what they are, nested or not."""
    codec: Codec[Any] = Codec()

    assert codec.decode(codec.encode(value)) == value


def test_bytes_stay_bytes_inside_a_typed_value() -> None:
    """Other languages read them as bin, not as base64 text."""
    packed = Codec[User](User).encode(User("a", b"\xff"))

    assert msgpack.unpackb(packed)["photo"] == b"\xff"


@pytest.mark.parametrize("value", [User(3), "Ada", {"name": "Ada"}, None])  # type: ignore[arg-type]  # wrong on purpose
def test_a_value_that_could_not_be_read_back_is_not_written(value: Any) -> None:
    """Else it would fail in somebody else's get. (A dict of the right shape can be read back, and is let through.)"""
    if value == {"name": "Ada"}:
        assert Codec[Any](User).decode(Codec[Any](User).encode(value)) == User("Ada")
        return
    with pytest.raises(errors.InvalidArgument, match="not a User"):
        Codec[Any](User).encode(value)


@pytest.mark.parametrize(
    "value",
    [object(), 2**64, {1: object()}, {(1, 2): 3}, {1, 2}, 1j, datetime.date(2024, 1, 1), "\ud800", [[{(1,): 2}]]],
)
def test_what_msgpack_cannot_say_is_an_invalid_argument(value: Any) -> None:
    """Nothing was sent."""
    with pytest.raises(errors.InvalidArgument):
        Codec[Any]().encode(value)


def test_depth_is_bounded_before_sending() -> None:
    """Also for a list that holds itself, typed or not."""
    nested: list[Any] = []
    for _ in range(VALUE_DEPTH_MAX - 1):
        nested = [nested]
    endless: list[Any] = []
    endless.append(endless)

    Codec[Any]().encode(nested)
    for value, kind in (([nested], None), (endless, None), (endless, list)):
        with pytest.raises(errors.InvalidArgument):
            Codec[Any](kind).encode(value)


def test_size_is_bounded_before_sending() -> None:
    """By the encoded size, which is what travels."""
    Codec[Any]().encode(b"x" * (VALUE_SIZE_BYTES_MAX - 5))
    with pytest.raises(errors.ValueTooLarge) as caught:
        Codec[Any]().encode(b"x" * VALUE_SIZE_BYTES_MAX)

    assert caught.value.details["limit_bytes"] == VALUE_SIZE_BYTES_MAX


@pytest.mark.parametrize(
    ("kind", "packed"),
    [(None, b""), (None, b"\xc1"), (None, b"\x93\x01"), (None, b"\x91" * 5000), (None, b"\xd4\x01\x00"), (None, b"\x01\x02"),
     (None, b"\x81\x90\x01"), (int, b"\xa1a"), (User, b"\x80"), (str, b"\xc4\x01a")],
)  # fmt: skip
def test_stored_bytes_that_do_not_fit_are_a_decode_error(kind: Any, packed: bytes) -> None:
    """Whoever wrote them; never a crash, never a half-read value."""
    with pytest.raises(errors.DecodeError):
        Codec[Any](kind).decode(packed)


def test_a_str_key_is_its_utf8_bytes() -> None:
    """So two languages, or two habits, meet on one object."""
    assert key_bytes("ä") == key_bytes("ä".encode())
    for key in ("\ud800", 1, None, bytearray(b"a")):
        with pytest.raises(errors.InvalidArgument):
            key_bytes(key)  # type: ignore[arg-type]  # wrong on purpose


def test_operation_ids_increase_even_if_the_clock_stands_or_steps_back() -> None:
    """8 bytes of time, 8 of chance."""

    class Clock:
        times_ns: ClassVar[list[int]] = [5, 5, 3, 9, 9]

        def wall_ns(self) -> int:
            return self.times_ns.pop(0)

    ids = OperationIds(Clock(), random.Random(1))

    minted = [ids.next() for _ in range(5)]

    assert [int.from_bytes(each[:8], "big") for each in minted] == [5, 6, 7, 9, 10]
    assert len({each[8:] for each in minted}) == 5
    assert {len(each) for each in minted} == {16}
