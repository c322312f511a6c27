"""Bodies of groups: what is encoded is decoded, and whatever else arrives is a DecodeError that cost little."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import groups
from kvstore.errors import DecodeError
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX

KEYS = st.binary(min_size=12, max_size=40).map(StorageKey)
VERSIONS = st.integers(0, 1 << 40)


@given(st.lists(st.tuples(VERSIONS, KEYS, st.binary(max_size=80)), min_size=1, max_size=20))
def test_writes_survive_the_wire(writes: list[groups.Write]) -> None:
    """Order and bytes."""
    assert groups.decode_writes(groups.encode_writes(writes)) == writes


@given(st.lists(st.tuples(VERSIONS, KEYS), min_size=1, max_size=20))
def test_fetches_survive_the_wire(fetches: list[groups.Fetch]) -> None:
    """Order and bytes."""
    assert groups.decode_fetches(groups.encode_fetches(fetches)) == fetches


@given(st.lists(st.none() | st.binary(max_size=80), min_size=1, max_size=20))
def test_records_survive_the_wire(records: list[bytes | None]) -> None:
    """Nil is not the same as an empty record: one says ask again, the other says that there is none."""
    assert groups.decode_records(groups.encode_records(records), len(records)) == records


@given(st.sets(st.integers(0, 99), max_size=100).map(sorted))
def test_refused_positions_survive_the_wire(indexes: list[int]) -> None:
    """Empty stays empty bytes: nearly every answer."""
    assert groups.decode_refused(groups.encode_refused(indexes), 100) == indexes


@given(st.binary(max_size=200))
def test_garbage_is_a_decode_error(body: bytes) -> None:
    """Never another exception, never half a group."""
    for decode in (
        groups.decode_writes, groups.decode_fetches, lambda b: groups.decode_records(b, 3), lambda b: groups.decode_refused(b, 3)
    ):  # fmt: skip
        try:
            decode(body)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "items",
    [
        [], [[1, b"key"]], [[1, b"key", b"r", 2]], [[1, "key", b"r"]], [["1", b"key", b"r"]], [[1, b"key", None]],
        [[1, b"k", b"r"]] * (GROUP_OPERATIONS_MAX + 1), {1: 2}, [[[1], b"k", b"r"]], [[1.5, b"k", b"r"]],
    ],
)  # fmt: skip
def test_what_is_not_a_group_of_writes_is_refused(items: object) -> None:
    """Empty, too long, of the wrong shape or types."""
    with pytest.raises(DecodeError):
        groups.decode_writes(msgpack.packb(items))


@pytest.mark.parametrize("indexes", [[3], [1, 1], [2, 1], [-1], [0, 1, 2, 3]])
def test_positions_outside_the_group_are_refused(indexes: list[int]) -> None:
    """An owner cannot make a coordinator look where there is no write."""
    with pytest.raises(DecodeError):
        groups.decode_refused(msgpack.packb(indexes), 3)


def test_an_answer_of_another_length_is_refused() -> None:
    """Records are matched by position: one too few would give every key its neighbour's."""
    body = groups.encode_records([b"a", b"b"])
    for count in (1, 3):
        with pytest.raises(DecodeError):
            groups.decode_records(body, count)


def test_a_hostile_group_allocates_little() -> None:
    """A header that promises four thousand million writes, and a body of the largest size made of the smallest writes."""
    smallest = b"\x93\x00\xc4\x00\xc4\x00"
    many = (groups.GROUP_BODY_BYTES_MAX - 5) // len(smallest)
    bodies = [b"\xdd\xff\xff\xff\xff" + smallest, b"\xdd" + many.to_bytes(4, "big") + smallest * many]
    tracemalloc.start()
    try:
        for body in bodies:
            with pytest.raises(DecodeError):
                groups.decode_writes(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 30 * groups.GROUP_BODY_BYTES_MAX

    with pytest.raises(DecodeError, match="too large"):
        groups.decode_writes(bytes(groups.GROUP_BODY_BYTES_MAX + 1))
