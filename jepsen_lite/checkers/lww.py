"""Black-box judge of last-writer-wins objects: an older value must not win if the clocks could tell.

    put A ──ok──► ······ more than the clock skew ······ put B ──ok──►   at the end:  {B} fine   {A} A was OVERTAKEN by nothing
    read shows {A} ──► put B with its context ──ok──►                    at the end:  {A} never fine, whatever the clocks

A write gets its time from the hybrid clock of its coordinator while it is under way, so it is certainly older than another if
it was acknowledged more than `margin` before the other was invoked, or if the other's context had shown it (the clock that
minted the other was advanced past the context, `correctness` rule 4).

Invariants
  1. No read shows two values.
  2. Something that was acknowledged or shown is there at the end, or a write that is not certainly older took its place: the
     value that is there or, if none is, a delete that happened or may have.
  3. An acknowledged delete gives way only to a value that is not certainly older.
A write of unknown outcome, or one that was sent more than once, may get its time at any later moment: it is never certainly
older. `margin_ns` is twice the largest distance of a clock from true time, plus the clock's granularity.

Source: `reliability` 4.8. Complexity: O(history + all values shown).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from jepsen_lite.checkers.causality import unsettled
from jepsen_lite.checkers.stories import Story, may_return, stories
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import F, History, Kind, Pair

__all__ = ["check_lww"]


def check_lww(history: History, *, margin_ns: int, written_twice: Collection[str] | None = None) -> Verdict:
    """Judge all lww objects. See `may_return` for `written_twice`."""
    told = stories(history, Kind.LWW)
    violations: list[Violation] = []
    for story in told:
        violations += _several(story)
        violations += unsettled(story)
        violations += _OneKey(story, margin_ns, written_twice).judge()
    unjudged = tuple(story.key for story in told if story.has_effects and story.final is None)
    return Verdict("lww", tuple(violations), unjudged, {"values": sum(len(story.puts) for story in told)})


def _several(story: Story) -> Iterator[Violation]:
    for pair in story.reads:
        if len(pair.values) > 1:
            message = f"one read shows {len(pair.values)} values"
            yield Violation(Broken.LWW_SIBLINGS, story.key, message, pair.indexes)


class _OneKey:
    """The end of one object: who won, and who may not have lost."""

    def __init__(self, story: Story, margin_ns: int, written_twice: Collection[str] | None) -> None:
        self._story, self._margin_ns, self._written_twice = story, margin_ns, written_twice
        values = story.final.values if story.final is not None else ()
        self._winner = story.puts.get(values[0]) if values else None
        self._is_empty = not values
        self._after_winner = _descendants(story, values[0]) if values else {}

    def judge(self) -> Iterator[Violation]:
        """Yield everything that lost to something certainly older, or to nothing."""
        final = self._story.final
        if final is None:
            return
        for pair in self._story.writes:
            value = pair.invocation.value
            if (pair.is_ok or value in self._story.first_shown) and pair.may_have_happened and pair is not self._winner:
                by = self._lost_to(pair)
                if by is not None:
                    broken, message, evidence = by
                    yield Violation(broken, self._story.key, message, (*pair.indexes, *evidence, *final.indexes))

    def _lost_to(self, loser: Pair) -> tuple[Broken, str, tuple[int, ...]] | None:
        value = loser.invocation.value
        if self._winner is not None:
            if not self._is_older(self._winner, loser):
                return None
            won = self._winner.invocation.value
            if value is None:
                return Broken.RESURRECTED, f"{won} is there again, which is older than a delete", self._winner.indexes
            return Broken.OVERTAKEN, f"{value} lost to {won}, which is older", self._winner.indexes
        if not self._is_empty or value is None:
            return None  # what is there was never put (a phantom), or a delete won as it should
        deletes = self._story.deletes
        if any(not self._is_older(delete, loser) for delete in deletes):
            return None
        if deletes:
            return Broken.OVERTAKEN, f"{value} lost to a delete that is older", deletes[-1].indexes
        return Broken.LOST, f"{value} is gone and nothing took its place", ()

    def _is_older(self, first: Pair, second: Pair) -> bool:
        ended_ns = first.ended_ns if first.is_ok else None
        if ended_ns is None or may_return(first, self._written_twice):
            return False
        if ended_ns + self._margin_ns < second.invocation.time_ns:
            return True
        return first.invocation.f is F.PUT and second.invocation.index in self._after_winner


def _descendants(story: Story, value: str) -> dict[int, bool]:
    """Return the indexes of the writes whose clients had been shown `value`, or something written after seeing it."""
    found: dict[int, bool] = {}
    values = {value}
    for pair in story.writes:
        op = pair.invocation
        if not values.isdisjoint(op.shown):
            found[op.index] = True
            if op.value is not None and pair.may_have_happened:
                values.add(op.value)
    return found
