"""What every engine promises its node: one suite for RocksDB and for its twin in memory.

The two differ only in how the outside world hurts them, which is a `Store` here: kill the process, cut the power, rot the disk,
copy the directory. RocksDB's power loss is a copy of the directory with the log cut to its size at the last returned sync.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvstore.errors import Corruption, DataDirectoryInUse, StorageError, SuspectStore, SyncFailed
from kvstore.storage.engine import Engine, Family, Put
from kvstore.storage.identity import META_EPOCHS_RETIRE
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from kvstore.storage.rocksdb import EngineOptions, RocksEngine

DATA, META = Family.DATA, Family.META
OPTIONS = EngineOptions(low_space_bytes=0)


class Store(Protocol):
    """One data directory and what can happen to it while `engine` is open."""

    engine: Engine

    def open(self, boot_id: str = "boot-1") -> Engine: ...

    def synced(self) -> None:
        """Called after a sync returned: remember what is now safe."""

    async def kill(self) -> None:
        """End the process: the page cache survives."""

    async def lose_power(self, kept: float = 0.0) -> None:
        """End the machine; of what was not synced about this fraction was written all the same."""

    async def rot(self) -> None:
        """Make some value in the middle of DATA unreadable; the store is closed and opened around it."""

    async def copy(self) -> Store:
        """Stop the store cleanly and return a copy of its directory."""

    def snapshot(self) -> None:
        """Remember the disk as it is now, with what is not synced or without."""

    async def roll_back(self) -> None:
        """End the process and put the disk back to the snapshot, block by block: not even an inode differs."""

    async def lose_mark(self) -> None:
        """Let a sync fail and its mark be lost, as a file system does that became read-only; end the process."""

    def lose_witness(self) -> None:
        """Take the memory of this machine away: its run directory is gone, and cannot be made."""


class MemoryStore:
    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.engine: Engine

    def open(self, boot_id: str = "boot-1") -> Engine:
        self.engine = MemoryEngine.open(self.disk, boot_id=boot_id)
        return self.engine

    def synced(self) -> None:
        pass

    async def kill(self) -> None:
        self.disk.crash()

    async def lose_power(self, kept: float = 0.0) -> None:
        self.disk.crash(keep=lambda count: int(count * kept))

    async def rot(self) -> None:
        keys = [key for key, _ in self.engine.scan(DATA, b"", b"\xff")]
        self.disk.corrupt(DATA, keys[len(keys) // 2])
        await self.engine.close(clean=True)
        self.open()

    async def copy(self) -> MemoryStore:
        await self.engine.close(clean=True)
        return MemoryStore(self.disk.copy())

    def snapshot(self) -> None:
        self.image = self.disk.copy(is_block_level=True)

    async def roll_back(self) -> None:
        self.disk.crash()
        self.image.witness, self.disk = self.disk.witness, self.image

    async def lose_mark(self) -> None:
        self.disk.fail_sync_after(0)
        with pytest.raises(SyncFailed):
            await self.engine.sync()
        self.disk.fail_sync_after(1_000)
        self.disk.crash()
        self.disk.is_suspect = False

    def lose_witness(self) -> None:
        self.disk.witness.is_missing = True


class RocksStore:
    def __init__(self, root: Path, run_directory: Path | None = None) -> None:
        self.root, self.path = root, root / "data"
        self.run_directory = run_directory or root / "run"
        self.log_sizes: dict[str, int] = {}
        self.engine: Engine

    def open(self, boot_id: str = "boot-1") -> Engine:
        self.engine = RocksEngine.open(self.path, boot_id=boot_id, options=OPTIONS, run_directory=self.run_directory)
        self.synced()
        return self.engine

    def synced(self) -> None:
        self.log_sizes = {log.name: log.stat().st_size for log in (self.path / "db").glob("*.log")}

    async def kill(self) -> None:
        await self._leave(kept=1.0)

    async def lose_power(self, kept: float = 0.0) -> None:
        await self._leave(kept)

    async def _leave(self, kept: float) -> None:
        """Let the directory look as it did at the moment of the crash."""
        self.snapshot()
        for log in (self.root / "image" / "db").glob("*.log"):
            size, safe_size = log.stat().st_size, self.log_sizes.get(log.name, 0)
            os.truncate(log, safe_size + int((size - safe_size) * kept))
        await self.roll_back()

    def snapshot(self) -> None:
        image = self.root / "image"
        shutil.rmtree(image, ignore_errors=True)
        copy_while_open(self.path, image)
        # A link, not a copy: after a crash the IDENTITY file is the same file.
        (image / "IDENTITY").unlink()
        os.link(self.path / "IDENTITY", image / "IDENTITY")

    async def roll_back(self) -> None:
        await self.engine.close(clean=False)
        shutil.rmtree(self.path)
        (self.root / "image").rename(self.path)

    async def lose_mark(self) -> None:
        assert isinstance(self.engine, RocksEngine)
        self.engine._poisoned_by(StorageError("IO error: injected"), is_suspect=True)
        await self.engine.close(clean=False)
        (self.path / "SUSPECT").unlink()

    def lose_witness(self) -> None:
        shutil.rmtree(self.run_directory)
        self.run_directory.write_text("in the way")

    async def rot(self) -> None:
        await self.engine.close(clean=True)
        table = max((self.path / "db").glob("*.sst"), key=lambda file: file.stat().st_size)
        flip_bit(table, table.stat().st_size // 2)
        self.open()

    async def copy(self) -> RocksStore:
        await self.engine.close(clean=True)
        made = RocksStore(self.root / "copy", self.run_directory)
        shutil.copytree(self.path, made.path)
        return made


def copy_while_open(source: Path, target: Path) -> None:
    """Copy a directory RocksDB may be compacting in: again until nothing changed meanwhile, so that it is one moment."""
    for _ in range(100):
        try:
            sizes_before = file_sizes(source)
            shutil.copytree(source, target)
            if file_sizes(source) == sizes_before:
                return
        except (shutil.Error, FileNotFoundError):
            pass  # A file was deleted under us: that was not one moment.
        shutil.rmtree(target, ignore_errors=True)
    raise AssertionError(f"{source} never kept still")


def file_sizes(directory: Path) -> dict[str, int]:
    # RocksDB's chatter (LOG) says nothing about its state.
    return {
        str(entry): entry.stat().st_size
        for entry in directory.rglob("*")
        if entry.is_file() and not entry.name.startswith("LOG")
    }


def flip_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.fixture(params=["memory", "rocksdb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else RocksStore(tmp_path)
    made.open()
    yield made
    await made.engine.close(clean=False)


def contents(engine: Engine, family: Family = DATA) -> dict[bytes, bytes]:
    return dict(engine.scan(family, b"", b"\xff" * 9))


def fill(engine: Engine, count: int, size_bytes: int = 8) -> dict[bytes, bytes]:
    """Put `count` keys k000000.. with values that do not compress, in batches of 100."""
    rng = random.Random(7)
    made = {b"k%06d" % i: rng.randbytes(size_bytes) for i in range(count)}
    puts: list[Put] = [(DATA, key, value) for key, value in made.items()]
    for start in range(0, count, 100):
        engine.apply(puts[start : start + 100])
    return made


# ------------------------------------------------------------------------------------------------- applying and reading


async def test_what_is_applied_is_visible_at_once(store: Store) -> None:
    """Put, overwrite and delete show in `get` before any sync; an absent key is None."""
    engine = store.engine

    engine.apply([(DATA, b"a", b"1")])
    engine.apply([(DATA, b"b", b"2")])
    engine.apply([(DATA, b"a", b"3")])
    engine.apply([(DATA, b"b", None)])

    assert engine.get(DATA, b"a") == b"3"
    assert engine.get(DATA, b"b") is None
    assert engine.get(DATA, b"never") is None


async def test_values_are_bytes_of_any_content(store: Store) -> None:
    """Zero bytes, the empty value and a large one come back as they were; an empty value is not an absent one."""
    values = {b"\x00": b"", b"\x00\xff": b"\x00\x00", b"big": random.Random(1).randbytes(1 << 20)}

    for key, value in values.items():
        store.engine.apply([(DATA, key, value)])

    assert {key: store.engine.get(DATA, key) for key in values} == values


async def test_a_batch_spans_families_and_its_last_put_wins(store: Store) -> None:
    """One batch writes both families in order; families do not see each other's keys."""
    store.engine.apply([(DATA, b"k", b"old"), (META, b"k", b"meta"), (DATA, b"k", b"new")])
    store.engine.apply([(DATA, b"gone", b"x"), (DATA, b"gone", None)])

    assert contents(store.engine) == {b"k": b"new"}
    assert store.engine.get(META, b"k") == b"meta"


