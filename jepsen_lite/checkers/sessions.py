"""Judge of sessions: whatever replica answers, a read in a session shows what the session has written and what it has read.

    put A ok ─► get {B}           A is UNSEEN, unless somebody who had been shown A may have replaced it      (read-your-writes)
    get {A} ─► get {}             the same                                                                     (monotonic reads)
    get {B}, which replaced A ─► get {A B}        A is there AGAIN: this session has seen that it was replaced  (monotonic reads)
    put B over [A] ok, or delete [A] ok ─► get {A}                                                      (both, for one's own)

Invariants, for each session and object, over the operations in the order in which the session made them
  1. A value that was acknowledged to the session, or shown to it, is shown by the next read, or a write whose client had been
     shown it may have happened before that read ended. (Registers; in an lww object the clocks choose.)
  2. A value that the session knows to be replaced is not shown again, except one that a late retry may bring back (`may_return`).
  3. White box: the context of a read covers those of all earlier operations. It sees what 1 and 2 have to excuse, and is no
     substitute for them: contexts are the store's own words.
An operation of unknown outcome, and a read that failed, promise nothing; a session ends with neither.

Source: Terry et al., PDIS 1994; `reliability` 3. Complexity: O(history · n/64) for n puts of one object.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from jepsen_lite.checkers.stories import Ancestry, Story, may_return, stories
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import ContextKind, F, History, Kind, Pair
from kvstore.causality.context import decode_history
from kvstore.causality.version_vector import VersionVector, descends, merge_vectors

__all__ = ["check_sessions"]

NOT_SATISFIED = "session_not_satisfied"


def check_sessions(history: History, *, written_twice: Collection[str] | None = None) -> Verdict:
    """Judge all sessions. See `may_return` for `written_twice`. The figures tell how many reads there were to judge, how many
    of them a session had something to ask of, and how many were refused because no owner could satisfy it."""
    violations: list[Violation] = []
    figures = {"reads": 0.0, "asking": 0.0, "not_satisfied": 0.0}
    for kind in (Kind.REGISTER, Kind.LWW):
        for story in stories(history, kind):
            one = _OneObject(story, written_twice)
            violations += one.judge()
            figures["reads"] += one.reads
            figures["asking"] += one.asking
    figures["not_satisfied"] += sum(
        pair.completion is not None and pair.completion.error == NOT_SATISFIED for pair in history.pairs()
    )
    return Verdict("sessions", tuple(violations), figures=figures if figures["reads"] else {})


@dataclass(slots=True)
class _Seen:
    """What one session knows of one object. Sets of values are bits, see `Ancestry`."""

    there: int = 0
    replaced: int = 0
    vector: VersionVector = field(default_factory=dict)
    by: list[int] = field(default_factory=list)
    """The indexes of the last operation that told it anything."""


class _OneObject:
    def __init__(self, story: Story, written_twice: Collection[str] | None) -> None:
        self._story, self._written_twice = story, written_twice
        self._ancestry = Ancestry(story)
        self._sessions: dict[int, _Seen] = {}
        self.reads = self.asking = 0

    def judge(self) -> Iterator[Violation]:
        """Yield what each session was promised and not given."""
        pairs = [*self._story.writes, *self._story.reads]
        for pair in sorted(pairs, key=lambda pair: pair.invocation.index):
            session = pair.invocation.session
            if session is not None and pair.is_ok:
                seen = self._sessions.setdefault(session, _Seen())
                if pair.invocation.f is F.GET:
                    yield from self._read(pair, seen)
                else:
                    self._written(pair, seen)
                self._heard(pair, seen)

    def _read(self, pair: Pair, seen: _Seen) -> Iterator[Violation]:
        shown = self._ancestry.only(pair.values)
        self.reads += 1
        self.asking += bool(seen.vector)
        if self._story.kind is Kind.REGISTER:
            missing = seen.there & ~shown
            for value in self._ancestry.names(missing & ~self._replaceable(pair)) if missing else []:
                yield self._violation(Broken.UNSEEN, pair, seen, f"{value}, which it was shown or wrote, is not there")
        for value in self._ancestry.names(shown & seen.replaced):
            if not may_return(self._story.puts[value], self._written_twice):
                yield self._violation(Broken.SEEN_AGAIN, pair, seen, f"{value}, which it had seen replaced, is there")
        vector = _vector(pair)
        if not descends(vector, seen.vector):
            yield self._violation(Broken.UNSEEN, pair, seen, "the replicas that answered have seen less than it had")
        seen.replaced |= seen.there & ~shown
        seen.replaced |= self._ancestry.seen(pair.values)
        seen.replaced &= ~shown
        seen.there = shown

    def _written(self, pair: Pair, seen: _Seen) -> None:
        op = pair.invocation
        gone = self._ancestry.seen(op.shown)
        seen.there &= ~gone
        seen.replaced |= gone
        if op.value is not None:
            seen.there |= self._ancestry.bits[op.value]

    def _heard(self, pair: Pair, seen: _Seen) -> None:
        seen.vector = merge_vectors(seen.vector, _vector(pair))
        seen.by = list(pair.indexes)

    def _replaceable(self, read: Pair) -> int:
        """Return the values that somebody may have replaced before a read ended."""
        assert read.completion is not None, "only answered reads are judged"
        found = 0
        for pair in self._story.writes:
            op = pair.invocation
            if op.index > read.completion.index:
                break
            if pair.may_have_happened:
                if op.f is F.DELETE and op.context_kind is ContextKind.BLIND:
                    return -1  # it read for itself, and nobody knows what
                found |= self._ancestry.only(op.shown)
        return found

    def _violation(self, broken: Broken, pair: Pair, seen: _Seen, message: str) -> Violation:
        said = f"a read of session {pair.invocation.session}: {message}"
        return Violation(broken, self._story.key, said, (*seen.by, *pair.indexes))


def _vector(pair: Pair) -> VersionVector:
    context = pair.completion.context if pair.completion is not None else None
    return decode_history(context, context[1:9]) if context else {}
