"""A group of puts: one counts for all while all fare alike, and each for itself once an owner refuses some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.coordinator.mutation import Mutation
from cluster.coordinator.put_group import PutGroup
from kvstore.errors import (
    KVStoreError,
    Overloaded,
    StalePlacement,
    Timeout,
    Unavailable,
    error_from_wire,
    error_to_wire,
)
from kvstore.groups import decode_writes, encode_refused
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX
from kvstore.messages import Status, Verb, decode_put_reply

OK = int(Status.OK)


class FakeStore:
    """Durable when the test says so."""

    def __init__(self) -> None:
        self.durable: list[Callable[[], None]] = []

    def when_durable(self, call: Callable[[], None]) -> None:
        self.durable.append(call)


class FakeLink:
    """Remembers what it was asked."""

    def __init__(self, *, is_up: bool = True) -> None:
        self.address, self.is_up = "peer", is_up
        self.asked: list[tuple[int, bytes, bytes, Callable[[int, bytes], None]]] = []

    def ask(self, verb: int, version: int, deadline: float, key: bytes, body: bytes, on_reply: Any) -> None:
        if not self.is_up:
            raise Unavailable("down")
        self.asked.append((verb, key, body, on_reply))


class Bench:
    """Three puts to three owners, of which two are links."""

    def __init__(self, *, counts: tuple[int, int, int] = (2, 2, 0), links: tuple[FakeLink, ...] | None = None) -> None:
        self.store = FakeStore()
        self.links = links if links is not None else (FakeLink(), FakeLink())
        self.replies: dict[int, tuple[int, bytes]] = {}
        self.finished: list[tuple[int, KVStoreError | None]] = []
        self.group = PutGroup(
            store=self.store, onlookers=(), links=self.links, counts=counts, n=3, deadline=9.0, reply=self._reply,  # type: ignore[arg-type]
            finished=lambda count, problem: self.finished.append((count, problem)),
        )  # fmt: skip
        for number in range(3):
            mutation = Mutation(b"record%d" % number, 1, False, b"context%d" % number, True)
            self.group.add(10 + number, 7, StorageKey(b"key%d" % number), mutation)

    def _reply(self, operation_id: int, status: int, body: bytes) -> None:
        assert operation_id not in self.replies, "answered twice"
        self.replies[operation_id] = (status, body)

    def local_durable(self) -> None:
        for call in self.store.durable:
            call()

    def answer(self, link: int, status: int, body: bytes = b"", *, nth: int = 0) -> None:
        self.links[link].asked[nth][3](status, body)

    def errors(self) -> dict[int, type[KVStoreError]]:
        return {i: type(error_from_wire(body)) for i, (status, body) in self.replies.items() if status != OK}

    def acknowledged(self) -> list[int]:
        return sorted(i for i, (status, _) in self.replies.items() if status == OK)


def test_the_quorum_acknowledges_all_at_once() -> None:
    """Our own commit and one owner: w=2 of 3. Each reply carries its own context."""
    bench = Bench()
    bench.group.applied(None)
    assert bench.replies == {} and not bench.group.is_open

    bench.answer(0, OK)
    assert bench.replies == {}
    bench.local_durable()
    assert bench.acknowledged() == [10, 11, 12]
    assert [decode_put_reply(bench.replies[i][1]).context for i in (10, 11, 12)] == [
        b"context0",
        b"context1",
        b"context2",
    ]
    assert bench.finished == [(3, None)]

    bench.answer(1, OK)  # late: only bookkeeping
    assert bench.finished == [(3, None)]


def test_every_owner_is_sent_every_record_once() -> None:
    """With the placement version that each was planned with."""
    bench = Bench()
    bench.group.applied(None)
    for link in bench.links:
        ((verb, _, body, _),) = link.asked
        assert verb == Verb.REPLICATE_GROUP
        assert decode_writes(body) == [(7, b"key%d" % n, b"record%d" % n) for n in range(3)]


def test_a_batch_that_the_store_refused_fails_each_with_its_error() -> None:
    """Definite: nothing was sent to anybody."""
    bench = Bench()
    bench.group.applied(Overloaded("full", retry_after_s=1.0))
    assert bench.errors() == dict.fromkeys((10, 11, 12), Overloaded)
    assert all(not link.asked for link in bench.links)
    assert [count for count, _ in bench.finished] == [3]


def test_too_few_owners_left_is_an_indefinite_error_for_all() -> None:
    """Both others fail: it was applied here, so the error says so."""
    bench = Bench()
    bench.group.applied(None)
    bench.local_durable()
    bench.answer(0, int(Status.ERROR), error_to_wire(Overloaded("busy", retry_after_s=0.1)))
    assert bench.replies == {}
    bench.answer(1, int(Status.ERROR), error_to_wire(Timeout("slow")))
    assert bench.errors() == dict.fromkeys((10, 11, 12), Timeout)
    assert not error_from_wire(bench.replies[10][1]).definite


def test_an_owner_that_is_down_counts_as_failed() -> None:
    """The other one makes the quorum."""
    bench = Bench(links=(FakeLink(is_up=False), FakeLink()))
    bench.group.applied(None)
    bench.local_durable()
    bench.answer(1, OK)
    assert bench.acknowledged() == [10, 11, 12]


def test_with_all_owners_down_each_is_told_once() -> None:
    """Also while the group is still being sent out."""
    bench = Bench(counts=(3, 3, 0), links=(FakeLink(is_up=False), FakeLink(is_up=False)))
    bench.group.applied(None)
    bench.local_durable()
    assert sorted(bench.errors()) == [10, 11, 12] and [count for count, _ in bench.finished] == [3]


def test_a_write_that_an_owner_refused_is_asked_again_alone() -> None:
    """The two others have their quorum; the third waits for the answer to its own question."""
    bench = Bench(counts=(3, 3, 0))
    bench.group.applied(None)
    bench.local_durable()
    bench.answer(0, OK)
    bench.answer(1, OK, encode_refused([1]))
    assert bench.acknowledged() == [10, 12]
    verb, key, record, _ = bench.links[1].asked[1]
    assert (verb, key, record) == (Verb.REPLICATE, b"key1", b"record1")

    bench.answer(1, OK, nth=1)
    assert bench.acknowledged() == [10, 11, 12] and bench.finished == [(1, None)] * 3


def test_a_write_that_is_refused_again_fails_alone() -> None:
    """What the others had said before it was taken apart still counts."""
    bench = Bench(counts=(3, 3, 0))
    bench.group.applied(None)
    bench.answer(0, OK)
    bench.answer(1, OK, encode_refused([0, 2]))
    bench.local_durable()
    assert bench.acknowledged() == [11]
    for nth in (1, 2):
        stale = StalePlacement("old", topology_epoch=2, placement_version=8)
        bench.answer(1, int(Status.ERROR), error_to_wire(stale), nth=nth)
    assert sorted(bench.errors()) == [10, 12]
    assert error_from_wire(bench.replies[10][1]).details["acked"] == 2


def test_a_refusal_after_the_answer_still_replicates() -> None:
    """The quorum was met without that owner; it gets the record all the same, and nobody is answered twice."""
    bench = Bench()
    bench.group.applied(None)
    bench.local_durable()
    bench.answer(0, OK)
    assert bench.acknowledged() == [10, 11, 12]
    bench.answer(1, OK, encode_refused([2]))
    assert [key for _, key, _, _ in bench.links[1].asked[1:]] == [b"key2"]
    bench.answer(1, OK, nth=1)


def test_an_answer_that_cannot_be_read_is_a_failure_of_that_owner() -> None:
    """Never an acknowledgement."""
    bench = Bench(counts=(3, 3, 0))
    bench.group.applied(None)
    bench.local_durable()
    bench.answer(0, OK, encode_refused([99]))
    assert sorted(bench.errors()) == [10, 11, 12]


@pytest.mark.parametrize(("size", "expected"), [(1, GROUP_OPERATIONS_MAX), (40_000, 3 + 7)])
def test_a_full_group_takes_no_more(size: int, expected: int) -> None:
    """By count or by bytes."""
    bench = Bench()
    added = 3
    while bench.group.is_open:
        bench.group.add(added, 7, StorageKey(b"k%04d" % added), Mutation(bytes(size), 1, False, b"", True))
        added += 1
    assert added == expected
    bench.group.applied(None)
    assert len(decode_writes(bench.links[0].asked[0][2])) == added
