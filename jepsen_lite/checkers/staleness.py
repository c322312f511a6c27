"""Measures how old an answer is. Not a judge: the product promises no recency for sloppy quorums, so nothing can fail here.

    put A ──ok──► put B [A] ──ok──► put C ──ok──►  read {B}      misses C: stale, k = 1
                                                   read {}       misses A, B and C: k = 3
                                                   read {B C}    misses nothing: A is known to be replaced by B

A read *misses* an acknowledged value if the value was acknowledged before the read was invoked, and the read shows neither it
nor anything whose client had seen it, directly or not; values that a delete may have taken away do not count. Reads of all
replicas after the run are left out. Registers only: in lww the value that is missed may rightly have lost.

Figures: reads, stale reads and their share; k (how many acknowledged values one read misses) p50 of the stale ones and max; and
the curve P(the newest acknowledged value is missed | time since its acknowledgement), which is what Bailis et al. draw:
of all reads together, and for each (R of the read, W of that newest value's put); None is the default of the store.

Source: Bailis et al., "Probabilistically Bounded Staleness", VLDB 2012; `reliability` 3.12.
Complexity: O((reads + puts) · n/64) words for n puts to one key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from jepsen_lite.checkers.stories import Ancestry, Story, stories
from jepsen_lite.checkers.verdict import percentile
from jepsen_lite.history import F, History, Kind, Pair

__all__ = ["AGES_MS", "Staleness", "curves", "measure_staleness"]

AGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Upper ends of the ages at which the curve is drawn; older reads fall into one more class."""


@dataclass(slots=True)
class Staleness:
    """What was measured."""

    reads: int = 0
    """Answered reads of objects of which something had been acknowledged before."""
    stale: int = 0
    missed: list[int] = field(default_factory=list)
    """For each stale read, how many acknowledged values it misses."""
    by_counts: dict[tuple[int | None, int | None], Staleness] = field(default_factory=dict)
    """The same for each (R, W): of the reads with this R whose newest acknowledged value was put with this W."""
    by_age: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * (len(AGES_MS) + 1))
    """For each class of AGES_MS and one more: (reads, of these without the newest acknowledged value)."""

    @property
    def share(self) -> float:
        """P(stale)."""
        return self.stale / self.reads if self.reads else 0.0

    def curve(self) -> dict[str, float]:
        """Return the curve as `p_missed_to_10_ms` and so on, where there were reads."""
        return {
            f"p_missed_to_{age}_ms": missed / reads
            for age, (reads, missed) in zip(AGES_MS, self.by_age, strict=False)
            if reads
        }

    def figures(self) -> dict[str, float]:
        """Return the figures of the module docstring."""
        return {
            "reads": self.reads, "stale": self.stale, "p_stale": self.share,
            "k_p50": percentile(self.missed, 0.5), "k_max": max(self.missed, default=0), **self.curve(),
        }  # fmt: skip


def measure_staleness(history: History) -> Staleness:
    """Measure all registers together."""
    found = Staleness()
    for story in stories(history, Kind.REGISTER):
        _measure(story, found)
    return found


def _measure(story: Story, found: Staleness) -> None:
    ancestry = Ancestry(story)
    acked = [(value, pair) for value, pair in story.puts.items() if pair.is_ok]
    acknowledged = _running([(pair.indexes[1], ancestry.bits[value], pair) for value, pair in acked])
    deleted = _running([(pair.invocation.index, ancestry.seen(pair.invocation.shown), pair) for pair in story.deletes])
    for read in story.reads:
        if read.invocation.f is F.FINAL or read.completion is None:
            continue
        known, newest = acknowledged.before(read.invocation.index)
        if newest is None:
            continue
        missed = known & ~ancestry.seen(read.values) & ~deleted.before(read.completion.index)[0]
        is_newest_missed = bool(missed & ancestry.bits[newest.invocation.value or ""])
        counts = read.invocation.r, newest.invocation.w
        for each in (found, found.by_counts.setdefault(counts, Staleness())):
            each.reads += 1
            if missed:
                each.stale += 1
                each.missed.append(missed.bit_count())
            _count_age(each, read, newest, is_missed=is_newest_missed)


def _count_age(found: Staleness, read: Pair, newest: Pair, *, is_missed: bool) -> None:
    assert newest.completion is not None, "it was acknowledged"
    age_ms = (read.invocation.time_ns - newest.completion.time_ns) / 1e6
    which = bisect_left(AGES_MS, age_ms)
    reads, missed = found.by_age[which]
    found.by_age[which] = reads + 1, missed + is_missed


@dataclass(frozen=True, slots=True)
class _Running:
    """A set that grows with the index of the history, and what made it grow last."""

    indexes: Sequence[int]
    members: Sequence[int]
    last: Sequence[Pair]

    def before(self, index: int) -> tuple[int, Pair | None]:
        """Return the set just before `index`, and the last pair that joined it. O(log n)."""
        count = bisect_left(self.indexes, index)
        return (self.members[count - 1], self.last[count - 1]) if count else (0, None)


def _running(steps: list[tuple[int, int, Pair]]) -> _Running:
    steps.sort(key=lambda step: step[0])
    members, joined = [], 0
    for _, step, _ in steps:
        joined |= step
        members.append(joined)
    return _Running([step[0] for step in steps], members, [step[2] for step in steps])


def curves(found: Staleness) -> str:
    """Return a table: a line for each (R, W), with how many reads it had and the share that missed the newest value by age."""
    head = "".join(
        f"{f'≤{age}' if at < len(AGES_MS) else f'>{age}':>7}" for at, age in enumerate([*AGES_MS, AGES_MS[-1]])
    )
    lines = [f"{'R':>7} {'W':>7} {'reads':>7} {'P(stale)':>9}{head}  ms"]
    for (r, w), of in sorted(found.by_counts.items(), key=lambda item: [-1 if n is None else n for n in item[0]]):
        shares = "".join(f"{missed / reads:>7.3f}" if reads else f"{'–':>7}" for reads, missed in of.by_age)
        names = ["default" if n is None else str(n) for n in (r, w)]
        lines.append(f"{names[0]:>7} {names[1]:>7} {of.reads:>7} {of.share:>9.3f}{shares}")
    return "\n".join(lines)
