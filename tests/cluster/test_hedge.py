"""The core of hedged reads: how long answers take, who is behind, and how many hedges there may be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.coordinator.hedge import (
    BURST,
    HEARD_MAX,
    HEDGE_S_MAX,
    HEDGE_S_MIN,
    LEARNT_AT_ONCE,
    PRECISION,
    PROBE_EVERY,
    QUANTILE,
    REVIEW_EVERY,
    SAMPLES_MAX,
    SAMPLES_MIN,
    SHARE,
    AnswerTimes,
    Budget,
    Hedge,
)


class Peer:
    """A peer that is up until a test says otherwise."""

    def __init__(self, name: str) -> None:
        self.name, self.is_up = name, True


class DumbTimes:
    """The same with every answer kept, and a weight for each."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, float]] = []

    def add(self, count: int, took_s: float) -> None:
        self.answers.append((took_s, float(count)))
        if self.total() >= SAMPLES_MAX:
            self.answers = [(took_s, weight / 2) for took_s, weight in self.answers]

    def total(self) -> float:
        return sum(weight for _, weight in self.answers)

    def p95_s(self) -> float:
        if self.total() < SAMPLES_MIN:
            return HEDGE_S_MAX
        wanted, seen = self.total() * QUANTILE, 0.0
        for took_s, weight in sorted(self.answers):
            seen += weight
            if seen >= wanted * (1 - 1e-9):
                return min(max(took_s, HEDGE_S_MIN), HEDGE_S_MAX)
        raise AssertionError("the last one reaches any share")


ANSWERS = st.lists(
    st.tuples(st.integers(1, 512), st.one_of(st.floats(0, 0.3), st.sampled_from([0.0, HEDGE_S_MIN, HEDGE_S_MAX, 5.0]))),
    max_size=60,
)


@given(ANSWERS)
def test_the_p95_is_that_of_a_dumb_model_within_the_precision(answers: list[tuple[int, float]]) -> None:
    """Never below it, so that no more than a twentieth is late, and at most one bucket above."""
    times, dumb = AnswerTimes(), DumbTimes()
    for count, took_s in answers:
        times.add(count, took_s)
        dumb.add(count, took_s)

        assert HEDGE_S_MIN <= times.p95_s() <= HEDGE_S_MAX
        assert dumb.p95_s() * (1 - 1e-9) <= times.p95_s() <= dumb.p95_s() * PRECISION * (1 + 1e-9)


def test_what_is_long_ago_is_forgotten() -> None:
    """After a slow hour: with a few thousand fast answers the p95 is theirs."""
    times = AnswerTimes()
    times.add(100_000, 0.08)
    assert times.p95_s() == pytest.approx(0.08, rel=0.1)

    halvings = 0
    while times.p95_s() > 0.004:
        times.add(SAMPLES_MAX // 2, 0.003)
        halvings += 1
    assert halvings < 16


def heard(hedge: Hedge[Peer], peer: Peer, took_s: float, *, answers: int = REVIEW_EVERY, gets: int = 10) -> None:
    """Let a peer answer several times."""
    for _ in range(answers):
        hedge.heard.append((peer, gets, took_s))
        hedge.learn()


def test_nothing_is_late_before_the_maximum_until_there_are_enough_answers() -> None:
    """And then what most take decides."""
    hedge, peer = Hedge[Peer](), Peer("a")
    assert hedge.delay_s == HEDGE_S_MAX
    heard(hedge, peer, 0.005, answers=REVIEW_EVERY, gets=1)
    assert hedge.delay_s == HEDGE_S_MAX
    heard(hedge, peer, 0.005, answers=SAMPLES_MIN, gets=1)
    assert 0.005 <= hedge.delay_s <= 0.005 * PRECISION


def test_a_slow_peer_does_not_set_the_measure_for_itself() -> None:
    """Of two peers the faster one does, of three the middle one."""
    hedge, slow, fast, middle = Hedge[Peer](), Peer("slow"), Peer("fast"), Peer("middle")
    heard(hedge, slow, 0.09)
    heard(hedge, fast, 0.003)
    assert hedge.delay_s <= 0.003 * PRECISION
    heard(hedge, middle, 0.01)
    assert 0.01 <= hedge.delay_s <= 0.01 * PRECISION


def test_a_peer_that_is_usually_late_is_behind_until_it_has_recovered() -> None:
    """A late answer now and then is nothing: a twentieth is late by definition."""
    hedge, slow, fast = Hedge[Peer](), Peer("slow"), Peer("fast")
    for _ in range(REVIEW_EVERY):
        heard(hedge, slow, 0.003, answers=1)
        heard(hedge, fast, 0.003, answers=1)
    for _ in range(20):
        heard(hedge, slow, 0.003, answers=4)
        heard(hedge, slow, 0.05, answers=1)
    assert not hedge.behind

    heard(hedge, slow, 0.05, answers=11)
    assert list(hedge.behind) == [slow]
    heard(hedge, slow, 0.002, answers=16)
    assert not hedge.behind


def test_a_peer_that_says_nothing_is_behind_before_it_answers() -> None:
    """One that hangs answers no earlier than its process goes on."""
    hedge, peer = Hedge[Peer](), Peer("hung")
    for _ in range(11):
        hedge.waited(peer)
    assert list(hedge.behind) == [peer]


def test_peers_that_are_gone_are_forgotten() -> None:
    """Links are replaced over the years; only one comes when another goes."""
    hedge = Hedge[Peer]()
    for number in range(1_000):
        peer = Peer(str(number))
        heard(hedge, peer, 0.05, answers=20)
        peer.is_up = False
    assert len(hedge._seen) == 1 and len(hedge.behind) <= 1


def test_of_very_many_answers_some_are_looked_at() -> None:
    """Of every peer, and the oldest are dropped: the time for it is bounded."""
    hedge, peers = Hedge[Peer](), [Peer("a"), Peer("b")]
    for number in range(HEARD_MAX * 10):
        hedge.heard.append((peers[number % 2], 10, 0.005))
    assert len(hedge.heard) == HEARD_MAX
    hedge.learn()
    assert not hedge.heard and hedge.delay_s < 0.006
    assert all(seen.times._total < 10 * LEARNT_AT_ONCE for seen in hedge._seen.values()) and len(hedge._seen) == 2


def test_with_a_fixed_delay_nothing_that_is_heard_changes_it() -> None:
    """What a simulation may ask for."""
    hedge = Hedge[Peer](2.0)
    heard(hedge, Peer("a"), 0.005, answers=100)
    assert hedge.delay_s == 2.0


def test_a_peer_behind_is_asked_first_only_by_the_probes() -> None:
    """One frame in PROBE_EVERY keeps the regular order, and over time that shows every order."""
    hedge, slow, fast = Hedge[Peer](), Peer("slow"), Peer("fast")
    readers = ((None, slow, fast), (None, fast, slow))
    for _ in range(11):
        hedge.waited(slow)
    firsts = [hedge.choose(readers, turn, 2)[1] for turn in range(PROBE_EVERY * 100)]
    assert firsts.count(slow) == 50

    for _ in range(11):
        hedge.waited(fast)
    assert [hedge.choose(readers, turn, 2) for turn in range(4)] == [*readers, *readers], "all are behind: as ever"


def test_with_more_owners_the_order_begins_with_those_that_keep_up() -> None:
    """r=3 of five: neither of the two that are asked is behind, if there is such an order."""
    hedge, peers = Hedge[Peer](), [Peer(name) for name in "abcd"]
    readers = tuple((None, *peers[i:], *peers[:i]) for i in range(4))
    for _ in range(11):
        hedge.waited(peers[1])
    for turn in range(1, PROBE_EVERY):
        assert peers[1] not in hedge.choose(readers, turn, 3)[:3]


def test_an_owner_that_is_down_is_asked_first_by_nobody() -> None:
    """With another one behind it would cost a failed question first; the slow one does answer."""
    hedge, slow, down = Hedge[Peer](), Peer("slow"), Peer("down")
    readers = ((None, slow, down), (None, down, slow))
    down.is_up = False
    for _ in range(11):
        hedge.waited(slow)
    assert all(hedge.choose(readers, turn, 2) == readers[0] for turn in range(2 * PROBE_EVERY))
    assert [hedge.choose(readers, turn, 3) for turn in range(2)] == list(readers), "both are asked: as ever"


def test_neither_who_is_down_nor_who_is_behind_is_among_the_first() -> None:
    """r=3 of five, one owner each: of the four orders one begins with the two others."""
    hedge, peers = Hedge[Peer](), [Peer(name) for name in "abcd"]
    readers = tuple((None, *peers[i:], *peers[:i]) for i in range(4))
    peers[2].is_up = False
    for _ in range(11):
        hedge.waited(peers[1])
    for turn in range(1, PROBE_EVERY):
        assert hedge.choose(readers, turn, 3) == readers[3]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 512)), max_size=200))
