"""One get under way: asks r owners, one more for each that fails or is slow, answers their join, repairs who was behind.

    asking r ──enough──► answered ──late or different replies──► read repair (asynchronous)
        ├── a session has seen more than these ──► asking all
        └── nobody left to ask ──► ReadQuorumUnsatisfied, SessionNotSatisfied or ReadTimeout (definite: reads change nothing)

The local replica is one of the candidates, asked first. No task: the store and the links call back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cluster.coordinator.read_core import ReadCore
from cluster.placement import Slot
from cluster.replica import Replica, merge_for
from kvstore.causality.version_vector import VersionVector
from kvstore.errors import (
    Corruption,
    KVStoreError,
    ReadQuorumUnsatisfied,
    ReadTimeout,
    SessionNotSatisfied,
    StorageError,
    Timeout,
    UnavailableError,
    error_from_wire,
)
from kvstore.ids import StorageKey
from kvstore.messages import Status, Verb
from kvstore.storage.record import check_record
from kvstore.transport.link import Link

__all__ = ["Candidate", "GetOperation", "Reader"]

Candidate = Link | None
"""Whom a read may ask: a link to another owner, or None for the local replica."""
_FETCH = int(Verb.FETCH)
_OK = int(Status.OK)


class Reader(Protocol):
    """Who started a get, and is told how it ends: `answered` or `failed` once, then any number of `repair`."""

    def answered(self, operation: GetOperation, record: bytes, core: ReadCore[Candidate]) -> None:
        """Enough replicas agree on, or were joined to, `record` (empty: not found)."""

    def failed(self, operation: GetOperation, error: KVStoreError) -> None:
        """Too few replicas could answer."""

    def repair(self, slot: Slot, key: StorageKey, candidate: Candidate, record: bytes) -> None:
        """A replica that was asked holds less than `record`."""

    def heard(self, link: Link, count: int, started: float) -> None:
        """A replica that was asked when `count` gets started has answered them."""


class GetOperation:
    """`candidates` are asked in their order; those whose link is down are passed over."""

    __slots__ = ("_asked", "_candidates", "_core", "_deadline", "_next", "_problem", "_reader", "_record", "_replica",
                 "_timed", "hedge", "key", "slot", "started", "token")  # fmt: skip

    def __init__(
        self, reader: Reader, replica: Replica, slot: Slot, key: StorageKey, r: int, pr: int, candidates: Sequence[Candidate],
        deadline: float, started: float, token: object, history: VersionVector | None = None,
    ) -> None:  # fmt: skip
        """`history`: what the answer has to cover, see `read_core`."""
        self._reader, self._replica, self.slot, self.key = reader, replica, slot, key
        self._candidates, self._deadline, self.started, self.token = candidates, deadline, started, token
        self._core: ReadCore[Candidate] = ReadCore(r, pr, history)
        self._asked = self._next = self._timed = 0
        self._record: bytes | None = None
        self._problem: KVStoreError | None = None
        self.hedge: Link | None = None
        """The owner that was asked because another is late."""

    def start(self) -> None:
        """Ask as many replicas as have to answer."""
        core = self._core
        wanted = core.r if core.r > core.pr else core.pr
        if self._candidates[0] is None:
            self._next = self._asked = 1
            if self._ask_local():
                wanted -= 1
        for _ in range(wanted):
            self._ask_next()
        self._timed = self._next
        if self._record is None:
            self._judge()

    def resume(self, record: bytes, agreed: Sequence[Link], asked: int) -> None:
        """Go on from a group: the local replica and those of `agreed` hold `record`, the first `asked` candidates were asked.

        What the others of these say is given to `on_reply`.
        """
        self._next = self._asked = asked
        self._result(None, record)
        for link in agreed:
            self._result(link, record)

    def ask_again(self, link: Link) -> None:
        """Ask a replica that could not answer as one of a group."""
        try:
            link.ask(_FETCH, self.slot.version, self._deadline, self.key, b"", partial(self.on_reply, link))
        except UnavailableError as error:
            self._failed(error)

    def ask_one_more(self) -> Link | None:
        """Somebody is slow: ask another owner too, and return it, if there is one."""
        if self._record is not None:
            return None
        asked = self._ask_next()
        self._judge()
        return asked

    def won_by(self, link: Link) -> bool:
        """Whether this owner is among those that have answered."""
        return any(candidate is link for candidate, _ in self._core.results)

    def overdue(self) -> list[Link]:
        """Return the owners that were asked and have not answered."""
        heard = [candidate for candidate, _ in self._core.results]
        return [link for link in self._candidates[: self._next] if link is not None and link not in heard]

    @property
    def has_another(self) -> bool:
        """Whether there is an owner that was not asked yet."""
        return self._next < len(self._candidates)

    @property
    def is_open(self) -> bool:
        """Whether the answer is still due."""
        return self._record is None

    def _ask_next(self) -> Link | None:
        """Ask the next owner that can be; return it unless it is the local replica."""
        candidates = self._candidates
        while self._next < len(candidates):
            candidate = candidates[self._next]
            self._next += 1
            self._asked += 1
            if candidate is None:
                if self._ask_local():
                    return None
                continue
            try:
                on_reply = partial(self.on_reply, candidate)
                candidate.ask(_FETCH, self.slot.version, self._deadline, self.key, b"", on_reply)
                return candidate
            except UnavailableError as error:
                self._problem = error
                self._core.failed += 1
        return None

    def _ask_all(self) -> None:
        while self.has_another:
            self._ask_next()

    def _ask_local(self) -> bool:
        try:
            record = self._replica.read(self.key)
        except StorageError as error:
            self._problem = error
            self._core.failed += 1
            return False
        store = self._replica.store
        if store.is_durable(self.key):
            self._result(None, record)
        else:
            store.when_key_durable(self.key, partial(self._result, None, record))
        return True

    def on_reply(self, link: Link, status: int, body: bytes) -> None:
        """Take the answer of a replica that was asked."""
        if status != _OK:
            self._failed(error_from_wire(body))
            return
        if (
            self._asked == self._timed or link in self._candidates[: self._timed]
        ):  # others were asked later than `started`
            self._reader.heard(link, 1, self.started)
        if body and not self._core.has(body) and not check_record(self.key, body):
            self._failed(Corruption("a replica sent a record that fails its checksum", replica=link.address))
        else:
            self._result(link, body)

    def _failed(self, error: KVStoreError) -> None:
        self._problem = error
        self._core.failed += 1
        if self._record is None:
            self._ask_next()
            self._judge()

    def _result(self, candidate: Candidate, record: bytes) -> None:
        core = self._core
        try:
            core.add_result(candidate, record)
        except Corruption as error:
            self._failed(error)
            return
        if self._record is None:
            if core.enough:
                self._conclude()
            else:
                if core.is_behind:  # all at once: what is missing may be with any of them, and one may be slow
                    self._ask_all()
                self._judge()  # it may have been the last one, after others had failed
        elif self._record and self._record != record:
            self._reader.repair(self.slot, self.key, candidate, self._record)

    def _judge(self) -> None:
        """Give up if nobody who could answer is left."""
        core = self._core
        if (
            self._record is None
            and self._next >= len(self._candidates)
            and len(core.results) + core.failed >= self._asked
        ):
            self._give_up()

    def _conclude(self) -> None:
        core = self._core
        try:
            record = core.merged(self.key, merge_for(self.key))
        except Corruption as error:
            self._fail(error)
            return
        self._record = record
        self._reader.answered(self, record, core)
        if record:
            for candidate in core.stale(record):
                self._reader.repair(self.slot, self.key, candidate, record)

    def _fail(self, error: KVStoreError) -> None:
        self._record = b""
        self._reader.failed(self, error)

    def _give_up(self) -> None:
        core = self._core
        if core.is_behind:
            message, lacking = (
                "the owners that can be reached have not seen all that this session has",
                len(core.lacking or ()),
            )
            self._fail(SessionNotSatisfied(message, replied=len(core.results), n=self.slot.n, lacking=lacking))
            return
        kind = ReadTimeout if isinstance(self._problem, Timeout) else ReadQuorumUnsatisfied
        needed = max(self._core.r, self._core.pr)
        why = self._problem.message if self._problem is not None else "no owner left to ask"
        self._fail(kind(f"too few replicas could answer: {why}", replied=len(self._core.results), needed=needed))
