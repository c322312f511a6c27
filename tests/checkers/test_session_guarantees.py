"""What one session may expect, rule by rule. The tables are the rule; a digit before each step is the session."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.session_guarantees import GUARANTEES, check_session_guarantees
from jepsen_lite.checkers.verdict import Broken
from tests.checkers.model import FATES, random_steps, run
from tests.checkers.scripts import tell

GOOD = [
    ("nothing", ""),
    ("its own write", "0 put k A ok; 0 get k -> A"),
    ("what replaced its own write", "0 put k A ok; 1 put k B [A] ok; 0 get k -> B"),
    ("what replaced it at second hand", "0 put k A ok; 1 put k B [A] info; 2 put k C [B] ok; 0 get k -> C"),
    ("its own write beside a sibling", "0 put k A ok; 1 put k B ok; 0 get k -> A B"),
    ("another session's write is not owed", "0 put k A ok; 1 get k -> "),
    ("an unknown write is not owed", "0 put k A info; 0 get k -> "),
    ("a failed write is not owed", "0 put k A fail; 0 get k -> "),
    ("a write of another key is not owed", "0 put k A ok; 0 get j -> "),
    ("its own write, deleted by another", "0 put k A ok; 1 delete k [A] ok; 0 get k -> "),
    ("perhaps deleted", "0 put k A ok; 1 delete k [A] ...; 0 get k -> "),
    ("perhaps deleted blindly", "0 put k A ok; 1 delete k info; 0 get k -> "),
    ("a blind delete takes what was put before it ended", "1 delete k ...; 0 put k A ok; 1 ok; 0 get k -> "),
    ("replaced by what was deleted", "0 put k A ok; 1 put k B [A] ok; 1 delete k [B] ok; 0 get k -> "),
    ("reads go forward", "0 put k A ok; 1 get k -> ; 1 get k -> A; 0 put k B [A] ok; 1 get k -> B"),
    ("two sessions read in different orders", "0 put k A ok; 0 put k B [A] ok; 1 get k -> B; 2 get k -> A; 2 get k -> B"),
    ("its delete is seen", "0 put k A ok; 0 delete k [A] ok; 0 get k -> "),
    ("a sibling of what it deleted", "0 put k A ok; 1 put k B ok; 0 delete k [A] ok; 0 get k -> B"),
    ("what it deleted, by an unknown delete", "0 put k A ok; 0 delete k [A] info; 0 get k -> A"),
    ("a retried write may return late", "0 put k A ok x2; 0 delete k [A] ok; 0 get k -> A"),
    ("blind writes of one session as siblings", "0 put k A ok; 0 put k B ok; 1 get k -> A B"),
    ("the first of two writes alone", "0 put k A ok; 0 put k B ok; 1 get k -> A"),
    ("a write after a read that replaced it", "0 put k A ok; 1 get k -> A; 1 put k B [A] ok; 2 get k -> B"),
    ("a write after a read, as siblings", "0 put k A ok; 1 get k -> A; 1 put k B ok; 2 get k -> A B"),
    ("final reads are no session", "0 put k A ok; final k -> "),
]  # fmt: skip

BAD = [
    ("its own write is missing", Broken.READ_YOUR_WRITES, "0 put k A ok; 0 get k -> "),
    ("a sibling instead", Broken.READ_YOUR_WRITES, "0 put k A ok; 1 put k B ok; 0 get k -> B"),
    ("what it had replaced", Broken.READ_YOUR_WRITES, "1 put k A ok; 0 put k B [A] ok; 0 get k -> A"),
    ("what it had deleted", Broken.READ_YOUR_WRITES, "1 put k A ok; 0 delete k [A] ok; 0 get k -> A"),
    ("a failed delete excuses nothing", Broken.READ_YOUR_WRITES, "0 put k A ok; 1 delete k [A] fail; 0 get k -> "),
    ("a later delete excuses nothing", Broken.READ_YOUR_WRITES, "0 put k A ok; 0 get k -> ; 1 delete k [A] ok"),
    ("a delete takes only what it was shown", Broken.READ_YOUR_WRITES,
     "0 put k A ok; 1 put k B ok; 2 delete k [B] ok; 0 get k -> "),
    ("a read goes back", Broken.MONOTONIC_READS, "0 put k A ok; 0 put k B [A] ok; 1 get k -> B; 1 get k -> A"),
    ("a read goes back to nothing", Broken.MONOTONIC_READS, "0 put k A ok; 1 get k -> A; 1 get k -> "),
    ("one of two siblings is gone", Broken.MONOTONIC_READS, "0 put k A ok; 2 put k B ok; 1 get k -> A B; 1 get k -> B"),
    ("what was seen by replacement", Broken.MONOTONIC_READS,
     "0 put k A ok; 2 put k C ok; 0 put k B [A] ok; 1 get k -> B; 1 get k -> C"),
    ("the second of two writes alone", Broken.MONOTONIC_WRITES, "0 put k A ok; 0 put k B ok; 1 get k -> B"),
    ("replaced, and still without the first", Broken.MONOTONIC_WRITES,
     "0 put k A ok; 0 put k B ok; 2 put k C [B] ok; 1 get k -> C"),
    ("a final read tells, too", Broken.MONOTONIC_WRITES, "0 put k A ok; 0 put k B [] ok; final k -> B"),
    ("a write whose reader had seen more", Broken.WRITES_FOLLOW_READS,
     "0 put k A ok; 1 get k -> A; 1 put k B [] ok; 2 get k -> B"),
    ("the debt is handed on", Broken.WRITES_FOLLOW_READS,
     "0 put k A ok; 1 get k -> A; 1 put k B [] info; 2 put k C [B] ok; 3 get k -> C"),
    ("an answer that comes after the write began", Broken.WRITES_FOLLOW_READS,
     "0 put k A ok; 2 get k ...; 1 get k -> A; 1 put k B [] ok; 2 -> B"),
]  # fmt: skip


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_a_session_may_see(script: str) -> None:
    """Reads that miss nothing that their session is owed."""
    history = tell(script)

    assert check_session_guarantees(history).is_ok, check_session_guarantees(history).explain(history)


@pytest.mark.parametrize(("broken", "script"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_a_session_must_not_see(broken: Broken, script: str) -> None:
    """One rule is broken, once; a checker that was not asked for this rule only counts it."""
    history = tell(script)

    verdict = check_session_guarantees(history)

    assert [violation.broken for violation in verdict.violations] == [broken]
    assert verdict.violations[0].explain(history).count("\n") >= 2
    assert verdict.figures[f"{broken}_broken"] == 1
    assert check_session_guarantees(history, guarantees=()).is_ok


@pytest.mark.parametrize("seed", range(10))
def test_a_store_of_one_replica_keeps_all_four(seed: int) -> None:
    """Nothing there can go back."""
    steps = [
        (action, client, which, 0, context, fate) for action, client, which, _, context, fate in random_steps(seed)
    ]

    model, _ = run([step for step in steps if FATES[step[-1]] != "retried"])

    assert check_session_guarantees(model.history).is_ok


def test_a_store_of_three_that_seldom_talk_keeps_none() -> None:
    """Every rule is broken by some run: no rule is asleep."""
    broken = {
        violation.broken
        for seed in range(6)
        for violation in check_session_guarantees(run(random_steps(seed, 120))[0].history).violations
    }

    assert broken == set(GUARANTEES)
