"""The arithmetic of a comparison: what one load measured, medians over rounds with their range, and the ratio to the peer.

    round 1   peer ─ ours     every pair is measured back to back, and the ratio is taken within the pair: the machine changes
    round 2   ours ─ peer     its speed from minute to minute, and a ratio of two medians would compare different minutes
    round 3   peer ─ ours

Pure. Latencies are counts by microsecond (three significant digits), because those of several processes must be added up:
percentiles cannot be.

Invariant
  1. A spread's low <= median <= high, and a ratio is ours/peer: above one we do more operations, or wait longer, or burn more.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvstore.errors import KVStoreError

__all__ = [
    "MEASURES", "Figure", "LoadDocument", "NothingMeasured", "Shape", "Spread", "cell_document", "percentile_us", "ratios",
    "rounded_us", "spread_of",
]  # fmt: skip

SIGNIFICANT_MAX = 1_000
MEASURES = ("per_s", "p50_ms", "p99_ms", "server_cpu_us", "generator_cpu_us")


class NothingMeasured(KVStoreError):
    """A load ended early or took too long, or a program printed something else than the versions we know."""

    code, definite = "nothing_measured", True


@dataclass(frozen=True, slots=True)
class Shape:
    """How a load arrives: `processes`, each with `connections` clients of its own that share `in_flight` operations."""

    name: str
    processes: int
    connections: int
    in_flight: int

    @property
    def says(self) -> str:
        """What the name stands for, for people."""
        each = f"{self.connections} client{'s' * (self.connections > 1)}, {self.in_flight} in flight"
        return f"{self.processes} process{'es' * (self.processes > 1)}, each {each}"


@dataclass(frozen=True, slots=True)
class LoadDocument:
    """What one generator process printed at its end."""

    operations: int
    elapsed_s: float
    errors: int
    not_found: int
    first_error: str
    latencies_us: Mapping[int, int]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> LoadDocument:
        """Check and convert the line of JSON; KeyError or ValueError if it is not one of ours."""
        latencies = {int(us): int(count) for us, count in document["latencies_us"].items()}
        return cls(
            operations=int(document["operations"]), elapsed_s=float(document["elapsed_s"]),
            errors=int(document["errors"]), not_found=int(document["not_found"]),
            first_error=str(document["first_error"]), latencies_us=latencies,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """What one load of one contender measured. CPU is None where nobody could tell."""

    operations: int
    per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float | None
    generator_cpu_us: float | None
    errors: int = 0
    not_found: int = 0
    first_error: str = ""
    connections: int | None = None
    """Established at the servers from outside them, as the kernel counts; None if not asked."""

    @classmethod
    def combine(
        cls, parts: Sequence[LoadDocument], server_cpu_s_per_s: float | None, generator_cpu_s_per_s: float | None,
        connections: int | None = None,
    ) -> Figure:  # fmt: skip
        """Add up generators that ran at the same time, with the CPU seconds per second that were burned meanwhile."""
        latencies: Counter[int] = Counter()
        for part in parts:
            latencies.update(part.latencies_us)
        per_s = sum(part.operations / part.elapsed_s for part in parts)

        def each_us(cpu_s_per_s: float | None) -> float | None:
            return None if cpu_s_per_s is None or not per_s else cpu_s_per_s / per_s * 1e6

        return cls(
            operations=sum(part.operations for part in parts), per_s=per_s,
            p50_ms=percentile_us(latencies, 0.50) / 1e3, p99_ms=percentile_us(latencies, 0.99) / 1e3,
            server_cpu_us=each_us(server_cpu_s_per_s), generator_cpu_us=each_us(generator_cpu_s_per_s),
            errors=sum(part.errors for part in parts), not_found=sum(part.not_found for part in parts),
            first_error=next((part.first_error for part in parts if part.first_error), ""), connections=connections,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the range around it."""

    median: float
    low: float
    high: float


def rounded_us(us: int) -> int:
    """Keep three significant digits, so that a million latencies are some thousand numbers."""
    unit = 1
    while us // unit >= SIGNIFICANT_MAX:
        unit *= 10
    return us // unit * unit


def percentile_us(latencies: Mapping[int, int], share: float) -> int:
    """Return the smallest latency that `share` of all did not exceed; 0 if there are none."""
    wanted = share * sum(latencies.values())
    seen = 0
    for us in sorted(latencies):
        seen += latencies[us]
        if seen >= wanted:
            return us
    return 0


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Return median and range of what was measured; None if nothing was."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def ratios(ours: Sequence[Figure], peer: Sequence[Figure], measure: str) -> list[float]:
    """Return ours/peer of a measure, round by round; pairs where either is missing or zero are left out. [] without a peer."""
    if not peer:
        return []
    pairs = [(getattr(a, measure), getattr(b, measure)) for a, b in zip(ours, peer, strict=True)]
    return [a / b for a, b in pairs if a and b]


def cell_document(ours: Sequence[Figure], peer: Sequence[Figure]) -> dict[str, Any]:
    """Return medians, ranges and ratios of one load shape as plain values; `ratio` is that of operations per second."""
    return {
        "ours": _medians(ours), "peer": _medians(peer),
        "ratio": _plain(spread_of(ratios(ours, peer, "per_s"))),
        "ratio_p50": _plain(spread_of(ratios(ours, peer, "p50_ms"))),
        "ratio_p99": _plain(spread_of(ratios(ours, peer, "p99_ms"))),
        "ratio_server_cpu": _plain(spread_of(ratios(ours, peer, "server_cpu_us"))),
    }  # fmt: skip


def _medians(figures: Sequence[Figure]) -> dict[str, Any]:
    spreads = {name: _plain(spread_of(getattr(each, name) for each in figures)) for name in MEASURES}
    return {
        **spreads, "errors": sum(each.errors for each in figures), "not_found": sum(each.not_found for each in figures),
        "first_error": next((each.first_error for each in figures if each.first_error), ""),
        "connections": max((each.connections for each in figures if each.connections is not None), default=None),
        "rounds": len(figures),
    }  # fmt: skip


def _plain(spread: Spread | None) -> list[float] | None:
    """[median, low, high] with four significant digits."""
    if spread is None:
        return None
    return [float(f"{each:.4g}") for each in (spread.median, spread.low, spread.high)]
