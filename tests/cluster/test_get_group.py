"""A group of gets: answered together where the owners agree; what differs, fails or is late goes on alone."""

from __future__ import annotations

from typing import Any

from cluster.coordinator.get import Candidate, GetOperation
from cluster.coordinator.get_group import GetGroup, GroupedGet
from cluster.placement import Slot
from kvstore.errors import Timeout, Unavailable, error_to_wire
from kvstore.groups import decode_fetches, encode_records
from kvstore.ids import PartitionId, StorageKey
from kvstore.messages import Status, Verb
from kvstore.transport.link import Link

OK, ERROR = int(Status.OK), int(Status.ERROR)
RECORDS = [b"record0", b"record1", b""]


class FakeLink:
    """Remembers what it was asked."""

    def __init__(self, name: str, *, is_up: bool = True) -> None:
        self.address, self.is_up = name, is_up
        self.asked: list[tuple[int, bytes, Any]] = []

    def ask(self, verb: int, version: int, deadline: float, key: bytes, body: bytes, on_reply: Any) -> None:
        if not self.is_up:
            raise Unavailable("down")
        self.asked.append((verb, body, on_reply))


class FakeOperation:
    """What the group does with a get that goes on alone."""

    def __init__(self, key: bytes) -> None:
        self.key, self.events = key, list[tuple[Any, ...]]()

    def resume(self, record: bytes, agreed: list[FakeLink], asked: int) -> None:
        self.events.append(("resume", record, [link.address for link in agreed], asked))

    def on_reply(self, link: FakeLink, status: int, body: bytes) -> None:
        self.events.append(("reply", link.address, status, body))

    def ask_again(self, link: FakeLink) -> None:
        self.events.append(("ask again", link.address))


class Bench:
    """Three gets, of which the local replica holds two records and nothing."""

    def __init__(self, *, asked: int = 2, links: tuple[FakeLink, ...] | None = None) -> None:
        self.links = links or (FakeLink("a"), FakeLink("b"))
        self.answered: list[tuple[list[int], int]] = []
        self.apart: dict[int, FakeOperation] = {}
        self.times: list[tuple[str, int, float]] = []
        self.repaired: list[tuple[bytes, str, bytes]] = []
        self.group = GetGroup(
            self, candidates=(None, *self.links), asked=asked, deadline=9.0, started=0.5, reply=lambda *_: None,  # type: ignore[arg-type]
        )  # fmt: skip
        slot = Slot(PartitionId(0), 7, True, (), (), 3, 3)
        for number, record in enumerate(RECORDS):
            self.group.add((number, slot, StorageKey(b"key%d" % number), record, asked, 0))
        self.group.ask()

    def group_answered(self, group: GetGroup, gets: list[GroupedGet], replied: int) -> None:
        self.answered.append(([get[0] for get in gets], replied))

    def heard(self, link: Link, count: int, started: float) -> None:
        self.times.append((link.address, count, started))

    def repair(self, slot: Slot, key: StorageKey, candidate: Candidate, record: bytes) -> None:
        assert candidate is not None
        self.repaired.append((key, candidate.address, record))

    def alone(self, group: GetGroup, get: GroupedGet) -> GetOperation:
        operation = self.apart[get[0]] = FakeOperation(get[2])
        return operation  # type: ignore[return-value]

    def answer(self, link: int, records: list[bytes | None]) -> None:
        self.links[link].asked[0][2](OK, encode_records(records))


def test_equal_records_are_answered_together() -> None:
    """Two replicas replied; the absent one is agreed upon like the others."""
    bench = Bench()
    ((verb, body, _),) = bench.links[0].asked
    assert verb == Verb.FETCH_GROUP and decode_fetches(body) == [(7, b"key0"), (7, b"key1"), (7, b"key2")]
    assert not bench.links[1].asked, "r=2 asks one"

    bench.answer(0, [*RECORDS])
    assert bench.answered == [([0, 1, 2], 2)] and bench.apart == {}


def test_a_record_that_differs_goes_on_alone_with_both() -> None:
    """The others are answered at once."""
    bench = Bench()
    bench.answer(0, [b"record0", b"newer", b""])
    assert bench.answered == [([0, 2], 2)]
    assert bench.apart[1].events == [("resume", b"record1", [], 2), ("reply", "a", OK, b"newer")]


def test_one_that_has_to_be_asked_alone_is() -> None:
    """Nil: unreadable there, not durable yet, or too large for company. Not the same as an empty record."""
    bench = Bench()
    bench.answer(0, [b"record0", b"record1", None])
    assert bench.answered == [([0, 1], 2)]
    assert bench.apart[2].events == [("resume", b"", [], 2), ("ask again", "a")]


def test_an_owner_that_fails_fails_for_each() -> None:
    """Each then asks the next owner by itself."""
    bench = Bench()
    error = error_to_wire(Timeout("slow"))
    bench.links[0].asked[0][2](ERROR, error)
    assert bench.answered == []
    assert [bench.apart[i].events[1] for i in range(3)] == [("reply", "a", ERROR, error)] * 3


def test_an_owner_that_cannot_be_asked_fails_for_each() -> None:
    """The same, found out at once."""
    bench = Bench(links=(FakeLink("a", is_up=False), FakeLink("b")))
    assert [bench.apart[i].events[1][:3] for i in range(3)] == [("reply", "a", ERROR)] * 3


