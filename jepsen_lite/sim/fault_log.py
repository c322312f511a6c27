"""Counts injected faults by name, in a fixed order, and puts each of them into the trace of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jepsen_lite.sim.trace import Field

__all__ = ["FaultLog", "Note", "unnoted"]

Note = Callable[..., None]
"""(kind, *fields): tells of one fault. A field is an int, str, bytes or None, as in the trace."""


def unnoted(kind: str, *fields: Field) -> None:
    """Tell nobody: for disks and clocks outside of a world."""


class FaultLog:
    """`record` is the trace's; a kind that is not in `kinds` is a bug of the caller."""

    def __init__(self, kinds: Iterable[str], record: Note = unnoted) -> None:
        self._counts = {str(kind): 0 for kind in kinds}
        self._record = record

    def note(self, kind: str, *fields: Field) -> None:
        """Count one fault and trace it."""
        self._counts[str(kind)] += 1
        self._record("fault", str(kind), *fields)

    @property
    def counts(self) -> dict[str, int]:
        """Return every kind and how often it happened, in the order of the kinds."""
        return dict(self._counts)

    def line(self) -> str:
        """Return the kinds that happened, in one line."""
        return " ".join(f"{kind}={count}" for kind, count in self._counts.items() if count) or "no faults"
