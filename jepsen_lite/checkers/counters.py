"""Judge of counters: no read is below what was certainly added, or above what anybody may have added.

    add 1 ├─ok─┤   add 5 ├─ info ····                          read ∈ [1, 6]; at the end ∈ {1, 6}, and not 3
                       read → ? ├──┤

For a read, an add is *certain* if it was acknowledged before the read was invoked, and *possible* if it was invoked before the
read was answered and has not certainly failed. Adds may be negative (a PN counter), so
    Σ certain + Σ negative possible   ≤   read   ≤   Σ certain + Σ positive possible
A `final` read, after which nothing is invoked and before which everything known had ended, must be one of the sums that some
subset of the unknown adds gives: a retry that counted twice hides within the bounds, and not there.

What it cannot see: reads that are both within their bounds and contradict each other (`models.Counter` with the linearizability
checker does). The bounds of plain reads hold for strong reads only; `only_finals` judges a counter whose reads may be stale.

Source: Jepsen's `checker/counter`; Maelstrom's pn-counter (which keeps a set of ranges); `reliability` 3.3.
Complexity: O(operations), and for each final O(k · range/64) for k unknown adds and the range of their sums (RANGE_MAX at most).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from jepsen_lite.checkers.calls import Call
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation

__all__ = ["CounterError", "check_counters"]

RANGE_MAX: Final = 1 << 22
"""Beyond it the sums of a final read are not worked out one by one: only its bounds are judged."""
EVIDENCE_MAX: Final = 12


class CounterError(ValueError):
    """There are operations that no counter has."""


def check_counters(calls: Mapping[str, Sequence[Call]], *, only_finals: bool = False) -> Verdict:
    """Judge the calls (f is add, read or final; whole numbers) to each counter. A counter without answered reads is unjudged."""
    violations: list[Violation] = []
    unjudged = []
    reads = 0
    for key, of_key in calls.items():
        story = _Story(key, of_key)
        judged = [read for read in story.reads if not only_finals or read.operation.f == "final"]
        reads += len(judged)
        violations += [violation for read in judged for violation in story.judge(read)]
        if not judged and story.adds:
            unjudged.append(key)
    adds = sum(call.operation.f == "add" for of_key in calls.values() for call in of_key)
    return Verdict(
        "counters", tuple(violations), tuple(unjudged), {"adds": adds, "reads": reads, "counters": len(calls)}
    )


class _Sums:
    """Running sums by index: positive and negative adds apart."""

    def __init__(self, steps: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(steps)
        self._indexes = [index for index, _ in ordered]
        self._positive = list(accumulate((max(n, 0) for _, n in ordered), initial=0))
        self._negative = list(accumulate((min(n, 0) for _, n in ordered), initial=0))

    def before(self, index: int) -> tuple[int, int]:
        """Return (sum of the positive, sum of the negative) before an index."""
        at = bisect_left(self._indexes, index)
        return self._positive[at], self._negative[at]


class _Story:
    """One counter."""

    def __init__(self, key: str, calls: Sequence[Call]) -> None:
        self.key = key
        self.adds = [call for call in calls if call.operation.f == "add"]
        self.reads = [call for call in calls if call.operation.f in ("read", "final") and call.returned is not None]
        for call in calls:
            if call.operation.f not in ("add", "read", "final"):
                raise CounterError(f"{call}: a counter knows add, read and final")
        self._began = _Sums([(call.invoked, _whole(call, call.operation.value)) for call in self.adds])
        self._certain = _Sums([
            (call.returned, _whole(call, call.operation.value)) for call in self.adds if call.returned is not None
        ])  # fmt: skip

    def judge(self, read: Call) -> Iterator[Violation]:
        assert read.returned is not None, "an answered read"
        value = _whole(read, read.operation.result)
        began, certain = self._began.before(read.returned), self._certain.before(read.invoked)
        low, high = certain[0] + began[1], began[0] + certain[1]
        if value < low:
            yield self._violation(Broken.LOST_INCREMENT, read, f"is below {low}, the least that it can be")
        elif value > high:
            yield self._violation(Broken.COUNTED_TWICE, read, f"is above {high}, the most that it can be")
        elif read.operation.f == "final" and not self._is_reachable(read, value, sum(certain), low, high):
            message = f"is not {sum(certain)}, which is certain, plus any sum of what is unknown"
            yield self._violation(Broken.COUNTED_TWICE, read, message)

    def _is_reachable(self, read: Call, value: int, certain: int, low: int, high: int) -> bool:
        """Return whether some subset of the possible adds gives the value: bit i of `sums` stands for low + i."""
        if high - low > RANGE_MAX:
            return True
        sums = 1 << (certain - low)
        for call in self._possible(read):
            n = _whole(call, call.operation.value)
            sums |= sums << n if n >= 0 else sums >> -n
        return bool(sums >> (value - low) & 1)

    def _possible(self, read: Call) -> Iterator[Call]:
        for call in self.adds:
            if call.invoked < (read.returned or 0) and not (call.returned is not None and call.returned < read.invoked):
                yield call

    def _violation(self, broken: Broken, read: Call, message: str) -> Violation:
        possible = [index for call in self._possible(read) for index in call.indexes][:EVIDENCE_MAX]
        return Violation(broken, self.key, f"{read} {message}", (*read.indexes, *possible))


def _whole(call: Call, value: object) -> int:
    if type(value) is not int:
        raise CounterError(f"{call}: not a whole number")
    return value
