"""What a node counts about itself, for `kvctl status`: totals since its start, and recent latencies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields
from itertools import repeat

__all__ = ["Counters", "Latencies"]

LATENCIES_KEPT_MAX = 2_048


@dataclass(slots=True)
class Counters:
    """Totals since the start of the process."""

    puts: int = 0
    gets: int = 0
    deletes: int = 0
    duplicates: int = 0
    errors: int = 0
    forwarded: int = 0
    overloaded: int = 0
    repairs: int = 0
    repairs_shed: int = 0
    healed: int = 0
    superseded: int = 0
    hedges: int = 0
    """Gets for which one owner more was asked because another was late; `hedges_won`: that one's answer was among the first."""
    hedges_won: int = 0
    siblings_max: int = 0
    errors_by_code: dict[str, int] = field(default_factory=dict)
    """At most one entry for each code of the error tree."""

    def count_error(self, code: str, count: int = 1) -> None:
        """Count operations that were answered with an error."""
        self.errors += count
        self.errors_by_code[code] = self.errors_by_code.get(code, 0) + count

    def as_dict(self) -> dict[str, int]:
        """Return all totals by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "errors_by_code"}


@dataclass(slots=True)
class Latencies:
    """The last LATENCIES_KEPT_MAX durations of one kind of operation, in seconds."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT_MAX))

    def add(self, duration_s: float, count: int = 1) -> None:
        """Record the duration of `count` operations that ended together."""
        if count == 1:
            self.recent.append(duration_s)
        else:
            self.recent.extend(repeat(duration_s, count))

    def quantile_ms(self, quantile: float) -> float | None:
        """Return a quantile of the recent durations in milliseconds, None if there are none."""
        if not self.recent:
            return None
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(len(ordered) * quantile))] * 1e3
