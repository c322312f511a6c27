"""Set-full: what became of every element, and how long it was missed."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.set_full import check_set_full
from jepsen_lite.checkers.verdict import Broken, Outcome
from tests.checkers.scripts import tell

GOOD = [
    ("added and read", "0 add s 1 ok; 0 read s -> 1", {"stable": 1, "stale": 0}),
    ("read while it was added", "0 add s 1 ...; 1 read s -> 1; 0 ok; 1 read s -> 1", {"stable": 1, "known": 1}),
    ("missed, then read", "0 add s 1 ok; 1 read s -> ; 1 read s -> 1", {"stable": 1, "stale": 1}),
    ("present, missed, present", "0 add s 1 ok; 1 read s -> 1; 1 read s -> ; 1 read s -> 1", {"stable": 1, "stale": 1}),
    (
        "missed by a read that began before it was known",
        "0 add s 1 ...; 1 read s ...; 0 ok; 1 -> ; 1 read s -> 1",
        {"stale": 0},
    ),
    (
        "the last answer is old, the last invocation is not",
        "0 add s 1 ok; 1 read s ...; 2 read s -> 1; 1 -> ",
        {"stable": 1},
    ),
    ("unknown outcome, never read", "0 add s 1 info; 0 add s 2 ok; 1 read s -> 2", {"never_read": 1, "stable": 1}),
    ("unknown outcome, read", "0 add s 1 info; 1 read s -> 1", {"stable": 1, "known": 1, "acknowledged": 0}),
    ("a refused add", "0 add s 1 fail; 0 add s 2 ok; 1 read s -> 2", {"stable": 1, "never_read": 0}),
    (
        "acknowledged after the last read began",
        "0 add s 2 ok; 0 add s 1 ...; 1 read s ...; 0 ok; 1 -> 2",
        {"never_read": 1},
    ),
    ("the final read counts", "0 add s 1 ok; 1 read s -> ; final s -> 1", {"stable": 1, "stale": 1}),
    ("two sets", "0 add s1 1 ok; 0 add s2 2 ok; 0 read s1 -> 1; 0 read s2 -> 2", {"stable": 2}),
]
BAD = [
    ("lost", "0 add s 1 ok; 0 add s 2 ok; 1 read s -> 1 2; 1 read s -> 2", Broken.LOST, "1"),
    ("never seen", "0 add s 1 ok; 0 add s 2 ok; 1 read s -> 2", Broken.LOST, "1"),
    ("known by a read, then lost", "0 add s 1 info; 0 add s 2 ok; 1 read s -> 1 2; 1 read s -> 2", Broken.LOST, "1"),
    ("lost in the final read only", "0 add s 1 ok; 0 add s 2 ok; 1 read s -> 1 2; final s -> 2", Broken.LOST, "1"),
    ("an old answer does not save it", "0 add s 1 ok; 0 add s 2 ok; 2 read s ...; 1 read s -> 2; 2 -> 1 2", Broken.LOST, "1"),
    ("twice in one read", "0 add s 1 ok; 1 read s -> 1 1", Broken.DUPLICATED, "one"),
    ("three times, then once", "0 add s 1 ok; 1 read s -> 1 1 1; 1 read s -> 1", Broken.DUPLICATED, "one"),
    ("nobody added it", "0 add s 1 ok; 1 read s -> 1 9", Broken.PHANTOM, "9"),
    ("adding it failed", "0 add s 1 ok; 0 add s 2 fail; 1 read s -> 1 2", Broken.PHANTOM, "2"),
    ("read before it was added", "1 read s -> 1; 0 add s 1 ok; 1 read s -> 1", Broken.PHANTOM, "1"),
    ("in the wrong set", "0 add s1 1 ok; 0 add s2 2 ok; 0 read s1 -> 1 2; 0 read s2 -> 2", Broken.PHANTOM, "2"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "figures"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_no_element_is_lost(script: str, figures: dict[str, float]) -> None:
    """Valid, with these counts among the figures."""
    history = tell(script)

    verdict = check_set_full(history)

    assert verdict.is_ok, verdict.explain(history)
    assert {name: verdict.figures[name] for name in figures} == figures


@pytest.mark.parametrize(("script", "broken", "word"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_lost_duplicated_or_unexpected_is_named(script: str, broken: Broken, word: str) -> None:
    """Exactly one violation each."""
    (violation,) = check_set_full(tell(script)).violations

    assert (violation.broken, violation.message.split()[0]) == (broken, word)


def test_stale_latency_runs_from_known_to_the_last_miss_that_began_later() -> None:
    """Three elements, missed for 0, 40 and 90 ms."""
    history = tell("""
        0 add s 1 ok
        @10
        0 add s 2 ok
        1 read s -> 1
        @51
        1 read s -> 1
        0 add s 3 ok
        @100
        1 read s -> 1 2
        @143
        1 read s -> 1 2
        1 read s -> 1 2 3
        """)

    figures = check_set_full(history).figures

    assert (figures["stale"], figures["stale_p50_ms"], figures["stale_max_ms"]) == (2, 89.0, 89.0)
    assert check_set_full(history, is_linearizable=True).violations[0].broken is Broken.STALE


def test_a_set_of_which_nothing_is_stable_is_unjudged() -> None:
    """Every add crashed, or nobody read: nothing was proved."""
    assert check_set_full(tell("0 add s 1 ok")).outcome is Outcome.UNKNOWN
    assert check_set_full(tell("0 add s 1 info; 1 read s -> ")).outcome is Outcome.UNKNOWN
    assert check_set_full(tell("1 read s -> ")).outcome is Outcome.OK
