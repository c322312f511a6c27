"""One simulated disk and its engine: every fault has the effect that RocksDB's has, and passes or stays as RocksDB's does."""

from __future__ import annotations

import asyncio
import random

import pytest

from jepsen_lite.sim.disk import NO_SPACE_RECOVERY_S_MAX, ReadFault, SimDisk, SimEngine
from kvstore.causality.actor import make_actor
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update
from kvstore.errors import Corruption, DiskFull, Overloaded, StorageError, SuspectStore, SyncFailed
from kvstore.ids import HlcTimestamp, NodeId, ObjectType, OperationId, PartitionId, StorageKey
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_NODE_ID
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import check_record, decode_record, encode_record
from tests.support.cluster import on_loop

DATA, META = Family.DATA, Family.META
ACTOR = make_actor(NodeId(b"somenode"), PartitionId(0), random.Random(1))
A, B = (storage_key(object_name("default", ObjectType.REGISTER, key)) for key in (b"a", b"b"))


def state(*values: bytes) -> DVVSet:
    """Return the state after these puts, each replacing the one before."""
    made = EMPTY
    for number, value in enumerate(values, start=1):
        operation = OperationId(value.ljust(16, b"."))
        made = update(
            made,
            made.vector,
            Sibling(ACTOR, number, HlcTimestamp(number), HlcTimestamp(0), operation, value),
            b"8 bytes.",
        )
    return made


def record(key: StorageKey, *values: bytes) -> bytes:
    return encode_record(key, state(*values))


def disk_of(seed: int = 1) -> SimDisk:
    return SimDisk("n0", random.Random(seed), now=lambda: asyncio.get_running_loop().time(), sync_s=(0.001, 0.002))


async def put(engine: SimEngine, *pairs: tuple[StorageKey, bytes], is_synced: bool = True) -> None:
    for key, value in pairs:
        engine.apply([(DATA, key, value)])
    if is_synced:
        await engine.sync()


# ------------------------------------------------------------------------------------------------------------ power and kills


def test_power_loss_takes_a_random_suffix_and_a_kill_nothing() -> None:
    """Of ten unsynced batches any number may stay, always the first ones; what was synced stays always."""

    async def main() -> None:
        kept_counts = set()
        for seed in range(30):
            disk = disk_of(seed)
            engine = disk.open()
            await put(engine, (A, b"safe"))
            for number in range(10):
                engine.apply([(DATA, b"%02d" % number, b"v")])
            assert disk.unsynced_count == 10
            lost = disk.lose_power()
            disk.open(boot_id="boot 2")
            kept = [key for key in disk.records() if key != A]
            assert kept == [b"%02d" % number for number in range(10 - lost)] and disk.peek(A) == b"safe"
            kept_counts.add(len(kept))
        assert 0 in kept_counts and len(kept_counts) > 4

    on_loop(main)


def test_the_page_cache_outlives_the_process_but_not_the_machine() -> None:
    """A kill, then a start: everything. A kill, then power loss while down: only what was synced is sure."""

    async def main() -> None:
        for loses_power in (False, True):
            disk = disk_of(2)
            await put(disk.open(), (A, b"unsynced"), is_synced=False)
            disk.kill()
            assert (disk.peek(A), disk.peek_durable(A)) == (b"unsynced", None)
            if loses_power:
                disk.crash(lambda count: 0)
            engine = disk.open()
            assert engine.get(DATA, A) == (None if loses_power else b"unsynced")
            assert disk.peek_durable(A) == disk.peek(A), "what a start replayed is durable"

    on_loop(main)


# ------------------------------------------------------------------------------------------------------- failed syncs, writes


@pytest.mark.parametrize("how", ["sync", "write"])
def test_an_io_error_poisons_reads_go_on_and_no_start_opens_it_again(how: str) -> None:
    """The mark is there before the word; a power loss does not remove it; copies carry it."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (A, b"1"))
        if how == "sync":
            disk.fail_next_sync(after=1)
            await engine.sync()
            engine.apply([(DATA, A, b"2")])
            with pytest.raises(SyncFailed):
                await engine.sync()
            assert engine.get(DATA, A) == b"2", "the page cache shows what is lost"
        else:
            disk.trouble.write_errors_left = 1
            with pytest.raises(StorageError, match="IO error") as failed:
                engine.apply([(DATA, A, b"2")])
            assert not failed.value.definite
        assert disk.is_doomed
        for _ in range(2):
            with pytest.raises(SyncFailed):
                engine.apply([(DATA, A, b"3")])
            with pytest.raises(SyncFailed):
                await engine.sync()
        assert disk.peek_durable(A) == b"1"
        await engine.close(clean=True)
        disk.lose_power()
        with pytest.raises(SuspectStore):
            disk.open(boot_id="boot 2")

    on_loop(main)


def test_a_disk_that_fails_every_sync_does_not_open_either() -> None:
    """Opening syncs too: RocksEngine's `_begin` raises and marks the directory."""

    async def main() -> None:
        disk = disk_of()
        await disk.open().close(clean=True)
        disk.trouble.syncs_fail_for_good = True
        with pytest.raises(SyncFailed):
            disk.open()
        disk.heal()
        with pytest.raises(SuspectStore):
            disk.open()

    on_loop(main)


