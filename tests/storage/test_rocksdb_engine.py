"""RocksDB's own ways to fail: flipped bits in the log, failed fsyncs, a full disk, stalls, and who may open a directory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvstore.errors import (
    ConfigError,
    Corruption,
    DataDirectoryInUse,
    DiskFull,
    Overloaded,
    StorageError,
    SuspectStore,
    SyncFailed,
)
from kvstore.storage.engine import Engine, Family
from kvstore.storage.identity import META_NODE_ID, open_identity
from kvstore.storage.rocksdb import EngineOptions, RocksEngine

DATA, META = Family.DATA, Family.META
NO_WATERMARK = EngineOptions(low_space_bytes=0)
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[RocksEngine]:
    made = RocksEngine.open(tmp_path / "data", boot_id="boot-1", options=NO_WATERMARK)
    yield made
    await made.close(clean=False)


def crash_image(source: Path, target: Path) -> Path:
    """Copy a directory as a kill would leave it (the engine in it is still open)."""
    shutil.copytree(source, target)
    return target


def flip_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def values(engine: Engine) -> dict[bytes, bytes]:
    return dict(engine.scan(DATA, b"", b"\xff" * 9))


# --------------------------------------------------------------------------------------------------- bits flipped in the log


@pytest.mark.parametrize("place", [0.02, 0.3, 0.5, 0.8, 0.97])
async def test_a_flipped_bit_in_the_log_keeps_what_was_synced_or_refuses_to_open(
    engine: RocksEngine, tmp_path: Path, place: float
) -> None:
    """Never a quiet start without acknowledged data. (RocksDB's default recovery mode does exactly that.)"""
    rng = random.Random(1)
    expected = {b"k%03d" % i: rng.randbytes(200) for i in range(200)}
    for key, value in expected.items():
        engine.apply([(DATA, key, value)])
    await engine.sync()
    image = crash_image(tmp_path / "data", tmp_path / "image")
    [log] = (image / "db").glob("*.log")
    flip_bit(log, int(log.stat().st_size * place))

    try:
        opened = RocksEngine.open(image, boot_id="boot-2", options=NO_WATERMARK)
    except SuspectStore as error:
        message = error.message
    else:
        message = "new node"
        assert values(opened) == expected
        await opened.close(clean=False)

    assert "new node" in message


async def test_a_torn_end_of_the_log_opens_with_what_came_before(engine: RocksEngine, tmp_path: Path) -> None:
    """A half-written last batch is the normal trace of a power loss, not rot."""
    engine.apply([(DATA, b"a", b"x" * 100)])
    engine.apply([(DATA, b"b", b"x" * 100)])
    image = crash_image(tmp_path / "data", tmp_path / "image")
    [log] = (image / "db").glob("*.log")
    os.truncate(log, log.stat().st_size - 30)

    opened = RocksEngine.open(image, boot_id="boot-2", options=NO_WATERMARK)

    assert list(values(opened)) == [b"a"]
    await opened.close(clean=False)


# ------------------------------------------------------------------------------------------------------------ failing fsyncs

CHILD_SYNCS_COUNT = 60
CHILD = f"""
import asyncio, json, sys
from kvstore.errors import KVStoreError
from kvstore.storage.engine import Family
from kvstore.storage.rocksdb import EngineOptions, RocksEngine

async def main():
    engine = RocksEngine.open(sys.argv[1], boot_id="boot-1", options=EngineOptions(low_space_bytes=0))
    acked, codes, applied = [], [], []
    for i in range({CHILD_SYNCS_COUNT}):
        key = b"k%03d" % i
        try:
            engine.apply([(Family.DATA, key, b"v")])
            applied.append(i)
            await engine.sync()
            acked.append(i)
        except KVStoreError as error:
            codes.append(error.code)
    readable = engine.get(Family.DATA, b"k000") == b"v"
    await engine.close(clean=True)
    print(json.dumps([acked, applied, codes, readable]))

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is needed to make a real fsync fail")
def test_one_failed_fsync_poisons_the_store_for_good(tmp_path: Path) -> None:
    """The 40th fsync of a thread returns EIO, later ones would succeed: nothing is acknowledged after it, reads go on, the
    directory is marked, and no later start opens it. Only the sync thread ever gets to 40."""
    data = tmp_path / "data"
    inject = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", "trace=fsync,fdatasync"]
    inject += ["-e", "inject=fsync,fdatasync:error=EIO:when=40"]

    done = subprocess.run(
        [*inject, sys.executable, "-c", textwrap.dedent(CHILD), str(data)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0 and "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    acked, applied, codes, readable = json.loads(done.stdout)

    assert acked == list(range(39))
    assert applied == list(range(40))
    assert codes == ["sync_failed"] * (CHILD_SYNCS_COUNT - 39)
    assert readable
    trace = (tmp_path / "trace").read_text().splitlines()
    failed_at = next(i for i, line in enumerate(trace) if "INJECTED" in line)
    assert not [line for line in trace[failed_at + 1 :] if "fdatasync(" in line], "a failed fsync was retried"
    with pytest.raises(SuspectStore, match="empty --data directory"):
        RocksEngine.open(data, options=NO_WATERMARK)


async def test_a_failed_sync_is_seen_even_if_nobody_waited_for_it(
    engine: RocksEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled waiter must not hide the failure from those who come later."""

    class FailingDatabase:
        def flush_wal(self, sync: bool) -> None:
            raise Exception("IO error: While fdatasync: 000004.log: Input/output error")

        def close(self) -> None:
            database.close()

    database = engine._database
    monkeypatch.setattr(engine, "_database", FailingDatabase())
    waiter = asyncio.ensure_future(engine.sync())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(SyncFailed):
        await engine.sync()

    with pytest.raises(SyncFailed):
        engine.apply([(DATA, b"k", b"v")])
    assert (tmp_path / "data" / "SUSPECT").exists()
    await asyncio.gather(waiter, return_exceptions=True)


@pytest.mark.parametrize(
    ("text", "error", "is_poisoned"),
    [
        ("Result incomplete: Write stall", Overloaded, False),
        (
            "IO error: No space left on device: While appending to file: 000004.log: No space left on device",
            StorageError,
            False,
        ),
        ("IO error: While fsync: 000009.sst: Input/output error", StorageError, True),
        ("Corruption: block checksum mismatch", Corruption, True),
        ("Invalid argument: something new", StorageError, False),
    ],
)
async def test_errors_of_a_write_are_told_apart(
    engine: RocksEngine, monkeypatch: pytest.MonkeyPatch, text: str, error: type[StorageError], is_poisoned: bool
) -> None:
    """A stall is definite, no space is indefinite but passes, an I/O error or rot under a write is the end of the store."""

    class FailingFamily:
        def put(self, *arguments: object) -> None:
            raise Exception(text)

        def property_int_value(self, name: str) -> int | None:
            return data.property_int_value(name)

        def close(self) -> None:
            data.close()

    data = engine._data
    monkeypatch.setattr(engine, "_data", FailingFamily())
    with pytest.raises(error) as caught:
        engine.apply([(DATA, b"k", b"v")])

    assert caught.value.definite is (error in (Overloaded, Corruption))
    if is_poisoned:
        with pytest.raises(SyncFailed):
            engine.apply([(META, b"k", b"v")])
    else:
        engine.apply([(META, b"k", b"v")])


async def test_a_bug_of_ours_is_not_a_storage_error(engine: RocksEngine) -> None:
    """A wrong type reaches the developer as what it is."""
    with pytest.raises(TypeError):
        engine.apply([(DATA, b"k", 5)])  # type: ignore[list-item]


# ------------------------------------------------------------------------------------------------------------------ pressure


async def test_a_stall_is_overloaded_and_nothing_of_it_was_applied(tmp_path: Path) -> None:
    """With tiny memtables the flusher falls behind at once: refused batches are absent, accepted ones present."""
    options = EngineOptions(write_buffer_bytes=64 * 1024, background_jobs=1, low_space_bytes=0)
    engine = RocksEngine.open(tmp_path / "data", options=options)
    value = random.Random(1).randbytes(30_000)

    accepted, refused = [], []
    for i in range(2_000):
        key = b"k%06d" % i
        try:
            engine.apply([(DATA, key, value)])
            accepted.append(key)
        except Overloaded:
            refused.append(key)

    assert refused, "expected the engine to stall"
    assert all(engine.get(DATA, key) is None for key in refused)
    assert all(engine.get(DATA, key) == value for key in accepted)
    await engine.close(clean=True)


async def test_below_the_watermark_data_is_refused_and_everything_else_goes_on(tmp_path: Path) -> None:
    """Definite for single puts and batches; deletes, META and reads go on; data again when space returns."""
    engine = RocksEngine.open(tmp_path / "data", options=NO_WATERMARK)
    engine.apply([(DATA, b"old", b"v")])

    engine._space.watermark_bytes = 1 << 62
    await engine.sync()
    with pytest.raises(DiskFull):
        engine.apply([(DATA, b"new", b"v")])
    with pytest.raises(DiskFull):
        engine.apply([(META, b"m", b"v"), (DATA, b"new", b"v")])
    refused = (engine.get(DATA, b"new"), engine.get(META, b"m"), engine.get(DATA, b"old"))
    engine.apply([(META, b"m", b"v")])
    engine.apply([(META, b"m2", b"v"), (DATA, b"old", None)])
    engine._space.watermark_bytes = 0
    engine.apply([(DATA, b"new", b"v")])

    assert refused == (None, None, b"v")
    assert values(engine) == {b"new": b"v"}
    await engine.close(clean=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 48 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def fill_disk(path: Path) -> None:
    """Take every free byte of a file system."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


async def test_a_small_disk_fills_up_to_the_watermark_and_not_further(small_disk: Path) -> None:
    """On a real file system: refused definitely with room left, everything acknowledged stays, and deleting helps."""
    engine = RocksEngine.open(small_disk / "data", options=EngineOptions(write_buffer_bytes=2 << 20))
    rng = random.Random(1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(8 << 20))
    count = 0

    with pytest.raises(DiskFull):
        while True:
            try:
                engine.apply([(DATA, b"k%06d" % count, rng.randbytes(1000))])
                count += 1
            except Overloaded:  # The flusher needs a moment; its sync gives it one.
                await engine.sync()
    free_bytes = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    await engine.sync()
    ballast.unlink()
    engine.apply([(DATA, b"after", b"v")])
    await engine.sync()

    assert free_bytes > 8 << 20
    assert len(values(engine)) == count + 1
    await engine.close(clean=True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["log", "memtable"])
async def test_a_full_disk_is_indefinite_and_passes_when_space_returns(small_disk: Path, fault: str) -> None:
    """RocksDB itself runs out of space, writing its log or a memtable. It recovers alone within seconds, without a restart:
    no acknowledged write is lost, `sync` acknowledges nothing meanwhile, and the next stop is clean."""
    engine = RocksEngine.open(small_disk / "data", options=NO_WATERMARK)
    engine.apply([(DATA, b"safe", b"v" * 1000)])
    await engine.sync()
    fill_disk(small_disk / "ballast")

    if fault == "memtable":
        with pytest.raises(Exception, match="No space left"):
            engine._data.flush()
    with pytest.raises(StorageError) as refused:
        for i in range(100_000):
            engine.apply([(DATA, b"k%06d" % i, b"v" * 1000)])
    with pytest.raises(StorageError):
        await engine.sync()
    (small_disk / "ballast").unlink()
    async with asyncio.timeout(30):
        await accepted_again(engine)
    await engine.sync()
    await engine.close(clean=True)
    reopened = RocksEngine.open(small_disk / "data", options=NO_WATERMARK)

    assert not refused.value.definite
    assert reopened.report.clean
    assert (reopened.get(DATA, b"safe"), reopened.get(DATA, b"after")) == (b"v" * 1000, b"v")
    await reopened.close(clean=True)


async def accepted_again(engine: Engine) -> None:
    """Wait until the engine takes a put (RocksDB looks for space every 5 s)."""
    while True:
        try:
            engine.apply([(DATA, b"after", b"v")])
            return
        except StorageError:
            await asyncio.sleep(0.05)


# ----------------------------------------------------------------------------------------------------------- the directory


async def test_the_node_id_lives_in_the_file_and_in_the_database(tmp_path: Path) -> None:
    """The engine mints it, the node finds it, people can read it."""
    engine = RocksEngine.open(tmp_path / "new" / "data", options=NO_WATERMARK, node_id=b"abcdefgh")
    identity = await open_identity(engine, random.Random(1))
    await engine.close(clean=True)

    fields = json.loads((tmp_path / "new" / "data" / "IDENTITY").read_text())

    assert identity.node_id == b"abcdefgh"
    assert (fields["node_id"], fields["format_version"]) == (b"abcdefgh".hex(), 1)
    assert fields["created"].endswith("Z")


async def test_a_directory_whose_database_is_gone_becomes_a_new_node(tmp_path: Path) -> None:
    """An identity without its data would be an amnesiac under an old name."""
    engine = RocksEngine.open(tmp_path, options=NO_WATERMARK)
    before = engine.get(META, META_NODE_ID)
    await engine.close(clean=True)
    shutil.rmtree(tmp_path / "db")

    engine = RocksEngine.open(tmp_path, options=NO_WATERMARK)
    after = engine.get(META, META_NODE_ID)
    await engine.close(clean=True)

    assert engine.report.is_new
    assert after != before
    assert after is not None
    assert json.loads((tmp_path / "IDENTITY").read_text())["node_id"] == after.hex()


async def test_a_database_whose_identity_file_is_gone_counts_as_a_copy(tmp_path: Path) -> None:
    """Somebody moved files by hand: keep the id, do not trust the history."""
    engine = RocksEngine.open(tmp_path, options=NO_WATERMARK)
    before = engine.get(META, META_NODE_ID)
    await engine.close(clean=True)
    (tmp_path / "IDENTITY").unlink()

    engine = RocksEngine.open(tmp_path, options=NO_WATERMARK)
    await engine.close(clean=True)

    assert engine.report.is_copy
    assert before is not None
    assert json.loads((tmp_path / "IDENTITY").read_text())["node_id"] == before.hex()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("not json", SuspectStore),
        ("[]", SuspectStore),
        ('{"node_id": "0000000000000000", "format_version": 1}', SuspectStore),
        ('{"node_id": "0000000000000000", "format_version": 2}', ConfigError),
    ],
)
async def test_a_foreign_identity_file_is_refused_and_the_lock_is_let_go(
    tmp_path: Path, content: str, error: type[Exception]
) -> None:
    """Unreadable, of another store, or of a newer version; put back, the store opens."""
    await RocksEngine.open(tmp_path, options=NO_WATERMARK).close(clean=True)
    original = (tmp_path / "IDENTITY").read_text()
    (tmp_path / "IDENTITY").write_text(content)

    with pytest.raises(error):
        RocksEngine.open(tmp_path, options=NO_WATERMARK)
    (tmp_path / "IDENTITY").write_text(original)

    await RocksEngine.open(tmp_path, options=NO_WATERMARK).close(clean=True)


async def test_another_process_cannot_open_the_directory(engine: RocksEngine, tmp_path: Path) -> None:
    """The lock is the kernel's, so it cannot be left behind by a crash."""
    program = textwrap.dedent(
        """
        import sys
        from kvstore.errors import DataDirectoryInUse
        from kvstore.storage.rocksdb import RocksEngine
        try:
            RocksEngine.open(sys.argv[1])
        except DataDirectoryInUse as error:
            sys.exit(42)
        """
    )

    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 42
    with pytest.raises(DataDirectoryInUse, match="in use"):
        RocksEngine.open(tmp_path / "data", options=NO_WATERMARK)


def test_a_path_that_cannot_be_a_directory_is_a_configuration_error(tmp_path: Path) -> None:
    """The message names the path."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="file"):
        RocksEngine.open(tmp_path / "file")


async def test_the_kernel_boot_id_is_read_by_default(tmp_path: Path) -> None:
    """A second start in this boot knows that it is one."""
    await RocksEngine.open(tmp_path / "data", options=NO_WATERMARK, run_directory=tmp_path / "run").close(clean=False)

    engine = RocksEngine.open(tmp_path / "data", options=NO_WATERMARK, run_directory=tmp_path / "run")
    await engine.close(clean=False)

    assert engine.report.same_boot is (sys.platform == "linux")
