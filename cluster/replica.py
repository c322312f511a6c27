"""The replica: what this node does with records on behalf of a coordinator (itself or a peer).

Merges an incoming state into the local record, says what is durable, and keeps the promises about dots: whatever shows that our
own history is incomplete ends the partition's actor epoch (`correctness` rule 1).

Invariants
  1. A record is stored only after its checksum was verified against the key it came for.
  2. An unreadable local record is never overwritten by a replicated one: it is an error until `heal` has read every other owner.
  3. A write that changes nothing is acknowledged only when what it found is durable (rule 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.actors import Actors
from cluster.store import Applied, Store
from kvstore.causality.actor import MintReason, history_is_behind
from kvstore.causality.dvvset import EMPTY, DVVSet, sync, sync_lww
from kvstore.causality.hlc import HybridLogicalClock, hlc_to_ms
from kvstore.causality.version_vector import Relation, compare, is_next_of_one
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import Corruption, StorageError
from kvstore.ids import HlcTimestamp, ObjectType, PartitionId, StorageKey
from kvstore.storage.record import check_record, decode_record, encode_record, stored_vector, view_record

__all__ = ["Replica", "is_deleted", "merge_for"]

log = logging.getLogger("kvnode")

_TYPE_OFFSET = 8
"""The object's type is the first byte of its name, which follows the token in the storage key."""


def merge_for(storage_key: bytes) -> Callable[[DVVSet, DVVSet], DVVSet]:
    """Return the join of the object's type."""
    return sync_lww if storage_key[_TYPE_OFFSET] == ObjectType.LWW else sync


def is_deleted(state: DVVSet) -> bool:
    """Whether tombstones are all that is there."""
    return bool(state.siblings) and all(sibling.value is None for sibling in state.siblings)


