"""The plain puts of one frame that go to the same owners: replicated, acknowledged and counted together.

    add, add, … ─commit─► applied ─► one REPLICATE_GROUP to each other owner ─┬─ w, dw, pw met ──► OK to each
                                                                              └─ impossible ─────► error to each

They were staged in one batch and are durable with one sync, so one WriteCore speaks for all. An owner that refuses some of them
is asked again for each of these alone (REPLICATE), and from then on every put of the group has a core of its own.

Only for counts that need no early answer (dw >= w and dw >= pw); PutOperation does the others. No task: store and links
call back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cluster.coordinator.mutation import Mutation
from cluster.coordinator.planning import WriteCounts
from cluster.coordinator.put import put_reply, shortfall, tell_onlooker
from cluster.coordinator.write_core import Outcome, WriteCore
from cluster.requests import ReplyTo
from cluster.store import Store
from kvstore.chaos import CALM, Chaos, Probe
from kvstore.errors import (
    DecodeError,
    InternalError,
    KVStoreError,
    Timeout,
    UnavailableError,
    error_from_wire,
    error_to_wire,
)
from kvstore.groups import Write, decode_refused, encode_writes
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX, GROUP_SIZE_BYTES_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.link import Link

__all__ = ["PutGroup"]

_OK, _ERROR = int(Status.OK), int(Status.ERROR)
_REPLICATE, _REPLICATE_GROUP = int(Verb.REPLICATE), int(Verb.REPLICATE_GROUP)
Event = Callable[[WriteCore], bool]


class PutGroup:
    """`finished(count, problem)` is called just after `count` replies, until all of the group were answered."""

    __slots__ = ("_chaos", "_core", "_cores", "_deadline", "_finished", "_ids", "_is_timed_out", "_links", "_mutations", "_n",
                 "_onlookers", "_operations_max", "_reply", "_store", "_writes", "is_open", "size_bytes")  # fmt: skip

    def __init__(
        self, *, store: Store, links: tuple[Link, ...], onlookers: tuple[Link, ...], counts: WriteCounts, n: int,
        deadline: float, reply: ReplyTo, finished: Callable[[int, KVStoreError | None], None],
        operations_max: int = GROUP_OPERATIONS_MAX, chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._store, self._links, self._n, self._deadline = store, links, n, deadline
        self._operations_max, self._chaos, self._onlookers = operations_max, chaos, onlookers
        self._reply, self._finished = reply, finished
        w, dw, pw = counts
        self._core = WriteCore(asked=1 + len(links), w=w, dw=dw, pw=pw)
        self._cores: list[WriteCore] | None = None
        self._ids: list[int] = []
        self._mutations: list[Mutation] = []
        self._writes: list[Write] = []
        self._is_timed_out = False
        self.size_bytes = 0
        self.is_open = True
        """Whether more may be added: until the store has applied what was staged."""

    def add(self, operation_id: int, placement_version: int, key: StorageKey, mutation: Mutation) -> None:
        """Take one more put, whose record was or will now be staged."""
        self._ids.append(operation_id)
        self._mutations.append(mutation)
        record = mutation.record
        self._writes.append((placement_version, key, record))
        self.size_bytes += len(key) + len(record)
        if self.size_bytes >= GROUP_SIZE_BYTES_MAX or len(self._ids) >= self._operations_max:
            self.is_open = False

    def applied(self, problem: Exception | None) -> None:
        """The store has applied the records, or refused them all."""
        self.is_open = False
        if problem is not None:
            error = problem if isinstance(problem, KVStoreError) else InternalError(f"apply failed: {problem!r}")
            self._fail(self._ids, error)
            return
        self._replicate()
        self._store.when_durable(self._local_durable)

    def _replicate(self) -> None:
        body = encode_writes(self._writes)
        for link in self._links:
            try:
                link.ask(_REPLICATE_GROUP, 0, self._deadline, b"", body, partial(self._on_reply, link))
            except UnavailableError:
                self._all(WriteCore.add_failure)
        for link in self._onlookers:
            tell_onlooker(link, _REPLICATE_GROUP, 0, self._deadline, b"", body)

    def _local_durable(self) -> None:
        self._all(_add_durable)

    def _on_reply(self, link: Link, status: int, body: bytes) -> None:
        if status != _OK:
            self._failed(error_from_wire(body))
        elif not body:
            self._all(_add_durable)
        else:
            try:
                refused = decode_refused(body, len(self._ids))
            except DecodeError as error:
                self._failed(error)
            else:
                self._all_but(refused, link)

    def _failed(self, error: KVStoreError) -> None:
        self._is_timed_out = self._is_timed_out or isinstance(error, Timeout)
        self._all(WriteCore.add_failure)

    # --- what the owners said, for all or for one -----------------------------------------------------------------------

    def _all(self, event: Event) -> None:
        if self._cores is not None:
            for index in range(len(self._ids)):
                self._one(index, event)
        elif event(self._core):
            core = self._core
            if core.outcome is Outcome.MET:
                for operation_id, mutation in zip(self._ids, self._mutations, strict=True):
                    self._reply(operation_id, _OK, put_reply(core, self._n, mutation))
                self._finished(len(self._ids), None)
            else:
                self._fail(self._ids, shortfall(core, is_timed_out=self._is_timed_out))

    def _all_but(self, refused: list[int], link: Link) -> None:
        self._chaos.hit(Probe.PUT_GROUP_REFUSED_SOME)
        if self._cores is None:
            self._cores = [self._core.copy() for _ in self._ids]
        alone = frozenset(refused)
        for index in range(len(self._ids)):
            if index in alone:
                self._ask_alone(index, link)
            else:
                self._one(index, _add_durable)

    def _ask_alone(self, index: int, link: Link) -> None:
        version, key, record = self._writes[index]
        try:
            link.ask(_REPLICATE, version, self._deadline, key, record, partial(self._on_reply_alone, index))
        except UnavailableError:
            self._one(index, WriteCore.add_failure)

    def _on_reply_alone(self, index: int, status: int, body: bytes) -> None:
        if status != _OK:
            self._is_timed_out = self._is_timed_out or isinstance(error_from_wire(body), Timeout)
        self._one(index, _add_durable if status == _OK else WriteCore.add_failure)

    def _one(self, index: int, event: Event) -> None:
        assert self._cores is not None, "the group was taken apart before"
        core = self._cores[index]
        if not event(core):
            return
        if core.outcome is Outcome.MET:
            self._reply(self._ids[index], _OK, put_reply(core, self._n, self._mutations[index]))
            self._finished(1, None)
        else:
            self._fail([self._ids[index]], shortfall(core, is_timed_out=self._is_timed_out))

    def _fail(self, ids: list[int], error: KVStoreError) -> None:
        encoded = error_to_wire(error)
        for operation_id in ids:
            self._reply(operation_id, _ERROR, encoded)
        self._finished(len(ids), error)


def _add_durable(core: WriteCore) -> bool:
    return core.add_durable(primary=True, counted=False)