def test_if_even_the_mark_cannot_be_written_the_machine_remembers_it_until_it_restarts() -> None:
    """Then the next start sees only an unclean stop, and what was in the page cache may be gone."""

    async def main() -> None:
        outcomes = set()
        for seed in range(12):
            disk = disk_of(seed)
            engine = disk.open()
            disk.trouble.is_mark_lost = True
            disk.fail_next_sync()
            engine.apply([(DATA, A, b"1")])
            with pytest.raises(SyncFailed):
                await engine.sync()
            disk.kill()
            with pytest.raises(SuspectStore):
                disk.open()
            engine = disk.open(boot_id="boot 2")
            assert engine.report.history_may_be_missing
            outcomes.add(engine.get(DATA, A))
        assert outcomes == {None, b"1"}

    on_loop(main)


# ---------------------------------------------------------------------------------------------------------------- read errors


def test_read_errors_hit_a_range_a_number_of_times_and_poison_nothing() -> None:
    """A get and a scan raise what RocksDB would; outside of the range and afterwards all is well; writes go on."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (StorageKey(b"a"), b"1"), (StorageKey(b"m"), b"2"), (StorageKey(b"z"), b"3"))
        disk.fail_reads(ReadFault(DATA, b"b", b"n", left=2))
        disk.fail_reads(ReadFault(DATA, b"y", b"zz", is_corruption=True))
        with pytest.raises(StorageError, match="IO error"):
            engine.get(DATA, b"m")
        scan = engine.scan(DATA, b"", b"\xff")
        assert next(scan) == (b"a", b"1")
        with pytest.raises(StorageError, match="IO error"):
            next(scan)
        assert (engine.get(DATA, b"m"), engine.get(META, b"z")) == (b"2", None)
        for _ in range(3):
            with pytest.raises(Corruption):
                engine.get(DATA, b"z")
        await put(engine, (StorageKey(b"z"), b"4"))
        assert disk.peek(b"z") == b"4", "the harness looks past faults"
        disk.heal()
        assert engine.get(DATA, b"z") == b"4"

    on_loop(main)


# ---------------------------------------------------------------------------------------------------------------------- space


def test_below_the_watermark_data_is_refused_definitely_until_space_returns() -> None:
    """It is seen at the next sync; META, deletes and reads go on; room is used at once."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (A, b"1"))
        disk.fill(free_bytes=10_000, watermark_bytes=20_000)
        await put(engine, (A, b"2"))
        with pytest.raises(DiskFull) as refused:
            engine.apply([(META, b"m", b"1"), (DATA, A, b"3")])
        assert refused.value.definite and engine.get(META, b"m") is None and engine.get(DATA, A) == b"2"
        engine.apply([(META, b"m", b"1"), (DATA, B, None)])
        await engine.sync()
        disk.free_space()
        await put(engine, (A, b"3"))
        assert disk.peek_durable(A) == b"3"

    on_loop(main)


def test_no_space_out_of_the_log_is_indefinite_refuses_syncs_and_passes() -> None:
    """Nothing is poisoned or marked. What failed is there or not; syncs work again after the first write that got through."""

    async def main() -> None:
        in_doubt = set()
        for seed in range(12):
            disk = disk_of(seed)
            engine = disk.open()
            await put(engine, (A, b"1"))
            disk.fill(free_bytes=200)
            engine.apply([(DATA, A, b"2")])
            with pytest.raises(StorageError, match="No space left") as failed:
                engine.apply([(DATA, B, b"x" * 500)])
            assert not failed.value.definite and not isinstance(failed.value, SyncFailed)
            with pytest.raises(StorageError, match="no space"):
                await engine.sync()
            in_doubt.add(engine.get(DATA, B) is None)
            disk.free_space()
            await asyncio.sleep(NO_SPACE_RECOVERY_S_MAX)
            with pytest.raises(StorageError, match="no space"):
                await engine.sync()
            engine.apply([(META, b"probe", b"")])
            await engine.sync()
            assert disk.peek_durable(A) == b"2" and not disk.is_suspect
        assert in_doubt == {True, False}

    on_loop(main)


