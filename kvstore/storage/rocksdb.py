"""The engine of a real node: RocksDB through rocksdict, in raw mode. One WriteBatch is atomic across families.

    rocksdb_open.py     how is a store set up, and may it be opened?
    rocksdb_scan.py     what is in a range?
    rocksdb_errors.py   what did rocksdict mean?
    here                what is written, what is durable, and when is nothing more to be trusted?

How it fails
  - A failed sync, or any input/output error on the write path other than "no space", poisons the engine: the kernel may have
    dropped dirty pages and marked them clean, so nothing later could be trusted. Never retry an fsync. Reads go on.
  - "No space" out of RocksDB is indefinite for that batch and for what was not yet synced. RocksDB recovers by itself within
    about 6 s after space returns (measured), *unless* flush_wal is called on the failed log in between: that turns it into
    "Writer has previous error", which only a restart clears. So `sync` refuses while the last write had no space.
  - A flipped bit in the log makes RocksDB refuse to open (`tolerate_corrupted_tail_records`; the default mode drops synced
    data and says nothing). That is `SuspectStore` too.

Known residue: between a switch of the log and the next sync, a *power loss* may keep an unsynced batch of the new log and
lose an unsynced one of the old, because RocksDB does not compare sequence numbers across logs in this mode. No synced
batch is involved, and a start after a power loss is never trusted to have its history (`OpenReport`).

Facts about rocksdict 0.3.29 (do not "simplify", each was found by running it): `set_iterate_lower_bound` sets the *upper*
bound; `items()` ends silently at a corrupt block; `write` with sync=True holds the GIL, `flush_wal(True)` does not; a live
iterator keeps the lock after close; errors are bare `Exception`s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from rocksdict import Rdict, ReadOptions, WriteBatch, WriteOptions

from kvstore.errors import Corruption, KVStoreError, StorageError, SuspectStore, SyncFailed
from kvstore.ids import NODE_ID_SIZE_BYTES
from kvstore.storage.directory import (
    IDENTITY_FILE,
    REPLACE_HINT,
    check_openable,
    identity_inode,
    make_directory,
    mark_suspect,
    read_boot_id,
    read_node_id,
    write_identity,
)
from kvstore.storage.engine import Family, OpenReport, Put
from kvstore.storage.identity import META_NODE_ID, closing_puts, opening_puts, read_report
from kvstore.storage.rocksdb_errors import is_no_space, translate
from kvstore.storage.rocksdb_open import EngineOptions, open_database, recall
from kvstore.storage.rocksdb_scan import Scan
from kvstore.storage.space import SpaceGuard
from kvstore.storage.witness import Statement
from kvstore.storage.witness_file import FileWitness

__all__ = ["EngineOptions", "RocksEngine"]

_PUT_OVERHEAD_BYTES = 64
"""Log and memtable bytes of a put besides its key and value; only the low-space budget uses it."""
_RUN_SIZE_BYTES = 8
_DATA: Final = Family.DATA  # An attribute of an enum class costs more than the rest of the family test.


class RocksEngine:
    """`Engine` on RocksDB. All calls on the event loop's thread; one more thread runs the syncs."""

    def __init__(self, path: Path, database: Rdict, space: SpaceGuard, witness: FileWitness) -> None:
        self._path = path
        self._database = database
        self._sequence = database.latest_sequence_number
        self._witness = witness
        self._data = database.get_column_family(_DATA.value)
        self._meta = database.get_column_family(Family.META.value)
        self._handles = {family: database.get_column_family_handle(family.value) for family in Family}
        self._write_options = WriteOptions()
        # Without it a write waits for compaction on the event loop, for up to 1.2 s under heavy load.
        self._write_options.no_slowdown = True
        self._space = space
        self._scans: weakref.WeakSet[Scan] = weakref.WeakSet()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kvstore-sync")
        self._poison: str | None = None
        self._no_space = False
        space.owed_bytes = self._memtable_bytes
        self._is_closed = False
        self._report = OpenReport(is_new=True, clean=True, same_boot=False, is_copy=False)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, boot_id: str | None = None, options: EngineOptions | None = None,
        node_id: bytes | None = None, run_directory: Path | None = None,
    ) -> RocksEngine:  # fmt: skip
        """Open the store, or make one (minting `node_id` unless given). Blocks; run it before serving.

        In `run_directory`, which must not survive or be rolled back as the data may (tmpfs), lives the store's witness; without
        one every unclean start counts as loss of history.
        Raises `SuspectStore`, `DataDirectoryInUse`, `ConfigError` (made by a newer version) or `StorageError`.
        """
        directory = Path(path)
        options = options or EngineOptions()
        make_directory(directory)
        check_openable(directory)
        boot_id = read_boot_id() if boot_id is None else boot_id
        witness = FileWitness(run_directory, directory)
        statement = recall(directory, witness, boot_id)
        space = SpaceGuard.of_directory(directory, watermark_bytes=options.low_space_bytes)
        engine = cls(directory, open_database(directory, options), space, witness)
        try:
            engine._begin(boot_id, node_id, statement)
        except BaseException:
            engine._release()
            raise
        return engine

    @property
    def report(self) -> OpenReport:
        return self._report

    def get(self, family: Family, key: bytes) -> bytes | None:
        try:
            value: bytes | None = (self._data if family is _DATA else self._meta).get(key)
            return value
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            raise translate(error) from error

    def apply(self, puts: Sequence[Put]) -> None:
        if self._poison is not None or self._is_closed:
            raise self._refusal()
        if len(puts) != 1:
            self._apply_batch(puts)
            return
        family, key, value = puts[0]
        size_bytes = len(key) + _PUT_OVERHEAD_BYTES + (0 if value is None else len(value))
        if self._space.charge(size_bytes) and value is not None and family is _DATA:
            raise self._space.refusal()
        try:
            database = self._data if family is _DATA else self._meta
            if value is None:
                database.delete(key, self._write_options)
            else:
                database.put(key, value, self._write_options)
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            raise self._write_failed(error) from error
        self._no_space = False
        self._witness.applied(self._sequence())

    def _apply_batch(self, puts: Sequence[Put]) -> None:
        batch = self._batch(puts)
        if self._space.charge(batch.size_in_bytes()):
            if any(family is _DATA and value is not None for family, _key, value in puts):
                raise self._space.refusal()
        self._write(batch, self._write_options)

    def _batch(self, puts: Sequence[Put]) -> WriteBatch:
        batch, handles = WriteBatch(raw_mode=True), self._handles
        for family, key, value in puts:
            if value is None:
                batch.delete(key, handles[family])
            else:
                batch.put(key, value, handles[family])
        return batch

    def delete_range(self, family: Family, lower: bytes, upper: bytes) -> None:
        if self._poison is not None or self._is_closed:
            raise self._refusal()
        if lower >= upper:  # RocksDB would call it corruption.
            return
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(lower, upper, self._handles[family])
        self._write(batch, self._write_options)

    def _write(self, batch: WriteBatch, options: WriteOptions) -> None:
        try:
            self._database.write(batch, options)
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            raise self._write_failed(error) from error
        self._no_space = False
        self._witness.applied(self._sequence())

    def scan(self, family: Family, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        if lower >= upper:
            return iter(())
        options = ReadOptions()
        options.set_iterate_upper_bound(upper)
        try:
            scan = Scan((self._data if family is _DATA else self._meta).iter(options), lower, upper)
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            raise translate(error) from error
        self._scans.add(scan)
        return scan

    async def sync(self) -> None:
        if self._poison is not None or self._is_closed:
            raise self._refusal()
        self._space.refresh()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._flush_log)

    def _flush_log(self) -> None:
        """Make the log durable. Runs in the sync thread, so that a cancelled waiter cannot hide a failure."""
        if self._poison is not None:
            raise self._refusal()
        if self._no_space:
            raise StorageError("the disk has no space: what was applied but not synced is in doubt")
        try:
            self._database.flush_wal(True)
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            mapped = translate(error)
            # A log write failed between our check and here: no fsync did, so a restart may trust the page cache.
            self._poisoned_by(mapped, is_suspect="previous error" not in str(error))
            raise self._refusal() from error

    def remember_refusal(self, refused: bytes) -> bool:
        return self._witness.refuse(refused)

    def _memtable_bytes(self) -> int:
        names = (self._data, self._meta)
        return sum(self._property(family, "rocksdb.cur-size-all-mem-tables") for family in names)

    def keys_estimate(self) -> int:
        return self._property(self._data, "rocksdb.estimate-num-keys")

    def size_bytes(self) -> int:
        names = ("rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        return sum(self._property(family, name) for family in (self._data, self._meta) for name in names)

    def _property(self, family: Rdict, name: str) -> int:
        try:
            return family.property_int_value(name) or 0
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            raise translate(error) from error

    async def close(self, *, clean: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        loop = asyncio.get_running_loop()
        try:
            if self._poison is None and not self._no_space:
                await loop.run_in_executor(self._executor, self._sync_last, clean)
        finally:
            # Releasing writes the memtables out, which takes a while: not on the event loop.
            await loop.run_in_executor(self._executor, self._release)
            self._executor.shutdown()

    def _sync_last(self, clean: bool) -> None:
        self._flush_log()
        if clean:
            self._write_durably(closing_puts())
            self._witness.end()

    def _write_durably(self, puts: Sequence[Put]) -> None:
        """Write a few META puts, waiting if RocksDB is busy, and sync. Blocks: for open and close only."""
        self._write(self._batch(puts), WriteOptions())
        self._flush_log()

    def _begin(self, boot_id: str, node_id: bytes | None, statement: Statement | None) -> None:
        """Judge the store, then make durable that it is in use: before anything else is written."""
        stored = self.get(Family.META, META_NODE_ID)
        found = identity_inode(self._path)
        if stored is None or found is None:
            # A store without a node id is new even if an IDENTITY is there: whoever had it lost its database.
            stored = stored or node_id or os.urandom(NODE_ID_SIZE_BYTES)
            write_identity(self._path, stored)
        elif read_node_id(self._path) != stored.hex():
            raise SuspectStore(f"{self._path / IDENTITY_FILE} belongs to another store: {REPLACE_HINT}")
        inode, run = identity_inode(self._path) or b"", os.urandom(_RUN_SIZE_BYTES)
        report = read_report(
            lambda key: self.get(Family.META, key), boot_id=boot_id, directory=inode, statement=statement,
            sequence=self._sequence(),
        )  # fmt: skip
        self._write_durably([
            *opening_puts(report, boot_id=boot_id, directory=inode, run=run), (Family.META, META_NODE_ID, stored),
        ])  # fmt: skip
        problem = self._witness.begin(Statement(boot_id, stored.hex(), run, self._sequence(), refused=report.refused))
        self._report = replace(report, doubt=report.doubt or problem)

    def _release(self) -> None:
        self._witness.close()
        # Iterators and family handles alike keep the database locked after close.
        for scan in list(self._scans):
            scan.release()
        self._handles.clear()
        errors = []
        for database in (self._data, self._meta, self._database):
            try:
                database.close()
            except Exception as error:  # boundary: as above; the lock is let go all the same
                errors.append(translate(error))
        if errors and self._poison is None and not self._no_space:
            raise errors[0]

    def _write_failed(self, error: Exception) -> KVStoreError:
        """Decide what a failed write means for the engine, and return what to raise."""
        mapped = translate(error)
        if is_no_space(error):
            self._no_space = True
            self._space.refresh()
        elif isinstance(mapped, Corruption) or str(error).startswith("IO error"):
            self._poisoned_by(mapped, is_suspect=True)
        return mapped

    def _poisoned_by(self, error: KVStoreError, *, is_suspect: bool) -> None:
        if self._poison is not None:
            return
        # The mark before the word: whoever hears of the failure may end the process at once. Best effort, for the disk is
        # failing; without the file the kernel remembers it, and after a reboot an unclean stop is not trusted anyway.
        if is_suspect:
            self._witness.accuse()
            with contextlib.suppress(OSError):
                mark_suspect(self._path, error.message)
        self._poison = error.message

    def _refusal(self) -> StorageError:
        if self._poison is not None:
            return SyncFailed(f"the engine is poisoned until restart: {self._poison}")
        return StorageError("the engine is closed")
