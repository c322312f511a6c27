"""The engine's twin in memory: the same contract, and a disk that can lose power, fail a sync, rot, fill up or be copied.

    MemoryEngine     visible = durable + log        one open store, dies with its process
        |
    MemoryDisk       durable | log of unsynced batches        survives; what a crash leaves of the log is chosen
        |
    .witness         what the machine's kernel remembers      survives a kill and a restored disk; void under another boot id

A crash keeps a prefix of the log, whole batches only, which is all a real engine promises. SIGKILL keeps everything (the page
cache survives), power loss keeps anything between nothing and everything.

Deterministic: no clock, no randomness, no threads. A sync suspends for `sync_delay_s()` of the running loop's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kvstore.errors import Corruption, DataDirectoryInUse, DiskFull, StorageError, SuspectStore, SyncFailed
from kvstore.storage.engine import Family, OpenReport, Put
from kvstore.storage.identity import closing_puts, opening_puts, read_report
from kvstore.storage.witness import MemoryWitness, Statement

__all__ = ["MemoryDisk", "MemoryEngine"]

_Table = dict[bytes, bytes]
_Tables = dict[Family, _Table]


class _Unreadable(bytes):
    """A value whose checksum will fail. Overwriting the key replaces it, as a new record replaces a rotten one."""

    __slots__ = ()


class MemoryDisk:
    """What survives a process: durable tables, and the log of batches applied since the last sync."""

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        """Bytes of keys and values above which client data is refused; None is no bound."""
        self.is_suspect = False
        self.witness = MemoryWitness()
        """Belongs to the machine the disk is in, not to the disk: copies and snapshots do not carry it."""
        self._runs = 0
        self._sequence = 0
        """Batches that the durable state is made of. Part of the state: it goes back with it."""
        self._durable: _Tables = {family: {} for family in Family}
        self._log: list[list[Put]] = []
        self._synced_count = 0  # Batches ever made durable: the log's first batch has this number.
        self._inode = 1
        self._syncs_before_failure: int | None = None
        self._engine: MemoryEngine | None = None

    @property
    def unsynced_count(self) -> int:
        """Return how many batches the next power loss may take."""
        return len(self._log)

    def crash(self, keep: Callable[[int], int] = lambda count: count) -> int:
        """End the open engine at once, and keep the first `keep(unsynced count)` batches. Return how many were lost.

        The default is SIGKILL. For power loss pass a choice, and open with another boot id.
        """
        count = len(self._log)
        kept = keep(count)
        assert 0 <= kept <= count, "a crash keeps a prefix of the log"
        if self._engine is not None:
            self._engine._die("the node crashed")
        self._make_durable(self._synced_count + kept)
        self._synced_count += len(self._log)
        self._log.clear()
        return count - kept

    def fail_sync_after(self, count: int) -> None:
        """Let `count` more syncs succeed, then fail one and poison the engine."""
        self._syncs_before_failure = count

    def corrupt(self, family: Family, key: bytes) -> None:
        """Make the stored value unreadable until it is overwritten. The key must exist."""
        tables = [self._durable] + ([self._engine._visible] if self._engine is not None else [])
        hit = [table[family] for table in tables if key in table[family]]
        assert hit, f"no such key to corrupt: {key!r}"
        for table in hit:
            table[key] = _Unreadable(table[key])
        for batch in self._log:
            for i, (put_family, put_key, value) in enumerate(batch):
                if put_family is family and put_key == key and value is not None:
                    batch[i] = (family, key, _Unreadable(value))

    def copy(self, *, is_block_level: bool = False) -> MemoryDisk:
        """Return a copy of what is durable now, as `cp -a` makes of a stopped store, or as a restored backup would be.

        With `is_block_level` even the inode is the same, as after the rollback of a virtual machine: `is_copy` then
        cannot see it, only the boot number can.
        """
        made = MemoryDisk(capacity_bytes=self.capacity_bytes)
        made._durable = {family: dict(table) for family, table in self._durable.items()}
        made._sequence = self._sequence
        made.is_suspect = self.is_suspect
        made._inode = self._inode if is_block_level else self._inode + 1
        return made

    def _make_durable(self, until: int) -> None:
        """Move the batches numbered below `until` from the log to the durable tables."""
        count = max(0, until - self._synced_count)
        for batch in self._log[:count]:
            _apply_to(self._durable, batch)
        del self._log[:count]
        self._synced_count += count
        self._sequence += count

    def _sync_fails_now(self) -> bool:
        if self._syncs_before_failure is None:
            return False
        self._syncs_before_failure -= 1
        return self._syncs_before_failure < 0


class MemoryEngine:
    """`Engine` on a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, sync_delay_s: Callable[[], float]) -> None:
        self._disk = disk
        self._sync_delay_s = sync_delay_s
        self._visible: _Tables = {family: dict(table) for family, table in disk._durable.items()}
        self._used_bytes = sum(len(k) + len(v) for table in self._visible.values() for k, v in table.items())
        self._refusal: StorageError | None = None
        self._is_open = True
        self._report = OpenReport(is_new=True, clean=True, same_boot=False, is_copy=False)

    @classmethod
    def open(
        cls, disk: MemoryDisk, *, boot_id: str = "boot", sync_delay_s: Callable[[], float] = lambda: 0.0
    ) -> MemoryEngine:
        """Open the store on a disk. Raises `DataDirectoryInUse` or `SuspectStore`."""
        if disk._engine is not None:
            raise DataDirectoryInUse("the disk is in use by another engine")
        statement = disk.witness.recall()
        if statement is not None and not statement.is_of(boot_id=boot_id, store=""):
            statement = None
        if disk.is_suspect or (statement is not None and statement.is_suspect):
            raise SuspectStore("a sync of this store failed: start a new node with an empty --data directory")
        engine = cls(disk, sync_delay_s)
        disk._engine = engine
        engine._begin(boot_id, statement)
        return engine

    def _begin(self, boot_id: str, statement: Statement | None) -> None:
        """Judge the store, make durable that it is in use, and let the machine remember this run from here on."""
        disk = self._disk
        disk._runs += 1
        directory, run = b"inode:%d" % disk._inode, f"{boot_id}/{disk._runs}".encode()
        report = read_report(
            self._visible[Family.META].get, boot_id=boot_id, directory=directory, statement=statement,
            sequence=disk._sequence,
        )  # fmt: skip
        self.apply(opening_puts(report, boot_id=boot_id, directory=directory, run=run))
        disk._make_durable(disk._synced_count + len(disk._log))
        remembered = Statement(boot_id, "", run, disk._sequence, refused=report.refused)
        problem = disk.witness.begin(remembered)
        self._report = replace(report, doubt=report.doubt or problem)

    @property
    def report(self) -> OpenReport:
        return self._report

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._check_open()
        value = self._visible[family].get(key)
        if type(value) is _Unreadable:
            raise Corruption("unreadable value", key=key)
        return value

    def apply(self, puts: Sequence[Put]) -> None:
        self._check_writable()
        batch = list(puts)
        self._check_space(batch)
        self._commit(batch)

    def delete_range(self, family: Family, lower: bytes, upper: bytes) -> None:
        self._check_writable()
        # Written out key by key: the log replays to the same state, since nothing else is applied in between.
        self._commit([(family, key, None) for key in self._visible[family] if lower <= key < upper])

    def scan(self, family: Family, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        table = self._visible[family]
        snapshot = [(key, table[key]) for key in sorted(key for key in table if lower <= key < upper)]
        return self._walk(snapshot)

    def _walk(self, snapshot: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for key, value in snapshot:
            self._check_open()
            if type(value) is _Unreadable:
                raise Corruption("unreadable value in a scan", key=key)
            yield key, value

    async def sync(self) -> None:
        self._check_writable()
        disk = self._disk
        until = disk._synced_count + len(disk._log)
        await asyncio.sleep(self._sync_delay_s())
        self._check_writable()  # It may have crashed, closed or failed meanwhile.
        if disk._sync_fails_now():
            disk.is_suspect = True
            disk.witness.accuse()
            self._refusal = SyncFailed("the engine is poisoned until restart: injected sync failure")
            raise self._refusal
        disk._make_durable(until)

    def remember_refusal(self, refused: bytes) -> bool:
        return self._disk.witness.refuse(refused)

    def keys_estimate(self) -> int:
        return len(self._visible[Family.DATA])

    def size_bytes(self) -> int:
        return self._used_bytes

    async def close(self, *, clean: bool) -> None:
        if not self._is_open:
            return
        try:
            if self._refusal is None:
                await self.sync()
                if clean:
                    self.apply(closing_puts())
                    await self.sync()
                    self._disk.witness.end()
        finally:
            self._die("the engine is closed")

    def _commit(self, batch: list[Put]) -> None:
        self._used_bytes += _growth_bytes(self._visible, batch)
        _apply_to(self._visible, batch)
        self._disk._log.append(batch)
        self._disk.witness.applied(self._disk._sequence + len(self._disk._log))

    def _check_space(self, batch: list[Put]) -> None:
        capacity_bytes = self._disk.capacity_bytes
        if capacity_bytes is None or not any(family is Family.DATA and value is not None for family, _, value in batch):
            return
        if self._used_bytes + _growth_bytes(self._visible, batch) > capacity_bytes:
            raise DiskFull(
                "the disk is below its low-space watermark: nothing was written, reads go on",
                capacity_bytes=capacity_bytes, used_bytes=self._used_bytes, retry_after_s=1.0,
            )  # fmt: skip

    def _check_open(self) -> None:
        if not self._is_open:
            assert self._refusal is not None
            raise self._refusal

    def _check_writable(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _die(self, reason: str) -> None:
        if self._is_open:
            self._is_open = False
            self._refusal = self._refusal or StorageError(reason)
            self._disk._engine = None


def _apply_to(tables: _Tables, batch: list[Put]) -> None:
    for family, key, value in batch:
        if value is None:
            tables[family].pop(key, None)
        else:
            tables[family][key] = value


def _growth_bytes(tables: _Tables, batch: list[Put]) -> int:
    """Return by how much the batch makes the tables larger; each key counts with its last put."""
    last = {(family, key): value for family, key, value in batch}
    growth = 0
    for (family, key), value in last.items():
        old = tables[family].get(key)
        growth += (0 if value is None else len(key) + len(value)) - (0 if old is None else len(key) + len(old))
    return growth
