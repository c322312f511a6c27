"""Judge of what one session may expect of a register: to see its own writes, and never to go back.

    session 0    put A ──ok──►   read {}                 read your writes: A is owed
    session 0    read {A} ──►    read {}                 monotonic reads: A is owed
    session 0    put A ──ok──►   put B ──ok──►           monotonic writes: whoever sees B has seen A
    session 0    read {A} ──►    put B ──ok──►           writes follow reads: whoever sees B has seen A

A read *has seen* a value if it shows it, or shows one whose writer had been shown it, directly or not: what a write replaced is
known from the values that its context stands for (`Op.shown`), never from the store. Siblings need no rule of their own.
A value that a delete may have taken away is not owed: one that had been shown it, or (blind) any put before that delete ended,
if the delete was invoked before the read was answered. After its own acknowledged delete a session is owed the absence of what
that delete had been shown, unless a late retry may bring it back (`stories.may_return`).

A session is a process of the history, and each object is judged alone: guarantees across keys are not judged.
Reads of all replicas after the run are not reads of a session, and still tell what was seen: the last two rules judge them too.

Source: Terry et al., "Session guarantees for weakly consistent replicated data", 1994; `reliability` 3.5.
Complexity: O((reads + puts) · n/64) words for n puts to one key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from jepsen_lite.checkers.stories import Ancestry, Story, may_return, stories
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import ContextKind, F, History, Kind, Pair

__all__ = ["GUARANTEES", "check_session_guarantees"]

GUARANTEES: Final = (
    Broken.READ_YOUR_WRITES, Broken.MONOTONIC_READS, Broken.MONOTONIC_WRITES, Broken.WRITES_FOLLOW_READS,
)  # fmt: skip
EVIDENCE_MAX: Final = 3
"""Values named in one violation."""


def check_session_guarantees(
    history: History, *, guarantees: Collection[Broken] = GUARANTEES, written_twice: Collection[str] | None = None
) -> Verdict:
    """Judge all registers by these guarantees. Figures: how often each was broken, also those that were not asked for."""
    broken: list[Violation] = []
    reads = sessions = 0
    for story in stories(history, Kind.REGISTER):
        judge = _Judge(story, written_twice)
        broken += judge.run()
        reads += len(story.reads)
        sessions += len(judge.sessions)
    figures = {f"{each}_broken": float(sum(v.broken is each for v in broken)) for each in GUARANTEES}
    wanted = tuple(violation for violation in broken if violation.broken in guarantees)
    return Verdict("session_guarantees", wanted, figures={"reads": reads, "sessions": sessions, **figures})


@dataclass(slots=True)
class _Session:
    """What one process knows of one object: all as sets of values (`Ancestry`)."""

    written: int = 0
    """Its acknowledged puts."""
    read: int = 0
    """Everything that its reads had seen."""
    deleted: int = 0
    """What its acknowledged deletes had been shown."""


@dataclass(frozen=True, slots=True)
class _Debt:
    """What whoever sees a value is owed: by monotonic writes, and by writes follow reads."""

    written: int = 0
    read: int = 0

    def __or__(self, other: _Debt) -> _Debt:
        return _Debt(self.written | other.written, self.read | other.read)


class _Judge:
    """One object."""

    def __init__(self, story: Story, written_twice: Collection[str] | None) -> None:
        self.story, self.ancestry = story, Ancestry(story)
        self.sessions: dict[int, _Session] = {}
        self._debts: dict[str, _Debt] = {}
        self._returning = self.ancestry.only(
            value for value, put in story.puts.items() if may_return(put, written_twice)
        )
        self._excuses = _Excuses(story, self.ancestry)

    def run(self) -> Iterator[Violation]:
        """Go through the operations as they began, in which order those of one session ended, too. What is owed to others is
        judged when all debts are known: a read may be answered after writes that began later."""
        for pair in sorted((*self.story.writes, *self.story.reads), key=lambda pair: pair.invocation.index):
            session = self.sessions.setdefault(pair.invocation.process, _Session())
            if pair.invocation.f in (F.PUT, F.DELETE):
                self._write(session, pair)
            elif pair.invocation.f is not F.FINAL:
                yield from self._own(session, pair)
                session.read |= self.ancestry.seen(pair.values)
        for read in self.story.reads:
            yield from self._others(read)

    def _write(self, session: _Session, pair: Pair) -> None:
        op = pair.invocation
        if not pair.may_have_happened:
            return
        if op.value is None:
            session.deleted |= self.ancestry.seen(op.shown) if pair.is_ok else 0
            return
        debt = _Debt(session.written, session.read)
        for value in op.shown:
            debt |= self._debts.get(value, _Debt())
        self._debts[op.value] = debt
        session.written |= self.ancestry.only([op.value]) if pair.is_ok else 0

    def _own(self, session: _Session, read: Pair) -> Iterator[Violation]:
        """Read your writes, and monotonic reads."""
        seen, excused = self.ancestry.seen(read.values), self._excuses.at(read)
        yield from self._missing(
            Broken.READ_YOUR_WRITES, read, session.written & ~seen & ~excused, "which its session had written"
        )
        yield from self._missing(
            Broken.MONOTONIC_READS, read, session.read & ~seen & ~excused, "which its session had seen"
        )
        back = self.ancestry.only(read.values) & session.deleted & ~self._returning
        if back:
            names = self.ancestry.names(back)
            message = f"shows {' '.join(names[:EVIDENCE_MAX])}, which its session had deleted"
            yield Violation(Broken.READ_YOUR_WRITES, self.story.key, message, self._evidence(read, names))

    def _others(self, read: Pair) -> Iterator[Violation]:
        """Monotonic writes, and writes follow reads."""
        seen, excused = self.ancestry.seen(read.values), self._excuses.at(read)
        debt = _Debt()
        for value in read.values:
            debt |= self._debts.get(value, _Debt())
        owed = debt.written & ~seen & ~excused
        yield from self._missing(
            Broken.MONOTONIC_WRITES, read, owed, "which a writer of what it shows had written before"
        )
        owed = debt.read & ~debt.written & ~seen & ~excused
        yield from self._missing(
            Broken.WRITES_FOLLOW_READS, read, owed, "which a writer of what it shows had seen before"
        )

    def _missing(self, broken: Broken, read: Pair, owed: int, why: str) -> Iterator[Violation]:
        if owed:
            names = self.ancestry.names(owed)
            few = f"{' '.join(names[:EVIDENCE_MAX])}{' …' if len(names) > EVIDENCE_MAX else ''}"
            message = f"shows {{{' '.join(read.values)}}} and has not seen {few}, {why}"
            yield Violation(broken, self.story.key, message, self._evidence(read, names))

    def _evidence(self, read: Pair, names: Sequence[str]) -> tuple[int, ...]:
        """Return the read, and who put and who showed what it misses, and who put what it shows."""
        puts = [
            self.story.puts[name]
            for name in (*names[:EVIDENCE_MAX], *read.values[:EVIDENCE_MAX])
            if name in self.story.puts
        ]
        shows = [self.story.first_shown[name] for name in names[:EVIDENCE_MAX] if name in self.story.first_shown]
        return tuple(index for pair in (*puts, *shows, read) for index in pair.indexes)


class _Excuses:
    """What deletes may have taken away, growing with the index of the history."""

    def __init__(self, story: Story, ancestry: Ancestry) -> None:
        self._indexes: list[int] = []
        self._gone = [0]
        invoked = [put.invocation.index for put in story.puts.values()]
        for pair in story.deletes:
            op = pair.invocation
            gone = ancestry.seen(op.shown)
            if op.context_kind is ContextKind.BLIND:
                ended = pair.completion.index if pair.is_ok and pair.completion is not None else float("inf")
                gone = (1 << bisect_left(invoked, ended)) - 1  # bit i is the i-th put
            self._indexes.append(op.index)
            self._gone.append(self._gone[-1] | gone)

    def at(self, read: Pair) -> int:
        """Return what may be gone by the time that a read is answered."""
        assert read.completion is not None, "an answered read"
        return self._gone[bisect_left(self._indexes, read.completion.index)]
