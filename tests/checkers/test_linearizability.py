"""Histories that a single copy could have given, and such that it could not; against brute force, and large ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_lite.checkers.calls import Call, Operation, Value
from jepsen_lite.checkers.linearizability import check_linearizability
from jepsen_lite.checkers.models import IMPOSSIBLE, CasRegister, Counter, FencedLock, GrowOnlySet, Lock, Model, Register
from jepsen_lite.checkers.verdict import Outcome
from jepsen_lite.checkers.wing_gong_lowe import Bounds, Broke, GaveUp, Order, search
from jepsen_lite.events import HistoryError
from jepsen_lite.foreign import calls_by_key
from jepsen_lite.judged import judge_events
from tests.checkers.event_scripts import events
from tests.checkers.simulated_register import simulate, stale, zones_overlap

GOOD = [
    ("nothing at all", "cas-register", ""),
    ("nothing written yet", "cas-register", "0 read -> nil"),
    ("one after the other", "cas-register", "0 write 1; 1 read -> 1; 0 write 2; 1 read -> 2"),
    ("a read beside a write sees the old", "cas-register", "0 write 1; 0 write 2 ...; 1 read -> 1; 0 ok"),
    ("a read beside a write sees the new", "cas-register", "0 write 1; 0 write 2 ...; 1 read -> 2; 0 ok"),
    ("two writes at once, either order", "register", "0 write 1 ...; 1 write 2 ...; 0 ok; 1 ok; 2 read -> 1"),
    ("a long read beside many writes", "register", "9 read ...; 0 write 1; 0 write 2; 0 write 3; 9 -> 2"),
    ("a failed write is not seen", "register", "0 write 1; 1 write 2 fail; 0 read -> 1"),
    ("an unknown write is never seen", "register", "0 write 1; 1 write 2 info; 0 read -> 1; 0 read -> 1"),
    ("an unknown write is seen at once", "register", "0 write 1; 1 write 2 info; 0 read -> 2"),
    ("an unknown write is seen very late", "register", "1 write 2 info; 0 write 1; 0 read -> 1; 0 write 3; 0 read -> 2"),
    ("an unknown write between two writes of the same value", "register",
     "0 write 1; 1 write 2 info; 0 read -> 2; 0 write 1; 0 read -> 1"),
    ("two equal unknown writes are seen twice", "register",
     "8 write 2 info; 9 write 2 info; 0 write 1; 0 read -> 2; 0 write 1; 0 read -> 2; 0 write 1; 0 read -> 1"),
    ("never completed is unknown", "register", "1 write 2 ...; 0 write 1; 0 read -> 1; 0 read -> 2"),
    ("a cas replaces what it found", "cas-register", "0 write 1; 1 cas 1 2; 0 read -> 2"),
    ("a failed cas", "cas-register", "0 write 1; 1 cas 3 2 fail; 0 read -> 1"),
    ("an unknown cas happened", "cas-register", "0 write 1; 1 cas 1 2 info; 0 cas 2 3; 0 read -> 3"),
    ("a chain of unknown ones", "cas-register", "7 write 5 info; 8 cas 5 6 info; 9 cas 6 7 info; 0 write 1; 0 read -> 7"),
    ("an unknown write enables a cas", "cas-register", "0 write 1; 9 write 5 info; 1 cas 5 6; 0 read -> 6"),
    ("a read of unknown outcome says nothing", "register", "0 write 1; 1 read info; 0 read -> 1"),
    ("write skew of two registers: each is fine", "register",
     "0 write 0 @x; 0 write 0 @y; 1 read @x -> 0; 2 read @y -> 0; 1 write 1 @y; 2 write 1 @x; 0 read @x -> 1; 0 read @y -> 1"),
    ("a write that is overwritten before anybody looks", "register",
     "0 write 1 ...; 1 write 2 ...; 1 ok; 2 read -> 2; 0 ok; 2 read -> 2"),
    ("our own words", "register", "0 put 1; 1 get -> 1; 0 delete; 1 get -> nil; final final -> nil"),
    ("locks change hands", "lock", "0 acquire -> 1; 0 release; 1 acquire -> 2; 1 release"),
    ("a lock without tokens", "lock", "0 acquire; 0 release; 1 acquire; 1 release"),
    ("an unknown release freed it", "lock", "0 acquire -> 1; 0 release info; 1 acquire -> 2"),
    ("an unknown acquire never happened", "lock", "0 acquire info; 1 acquire -> 1; 1 release; 2 acquire -> 5"),
    ("a lease expired, the fence held", "fenced-lock", "0 acquire -> 1; 1 acquire -> 2; 1 use 2; 0 use 1 fail"),
    ("an old token before the new one", "fenced-lock", "0 acquire -> 1; 1 acquire -> 2; 0 use 1; 1 use 2; 1 use 2"),
    ("sums", "linearizable-counter", "0 read -> 0; 0 add 2; 1 add -1 ...; 0 read -> 2; 0 read -> 1; 1 ok"),
    ("an unknown add", "linearizable-counter", "9 add 5 info; 0 add 1; 0 read -> 1; 0 read -> 6"),
    ("elements", "linearizable-set", "0 read -> []; 0 add 1; 1 add 2 ...; 0 read -> [1]; 0 read -> [2 1]; 1 ok"),
]  # fmt: skip

BAD = [
    ("stale read", "register", "0 write 1; 0 write 2; 1 read -> 1"),
    ("a value from nowhere", "register", "0 write 1; 1 read -> 7"),
    ("a value from the future", "register", "1 read -> 1; 0 write 1"),
    ("a lost write", "register", "0 write 1; 1 read -> nil"),
    ("a read of a failed write", "register", "0 write 1; 1 write 2 fail; 0 read -> 2"),
    ("new, then old", "register", "0 write 1; 0 write 2 ...; 1 read -> 2; 2 read -> 1; 0 ok"),
    ("two readers see two writes in two orders", "register",
     "0 write 1 ...; 1 write 2 ...; 2 read -> 1; 3 read -> 2; 2 read -> 1; 0 ok; 1 ok"),
    ("an unknown write is seen, gone, and back", "register", "0 write 1; 9 write 2 info; 0 read -> 2; 0 read -> 1"),
    ("an unknown write happens once", "register", "9 write 2 info; 0 write 1; 0 read -> 2; 0 write 1; 0 read -> 2"),
    ("an unknown write before it was invoked", "register", "0 read -> 2; 9 write 2 info"),
    ("lost update", "cas-register", "0 write 0; 1 cas 0 1; 2 cas 0 2; 0 read -> 2"),
    ("a cas that succeeded twice", "cas-register", "0 write 0; 1 cas 0 1 ...; 2 cas 0 1 ...; 1 ok; 2 ok; 0 read -> 1"),
    ("a cas of what was never there", "cas-register", "0 write 0; 1 cas 5 1"),
    ("a failed cas had happened", "cas-register", "0 write 0; 1 cas 0 1 fail; 0 read -> 1"),
    ("an unknown cas cannot start a chain", "cas-register", "8 cas 5 6 info; 9 cas 6 7 info; 0 write 1; 0 read -> 7"),
    ("only one of two keys is wrong", "register", "0 write 1 @x; 0 write 2 @y; 1 read @x -> 1; 1 read @y -> 1"),
    ("deleted and back", "register", "0 put 1; 0 delete; 1 get -> 1"),
    ("two holders", "lock", "0 acquire -> 1; 1 acquire -> 2"),
    ("released by another", "lock", "0 acquire -> 1; 1 release"),
    ("a token twice", "lock", "0 acquire -> 3; 0 release; 1 acquire -> 3"),
    ("tokens go down", "fenced-lock", "0 acquire -> 2; 1 acquire -> 1"),
    ("the resource took an old token after a new one", "fenced-lock", "0 acquire -> 1; 1 acquire -> 2; 1 use 2; 0 use 1"),
    ("a token that nobody got", "fenced-lock", "0 acquire -> 1; 0 use 2"),
    ("an increment is lost", "linearizable-counter", "0 add 1; 1 add 1; 0 read -> 1"),
    ("an increment counts twice", "linearizable-counter", "9 add 5 info; 0 add 1; 0 read -> 11"),
    ("half of an unknown add", "linearizable-counter", "9 add 5 info; 0 add 1; 0 read -> 3"),
    ("sums go back", "linearizable-counter", "0 add 1 ...; 1 read -> 1; 1 read -> 0; 0 ok"),
    ("an element is missing", "linearizable-set", "0 add 1; 0 add 2; 1 read -> [2]"),
    ("two reads of two halves", "linearizable-set", "0 add 1 ...; 1 add 2 ...; 2 read -> [1]; 3 read -> [2]; 0 ok; 1 ok"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "script"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_one_copy_could_have_answered_holds(model: str, script: str) -> None:
    """Also if it had to be lucky."""
    judged = judge_events(events(script), model)

    assert judged.outcome is Outcome.OK, judged.verdicts


@pytest.mark.parametrize(("model", "script"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_no_single_copy_could_have_answered_is_violated(model: str, script: str) -> None:
    """One violation for each such key, with evidence that can be printed."""
    log = events(script)

    (verdict,) = judge_events(log, model).verdicts

    assert verdict.outcome is Outcome.VIOLATED
    (violation,) = verdict.violations
    assert violation.evidence and violation.explain(log).count("line ") == len(set(violation.evidence))


# --- evidence -------------------------------------------------------------------------------------------------------


def test_a_violation_says_where_it_breaks_what_could_be_next_and_why_that_does_not_help() -> None:
    """The operations that had ended long before are not in it."""
    log = events("0 write 1; 0 read -> 1; 0 write 2; 1 write 3 ...; 2 read -> 1; 1 ok; 0 write 9; 0 read -> 9")

    (violation,) = judge_events(log, "register").verdicts[0].violations

    assert violation.message.splitlines() == [
        "read → 1 [7, 8] fits nowhere; an order of 4 operations is the longest. By then",
        "    it holds 2, after write 2 [4, 5]:",
        "      write 3 [6, 9] can, and then it holds 3; that does not help",
        "      read → 1 [7, 8] cannot be next: it holds 2",
        "    it holds 3, after write 3 [6, 9]:",
        "      read → 1 [7, 8] cannot be next: it holds 3",
    ]
    assert set(violation.evidence) == {4, 5, 6, 7, 8, 9}


@pytest.mark.parametrize("seed", range(12))
def test_the_history_before_the_break_is_linearizable_and_with_it_is_not(seed: int) -> None:
    """So the evidence is the shortest beginning that is wrong."""
    calls = stale(simulate(seed, 150, clients=5, unknown=3), at_share=0.6)
    broke = search(CasRegister(), calls)
    assert isinstance(broke, Broke) and broke.call.returned is not None
    end = broke.call.returned

    before, after = (_cut(calls, index) for index in (end, end + 1))

    assert isinstance(search(CasRegister(), before), Order)
    assert isinstance(search(CasRegister(), after), Broke)


def _cut(calls: Sequence[Call], end: int) -> list[Call]:
    """Return the history before an index; what has not returned by then is unknown."""
    kept = [call for call in calls if call.invoked < end]
    return [
        call if call.returned is not None and call.returned < end
        else Call(call.operation._replace(result=None), call.invoked, None)
        for call in kept
    ]  # fmt: skip


# --- against brute force --------------------------------------------------------------------------------------------


def _possible(model: Model[Any], calls: Sequence[Call]) -> bool:
    """Try every order of every subset of the unknown ones: what the definition says, and nothing else."""
    known = [call for call in calls if call.returned is not None]
    unknown = [call for call in calls if call.returned is None]
    return any(
        _proves(model, order)
        for count in range(len(unknown) + 1)
        for taken in itertools.combinations(unknown, count)
        for order in itertools.permutations([*known, *taken])
    )


def _proves(model: Model[Any], order: Sequence[Call]) -> bool:
    """Return whether an order is legal for the model, and keeps real time."""
    state = model.initial()
    latest = -1
    for call in order:
        latest = max(latest, call.invoked)
        if call.returned is not None and call.returned < latest:
            return False
        if call.returned is None and model.is_read(call.operation):
            continue
        state = model.step(state, call.operation)
        if state is IMPOSSIBLE:
            return False
    return True


def _register(value: int, other: int, f: int) -> Operation:
    if f == 0:
        return Operation("write", value)
    return Operation("cas", (other, value)) if f == 1 else Operation("read", None, value)


def _counter(value: int, other: int, f: int) -> Operation:
    return Operation("add", value - 1) if f == 0 else Operation("read", None, value + other)


def _set(value: int, other: int, f: int) -> Operation:
    elements: Value = tuple(range(other)) if value else tuple(dict.fromkeys((value, other)))
    return Operation("add", value) if f == 0 else Operation("read", None, tuple(sorted(elements)))


def _lock(value: int, other: int, f: int) -> Operation:
    return Operation("acquire", None, value or None, other) if f < 2 else Operation("release", process=other)


def _fence(value: int, other: int, f: int) -> Operation:
    return Operation("acquire", None, value + 1) if f < 2 else Operation("use", value + 1)


_SMALL = st.integers(0, 2)
_MAKERS: list[tuple[Model[Any], Any]] = [
    (CasRegister(), _register), (CasRegister(), _register), (Counter(), _counter), (GrowOnlySet(), _set), (Lock(), _lock),
    (FencedLock(), _fence),
]  # fmt: skip


@st.composite
def _histories(draw: st.DrawFn, operations_max: int) -> tuple[Model[Any], list[Call]]:
    model, make = draw(st.sampled_from(_MAKERS))
    count = draw(st.integers(1, operations_max))
    ends = draw(st.permutations(range(2 * count)))
    calls = []
    for number in range(count):
        invoked, returned = sorted(ends[2 * number : 2 * number + 2])
        operation = make(draw(_SMALL), draw(_SMALL), draw(st.integers(0, 2)))
        is_unknown = draw(st.integers(0, 3)) == 0
        if is_unknown:
            operation = operation if operation.f in ("use", "cas") else operation._replace(result=None)
        calls.append(Call(operation, invoked, None if is_unknown else returned))
    return model, sorted(calls, key=lambda call: call.invoked)


@settings(max_examples=400, deadline=None)
@given(_histories(5))
def test_the_verdict_is_that_of_brute_force(history: tuple[Model[Any], list[Call]]) -> None:
    """And an order that is returned is one."""
    model, calls = history

    found = search(model, calls)

    assert isinstance(found, Order) == _possible(model, calls)
    if isinstance(found, Order):
        assert _is_proof(model, calls, found.calls)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None)
@given(_histories(7))
def test_the_verdict_is_that_of_brute_force_up_to_seven_operations(history: tuple[Model[Any], list[Call]]) -> None:
    """The same with more of them; minutes."""
    model, calls = history

    assert isinstance(search(model, calls), Order) == _possible(model, calls)


def _is_proof(model: Model[Any], calls: Sequence[Call], order: Sequence[Call]) -> bool:
    """Return whether an order is legal, keeps real time, and leaves out nothing that was answered."""
    numbers = {id(call) for call in order}
    return (
        len(numbers) == len(order)
        and all(id(call) in numbers for call in calls if call.returned is not None)
        and _proves(model, order)
    )


# --- large histories ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_operations_of_ten_clients_are_judged_at_once(seed: int, values: int | None) -> None:
    """One key, eight of unknown outcome; the configurations say how much it was: a second, and 40 MB."""
    calls = simulate(seed, 10_000 if seed == 0 else 2_000, values=values)

    found = search(CasRegister(), calls)

    assert isinstance(found, Order) and found.configurations < 30_000
    assert _is_proof(CasRegister(), calls, found.calls)


@pytest.mark.parametrize("write_share", [0.3, 0.7])
def test_a_stale_read_near_the_end_of_ten_thousand_is_found(write_share: float) -> None:
    """Everything before it has to be exhausted."""
    calls = stale(simulate(7, 10_000, write_share=write_share), at_share=0.95)

    found = search(CasRegister(), calls)

    assert isinstance(found, Broke) and found.configurations < 100_000
    assert found.call.operation.f == "read"


@pytest.mark.parametrize("seed", range(3))
def test_few_values_and_clients_that_never_pause_are_exhausted_too(seed: int) -> None:
    """The hard kind: eight unknown operations can each explain many reads. Those that used the fewest are looked at first;
    without that it is five times as many configurations."""
    calls = simulate(seed, 1_000, values=5, is_busy=True)
    at = [at for at, call in enumerate(calls) if call.operation.f == "read"][-5]
    calls[at] = Call(calls[at].operation._replace(result=99), calls[at].invoked, calls[at].returned)

    found = search(CasRegister(), calls)

    assert isinstance(found, Broke) and found.configurations < 60_000
    assert found.call == calls[at]


@pytest.mark.parametrize("seed", range(30))
def test_unique_writes_are_judged_as_zones_judge_them(seed: int) -> None:
    """A second algorithm that has nothing in common with the first; half of the histories are spoilt at random."""
    calls = simulate(seed, 300, clients=6, unknown=4, cas_share=0.0)
    if seed % 2:
        written = [call.operation.value for call in calls if call.operation.f == "write"]
        reads = [at for at, call in enumerate(calls) if call.operation.f == "read"]
        at = reads[seed * 3 % len(reads)]
        around = min(range(len(written)), key=lambda n: abs(n / len(written) - at / len(calls)))
        spoilt = calls[at].operation._replace(result=written[max(0, around - seed % 5)])
        calls[at] = Call(spoilt, calls[at].invoked, calls[at].returned)

    assert isinstance(search(Register(), calls), Broke) == zones_overlap(calls)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_a_search_that_meets_its_bound_says_that_nobody_knows() -> None:
    """And why: it is no verdict about the object."""
    calls = {"k": simulate(1, 200), "quick": simulate(1, 4, clients=1, unknown=0)}

    verdict = check_linearizability(calls, CasRegister(), bounds=Bounds(configurations_max=50))

    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.unjudged == ("k (memory: more than 50 configurations)",)


def test_time_is_bounded_by_the_clock_that_is_given() -> None:
    """For all keys together: after the deadline no key gets more than a few hundred looks."""
    ticks = itertools.count()

    found = search(CasRegister(), simulate(1, 5_000), Bounds(clock=lambda: next(ticks), deadline_s=2.0))

    assert isinstance(found, GaveUp) and found.reason.startswith("time: ") and found.configurations < 2_000


def test_thousands_of_operations_that_are_open_at_once_are_refused_before_memory_is_taken() -> None:
    """n clients that all wait are n calls open at each of n returns."""
    calls = [Call(Operation("write", n), n, 10_000 + n) for n in range(3_000)]

    found = search(Register(), calls, Bounds(open_max=100_000))

    assert isinstance(found, GaveUp) and found.reason.startswith("memory: ")


def test_a_violation_beats_an_unknown_key() -> None:
    """What is proved stays proved."""
    calls = calls_by_key(events("0 write 1 @a; 0 read @a -> 2"), Register()) | {"k": simulate(1, 200)}

    verdict = check_linearizability(calls, CasRegister(), bounds=Bounds(configurations_max=50))

    assert verdict.outcome is Outcome.VIOLATED and len(verdict.unjudged) == 1


def test_an_operation_that_the_model_does_not_know_is_no_verdict() -> None:
    """The line is named."""
    with pytest.raises(HistoryError, match='line 4: f is "cas", and this model knows read, write'):
        judge_events(events("0 write 1; 0 cas 1 2"), "register")
