"""What a put makes of an object: the record that replaces the local one, its dot minted here.

    local record ─┬─ one value, plainly overwritten ──► spliced (storage/overwrite.py)
                  ├─ holds this operation already ────► unchanged
                  └─ anything else ───────────────────► decoded, minted, updated, encoded

Nothing is stored here, except that a mint of a new actor is staged in the batch that will hold its first dot.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.4; riak_kv#679 for the actors (see causality/actor.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cluster.actors import Actors
from cluster.counters import Counters
from cluster.replica import Replica
from kvstore.causality.actor import MintReason, history_is_behind, next_dot_counter
from kvstore.causality.context import UNUSABLE, decode_context, encode_context, encode_history
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update, update_lww
from kvstore.causality.hlc import LOGICAL_BITS, HybridLogicalClock
from kvstore.causality.version_vector import VersionVector, encode_vector
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import ClockSkew, InvalidArgument, InvalidContext, TooManySiblings, ValueTooLarge
from kvstore.ids import HlcTimestamp, ObjectType, OperationId, PartitionId, StorageKey
from kvstore.limits import SIBLINGS_COUNT_MAX, VALUE_SIZE_BYTES_MAX, VECTOR_ENTRIES_MAX
from kvstore.messages import PutRequest
from kvstore.ring.buckets import BucketProperties
from kvstore.storage.overwrite import overwrite
from kvstore.storage.record import encode_record, value_hash, view_record

__all__ = ["Mutation", "Mutations"]

_NO_CONTEXT: tuple[VersionVector, HlcTimestamp] = ({}, HlcTimestamp(0))
VALUE_ENVELOPE_BYTES = 16
"""What a client's encoding may add around a value of VALUE_SIZE_BYTES_MAX."""
HLC_AHEAD_TICKS = 1 << LOGICAL_BITS - 1
"""Half a millisecond, for Point.HLC_AHEAD."""
_LWW = int(ObjectType.LWW)
_TYPE_OFFSET = 8


class Mutation(NamedTuple):
    """The record a put leads to. `siblings`, `superseded` and `context` are for its reply (see messages.PutReply)."""

    record: bytes
    siblings: int
    superseded: bool
    context: bytes
    is_new: bool
    """False: the local record holds this operation already, and `record` is that record."""


