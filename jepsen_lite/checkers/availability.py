"""Measures what clients got while something was broken, and in between. Not a judge: how much is owed depends on the fault.

    time      0 ─────────── 10 s ═══ partition ═══ 25 s ─────────── 60 s
              calm          │  operations that overlap the window │ calm

A row for each window, one for all windows of a name together where there are several, one for calm: operations, the share that
was answered, refused and left unknown, and of the answered ones the latency: p50, p99, longest. An operation belongs to every
window that it overlaps, and to calm if to none; one that never ended lasts to the end of the history.

Source: `reliability` 3.13. Complexity: O(operations · log(operations) + operations · windows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from jepsen_lite.checkers.verdict import percentile
from jepsen_lite.history import History, OpType

__all__ = ["CALM", "Row", "Timed", "Window", "measure_availability", "table", "timed_pairs"]

CALM: Final = "calm"


class Timed(NamedTuple):
    """One operation: when it was asked for and answered, and how it ended."""

    began_ns: int
    ended_ns: int | None
    outcome: OpType


class Window(NamedTuple):
    """Something was broken from then until then; `until_ns` None: to the end."""

    name: str
    from_ns: int
    until_ns: int | None = None

    def overlaps(self, began_ns: int, ended_ns: int) -> bool:
        """Return whether an operation of that time has felt it."""
        return ended_ns >= self.from_ns and (self.until_ns is None or began_ns <= self.until_ns)

    def __str__(self) -> str:
        until = "" if self.until_ns is None else f"{self.until_ns / 1e9:.1f}"
        return f"{self.name} {self.from_ns / 1e9:.1f}–{until} s"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured in one window."""

    window: str
    operations: int
    ok: int
    failed: int
    unknown: int
    p50_ms: float
    p99_ms: float
    longest_ms: float

    @property
    def ok_share(self) -> float:
        """Answered ones of all; 1.0 of none, since nothing was refused."""
        return self.ok / self.operations if self.operations else 1.0


def timed_pairs(history: History) -> Iterator[Timed]:
    """Yield the operations of one of our own histories."""
    for pair in history.pairs():
        ended = None if pair.completion is None else pair.completion.time_ns
        yield Timed(pair.invocation.time_ns, ended, pair.outcome)


def measure_availability(operations: Iterable[Timed], windows: Sequence[Window]) -> list[Row]:
    """Return a row for calm, one for each name that has several windows, and one for each window."""
    every = list(operations)
    end_ns = max((operation.ended_ns or operation.began_ns for operation in every), default=0)
    calm: list[Timed] = []
    felt: list[list[Timed]] = [[] for _ in windows]
    named: dict[str, list[Timed]] = {window.name: [] for window in windows}
    for operation in every:
        ended_ns = end_ns if operation.ended_ns is None else operation.ended_ns
        hits = [at for at, window in enumerate(windows) if window.overlaps(operation.began_ns, ended_ns)]
        for at in hits:
            felt[at].append(operation)
        for name in dict.fromkeys(windows[at].name for at in hits):
            named[name].append(operation)
        if not hits:
            calm.append(operation)
    counts = {name: sum(window.name == name for window in windows) for name in named}
    rows = [_row(CALM, calm)]
    rows += [_row(f"{name} ({counts[name]} times)", of) for name, of in named.items() if counts[name] > 1]
    return rows + [_row(str(window), of) for window, of in zip(windows, felt, strict=True)]


def _row(name: str, operations: Sequence[Timed]) -> Row:
    count = {how: sum(operation.outcome is how for operation in operations) for how in OpType}
    took_ms = [
        (operation.ended_ns - operation.began_ns) / 1e6
        for operation in operations
        if operation.outcome is OpType.OK and operation.ended_ns is not None
    ]
    return Row(
        name, len(operations), count[OpType.OK], count[OpType.FAIL], count[OpType.INFO],
        percentile(took_ms, 0.5), percentile(took_ms, 0.99), max(took_ms, default=0.0),
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, aligned."""
    wide = max([len("window"), *(len(row.window) for row in rows)])
    lines = [f"{'window':<{wide}}  operations      ok    fail unknown   p50 ms   p99 ms  longest ms"]
    lines += [
        f"{row.window:<{wide}}  {row.operations:>10} {row.ok_share:>7.1%} {row.failed:>7} {row.unknown:>7} "
        f"{row.p50_ms:>8.1f} {row.p99_ms:>8.1f} {row.longest_ms:>11.1f}"
        for row in rows
    ]
    return "\n".join(lines)
