"""The history taken apart by object: what was written to it, what was shown of it, and who had seen whom.

    history ──► Story(k): writes p0 p1 p2 …   reads r0 r1 …   finals f0 f1
                             │
                             └─► Ancestry: for each value the set of values it replaced, directly or not, as one big integer

A write replaces what its context stands for (`shown`), and what that had replaced: the state that showed B had seen A if B's
client had been shown A. Shared by the black-box checkers, so that "replaced" means the same in all of them.

Complexity: stories O(history); ancestry O(n · n/64) words of one key's n puts, and O(n/64) for each value asked about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from jepsen_lite.history import F, History, Kind, OpType, Pair

__all__ = ["Ancestry", "Story", "may_return", "stories", "values_put"]


@dataclass(slots=True)
class Story:
    """All about one object, each list in the order of invocation. Reads are those that were answered."""

    key: str
    kind: Kind
    writes: list[Pair] = field(default_factory=list)
    """Puts and deletes."""
    puts: dict[str, Pair] = field(default_factory=dict)
    reads: list[Pair] = field(default_factory=list)
    """Answered gets and finals."""
    first_shown: dict[str, Pair] = field(default_factory=dict)
    """The answered read that was the first to show the value."""
    finals: list[Pair] = field(default_factory=list)

    @property
    def deletes(self) -> list[Pair]:
        """Return the deletes that happened or may have."""
        return [pair for pair in self.writes if pair.invocation.f is F.DELETE and pair.may_have_happened]

    @property
    def final(self) -> Pair | None:
        """The last answered read of all replicas, None if there is none."""
        return self.finals[-1] if self.finals else None

    @property
    def has_effects(self) -> bool:
        """Whether anything may have been written, or was shown."""
        return bool(self.first_shown) or any(pair.may_have_happened for pair in self.writes)

    def add(self, pair: Pair) -> None:
        """Add the next pair of this object."""
        op = pair.invocation
        if op.f in (F.PUT, F.DELETE):
            self.writes.append(pair)
            if op.value is not None:
                self.puts[op.value] = pair
        elif pair.is_ok:
            self.reads.append(pair)
            if op.f is F.FINAL:
                self.finals.append(pair)
            for value in pair.values:
                first = self.first_shown.setdefault(value, pair)
                if _ended_index(pair) < _ended_index(first):
                    self.first_shown[value] = pair


def _ended_index(pair: Pair) -> int:
    assert pair.completion is not None, "only answered reads show anything"
    return pair.completion.index


def stories(history: History, kind: Kind) -> list[Story]:
    """Return the stories of all objects of one kind, in the order in which they first occur. O(history)."""
    found: dict[str, Story] = {}
    for pair in history.pairs():
        op = pair.invocation
        if op.kind is kind:
            if op.key not in found:
                found[op.key] = Story(op.key, kind)
            found[op.key].add(pair)
    return list(found.values())


def values_put(history: History) -> dict[str, Pair]:
    """Return, for every value or element of the whole history, the pair that wrote it."""
    return {pair.invocation.value: pair for pair in history.pairs() if pair.invocation.value is not None}


def may_return(put: Pair, written_twice: Collection[str] | None) -> bool:
    """Return whether a replaced value may come back: a retry that arrives late makes a second dot, which is documented.

    `written_twice` are the values that a witness saw at two dots, which settles it. Without a witness the number of
    attempts decides; if that is unknown too, an acknowledged put counts as sent once and one of unknown outcome does not.
    So give one of them: with neither, 8 of 230 simulated runs (57,000 acknowledgements, 250 values at two dots) gave a false
    alarm; with a witness none did.
    """
    if not put.may_have_happened:
        return False
    if written_twice is not None:
        return put.invocation.value in written_twice
    attempts = put.completion.attempts if put.completion is not None else None
    return attempts > 1 if attempts is not None else not put.is_ok


class Ancestry:
    """Who replaced whom among the values of one object. Sets of values are integers: bit i is the i-th put."""

    def __init__(self, story: Story) -> None:
        self.bits: dict[str, int] = {}
        self._replaced: dict[str, int] = {}
        for value, pair in story.puts.items():
            self._replaced[value] = self.seen(pair.invocation.shown) if pair.may_have_happened else 0
            self.bits[value] = 1 << len(self.bits)

    def replaced(self, value: str) -> int:
        """Return everything that `value` replaced, directly or not, without itself; nothing for what was never put."""
        return self._replaced.get(value, 0)

    def seen(self, values: Iterable[str]) -> int:
        """Return these values and everything they replaced: what somebody who was shown them has seen."""
        found = 0
        for value in values:
            found |= self.bits.get(value, 0) | self._replaced.get(value, 0)
        return found

    def only(self, values: Iterable[str]) -> int:
        """Return just these values."""
        found = 0
        for value in values:
            found |= self.bits.get(value, 0)
        return found

    def names(self, members: int) -> list[str]:
        """Return the values in a set, oldest first. O(all values): for messages."""
        return [value for value, bit in self.bits.items() if bit & members]


def final_values(story: Story) -> Mapping[str, None]:
    """Return the values at the end, as an ordered set; empty without a final read."""
    return dict.fromkeys(story.final.values) if story.final is not None else {}


def outcome_words(pair: Pair) -> str:
    """Return how a write ended, for messages."""
    return {OpType.OK: "acknowledged", OpType.FAIL: "refused", OpType.INFO: "of unknown outcome"}[pair.outcome]
