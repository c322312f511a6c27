"""What goes wrong with the disks of one run: drawn per seed, injected within the budget, counted and traced.

    DiskSwarm.draw(rng) ──► which faults this seed has, how often, how hard        (printable in one line)
    DiskNemesis.step()  ──► one fault of those, on some host ──► FaultAtlas: may it? ──► SimDisk

Passing faults (slow, stalled, full, read errors) need no permission: nothing durable is lost. Faults that cost copies do, also
a failed sync: its store never opens again. Whole-disk faults hit hosts that are down; starting nodes is the world's part.

Invariants
  1. What a run does to its disks is a function of (seed, swarm): one stream of its own, hosts and keys in a fixed order.
  2. No lost write takes back a dot of the node that minted it: no checksum shows that, and it would mint the dot again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from jepsen_lite.sim.atlas import FaultAtlas
from jepsen_lite.sim.disk import ReadFault, SimDisk, Snapshot
from jepsen_lite.sim.fault_log import FaultLog
from kvstore.causality.version_vector import VersionVector, decode_vector, descends
from kvstore.ids import StorageKey
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_NODE_ID
from kvstore.storage.record import check_record, view_record

__all__ = ["DiskFault", "DiskNemesis", "DiskSwarm"]

CANDIDATES_MAX = 8
"""Keys tried before a fault is given up because the budget allows none."""
TOKENS_COUNT = 1 << 64


class DiskFault(StrEnum):
    """Names of the counters, in their order. ONLY APPEND."""

    SLOW = "slow"
    SYNC_STALL = "sync_stall"
    WRITE_STALL = "write_stall"
    LOW_SPACE = "low_space"
    NO_SPACE = "no_space"
    READ_ERROR = "read_error"
    SYNC_FAILURE = "sync_failure"
    WRITE_ERROR = "write_error"
    BIT_FLIP = "bit_flip"
    UNREADABLE = "unreadable"
    LOST_WRITE = "lost_write"
    MISDIRECTED = "misdirected"
    SWAPPED = "swapped"
    META_UNREADABLE = "meta_unreadable"
    LOST_DISK = "lost_disk"
    OLD_COPY = "old_copy"
    CLONE = "clone"
    REFUSED = "refused"
    """The budget allowed no victim."""


PASSING = (
    DiskFault.SLOW, DiskFault.SYNC_STALL, DiskFault.WRITE_STALL, DiskFault.LOW_SPACE, DiskFault.NO_SPACE, DiskFault.READ_ERROR,
)  # fmt: skip
HARMING = (
    DiskFault.BIT_FLIP, DiskFault.UNREADABLE, DiskFault.LOST_WRITE, DiskFault.MISDIRECTED, DiskFault.SWAPPED,
)  # fmt: skip
ENDING = (DiskFault.SYNC_FAILURE, DiskFault.WRITE_ERROR)
"""Their node dies and its store never opens again."""


@dataclass(frozen=True, slots=True)
class DiskSwarm:
    """Presence and intensity of every fault in one run. A weight of 0 is absence; `pause_s` is the mean between faults."""

    pause_s: float = float("inf")
    weights: tuple[tuple[DiskFault, float], ...] = ()
    slow_factor: float = 1.0
    lasts_s_max: float = 0.0
    stall_s_max: float = 0.0
    free_bytes_max: int = 0
    read_errors_max: int = 0
    read_share: float = 0.0
    """Share of all tokens that a read error covers."""

    @classmethod
    def calm(cls) -> DiskSwarm:
        """Return a run without disk faults."""
        return cls()

    @classmethod
    def draw(cls, rng: random.Random, *, is_ending: bool = False) -> DiskSwarm:
        """Draw a run: each fault is absent in half of them. `is_ending` admits faults that cost a node for good."""
        kinds = (*PASSING, *HARMING, *(ENDING if is_ending else ()))
        weights = tuple((kind, round(rng.uniform(0.2, 2.0), 2) if rng.random() < 0.5 else 0.0) for kind in kinds)
        return cls(
            pause_s=rng.choice([0.2, 0.5, 1.0, 3.0]), weights=weights,
            slow_factor=rng.choice([3.0, 10.0, 100.0]), lasts_s_max=rng.choice([0.5, 2.0, 5.0]),
            stall_s_max=rng.choice([0.1, 0.5, 3.0]), free_bytes_max=rng.choice([0, 500, 5_000]),
            read_errors_max=rng.choice([1, 3, 20]), read_share=rng.choice([0.05, 0.3, 1.0]),
        )  # fmt: skip

    def line(self) -> str:
        """Return everything in one line."""
        present = ",".join(f"{kind}:{weight:g}" for kind, weight in self.weights if weight)
        rest = " ".join(f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if f.name != "weights")
        return f"disk {rest} faults={present or 'none'}"


class DiskNemesis:
    """Hurts `disks` (name -> disk, in a fixed order). `log` counts `DiskFault`s; `atlas` says which copies may be hurt."""

    def __init__(
        self, disks: Mapping[str, SimDisk], *, swarm: DiskSwarm, rng: random.Random, atlas: FaultAtlas, log: FaultLog,
        may_cost_a_node: Callable[[str], bool] = lambda host: True, counts: Callable[[str, bytes], bool] = lambda host, key: True,
    ) -> None:  # fmt: skip
        """`counts`: whether a host's copy of a key is an owner's, and not to be dropped soon."""
        self._counts = counts
        self._disks, self._swarm, self._rng, self._atlas, self._log = disks, swarm, rng, atlas, log
        self._nodes_may_go = may_cost_a_node
        self._do: dict[DiskFault, Callable[[SimDisk], bool]] = {
            DiskFault.SLOW: self._slow, DiskFault.SYNC_STALL: self._stall_syncs, DiskFault.WRITE_STALL: self._stall_writes,
            DiskFault.LOW_SPACE: self._low_space, DiskFault.NO_SPACE: self._no_space, DiskFault.READ_ERROR: self._read_error,
            DiskFault.SYNC_FAILURE: self.fail_sync, DiskFault.WRITE_ERROR: self.fail_write,
            DiskFault.BIT_FLIP: self.flip_bits, DiskFault.UNREADABLE: self.make_unreadable,
            DiskFault.LOST_WRITE: self.lose_write, DiskFault.MISDIRECTED: self.misdirect, DiskFault.SWAPPED: self.swap,
        }  # fmt: skip

    def next_pause_s(self) -> float:
        """Return how long to wait before the next `step`; infinite in a calm run."""
        if not any(weight for _, weight in self._swarm.weights):
            return float("inf")
        return self._rng.expovariate(1 / self._swarm.pause_s)

    def step(self) -> DiskFault | None:
        """Inject one fault of the swarm. None: the budget (or the state of the disk) allowed no victim."""
        self._atlas.observe(self.look)
        kinds = [kind for kind, weight in self._swarm.weights if weight]
        if not kinds:
            return None
        [kind] = self._rng.choices(kinds, [weight for _, weight in self._swarm.weights if weight])
        disk = self._disks[self._rng.choice(list(self._disks))]
        if self._do[kind](disk):
            return kind
        self._log.note(DiskFault.REFUSED, disk.name, kind)
        return None

    def heal_all(self) -> None:
        """Put every switch of every disk at rest; harm that was done stays, for reads to repair."""
        for disk in self._disks.values():
            disk.heal()

    def look(self, host: str, key: bytes) -> VersionVector | None:
        """Return the vector of a host's durable record (see `atlas.Look`), if that is what its node would serve.

        A batch in doubt may be durable in the log and yet not be seen before the next start, if ever.
        """
        disk = self._disks[host]
        if disk.is_doomed:
            return None
        if not self._counts(host, key):
            return {}
        durable, newest = _vector(key, disk.peek_durable(key)), _vector(key, disk.peek(key))
        if durable is not None and newest is not None and descends(newest, durable):
            return durable
        return newest if durable is not None else None

    # --- passing ------------------------------------------------------------------------------------------------------

    def _slow(self, disk: SimDisk) -> bool:
        disk.trouble.sync_factor = self._swarm.slow_factor
        disk.trouble.slow_until_s = self._until_s(disk, self._swarm.lasts_s_max)
        return self._noted(DiskFault.SLOW, disk, round(self._swarm.slow_factor))

    def _stall_syncs(self, disk: SimDisk) -> bool:
        disk.trouble.syncs_stall_until_s = self._until_s(disk, self._swarm.stall_s_max)
        return self._noted(DiskFault.SYNC_STALL, disk)

    def _stall_writes(self, disk: SimDisk) -> bool:
        disk.trouble.writes_stall_until_s = self._until_s(disk, self._swarm.stall_s_max)
        return self._noted(DiskFault.WRITE_STALL, disk)

    def _low_space(self, disk: SimDisk) -> bool:
        room = 1 << 20
        disk.fill(free_bytes=room, watermark_bytes=2 * room, until_s=self._until_s(disk, self._swarm.lasts_s_max))
        return self._noted(DiskFault.LOW_SPACE, disk)

    def _no_space(self, disk: SimDisk) -> bool:
        free_bytes = self._rng.randint(0, self._swarm.free_bytes_max)
        disk.fill(free_bytes=free_bytes, until_s=self._until_s(disk, self._swarm.lasts_s_max))
        return self._noted(DiskFault.NO_SPACE, disk, free_bytes)

    def _read_error(self, disk: SimDisk) -> bool:
        first = self._rng.randrange(TOKENS_COUNT)
        last = min(TOKENS_COUNT - 1, first + round(self._swarm.read_share * TOKENS_COUNT))
        times = self._rng.randint(1, max(1, self._swarm.read_errors_max))
        lower, upper = first.to_bytes(8, "big"), last.to_bytes(8, "big") + b"\xff"
        disk.fail_reads(ReadFault(Family.DATA, lower, upper, times))
        return self._noted(DiskFault.READ_ERROR, disk, lower, upper, times)

    def _until_s(self, disk: SimDisk, lasts_s_max: float) -> float:
        return disk.now() + self._rng.uniform(0, lasts_s_max)

    # --- costing a node -----------------------------------------------------------------------------------------------

    def fail_sync(self, disk: SimDisk) -> bool:
        """Let the next sync fail, if the budget can spare this host for good."""
        if not self._may_cost_a_node(DiskFault.SYNC_FAILURE, disk):
            return False
        disk.fail_next_sync()
        return self._noted(DiskFault.SYNC_FAILURE, disk)

    def fail_write(self, disk: SimDisk) -> bool:
        """Let the next write fail with an I/O error, which costs the host as a failed sync does."""
        if not self._may_cost_a_node(DiskFault.WRITE_ERROR, disk):
            return False
        disk.trouble.write_errors_left = 1
        return self._noted(DiskFault.WRITE_ERROR, disk)

    # --- harm at rest -------------------------------------------------------------------------------------------------

    def flip_bits(self, disk: SimDisk) -> bool:
        """Flip one to three bits of some record."""
        key = self._victim(DiskFault.BIT_FLIP, disk)
        if key is None:
            return False
        disk.flip_bits(key, self._rng.randint(1, 3))
        return self._noted(DiskFault.BIT_FLIP, disk, key)

    def make_unreadable(self, disk: SimDisk) -> bool:
        """Let the engine's own checksum fail for some record."""
        key = self._victim(DiskFault.UNREADABLE, disk)
        if key is None:
            return False
        disk.corrupt(Family.DATA, key)
        return self._noted(DiskFault.UNREADABLE, disk, key)

    def lose_write(self, disk: SimDisk) -> bool:
        """Take some record back to its version before: only the budget protects from that."""
        key = self._victim(DiskFault.LOST_WRITE, disk, self._may_revert)
        if key is None:
            return False
        disk.revert(key)
        return self._noted(DiskFault.LOST_WRITE, disk, key)

    def misdirect(self, disk: SimDisk) -> bool:
        """Let the last write of one record have landed on another."""
        onto = self._other_victim(disk)
        key = self._victim(DiskFault.MISDIRECTED, disk, lambda d, k: k != onto and self._may_revert(d, k), onto)
        if key is None or onto is None:
            return False
        disk.misdirect(key, onto)
        return self._noted(DiskFault.MISDIRECTED, disk, key, onto)

    def swap(self, disk: SimDisk) -> bool:
        """Exchange two records."""
        other = self._other_victim(disk)
        key = self._victim(DiskFault.SWAPPED, disk, lambda _, k: k != other, other)
        if key is None or other is None:
            return False
        disk.swap(key, other)
        return self._noted(DiskFault.SWAPPED, disk, key, other)

    def make_meta_unreadable(self, disk: SimDisk, key: bytes) -> bool:
        """Let the engine's checksum fail for an entry of META: the node must not start, or must say so."""
        disk.corrupt(Family.META, key)
        return self._noted(DiskFault.META_UNREADABLE, disk, key)

    # --- whole disks, of hosts that are down --------------------------------------------------------------------------

    def lose_disk(self, disk: SimDisk) -> bool:
        """Replace the disk by an empty one, if the budget can spare all of its copies."""
        if not self._may_cost_a_node(DiskFault.LOST_DISK, disk):
            return False
        disk.wipe()
        return self._noted(DiskFault.LOST_DISK, disk)

    def restore_old(self, disk: SimDisk, snapshot: Snapshot, *, is_block_level: bool) -> bool:
        """Put an older state of this disk in its place. It must be refused, so all of its copies are gone for good."""
        if not self._may_cost_a_node(DiskFault.OLD_COPY, disk):
            return False
        disk.restore(snapshot, is_block_level=is_block_level)
        disk.is_retired = True
        return self._noted(DiskFault.OLD_COPY, disk, int(is_block_level))

    def clone(self, source: SimDisk, target: SimDisk, *, is_block_level: bool) -> bool:
        """Copy a disk onto another host's, which must be down. The source may go on running."""
        target.restore(source.snapshot(), is_block_level=is_block_level)
        target.is_retired = True
        return self._noted(DiskFault.CLONE, target, source.name, int(is_block_level))

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _victim(
        self, kind: DiskFault, disk: SimDisk, is_fit: Callable[[SimDisk, bytes], bool] = lambda disk, key: True,
        together: bytes | None = None,
    ) -> bytes | None:  # fmt: skip
        """Return a settled key that is fit and that the budget allows, with the key that is hurt together with it."""
        keys = [key for key in disk.settled_keys() if is_fit(disk, key)]
        if disk.is_doomed:
            return None
        for key in self._rng.sample(keys, min(CANDIDATES_MAX, len(keys))):
            if self._is_allowed(kind, disk, [key] if together is None else [key, together]):
                return key
        return None

    def _other_victim(self, disk: SimDisk) -> bytes | None:
        keys = disk.settled_keys()
        return self._rng.choice(keys) if keys else None

    def _may_revert(self, disk: SimDisk, key: bytes) -> bool:
        previous = disk.maybe_previous(key)
        if previous is None:
            return False
        before, after = _vector(key, disk.peek_durable(key)), _vector(key, previous)
        node_id = disk.meta(META_NODE_ID)
        if before is None or after is None or node_id is None:
            return False
        return not any(actor.startswith(node_id) and after.get(actor, 0) < count for actor, count in before.items())

    def _is_allowed(self, kind: DiskFault, disk: SimDisk, keys: list[bytes]) -> bool:
        return not disk.is_doomed and self._atlas.decide(kind, disk.name, keys, self.look).is_allowed

    def _may_cost_a_node(self, kind: DiskFault, disk: SimDisk) -> bool:
        """Of three replicas one may be lost for good: with two gone, what was never written anywhere has no quorum either."""
        others = [other for other in self._disks.values() if other is not disk]
        return (
            self._nodes_may_go(disk.name)
            and not any(other.is_doomed for other in others)
            and self._is_allowed(kind, disk, list(disk.durable_records()))
        )

    def _noted(self, kind: DiskFault, disk: SimDisk, *details: int | str | bytes) -> bool:
        self._log.note(kind, disk.name, *details)
        return True


def _vector(key: bytes, record: bytes | None) -> VersionVector | None:
    if record is None:
        return {}
    if len(record) < 12 or not check_record(StorageKey(key), record):
        return None
    return decode_vector(view_record(record).encoded_vector)
