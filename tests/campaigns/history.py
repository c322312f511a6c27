"""What clients were told, and what follows from it: the black-box judge of the kill campaign.

Pure. It trusts no context and no node: only values that were written, values that a read showed, and what each put was told.

    put A (acked) ── read shows {A} ── put B with that context (unknown) ── read shows {B} ── put C ── at the end: {C}
    C is there. C's client was shown B, so B may be absent; B's client was shown A, so A may be absent.

Invariants
  1. A value may be absent only if some put that may have happened was made by a client that was shown it, and that put's value
     is there or may itself be absent by this rule (correctness rule 29).
  2. What is there was written, and not by a put that failed definitely.
  3. A dot that any read showed names one value for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["History", "Outcome", "Put", "Verdict"]


class Outcome(Enum):
    """What the client was told."""

    ACKNOWLEDGED = "ok"
    FAILED = "fail"
    """Definitely: it did not and will not happen."""
    UNKNOWN = "info"


@dataclass(slots=True)
class Put:
    """One put: `shown` are the values its context came from (none: it was blind). Values are unique over the whole run."""

    key: str
    value: str
    shown: tuple[str, ...]
    outcome: Outcome = Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found wrong, one line each."""

    lost: list[str]
    invented: list[str]
    rebound: list[str]


@dataclass(slots=True)
class History:
    """All puts of a run, by key, and every dot that a read showed."""

    puts: dict[str, list[Put]] = field(default_factory=dict)
    dots: dict[tuple[str, bytes, int], str] = field(default_factory=dict)
    rebound: list[str] = field(default_factory=list)

    def begin(self, key: str, value: str, shown: Iterable[str] = ()) -> Put:
        """Note a put that is about to be sent; its outcome is unknown until the client hears."""
        put = Put(key, value, tuple(shown))
        self.puts.setdefault(key, []).append(put)
        return put

    def saw(self, key: str, actor: bytes, counter: int, value: str) -> None:
        """Note what a read showed under a dot."""
        known = self.dots.setdefault((key, actor, counter), value)
        if known != value:
            self.rebound.append(f"{key}: dot {actor.hex()}:{counter} was {known} and then {value}")

    def count(self, outcome: Outcome) -> int:
        """Return how many puts were told this."""
        return sum(put.outcome is outcome for puts in self.puts.values() for put in puts)

    def judge(self, found: Mapping[str, Iterable[str]]) -> Verdict:
        """Judge the values that a read of every key gave at the end."""
        lost: list[str] = []
        invented: list[str] = []
        for key, puts in self.puts.items():
            present = list(found.get(key, ()))
            invented += _invented(key, puts, present)
            lost += _lost(key, puts, present)
        return Verdict(lost, invented, list(self.rebound))


def _invented(key: str, puts: list[Put], present: list[str]) -> list[str]:
    by_value = {put.value: put for put in puts}
    wrong = [f"{key}: {value} is there, but nobody wrote it" for value in present if value not in by_value]
    failed = [value for value in present if value in by_value and by_value[value].outcome is Outcome.FAILED]
    return wrong + [f"{key}: {value} is there, but its put failed definitely" for value in failed]


def _lost(key: str, puts: list[Put], present: list[str]) -> list[str]:
    by_value = {put.value: put for put in puts}
    accounted = dict.fromkeys(present)
    todo = list(present)
    while todo:
        put = by_value.get(todo.pop())
        for value in put.shown if put is not None and put.outcome is not Outcome.FAILED else ():
            if value not in accounted:
                accounted[value] = None
                todo.append(value)
    acknowledged = [put for put in puts if put.outcome is Outcome.ACKNOWLEDGED]
    return [f"{key}: {put.value} was acknowledged" for put in acknowledged if put.value not in accounted]
