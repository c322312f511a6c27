"""Convergence after heal: when all owners agree on everything, and go on agreeing.

A timeline is text: `time replica key state`, states are letters, `-` is "no record". Healed at 100 ms.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_lite.checkers.convergence import KEYS_NAMED_MAX, StateSeen, check_convergence
from jepsen_lite.checkers.verdict import Broken, Outcome

MS = 1_000_000
HEALED_MS = 100
OWNERS = {"k": ("n1", "n2"), "j": ("n1", "n2")}
J = "0 n1 j -; 0 n2 j -; "
GOOD = [
    ("agreed all the time", J + "0 n1 k A; 0 n2 k A", 0),
    ("no records at all", J + "0 n1 k -; 0 n2 k -", 0),
    ("one is behind at the heal", J + "0 n1 k B; 0 n2 k A; 130 n2 k B", 30),
    ("agreed, parted, agreed", J + "0 n1 k A; 0 n2 k A; 120 n1 k B; 150 n2 k B", 50),
    ("the slower of two keys", "0 n1 j -; 0 n2 j X; 0 n1 k A; 0 n2 k B; 110 n1 k B; 140 n1 j X", 40),
    ("both change in one instant", J + "0 n1 k A; 0 n2 k A; 150 n1 k B; 150 n2 k B", 0),
    ("first looked at after the heal", J + "0 n1 k A; 120 n2 k A", 20),
    ("before the heal anything goes", J + "0 n1 k A; 10 n2 k B; 20 n1 k C; 99 n2 k C", 0),
    ("the last state before the heal counts", J + "0 n1 k A; 0 n2 k A; 50 n1 k B; 110 n1 k A", 10),
    ("a fallback may hold anything", J + "0 n1 k A; 0 n2 k A; 150 n9 k B", 0),
    ("a key nobody asked about", J + "0 n1 k A; 0 n2 k A; 150 n1 i B", 0),
    ("seen again, the same", J + "0 n1 k A; 0 n2 k A; 190 n1 k A; 199 n2 k A", 0),
    ("reported out of order", J + "130 n2 k B; 0 n2 k A; 0 n1 k B", 30),
]  # fmt: skip
BAD = [
    ("never", J + "0 n1 k A; 0 n2 k B", {Broken.DIVERGED}),
    ("parted at the end", J + "0 n1 k A; 0 n2 k A; 199 n1 k B", {Broken.DIVERGED}),
    ("passed each other", J + "0 n1 k A; 0 n2 k B; 120 n1 k B; 120 n2 k A", {Broken.DIVERGED}),
    ("one has no record", J + "0 n1 k A; 0 n2 k -", {Broken.DIVERGED}),
    ("one was never looked at", J + "0 n1 k A", {Broken.DIVERGED}),
    ("nobody was looked at", "", {Broken.DIVERGED}),
    ("only a fallback agrees", J + "0 n1 k A; 0 n9 k A; 0 n2 k B", {Broken.DIVERGED}),
    ("lost again", J + "0 n1 k A; 0 n2 k A; 150 n1 k -", {Broken.DIVERGED}),
    ("too late", J + "0 n1 k A; 0 n2 k B; 161 n2 k A", {Broken.SLOW}),
    ("agreed early, but did not stay so", J + "0 n1 k A; 0 n2 k A; 120 n1 k B; 190 n1 k A", {Broken.SLOW}),
]


def _seen(timeline: str) -> list[StateSeen]:
    found = []
    for step in filter(None, map(str.strip, timeline.split(";"))):
        time_ms, replica, key, state = step.split()
        found.append(StateSeen(int(time_ms) * MS, replica, key, None if state == "-" else state.encode()))
    return found


@pytest.mark.parametrize(("timeline", "took_ms"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_the_time_to_converge_is_that_of_the_last_key(timeline: str, took_ms: int) -> None:
    """Within the bound of 60 ms."""
    verdict = check_convergence(_seen(timeline), OWNERS, healed_ns=HEALED_MS * MS, bound_ns=60 * MS)

    assert verdict.is_ok, verdict
    assert verdict.figures["converged_ms"] == verdict.figures["key_max_ms"] == took_ms


@pytest.mark.parametrize(("timeline", "broken"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_replicas_that_do_not_agree_in_time_are_named(timeline: str, broken: set[Broken]) -> None:
    """Never, or after the bound of 60 ms."""
    verdict = check_convergence(_seen(timeline), OWNERS, healed_ns=HEALED_MS * MS, bound_ns=60 * MS)

    assert {violation.broken for violation in verdict.violations} == broken
    assert ("converged_ms" in verdict.figures) == (broken == {Broken.SLOW})


def test_a_message_says_who_holds_what_and_a_flood_is_cut() -> None:
    """A cluster that never converges must not print every key."""
    owners = {f"k{number}": ("n1", "n2") for number in range(50)}
    seen = [StateSeen(0, "n1", key, b"\x0a") for key in owners]

    verdict = check_convergence(seen, owners, healed_ns=0)

    assert verdict.violations[0].message == "its owners never agreed: n1=0a n2=unseen"
    assert len(verdict.violations) == KEYS_NAMED_MAX + 1
    assert verdict.figures["diverged"] == 50


def test_no_keys_are_no_proof() -> None:
    """Unknown is not good."""
    assert check_convergence([], {}, healed_ns=0).outcome is Outcome.UNKNOWN


_STATES = st.sampled_from([b"A", b"B", None])
_EVENTS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(["n1", "n2", "n3"]), st.sampled_from("kj"), _STATES), max_size=30
)


@settings(max_examples=200, deadline=None)
@given(_EVENTS)
def test_it_says_what_looking_at_every_instant_says(events: list[tuple[int, str, str, bytes | None]]) -> None:
    """Against a model that recomputes the whole cluster at every instant."""
    healed, end = 4, 12
    seen = [StateSeen(*event) for event in events]
    owners = {"k": ("n1", "n2", "n3"), "j": ("n1", "n2")}

    verdict = check_convergence(seen, owners, healed_ns=healed)

    agreed = [all(_agree(seen, key, of, at) for key, of in owners.items()) for at in range(healed, end + 1)]
    if not agreed[-1]:
        assert "converged_ms" not in verdict.figures
        assert not verdict.is_ok
    else:
        first = max((at + 1 for at, fine in enumerate(agreed) if not fine), default=0)
        assert verdict.figures["converged_ms"] == first / 1e6
        assert verdict.is_ok


def _agree(seen: list[StateSeen], key: str, owners: tuple[str, ...], at: int) -> bool:
    held: dict[str, bytes | None] = {}
    for each in sorted(seen, key=lambda each: each.time_ns):
        if each.key == key and each.replica in owners and each.time_ns <= at:
            held[each.replica] = each.state
    return len(held) == len(owners) and len(set(held.values())) == 1
