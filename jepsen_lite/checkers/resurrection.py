"""Black-box judge of deletes and overwrites: what was replaced stays away, and what was written after a delete stays.

    read {A} ─► delete [A] ok ─► heal ─► converged ─► read {A}      A is RESURRECTED (a zombie)
    delete [A] ok ─► put B ok ─► … ─► final {}                      B is DOOMED (a doomstone took it along)

Invariants
  1. A value is *replaced* once a write whose context had shown it has certainly happened: it was acknowledged, or a read has
     shown what it wrote. No read of all replicas that begins later shows the value, and neither does any read that begins
     after the cluster has converged, if it was replaced before that.
  2. A value put after an acknowledged delete of its object is accounted for at the end (see causality.py).
Exempt from 1 are values that may have two dots: a retry that arrives after its value was replaced may come back as a sibling,
which is documented. `dot_causality` judges those exactly. lww objects are judged by lww.py: there contexts never choose.

Source: `reliability` 3.7, 4.3; riak_kv issue 679 (doomstone). Complexity: O(history + all values shown).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from jepsen_lite.checkers.causality import unaccounted
from jepsen_lite.checkers.stories import Story, may_return, stories
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import F, History, Kind, Op, Pair

__all__ = ["check_resurrection"]


class Replaced(NamedTuple):
    """When a value was certainly replaced, and by which write."""

    at: Op
    by: Pair


def check_resurrection(
    history: History, *, converged_at_ns: int | None = None, written_twice: Collection[str] | None = None
) -> Verdict:
    """Judge all registers; without `converged_at_ns` only reads of all replicas are judged by invariant 1."""
    violations: list[Violation] = []
    told = stories(history, Kind.REGISTER)
    replaced_count = 0
    for story in told:
        replaced = _replaced(story)
        replaced_count += len(replaced)
        violations += _zombies(story, replaced, converged_at_ns, written_twice)
        violations += _doomed(story)
    unjudged = tuple(story.key for story in told if story.has_effects and story.final is None)
    return Verdict("resurrection", tuple(violations), unjudged, {"replaced": replaced_count})


def _replaced(story: Story) -> dict[str, Replaced]:
    found: dict[str, Replaced] = {}
    for pair in story.writes:
        at = _happened(story, pair)
        if at is not None:
            for value in pair.invocation.shown:
                if value not in found or at.index < found[value].at.index:
                    found[value] = Replaced(at, pair)
    return found


def _happened(story: Story, pair: Pair) -> Op | None:
    """Return the operation that first proved that a write has happened: its acknowledgement or a read that showed it."""
    proofs = [pair.completion] if pair.is_ok else []
    shown = story.first_shown.get(pair.invocation.value or "")
    if shown is not None and pair.may_have_happened:
        proofs.append(shown.completion)
    return min((proof for proof in proofs if proof is not None), key=lambda op: op.index, default=None)


def _zombies(
    story: Story, replaced: dict[str, Replaced], converged_at_ns: int | None, written_twice: Collection[str] | None
) -> Iterator[Violation]:
    told: set[str] = set()
    for read in story.reads:
        is_final = read.invocation.f is F.FINAL
        if not is_final and (converged_at_ns is None or read.invocation.time_ns < converged_at_ns):
            continue
        for value in read.values:
            how = replaced.get(value)
            if how is None or how.at.index > read.invocation.index or value in told or value not in story.puts:
                continue
            if not is_final and converged_at_ns is not None and how.at.time_ns > converged_at_ns:
                continue  # replaced under load: other replicas may not know yet
            if not may_return(story.puts[value], written_twice):
                told.add(value)
                what = how.by.invocation.value or "a delete"
                evidence = (*story.puts[value].indexes, *how.by.indexes, how.at.index, *read.indexes)
                yield Violation(
                    Broken.RESURRECTED, story.key, f"{value} is there again after {what} replaced it", evidence
                )


def _doomed(story: Story) -> Iterator[Violation]:
    deletes = [pair for pair in story.deletes if pair.is_ok]
    first = min((pair.completion.index for pair in deletes if pair.completion is not None), default=None)
    if first is None or story.final is None:
        return
    for put in unaccounted(story):
        if put.is_ok and put.invocation.index > first:
            message = f"{put.invocation.value} was put after a delete and is gone with what was deleted"
            yield Violation(Broken.DOOMED, story.key, message, (first, *put.indexes, *story.final.indexes))
