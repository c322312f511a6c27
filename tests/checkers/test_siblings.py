"""Siblings are really concurrent, and no more than their writers."""

from __future__ import annotations

import pytest

from jepsen_lite.checkers.siblings import check_siblings
from jepsen_lite.checkers.verdict import Broken
from tests.checkers.scripts import tell

GOOD = [
    ("blind puts are concurrent", "0 put k A ok; 1 put k B ok; 2 put k C ok; 0 get k -> A B C"),
    ("an old replica shows an old set", "0 put k A ok; 1 put k B ok; 0 put k C [A B] ok; 0 get k -> A B"),
    ("two replaced the same", "0 put k A ok; 1 put k B [A] ok; 2 put k C [A] ok; 0 get k -> B C"),
    (
        "one client, the same stale context twice",
        "0 put k A ok; 1 put k B [A] ok; 1 put k C [A] stale ok; 0 get k -> B C",
    ),
    ("a put under way", "0 put k A ok; 1 put k B ...; 0 get k -> A B"),
    ("a retry came back after it was replaced", "0 put k A ok x2; 1 put k B [A] ok; 0 get k -> A B"),
    (
        "a failed put with the context replaces nothing",
        "0 put k A ok; 1 put k B [A] fail; 2 put k C ok; 0 get k -> A C",
    ),
    ("a delete leaves room", "0 put k A ok; 0 delete k [A] ok; 1 put k B ok; 2 put k C [] ok; 0 get k -> B C"),
]
BAD = [
    ("a value beside its replacement", "0 put k A ok; 1 put k B [A] ok; 0 get k -> A B",
     {Broken.FALSE_SIBLINGS, Broken.TOO_MANY_SIBLINGS}),
    ("beside the replacement of its replacement",
     "0 put k A ok; 1 put k B [A] ok; 1 put k C [B] ok; 0 get k -> A C", {Broken.FALSE_SIBLINGS, Broken.TOO_MANY_SIBLINGS}),
    ("through a put's own context", "0 put k A ok; 0 put k B own[A] ok; 1 put k C ok; 0 get k -> A B C",
     {Broken.FALSE_SIBLINGS, Broken.TOO_MANY_SIBLINGS}),
    ("two replaced at once", "0 put k A ok; 1 put k B ok; 2 put k C [A B] ok; 3 put k D ok; 3 put k E ok; 0 get k -> A B C",
     {Broken.FALSE_SIBLINGS}),
    ("through an info put that is shown", "0 put k A ok; 1 put k B [A] info; 2 put k C ok; 0 get k -> A B",
     {Broken.FALSE_SIBLINGS}),
    ("on the final read", "0 put k A ok; 1 put k B [A] ok; 2 put k C ok; final k -> A B", {Broken.FALSE_SIBLINGS}),
    ("shown twice", "0 put k A ok; 0 get k -> A A", {Broken.DUPLICATED}),
    ("more than writers: one was refused", "0 put k A fail; 1 put k B ok; 0 get k -> A B", {Broken.TOO_MANY_SIBLINGS}),
    ("more than writers so far", "0 put k A ok; 0 get k -> A B; 1 put k B ok", {Broken.TOO_MANY_SIBLINGS}),
]  # fmt: skip


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_concurrent_values_are_siblings(script: str) -> None:
    """Nothing here breaks a promise."""
    history = tell(script)

    verdict = check_siblings(history)

    assert verdict.is_ok, verdict.explain(history)


@pytest.mark.parametrize(("script", "broken"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_false_siblings_are_named(script: str, broken: set[Broken]) -> None:
    """Exactly these kinds of violation are found."""
    assert {violation.broken for violation in check_siblings(tell(script)).violations} == broken


def _interleaved(shows: str) -> str:
    """101 writes of two clients in turn, each with the context of its own last write."""
    steps = ["0 put k v0 ok", "1 put k v1 ok"]
    steps += [f"{number % 2} put k v{number} own[v{number - 2}] ok" for number in range(2, 101)]
    return "; ".join([*steps, f"final k -> {shows}"])


def test_two_clients_in_turn_leave_two_siblings_not_a_hundred() -> None:
    """What server-id version vectors get wrong: sibling explosion."""
    good = check_siblings(tell(_interleaved("v99 v100")))
    bad = check_siblings(tell(_interleaved(" ".join(f"v{number}" for number in range(101)))))

    assert good.is_ok
    assert good.figures == {"siblings_max": 2, "writers_max": 2}
    assert any(v.message == "101 siblings of 2 concurrent writers" for v in bad.violations)


def test_the_generator_may_know_a_smaller_bound() -> None:
    """A workload whose clients always resolve what they read leaves at most one value for each of them."""
    script = "0 put k A ok; 0 put k B ok; 0 put k C ok; 0 get k -> A B C"

    assert check_siblings(tell(script), siblings_max=3).is_ok
    assert [v.broken for v in check_siblings(tell(script), siblings_max=2).violations] == [Broken.TOO_MANY_SIBLINGS]


def test_a_witness_of_dots_decides_which_value_may_stand_beside_its_replacement() -> None:
    """A value that never had two dots has no excuse."""
    history = tell("0 put k A ok x2; 1 put k B [A] ok; 0 get k -> A B")

    assert not check_siblings(history, written_twice=[]).is_ok
