"""The coordinator: plans client operations on the keys this node owns, forwards the others once.

    frame ─► begin ─► put | get | delete … ─► ask ─┬─ plain ones in groups (PutGroup, GetGroup)
                                                   └─ the others alone (PutOperation, GetOperation)

What cannot be done is refused before anything is applied, with a definite error; what was applied never gets one.

Source: DeCandia et al., "Dynamo", SOSP 2007, sections 4.4-4.5. Differs: no fallbacks in this version, so a put needs enough
reachable owners and is refused otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from cluster.coordinator.get import Candidate
from cluster.coordinator.get_group import GetGroup
from cluster.coordinator.mutation import Mutation, Mutations
from cluster.coordinator.planning import Planner, WriteCounts
from cluster.coordinator.put import PutOperation, answers_early
from cluster.coordinator.put_group import PutGroup
from cluster.coordinator.reads import Reads
from cluster.counters import Counters, Latencies
from cluster.placement import Slot
from cluster.requests import Reply, ReplyTo
from cluster.store import Store
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import (
    Corruption,
    IndeterminateError,
    KVStoreError,
    Overloaded,
    ReadQuorumUnsatisfied,
    ReadTimeout,
    Timeout,
    Unavailable,
    UnavailableError,
    WrongOwner,
    error_from_wire,
    error_to_wire,
)
from kvstore.limits import GROUP_OPERATIONS_MAX, GROUP_SIZE_BYTES_MAX
from kvstore.messages import PutRequest, Status, Verb, decode_delete, decode_put

__all__ = ["Coordinator", "Frame"]

GROUPED_RECORD_BYTES_MAX = GROUP_SIZE_BYTES_MAX // 8
"""A larger record gains nothing from company."""
DEADLINES_PER_S = 64
"""Operations whose deadlines lie this close may share a group: links look for passed deadlines no more often."""
_ERROR = int(Status.ERROR)


class Frame:
    """The operations of one frame, or of several that are handled together, until they are asked. `now` is loop time.
    `refusal`: see `watch_lateness`."""

    __slots__ = ("gets", "now", "puts", "refusal", "reply", "turn")

    def __init__(self, reply: ReplyTo, now: float, turn: int) -> None:
        self.reply, self.now, self.turn, self.refusal = reply, now, turn, b""
        self.puts: dict[object, PutGroup] = {}
        self.gets: dict[object, GetGroup] = {}


class Coordinator:
    """All methods run on the event loop. Every operation gets exactly one reply; errors become replies, nothing is raised."""

    def __init__(
        self, *, planner: Planner, reads: Reads, mutations: Mutations, store: Store, counters: Counters,
        chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._planner, self._reads, self._mutations = planner, reads, mutations
        self._hedge = reads.hedge
        self._store, self._counters, self._chaos, self._is_calm = store, counters, chaos, chaos.is_calm
        self._grouped_bytes_max = chaos.pick(Point.GROUP_NEVER, GROUPED_RECORD_BYTES_MAX, -1, 100)
        self._group_operations_max = chaos.pick(Point.GROUP_TINY, GROUP_OPERATIONS_MAX, 1, 2)
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self.put_latencies = Latencies()

    @property
    def in_flight(self) -> int:
        """Operations begun here and not yet answered."""
        return self._planner.in_flight

    def begin(self, reply: ReplyTo) -> Frame:
        """Begin the operations of a frame. Which owner is asked first by reads changes with every frame, not every
        operation: the reads of one frame then go to one peer as one message, which is what costs."""
        self._turn += 1
        return Frame(reply, self._loop.time(), self._turn)

    def watch_lateness(self, frame: Frame, late_s: float) -> None:
        """Note how long a client's frame waited on its way. If that was too long, all of its operations get the same `refusal`,
        made once: when there are ten times too many of them, refusing must cost next to nothing."""
        frame.refusal = error_to_wire(self._planner.refusal()) if self._planner.is_too_late(late_s, frame.now) else b""

    def ask(self, frame: Frame) -> None:
        """Send out what the frame's reads ask. Its writes went out when the store applied them."""
        for group in frame.gets.values():
            self._reads.ask(group)

    # --- reads ------------------------------------------------------------------------------------------------------------

    def get(
        self, frame: Frame, operation_id: int, name: bytes, body: bytes, deadline: float, *, forwarded: bool = False
    ) -> None:
        """Coordinate GET, or forward it once."""
        try:
            slot, key, bucket = self._planner.plan(name, deadline, frame.now)
            if not slot.is_owner:
                self._forward(frame, operation_id, slot, Verb.FORWARDED_GET, name, body, deadline, forwarded)
                return
            plan = self._reads.admit(slot, key, bucket, body)
        except KVStoreError as error:
            self._refuse(frame, operation_id, error)
            return
        readers = slot.readers
        candidates = readers[frame.turn % len(readers)]
        r, pr, history = plan
        asked = r if r > pr else pr
        if self._hedge.behind:
            self._chaos.hit(Probe.SLOW_OWNER_PASSED_OVER)
            candidates = self._hedge.choose(readers, frame.turn, asked)
        if asked > 1:
            record = self._reads.maybe_plain(key, history)
            if record is not None and len(record) <= self._grouped_bytes_max:
                group = self._get_group(frame, candidates, asked, deadline)
                group.add((operation_id, slot, key, record, r, pr))
                return
        reply = partial(frame.reply, operation_id)
        self._reads.begin(slot, key, plan, candidates, deadline, frame.now, reply)

    def _get_group(self, frame: Frame, candidates: tuple[Candidate, ...], asked: int, deadline: float) -> GetGroup:
        which = (candidates, asked, int(deadline * DEADLINES_PER_S))
        group = frame.gets.get(which)
        if group is None or not group.is_open:
            if group is not None:
                self._chaos.hit(Probe.GET_GROUP_SPLIT)
                self._reads.ask(group)
            group = frame.gets[which] = self._reads.group(candidates, asked, deadline, frame.now, frame.reply)
        return group

    # --- writes -----------------------------------------------------------------------------------------------------------

    def put(
        self, frame: Frame, operation_id: int, name: bytes, body: bytes, deadline: float, *, forwarded: bool = False
    ) -> None:
        """Coordinate PUT, or forward it once."""
        self._write(frame, operation_id, name, body, deadline, forwarded, decode_put, Verb.FORWARDED_PUT)

    def delete(
        self, frame: Frame, operation_id: int, name: bytes, body: bytes, deadline: float, *, forwarded: bool = False
    ) -> None:
        """Coordinate DELETE (a put of a tombstone), or forward it once."""
        self._write(frame, operation_id, name, body, deadline, forwarded, decode_delete, Verb.FORWARDED_DELETE)

    def _write(
        self, frame: Frame, operation_id: int, name: bytes, body: bytes, deadline: float, forwarded: bool,
        decode: Callable[[bytes], PutRequest], forward_verb: Verb,
    ) -> None:  # fmt: skip
        try:
            slot, key, bucket = self._planner.plan(name, deadline, frame.now)
            if not slot.is_owner:
                self._forward(frame, operation_id, slot, forward_verb, name, body, deadline, forwarded)
                return
            request = decode(body)
            counts = self._planner.write_counts(slot, bucket, request.w, request.dw, request.pw)
            try:
                mutation = self._mutations.make(slot.partition, key, bucket, request)
            except Corruption:  # what cannot read its local record does not coordinate
                if forwarded or len(slot.peers) == 0:
                    raise
                self._chaos.hit(Probe.UNREADABLE_PASSED_ON)
                self._forward(frame, operation_id, slot, forward_verb, name, body, deadline, forwarded)
                return
        except KVStoreError as error:
            self._refuse(frame, operation_id, error)
            return
        self._planner.in_flight += 1
        if mutation.is_new and not answers_early(counts) and len(mutation.record) <= self._grouped_bytes_max:
            group = self._put_group(frame, slot, counts, deadline)
            is_first = not group.size_bytes
            group.add(operation_id, slot.version, key, mutation)
            self._store.stage(key, mutation.record, group.applied if is_first else None)
            return
        if not self._is_calm:
            self._note_alone(mutation, counts)
        PutOperation(
            store=self._store, slot=slot, key=key, mutation=mutation, counts=counts, deadline=deadline,
            reply=partial(frame.reply, operation_id), finished=partial(self._put_finished, frame.now, 1),
        ).start()  # fmt: skip

    def _note_alone(self, mutation: Mutation, counts: WriteCounts) -> None:
        if answers_early(counts):
            self._chaos.hit(Probe.PUT_ACKNOWLEDGED_EARLY)
        if len(mutation.record) > GROUPED_RECORD_BYTES_MAX:
            self._chaos.hit(Probe.PUT_TOO_LARGE_FOR_A_GROUP)

    def _put_group(self, frame: Frame, slot: Slot, counts: WriteCounts, deadline: float) -> PutGroup:
        which = (slot.readers[0], slot.guests, slot.onlookers, counts, int(deadline * DEADLINES_PER_S))
        group = frame.puts.get(which)
        if group is None or not group.is_open:
            if group is not None:
                self._chaos.hit(Probe.PUT_GROUP_SPLIT)
            group = frame.puts[which] = PutGroup(
                store=self._store, links=slot.writers, onlookers=slot.onlookers, counts=counts, n=slot.n,
                deadline=deadline, reply=frame.reply,
                finished=partial(self._put_finished, frame.now), operations_max=self._group_operations_max,
                chaos=self._chaos,
            )  # fmt: skip
        return group

    def _put_finished(self, started: float, count: int, problem: KVStoreError | None) -> None:
        took_s = self._loop.time() - started
        self._planner.ended(count, took_s)
        if problem is not None:
            self._chaos.hit(Probe.WRITE_FELL_SHORT)
            for _ in range(count):
                self._counters.count_error(problem.code)
        self.put_latencies.add(took_s, count)

    # --- the others' keys -------------------------------------------------------------------------------------------------

    def _forward(
        self, frame: Frame, operation_id: int, slot: Slot, verb: Verb, name: bytes, body: bytes, deadline: float,
        forwarded: bool,
    ) -> None:  # fmt: skip
        if forwarded:
            self._chaos.hit(Probe.FORWARDED_ASTRAY)
            raise WrongOwner(
                "a forwarded operation reached a node that does not own the key", topology_epoch=self._planner.epoch
            )
        reply: Reply = partial(frame.reply, operation_id)
        if verb == Verb.FORWARDED_GET:
            reply = partial(_reply_to_read, reply)
        owners = slot.peers
        for link in owners if self._is_calm else self._chaos.pick(Point.FORWARD_ELSEWHERE, owners, owners[::-1]):
            try:
                link.ask(verb, slot.version, deadline, name, body, reply)
            except UnavailableError:
                continue
            self._counters.forwarded += 1
            self._chaos.hit(Probe.FORWARDED)
            return
        raise Unavailable("no owner of the key can be reached", needed=1, alive=0)

    def count_late(self, frame: Frame, count: int) -> None:
        """Count operations that were refused because their frame had waited too long."""
        if count:
            self._planner.count_refusals(frame.now, count)
            self._counters.count_error(Overloaded.code, count)

    def _refuse(self, frame: Frame, operation_id: int, error: KVStoreError) -> None:
        self._counters.count_error(error.code)
        frame.reply(operation_id, _ERROR, error_to_wire(error))


def _reply_to_read(reply: Reply, status: int, body: bytes) -> None:
    """Pass on the answer to a forwarded get: a lost or late one changed nothing, so it is a read error, not indefinite."""
    if status == Status.ERROR:
        error = error_from_wire(body)
        if isinstance(error, Timeout):
            body = error_to_wire(ReadTimeout(error.message))
        elif isinstance(error, IndeterminateError):
            body = error_to_wire(ReadQuorumUnsatisfied(error.message, replied=0, needed=1))
    reply(status, body)
