"""Black-box judge of concurrency: siblings are really concurrent, each is shown once, and there are no more than writers.

    two clients in turn, each with its own context, 101 writes:   2 siblings at the end, not 101 (server-id vectors: 101)

Invariants, for every answered read, not only the final ones (any state of any replica is a set of concurrent values)
  1. No value is shown twice.
  2. No value is shown beside one whose client had seen it, directly or through what it replaced. (Exempt: values that may
     have two dots, see `may_return`.)
  3. At most as many are shown as there are chains of writers so far: a put continues the chain of one value that its context
     had shown, else it begins one. Concurrent values lie on different chains (Dilworth), so the bound is exact enough that
     no "+ 1" is needed; a value that may have come back counts as one more.
  4. At most `siblings_max` are shown, which is what the generator knows its clients can cause.
Source: `reliability` 3.6 (d), 4.1; Gonçalves, "DVVSet". Complexity: O(values shown + n · n/64) for n puts to one key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator

from jepsen_lite.checkers.stories import Ancestry, Story, may_return, stories
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import History, Kind, Pair

__all__ = ["check_siblings"]


def check_siblings(
    history: History, *, siblings_max: int | None = None, written_twice: Collection[str] | None = None
) -> Verdict:
    """Judge every answered read of every register."""
    violations: list[Violation] = []
    told = stories(history, Kind.REGISTER)
    for story in told:
        violations += _judge(story, siblings_max, written_twice)
    shown_max = max((len(pair.values) for story in told for pair in story.reads), default=0)
    chains_max = max((len(_chain_starts(story)) for story in told), default=0)
    return Verdict("siblings", tuple(violations), figures={"siblings_max": shown_max, "writers_max": chains_max})


def _judge(story: Story, siblings_max: int | None, written_twice: Collection[str] | None) -> Iterator[Violation]:
    ancestry, starts, told = Ancestry(story), _chain_starts(story), 0
    for read in story.reads:
        values = dict.fromkeys(read.values)
        if len(values) < len(read.values):
            twice = sorted(value for value, count in Counter(read.values).items() if count > 1)
            yield Violation(Broken.DUPLICATED, story.key, f"one read shows {' '.join(twice)} twice", read.indexes)
        if len(values) > 1:
            returning = [
                value for value in values if value in story.puts and may_return(story.puts[value], written_twice)
            ]
            hidden = ancestry.only(values) & ~ancestry.only(returning) & ~told
            for value in values:
                both = ancestry.replaced(value) & hidden
                if both:
                    told |= both
                    yield _false(story, read, value, ancestry.names(both))
            yield from _too_many(story, read, len(values), len(returning), starts, siblings_max)


def _false(story: Story, read: Pair, value: str, replaced: list[str]) -> Violation:
    evidence = [index for name in (value, *replaced) for index in story.puts[name].indexes]
    message = f"{' '.join(replaced)} is shown beside {value}, which had replaced it"
    return Violation(Broken.FALSE_SIBLINGS, story.key, message, (*evidence, *read.indexes))


def _too_many(
    story: Story, read: Pair, count: int, returning: int, starts: list[int], siblings_max: int | None
) -> Iterator[Violation]:
    assert read.completion is not None, "an answered read"
    writers = bisect_left(starts, read.completion.index)
    if count > writers + returning:
        message = f"{count} siblings of {writers} concurrent writers"
        yield Violation(Broken.TOO_MANY_SIBLINGS, story.key, message, read.indexes)
    elif siblings_max is not None and count > siblings_max:
        message = f"{count} siblings where the workload causes at most {siblings_max}"
        yield Violation(Broken.TOO_MANY_SIBLINGS, story.key, message, read.indexes)


def _chain_starts(story: Story) -> list[int]:
    """Return, ascending, the indexes of the puts that begin a chain. Greedy: each value is continued by one put at most."""
    continued: set[str] = set()
    starts = []
    for value, pair in story.puts.items():
        if not pair.may_have_happened:
            continued.add(value)  # never there, so nobody can continue it
            continue
        before = next((name for name in pair.invocation.shown if name in story.puts and name not in continued), None)
        if before is None:
            starts.append(pair.invocation.index)
        else:
            continued.add(before)
    return starts
