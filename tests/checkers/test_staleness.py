"""Staleness is measured, never judged."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.staleness import curves, measure_staleness
from jepsen_lite.history import F, History, OpType
from tests.checkers.scripts import tell

READS = [
    ("the newest", "0 put k A ok; 1 get k -> A", 0),
    ("nothing", "0 put k A ok; 1 get k -> ", 1),
    ("what had replaced it", "0 put k A ok; 1 put k B [A] info; 2 get k -> B", 0),
    ("what had replaced it at second hand", "0 put k A ok; 1 put k B [A] info; 2 put k C [B] info; 3 get k -> C", 0),
    ("one of two siblings", "0 put k A ok; 1 put k B ok; 2 get k -> A", 1),
    ("an old value", "0 put k A ok; 0 put k B [A] ok; 1 get k -> A", 1),
    ("nothing of three", "0 put k A ok; 0 put k B [A] ok; 0 put k C own[B] ok; 1 get k -> ", 3),
    ("not yet acknowledged when the read began", "1 get k ...; 0 put k A ok; 1 -> ", None),
    ("unknown outcome is not owed", "0 put k A info; 1 get k -> ", None),
    ("deleted", "0 put k A ok; 0 delete k [A] ok; 1 get k -> ", 0),
    ("perhaps deleted", "0 put k A ok; 0 put k B [A] ok; 1 delete k [B] ...; 2 get k -> ", 0),
    ("a failed delete takes nothing away", "0 put k A ok; 0 delete k [A] fail; 1 get k -> ", 1),
    ("all replicas after the run are not measured", "0 put k A ok; final k -> ", None),
    ("an lww value may rightly have lost", "0 put w A ok; 1 get w -> ", None),
]


@pytest.mark.parametrize(("script", "missed"), [row[1:] for row in READS], ids=[row[0] for row in READS])
def test_a_read_misses_what_it_shows_neither_itself_nor_by_its_replacement(script: str, missed: int | None) -> None:
    """k acknowledged values are missed; None: there was nothing to miss."""
    found = measure_staleness(tell(script))

    assert (found.reads, found.stale, sum(found.missed)) == (
        (0, 0, 0) if missed is None else (1, int(missed > 0), missed)
    )


def test_the_curve_gives_the_share_of_reads_without_the_newest_value_by_its_age() -> None:
    """Read 1, 3, 40 and 9,000 ms after the acknowledgement."""
    found = measure_staleness(tell("0 put k A ok; 1 get k -> ; 1 get k -> A; @41; 1 get k -> ; @9000; 1 get k -> A"))

    figures = found.figures()

    assert found.share == 0.5
    assert {name: share for name, share in figures.items() if name.startswith("p_missed")} == {
        "p_missed_to_1_ms": 1.0, "p_missed_to_5_ms": 0.0, "p_missed_to_50_ms": 1.0,
    }  # fmt: skip
    assert (figures["k_p50"], figures["k_max"]) == (1, 1)


def test_nothing_read_is_nothing_measured() -> None:
    """The empty history divides by nothing."""
    assert measure_staleness(tell("")).figures()["p_stale"] == 0.0


def test_each_r_and_w_has_a_curve_of_its_own() -> None:
    """R is the read's, W that of the newest acknowledged put; all together is the sum."""
    history = History()
    for w, values, r in ((1, [], 1), (1, ["v0"], 2), (3, ["v2"], 1), (None, ["v3"], None)):
        put = history.invoke(0, F.PUT, f"k{len(history)}", time_ns=0, value=f"v{len(history)}", w=w)
        history.complete(put, OpType.OK, time_ns=0)
        get = history.invoke(0, F.GET, put.key, time_ns=0, r=r)
        history.complete(get, OpType.OK, time_ns=0, values=[put.value or ""] if values else [])

    found = measure_staleness(history)

    assert {counts: (of.reads, of.stale) for counts, of in found.by_counts.items()} == {
        (1, 1): (1, 1), (2, 1): (1, 0), (1, 3): (1, 0), (None, None): (1, 0),
    }  # fmt: skip
    assert (found.reads, found.stale) == (4, 1)
    assert curves(found).splitlines()[1:3] == [
        "default default       1     0.000  0.000" + "      –" * 12,
        "      1       1       1     1.000  1.000" + "      –" * 12,
    ]