async def test_an_empty_batch_changes_nothing(store: Store) -> None:
    """Applying nothing is allowed, and so is syncing nothing."""
    store.engine.apply([])
    await store.engine.sync()

    assert contents(store.engine) == {}


# -------------------------------------------------------------------------------------------------------------- scanning


async def test_a_scan_of_a_middle_range_yields_exactly_it_in_order(store: Store) -> None:
    """Lower bound in, upper bound out, nothing of before or after, whatever order keys came in."""
    keys = [b"k%02d" % i for i in range(30)]
    for key in random.Random(3).sample(keys, len(keys)):
        store.engine.apply([(DATA, key, b"v" + key)])
        store.engine.apply([(META, key, b"other family")])

    found = list(store.engine.scan(DATA, b"k10", b"k20"))

    assert found == [(key, b"v" + key) for key in keys[10:20]]


async def test_scans_of_nothing_are_empty(store: Store) -> None:
    """Before, after and between the keys, and ranges that are empty or upside down."""
    store.engine.apply([(DATA, b"b", b"1"), (DATA, b"d", b"2")])

    for lower, upper in [(b"", b"b"), (b"e", b"f"), (b"b\x00", b"d"), (b"b", b"b"), (b"d", b"b")]:
        assert list(store.engine.scan(DATA, lower, upper)) == []