def test_hedges_never_exceed_a_twentieth_a_burst_and_one_group(steps: list[tuple[int, int]]) -> None:
    """Whatever wants to be hedged, and however large the groups are."""
    budget, gets, hedges, largest = Budget(), 0, 0, 0
    for more, group in steps:
        gets, largest = gets + more, max(largest, group)
        if budget.allows(gets):
            budget.spend(group)
            hedges += group
        assert hedges <= gets * SHARE + BURST + largest


def test_a_budget_saves_no_more_than_its_burst() -> None:
    """A quiet year does not pay for a storm."""
    budget, spent = Budget(), 0
    while budget.allows(1_000_000):
        budget.spend(1)
        spent += 1
    assert spent == BURST

    nothing = Budget(0.0)
    assert not any(nothing.allows(gets) for gets in range(0, 10_000, 7))


@pytest.mark.parametrize("slow", [1, 2])
def test_a_model_of_peers_that_are_all_slow_from_a_moment_on(slow: int) -> None:
    """Two peers; one or both become 40 times slower. Hedges: 5 % and a burst, and in the end almost none if both are."""
    rng = random.Random(7)
    hedge, budget, peers = Hedge[Peer](), Budget(), (Peer("a"), Peer("b"))
    readers = ((None, *peers), (None, *peers[::-1]))
    hedges, waits = [0] * 60_000, list[float]()
    for turn in range(60_000):
        candidates = hedge.choose(readers, turn, 2) if hedge.behind else readers[turn % 2]
        times = {peer: rng.expovariate(1 / 0.001) + 0.001 for peer in peers}
        for peer in peers[:slow] if turn >= 20_000 else ():
            times[peer] *= 40
        asked, other = candidates[1], candidates[2]
        assert asked is not None and other is not None
        took_s, late_s = times[asked], hedge.delay_s
        if took_s > late_s and budget.allows(turn):
            hedge.waited(asked)
            budget.spend(1)
            hedges[turn] = 1
            took_s = min(took_s, late_s + times[other])
        hedge.heard.append((asked, 1, times[asked]))
        hedge.learn()
        waits.append(took_s)

    assert sum(hedges) <= 60_000 * SHARE + BURST and sum(hedges[20_000:]) <= 40_000 * SHARE + BURST
    waits_in_the_end = sorted(waits[40_000:])
    if slow == 1:
        assert waits_in_the_end[len(waits_in_the_end) * 99 // 100] < 0.02
    else:
        assert sum(hedges[50_000:]) <= 10_000 * SHARE + 1
