"""One put or delete under way on its own: what a PutGroup does not take (early answers, duplicates, large records).

    staged ─applied─► asking the other owners ─┬─ w, dw, pw met ──► OK
                                               └─ impossible ─────► WriteQuorumUnsatisfied or Timeout (indefinite)

Applied here, replicated while our own commit runs. No task: the store and the links call back. After the answer late
acknowledgements only finish the bookkeeping.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from cluster.coordinator.mutation import Mutation
from cluster.coordinator.planning import WriteCounts
from cluster.coordinator.write_core import Outcome, WriteCore
from cluster.placement import Slot
from cluster.requests import Reply, fail
from cluster.store import Store
from kvstore.errors import (
    InternalError,
    KVStoreError,
    Timeout,
    UnavailableError,
    WriteQuorumUnsatisfied,
    error_from_wire,
)
from kvstore.ids import StorageKey
from kvstore.messages import Status, Verb, encode_body
from kvstore.transport.link import Link

__all__ = ["PutOperation", "answers_early", "put_reply", "shortfall", "tell_onlooker"]


_OK, _REPLICATE, _REPLICATE_EARLY = int(Status.OK), int(Verb.REPLICATE), int(Verb.REPLICATE_EARLY)


def answers_early(counts: WriteCounts) -> bool:
    """Whether some acknowledgement counts before it is durable, so that replicas have to answer twice."""
    w, dw, pw = counts
    return dw < w or dw < pw


def put_reply(core: WriteCore, n: int, mutation: Mutation) -> bytes:
    """Encode the answer to a put whose quorum is met."""
    return encode_body(
        (core.applied, core.w, n, core.primaries, core.durable, mutation.siblings, mutation.superseded, mutation.context)
    )  # fmt: skip


def shortfall(core: WriteCore, *, is_timed_out: bool) -> KVStoreError:
    """Return the (indefinite) error of a put whose quorum cannot be met any more."""
    kind = Timeout if is_timed_out else WriteQuorumUnsatisfied
    message = "the write was applied but not acknowledged by enough replicas"
    return kind(message, acked=core.applied, durable=core.durable, needed=max(core.w, core.dw, core.pw))


def tell_onlooker(link: Link, verb: int, version: int, deadline: float, key: bytes, body: bytes) -> None:
    """Send a write to a joiner on whom nothing depends yet: what it misses its scan brings, or the next read repairs."""
    with contextlib.suppress(UnavailableError):
        link.ask(verb, version, deadline, key, body, _ignore)


def _ignore(status: int, body: bytes) -> None:
    """Nobody waits for an onlooker."""


class PutOperation:
    """`finished(problem)` is called once, just after the reply; None means it was acknowledged."""

    __slots__ = ("_core", "_deadline", "_early", "_finished", "_key", "_mutation", "_reply", "_slot", "_store",
                 "_timed_out")  # fmt: skip

    def __init__(
        self, *, store: Store, slot: Slot, key: StorageKey, mutation: Mutation, counts: WriteCounts, deadline: float,
        reply: Reply, finished: Callable[[KVStoreError | None], None],
    ) -> None:  # fmt: skip
        self._store, self._slot, self._key, self._mutation = store, slot, key, mutation
        self._deadline, self._reply, self._finished = deadline, reply, finished
        w, dw, pw = counts
        self._core = WriteCore(asked=1 + len(slot.writers), w=w, dw=dw, pw=pw)
        self._early = answers_early(counts)
        self._timed_out = False

    def start(self) -> None:
        """Stage the record; a duplicate is only replicated again, to gather the full w, dw and pw."""
        if self._mutation.is_new:
            self._store.stage(self._key, self._mutation.record, self._applied)
            return
        self._replicate()
        if self._early and self._core.add_applied(primary=True):
            self._settle()
        self._store.when_key_durable(self._key, self._local_durable)

    def _applied(self, problem: Exception | None) -> None:
        if problem is not None:
            error = problem if isinstance(problem, KVStoreError) else InternalError(f"apply failed: {problem!r}")
            self._fail(error)
            return
        self._replicate()
        if self._early and self._core.add_applied(primary=True):
            self._settle()
        self._store.when_durable(self._local_durable)

    def _replicate(self) -> None:
        verb = _REPLICATE_EARLY if self._early else _REPLICATE
        version, deadline, key, record = self._slot.version, self._deadline, self._key, self._mutation.record
        for link in self._slot.writers:
            on_reply = self._early_ack() if self._early else self._on_reply
            try:
                link.ask(verb, version, deadline, key, record, on_reply)
            except UnavailableError:
                if self._core.add_failure():
                    self._settle()
        for link in self._slot.onlookers:
            tell_onlooker(link, verb, version, deadline, key, record)

    def _local_durable(self) -> None:
        if self._core.add_durable(primary=True, counted=self._early):
            self._settle()

    def _on_reply(self, status: int, body: bytes) -> None:
        if status == _OK:
            changed = self._core.add_durable(primary=True, counted=False)
        else:
            changed = self._failed(body)
        if changed:
            self._settle()

    def _early_ack(self) -> Callable[[int, bytes], None]:
        counted = False

        def on_reply(status: int, body: bytes) -> None:
            nonlocal counted
            if status == Status.APPLIED:
                counted, changed = True, self._core.add_applied(primary=True)
            elif status == Status.OK:
                changed = self._core.add_durable(primary=True, counted=counted)
            else:
                changed = self._failed(body)
            if changed:
                self._settle()

        return on_reply

    def _failed(self, body: bytes) -> bool:
        self._timed_out = self._timed_out or isinstance(error_from_wire(body), Timeout)
        return self._core.add_failure()

    def _settle(self) -> None:
        if self._core.outcome is Outcome.MET:
            self._reply(_OK, put_reply(self._core, self._slot.n, self._mutation))
            self._finished(None)
        else:
            self._fail(shortfall(self._core, is_timed_out=self._timed_out))

    def _fail(self, error: KVStoreError) -> None:
        fail(self._reply, error)
        self._finished(error)
