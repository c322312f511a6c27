"""The coordinator: plans client operations on the keys this node owns, forwards the others once.

A put merges locally, mints the dot and hands a PutOperation to the store; a get hands candidates to a GetOperation. What cannot
be done is refused before anything is applied, with a definite error; what was applied never gets one.

Source: DeCandia et al., "Dynamo", SOSP 2007, sections 4.4-4.5. Differs: no fallbacks in this version, so a put needs enough
reachable owners and is refused otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from cluster.actors import Actors
from cluster.coordinator.get import Candidate, GetOperation
from cluster.coordinator.put import PutOperation
from cluster.coordinator.quorum import resolve_count, resolve_primary_count
from cluster.coordinator.read_core import ReadCore
from cluster.coordinator.write_core import WriteCore
from cluster.counters import Counters, Latencies
from cluster.placement import Placement, Slot
from cluster.replica import Replica
from cluster.requests import Reply, fail
from kvstore.causality.actor import MintReason, history_is_behind, next_dot_counter
from kvstore.causality.context import UNUSABLE, decode_context, encode_context
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update, update_lww
from kvstore.causality.hlc import LOGICAL_BITS, HybridLogicalClock
from kvstore.causality.version_vector import VersionVector, encode_vector
from kvstore.errors import (
    ClockSkew,
    Corruption,
    IndeterminateError,
    InvalidArgument,
    InvalidContext,
    KVStoreError,
    NoSuchBucket,
    NotReady,
    Overloaded,
    ReadQuorumUnsatisfied,
    ReadTimeout,
    Timeout,
    TooManySiblings,
    Unavailable,
    UnavailableError,
    ValueTooLarge,
    WrongOwner,
    error_from_wire,
    error_to_wire,
)
from kvstore.ids import HlcTimestamp, ObjectType, OperationId, StorageKey
from kvstore.limits import INFLIGHT_PER_NODE_MAX, SIBLINGS_COUNT_MAX, VALUE_SIZE_BYTES_MAX, VECTOR_ENTRIES_MAX
from kvstore.messages import (
    PutRequest,
    Status,
    Verb,
    decode_delete,
    decode_get,
    decode_put,
    encode_get_reply,
)
from kvstore.ring.buckets import BucketProperties
from kvstore.storage.keyspace import check_name, storage_key
from kvstore.storage.overwrite import actor_counter, overwrite
from kvstore.storage.record import encode_record, value_hash, view_record

__all__ = ["Coordinator"]

VALUE_ENVELOPE_BYTES = 16
"""What a client's encoding may add around a value of VALUE_SIZE_BYTES_MAX."""
SLOW_READ_S = 0.1
"""A replica that has not answered a read by then is not waited for alone: another owner is asked too."""
SPARE_READS_SHARE, SPARE_READS_MAX = 0.05, 64.0
"""Asking another owner may add a twentieth to the reads (and 64 at once): when all are slow, more asking makes it slower."""
_NO_CONTEXT: tuple[VersionVector, HlcTimestamp] = ({}, HlcTimestamp(0))


