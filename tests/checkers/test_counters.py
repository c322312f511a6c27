"""Counters between what was certainly added and what may have been."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_lite.checkers.calls import Call, Operation
from jepsen_lite.checkers.counters import CounterError, check_counters
from jepsen_lite.checkers.verdict import Broken, Outcome
from jepsen_lite.foreign import calls_by_key
from tests.checkers.event_scripts import events

GOOD = [
    ("nothing was added", "0 read -> 0"),
    ("what was added", "0 add 1; 0 add 2; 0 read -> 3"),
    ("an add that is under way, not yet", "0 add 1 ...; 1 read -> 0; 0 ok"),
    ("an add that is under way, already", "0 add 1 ...; 1 read -> 1; 0 ok"),
    ("an add that begins during the read", "1 read ...; 0 add 1; 1 -> 1"),
    ("an unknown add happened", "0 add 1; 9 add 5 info; 0 read -> 6"),
    ("an unknown add did not", "0 add 1; 9 add 5 info; 0 read -> 1; 0 final -> 1"),
    ("a failed add did not", "0 add 5 fail; 0 read -> 0"),
    ("negative ones", "0 add 5; 0 add -2; 1 add -9 ...; 0 read -> 3; 0 read -> -6; 1 ok"),
    ("a sum of some of the unknown ones", "7 add 1 info; 8 add 5 info; 9 add -3 info; 0 add 10; 0 final -> 12"),
    ("reads that contradict each other are within their bounds", "0 add 1 ...; 1 read -> 1; 1 read -> 0; 0 ok"),
    ("two counters", "0 add 1 @x; 0 add 2 @y; 0 read @x -> 1; 0 read @y -> 2"),
]

BAD = [
    ("an increment is lost", Broken.LOST_INCREMENT, "0 add 1; 1 add 1; 0 read -> 1"),
    ("everything is lost", Broken.LOST_INCREMENT, "0 add 1; 0 final -> 0"),
    ("a retry counts twice", Broken.COUNTED_TWICE, "0 add 1; 0 read -> 2"),
    ("an unknown one counts twice", Broken.COUNTED_TWICE, "9 add 5 info; 0 read -> 10"),
    ("a failed one counts", Broken.COUNTED_TWICE, "0 add 1 fail; 0 read -> 1"),
    ("before it began", Broken.COUNTED_TWICE, "0 read -> 1; 0 add 1"),
    ("below all negative ones", Broken.LOST_INCREMENT, "0 add -2 ...; 1 read -> -3; 0 ok"),
    ("within the bounds, and no sum", Broken.COUNTED_TWICE, "9 add 5 info; 0 add 1; 0 final -> 3"),
]


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_reads_within_their_bounds_hold(script: str) -> None:
    """Between what was acknowledged before and what anybody may have added by then."""
    assert check_counters(calls_by_key(events(script), None)).is_ok


@pytest.mark.parametrize(("broken", "script"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_reads_out_of_their_bounds_are_violations(broken: Broken, script: str) -> None:
    """Below is lost, above is counted twice."""
    log = events(script)

    (violation,) = check_counters(calls_by_key(log, None)).violations

    assert violation.broken is broken and violation.explain(log).count("line ") >= 2


def test_a_counter_that_nobody_read_is_unjudged() -> None:
    """Nothing was proved; the same if its reads may be stale and none is final."""
    assert check_counters(calls_by_key(events("0 add 1"), None)).outcome is Outcome.UNKNOWN
    stale = calls_by_key(events("0 add 1; 0 read -> 0"), None)
    assert check_counters(stale, only_finals=True).outcome is Outcome.UNKNOWN


def test_other_operations_are_no_counters() -> None:
    """And neither are other values: an error, not a verdict."""
    for script in ("0 write 1", "0 add x", "0 read -> x"):
        with pytest.raises(CounterError):
            check_counters(calls_by_key(events(script), None))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-4, 4), max_size=6), st.lists(st.integers(-4, 4), max_size=5), st.integers(-20, 20))
def test_a_final_read_is_one_of_the_sums_that_the_unknown_adds_give(
    known: list[int], unknown: list[int], value: int
) -> None:
    """Against all subsets."""
    calls = [Call(Operation("add", n), 2 * at, 2 * at + 1) for at, n in enumerate(known)]
    calls += [Call(Operation("add", n), 20 + at, None) for at, n in enumerate(unknown)]
    calls.append(Call(Operation("final", None, value), 40, 41))
    sums = {sum(known) + sum(some) for count in range(6) for some in itertools.combinations(unknown, count)}

    assert check_counters({"k": calls}).is_ok == (value in sums)
