"""The black-box oracle: what may be gone, what may not, and what must never be seen."""

from __future__ import annotations

import pytest

from jepsen_lite.sim.oracle import History

# One line per put, in order: name, what its client had been shown, outcome.  Then what is there at the end, what is lost.
STORIES = [
    ("an acknowledged value that is there", "A -- ok", "A", ""),
    ("an acknowledged value that is gone", "A -- ok", "", "A"),
    ("a value of unknown outcome may be gone", "A -- info", "", ""),
    ("a value of unknown outcome may be there", "A -- info", "A", ""),
    ("a replaced value may be gone", "A -- ok, B A ok", "B", ""),
    ("a blind put replaces nothing", "A -- ok, B -- ok", "B", "A"),
    ("a put replaces only what was shown", "A -- ok, B -- ok, C B ok", "C", "A"),
    ("siblings resolved by one put", "A -- ok, B -- ok, C AB ok", "C", ""),
    ("a chain of replacements", "A -- ok, B A ok, C B ok, D C info", "D", ""),
    ("a put of unknown outcome may have replaced", "A -- ok, B A info", "B", ""),
    ("its effect cannot be half: A gone, B not there", "A -- ok, B A info", "", "A"),
    ("a chain that ends in nothing", "A -- ok, B A ok, C B info", "", "A B"),
    ("a definite failure replaces nothing", "A -- ok, B A fail", "", "A"),
    ("two clients replaced the same value", "A -- ok, B A ok, C A ok", "B", "C"),
]


def _tell(story: str) -> History:
    history = History()
    for at_s, line in enumerate(story.split(", ")):
        name, shown, outcome = line.split()
        values = [letter.encode() for letter in shown.replace("--", "")]
        history.end(history.invoke("k", name.encode(), values, at_s), outcome, at_s + 0.5)
    return history


@pytest.mark.parametrize(("story", "final", "lost"), [row[1:] for row in STORIES], ids=[row[0] for row in STORIES])
def test_a_value_may_be_gone_only_if_its_replacement_is_accounted_for(story: str, final: str, lost: str) -> None:
    """The table above is the rule."""
    found = _tell(story).lost({"k": {letter.encode() for letter in final}}, ["k"])

    assert [line.split("'")[1] for line in found] == lost.split()


def test_what_a_read_showed_must_stay_although_its_put_was_never_acknowledged() -> None:
    """A read shows only what is durable, so a value once shown cannot vanish."""
    history = _tell("A -- info")
    history.show("k", [b"A"])

    assert len(history.lost({"k": ()}, ["k"])) == 1


def test_values_nobody_put_and_definite_failures_must_never_be_seen() -> None:
    """A definite failure promises that it did not and will not happen."""
    history = _tell("A -- ok, B -- fail")
    history.show("k", [b"A", b"B"])

    found = history.phantoms({"k": [b"A", b"Z"]})

    assert found == ["k: b'B' was seen although its put failed definitely", "k: b'Z' was seen and never put there"]


@pytest.mark.parametrize(
    ("final", "margin_s", "found"), [(b"C", 0.1, 0), (b"B", 0.1, 1), (b"A", 0.1, 2), (None, 0.1, 3), (b"A", 10.0, 0)]
)
def test_in_lww_a_later_acknowledged_put_wins_beyond_the_clock_skew(
    final: bytes | None, margin_s: float, found: int
) -> None:
    """Each put was acknowledged before the next was sent; a loser whose order the clocks cannot tell is no error."""
    history = _tell("A -- ok, B -- ok, C -- ok")

    lines = history.overtaken({"k": [final] if final else []}, ["k"], margin_s=margin_s)

    assert len(lines) == found
