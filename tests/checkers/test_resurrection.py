"""No resurrection: what was replaced stays away once the cluster has converged, and what came after a delete stays."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.resurrection import check_resurrection
from jepsen_lite.checkers.verdict import Broken, Outcome
from tests.checkers.scripts import tell

CONVERGED_NS = 1_000_000_000

GOOD = [
    ("deleted and gone", "0 put k A ok; 0 delete k [A] ok; final k -> "),
    ("replaced and gone", "0 put k A ok; 0 put k B [A] ok; final k -> B"),
    ("a delete takes only what it saw", "0 put k A ok; 1 put k B ok; 0 delete k [A] ok; final k -> B"),
    ("a delete of unknown outcome did not happen", "0 put k A ok; 0 delete k [A] info; final k -> A"),
    ("a failed delete did not happen", "0 put k A ok; 0 delete k [A] fail; final k -> A"),
    ("a put of unknown outcome did not happen", "0 put k A ok; 0 put k B [A] info; final k -> A"),
    ("an old replica answers before convergence", "0 put k A ok; 0 delete k [A] ok; 1 get k -> A; final k -> "),
    ("replaced under load after convergence", "@1000; 0 put k A ok; 0 delete k [A] ok; 1 get k -> A; final k -> "),
    ("the final read began before the delete ended", "0 put k A ok; 0 delete k [A] ...; final k ...; 0 ok; 99 -> A"),
    ("an info put that shows up after a delete", "0 put k A info; 1 get k -> A; 1 delete k [A] ok; final k -> A"),
    ("a retry that arrives after its value was deleted", "0 put k A ok x2; 1 delete k [A] ok; final k -> A"),
    ("recreated", "0 put k A ok; 0 delete k [A] ok; 0 put k B [] ok; @1500; 1 get k -> B; final k -> B"),
    ("recreated and deleted again", "0 put k A ok; 0 delete k [A] ok; 0 put k B ok; 0 delete k [B] ok; final k -> "),
    ("put while the delete was under way", "0 put k A ok; 1 delete k [A] ...; 0 put k B ok; 1 ok; final k -> B"),
]
BAD = [
    ("a deleted value is back", "0 put k A ok; 0 delete k [A] ok; final k -> A", Broken.RESURRECTED),
    ("a deleted value is back beside a new one", "0 put k A ok; 0 delete k [A] ok; 0 put k B ok; final k -> A B",
     Broken.RESURRECTED),
    ("a replaced value is back", "0 put k A ok; 0 put k B [A] ok; 0 put k C [B] ok; final k -> A C", Broken.RESURRECTED),
    ("back in a read after convergence", "0 put k A ok; 0 delete k [A] ok; @1500; 1 get k -> A; final k -> ",
     Broken.RESURRECTED),
    ("one of several that a delete saw", "0 put k A ok; 1 put k B ok; 0 delete k [A B] ok; final k -> B", Broken.RESURRECTED),
    ("replaced by a put of unknown outcome that was shown",
     "0 put k A ok; 0 put k B [A] info; 1 get k -> B; 1 delete k [B] ok; final k -> A", Broken.RESURRECTED),
    ("by a stale context", "0 put k A ok; 0 put k B [A] ok; 1 delete k [A] stale ok; final k -> A B", Broken.RESURRECTED),
    ("by a put's own context", "0 put k A ok; 0 put k B own[A] ok; final k -> A B", Broken.RESURRECTED),
    ("an info put sent once cannot come twice",
     "0 put k A ...; 1 get k -> A; 0 info x1; 1 delete k [A] ok; final k -> A", Broken.RESURRECTED),
    ("gone with what was deleted", "0 put k A ok; 0 delete k [A] ok; 0 put k B [] ok; final k -> ", Broken.DOOMED),
    ("gone after a blind recreation", "0 put k A ok; 0 delete k [A] ok; 0 put k B ok; final k -> ", Broken.DOOMED),
    ("gone after the second delete, which never saw it",
     "0 put k A ok; 0 delete k [A] ok; 0 put k B ok; 1 delete k [A] stale ok; final k -> ", Broken.DOOMED),
]  # fmt: skip


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_was_replaced_stays_away(script: str) -> None:
    """Nothing here breaks a promise."""
    history = tell(script)

    verdict = check_resurrection(history, converged_at_ns=CONVERGED_NS)

    assert verdict.is_ok, verdict.explain(history)


@pytest.mark.parametrize(("script", "broken"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_zombies_and_doomstones_are_named(script: str, broken: Broken) -> None:
    """One violation for each value."""
    verdict = check_resurrection(tell(script), converged_at_ns=CONVERGED_NS)

    assert [violation.broken for violation in verdict.violations] == [broken]


def test_a_witness_of_dots_decides_which_value_may_come_back() -> None:
    """A value that never had two dots has no excuse, however often it was sent; one that had has one."""
    history = tell("0 put k A ok x2; 1 delete k [A] ok; final k -> A")

    assert not check_resurrection(history, written_twice=[]).is_ok
    assert check_resurrection(history, written_twice=["A"]).is_ok


def test_without_a_time_of_convergence_only_reads_of_all_replicas_are_judged() -> None:
    """Before that an old replica may answer."""
    history = tell("0 put k A ok; 0 delete k [A] ok; @1500; 1 get k -> A; final k -> ")

    assert check_resurrection(history).is_ok


def test_without_a_final_read_nothing_is_judged() -> None:
    """Unknown is not good."""
    assert check_resurrection(tell("0 put k A ok")).outcome is Outcome.UNKNOWN
