"""The low-space watermark: refuse early, ask rarely, recover by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.errors import DiskFull
from kvstore.storage.space import SpaceGuard, default_watermark_bytes

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("total_bytes", "watermark_bytes"),
    [(64 * MIB, 16 * MIB), (1024 * MIB, 1024 * MIB // 20), (100_000 * MIB, 256 * MIB)],
)
def test_the_default_watermark_is_a_twentieth_within_bounds(total_bytes: int, watermark_bytes: int) -> None:
    """Small disks keep enough for RocksDB to work, large ones do not waste gigabytes."""
    assert default_watermark_bytes(total_bytes) == watermark_bytes


class Disk:
    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self.asked_count = 0

    def __call__(self) -> int:
        self.asked_count += 1
        return self.free_bytes


def test_the_file_system_is_asked_once_per_so_many_bytes() -> None:
    """A put must not cost a system call."""
    disk = Disk(1000)
    guard = SpaceGuard(disk, watermark_bytes=100, check_every_bytes=1000)

    for _ in range(50):
        assert not guard.charge(100)

    assert disk.asked_count == 1 + 4  # At the start, and each time the 11th put passes 1,000 bytes.


def test_it_refuses_while_space_is_low_and_recovers_at_the_next_attempt() -> None:
    """While low every attempt looks again, so that nobody has to tell the node that space is back."""
    disk = Disk(1000)
    guard = SpaceGuard(disk, watermark_bytes=100, check_every_bytes=50)

    disk.free_bytes = 99
    low = guard.charge(51)
    still_low = guard.charge(1)
    disk.free_bytes = 100
    recovered = guard.charge(1)

    assert (low, still_low, recovered) == (True, True, False)


def test_the_refusal_is_definite_and_carries_the_numbers() -> None:
    """An operator sees how much is free and how much is asked for."""
    error = SpaceGuard(Disk(7), watermark_bytes=100).refusal()

    assert isinstance(error, DiskFull)
    assert error.definite
    assert (error.free_bytes, error.watermark_bytes) == (7, 100)


def test_it_reads_the_real_file_system(tmp_path: Path) -> None:
    """With a watermark of nothing no disk is low; with an absurd one every disk is."""
    assert not SpaceGuard.of_directory(tmp_path, watermark_bytes=0).is_low
    assert SpaceGuard.of_directory(tmp_path, watermark_bytes=1 << 62).is_low
    assert SpaceGuard.of_directory(tmp_path).watermark_bytes >= 16 * MIB
