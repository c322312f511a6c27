"""The reads this node coordinates: grouped where they are plain, watched while they wait, answered from what they gathered.

A read that waits longer than most do (hedge.py), or whose owner was lost, asks another owner as well. One timer watches them all:
due when the oldest becomes late, none while nothing waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice, takewhile

from cluster.coordinator.get import Candidate, GetOperation
from cluster.coordinator.get_group import GetGroup, GroupedGet
from cluster.coordinator.hedge import BURST, Budget, Hedge
from cluster.coordinator.planning import Planner, ReadPlan
from cluster.coordinator.read_core import ReadCore
from cluster.counters import Counters, Latencies
from cluster.placement import Slot
from cluster.replica import Replica
from cluster.requests import Reply, ReplyTo, fail
from kvstore.causality.context import UNUSABLE, encode_context
from kvstore.causality.hlc import LOGICAL_BITS
from kvstore.causality.version_vector import VersionVector, descends
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import KVStoreError, StorageError, Unavailable
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX
from kvstore.messages import encode_get_reply
from kvstore.ring.buckets import BucketProperties
from kvstore.storage.record import vector_of, view_record
from kvstore.transport.link import Link

__all__ = ["Reads"]

WATCH_S_MIN = 0.001
"""The timers of uvloop count milliseconds: a shorter one would fire at once, too early, again and again."""
_OK = 0


class Reads:
    """Is told of every get; every one is answered once."""

    def __init__(
        self, *, planner: Planner, replica: Replica, wall_ms: Callable[[], int], counters: Counters,
        repair: Callable[[Slot, StorageKey, Candidate, bytes], None], chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._planner, self._replica, self._wall_ms = planner, replica, wall_ms
        self._counters, self._repair, self._chaos, self._is_calm = counters, repair, chaos, chaos.is_calm
        self._loop = asyncio.get_running_loop()
        self.latencies = Latencies()
        self._operations: dict[GetOperation, None] = {}
        self._groups: dict[GetGroup, None] = {}
        self._is_watching = False
        self._group_operations_max = chaos.pick(Point.GROUP_TINY, GROUP_OPERATIONS_MAX, 1, 2)
        self.hedge: Hedge[Link] = Hedge(chaos.pick(Point.SLOW_READ_SOON, None, 0.002, 2.0))
        self._note, self._now = self.hedge.heard.append, self._loop.time
        self._budget = Budget(chaos.pick(Point.SPARE_READS, BURST, 0.0, 1e6))

    def group(
        self, candidates: tuple[Candidate, ...], asked: int, deadline: float, started: float, reply: ReplyTo
    ) -> GetGroup:
        """Return a new, empty group."""
        return GetGroup(
            self, candidates=candidates, asked=asked, deadline=deadline, started=started, reply=reply,
            operations_max=self._group_operations_max,
        )  # fmt: skip

    def ask(self, group: GetGroup) -> None:
        """Begin the gets of a group."""
        self._groups[group] = None
        group.ask()
        if not self._is_calm and group in self._groups and self._chaos.fires(Point.GET_GROUP_APART):
            self._take_apart(group)
        self._watch()

    def begin(
        self, slot: Slot, key: StorageKey, plan: ReadPlan, candidates: tuple[Candidate, ...], deadline: float,
        started: float, reply: Reply,
    ) -> None:  # fmt: skip
        """Begin one get on its own."""
        r, pr, history = plan
        operation = GetOperation(self, self._replica, slot, key, r, pr, candidates, deadline, started, reply, history)
        operation.start()
        if not self._is_calm and self._chaos.fires(Point.SPARE_READ_EARLY):
            operation.ask_one_more()
        if operation.is_open:
            self._operations[operation] = None
            self._watch()

    def maybe_plain(self, key: StorageKey, history: VersionVector | None) -> bytes | None:
        """Return the local record if it is readable and durable (empty: surely none), else None; in a session only if it covers
        what the answer has to: then whatever it is joined with does, too."""
        try:
            record = self._replica.read(key)
            if history is not None and not (record and descends(vector_of(record), history)):
                return None
        except StorageError:
            return None
        return record if self._replica.store.is_durable(key) else None

    def admit(self, slot: Slot, key: StorageKey, bucket: BucketProperties, body: bytes) -> ReadPlan:
        """Count one get in and return what it asks for. Raises Unavailable, InsufficientNodes, DecodeError or InvalidContext."""
        plan = self._planner.read_plan(slot, key, bucket, body)
        r, pr, _ = plan
        needed = r if r > pr else pr
        if slot.reachable() < needed:
            raise Unavailable("too few owners of the key can be reached", needed=needed, alive=slot.reachable())
        self._counters.gets += 1
        self._planner.in_flight += 1
        return plan

    # --- answers ----------------------------------------------------------------------------------------------------------

    def answered(self, operation: GetOperation, record: bytes, core: ReadCore[Candidate]) -> None:
        """Reply to a get (part of being a Reader)."""
        self._operations.pop(operation, None)
        if operation.hedge is not None and operation.won_by(operation.hedge):
            self._count_won(1)
        self._finished(1, operation.started)
        reply: Reply = operation.token  # type: ignore[assignment]  # what `begin` put there
        reply(_OK, self._encode(operation.key, record, len(core.results), core.primaries, operation.slot.n))
        if not self._is_calm:
            self._repair_needlessly(operation.slot, operation.key, record)

    def failed(self, operation: GetOperation, error: KVStoreError) -> None:
        """Reply to a get that cannot be answered (part of being a Reader)."""
        self._chaos.hit(Probe.READ_FELL_SHORT)
        self._operations.pop(operation, None)
        self._planner.ended(1, self._loop.time() - operation.started)
        self._counters.count_error(error.code)
        fail(operation.token, error)  # type: ignore[arg-type]  # what `begin` put there

    def repair(self, slot: Slot, key: StorageKey, candidate: Candidate, record: bytes) -> None:
        """Bring a replica that a get saw behind up to date (part of being a Reader and a GroupReader)."""
        self._chaos.hit(Probe.REPLICA_SEEN_BEHIND)
        self._repair(slot, key, candidate, record)

    def heard(self, link: Link, count: int, started: float) -> None:
        """Learn how long an owner took (part of being a Reader and a GroupReader)."""
        self._note((link, count, self._now() - started))

    def _repair_needlessly(self, slot: Slot, key: StorageKey, record: bytes) -> None:
        if record and self._chaos.fires(Point.REPAIR_NEEDLESS):
            for candidate in slot.readers[0]:
                self._repair(slot, key, candidate, record)

    def group_answered(self, group: GetGroup, gets: list[GroupedGet], replied: int) -> None:
        """Reply to the gets of a group (part of being a GroupReader)."""
        self._groups.pop(group, None)
        if group.hedge is not None and group.won_by(group.hedge):
            self._count_won(len(gets))
        self._finished(len(gets), group.started)
        reply, encode = group.reply, self._encode
        for operation_id, slot, key, record, _, _ in gets:
            reply(operation_id, _OK, encode(key, record, replied, replied, slot.n))
            if not self._is_calm:
                self._repair_needlessly(slot, key, record)

    def alone(self, group: GetGroup, get: GroupedGet) -> GetOperation:
        """Go on with one get of a group (part of being a GroupReader)."""
        self._chaos.hit(Probe.GET_LEFT_ITS_GROUP)
        operation_id, slot, key, _, r, pr = get
        reply = partial(group.reply, operation_id)
        operation = GetOperation(
            self, self._replica, slot, key, r, pr, group.candidates, group.deadline, group.started, reply
        )
        operation.hedge = group.hedge
        self._operations[operation] = None
        return operation

    def _finished(self, count: int, started: float) -> None:
        took_s = self._loop.time() - started
        self._planner.ended(count, took_s)
        self.latencies.add(took_s, count)

    def _encode(self, key: StorageKey, record: bytes, replied: int, primaries: int, n: int) -> bytes:
        if not record:
            return encode_get_reply(UNUSABLE, replied, n, primaries, [])
        view = view_record(record)
        context = encode_context(key[:8], view.hlc_max, view.encoded_vector)
        flat: list[object] = []
        rest = iter(view.fields)
        for index, counter, hlc, expires, _, value in zip(rest, rest, rest, rest, rest, rest, strict=True):
            if value is not None and not (expires and expires <= self._wall_ms() << LOGICAL_BITS):
                flat += (view.actor_of(index), counter, hlc, expires >> LOGICAL_BITS, value)
        return encode_get_reply(context, replied, n, primaries, flat)

    # --- slow and lost owners -----------------------------------------------------------------------------------------------

    def peer_is_down(self) -> None:
        """A peer became suspect or was lost: reads under way ask one more owner each instead of waiting for it."""
        if self._groups or self._operations:
            self._chaos.hit(Probe.READ_LOST_A_PEER)
        for group in list(self._groups):
            self._take_apart(group)
        for operation in list(self._operations):
            self._operations.pop(operation, None)
            operation.ask_one_more()

    def _watch(self) -> None:
        if not self._is_watching and (self._operations or self._groups):
            self._is_watching = True
            self._loop.call_later(self.hedge.delay_s, self._watch_reads)

    def _watch_reads(self) -> None:
        self.hedge.learn()
        now, delay_s = self._loop.time(), self.hedge.delay_s
        pause_s = 0.0 if self._hedge_late(now - delay_s) else delay_s
        if not self._groups and not self._operations:
            self._is_watching = False
            return
        # The first of a dict began first, but for a get that left its group: that one is looked at a little late.
        oldest = min(
            [group.started for group in islice(self._groups, 1)] +
            [operation.started for operation in islice(self._operations, 1)]
        )  # fmt: skip
        self._loop.call_later(max(oldest + delay_s - now, pause_s, WATCH_S_MIN), self._watch_reads)

    def _hedge_late(self, began_before: float) -> bool:
        """Ask one owner more for every late read. False if the budget was used up before that."""
        for group in list(takewhile(lambda group: group.started <= began_before, self._groups)):
            if not self._may_hedge(group):
                return False
            self._hedge_group(group)
        for operation in list(takewhile(lambda operation: operation.started <= began_before, self._operations)):
            if not self._may_hedge(operation):
                return False
            self._hedge_operation(operation)
        return True

    def _may_hedge(self, waiting: GetGroup | GetOperation) -> bool:
        if waiting.has_another and not self._budget.allows(self._counters.gets):
            self._chaos.hit(Probe.SPARE_READS_USED_UP)
            return False
        return True

    def _hedge_group(self, group: GetGroup) -> None:
        self._groups.pop(group, None)  # asked once more only; its deadline does the rest
        for link in group.overdue():
            self.hedge.waited(link)
        if group.ask_one_more():
            self._count_hedges(group.count)
        elif group.has_another:
            self._take_apart(group)

    def _hedge_operation(self, operation: GetOperation) -> None:
        self._operations.pop(operation, None)
        for link in operation.overdue():
            self.hedge.waited(link)
        asked = operation.ask_one_more()
        if asked is not None:
            operation.hedge = asked
            self._count_hedges(1)

    def _count_hedges(self, count: int) -> None:
        self._chaos.hit(Probe.SPARE_READ_MADE)
        self._budget.spend(count)
        self._counters.hedges += count

    def _count_won(self, count: int) -> None:
        self._chaos.hit(Probe.HEDGE_WON)
        self._counters.hedges_won += count

    def _take_apart(self, group: GetGroup) -> None:
        self._groups.pop(group, None)
        group.take_apart()