def test_a_store_without_space_closes_quietly_and_keeps_what_was_applied() -> None:
    """As RocksDB's: no sync, no clean mark, no error; the next start replays the log."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        engine.apply([(DATA, A, b"1")])
        disk.fill(free_bytes=0)
        with pytest.raises(StorageError):
            engine.apply([(DATA, B, b"2")])
        await engine.close(clean=True)
        with pytest.raises(StorageError):
            disk.open()
        disk.free_space()
        reopened = disk.open()
        assert reopened.get(DATA, A) == b"1" and not reopened.report.clean

    on_loop(main)


# ----------------------------------------------------------------------------------------------------------------------- speed


def test_slow_and_stalled_syncs_take_their_time_and_stalled_writes_are_refused() -> None:
    """A sync a hundred times slower, or standing for seconds; a write that would stall is `Overloaded`, nothing applied."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        now = asyncio.get_running_loop().time
        disk.trouble.sync_factor, disk.trouble.slow_until_s = 100.0, 10.0
        began = now()
        await engine.sync()
        assert 0.1 <= now() - began <= 0.25
        disk.trouble.syncs_stall_until_s = now() + 5.0
        began = now()
        await engine.sync()
        assert 5.0 <= now() - began <= 5.3
        disk.trouble.writes_stall_until_s = now() + 1.0
        with pytest.raises(Overloaded) as refused:
            engine.apply([(DATA, A, b"1")])
        assert refused.value.definite and engine.get(DATA, A) is None
        await asyncio.sleep(1.0)
        await put(engine, (A, b"1"))

    on_loop(main)


# ------------------------------------------------------------------------------------------------------------- harm at rest


def test_every_flipped_bit_of_a_record_is_caught_by_its_checksum() -> None:
    """Wherever it falls: the engine returns the bytes, the record's own checksum refuses them."""

    async def main() -> None:
        for seed in range(50):
            disk = disk_of(seed)
            engine = disk.open()
            await put(engine, (A, record(A, b"value")))
            disk.flip_bits(A, 1 + seed % 3)
            found = engine.get(DATA, A)
            assert found is not None and not check_record(A, found)
            disk.kill()
            assert not check_record(A, disk.open().get(DATA, A) or b"")

    on_loop(main)


def test_records_in_the_wrong_place_are_caught_because_the_checksum_covers_the_key() -> None:
    """Swapped records are both refused. A misdirected one is refused where it landed; its own key shows the old version."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (A, record(A, b"1")), (B, record(B, b"1")), (A, record(A, b"1", b"2")))
        disk.swap(A, B)
        assert [check_record(key, engine.get(DATA, key) or b"") for key in (A, B)] == [False, False]
        disk.swap(A, B)
        disk.misdirect(A, onto=B)
        found = engine.get(DATA, A)
        assert found == record(A, b"1") and decode_record(A, found).siblings[0].value == b"1"
        assert not check_record(B, engine.get(DATA, B) or b"")

    on_loop(main)


def test_a_lost_write_reverts_one_durable_version_and_nobody_can_see_it() -> None:
    """Not an unsynced one: harm waits until the newest version is durable."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (A, record(A, b"1")), (A, record(A, b"1", b"2")))
        await put(engine, (B, record(B, b"1")), is_synced=False)
        assert disk.settled_keys() == [A] and disk.maybe_previous(B) is None
        assert disk.durable_versions(A) == (record(A, b"1"), record(A, b"1", b"2"))
        disk.revert(A)
        assert check_record(A, engine.get(DATA, A) or b"")
        assert disk.peek_durable(A) == engine.get(DATA, A) == record(A, b"1")

    on_loop(main)


# ------------------------------------------------------------------------------------------------------------- whole disks


def test_a_lost_disk_is_a_new_store_and_an_old_copy_is_an_old_one() -> None:
    """A copy of files is reported as one; a rollback of the device is not, only its contents are old."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (A, b"old"))
        engine.apply([(META, META_NODE_ID, b"somenode")])
        await engine.close(clean=True)
        snapshot = disk.snapshot()
        await put(disk.open(), (A, b"new"))
        disk.kill()
        for is_block_level in (True, False):
            disk.restore(snapshot, is_block_level=is_block_level)
            engine = disk.open()
            assert engine.get(DATA, A) == b"old" and engine.report.is_copy is not is_block_level
            disk.kill()
        disk.wipe()
        engine = disk.open()
        assert engine.report.is_new and disk.records() == {} and disk.meta(META_NODE_ID) is None

    on_loop(main)


def test_a_copy_of_a_marked_store_is_marked_too() -> None:
    """`cp -a` takes SUSPECT along."""

    async def main() -> None:
        disk, other = disk_of(), disk_of(2)
        engine = disk.open()
        disk.fail_next_sync()
        with pytest.raises(SyncFailed):
            await engine.sync()
        other.restore(disk.snapshot(), is_block_level=False)
        with pytest.raises(SuspectStore):
            other.open()

    on_loop(main)


def test_looking_changes_nothing() -> None:
    """Newest and durable states, past unreadable values and faults."""

    async def main() -> None:
        disk = disk_of()
        engine = disk.open()
        await put(engine, (A, b"1"), (B, b"1"))
        await put(engine, (A, b"2"), is_synced=False)
        disk.corrupt(DATA, B)
        disk.fail_reads(ReadFault(DATA, b"", b"\xff" * 9))
        keys = sorted([A, B])
        assert disk.records() == dict(sorted({A: b"2", B: b""}.items())) and list(disk.records()) == keys
        assert disk.durable_records() == {A: b"1", B: b""}
        assert (disk.peek(A), disk.peek_durable(A), disk.peek(b"no"), disk.unsynced_count) == (b"2", b"1", None, 1)

    on_loop(main)
