"""The disk of one simulated machine: what survives its process, and everything that can go wrong with it.

    SimEngine (disk_engine.py)     one process: calls fail or stall as RocksDB's do
        |                              ▲ the switches of `Trouble` (disk_trouble.py), turned by a nemesis at any moment
    SimDisk                        durable | unsynced (page cache)
                                       ▲ rot, revert, misdirect, swap, restore, wipe: harm to what is at rest

Invariants
  1. A killed process loses nothing: the page cache outlives it, and the next start replays it. Power loss, also while the
     process is down, takes a suffix of what was not synced, whole batches only.
  2. With every switch at rest it is `MemoryDisk` and `MemoryEngine` (the contract suite runs on it).
  3. Harm to what is at rest hits durable records that no unsynced batch hides, and shows at once.
  4. `peek` and its relatives look past all faults and change nothing.
Source: `reliability` faults D1 to D3, D6 to D9, P2, P8 to P10; correctness 3, 28, 30.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from jepsen_lite.sim.disk_engine import SimEngine
from jepsen_lite.sim.disk_trouble import ReadFault, Trouble
from kvstore.errors import StorageError, SyncFailed
from kvstore.storage.engine import Family
from kvstore.storage.memory import MemoryDisk

__all__ = ["NO_SPACE_RECOVERY_S_MAX", "ReadFault", "SimDisk", "SimEngine", "Snapshot", "Trouble"]

VERSIONS_KEPT_MAX = 8
"""Durable versions remembered for each key: enough for any revert, and bounded for long runs."""
NO_SPACE_RECOVERY_S_MAX = 6.0
"""RocksDB resumes by itself within about this long after space returned (measured, see rocksdb.py)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was durable at one moment. A copy of files has another inode than a rollback of the block device."""

    tables: dict[Family, dict[bytes, bytes]]
    is_suspect: bool
    inode: int
    sequence: int = 0


class SimDisk(MemoryDisk):
    """`now` is the loop's time; `rng` decides what a power loss takes and what is in doubt."""

    def __init__(
        self, name: str = "disk", rng: random.Random | None = None, *, now: Callable[[], float] = lambda: 0.0,
        sync_s: tuple[float, float] = (0.0, 0.0), capacity_bytes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(capacity_bytes=capacity_bytes)
        self.name, self.trouble = name, Trouble()
        self.now, self.rng = now, rng or random.Random(0)
        self._sync_s = sync_s
        self._versions: dict[bytes, list[bytes | None]] = {}
        self._notices_space_after_s = 0.0
        self.is_retired = False
        """The harness will never start a node on it again with success: its copies no longer count."""
        self.on_harm: Callable[[], None] = _nothing
        """Called after harm was done to what is at rest: lets the world tell the node to forget what it keeps in memory."""
        self.drops_page_cache = False
        """The next start finds only some prefix of what was not synced, although the kernel kept running."""

    # --- processes and power ------------------------------------------------------------------------------------------

    def open(self, *, boot_id: str = "boot", sync_delay_s: Callable[[], float] | None = None) -> SimEngine:
        """Start a process on this disk: replay what the last one left unsynced. Raises what opening raises."""
        if self._engine is None and not self.is_suspect:
            self._recover()
        if self._syncs_before_failure is not None and self._syncs_before_failure < 0:
            self._syncs_before_failure = None  # it failed, and was told: a new process begins anew
        if self.trouble.syncs_fail_for_good and not self.is_suspect:
            self.is_suspect = not self.trouble.is_mark_lost
            self.witness.accuse()
            raise SyncFailed("the engine is poisoned until restart: injected sync failure at open")
        try:
            engine = SimEngine.open(self, boot_id=boot_id, sync_delay_s=sync_delay_s or self.sync_delay_s)
        except StorageError:
            if isinstance(self._engine, SimEngine) and not self._engine.is_serving:
                self._engine._die("it could not be opened")
            raise
        assert isinstance(engine, SimEngine)
        engine.is_serving = True
        return engine

    def kill(self) -> None:
        """End the process at once. What it had not synced stays in the page cache until the next start or power loss."""
        if self._engine is not None:
            self._engine._die("the process was killed")

    def lose_power(self) -> int:
        """End the machine, running or not; a random suffix of what was not synced is lost. Returns how many batches."""
        self.witness.forget()
        share = self.rng.choice([0.0, 0.0, self.rng.random()])
        return self.crash(lambda count: round(share * count))

    def sync_delay_s(self) -> float:
        """Return how long a sync that begins now takes."""
        trouble = self.trouble
        healthy_s = self.rng.uniform(*self._sync_s) if self._sync_s[1] else 0.0
        factor = trouble.sync_factor if self.now() < trouble.slow_until_s else 1.0
        return max(trouble.syncs_stall_until_s - self.now(), 0.0) + healthy_s * factor

    def fail_next_sync(self, after: int = 0) -> None:
        """Let `after` more syncs succeed; the next one fails and poisons the engine, and the store is marked SUSPECT."""
        self.fail_sync_after(after)

    def heal(self) -> None:
        """Put every switch at rest; harm that was done stays done."""
        self.free_space()
        self.trouble = Trouble(full_until_s=self.trouble.full_until_s)
        self._syncs_before_failure = None

    @property
    def is_doomed(self) -> bool:
        """Whether nothing on this disk may be counted on: no later start will serve it."""
        trouble = self.trouble
        is_armed = (
            self._syncs_before_failure is not None or trouble.syncs_fail_for_good or trouble.write_errors_left > 0
        )
        return self.is_suspect or self.is_retired or is_armed

    def _sync_fails_now(self) -> bool:
        return self.trouble.syncs_fail_for_good or super()._sync_fails_now()

    def _recover(self) -> None:
        """A start replays the log it finds, and makes durable what it replayed (RocksDB writes it out as a table)."""
        if self.drops_page_cache:
            del self._log[self.rng.randint(0, len(self._log)) :]
            self.drops_page_cache = False
        self._make_durable(self._synced_count + len(self._log))

    def _make_durable(self, until: int) -> None:
        for batch in self._log[: max(0, until - self._synced_count)]:
            for family, key, value in batch:
                if family is Family.DATA:
                    self._remember(key, value)
        super()._make_durable(until)

    def _remember(self, key: bytes, value: bytes | None) -> None:
        versions = self._versions.setdefault(key, [])
        if not versions or versions[-1] != value:
            versions.append(value)
            del versions[:-VERSIONS_KEPT_MAX]

    # --- space --------------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Return the bytes taken by what a reader would see now."""
        return sum(len(k) + len(v) for family in Family for k, v in self._newest(family).items())

    def fill(self, *, free_bytes: int, watermark_bytes: int = 0, until_s: float = float("inf")) -> None:
        """Let somebody else fill the file system down to `free_bytes`; the watermark sees it at the next sync.

        An engine that had met the end of the space needs up to NO_SPACE_RECOVERY_S_MAX more to notice that it is back.
        """
        trouble = self.trouble
        trouble.size_limit_bytes, trouble.full_until_s = self.used_bytes + free_bytes, until_s
        trouble.watermark_bytes = watermark_bytes
        self._notices_space_after_s = self.rng.uniform(0, NO_SPACE_RECOVERY_S_MAX)

    def free_space(self) -> None:
        """Give the space back now."""
        self.trouble.full_until_s = min(self.trouble.full_until_s, self.now())

    @property
    def is_full(self) -> bool:
        """Whether the file system has the limit that `fill` gave it."""
        return self.now() < self.trouble.full_until_s

    @property
    def free_bytes(self) -> float:
        """Return the room that is left, infinite on a healthy disk."""
        limit = self.trouble.size_limit_bytes if self.is_full else None
        return float("inf") if limit is None else limit - self.used_bytes

    @property
    def has_recovered_from_no_space(self) -> bool:
        """Whether an engine that had no space would take writes again."""
        return self.now() >= self.trouble.full_until_s + self._notices_space_after_s

    def fail_reads(self, fault: ReadFault) -> None:
        """Let reads of a range fail from now on. What the node keeps in memory it does not read: see `on_harm`."""
        self.trouble.read_faults = [known for known in self.trouble.read_faults if known.left != 0]
        self.trouble.read_faults.append(fault)
        self.on_harm()

    # --- harm to what is at rest --------------------------------------------------------------------------------------

    def settled_keys(self) -> list[bytes]:
        """Return, in order, the DATA keys whose newest state is durable and readable: those that harm can hit."""
        unsynced = {key for batch in self._log for family, key, _ in batch if family is Family.DATA}
        table = self._durable[Family.DATA]
        return sorted(key for key, value in table.items() if key not in unsynced and type(value) is bytes)

    def flip_bits(self, key: bytes, count: int = 1) -> None:
        """Flip bits of a stored record below the engine's own checksum: only the record's can catch it."""
        record = bytearray(self._durable[Family.DATA][key])
        for place in self.rng.sample(range(8 * len(record)), count):
            record[place // 8] ^= 1 << place % 8
        self._rewrite(key, bytes(record))

    def revert(self, key: bytes) -> None:
        """Lose the last durable write of a key, as a stale sector does: no checksum can see it. See `maybe_previous`."""
        previous = self.maybe_previous(key)
        assert previous is not None, "there is no older version to go back to"
        self._rewrite(key, previous)

    def misdirect(self, key: bytes, onto: bytes) -> None:
        """Let the last write of `key` have landed on `onto`: that one holds a record of another key, `key` its old one."""
        record = self._durable[Family.DATA][key]
        self._rewrite(key, self.maybe_previous(key))
        self._rewrite(onto, record)

    def swap(self, key: bytes, other: bytes) -> None:
        """Exchange two stored records: both are well-formed, and both are in the wrong place."""
        table = self._durable[Family.DATA]
        record, other_record = table[key], table[other]
        self._rewrite(key, other_record)
        self._rewrite(other, record)

    def maybe_previous(self, key: bytes) -> bytes | None:
        """Return the durable version before the newest one, None if there is none (or that was absence)."""
        versions = self._versions.get(key, [])
        return versions[-2] if len(versions) > 1 else None

    def _rewrite(self, key: bytes, value: bytes | None) -> None:
        for tables in [self._durable] + ([self._engine._visible] if self._engine is not None else []):
            if value is None:
                tables[Family.DATA].pop(key, None)
            else:
                tables[Family.DATA][key] = value
        self.on_harm()

    def corrupt(self, family: Family, key: bytes) -> None:
        super().corrupt(family, key)
        self.on_harm()

    # --- whole disks --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return what is durable now, as a backup or a snapshot of the volume would have it."""
        tables = {family: dict(table) for family, table in self._durable.items()}
        return Snapshot(tables, self.is_suspect, self._inode, self._sequence)

    def restore(self, snapshot: Snapshot, *, is_block_level: bool) -> None:
        """Put a snapshot in place of everything. The process must be down. Block level: not even the inode differs.

        The machine's `witness` stays: it is not on the disk.
        """
        assert self._engine is None, "a disk is not exchanged under a running process"
        self._durable = {family: dict(table) for family, table in snapshot.tables.items()}
        self._synced_count += len(self._log)
        self._log.clear()
        self._versions.clear()
        self._sequence = snapshot.sequence
        self.is_suspect = snapshot.is_suspect
        self._inode = snapshot.inode if is_block_level else max(self._inode, snapshot.inode) + 1

    def wipe(self) -> None:
        """Replace the disk by an empty one. The process must be down."""
        self.restore(Snapshot({family: {} for family in Family}, False, self._inode + 1), is_block_level=True)
        self.witness.forget()
        self.heal()
        self.is_retired = False

    # --- looking inside -----------------------------------------------------------------------------------------------

    def peek(self, key: bytes) -> bytes | None:
        """Return the newest applied record of a key, None if absent, b"" if its bytes cannot be read."""
        return _shown(self._newest(Family.DATA).get(key))

    def peek_durable(self, key: bytes) -> bytes | None:
        """Return what a power loss now would leave at least, as `peek`."""
        return _shown(self._durable[Family.DATA].get(key))

    def records(self) -> dict[bytes, bytes]:
        """Return the newest applied records in key order, as `peek`."""
        return {key: _shown(value) or b"" for key, value in sorted(self._newest(Family.DATA).items())}

    def durable_records(self) -> dict[bytes, bytes]:
        """Return the durable records in key order, as `peek_durable`."""
        return {key: _shown(value) or b"" for key, value in sorted(self._durable[Family.DATA].items())}

    def durable_versions(self, key: bytes) -> tuple[bytes | None, ...]:
        """Return the last VERSIONS_KEPT_MAX states of a key that became durable here, oldest first; None is absence."""
        return tuple(self._versions.get(key, ()))

    def meta(self, key: bytes) -> bytes | None:
        """Return a durable META entry."""
        return _shown(self._durable[Family.META].get(key))

    def _newest(self, family: Family) -> dict[bytes, bytes]:
        if self._engine is not None:
            return self._engine._visible[family]
        table = dict(self._durable[family])
        for put_family, key, value in (put for batch in self._log for put in batch):
            if put_family is family:
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
        return table


def _nothing() -> None:
    pass


def _shown(value: bytes | None) -> bytes | None:
    return value if value is None or type(value) is bytes else b""
