"""One get under way: asks r owners, one more for each that fails or is slow, answers their join, repairs who was behind.

    asking r ──enough──► answered ──late or different replies──► read repair (asynchronous)
        └── nobody left to ask ──► ReadQuorumUnsatisfied or ReadTimeout (definite: reads change nothing)

The local replica is one of the candidates, asked first. No task: the store and the links call back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cluster.coordinator.read_core import ReadCore
from cluster.placement import Slot
from cluster.replica import Replica, merge_for
from cluster.requests import Reply, fail
from kvstore.errors import (
    Corruption,
    KVStoreError,
    ReadQuorumUnsatisfied,
    ReadTimeout,
    StorageError,
    Timeout,
    UnavailableError,
    error_from_wire,
)
from kvstore.ids import StorageKey
from kvstore.messages import Status, Verb
from kvstore.storage.record import check_record, decode_record, encode_record
from kvstore.transport.link import Link

__all__ = ["Candidate", "GetOperation"]

Candidate = Link | None
"""Whom a read may ask: a link to another owner, or None for the local replica."""


class GetOperation:
    """`answer(record, core)` builds and sends the reply; `repair(candidate, record)` brings one replica up to date."""

    __slots__ = ("_answer", "_answered", "_asked", "_candidates", "_core", "_deadline", "_finished", "_key", "_problem",
                 "_repair", "_replica", "_reply", "_slot", "started")  # fmt: skip

    def __init__(
        self, *, replica: Replica, slot: Slot, key: StorageKey, r: int, pr: int, candidates: list[Candidate],
        deadline: float, started: float, reply: Reply, answer: Callable[[bytes, ReadCore[Candidate]], None],
        repair: Callable[[Slot, StorageKey, Candidate, bytes], None], finished: Callable[[GetOperation, KVStoreError | None], None],
    ) -> None:  # fmt: skip
        self._replica, self._slot, self._key = replica, slot, key
        self._candidates, self._deadline, self.started = candidates, deadline, started
        self._reply, self._answer, self._repair, self._finished = reply, answer, repair, finished
        self._core: ReadCore[Candidate] = ReadCore(
            r=r, pr=pr, decode=partial(decode_record, key), merge=merge_for(key), encode=partial(encode_record, key)
        )
        self._asked = 0
        self._answered: bytes | None = None
        self._problem: KVStoreError | None = None

    def start(self) -> None:
        """Ask as many replicas as have to answer."""
        for _ in range(max(self._core.r, self._core.pr)):
            self._ask_next()
        self._judge()

    def ask_one_more(self) -> None:
        """Somebody is slow: ask another owner too, if there is one."""
        self._ask_next()
        self._judge()

    @property
    def is_open(self) -> bool:
        """Whether the answer is still due."""
        return self._answered is None

    def _ask_next(self) -> None:
        while self._candidates:
            candidate = self._candidates.pop(0)
            self._asked += 1
            if candidate is None:
                self._ask_local()
                return
            try:
                candidate.ask(Verb.FETCH, self._slot.version, self._deadline, self._key, b"", partial(self._on_reply, candidate))
                return
            except UnavailableError as error:
                self._problem = error
                self._core.add_failure()

    def _ask_local(self) -> None:
        try:
            record = self._replica.read(self._key)
        except StorageError as error:
            self._problem = error
            self._core.add_failure()
            self._ask_next()
            return
        self._replica.store.when_key_durable(self._key, partial(self._result, None, record))

    def _on_reply(self, link: Link, status: int, body: bytes) -> None:
        if status != Status.OK:
            self._failed(error_from_wire(body))
        elif body and not self._seen(body) and not check_record(self._key, body):
            self._failed(Corruption("a replica sent a record that fails its checksum", replica=link.address))
        else:
            self._result(link, body)

    def _seen(self, record: bytes) -> bool:
        results = self._core.results
        return bool(results) and results[0][1] == record

    def _failed(self, error: KVStoreError) -> None:
        self._problem = error
        self._core.add_failure()
        if self.is_open:
            self._ask_next()
            self._judge()

    def _result(self, candidate: Candidate, record: bytes) -> None:
        self._core.add_result(candidate, record)
        if self.is_open:
            self._judge()
        elif self._answered != record and self._answered:
            self._repair(self._slot, self._key, candidate, self._answered)

    def _judge(self) -> None:
        if not self.is_open:
            return
        if self._core.enough:
            self._conclude()
        elif not self._candidates and len(self._core.results) + self._core.failed >= self._asked:
            self._give_up()

    def _conclude(self) -> None:
        try:
            record = self._core.agreed()
            if record is None:
                _, record = self._core.merged()
        except Corruption as error:
            self._fail(error)
            return
        self._answered = record
        self._answer(record, self._core)
        self._finished(self, None)
        if record:
            for candidate in self._core.stale(record):
                self._repair(self._slot, self._key, candidate, record)

    def _fail(self, error: KVStoreError) -> None:
        self._answered = b""
        fail(self._reply, error)
        self._finished(self, error)

    def _give_up(self) -> None:
        kind = ReadTimeout if isinstance(self._problem, Timeout) else ReadQuorumUnsatisfied
        needed = max(self._core.r, self._core.pr)
        why = self._problem.message if self._problem is not None else "no owner left to ask"
        self._fail(kind(f"too few replicas could answer: {why}", replied=len(self._core.results), needed=needed))
