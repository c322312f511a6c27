"""One process's engine on a simulated disk: the product's twin, with calls that fail or stall as RocksDB's do.

Each failure mirrors `kvstore/storage/rocksdb.py`, where it was found by running it:

    sync fails, write I/O error    poisoned, store marked SUSPECT; reads go on; later calls are SyncFailed
    no space in the log            indefinite; syncs refused until a write got through; nothing poisoned or marked
    below the watermark            client data refused definitely; seen at a sync, or after the log had no space
    write would stall              refused definitely (open and close wait instead)
    read I/O error, rot            raised; nothing poisoned

Invariants
  1. What an indefinite error leaves behind is decided by the disk's own stream: there, or not.
  2. With every switch at rest each call is `MemoryEngine`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from kvstore.errors import Corruption, DiskFull, Overloaded, StorageError, SyncFailed
from kvstore.storage.engine import Family, Put
from kvstore.storage.memory import MemoryDisk, MemoryEngine

if TYPE_CHECKING:
    from jepsen_lite.sim.disk import SimDisk

__all__ = ["SimEngine"]

PUT_OVERHEAD_BYTES = 64
"""Log and memtable bytes of a put besides its key and value; as in rocksdb.py."""


class SimEngine(MemoryEngine):
    """One process's engine on a `SimDisk`; made by `SimDisk.open`."""

    def __init__(self, disk: MemoryDisk, sync_delay_s: Callable[[], float]) -> None:
        super().__init__(disk, sync_delay_s)
        self._sim = cast("SimDisk", disk)
        self._no_space = self._is_low = False
        self.is_serving = False
        """False while it opens and closes: RocksDB then waits for room instead of refusing."""

    def get(self, family: Family, key: bytes) -> bytes | None:
        if self._sim.trouble.read_faults:
            self._check_readable(family, key)
        return super().get(family, key)

    def scan(self, family: Family, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._checked(family, super().scan(family, lower, upper))

    def _checked(self, family: Family, items: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for key, value in items:
            self._check_readable(family, key)
            yield key, value

    def _check_readable(self, family: Family, key: bytes) -> None:
        for fault in self._sim.trouble.read_faults:
            if fault.family is family and fault.lower <= key < fault.upper and fault.left != 0:
                fault.left = None if fault.left is None else fault.left - 1
                if fault.is_corruption:
                    raise Corruption("Corruption: injected block checksum mismatch", key=key)
                raise StorageError("IO error: injected: While pread: Input/output error")

    async def sync(self) -> None:
        self._check_writable()
        self._look_at_space()
        if self._no_space:
            raise StorageError("the disk has no space: what was applied but not synced is in doubt")
        try:
            await super().sync()
        except SyncFailed:
            self._lose_mark()
            raise

    async def close(self, *, clean: bool) -> None:
        self.is_serving = False
        if self._no_space:
            self._die("the engine is closed")  # as RocksDB's: neither a sync nor a mark can be written
        else:
            await super().close(clean=clean)

    def _commit(self, batch: list[Put]) -> None:
        """The one place where something is written: everything that can go wrong with that goes wrong here."""
        sim, trouble = self._sim, self._sim.trouble
        if self.is_serving and sim.now() < trouble.writes_stall_until_s:
            raise Overloaded("the engine would stall; nothing was written", retry_after_s=0.1)
        if trouble.write_errors_left:
            trouble.write_errors_left -= 1
            self._fail_write(batch)
        if not self._has_room(batch):
            self._no_space = True
            self._look_at_space()
            self._leave_in_doubt(batch)
            raise StorageError("IO error: injected: No space left on device")
        super()._commit(batch)
        self._no_space = False

    def _fail_write(self, batch: list[Put]) -> None:
        self._leave_in_doubt(batch)
        self._sim.is_suspect = True
        self._sim.witness.accuse()
        self._refusal = SyncFailed("the engine is poisoned until restart: injected write error")
        self._lose_mark()
        raise StorageError("IO error: injected: While appending to file: Input/output error")

    def _leave_in_doubt(self, batch: list[Put]) -> None:
        """An indefinite error says nothing: the batch may be there or not, or be in the log and come back at the next start."""
        draw = self._sim.rng.random()
        if draw < 0.4:
            super()._commit(batch)
        elif draw < 0.6:
            self._sim._log.append(batch)

    def _lose_mark(self) -> None:
        if self._sim.trouble.is_mark_lost:
            self._sim.is_suspect = False
            self._sim.drops_page_cache = True

    def _has_room(self, batch: list[Put]) -> bool:
        if self._no_space:
            return self._sim.has_recovered_from_no_space
        return not self._sim.is_full or _log_bytes(batch) <= self._sim.free_bytes

    def _look_at_space(self) -> None:
        self._is_low = self._sim.is_full and self._sim.free_bytes < self._sim.trouble.watermark_bytes

    def _check_space(self, batch: list[Put]) -> None:
        super()._check_space(batch)
        if self._is_low and any(family is Family.DATA and value is not None for family, _, value in batch):
            self._look_at_space()
            if self._is_low:
                raise DiskFull(
                    "the disk is below its low-space watermark: nothing was written, reads go on; free some space",
                    watermark_bytes=self._sim.trouble.watermark_bytes, retry_after_s=1.0,
                )  # fmt: skip


def _log_bytes(batch: list[Put]) -> int:
    return sum(len(key) + len(value or b"") + PUT_OVERHEAD_BYTES for _, key, value in batch)