async def test_bytes_sort_unsigned_and_shorter_first(store: Store) -> None:
    """The order of keys is that of `bytes` in Python: the ring depends on it."""
    keys = [b"\xff\xff", b"\x80", b"\x7f", b"\x00", b"\x00\x00", b"a", b"a\x00", b"aa", b"\xff"]
    store.engine.apply([(DATA, key, b"") for key in keys])

    assert [key for key, _ in store.engine.scan(DATA, b"\x00", b"\xff\xff\xff")] == sorted(keys)


async def test_a_scan_sees_the_moment_it_was_made(store: Store) -> None:
    """Puts and deletes after `scan` was called do not show in it, even before its first step."""
    store.engine.apply([(DATA, b"a", b"1"), (DATA, b"b", b"1")])

    scan = store.engine.scan(DATA, b"", b"z")
    store.engine.apply([(DATA, b"b", b"2"), (DATA, b"c", b"2"), (DATA, b"a", None)])

    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]


async def test_deleting_a_range_takes_the_middle_and_only_it(store: Store) -> None:
    """Lower bound in, upper bound out, one family; an empty or upside-down range deletes nothing."""
    expected = fill(store.engine, 30)
    store.engine.apply([(META, b"k000015", b"stays")])

    store.engine.delete_range(DATA, b"k000010", b"k000020")
    store.engine.delete_range(DATA, b"k000025", b"k000025")
    store.engine.delete_range(DATA, b"k000029", b"k000021")

    assert contents(store.engine) == {k: v for k, v in expected.items() if not b"k000010" <= k < b"k000020"}
    assert store.engine.get(META, b"k000015") == b"stays"


async def test_estimates_grow_with_the_data(store: Store) -> None:
    """About right is enough: `kvctl status` shows them."""
    size_before = store.engine.size_bytes()

    fill(store.engine, 500, size_bytes=100)

    assert 400 <= store.engine.keys_estimate() <= 600
    assert store.engine.size_bytes() - size_before >= 40_000


# --------------------------------------------------------------------------------------------------- crashes and syncing


async def test_what_was_synced_survives_power_loss_and_the_rest_is_gone(store: Store) -> None:
    """A returned sync is a promise; what came after it is the suffix a crash may take."""
    store.engine.apply([(DATA, b"safe", b"1"), (META, b"safe", b"1")])
    await store.engine.sync()
    store.synced()
    store.engine.apply([(DATA, b"unsafe", b"1")])

    await store.lose_power()
    engine = store.open("boot-2")

    assert contents(engine) == {b"safe": b"1"}
    assert engine.get(META, b"safe") == b"1"


@pytest.mark.parametrize("kept", [0.1, 0.35, 0.5, 0.99])
async def test_a_crash_takes_a_suffix_of_whole_batches(store: Store, kept: float) -> None:
    """Wherever the log is cut, the state is that after some batch: never half of one, never a hole."""
    states: list[dict[bytes, bytes]] = [{}]
    for i in range(20):
        store.engine.apply([(DATA, b"a%02d" % i, b"x" * i), (DATA, b"last", b"%d" % i), (META, b"last", b"%d" % i)])
        states.append({**states[-1], b"a%02d" % i: b"x" * i, b"last": b"%d" % i})

    await store.lose_power(kept)
    engine = store.open("boot-2")

    assert contents(engine) in states
    assert engine.get(META, b"last") == engine.get(DATA, b"last")