class Replica:
    """Reads and merges records of the partitions this node owns."""

    def __init__(
        self, store: Store, actors: Actors, clock: HybridLogicalClock, wall_ms: Callable[[], int],
        heal: Callable[[StorageKey], None], *, chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self.store, self._actors, self._clock, self._wall_ms, self._heal = store, actors, clock, wall_ms, heal
        self._chaos = chaos
        if not chaos.is_calm:  # instead of the methods, so that a calm replica is not asked
            self._goes_long_way = chaos.fires(Point.MERGE_LONG_WAY)
            self._is_news_only = self._watched_news  # type: ignore[method-assign]
            self._is_next = self._watched_next  # type: ignore[method-assign]
        self.timestamps_refused = 0

    def read(self, key: StorageKey) -> bytes:
        """Return the verified record, or empty bytes if there is surely none. Corruption also asks for a heal."""
        store = self.store
        record = store.maybe_cached(key)
        if record is not None:
            return record
        try:
            record = store.read(key)
        except Corruption:
            self._heal(key)
            raise
        if record is None:
            return b""
        if not check_record(key, record):
            self._heal(key)
            raise Corruption("a local record failed its checksum", key=key.hex())
        store.keep(key, record)
        return record

    def state(self, key: StorageKey) -> DVVSet:
        """Return the decoded local state, EMPTY if there is surely none."""
        record = self.read(key)
        try:
            return decode_record(key, record) if record else EMPTY
        except Corruption:
            self._heal(key)
            raise

    def stage_merge(self, partition: PartitionId, key: StorageKey, incoming: bytes, after: Applied | None) -> bool:
        """Stage the join of the local record and `incoming`; returns False if that changes nothing (`after` never runs).

        Raises Corruption: `incoming` is not a record of this key, or the local one is unreadable. Nothing was staged.
        """
        local = self.read(key)
        if local == incoming:
            return False
        if (
            self._is_news_only(partition, key, incoming)
            if not local
            else self._is_next(partition, key, local, incoming)
        ):
            self.store.stage(key, incoming, after)
            return True
        theirs = decode_record(key, incoming)
        ours = decode_record(key, local) if local else EMPTY
        self._note_history(partition, ours, theirs)
        merged = self._join(key, ours, theirs, incoming)
        if merged == local:
            self._note_old(ours, theirs)
            return False
        self.store.stage(key, merged, after)
        return True

    def doubt(self, partition: PartitionId, key: StorageKey, record: bytes) -> None:
        """The engine does not know whether `record` was written: no dot of it may be minted again."""
        try:
            local = self.read(key)
        except StorageError:
            local = b""  # then it may be anything, and a new epoch is the safe side
        self._actors.end_if_ahead(partition, stored_vector(local) if local else b"", stored_vector(record))

    def stage_healed(self, partition: PartitionId, key: StorageKey, record: bytes, after: Applied) -> None:
        """Stage `record`, read from every other owner, in place of an unreadable one; ends the actor epoch."""
        self._actors.mint(partition, MintReason.RECORD_UNREADABLE)
        self.store.stage(key, record, after)

    def _join(self, key: StorageKey, ours: DVVSet, theirs: DVVSet, incoming: bytes) -> bytes:
        if not ours.vector:
            return incoming
        if compare(theirs.vector, ours.vector) is Relation.DOMINATES and _operations_covered(ours, theirs):
            return incoming  # what has seen all of ours is the join already, for registers and lww alike
        self._chaos.hit(Probe.MERGED_CONCURRENT)
        return encode_record(key, merge_for(key)(ours, theirs))

    def _is_news_only(self, partition: PartitionId, key: StorageKey, incoming: bytes) -> bool:
        """Whether a record for a key we hold nothing of may be stored as it came: nearly every first write of a key."""
        if not check_record(key, incoming):
            raise Corruption("a replicated record fails its checksum", key=key.hex())
        view = view_record(incoming)
        actor = self._actors.maybe_current(partition)
        if actor is not None and view.encoded_vector.find(actor) >= 0:
            return False
        return self._clock.observe(HlcTimestamp(view.hlc_max), self._wall_ms())

    def _is_next(self, partition: PartitionId, key: StorageKey, local: bytes, incoming: bytes) -> bool:
        """Whether `incoming` is our state and one more dot of another actor: nearly every overwrite of a key.

        A record with that vector has been joined with all that ours has seen, so siblings and remembered operations of the
        join are its own. (A retry written at two coordinators may leave replicas that differ under one vector; equal vectors
        are merged, so the next read or replication mends that.)
        """
        if not check_record(key, incoming):
            raise Corruption("a replicated record fails its checksum", key=key.hex())
        view = view_record(incoming)
        stepped = is_next_of_one(stored_vector(local), view.encoded_vector)
        if stepped is None or stepped == self._actors.maybe_current(partition):
            return False
        return self._clock.observe(HlcTimestamp(view.hlc_max), self._wall_ms())

    def _watched_news(self, partition: PartitionId, key: StorageKey, incoming: bytes) -> bool:
        if self._goes_long_way or not Replica._is_news_only(self, partition, key, incoming):
            return False
        self._chaos.hit(Probe.MERGED_AS_NEWS)
        return True

    def _watched_next(self, partition: PartitionId, key: StorageKey, local: bytes, incoming: bytes) -> bool:
        if self._goes_long_way or not Replica._is_next(self, partition, key, local, incoming):
            return False
        self._chaos.hit(Probe.MERGED_AS_NEXT)
        return True

    def _note_old(self, ours: DVVSet, theirs: DVVSet) -> None:
        self._chaos.hit(Probe.MERGE_CHANGED_NOTHING)
        if is_deleted(ours) and not is_deleted(theirs):
            self._chaos.hit(Probe.OLD_VALUE_MET_TOMBSTONE)

    def _note_history(self, partition: PartitionId, ours: DVVSet, theirs: DVVSet) -> None:
        actor = self._actors.maybe_current(partition)
        if actor is not None and history_is_behind(actor, ours.vector, theirs.vector):
            self._actors.mint(partition, MintReason.SEEN_AHEAD)
        wall_ms = self._wall_ms()
        for sibling in theirs.siblings:
            if not self._clock.observe(sibling.hlc, wall_ms):
                self._alarm(sibling.hlc, wall_ms)

    def _alarm(self, timestamp: HlcTimestamp, wall_ms: int) -> None:
        """Count a peer's timestamp that is too far ahead; log the 1st, 2nd, 4th, 8th …, because a bad clock brings many."""
        self.timestamps_refused += 1
        self._chaos.hit(Probe.PEER_CLOCK_AHEAD)
        if self.timestamps_refused & (self.timestamps_refused - 1) == 0:
            ahead_ms = hlc_to_ms(timestamp) - wall_ms
            log.warning("a replicated value is %d ms ahead of our clock (%d so far)", ahead_ms, self.timestamps_refused)


def _operations_covered(ours: DVVSet, theirs: DVVSet) -> bool:
    """Whether the join would remember exactly what `theirs` does: our operations are all among theirs or older."""
    if not theirs.operations:
        return not ours.operations
    oldest = theirs.operations[0]
    return all(o in theirs.operations or (len(theirs.operations) >= 16 and o < oldest) for o in ours.operations)
