"""The controls of the memory engine: what a simulation can do to a disk, beyond what every engine promises."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.errors import Corruption, DiskFull, StorageError, SuspectStore, SyncFailed
from kvstore.storage.engine import Family
from kvstore.storage.memory import MemoryDisk, MemoryEngine

DATA, META = Family.DATA, Family.META


def keys(engine: MemoryEngine) -> list[bytes]:
    return [key for key, _ in engine.scan(DATA, b"", b"\xff")]


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_the_crash_decides_how_many_unsynced_batches_stay(kept: int) -> None:
    """Any prefix can be chosen; the number lost is told, so that a checker knows."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    for i in range(3):
        engine.apply([(DATA, b"%d" % i, b"v")])

    lost = disk.crash(keep=lambda count: kept)

    assert lost == 3 - kept
    assert keys(MemoryEngine.open(disk)) == [b"0", b"1", b"2"][:kept]


async def test_a_sync_covers_only_what_was_applied_before_it_began() -> None:
    """What arrives while the disk works waits for the next sync, as with a real log."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    engine.apply([(DATA, b"before", b"")])
    sync = asyncio.ensure_future(engine.sync())
    await asyncio.sleep(0)
    engine.apply([(DATA, b"during", b"")])

    await sync

    assert disk.unsynced_count == 1
    disk.crash(keep=lambda count: 0)
    assert keys(MemoryEngine.open(disk)) == [b"before"]


async def test_syncs_of_uneven_length_never_take_back_or_add_durability() -> None:
    """A short sync that began later may return first and covers the longer one's batches too."""
    delays = iter([0.01, 0.0])
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk, sync_delay_s=lambda: next(delays))
    engine.apply([(DATA, b"1", b"")])
    slow = asyncio.ensure_future(engine.sync())
    await asyncio.sleep(0)
    engine.apply([(DATA, b"2", b"")])
    await engine.sync()
    engine.apply([(DATA, b"3", b"")])

    await slow

    assert disk.unsynced_count == 1


async def test_a_sync_under_way_when_the_node_crashes_acknowledges_nothing() -> None:
    """Neither success nor durability may come out of a dead process."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    engine.apply([(DATA, b"k", b"")])
    sync = asyncio.ensure_future(engine.sync())
    await asyncio.sleep(0)
    disk.crash(keep=lambda count: 0)
    reopened = MemoryEngine.open(disk)

    with pytest.raises(StorageError):
        await sync

    assert keys(reopened) == []


async def test_a_failed_sync_poisons_until_the_end_and_the_store_never_opens_again() -> None:
    """After the chosen number of good syncs one fails: reads go on, nothing is acknowledged, a restart refuses."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    disk.fail_sync_after(1)
    await engine.sync()
    engine.apply([(DATA, b"k", b"v")])

    for _ in range(2):
        with pytest.raises(SyncFailed):
            await engine.sync()
    with pytest.raises(SyncFailed):
        engine.apply([(DATA, b"k", b"w")])
    with pytest.raises(SyncFailed):
        engine.delete_range(DATA, b"a", b"z")

    assert engine.get(DATA, b"k") == b"v"
    await engine.close(clean=True)
    with pytest.raises(SuspectStore):
        MemoryEngine.open(disk)
    with pytest.raises(SuspectStore):
        MemoryEngine.open(disk.copy())


def test_an_unreadable_value_stays_so_until_it_is_overwritten() -> None:
    """Across crashes too; a new record heals it, which is what read repair does."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    engine.apply([(DATA, b"a", b"1"), (DATA, b"b", b"2")])
    disk.corrupt(DATA, b"b")
    disk.crash()
    engine = MemoryEngine.open(disk)

    with pytest.raises(Corruption):
        engine.get(DATA, b"b")
    with pytest.raises(Corruption):
        keys(engine)
    engine.apply([(DATA, b"b", b"3")])

    assert engine.get(DATA, b"b") == b"3"


def test_a_full_disk_refuses_data_before_anything_is_applied() -> None:
    """META, deletes and reads go on, and room made by a delete can be used at once."""
    disk = MemoryDisk(capacity_bytes=400)
    engine = MemoryEngine.open(disk)
    engine.apply([(DATA, b"a", b"x" * 300)])
    batches = disk.unsynced_count

    with pytest.raises(DiskFull) as refused:
        engine.apply([(META, b"m", b"1"), (DATA, b"b", b"x" * 300)])
    after_refusal = (engine.get(META, b"m"), engine.get(DATA, b"b"), disk.unsynced_count)
    engine.apply([(META, b"m", b"2" * 300)])
    engine.apply([(META, b"m", None), (DATA, b"a", None)])
    engine.apply([(DATA, b"b", b"x" * 300)])

    assert refused.value.definite
    assert after_refusal == (None, None, batches)
    assert keys(engine) == [b"b"]


async def test_a_copy_is_another_disk() -> None:
    """It holds what was durable, and lives its own life."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    engine.apply([(DATA, b"old", b"")])
    await engine.sync()
    engine.apply([(DATA, b"unsynced", b"")])
    backup = disk.copy()
    copied = MemoryEngine.open(backup)
    copied.apply([(DATA, b"new", b"")])

    assert copied.report.is_copy
    assert keys(copied) == [b"new", b"old"]
    assert keys(engine) == [b"old", b"unsynced"]
