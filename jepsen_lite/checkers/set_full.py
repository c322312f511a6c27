"""Judge of grow-only sets (each kept as the union of siblings): no element that was known to be there goes missing.

    add 7 ──ok──► known     read {} (missed: stale)     read {7}                 stable, with a stale latency
    add 7 ──ok──► known     read {7}                    read {}   read {}        LOST
    add 7 ──info                                        read {}                  never read: nobody knows that it is there

Terms, for each element
  known    at the earlier of: the add was acknowledged; the first read that contains it was answered
  stable   the last-invoked read contains it; its stale latency is the time from known to the last miss that began later, or 0
  lost     some read invoked after it was known misses it, and no later-invoked read contains it
  never read    neither: no read began after it was known (or it was never known)
Invariants
  1. Nothing is lost.  2. No read contains an element twice (count > 1, which Jepsen's own checker gets wrong as < 1).
  3. No read contains what was never added, whose add certainly failed, or (before it was invoked) was not added yet.
  4. With `is_linearizable`: nothing is stale.
If something was added but no element is stable, nothing was proved: the set is unjudged.

Source: Jepsen, `checker/set-full`; `reliability` 3.2. Differs: O(total read size) instead of O(reads × elements). Only the reads
that contain an element are kept for it; its last miss is the end of the gap before its trailing run of reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from jepsen_lite.checkers.verdict import Broken, Verdict, Violation, percentile
from jepsen_lite.history import READS, F, History, Kind, Op, Pair

__all__ = ["Element", "SetStory", "check_set_full", "judge_set"]


@dataclass(slots=True)
class Element:
    """What became of one element. `present` are the ranks, in order of invocation, of the reads that contain it."""

    name: str
    add: Pair | None
    known: Op | None = None
    present: list[int] = field(default_factory=list)
    last_absent: Pair | None = None
    outcome: str = "never_read"
    """stable, lost or never_read"""
    stale_latency_ns: int | None = None
    """Of a stable element: from known to the last miss that began later; 0 if there was none."""


@dataclass(slots=True)
class SetStory:
    """Adds and answered reads of one set; reads in the order of invocation."""

    key: str
    elements: dict[str, Element] = field(default_factory=dict)
    reads: list[Pair] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        """Add the next pair of this set."""
        op = pair.invocation
        if op.f is F.ADD and op.value is not None:
            known = pair.completion if pair.is_ok else None
            self.elements[op.value] = Element(op.value, pair, known)
        elif op.f in READS and pair.is_ok:
            self.reads.append(pair)


def check_set_full(history: History, *, is_linearizable: bool = False) -> Verdict:
    """Judge all sets of a history. Figures: counts of elements by outcome, and stale latencies in ms (p50, max)."""
    told: dict[str, SetStory] = {}
    for pair in history.pairs():
        if pair.invocation.kind is Kind.SET:
            told.setdefault(pair.invocation.key, SetStory(pair.invocation.key)).add(pair)
    violations: list[Violation] = []
    for story in told.values():
        violations += judge_set(story, is_linearizable=is_linearizable)
    elements = [element for story in told.values() for element in story.elements.values() if _is_attempted(element)]
    unjudged = tuple(story.key for story in told.values() if not _is_judged(story))
    return Verdict("set_full", tuple(violations), unjudged, _figures(elements))


def judge_set(story: SetStory, *, is_linearizable: bool = False) -> list[Violation]:
    """Fill in every element of the story and return what is wrong. O(total read size + elements)."""
    violations = [violation for rank in range(len(story.reads)) for violation in _take_read(story, rank)]
    for element in story.elements.values():
        if not _is_attempted(element):
            continue  # a phantom: said where it was seen
        _conclude(element, story.reads)
        if element.outcome == "lost":
            violations.append(_violation(story, element, Broken.LOST, "was known and is missing ever since"))
        elif is_linearizable and element.stale_latency_ns:
            violations.append(_violation(story, element, Broken.STALE, "was missed after it was known"))
    return violations


def _take_read(story: SetStory, rank: int) -> Iterator[Violation]:
    read = story.reads[rank]
    assert read.completion is not None, "an answered read"
    for name, count in Counter(read.values).items():
        if count > 1:
            yield Violation(Broken.DUPLICATED, story.key, f"one read contains {name} {count} times", read.indexes)
        element = story.elements.get(name)
        if element is None:
            element = story.elements[name] = Element(name, None)
        if not element.present and (why := _phantom(element.add, read.completion)):
            evidence = (*(element.add.indexes if element.add else ()), *read.indexes)
            yield Violation(Broken.PHANTOM, story.key, f"{name} was shown {why}", evidence)
        element.present.append(rank)
        if element.known is None or read.completion.index < element.known.index:
            element.known = read.completion


def _phantom(add: Pair | None, answered: Op) -> str | None:
    if add is None:
        return "and nobody ever added it"
    if not add.may_have_happened:
        return "although adding it certainly failed"
    return "before anybody added it" if answered.index < add.invocation.index else None


def _conclude(element: Element, reads: list[Pair]) -> None:
    present, absent, at = element.present, len(reads) - 1, len(element.present) - 1
    while at >= 0 and present[at] == absent:  # the trailing run of reads that contain it
        absent, at = absent - 1, at - 1
    element.last_absent = reads[absent] if absent >= 0 else None
    known, missed = element.known, element.last_absent.invocation if element.last_absent else None
    is_missed = known is not None and missed is not None and known.index < missed.index
    if present and present[-1] > absent:
        element.outcome = "stable"
        assert known is not None, "a read that contains it makes it known"
        element.stale_latency_ns = max(missed.time_ns - known.time_ns, 1) if is_missed and missed is not None else 0
    elif is_missed:
        element.outcome = "lost"


def _violation(story: SetStory, element: Element, broken: Broken, message: str) -> Violation:
    evidence = [] if element.add is None else list(element.add.indexes)
    evidence += [] if element.known is None else [element.known.index]
    evidence += story.reads[element.present[-1]].indexes if element.present else ()
    evidence += element.last_absent.indexes if element.last_absent is not None else ()
    return Violation(broken, story.key, f"{element.name} {message}", tuple(evidence))


def _is_judged(story: SetStory) -> bool:
    attempted = [element for element in story.elements.values() if _is_attempted(element)]
    return not attempted or any(element.outcome == "stable" for element in attempted)


def _is_attempted(element: Element) -> bool:
    """Return whether the element may have been added."""
    return element.add is not None and element.add.may_have_happened


def _figures(elements: list[Element]) -> dict[str, float]:
    stale_ms = [element.stale_latency_ns / 1e6 for element in elements if element.stale_latency_ns]
    return {
        "attempted": len(elements),
        "acknowledged": sum(element.add is not None and element.add.is_ok for element in elements),
        "known": sum(element.known is not None for element in elements),
        "stable": sum(element.outcome == "stable" for element in elements),
        "lost": sum(element.outcome == "lost" for element in elements),
        "never_read": sum(element.outcome == "never_read" for element in elements),
        "stale": len(stale_ms),
        "stale_p50_ms": percentile(stale_ms, 0.5),
        "stale_max_ms": max(stale_ms, default=0.0),
    }
