"""What a checker returns: the broken promises with their evidence, what could not be judged, and figures.

violations   never empty for a broken promise; `evidence` are indexes of operations, to be printed
unjudged     objects about which the history says too little: a run that proves nothing must not pass for a good one
figures      what was counted or measured on the way
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

__all__ = ["Broken", "Listed", "Outcome", "Verdict", "Violation", "percentile"]


class Listed(Protocol):
    """A history, as far as evidence needs it: its operations by index, each of which can be printed."""

    @property
    def ops(self) -> Sequence[object]: ...


class Broken(StrEnum):
    """Which promise was broken."""

    LOST = "lost"
    """A value is gone and nobody who could have replaced it had been shown it."""
    PHANTOM = "phantom"
    """Something was seen that nobody wrote, or not yet, or whose write certainly failed."""
    CONTEXT_ACCEPTED = "context_accepted"
    """A write with an unusable context, or one of another key, was acknowledged."""
    UNSETTLED = "unsettled"
    """Reads of all replicas after the run do not agree."""
    OVERTAKEN = "overtaken"
    """lww: an older value won although the clocks, or the context, could tell."""
    LWW_SIBLINGS = "lww_siblings"
    """lww: more than one value was shown."""
    RESURRECTED = "resurrected"
    """A value that was replaced or deleted is there again."""
    DOOMED = "doomed"
    """A value written after a delete is gone with what was deleted."""
    CLOCK_BEHIND = "clock_behind"
    """A write got an earlier time than something that its client had seen."""
    DOT_REUSED = "dot_reused"
    """One dot was bound to two writes."""
    UNREADABLE = "unreadable"
    """A node wrote a record that cannot be decoded."""
    DUPLICATED = "duplicated"
    """One read shows the same value or element twice."""
    FALSE_SIBLINGS = "false_siblings"
    """One read shows a value beside one that had replaced it."""
    TOO_MANY_SIBLINGS = "too_many_siblings"
    """More siblings than writers that could have been concurrent, or than the generator allows."""
    DIVERGED = "diverged"
    """Replicas did not come to the same state."""
    SLOW = "slow"
    """They did, but later than the bound."""
    STALE = "stale"
    """A set that was promised to be linearizable missed an element for a while."""
    UNSYNCED = "unsynced"
    """Something was acknowledged or shown that was not on as many disks as it had to be."""
    MISSED = "missed"
    """A read whose replicas overlap those of an acknowledged write has not seen it."""
    UNSEEN = "unseen"
    """A read in a session does not show what the session had written or read."""
    SEEN_AGAIN = "seen_again"
    """A read in a session shows what the session had seen replaced."""
    WENT_BACK = "went_back"
    """A node replaced a record by one that has not seen all of it, or an unreadable one by less than the others held."""
    MINTED_TWICE = "minted_twice"
    """One operation got two dots although it was sent once, or although its coordinator remembered it."""
    EPOCH_KEPT = "epoch_kept"
    """A node whose history may be missing goes on with the same actor."""
    LEFT_WAITING = "left_waiting"
    """Something that a node began is still under way long after everybody went home."""
    NOT_LINEARIZABLE = "not_linearizable"
    """No order of the operations, each between its call and its return, gives the answers that were given."""
    READ_YOUR_WRITES = "read_your_writes"
    """A read does not show, and nothing it shows replaced, what its own session had written."""
    MONOTONIC_READS = "monotonic_reads"
    """A read has not seen what an earlier read of its session had seen."""
    MONOTONIC_WRITES = "monotonic_writes"
    """A read has seen a write, and not an earlier one of the same session."""
    WRITES_FOLLOW_READS = "writes_follow_reads"
    """A read has seen a write, and not what the writer's session had read before."""
    LOST_INCREMENT = "lost_increment"
    """A counter is below everything that was acknowledged."""
    COUNTED_TWICE = "counted_twice"
    """A counter is above everything that anybody may have added, or at a sum of none of it."""


class Outcome(StrEnum):
    """In one word."""

    OK = "ok"
    VIOLATED = "violated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise about one object."""

    broken: Broken
    key: str
    message: str
    evidence: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.broken}: {self.key}: {self.message}"

    def explain(self, history: Listed) -> str:
        """Return the violation with the operations that prove it, one a line."""
        return "\n".join([str(self), *(f"    {history.ops[index]}" for index in sorted(set(self.evidence)))])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one checker found."""

    checker: str
    violations: tuple[Violation, ...] = ()
    unjudged: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """VIOLATED beats UNKNOWN beats OK."""
        if self.violations:
            return Outcome.VIOLATED
        return Outcome.UNKNOWN if self.unjudged else Outcome.OK

    @property
    def is_ok(self) -> bool:
        """Whether everything was judged and every promise was kept."""
        return self.outcome is Outcome.OK

    def explain(self, history: Listed) -> str:
        """Return the verdict for people: a line, then each violation with its evidence."""
        lines = [f"{self.checker}: {self.outcome}"]
        lines += [violation.explain(history) for violation in self.violations]
        return "\n".join(lines + [f"unjudged: {key}" for key in self.unjudged])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below or at which `share` of the values lie; 0.0 of none. Need not be sorted."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