async def test_a_killed_process_loses_nothing(store: Store) -> None:
    """The page cache survives SIGKILL: what was applied is there although nothing was synced."""
    expected = fill(store.engine, 50)

    await store.kill()

    assert contents(store.open()) == expected


async def test_concurrent_syncs_each_cover_what_came_before_them(store: Store) -> None:
    """Group commit: batches applied while a sync runs are covered by the next one."""
    engine = store.engine
    engine.apply([(DATA, b"1", b"")])
    first = asyncio.ensure_future(engine.sync())
    engine.apply([(DATA, b"2", b"")])
    second = asyncio.ensure_future(engine.sync())

    await first
    await second
    store.synced()
    await store.lose_power()

    assert sorted(contents(store.open("boot-2"))) == [b"1", b"2"]


# ------------------------------------------------------------------------------------------------------------------- rot


async def test_an_unreadable_value_is_corruption_and_never_absent(store: Store) -> None:
    """A flipped bit in the middle of the data: `get` raises for what it hit, everything else reads as before."""
    expected = fill(store.engine, 2_000, size_bytes=400)

    await store.rot()

    hit = 0
    for key, value in expected.items():
        try:
            found = store.engine.get(DATA, key)
        except Corruption:
            hit += 1
        else:
            assert found == value
    assert 1 <= hit <= 100


async def test_a_scan_that_meets_rot_raises_instead_of_ending(store: Store) -> None:
    """What it yielded before is a right and ordered beginning; then `Corruption`, not a silent end."""
    expected = fill(store.engine, 2_000, size_bytes=400)
    await store.rot()

    found = []
    with pytest.raises(Corruption):
        for item in store.engine.scan(DATA, b"", b"\xff"):
            found.append(item)

    assert 0 < len(found) < 2_000
    assert found == sorted(expected.items())[: len(found)]


# --------------------------------------------------------------------------------------------------- opening and closing


async def test_a_new_store_says_so(store: Store) -> None:
    """A new store is clean and has no history to miss."""
    report = store.engine.report

    assert (report.is_new, report.clean, report.is_copy) == (True, True, False)
    assert not report.history_may_be_missing


async def test_a_clean_stop_is_reported_once(store: Store) -> None:
    """The mark is written last and is gone right after open, so a crash in the next run is not taken for clean."""
    await store.engine.close(clean=True)
    after_stop = store.open("boot-2").report
    await store.lose_power()
    after_crash = store.open("boot-3").report

    assert (after_stop.is_new, after_stop.clean, after_stop.history_may_be_missing) == (False, True, False)
    assert (after_crash.is_new, after_crash.clean, after_crash.history_may_be_missing) == (False, False, True)


async def test_closing_without_the_mark_is_not_clean(store: Store) -> None:
    """`close(clean=False)` syncs but says nothing about the state of what was above the engine."""
    store.engine.apply([(DATA, b"k", b"v")])
    await store.engine.close(clean=False)

    engine = store.open("boot-2")

    assert not engine.report.clean
    assert engine.get(DATA, b"k") == b"v"


async def test_a_kill_under_the_same_kernel_loses_no_history(store: Store) -> None:
    """Unclean, but the kernel did not restart: the page cache had everything, so actors may go on."""
    await store.kill()
    report = store.open("boot-1").report

    assert (report.clean, report.same_boot, report.history_may_be_missing) == (False, True, False)


async def test_without_a_boot_id_no_start_is_taken_for_the_same_boot(store: Store) -> None:
    """Some kernels have none: then an unclean stop always counts as possible loss."""
    await store.kill()
    store.open("")
    await store.kill()

    assert store.open("").report.history_may_be_missing


# --------------------------------------------------------------------------------------------------------- the witness


async def test_a_disk_put_back_under_the_same_kernel_has_a_history_missing(store: Store) -> None:
    """Whatever of the run is gone, synced or only applied (others may have been sent it): reported until epochs retired."""
    store.engine.apply([(DATA, b"k", b"old")])
    await store.engine.sync()
    store.snapshot()
    store.engine.apply([(DATA, b"k", b"new")])

    await store.roll_back()
    first = store.open()
    value = first.get(DATA, b"k")
    await store.kill()
    second = store.open().report

    assert value == b"old"
    assert (first.report.clean, first.report.same_boot, first.report.is_rolled_back) == (False, False, True)
    assert first.report.history_may_be_missing and "went back" in first.report.doubt
    assert second.history_may_be_missing


