"""The client's options: one name each, in URL, keyword and environment (KVSTORE_ and the name in capitals).

    name              meaning                                                          default
    consistency       ONE, QUORUM or ALL for reads (r) and writes (w and dw)           the bucket's
    r w dw pr pw      replicas that must answer / acknowledge / have it on disk /      the bucket's
                      answer and acknowledge as primaries
    timeout           the one deadline of an operation, all its attempts included      5 s
    ttl               puts expire after this                                           the bucket's
    attempt_timeout   an attempt without an answer for so long is tried elsewhere      1 s
    attempts_max      tries of one operation, the first included                       8
    connect_timeout   how long opening a connection may take                           2 s

Durations are seconds, a `timedelta`, or text with a unit: 500ms, 2s, 5m, 1h, 7d. A keyword wins over the URL, which wins over
the environment. An unknown name is `InvalidArgument` and lists the known ones: a typing error must not become a default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypedDict

from kvstore.client.consistency import Consistency, check_count
from kvstore.errors import InvalidArgument
from kvstore.ring.buckets import TTL_MS_LIMIT

__all__ = [
    "CLIENT_OPTIONS", "REQUEST_OPTIONS", "ClientKeywords", "Duration", "Options", "RequestKeywords", "duration_s",
    "from_environment", "ttl_ms_of", "with_given",
]  # fmt: skip

Duration = float | timedelta
TIMEOUT_S_MAX = 86_400.0
ATTEMPTS_MAX = 100
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_TEXT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?")


class RequestKeywords(TypedDict, total=False):
    """Options of one operation, which a bucket may carry as its own defaults."""

    consistency: Consistency | str
    r: int | Consistency | str
    w: int | Consistency | str
    dw: int | Consistency | str
    pr: int | Consistency | str
    pw: int | Consistency | str
    timeout: Duration | str
    ttl: Duration | str


class ClientKeywords(RequestKeywords, total=False):
    """Options of a client: the defaults of its buckets, and how it talks to nodes."""

    attempt_timeout: Duration | str
    attempts_max: int | str
    connect_timeout: Duration | str


@dataclass(frozen=True, slots=True)
class Options:
    """Options after checking, in the units of the code. None: the bucket's default decides."""

    consistency: int | None = None
    r: int | None = None
    w: int | None = None
    dw: int | None = None
    pr: int | None = None
    pw: int | None = None
    timeout_s: float = 5.0
    ttl_ms: int = 0
    attempt_timeout_s: float = 1.0
    attempts_max: int = 8
    connect_timeout_s: float = 2.0


def duration_s(name: str, value: object) -> float:
    """Return a positive duration in seconds from a number, a `timedelta` or text with a unit; else `InvalidArgument`."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        found = _TEXT.fullmatch(value.strip())
        seconds = float(found[1]) * _UNITS_S[found[2] or "s"] if found else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidArgument(f"{name} must be a positive duration: seconds, or text like 500ms", value=str(value))
    return seconds


def ttl_ms_of(name: str, value: object) -> int:
    """Return a time to live in milliseconds, at least one."""
    ttl_ms = math.ceil(duration_s(name, value) * 1000)
    if ttl_ms >= TTL_MS_LIMIT:
        raise InvalidArgument(f"{name} is too long", ttl_ms=ttl_ms, ttl_ms_limit=TTL_MS_LIMIT)
    return ttl_ms


def _timeout_s(name: str, value: object) -> float:
    return min(duration_s(name, value), TIMEOUT_S_MAX)


def _attempts(name: str, value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= ATTEMPTS_MAX):
        raise InvalidArgument(f"{name} must be 1 to {ATTEMPTS_MAX}", value=text)
    return int(text)


_Parser = Callable[[str, object], Any]
REQUEST_OPTIONS: Mapping[str, tuple[str, _Parser]] = {
    "consistency": ("consistency", check_count),
    "r": ("r", check_count),
    "w": ("w", check_count),
    "dw": ("dw", check_count),
    "pr": ("pr", check_count),
    "pw": ("pw", check_count),
    "timeout": ("timeout_s", _timeout_s),
    "ttl": ("ttl_ms", ttl_ms_of),
}
CLIENT_OPTIONS: Mapping[str, tuple[str, _Parser]] = {
    **REQUEST_OPTIONS,
    "attempt_timeout": ("attempt_timeout_s", _timeout_s),
    "attempts_max": ("attempts_max", _attempts),
    "connect_timeout": ("connect_timeout_s", _timeout_s),
}


def with_given(options: Options, given: Mapping[str, object], known: Mapping[str, tuple[str, _Parser]]) -> Options:
    """Return `options` with those in `given` checked and put in; `InvalidArgument` for a name that is not in `known`."""
    _refuse_unknown(given, known)
    changes = {known[name][0]: known[name][1](name, value) for name, value in given.items() if value is not None}
    return replace(options, **changes)


def _refuse_unknown(given: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidArgument(f"unknown option {unknown[0]!r}; known: {', '.join(known)}")


def from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    """Return the options found in an environment. Others of its KVSTORE_ variables may be a node's and are left alone."""
    names = ((name, f"KVSTORE_{name.upper()}") for name in CLIENT_OPTIONS)
    return {name: environ[variable] for name, variable in names if environ.get(variable)}