class Coordinator:
    """All methods run on the event loop. Every operation gets exactly one reply."""

    def __init__(
        self, *, placement: Placement, replica: Replica, actors: Actors, clock: HybridLogicalClock,
        wall_ms: Callable[[], int], counters: Counters,
        repair: Callable[[Slot, StorageKey, Candidate, bytes], None],
    ) -> None:  # fmt: skip
        self._placement, self._replica, self._actors = placement, replica, actors
        self._clock, self._wall_ms, self._counters, self._repair = clock, wall_ms, counters, repair
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self._reads: dict[GetOperation, None] = {}
        self._watching_reads = False
        self._counts: dict[tuple[str, int, int | None, int | None, int | None], tuple[int, int, int]] = {}
        """Resolved w, dw, pw: buckets never change and N is the cluster's, so what was computed once stays true. Bounded by
        buckets x N x the few counts that resolve at all."""
        self._read_counts: dict[tuple[str, int], tuple[int, int]] = {}
        """Resolved r and pr of reads that ask for nothing special."""
        self._spare_reads = SPARE_READS_MAX
        self.in_flight = 0
        self.put_latencies, self.get_latencies = Latencies(), Latencies()

    # --- entry points: never raise; errors become replies --------------------------------------------------------------

    def put(self, name: bytes, body: bytes, deadline: float, reply: Reply, *, forwarded: bool) -> None:
        """Coordinate PUT, or forward it once."""
        self._guarded(self._put, Verb.FORWARDED_PUT, name, body, deadline, reply, forwarded)

    def delete(self, name: bytes, body: bytes, deadline: float, reply: Reply, *, forwarded: bool) -> None:
        """Coordinate DELETE (a put of a tombstone), or forward it once."""
        self._guarded(self._delete, Verb.FORWARDED_DELETE, name, body, deadline, reply, forwarded)

    def get(self, name: bytes, body: bytes, deadline: float, reply: Reply, *, forwarded: bool) -> None:
        """Coordinate GET, or forward it once."""
        try:
            slot, key, bucket = self._plan(name, deadline)
            if slot.is_owner:
                self._get(slot, key, bucket, body, deadline, reply)
            else:
                self._forward(slot, Verb.FORWARDED_GET, name, body, deadline, reply, forwarded)
        except KVStoreError as error:
            self._counters.count_error(error.code)
            fail(reply, error)

    def _guarded(
        self, run: Callable[[Slot, StorageKey, BucketProperties, bytes, float, Reply], None], forward_verb: Verb, name: bytes,
        body: bytes, deadline: float, reply: Reply, forwarded: bool,
    ) -> None:  # fmt: skip
        try:
            slot, key, bucket = self._plan(name, deadline)
            if not slot.is_owner:
                self._forward(slot, forward_verb, name, body, deadline, reply, forwarded)
                return
            try:
                run(slot, key, bucket, body, deadline, reply)
            except Corruption:  # what cannot read its local record does not coordinate
                if forwarded or len(slot.peers) == 0:
                    raise
                self._forward(slot, forward_verb, name, body, deadline, reply, forwarded)
        except KVStoreError as error:
            self._counters.count_error(error.code)
            fail(reply, error)

    # --- planning -------------------------------------------------------------------------------------------------------

    def _plan(self, name: bytes, deadline: float) -> tuple[Slot, StorageKey, BucketProperties]:
        if self.in_flight >= INFLIGHT_PER_NODE_MAX:
            self._counters.overloaded += 1
            raise Overloaded("the node coordinates as much as it can", retry_after_s=0.1, in_flight=self.in_flight)
        if not self._placement.is_serving:
            raise NotReady("the node is not serving yet, or the cluster is taking a node in", retry_after_s=0.1)
        if deadline <= self._loop.time():
            raise Overloaded("the deadline had passed before the operation was begun", retry_after_s=0.0)
        topology = self._placement.topology
        assert topology is not None, "a serving node has a topology"
        bucket = topology.bucket_by_bytes(check_name(name))
        if name[0] not in bucket.allowed_types:
            kind = ObjectType(name[0]).name.lower()
            raise NoSuchBucket(f"bucket {bucket.name!r} does not hold objects of type {kind}")
        key = storage_key(name)
        return self._placement.slot(key), key, bucket

    def _forward(
        self, slot: Slot, verb: Verb, name: bytes, body: bytes, deadline: float, reply: Reply, forwarded: bool
    ) -> None:
        if forwarded:
            raise WrongOwner(
                "a forwarded operation reached a node that does not own the key", topology_epoch=self._placement.epoch
            )
        if verb == Verb.FORWARDED_GET:
            reply = partial(_reply_to_read, reply)
        for link in slot.peers:
            try:
                link.ask(verb, slot.version, deadline, name, body, reply)
            except UnavailableError:
                continue
            self._counters.forwarded += 1
            return
        raise Unavailable("no owner of the key can be reached", needed=1, alive=0)

    # --- writes ---------------------------------------------------------------------------------------------------------

    def _put(
        self, slot: Slot, key: StorageKey, bucket: BucketProperties, body: bytes, deadline: float, reply: Reply
    ) -> None:
        request = decode_put(body)
        if len(request.value) > VALUE_SIZE_BYTES_MAX + VALUE_ENVELOPE_BYTES:
            raise ValueTooLarge(
                "the value is too large", size_bytes=len(request.value), limit_bytes=VALUE_SIZE_BYTES_MAX
            )
        self._counters.puts += 1
        self._write(slot, key, bucket, request, request.value, deadline, reply)

    def _delete(
        self, slot: Slot, key: StorageKey, bucket: BucketProperties, body: bytes, deadline: float, reply: Reply
    ) -> None:
        request = decode_delete(body)
        self._counters.deletes += 1
        as_put = PutRequest(request.operation_id, b"", request.context, 0, request.w, request.dw, request.pw)
        self._write(slot, key, bucket, as_put, None, deadline, reply)

    def _write(
        self, slot: Slot, key: StorageKey, bucket: BucketProperties, request: PutRequest, value: bytes | None,
        deadline: float, reply: Reply,
    ) -> None:  # fmt: skip
        core = self._write_core(slot, bucket, request)
        ttl_ms = request.ttl_ms or (bucket.ttl_ms if value is not None else 0)
        digest = value_hash(value, ttl_ms)
        local = self._replica.read(key)
        if local and self._overwrite(slot, key, local, request, value, ttl_ms, digest, core, deadline, reply):
            return
        state = self._replica.state(key) if local else EMPTY
        if state.operations and self._is_duplicate(state, request.operation_id, digest):
            self._counters.duplicates += 1
            encoded = encode_vector(state.vector)
            record = encode_record(key, state, encoded)
            self._operation(
                slot, key, record, state, encoded, request.operation_id, False, core, deadline, reply
            ).unchanged()
            return
        new, context = self._mint(slot, key, state, request, value, ttl_ms)
        if key[8] == ObjectType.LWW:
            after, superseded = update_lww(state, new, digest)
            self._counters.superseded += superseded
        else:
            after, superseded = update(state, context, new, digest), False
            self._check_siblings(after)
        if len(after.vector) > VECTOR_ENTRIES_MAX:
            raise InvalidContext(
                "the context names too many actors", entries=len(after.vector), limit=VECTOR_ENTRIES_MAX
            )
        encoded = encode_vector(after.vector)
        record = encode_record(key, after, encoded)
        operation = self._operation(
            slot, key, record, after, encoded, request.operation_id, superseded, core, deadline, reply
        )
        self._replica.store.stage(key, record, operation.applied)

    def _overwrite(
        self, slot: Slot, key: StorageKey, local: bytes, request: PutRequest, value: bytes | None, ttl_ms: int,
        digest: bytes, core: WriteCore, deadline: float, reply: Reply,
    ) -> bool:  # fmt: skip
        """Take the short way if the put replaces the only value of a record; False if it needs the general one."""
        view, actor, wall_ms = view_record(local), self._actors.maybe_current(slot.partition), self._wall_ms()
        context = request.context
        if actor is None or not self._clock.observe(HlcTimestamp(view.hlc_max), wall_ms):
            return False
        if context is not None:
            if context != encode_context(key[:8], view.hlc_max, view.encoded_vector):
                return False
        elif key[8] != ObjectType.LWW:
            return False
        hlc = self._clock.tick(wall_ms)
        expires = HlcTimestamp(hlc + (ttl_ms << LOGICAL_BITS)) if ttl_ms else HlcTimestamp(0)
        counter = actor_counter(view, actor) + 1
        new = Sibling(actor, counter, hlc, expires, OperationId(request.operation_id), value)
        made = overwrite(key, view, new, digest)
        if made is None:
            return False
        record, encoded = made
        only = DVVSet({}, (new,), ())
        operation = self._operation(
            slot, key, record, only, encoded, request.operation_id, False, core, deadline, reply
        )
        self._replica.store.stage(key, record, operation.applied)
        return True

    def _write_core(self, slot: Slot, bucket: BucketProperties, request: PutRequest) -> WriteCore:
        w, dw, pw = self._write_counts(slot, bucket, request.w, request.dw, request.pw)
        needed, alive = max(w, dw, pw, 1), slot.reachable()
        if alive < needed:
            raise Unavailable("too few owners of the key can be reached", needed=needed, alive=alive)
        return WriteCore(asked=1 + len(slot.peers), w=w, dw=dw, pw=pw)

    def _write_counts(
        self, slot: Slot, bucket: BucketProperties, w: int | None, dw: int | None, pw: int | None
    ) -> tuple[int, int, int]:
        key = (bucket.name, slot.n_effective, w, dw, pw)
        counts = self._counts.get(key)
        if counts is None:
            n, n_effective = slot.n, slot.n_effective
            w_count = resolve_count(w, bucket.w, n=n, n_effective=n_effective, name="w")
            dw_count = resolve_count(dw, bucket.dw, n=n, n_effective=n_effective, name="dw")
            pw_count = resolve_primary_count(pw, bucket.pw, n=n, n_effective=n_effective, name="pw")
            if dw is None and bucket.dw is None:
                dw_count = min(dw_count, w_count)  # a w below the quorum means that the caller asked for less
            self._counts[key] = counts = (w_count, dw_count, pw_count)
        return counts

    def _is_duplicate(self, state: DVVSet, operation_id: bytes, digest: bytes) -> bool:
        for known in state.operations:
            if known.operation_id == operation_id:
                if known.value_hash != digest:
                    raise InvalidArgument("this operation id was used for another value")
                return True
        return False

    def _mint(
        self, slot: Slot, key: StorageKey, state: DVVSet, request: PutRequest, value: bytes | None, ttl_ms: int
    ) -> tuple[Sibling, VersionVector]:
        wall_ms = self._wall_ms()
        context, context_hlc = _NO_CONTEXT
        if request.context is not None:
            context, context_hlc = decode_context(request.context, key[:8])
            if not self._clock.observe(context_hlc, wall_ms):
                raise ClockSkew("the context is from a clock too far ahead", max_skew_ms=self._clock.max_skew_ms)
        for sibling in state.siblings:
            self._clock.observe(sibling.hlc, wall_ms)
        actor = self._actors.current(slot.partition)
        if context and history_is_behind(actor, state.vector, context):
            actor = self._actors.mint(slot.partition, MintReason.SEEN_AHEAD)
        hlc = self._clock.tick(wall_ms)
        expires = HlcTimestamp(hlc + (ttl_ms << LOGICAL_BITS)) if ttl_ms else HlcTimestamp(0)
        counter = next_dot_counter(actor, state.vector)
        return Sibling(actor, counter, hlc, expires, OperationId(request.operation_id), value), context

    def _check_siblings(self, state: DVVSet) -> None:
        count = len(state.siblings)
        if count > SIBLINGS_COUNT_MAX:
            raise TooManySiblings(
                "read, resolve and write with the context", siblings=count - 1, limit=SIBLINGS_COUNT_MAX
            )
        self._counters.siblings_max = max(count, self._counters.siblings_max)

    def _operation(
        self, slot: Slot, key: StorageKey, record: bytes, state: DVVSet, encoded_vector: bytes, operation_id: bytes,
        superseded: bool, core: WriteCore, deadline: float, reply: Reply,
    ) -> PutOperation:  # fmt: skip
        self.in_flight += 1
        context, only = UNUSABLE, state.siblings[0] if len(state.siblings) == 1 else None
        # Not if the one value left is somebody else's, which a retry finds: the client was never shown it.
        if only is not None and only.operation_id == operation_id:
            context = encode_context(key[:8], only.hlc, encoded_vector)
        return PutOperation(
            store=self._replica.store, slot=slot, key=key, record=record, core=core, deadline=deadline, reply=reply,
            context=context, siblings=_live_count(state), superseded=superseded,
            finished=partial(self._put_finished, self._loop.time()),
        )  # fmt: skip

    def _put_finished(self, started: float, problem: KVStoreError | None) -> None:
        self.in_flight -= 1
        if problem is not None:
            self._counters.count_error(problem.code)
        self.put_latencies.recent.append(self._loop.time() - started)

    # --- reads ----------------------------------------------------------------------------------------------------------

    def _get(
        self, slot: Slot, key: StorageKey, bucket: BucketProperties, body: bytes, deadline: float, reply: Reply
    ) -> None:
        counts = None if body else self._read_counts.get((bucket.name, slot.n_effective))
        r, pr = counts or self._resolve_read(slot, bucket, body)
        needed = r if r > pr else pr
        if slot.reachable() < needed:
            raise Unavailable("too few owners of the key can be reached", needed=needed, alive=slot.reachable())
        self._counters.gets += 1
        self.in_flight += 1
        if self._spare_reads < SPARE_READS_MAX:
            self._spare_reads += SPARE_READS_SHARE
        readers = slot.readers
        candidates = readers[self._turn % len(readers)]
        operation = GetOperation(self, self._replica, slot, key, r, pr, candidates, deadline, self._loop.time(), reply)
        operation.start()
        if operation.is_open:
            self._reads[operation] = None
            if not self._watching_reads:
                self._watching_reads = True
                self._loop.call_later(SLOW_READ_S / 2, self._watch_reads)

    def _resolve_read(self, slot: Slot, bucket: BucketProperties, body: bytes) -> tuple[int, int]:
        request = decode_get(body)
        n, n_effective = slot.n, slot.n_effective
        r = max(1, resolve_count(request.r, bucket.r, n=n, n_effective=n_effective, name="r"))
        pr = resolve_primary_count(request.pr, bucket.pr, n=n, n_effective=n_effective, name="pr")
        if not body:
            self._read_counts[bucket.name, n_effective] = (r, pr)
        return r, pr

    def next_frame(self) -> None:
        """Begin the operations of another frame: which peer is asked first changes with every frame, not every operation.

        The reads of one frame then go to one peer as one frame, which is what a message costs.
        """
        self._turn += 1

    def answered(self, operation: GetOperation, record: bytes, core: ReadCore[Candidate]) -> None:
        """Reply to a get (part of being a Reader)."""
        self.in_flight -= 1
        self._reads.pop(operation, None)
        self.get_latencies.recent.append(self._loop.time() - operation.started)
        reply: Reply = operation.token  # type: ignore[assignment]  # what `_get` put there
        n = operation.slot.n
        if not record:
            reply(0, encode_get_reply(UNUSABLE, len(core.results), n, core.primaries, []))
            return
        view = view_record(record)
        flat: list[object] = []
        rest = iter(view.fields)
        for index, counter, hlc, expires, _, value in zip(rest, rest, rest, rest, rest, rest, strict=True):
            if value is not None and not (expires and expires <= self._wall_ms() << LOGICAL_BITS):
                flat += (view.actor_of(index), counter, hlc, expires >> LOGICAL_BITS, value)
        context = encode_context(operation.key[:8], view.hlc_max, view.encoded_vector)
        reply(0, encode_get_reply(context, len(core.results), n, core.primaries, flat))

    def failed(self, operation: GetOperation, error: KVStoreError) -> None:
        """Reply to a get that cannot be answered (part of being a Reader)."""
        self.in_flight -= 1
        self._reads.pop(operation, None)
        self._counters.count_error(error.code)
        fail(operation.token, error)  # type: ignore[arg-type]  # what `_get` put there

    def repair(self, slot: Slot, key: StorageKey, candidate: Candidate, record: bytes) -> None:
        """Bring a replica that a get saw behind up to date (part of being a Reader)."""
        self._repair(slot, key, candidate, record)

    def peer_is_down(self) -> None:
        """A peer became suspect or was lost: reads under way ask one more owner each instead of waiting for it."""
        for operation in list(self._reads):
            self._reads.pop(operation, None)
            operation.ask_one_more()

    def _watch_reads(self) -> None:
        late = self._loop.time() - SLOW_READ_S
        for operation in [o for o in self._reads if o.started <= late]:
            if self._spare_reads < 1.0:
                break
            self._spare_reads -= 1.0
            self._reads.pop(operation, None)  # asked once more only; its deadline does the rest
            operation.ask_one_more()
        self._watching_reads = bool(self._reads)
        if self._watching_reads:
            self._loop.call_later(SLOW_READ_S / 2, self._watch_reads)


def _reply_to_read(reply: Reply, status: int, body: bytes) -> None:
    """Pass on the answer to a forwarded get: a lost or late one changed nothing, so it is a read error, not indefinite."""
    if status == Status.ERROR:
        error = error_from_wire(body)
        if isinstance(error, Timeout):
            body = error_to_wire(ReadTimeout(error.message))
        elif isinstance(error, IndeterminateError):
            body = error_to_wire(ReadQuorumUnsatisfied(error.message, replied=0, needed=1))
    reply(status, body)


def _live_count(state: DVVSet) -> int:
    """Return how many values a read would show: tombstones are not shown, though they cost the context."""
    return len(state.siblings) if len(state.siblings) < 2 else sum(s.value is not None for s in state.siblings)