async def test_a_disk_put_back_to_a_clean_stop_is_not_whole_while_the_kernel_remembers_a_later_run(
    store: Store,
) -> None:
    """The mark is of the past; the witness of the killed run knows better."""
    await store.engine.close(clean=True)
    store.snapshot()
    store.open()
    await store.roll_back()

    report = store.open().report

    assert report.clean and report.is_rolled_back and report.history_may_be_missing


async def test_nothing_applied_in_vain_is_taken_for_loss(store: Store) -> None:
    """Kill after kill: batches, deletes and ranges, synced or not, leave nothing to doubt."""
    for number in range(5):
        store.engine.apply([(DATA, b"a%d" % number, b"1"), (META, b"a", b"1"), (DATA, b"b", None)])
        store.engine.apply([])
        if number % 2:
            await store.engine.sync()
        store.engine.delete_range(DATA, b"a0", b"a1")
        await store.kill()
        report = store.open().report
        assert (report.same_boot, report.is_rolled_back, report.doubt) == (True, False, "")


async def test_a_failed_sync_is_remembered_even_if_its_mark_was_lost(store: Store) -> None:
    """While the kernel lives the store does not open; after a reboot it does, with a history that may be missing."""
    await store.lose_mark()

    for _ in range(2):
        with pytest.raises(SuspectStore):
            store.open()
    report = store.open("boot-2").report

    assert report.history_may_be_missing and not report.same_boot


async def test_without_a_witness_a_kill_counts_as_loss_and_opening_goes_well(store: Store) -> None:
    """Other user, other container, no shared memory: the safe side, and the report says why. A clean stop is still clean."""
    store.lose_witness()
    await store.kill()
    killed = store.open().report
    store.engine.apply([(Family.META, META_EPOCHS_RETIRE, None)])
    await store.engine.close(clean=True)
    stopped = store.open().report

    assert killed.history_may_be_missing and not killed.is_rolled_back and killed.doubt
    assert not store.engine.remember_refusal(b"no memory")
    assert not stopped.history_may_be_missing and "run" in stopped.doubt


async def test_a_refusal_is_remembered_until_the_kernel_restarts(store: Store) -> None:
    """Through kills and even a clean stop; another boot has forgotten it; an empty one takes it back."""
    assert store.engine.report.refused == b""
    assert store.engine.remember_refusal(b"S you are stale")
    await store.kill()
    after_kill = store.open().report.refused
    await store.engine.close(clean=True)
    after_stop = store.open().report.refused
    store.engine.remember_refusal(b"")
    await store.kill()
    taken_back = store.open().report.refused
    store.engine.remember_refusal(b"again")
    await store.kill()

    assert (after_kill, after_stop, taken_back) == (b"S you are stale", b"S you are stale", b"")
    assert store.open("boot-2").report.refused == b""


# --------------------------------------------------------------------------------------------------- copies and locks


async def test_a_copied_directory_is_reported_until_its_epochs_are_retired(store: Store) -> None:
    """A copy says so at its first start, warns until that had its consequence, and belongs to itself afterwards."""
    store.engine.apply([(DATA, b"k", b"v")])
    copy = await store.copy()

    first = copy.open()
    first_report, value = first.report, first.get(DATA, b"k")
    await first.close(clean=True)
    second = copy.open()
    second_report = second.report
    second.apply([(Family.META, META_EPOCHS_RETIRE, None)])
    await second.close(clean=True)
    third_report = copy.open().report
    await copy.engine.close(clean=True)
    original_report = store.open().report

    assert (first_report.is_copy, first_report.history_may_be_missing, value) == (True, True, b"v")
    assert (second_report.is_copy, second_report.history_may_be_missing) == (False, True)
    assert (third_report.is_copy, third_report.history_may_be_missing) == (False, False)
    assert not original_report.is_copy


