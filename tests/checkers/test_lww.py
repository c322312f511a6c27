"""Black-box last-writer-wins: an older value must not win if the clocks, or the context, could tell. Margin: 100 ms."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.lww import check_lww
from jepsen_lite.checkers.verdict import Broken, Outcome
from tests.checkers.scripts import tell

MARGIN_NS = 100_000_000

GOOD = [
    ("the later one wins", "0 put w A ok; @500; 1 put w B ok; final w -> B"),
    ("within the skew either may win", "0 put w A ok; 1 put w B ok; final w -> A"),
    ("concurrent, either may win", "0 put w A ...; @500; 1 put w B ok; 0 ok; final w -> A"),
    ("unknown outcome may win late", "0 put w A info; @500; 1 put w B ok; final w -> A"),
    ("unknown outcome may lose", "0 put w A ok; @500; 1 put w B info; final w -> A"),
    ("one sent twice may get its time late", "0 put w A ok x2; @500; 1 put w B ok; final w -> A"),
    ("deleted", "0 put w A ok; @500; 1 delete w [A] ok; final w -> "),
    ("a delete of unknown outcome", "0 put w A ok; @500; 1 delete w [A] info; final w -> "),
    ("one delete is too old, another is not", "1 delete w ok; @500; 0 put w A ok; 1 delete w [A] ok; final w -> "),
    ("a put just after a delete", "0 delete w ok; 1 put w A ok; final w -> "),
    ("recreated", "0 put w A ok; @500; 0 delete w [A] ok; @900; 0 put w B ok; final w -> B"),
    ("a refused put neither wins nor must", "0 put w A ok; @500; 1 put w B fail; final w -> A"),
    ("a blind put within the skew of what was shown", "0 put w A ok; 1 get w -> A; 1 put w B ok; final w -> A"),
    ("a shown value that lost to a later one", "0 put w A info; 1 get w -> A; @500; 1 put w B ok; final w -> B"),
]
BAD = [
    ("an older one wins", "0 put w A ok; @500; 1 put w B ok; final w -> A", Broken.OVERTAKEN),
    ("the oldest of three wins", "0 put w A ok; 1 put w B ok; @500; 1 put w C ok; final w -> A", Broken.OVERTAKEN),
    ("gone", "0 put w A ok; final w -> ", Broken.LOST),
    ("shown and gone", "0 put w A info; 1 get w -> A; final w -> ", Broken.LOST),
    ("shown, and lost to an older one", "0 put w A ok; @500; 1 put w B info; 1 get w -> B; final w -> A", Broken.OVERTAKEN),
    ("lost to a delete long before it", "1 delete w ok; @500; 0 put w A ok; final w -> ", Broken.OVERTAKEN),
    ("a failed delete is none", "0 put w A ok; 1 delete w [A] fail; final w -> ", Broken.LOST),
    ("a deleted value is back", "0 put w A ok; @500; 1 delete w [A] ok; final w -> A", Broken.RESURRECTED),
    ("its context had shown what won", "0 put w A ok; 1 get w -> A; 1 put w B [A] ok; final w -> A", Broken.OVERTAKEN),
    ("its context had shown what had seen what won",
     "0 put w A ok; 1 put w B [A] ok; 2 put w C [B] ok; 3 put w D info; final w -> A",
     Broken.OVERTAKEN),
    ("a delete with a context just after", "0 put w A ok; 1 delete w [A] ok; final w -> A", Broken.RESURRECTED),
    ("two values at once", "0 put w A ok; 1 put w B ok; 0 get w -> A B; final w -> B", Broken.LWW_SIBLINGS),
    ("final reads differ", "0 put w A ok; 1 put w B ok; final w -> A; final w -> B", Broken.UNSETTLED),
]  # fmt: skip


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_won_is_not_certainly_older(script: str) -> None:
    """Nothing here breaks a promise."""
    history = tell(script)

    verdict = check_lww(history, margin_ns=MARGIN_NS)

    assert verdict.is_ok, verdict.explain(history)


@pytest.mark.parametrize(("script", "broken"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_an_older_value_may_not_win(script: str, broken: Broken) -> None:
    """Each of these is a lost or a resurrected write."""
    verdict = check_lww(tell(script), margin_ns=MARGIN_NS)

    assert {violation.broken for violation in verdict.violations} == {broken}


def test_every_loser_is_named_and_a_larger_margin_forgives() -> None:
    """The figures of the old oracle: of three in a row the two younger ones were overtaken."""
    history = tell("0 put w A ok; @500; 0 put w B ok; @900; 0 put w C ok; final w -> A")

    assert [v.message.split()[0] for v in check_lww(history, margin_ns=MARGIN_NS).violations] == ["B", "C"]
    assert check_lww(history, margin_ns=10**10).is_ok


def test_a_witness_of_dots_decides_which_value_may_win_late() -> None:
    """With a witness the number of attempts is no excuse any more."""
    history = tell("0 put w A ok x2; @500; 1 put w B ok; final w -> A")

    assert not check_lww(history, margin_ns=MARGIN_NS, written_twice=[]).is_ok
    assert check_lww(history, margin_ns=MARGIN_NS, written_twice=["A"]).is_ok


def test_without_a_final_read_nothing_is_judged() -> None:
    """Unknown is not good."""
    verdict = check_lww(tell("0 put w A ok; 0 get w -> "), margin_ns=0)

    assert (verdict.outcome, verdict.unjudged) == (Outcome.UNKNOWN, ("w",))
