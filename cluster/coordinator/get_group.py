"""The plain gets of one frame that ask the same owners: one FETCH_GROUP to each, and the answers compared as a whole.

    add, add, … ─► ask ─► enough owners hold what we hold ──► answered ──a late owner differs──► read repair
                     ├─ late: one owner more is asked, as one group again
                     └─ a get differs or fails ─────────────► it goes on alone, as a GetOperation

A get is plain if its local record is readable and durable.

Invariants
  1. Every get of the group is either answered here or lives on as exactly one GetOperation, which hears everything that the group
     hears.
  2. No owner is asked twice for a get that it answered: the group asks no more once one get has gone on alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cluster.coordinator.get import Candidate, GetOperation
from cluster.placement import Slot
from cluster.requests import ReplyTo
from kvstore.errors import DecodeError, UnavailableError, error_to_wire
from kvstore.groups import Fetch, decode_records, encode_fetches
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX, GROUP_SIZE_BYTES_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.link import Link

__all__ = ["GetGroup", "GroupReader", "GroupedGet"]

_OK, _ERROR, _FETCH_GROUP = int(Status.OK), int(Status.ERROR), int(Verb.FETCH_GROUP)


GroupedGet = tuple[int, Slot, StorageKey, bytes, int, int]
"""One get of a group: operation id, slot, storage key, the record our own replica holds (empty: none), r and pr."""
_RECORD = 3


class GroupReader(Protocol):
    """Who started a group, and is told what becomes of it."""

    def group_answered(self, group: GetGroup, gets: list[GroupedGet], replied: int) -> None:
        """`replied` replicas hold what ours holds of `gets`, those that were not given to `alone`. Called at most once."""

    def alone(self, group: GetGroup, get: GroupedGet) -> GetOperation:
        """Return the operation of a get that goes on alone."""

    def heard(self, link: Link, count: int, started: float) -> None:
        """A replica that was asked when `count` gets started has answered them."""

    def repair(self, slot: Slot, key: StorageKey, candidate: Candidate, record: bytes) -> None:
        """A replica that answered later than needed does not hold `record`."""


class GetGroup:
    """The local replica is the first of `candidates`; the next `asked - 1` are asked, and have to answer."""

    __slots__ = ("_agreed", "_fetches", "_gets", "_operations", "_operations_max", "_reader", "_size_bytes", "asked",
                 "candidates", "deadline", "hedge", "is_open", "reply", "started")  # fmt: skip

    def __init__(
        self, reader: GroupReader, *, candidates: Sequence[Candidate], asked: int, deadline: float, started: float,
        reply: ReplyTo, operations_max: int = GROUP_OPERATIONS_MAX,
    ) -> None:  # fmt: skip
        self.candidates, self.asked, self.deadline, self.started = candidates, asked, deadline, started
        self._reader, self.reply = reader, reply
        self._gets: list[GroupedGet] = []
        self._fetches: list[Fetch] = []
        self._agreed: list[Link] = []
        self._operations: dict[int, GetOperation] = {}
        self._size_bytes, self._operations_max = 0, operations_max
        self.is_open = True
        """Whether more may be added."""
        self.hedge: Link | None = None
        """The owner that was asked because another is late."""

    @property
    def count(self) -> int:
        """How many gets it has."""
        return len(self._gets)

    @property
    def has_another(self) -> bool:
        """Whether there is an owner that was not asked yet."""
        return self.hedge is None and self.asked < len(self.candidates)

    def won_by(self, link: Link) -> bool:
        """Whether this owner is among those that agreed."""
        return link in self._agreed

    def overdue(self) -> list[Link]:
        """Return the owners that were asked and have not answered."""
        return [link for link in self.candidates[1 : self.asked] if link is not None and link not in self._agreed]

    def add(self, get: GroupedGet) -> None:
        """Take one more get."""
        self._gets.append(get)
        _, slot, key, record, _, _ = get
        self._fetches.append((slot.version, key))
        self._size_bytes += len(key) + len(record)
        if self._size_bytes >= GROUP_SIZE_BYTES_MAX or len(self._gets) >= self._operations_max:
            self.is_open = False

    def ask(self) -> None:
        """Ask the other owners; nothing more is added."""
        self.is_open = False
        body = encode_fetches(self._fetches)
        for candidate in self.candidates[1 : self.asked]:
            assert candidate is not None, "only the first candidate is the local replica"
            try:
                candidate.ask(_FETCH_GROUP, 0, self.deadline, b"", body, partial(self._on_reply, candidate))
            except UnavailableError as error:
                self._all_alone(candidate, _ERROR, error_to_wire(error))

    def ask_one_more(self) -> bool:
        """An owner is late: ask the next one for all of them. False if that has to be done for each get alone."""
        if self._operations or not self.has_another:
            return False
        candidate = self.candidates[self.asked]
        assert candidate is not None, "only the first candidate is the local replica"
        on_reply = partial(self._on_reply, candidate)
        try:
            candidate.ask(_FETCH_GROUP, 0, self.deadline, b"", encode_fetches(self._fetches), on_reply)
        except UnavailableError:
            return False
        self.hedge = candidate
        return True

    def take_apart(self) -> None:
        """Let every get that is not answered go on alone: an owner is slow or lost."""
        for index in range(len(self._gets)):
            self._operation(index)

    def _on_reply(self, link: Link, status: int, body: bytes) -> None:
        if status != _OK:
            self._all_alone(link, status, body)
            return
        if link is not self.hedge:  # asked later than `started`
            self._reader.heard(link, len(self._gets), self.started)
        try:
            theirs = decode_records(body, len(self._gets))
        except DecodeError as error:
            self._all_alone(link, _ERROR, error_to_wire(error))
            return
        is_late = len(self._agreed) >= self.asked - 1
        for index, (get, record) in enumerate(zip(self._gets, theirs, strict=True)):
            if record != get[_RECORD] or index in self._operations:
                if is_late and index not in self._operations:
                    self._repair_late(get, link, record)
                else:
                    self._one_alone(index, link, record)
        self._agreed.append(link)
        if len(self._agreed) == self.asked - 1:
            here = [get for index, get in enumerate(self._gets) if index not in self._operations]
            self._reader.group_answered(self, here, self.asked)

    def _one_alone(self, index: int, link: Link, record: bytes | None) -> None:
        operation = self._operation(index)
        if record is None:
            operation.ask_again(link)
        else:
            operation.on_reply(link, _OK, record)

    def _all_alone(self, link: Link, status: int, body: bytes) -> None:
        is_answered = len(self._agreed) >= self.asked - 1
        for index in sorted(self._operations) if is_answered else range(len(self._gets)):
            self._operation(index).on_reply(link, status, body)

    def _repair_late(self, get: GroupedGet, link: Link, theirs: bytes | None) -> None:
        _, slot, key, ours, _, _ = get
        if ours and theirs is not None:
            self._reader.repair(slot, key, link, ours)

    def _operation(self, index: int) -> GetOperation:
        operation = self._operations.get(index)
        if operation is None:
            get = self._gets[index]
            _, _, _, record, _, _ = get
            operation = self._operations[index] = self._reader.alone(self, get)
            operation.resume(record, self._agreed, self.asked if self.hedge is None else self.asked + 1)
        return operation
