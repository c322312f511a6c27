"""Black-box causality: what may be gone, what may not, and what must never be seen. The tables are the rule."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.causality import check_causality, check_phantoms
from jepsen_lite.checkers.verdict import Broken, Outcome
from tests.checkers.scripts import tell

GOOD = [
    ("an acknowledged value that is there", "0 put k A ok; final k -> A"),
    ("siblings of blind puts", "0 put k A ok; 1 put k B ok; final k -> A B"),
    ("a replaced value", "0 put k A ok; 1 put k B [A] ok; final k -> B"),
    ("siblings resolved by one put", "0 put k A ok; 1 put k B ok; 0 put k C [A B] ok; final k -> C"),
    ("a stale context makes a sibling", "0 put k A ok; 0 put k B [A] ok; 1 put k C [A] stale ok; final k -> B C"),
    ("a context handed over by another client", "0 put k A ok; 1 put k B foreign[A] ok; final k -> B"),
    ("a put's own context overwrites it", "0 put k A ok; 0 put k B own[A] ok; final k -> B"),
    ("an own context stands for what the value had replaced",
     "0 put k A ok; 0 put k B [A] ok; 0 put k C own[B] ok; final k -> C"),
    ("unknown outcome, gone", "0 put k A info; final k -> "),
    ("unknown outcome, there", "0 put k A info; final k -> A"),
    ("never answered, there", "0 put k A ...; final k -> A"),
    ("an info put that shows up late", "0 put k A ok; 1 put k B [A] info; 0 get k -> A; 0 get k -> A; final k -> B"),
    ("gone because its replacement was an info put", "0 put k A ok; 1 put k B [A] info; 2 get k -> B; final k -> B"),
    ("transitively replaced, through info",
     "0 put k A ok; 1 put k B [A] info; 2 put k C [B] info; 3 put k D [C] ok; final k -> D"),
    ("an info put that did not replace after all", "0 put k A ok; 1 put k B [A] info; final k -> A"),
    ("a failed put replaces nothing", "0 put k A ok; 1 put k B [A] fail; final k -> A"),
    ("deleted", "0 put k A ok; 1 delete k [A] ok; final k -> "),
    ("deleted by a delete of unknown outcome", "0 put k A ok; 1 delete k [A] info; final k -> "),
    ("a delete of unknown outcome that did not happen", "0 put k A ok; 1 delete k [A] info; final k -> A"),
    ("a chain that ends in a delete", "0 put k A ok; 1 put k B [A] info; 2 delete k [B] ok; final k -> "),
    ("a delete races a put", "0 put k A ok; 1 delete k [A] ...; 2 put k B [A] ok; 1 ok; final k -> B"),
    ("recreated after a delete", "0 put k A ok; 0 delete k [A] ok; 0 put k B [] ok; final k -> B"),
    ("a blind delete that began before may have seen it", "1 delete k ...; 0 put k A ok; 1 ok; final k -> "),
    ("a blind delete may land late", "1 delete k info; 0 put k A ok; final k -> "),
    ("an own context of a retried put", "0 put k A ok; 1 put k B [A] ok x2; 1 put k C own[B] ok; final k -> C"),
    ("a retried put shows once", "0 put k A ok x3; final k -> A"),
    ("a refused context", "0 put k A missing fail; 0 put k B other_key fail; final k -> "),
    ("nothing happened", "0 get k -> ; final k -> "),
    ("only reads that failed", "0 get k fail; final k -> "),
    ("other keys are others", "0 put k A ok; 0 put j B [] ok; final k -> A; final j -> B"),
    ("the same name as lww is another object", "0 put k A ok; 0 put wk B ok; 0 put wk C ok; final k -> A; final wk -> C"),
]  # fmt: skip

BAD = [
    ("an acknowledged value is gone", "0 put k A ok; final k -> ", "A"),
    ("gone beside a sibling that never saw it", "0 put k A ok; 1 put k B ok; final k -> B", "A"),
    ("only what was shown is replaced", "0 put k A ok; 1 put k B ok; 2 put k C [B] ok; final k -> C", "A"),
    ("erased by a context that never saw it", "0 put k A ok; 1 get k -> ; 1 put k B [] ok; final k -> B", "A"),
    ("a stale context erases what came after it", "0 put k A ok; 0 put k B [A] ok; 1 put k C [A] stale ok; final k -> C", "B"),
    ("an own context erases a sibling", "0 put k A ok; 1 put k B ok; 1 put k C own[B] ok; final k -> C", "A"),
    ("half an effect: A gone, B not there", "0 put k A ok; 1 put k B [A] info; final k -> ", "A"),
    ("half an effect at the end of a chain", "0 put k A ok; 1 put k B [A] ok; 2 put k C [B] info; final k -> ", "A B"),
    ("a definite failure replaces nothing", "0 put k A ok; 1 put k B [A] fail; final k -> ", "A"),
    ("a failed delete deletes nothing", "0 put k A ok; 1 delete k [A] fail; final k -> ", "A"),
    ("a delete takes only what it saw", "0 put k A ok; 1 put k B ok; 2 delete k [A] ok; final k -> ", "B"),
    ("two replaced the same value, one is gone", "0 put k A ok; 1 put k B [A] ok; 2 put k C [A] ok; final k -> B", "C"),
    ("shown by a read, never acknowledged", "0 put k A info; 1 get k -> A; final k -> ", "A"),
    ("shown by a read while under way", "0 put k A ...; 1 get k -> A; final k -> ", "A"),
    ("a recreated value is gone with the old", "0 put k A ok; 0 delete k [A] ok; 0 put k B [] ok; final k -> ", "B"),
    ("a blind delete ended before it was put", "1 delete k ok; 0 put k A ok; final k -> ", "A"),
    ("a retried put is gone", "0 put k A ok x2; final k -> ", "A"),
    ("replaced on another key", "0 put k A ok; 1 put j B [A] ok; final k -> ; final j -> B", "A"),
    ("a context that stands for a later value", "0 put k B [A] ok; 1 put k A ok; final k -> B", "A"),
]  # fmt: skip


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_every_value_is_there_or_accounted_for(script: str) -> None:
    """Nothing here breaks a promise."""
    history = tell(script)

    assert check_causality(history).is_ok, check_causality(history).explain(history)
    assert check_phantoms(history).is_ok


@pytest.mark.parametrize(("script", "lost"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_value_is_lost_unless_its_replacement_is_accounted_for(script: str, lost: str) -> None:
    """Exactly the named values are lost."""
    verdict = check_causality(tell(script))

    assert verdict.outcome is Outcome.VIOLATED
    assert {violation.broken for violation in verdict.violations} == {Broken.LOST}
    assert [violation.message.split()[0] for violation in verdict.violations] == lost.split()


PHANTOMS = [
    ("a value that nobody put", "0 get k -> Z; final k -> ", "nobody ever wrote it"),
    ("at the end only", "final k -> Z", "nobody ever wrote it"),
    ("a failed put that appears", "0 put k A fail; 1 get k -> A; final k -> ", "certainly failed"),
    ("a failed put that appears at the end", "0 put k A fail; final k -> A", "certainly failed"),
    ("a value of another key", "0 put j A ok; 1 get k -> A; final j -> A; final k -> ", "was written to register j"),
    ("a value of another kind of object", "0 put wk A ok; 1 get k -> A; final wk -> A", "was written to lww wk"),
    ("an element nobody added", "0 read s -> 7", "nobody ever wrote it"),
    ("before it was put", "1 get k -> A; 0 put k A ok; final k -> A", "before anybody wrote it"),
]


@pytest.mark.parametrize(("script", "why"), [row[1:] for row in PHANTOMS], ids=[row[0] for row in PHANTOMS])
def test_what_was_not_written_here_must_never_be_seen(script: str, why: str) -> None:
    """One violation for each object and value, however often it was shown."""
    verdict = check_phantoms(tell(script))

    assert [violation.broken for violation in verdict.violations] == [Broken.PHANTOM]
    assert why in verdict.violations[0].message


def test_a_read_that_overlaps_the_put_may_show_it() -> None:
    """The read began before the put was invoked, and ended after."""
    assert check_phantoms(tell("1 get k ...; 0 put k A ...; 1 -> A; 0 ok; final k -> A")).is_ok


def test_a_phantom_in_a_context_replaces_nothing_and_hides_nothing() -> None:
    """A client can be shown a ghost and write over it; that is no excuse for any real value."""
    history = tell("0 put k A ok; 1 get k -> Z; 1 put k B [Z] ok; final k -> B")

    assert [violation.message.split()[0] for violation in check_causality(history).violations] == ["A"]
    assert not check_phantoms(history).is_ok


def test_after_disks_were_lost_only_acknowledged_values_must_stay() -> None:
    """What a read showed is durable, but not on as many disks as an acknowledgement promises."""
    history = tell("0 put k A info; 1 get k -> A; final k -> ")

    assert check_causality(history, shown_is_durable=False).is_ok


@pytest.mark.parametrize("kind", ["missing", "other_key"])
@pytest.mark.parametrize("what", ["put k B", "delete k"])
def test_a_write_with_an_unusable_context_must_not_succeed(kind: str, what: str) -> None:
    """`InvalidContext` is definite; "omitted" and "unusable" are different."""
    verdict = check_causality(tell(f"0 put k A ok; 1 {what} {kind} ok; final k -> A B"))

    assert [violation.broken for violation in verdict.violations] == [Broken.CONTEXT_ACCEPTED]


def test_reads_of_all_replicas_after_the_run_must_agree() -> None:
    """Read through different coordinators, a settled cluster says the same."""
    verdict = check_causality(tell("0 put k A ok; 1 put k B ok; final k -> A B; final k -> B A; final k -> A"))

    assert [violation.broken for violation in verdict.violations] == [Broken.LOST, Broken.UNSETTLED]


def test_an_object_that_was_never_read_at_the_end_is_unjudged() -> None:
    """A run whose final reads all failed proves nothing and must not pass."""
    verdict = check_causality(tell("0 put k A ok; 0 put j B ok; final j -> B; final k fail; 0 put i C fail"))

    assert (verdict.outcome, verdict.unjudged) == (Outcome.UNKNOWN, ("k",))


def test_a_violation_prints_the_operations_that_prove_it() -> None:
    """The put, who had been shown it, and the read at the end."""
    history = tell("0 put k A ok; 1 get k -> A; 1 put k B [A] info; final k -> ")

    text = check_causality(history).explain(history)

    assert "lost: k: A was acknowledged and is gone" in text
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["0", "1", "2", "3", "4", "5", "6", "7"]
