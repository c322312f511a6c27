"""The ring as arithmetic: which partition a storage key is in, and which range of storage keys a partition is.

    token    0x0000...                0x4000...               0x8000...               0xffff...
             |------ partition 0 -----|------ partition 1 -----|-- ... --|-- partition Q-1 --|

A storage key starts with its token (8 bytes, big endian), so the top `partition_bits` bits of the key are its partition
and a partition is one contiguous range on disk. Doubling Q splits every range in two and moves nothing.

Invariants
  1. `lower <= key < upper` of `partition_range(partition_of(key))`, for every storage key.
  2. The ranges of all partitions, in order, touch: upper of one is lower of the next.
Rule for editing: this arithmetic is part of the disk and wire formats. (The token function is in storage/keyspace.py.)
"""

from __future__ import annotations

from typing import Final

from kvstore.errors import InvalidArgument
from kvstore.ids import PartitionId

__all__ = [
    "PARTITION_BITS_DEFAULT", "PARTITION_BITS_MAX", "STORAGE_KEY_CEILING", "TOKEN_SIZE_BYTES", "check_partition_bits",
    "partition_of", "partition_range",
]  # fmt: skip

TOKEN_SIZE_BYTES: Final = 8
PARTITION_BITS_DEFAULT: Final = 8
"""Q = 256: up to about 25 nodes each has 30 replicas or more, so one partition is a small step of balance."""
PARTITION_BITS_MAX: Final = 16
"""Q = 65,536: bounds the topology document, and two bytes of a key are then enough to know its partition."""
STORAGE_KEY_CEILING: Final = b"\xff" * 4096
"""Above every storage key: a key of all 0xff bytes sorts below any longer one, and no storage key is this long (the
longest is 2,124 bytes: a client key is at most 1 KiB and escaping at most doubles it). So it holds whatever the name's
layout is; nine bytes would do as long as no object type is 0xff."""


def check_partition_bits(partition_bits: int) -> None:
    """Raise `InvalidArgument` unless 0 <= partition_bits <= 16."""
    if type(partition_bits) is not int or not 0 <= partition_bits <= PARTITION_BITS_MAX:
        raise InvalidArgument(f"partition_bits must be 0 to {PARTITION_BITS_MAX}", partition_bits=partition_bits)


def partition_of(storage_key: bytes, partition_bits: int) -> PartitionId:
    """Return the partition of a storage key: the top bits of its token. `partition_bits` is 0 to 16, unchecked here."""
    assert len(storage_key) >= TOKEN_SIZE_BYTES, "a storage key starts with its 8-byte token"
    # Two bytes hold all bits that can matter (PARTITION_BITS_MAX); this is half the price of decoding all eight.
    return PartitionId((storage_key[0] << 8 | storage_key[1]) >> (16 - partition_bits))


def partition_range(partition: PartitionId, partition_bits: int) -> tuple[bytes, bytes]:
    """Return (lower, upper) with lower <= key < upper for exactly the storage keys of the partition.

    The upper bound of the last partition cannot be a token (2**64 has nine bytes): it is `STORAGE_KEY_CEILING`, so
    that keys with token 2**64-1 are inside whatever follows their token. Raises `InvalidArgument` if out of range.
    """
    check_partition_bits(partition_bits)
    partitions_count = 1 << partition_bits
    if not 0 <= partition < partitions_count:
        raise InvalidArgument(f"partition must be 0 to {partitions_count - 1}", partition=partition)
    shift = 64 - partition_bits
    lower = (partition << shift).to_bytes(TOKEN_SIZE_BYTES, "big")
    if partition == partitions_count - 1:
        return lower, STORAGE_KEY_CEILING
    return lower, ((partition + 1) << shift).to_bytes(TOKEN_SIZE_BYTES, "big")
