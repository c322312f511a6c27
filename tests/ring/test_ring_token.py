"""Tokens and partitions: the arithmetic every storage key and every transfer relies on."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import InvalidArgument
from kvstore.ids import PartitionId
from kvstore.ring.token import STORAGE_KEY_CEILING, partition_of, partition_range

LAST_TOKEN = b"\xff" * 8
storage_keys = st.builds(bytes.__add__, st.binary(min_size=8, max_size=8), st.binary(max_size=20))
bits = st.integers(0, 16)


@pytest.mark.parametrize(
    ("token", "partition_bits", "partition"),
    [
        ("0000000000000000", 8, 0),
        ("00ffffffffffffff", 8, 0),
        ("0100000000000000", 8, 1),
        ("ffffffffffffffff", 8, 255),
        ("ffffffffffffffff", 0, 0),
        ("7fffffffffffffff", 1, 0),
        ("8000000000000000", 1, 1),
        ("abcdffffffffffff", 16, 0xABCD),
    ],
)
def test_partition_is_the_top_bits_of_the_token(token: str, partition_bits: int, partition: int) -> None:
    """Published vectors: other languages must agree on them."""
    assert partition_of(bytes.fromhex(token) + b"name", partition_bits) == partition


@given(storage_keys, bits)
def test_partition_of_agrees_with_shifting_the_whole_token(key: bytes, partition_bits: int) -> None:
    """Looking at two bytes only is the same as `token >> (64 - bits)`."""
    assert partition_of(key, partition_bits) == int.from_bytes(key[:8], "big") >> (64 - partition_bits)


@given(storage_keys, bits)
def test_a_key_is_inside_the_range_of_its_partition(key: bytes, partition_bits: int) -> None:
    """So that a scan of the range meets every key of the partition."""
    lower, upper = partition_range(partition_of(key, partition_bits), partition_bits)

    assert lower <= key < upper


@pytest.mark.parametrize("partition_bits", [0, 1, 5, 10])
def test_ranges_cover_the_ring_without_gap_or_overlap(partition_bits: int) -> None:
    """The upper bound of a partition is the lower bound of the next; the ends are the ends of the key space."""
    ranges = [partition_range(PartitionId(each), partition_bits) for each in range(1 << partition_bits)]

    assert ranges[0][0] == bytes(8) and ranges[-1][1] == STORAGE_KEY_CEILING
    assert all(this[1] == following[0] for this, following in pairwise(ranges))


@pytest.mark.parametrize("name", [b"", b"\xff", b"\xff" * 1024, b"\xff" * 3000, b"\x01default\x00key"])
def test_last_partition_holds_every_key_of_the_last_token(name: bytes) -> None:
    """Whatever follows the token 2**64-1, even 0xff bytes only, the key is below the upper bound."""
    lower, upper = partition_range(PartitionId(255), 8)

    assert lower <= LAST_TOKEN + name < upper


@pytest.mark.parametrize(("partition", "partition_bits"), [(-1, 8), (256, 8), (1, 0), (0, -1), (0, 17)])
def test_ranges_that_do_not_exist_are_refused(partition: int, partition_bits: int) -> None:
    """An impossible partition or number of bits is the caller's fault, not an empty range."""
    with pytest.raises(InvalidArgument):
        partition_range(PartitionId(partition), partition_bits)
