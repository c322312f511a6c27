"""Chunks: large bodies in pieces, and a bound on what a connection may leave unfinished."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import DecodeError
from kvstore.limits import CHUNK_SIZE_BYTES_MAX, REASSEMBLY_BYTES_MAX
from kvstore.transport.chunks import PART_OVERHEAD_BYTES, Reassembly, split

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("size_bytes", "pieces_count"),
    [(0, 1), (1, 1), (CHUNK_SIZE_BYTES_MAX, 1), (CHUNK_SIZE_BYTES_MAX + 1, 2), (3 * CHUNK_SIZE_BYTES_MAX, 3)],
)
def test_a_split_body_is_whole_again_after_reassembly(size_bytes: int, pieces_count: int) -> None:
    """All but the last piece are PARTs; a body of one piece needs none."""
    body = bytes(range(251)) * (size_bytes // 251) + bytes(size_bytes % 251)
    *parts, last = split(body)
    reassembly = Reassembly()

    for part in parts:
        reassembly.add(7, part)

    assert len(parts) + 1 == pieces_count
    assert bool(reassembly) == bool(parts)
    assert reassembly.take(7, last) == body
    assert not reassembly


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=5)), max_size=30))
def test_interleaved_bodies_do_not_mix(parts: list[tuple[int, bytes]]) -> None:
    """PARTs of several operations may come in any mixture; each operation keeps its own order."""
    reassembly = Reassembly()
    expected = [b"", b"", b"", b""]

    for operation_id, chunk in parts:
        reassembly.add(operation_id, chunk)
        expected[operation_id] += chunk

    assert [reassembly.take(operation_id, b"!") for operation_id in range(4)] == [body + b"!" for body in expected]
    assert not reassembly


def test_what_is_unfinished_is_bounded() -> None:
    """Beyond the bound the connection ends, instead of our memory."""
    reassembly, chunk = Reassembly(), bytes(MIB)
    fitting_count = REASSEMBLY_BYTES_MAX // (MIB + PART_OVERHEAD_BYTES)

    for number in range(fitting_count):
        reassembly.add(number, chunk)

    with pytest.raises(DecodeError, match="bound"):
        reassembly.add(fitting_count, chunk)


def test_a_finished_body_frees_its_share_of_the_bound() -> None:
    """A connection may carry any number of large bodies, one after the other."""
    reassembly, chunk = Reassembly(), bytes(8 * MIB)

    for number in range(3):
        for _ in range(10):
            reassembly.add(number, chunk)
        assert len(reassembly.take(number, b"")) == 80 * MIB
    for number in range(REASSEMBLY_BYTES_MAX // PART_OVERHEAD_BYTES):
        reassembly.add(number, b"a")
        assert reassembly.take(number, b"") == b"a"


def test_a_record_at_its_size_limit_fits() -> None:
    """64 siblings of 1 MiB and a full vector: the largest record that client puts can make."""
    reassembly, chunk = Reassembly(), bytes(CHUNK_SIZE_BYTES_MAX)

    for _ in range(66):
        reassembly.add(1, chunk)

    assert len(reassembly.take(1, b"end")) == 66 * CHUNK_SIZE_BYTES_MAX + 3


def test_tiny_parts_count_for_the_memory_they_take() -> None:
    """96 MiB in PARTs of two bytes would take 2 GiB; so each one counts its overhead too."""
    reassembly = Reassembly()

    with pytest.raises(DecodeError, match="bound"):
        for number in range(REASSEMBLY_BYTES_MAX // PART_OVERHEAD_BYTES + 1):
            reassembly.add(number, b"ab")
