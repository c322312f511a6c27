"""The plain gets of one frame that ask the same owners: one FETCH_GROUP to each, and the answers compared as a whole.

    add, add, … ─► ask ─► every owner holds what we hold ──► answered
                     └─ a get differs, fails or is late ───► it goes on alone, as a GetOperation

A get is plain if its local record is readable and durable. Invariant: every get of the group is either answered here or lives on
as exactly one GetOperation, which hears everything that the group hears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cluster.coordinator.get import Candidate, GetOperation
from cluster.placement import Slot
from cluster.requests import ReplyTo
from kvstore.errors import DecodeError, UnavailableError, error_to_wire
from kvstore.groups import Fetch, decode_records, encode_fetches
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX, GROUP_SIZE_BYTES_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.link import Link

__all__ = ["GetGroup", "GroupedGet"]

_OK, _ERROR, _FETCH_GROUP = int(Status.OK), int(Status.ERROR), int(Verb.FETCH_GROUP)


GroupedGet = tuple[int, Slot, StorageKey, bytes, int, int]
"""One get of a group: operation id, slot, storage key, the record our own replica holds (empty: none), r and pr."""
_RECORD = 3


class GetGroup:
    """The local replica is the first of `candidates`; the next `asked - 1` are asked.

    `answer(group, gets, replied)` is called at most once, with those answered here; `alone(group, get)` makes the operation of
    one that is not.
    """

    __slots__ = ("_agreed", "_alone", "_answer", "_fetches", "_gets", "_operations", "_operations_max", "_size_bytes", "asked",
                 "candidates", "deadline", "is_open", "reply", "started")  # fmt: skip

    def __init__(
        self, *, candidates: Sequence[Candidate], asked: int, deadline: float, started: float, reply: ReplyTo,
        answer: Callable[[GetGroup, list[GroupedGet], int], None], alone: Callable[[GetGroup, GroupedGet], GetOperation],
        operations_max: int = GROUP_OPERATIONS_MAX,
    ) -> None:  # fmt: skip
        self.candidates, self.asked, self.deadline, self.started = candidates, asked, deadline, started
        self.reply, self._answer, self._alone = reply, answer, alone
        self._gets: list[GroupedGet] = []
        self._fetches: list[Fetch] = []
        self._agreed: list[Link] = []
        self._operations: dict[int, GetOperation] = {}
        self._size_bytes, self._operations_max = 0, operations_max
        self.is_open = True
        """Whether more may be added."""

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

    def take_apart(self) -> None:
        """Let every get that is not answered go on alone: an owner is slow or lost."""
        for index in range(len(self._gets)):
            self._operation(index)

    def _on_reply(self, link: Link, status: int, body: bytes) -> None:
        if status != _OK:
            self._all_alone(link, status, body)
            return
        try:
            theirs = decode_records(body, len(self._gets))
        except DecodeError as error:
            self._all_alone(link, _ERROR, error_to_wire(error))
            return
        for index, (get, record) in enumerate(zip(self._gets, theirs, strict=True)):
            if record != get[_RECORD] or index in self._operations:
                self._one_alone(index, link, record)
        self._agreed.append(link)
        if len(self._agreed) == self.asked - 1:
            here = [get for index, get in enumerate(self._gets) if index not in self._operations]
            self._answer(self, here, self.asked)

    def _one_alone(self, index: int, link: Link, record: bytes | None) -> None:
        operation = self._operation(index)
        if record is None:
            operation.ask_again(link)
        else:
            operation.on_reply(link, _OK, record)

    def _all_alone(self, link: Link, status: int, body: bytes) -> None:
        for index in range(len(self._gets)):
            self._operation(index).on_reply(link, status, body)

    def _operation(self, index: int) -> GetOperation:
        operation = self._operations.get(index)
        if operation is None:
            get = self._gets[index]
            _, _, _, record, _, _ = get
            operation = self._operations[index] = self._alone(self, get)
            operation.resume(record, self._agreed, self.asked)
        return operation
