"""What other people's load programs print, read into figures: `etcdctl check perf` and `redis-benchmark --csv`.

Pure. Output that does not look as expected is `NothingMeasured` with its end: a benchmark that guesses is worse than none.

What `etcdctl check perf` does (etcd-io/etcd, etcdctl/ctlv3/command/check.go, the same in 3.4 and 3.5): one goroutine hands
out puts through a rate limiter without burst (150, 1,000, 8,000 or 15,000 a second for the loads s, m, l, xl) to 50, 200, 500
or 1,000 clients with a connection each, for 60 s. Keys are the prefix of 20 bytes and 256 more, values 1,024 zero bytes. It
prints a rate and the slowest request; no percentiles. "FAIL" means "slower than 0.9 of the limit", not that it went wrong.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from tests.benchmarks.figures import NothingMeasured

__all__ = [
    "CHECK_PERF_KEY_BYTES", "CHECK_PERF_LIMITS", "CHECK_PERF_S", "CHECK_PERF_VALUE_BYTES", "CheckPerf", "RedisLine",
    "parse_check_perf", "parse_redis_csv", "parse_redis_info",
]  # fmt: skip

CHECK_PERF_KEY_BYTES = 276
CHECK_PERF_VALUE_BYTES = 1_024
CHECK_PERF_S = 60
CHECK_PERF_LIMITS = {"s": (150, 50), "m": (1_000, 200), "l": (8_000, 500), "xl": (15_000, 1_000)}
"""Load -> (puts per second it does not exceed, clients)."""
SHOWN_CHARACTERS = 400
_RATE = re.compile(r"Throughput (?:is|too low:) (\d+) writes/s")
_SLOWEST = re.compile(r"Slowest request took (?:too long: )?(\d+(?:\.\d+)?)s")
_ERROR = re.compile(r"FAIL: ERROR\((.*)\) -> (\d+)")


@dataclass(frozen=True, slots=True)
class CheckPerf:
    """What `etcdctl check perf` tells."""

    per_s: float
    slowest_s: float
    errors: int


@dataclass(frozen=True, slots=True)
class RedisLine:
    """One line of `redis-benchmark --csv`."""

    per_s: float
    p50_ms: float
    p99_ms: float


def _unreadable(what: str, text: str) -> NothingMeasured:
    return NothingMeasured(f"{what}: {text.strip()[-SHOWN_CHARACTERS:]!r}")


def parse_check_perf(text: str) -> CheckPerf:
    """Read the verdict; the progress bar before it is skipped."""
    rate, slowest = _RATE.search(text), _SLOWEST.search(text)
    if rate is None or slowest is None:
        raise _unreadable("etcdctl check perf printed no rate", text)
    return CheckPerf(float(rate[1]), float(slowest[1]), sum(int(count) for _, count in _ERROR.findall(text)))


def parse_redis_csv(text: str) -> RedisLine:
    """Read the one measured command of a `redis-benchmark --csv`; warnings before the header are skipped."""
    start = text.find('"test"')
    rows = list(csv.DictReader(io.StringIO(text[start:]))) if start >= 0 else []
    if len(rows) != 1:
        raise _unreadable(f"redis-benchmark --csv printed {len(rows)} rows", text)
    try:
        return RedisLine(
            float(rows[0]["rps"]), float(rows[0]["p50_latency_ms"]), float(rows[0]["p99_latency_ms"])
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise _unreadable("redis-benchmark --csv", text) from None


def parse_redis_info(text: str) -> dict[str, str]:
    """Read the answer to INFO: `name:value` lines."""
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
