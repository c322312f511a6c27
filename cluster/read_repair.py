"""Read repair: brings a replica that was seen behind up to date, in the background and within bounds.

Two occasions: a get found one of the replicas it contacted stale (`repair`), and a local record was unreadable (`heal`). A heal
reads every other owner before it replaces the record, because what the unreadable one alone held is unknown (while
partitions move: `Placement.heal_sources`).

At REPAIRS_IN_FLIGHT_MAX further repairs are shed and counted: the next read of the key finds the difference again.
"""

from __future__ import annotations

import asyncio

from cluster.coordinator.get import Candidate, GetOperation
from cluster.coordinator.read_core import ReadCore
from cluster.counters import Counters
from cluster.placement import Placement, Slot
from cluster.replica import Replica, is_deleted
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import KVStoreError, StorageError, UnavailableError
from kvstore.ids import StorageKey
from kvstore.messages import Verb
from kvstore.storage.record import decode_record
from kvstore.transport.link import Link

__all__ = ["ReadRepair"]

REPAIRS_IN_FLIGHT_MAX = 256
REPAIR_TIMEOUT_S = 2.0
ALONE_COUNT_MAX = 1_024
"""Unreadable records that are remembered as held by nobody else; a heal that is asked for again finds out anew."""


class ReadRepair:
    """`attach` gives it the replica; the two need each other."""

    def __init__(self, placement: Placement, counters: Counters, *, chaos: Chaos = CALM) -> None:
        self._placement, self._counters, self._chaos = placement, counters, chaos
        self._loop = asyncio.get_running_loop()
        self._replica: Replica | None = None
        self._in_flight = 0
        self._healing: set[StorageKey] = set()
        self._alone: dict[StorageKey, None] = {}

    def is_alone(self, key: StorageKey) -> bool:
        """Whether, when every other owner was read last, none held anything of this unreadable record. Then it was never
        acknowledged by a quorum, and there is nothing to wait for."""
        return key in self._alone

    def attach(self, replica: Replica) -> None:
        """Give the replica whose records are repaired."""
        self._replica = replica

    def repair(self, slot: Slot, key: StorageKey, candidate: Candidate, record: bytes) -> None:
        """Bring one replica up to `record`: the local one (candidate None) or the one at the other end of a link."""
        chaos = self._chaos
        if self._in_flight >= REPAIRS_IN_FLIGHT_MAX or chaos.fires(Point.REPAIR_SHED):
            self._shed()
        elif candidate is None:
            self._repair_local(slot, key, record)
        elif (delay_s := chaos.pick(Point.REPAIR_LATE, 0.0, 0.01, 0.5)) > 0:
            self._loop.call_later(delay_s, self._repair_remote, slot, key, candidate, record)
        else:
            for _ in range(chaos.pick(Point.REPAIR_TWICE, 1, 2)):
                self._repair_remote(slot, key, candidate, record)

    def _repair_remote(self, slot: Slot, key: StorageKey, link: Link, record: bytes) -> None:
        try:
            link.ask(Verb.REPLICATE, slot.version, self._deadline(), key, record, self._repaired)
        except UnavailableError:
            self._shed()
        else:
            self._in_flight += 1
            self._counters.repairs += 1

    def _shed(self) -> None:
        self._chaos.hit(Probe.REPAIR_WAS_SHED)
        self._counters.repairs_shed += 1

    def heal(self, key: StorageKey) -> None:
        """Replace an unreadable local record by the join of every other owner's, if all of them can be read now."""
        slot = self._placement.slot(key) if self._placement.topology is not None else None
        if slot is None or key in self._healing or len(self._healing) >= REPAIRS_IN_FLIGHT_MAX:
            return
        everyone = self._placement.heal_sources(slot)
        if not everyone or any(not link.is_up for link in everyone) or self._chaos.fires(Point.HEAL_SKIPPED):
            return  # the next access of the key asks again
        self._healing.add(key)
        self._alone.pop(key, None)
        self._loop.call_soon(self._heal, slot, key, everyone)

    def _heal(self, slot: Slot, key: StorageKey, everyone: tuple[Link, ...]) -> None:
        assert self._replica is not None
        now = self._loop.time()
        GetOperation(self, self._replica, slot, key, len(everyone), 0, everyone, self._deadline(), now, slot).start()

    def answered(self, operation: GetOperation, record: bytes, core: ReadCore[Candidate]) -> None:
        """Every other owner was read: replace the unreadable record by their join (part of being a Reader)."""
        replica, slot = self._replica, operation.token
        assert replica is not None and isinstance(slot, Slot)
        self._healing.discard(operation.key)
        if not record:
            self._chaos.hit(Probe.HEAL_FOUND_NOTHING)
            if len(self._alone) < ALONE_COUNT_MAX:
                self._alone[operation.key] = None
            return  # nobody else holds it: keep the evidence, and keep saying that it is unreadable
        replica.stage_healed(slot.partition, operation.key, record, _applied)
        replica.store.commit_staged()
        replica.store.sync_soon()  # in a cluster that only reads, a power loss would bring the rot back
        self._counters.healed += 1
        self._chaos.hit(Probe.RECORD_HEALED)

    def failed(self, operation: GetOperation, error: KVStoreError) -> None:
        """Not every owner could be read: the next access of the key tries again (part of being a Reader)."""
        self._chaos.hit(Probe.HEAL_FAILED)
        self._healing.discard(operation.key)

    def heard(self, link: Link, count: int, started: float) -> None:
        """Part of being a Reader; a heal reads what is hard to read, so it says nothing about how fast an owner is."""

    def _repair_local(self, slot: Slot, key: StorageKey, record: bytes) -> None:
        replica = self._replica
        assert replica is not None
        try:
            changed = replica.stage_merge(slot.partition, key, record, _applied)
        except StorageError:
            return  # unreadable: a heal is under way, or the next read finds it again
        if changed:
            self._chaos.hit(Probe.REPAIRED_LOCALLY)
            self._counters.repairs += 1
            replica.store.commit_staged()
            replica.store.sync_soon()
        elif not self._chaos.is_calm:
            self._note_race(replica, key, record)

    def _note_race(self, replica: Replica, key: StorageKey, record: bytes) -> None:
        try:
            state = replica.state(key)
        except StorageError:
            return  # only probes depend on it
        self._chaos.hit(Probe.REPAIR_CAME_TOO_LATE)
        if is_deleted(state) and not is_deleted(decode_record(key, record)):
            self._chaos.hit(Probe.REPAIR_RACED_A_DELETE)

    def _repaired(self, status: int, body: bytes) -> None:
        self._in_flight -= 1

    def _deadline(self) -> float:
        return self._loop.time() + REPAIR_TIMEOUT_S


def _applied(problem: Exception | None) -> None:
    """A repair that the store refused (disk full, overload) is found again by the next read."""
