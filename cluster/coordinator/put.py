"""One put or delete under way: applied here, replicated while our own commit runs, acknowledged at w / dw / pw.

    staged ─applied─► asking the other owners ─┬─ w, dw, pw met ──► OK
                                               └─ impossible ─────► WriteQuorumUnsatisfied or Timeout (indefinite)

No task: the store and the links call back. After the answer late acknowledgements only finish the bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable

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

__all__ = ["PutOperation"]


_OK, _REPLICATE, _REPLICATE_EARLY = int(Status.OK), int(Verb.REPLICATE), int(Verb.REPLICATE_EARLY)


class PutOperation:
    """`finished(problem)` is called once, just after the reply; None means it was acknowledged."""

    __slots__ = ("_context", "_core", "_deadline", "_early", "_finished", "_key", "_record", "_reply", "_siblings", "_slot",
                 "_store", "_superseded", "_timed_out")  # fmt: skip

    def __init__(
        self, *, store: Store, slot: Slot, key: StorageKey, record: bytes, core: WriteCore, deadline: float, reply: Reply,
        context: bytes, siblings: int, superseded: bool, finished: Callable[[KVStoreError | None], None],
    ) -> None:  # fmt: skip
        self._store, self._slot, self._key, self._record, self._core = store, slot, key, record, core
        self._deadline, self._reply, self._finished = deadline, reply, finished
        self._context, self._siblings, self._superseded = context, siblings, superseded
        self._early = core.dw < core.w or core.dw < core.pw
        self._timed_out = False

    def applied(self, problem: Exception | None) -> None:
        """The store has applied the record, or refused it."""
        if problem is not None:
            error = problem if isinstance(problem, KVStoreError) else InternalError(f"apply failed: {problem!r}")
            self._fail(error)
            return
        self._replicate()
        if self._early and self._core.add_applied(primary=True):
            self._settle()
        self._store.when_durable(self._local_durable)

    def unchanged(self) -> None:
        """The record already holds this operation: replicate it again and gather the full w / dw / pw."""
        self._replicate()
        if self._early and self._core.add_applied(primary=True):
            self._settle()
        self._store.when_key_durable(self._key, self._local_durable)

    def _replicate(self) -> None:
        verb = _REPLICATE_EARLY if self._early else _REPLICATE
        version, deadline, key, record = self._slot.version, self._deadline, self._key, self._record
        for link in self._slot.peers:
            on_reply = self._early_ack() if self._early else self._on_reply
            try:
                link.ask(verb, version, deadline, key, record, on_reply)
            except UnavailableError:
                if self._core.add_failure():
                    self._settle()

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
        core = self._core
        if core.outcome is Outcome.MET:
            fields = [
                core.applied,
                core.w,
                self._slot.n,
                core.primaries,
                core.durable,
                self._siblings,
                self._superseded,
            ]
            self._reply(_OK, encode_body([*fields, self._context]))
            self._finished(None)
            return
        kind = Timeout if self._timed_out else WriteQuorumUnsatisfied
        needed = max(core.w, core.dw, core.pw)
        message = "the write was applied but not acknowledged by enough replicas"
        self._fail(kind(message, acked=core.applied, durable=core.durable, needed=needed))

    def _fail(self, error: KVStoreError) -> None:
        fail(self._reply, error)
        self._finished(error)