class Mutations:
    """Makes mutations from the local replica's records."""

    def __init__(
        self, *, replica: Replica, actors: Actors, clock: HybridLogicalClock, wall_ms: Callable[[], int], counters: Counters,
        chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._replica, self._actors, self._clock = replica, actors, clock
        self._wall_ms, self._counters, self._chaos, self._is_calm = wall_ms, counters, chaos, chaos.is_calm
        if not chaos.is_calm:
            self._goes_long_way = chaos.fires(Point.OVERWRITE_LONG_WAY)
            self._overwritten = self._watched_overwrite  # type: ignore[method-assign]  # so that a calm one is not asked

    def make(self, partition: PartitionId, key: StorageKey, bucket: BucketProperties, request: PutRequest) -> Mutation:
        """Return what a put (value None: of a tombstone) makes. Raises ClientError, Corruption or StorageError."""
        value = request.value
        if value is None:
            self._counters.deletes += 1
            ttl_ms = 0
        else:
            if len(value) > VALUE_SIZE_BYTES_MAX + VALUE_ENVELOPE_BYTES:
                raise ValueTooLarge("the value is too large", size_bytes=len(value), limit_bytes=VALUE_SIZE_BYTES_MAX)
            self._counters.puts += 1
            ttl_ms = request.ttl_ms or bucket.ttl_ms
        digest = value_hash(value, ttl_ms)
        local = self._replica.store.maybe_cached(key)
        if local is None:
            local = self._replica.read(key)
        if local:
            spliced = self._overwritten(partition, key, local, request, ttl_ms, digest)
            if spliced is not None:
                return spliced
        state = self._replica.state(key) if local else EMPTY
        if state.operations and _is_duplicate(state, request.operation_id, digest):
            self._counters.duplicates += 1
            self._note_duplicate(state, request.operation_id)
            return _mutation(key, state, request, superseded=False, is_new=False)
        new, context = self._mint(partition, key, state, request, ttl_ms)
        superseded = False
        if key[_TYPE_OFFSET] == _LWW:
            after, superseded = update_lww(state, new, digest)
            self._counters.superseded += superseded
            if superseded:
                self._chaos.hit(Probe.LWW_SUPERSEDED)
        else:
            after = update(state, context, new, digest)
            self._check_siblings(after)
        if len(after.vector) > VECTOR_ENTRIES_MAX:
            raise InvalidContext(
                "the context names too many actors", entries=len(after.vector), limit=VECTOR_ENTRIES_MAX
            )
        return _mutation(key, after, request, superseded=superseded, is_new=True)

    def _overwritten(
        self, partition: PartitionId, key: StorageKey, local: bytes, request: PutRequest, ttl_ms: int, digest: bytes,
    ) -> Mutation | None:  # fmt: skip
        """Take the short way if the put replaces the only value of a record; None if it needs the general one."""
        view, actor, wall_ms = view_record(local), self._actors.maybe_current(partition), self._wall_ms()
        if actor is None or not self._clock.observe(HlcTimestamp(view.hlc_max), wall_ms):
            return None
        context = request.context
        if context is None:
            if key[_TYPE_OFFSET] != _LWW:
                return None
        elif context != encode_context(key[:8], view.hlc_max, view.encoded_vector):
            return None
        hlc = self._clock.tick(wall_ms)
        expires = hlc + (ttl_ms << LOGICAL_BITS) if ttl_ms else 0
        made = overwrite(key, view, actor, hlc, expires, request.operation_id, request.value, digest)
        if made is None:
            return None
        record, encoded_vector = made
        return Mutation(record, 1, False, encode_context(key[:8], hlc, encoded_vector), True)

    def _mint(
        self, partition: PartitionId, key: StorageKey, state: DVVSet, request: PutRequest, ttl_ms: int
    ) -> tuple[Sibling, VersionVector]:  # fmt: skip
        wall_ms = self._wall_ms()
        context, context_hlc = _NO_CONTEXT
        if request.context is not None:
            context, context_hlc = decode_context(request.context, key[:8])
            if not self._clock.observe(context_hlc, wall_ms):
                self._chaos.hit(Probe.CONTEXT_CLOCK_REFUSED)
                raise ClockSkew("the context is from a clock too far ahead", max_skew_ms=self._clock.max_skew_ms)
        for sibling in state.siblings:
            self._clock.observe(sibling.hlc, wall_ms)
        if not self._is_calm:
            self._disturb(partition, wall_ms)
        actor = self._actors.current(partition)
        if context and history_is_behind(actor, state.vector, context):
            self._chaos.hit(Probe.CONTEXT_AHEAD_OF_HISTORY)
            actor = self._actors.mint(partition, MintReason.SEEN_AHEAD)
        hlc = self._clock.tick(wall_ms)
        expires = HlcTimestamp(hlc + (ttl_ms << LOGICAL_BITS)) if ttl_ms else HlcTimestamp(0)
        counter = next_dot_counter(actor, state.vector)
        return Sibling(actor, counter, hlc, expires, OperationId(request.operation_id), request.value), context

    def _disturb(self, partition: PartitionId, wall_ms: int) -> None:
        if self._chaos.fires(Point.ACTOR_EARLY):
            self._actors.mint(partition, MintReason.FIRST)
        if self._chaos.fires(Point.HLC_AHEAD):
            self._clock.observe(HlcTimestamp((wall_ms << LOGICAL_BITS) + HLC_AHEAD_TICKS), wall_ms)

    def _watched_overwrite(
        self, partition: PartitionId, key: StorageKey, local: bytes, request: PutRequest, ttl_ms: int, digest: bytes,
    ) -> Mutation | None:  # fmt: skip
        if self._goes_long_way:
            return None
        spliced = Mutations._overwritten(self, partition, key, local, request, ttl_ms, digest)
        self._chaos.hit(Probe.OVERWRITE_STEPPED_ASIDE if spliced is None else Probe.OVERWRITE_SPLICED)
        return spliced

    def _note_duplicate(self, state: DVVSet, operation_id: bytes) -> None:
        is_replaced = all(sibling.operation_id != operation_id for sibling in state.siblings)
        self._chaos.hit(Probe.RETRY_MET_REPLACED_VALUE if is_replaced else Probe.DUPLICATE_PUT_FOUND)

    def _check_siblings(self, state: DVVSet) -> None:
        count = len(state.siblings)
        if count > SIBLINGS_COUNT_MAX:
            self._chaos.hit(Probe.SIBLING_LIMIT_REACHED)
            raise TooManySiblings(
                "read, resolve and write with the context", siblings=count - 1, limit=SIBLINGS_COUNT_MAX
            )
        self._counters.siblings_max = max(count, self._counters.siblings_max)


def _mutation(key: StorageKey, state: DVVSet, request: PutRequest, *, superseded: bool, is_new: bool) -> Mutation:
    encoded_vector = encode_vector(state.vector)
    context, only = UNUSABLE, state.siblings[0] if len(state.siblings) == 1 else None
    # Not if the one value left is somebody else's, which a retry finds: the client was never shown it.
    if only is not None and only.operation_id == request.operation_id:
        context = encode_context(key[:8], only.hlc, encoded_vector)
    elif request.tells_history:
        context = encode_history(key[:8], encoded_vector)
    return Mutation(encode_record(key, state, encoded_vector), _live_count(state), superseded, context, is_new)


def _is_duplicate(state: DVVSet, operation_id: bytes, digest: bytes) -> bool:
    """Whether the operation is remembered, or its value is still there: of a sibling nobody forgets the operation."""
    known = [operation.value_hash for operation in state.operations if operation.operation_id == operation_id]
    known += [value_hash(s.value, s.expires) for s in state.siblings if s.operation_id == operation_id]
    if any(value_digest != digest for value_digest in known):
        raise InvalidArgument("this operation id was used for another value")
    return bool(known)


def _live_count(state: DVVSet) -> int:
    """Return how many values a read would show: tombstones are not shown, though they cost the context."""
    return len(state.siblings) if len(state.siblings) < 2 else sum(s.value is not None for s in state.siblings)