def test_an_answer_of_another_length_is_an_owner_that_fails() -> None:
    """Nobody gets a neighbour's record."""
    bench = Bench()
    bench.answer(0, [b"record0"])
    assert bench.answered == [] and [bench.apart[i].events[1][:3] for i in range(3)] == [("reply", "a", ERROR)] * 3


def test_what_was_taken_apart_hears_the_late_answer() -> None:
    """A slow owner: every get went on alone, and what the owner says in the end is told to each."""
    bench = Bench()
    bench.group.take_apart()
    bench.group.take_apart()  # once is enough
    assert [bench.apart[i].events for i in range(3)] == [[("resume", record, [], 2)] for record in RECORDS]
    bench.answer(0, [*RECORDS])
    assert [bench.apart[i].events[1] for i in range(3)] == [("reply", "a", OK, record) for record in RECORDS]
    assert bench.answered == [([], 2)]


def test_all_that_are_asked_have_to_agree() -> None:
    """r=3: the first answer alone answers nothing, and counts for the gets that differ later."""
    bench = Bench(asked=3)
    bench.answer(0, [*RECORDS])
    assert bench.answered == []
    bench.answer(1, [b"record0", b"other", b""])
    assert bench.answered == [([0, 2], 3)]
    assert bench.apart[1].events == [("resume", b"record1", ["a"], 3), ("reply", "b", OK, b"other")]


def test_one_that_went_alone_hears_the_other_owners_too() -> None:
    """Also those that agree with our own record."""
    bench = Bench(asked=3)
    bench.answer(0, [b"record0", b"other", b""])
    bench.answer(1, [*RECORDS])
    assert bench.apart[1].events[1:] == [("reply", "a", OK, b"other"), ("reply", "b", OK, b"record1")]
    assert bench.answered == [([0, 2], 3)]


def test_a_hedge_is_one_group_again_and_the_first_to_agree_answers() -> None:
    """The slow owner agrees in the end: nothing is left to do, and nobody is asked a third time."""
    bench = Bench()
    assert [link.address for link in bench.group.overdue()] == ["a"] and bench.group.has_another
    assert bench.group.ask_one_more() and bench.group.hedge == bench.links[1]  # type: ignore[comparison-overlap]
    ((verb, body, _),) = bench.links[1].asked
    assert verb == Verb.FETCH_GROUP and body == bench.links[0].asked[0][1]
    assert not bench.group.has_another and not bench.group.ask_one_more()

    bench.answer(1, [*RECORDS])
    bench.answer(0, [*RECORDS])
    assert bench.answered == [([0, 1, 2], 2)] and bench.apart == {} and bench.repaired == []
    assert bench.group.won_by(bench.group.hedge)


def test_how_long_an_owner_took_is_told_but_not_of_a_hedge() -> None:
    """The hedge was asked later: its time since the start of the group would be too long."""
    bench = Bench()
    bench.group.ask_one_more()
    bench.answer(1, [*RECORDS])
    assert bench.times == []
    bench.answer(0, [*RECORDS])
    assert bench.times == [("a", 3, 0.5)]


def test_a_late_owner_that_differs_is_repaired_and_what_failed_late_is_ignored() -> None:
    """Every get was answered; nothing is answered twice. An empty record of ours teaches nobody anything."""
    bench = Bench()
    bench.group.ask_one_more()
    bench.answer(1, [*RECORDS])
    bench.answer(0, [b"older", None, b"newer"])
    assert bench.repaired == [(b"key0", "a", b"record0")]
    assert bench.answered == [([0, 1, 2], 2)] and bench.apart == {}

    failing = Bench()
    failing.group.ask_one_more()
    failing.answer(1, [*RECORDS])
    failing.links[0].asked[0][2](ERROR, error_to_wire(Timeout("slow")))
    assert failing.apart == {}


def test_a_get_that_differs_at_the_hedge_goes_on_alone_and_knows_who_was_asked() -> None:
    """Three of the candidates, this node included: the operation does not ask one of them again."""
    bench = Bench()
    bench.group.ask_one_more()
    bench.answer(1, [b"record0", b"newer", b""])
    bench.answer(0, [*RECORDS])
    assert bench.answered == [([0, 2], 2)] and bench.repaired == []
    assert bench.apart[1].events == [
        ("resume", b"record1", [], 3), ("reply", "b", OK, b"newer"), ("reply", "a", OK, b"record1"),
    ]  # fmt: skip


def test_an_owner_that_fails_after_the_hedge_leaves_each_with_the_hedge() -> None:
    """All go on alone, and hear the hedge's answer."""
    bench = Bench()
    bench.group.ask_one_more()
    error = error_to_wire(Timeout("slow"))
    bench.links[0].asked[0][2](ERROR, error)
    bench.answer(1, [*RECORDS])
    assert [bench.apart[i].events for i in range(3)] == [
        [("resume", record, [], 3), ("reply", "a", ERROR, error), ("reply", "b", OK, record)] for record in RECORDS
    ]


def test_no_hedge_as_a_group_once_a_get_is_alone_or_if_the_next_owner_is_down() -> None:
    """That get may ask the same owner: one replica's answer must never count twice."""
    bench = Bench(asked=3, links=(FakeLink("a"), FakeLink("b"), FakeLink("c")))
    bench.answer(0, [b"record0", b"other", b""])
    assert [link.address for link in bench.group.overdue()] == ["b"]
    assert not bench.group.ask_one_more() and not bench.links[2].asked

    down = Bench(links=(FakeLink("a"), FakeLink("b", is_up=False)))
    assert not down.group.ask_one_more() and down.group.hedge is None and down.apart == {}