async def test_an_open_store_is_locked(store: Store) -> None:
    """A second engine on the same directory is refused; after close it opens, even if a scan was left unfinished."""
    fill(store.engine, 10)
    engine = store.engine
    scan = engine.scan(DATA, b"", b"z")
    next(scan)

    with pytest.raises(DataDirectoryInUse):
        store.open()
    await engine.close(clean=True)

    assert len(contents(store.open())) == 10
    with pytest.raises(StorageError):
        next(scan)


async def test_a_closed_engine_refuses_everything(store: Store) -> None:
    """Close is final and idempotent; nothing answers as if the store were empty."""
    engine = store.engine
    engine.apply([(DATA, b"k", b"v")])
    await engine.close(clean=True)
    await engine.close(clean=True)

    with pytest.raises(StorageError):
        engine.get(DATA, b"k")
    with pytest.raises(StorageError):
        engine.apply([(DATA, b"k", b"v")])
    with pytest.raises(StorageError):
        engine.delete_range(DATA, b"a", b"z")
    with pytest.raises(StorageError):
        list(engine.scan(DATA, b"", b"z"))
    with pytest.raises(StorageError):
        await engine.sync()


# ------------------------------------------------------------------------------------------- against a dictionary, at random

KEYS = st.sampled_from([b"", b"\x00", b"a", b"a\x00", b"b", b"k1", b"k2", b"k3", b"\xff"]).filter(bool)
VALUES = st.one_of(st.none(), st.binary(max_size=40))
PUTS = st.lists(st.tuples(st.sampled_from(list(Family)), KEYS.map(lambda key: b"\x7f" + key), VALUES), max_size=5)
State = dict[tuple[Family, bytes], bytes]


class EngineAgainstDictionary(RuleBasedStateMachine):
    """Batches, range deletes, syncs and crashes against a list of dictionaries: one per batch since the last sync."""

    def make_store(self) -> Store:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.store = self.make_store()
        self.store.open()
        self.boots = 1
        self.states: list[State] = [{}]

    @rule(puts=PUTS)
    def apply(self, puts: list[Put]) -> None:
        self.store.engine.apply(puts)
        state = dict(self.states[-1])
        for family, key, value in puts:
            if value is None:
                state.pop((family, key), None)
            else:
                state[family, key] = value
        self.states.append(state)

    @rule(family=st.sampled_from(list(Family)), lower=KEYS, upper=KEYS)
    def delete_range(self, family: Family, lower: bytes, upper: bytes) -> None:
        lower, upper = b"\x7f" + lower, b"\x7f" + upper
        self.store.engine.delete_range(family, lower, upper)
        self.states.append(
            {k: v for k, v in self.states[-1].items() if k[0] is not family or not lower <= k[1] < upper}
        )

    @rule()
    def sync(self) -> None:
        self.runner.run(self.store.engine.sync())
        self.store.synced()
        self.states = self.states[-1:]

    @rule(kept=st.floats(0, 1))
    def lose_power(self, kept: float) -> None:
        self.runner.run(self.store.lose_power(kept))
        self.boots += 1
        self.store.open(f"boot-{self.boots}")
        self.store.engine.apply(
            [(Family.META, META_EPOCHS_RETIRE, None)]
        )  # what a node does once it retired its epochs
        assert self.observed() in self.states
        self.states = [self.observed()]
        self.sync()

    @rule()
    def kill(self) -> None:
        self.runner.run(self.store.kill())
        self.store.open(f"boot-{self.boots}")

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.runner.run(self.store.engine.close(clean=clean))
        assert self.store.open(f"boot-{self.boots}").report.clean is clean
        self.states = self.states[-1:]

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "store"):
            assert self.observed() == self.states[-1]

    def observed(self) -> State:
        return {(f, k): v for f in Family for k, v in self.store.engine.scan(f, b"\x7f", b"\x80")}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.engine.close(clean=False))
            self.runner.close()


class MemoryAgainstDictionary(EngineAgainstDictionary):
    def make_store(self) -> Store:
        return MemoryStore()


class RocksAgainstDictionary(EngineAgainstDictionary):
    def make_store(self) -> Store:
        self.root = Path(tempfile.mkdtemp(prefix="kvstore-engine-"))
        return RocksStore(self.root)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "root"):
            shutil.rmtree(self.root)


TestMemoryAgainstDictionary = MemoryAgainstDictionary.TestCase
TestMemoryAgainstDictionary.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRocksAgainstDictionary = RocksAgainstDictionary.TestCase
# Each crash opens a database (30 ms): few walks here, many in memory, and the suite above for what matters most.
TestRocksAgainstDictionary.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
