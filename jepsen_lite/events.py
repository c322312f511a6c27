"""Histories of any system: one JSON object a line, read strictly, so that a typing error cannot pass for a good verdict.

    {"process": 0, "type": "invoke", "f": "write", "key": "x", "value": 1, "time_ns": 0}
    {"process": 0, "type": "ok",     "f": "write", "key": "x", "value": 1, "time_ns": 1500000}
    {"process": "nemesis", "type": "info", "f": "start-partition", "time_ns": 2000000}

    stream ── read_events ──► EventLog: ops, pairs, nemesis        or HistoryError("line 7: …"), whatever the bytes are

The order of lines is the order of real time. Described for users in docs/histories.md.

Invariants
  1. A process has one operation under way, and none after `info`; a completion repeats `f` and `key` of its invocation.
  2. `index`, where given, is the line's rank among events, from 0; `time_ns` never runs backwards.
  3. Memory is bounded: a line by LINE_BYTES_MAX, their number by EVENTS_MAX. Unknown fields, fields given twice, floats,
     booleans, objects as values and text that is no Unicode are refused.
Source: Jepsen's histories; `key` is a field of its own here instead of `[key value]` tuples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from jepsen_lite.checkers.calls import Process, Value, shown
from jepsen_lite.history import HistoryError, OpType

__all__ = ["EVENTS_MAX", "LINE_BYTES_MAX", "NEMESIS", "Event", "EventLog", "EventPair", "HistoryError", "read_events"]

LINE_BYTES_MAX: Final = 1 << 20
EVENTS_MAX: Final = 2_000_000
"""About 1 GiB of events."""
DEPTH_MAX: Final = 8
"""Lists within lists."""
NEMESIS: Final = "nemesis"
IGNORED: Final = frozenset({"node", "note"})
"""For whoever wants to keep more: any text."""
OURS: Final = frozenset(
    {"kind", "values", "shown", "context_kind", "context", "r", "w", "replied", "attempts", "operation_id", "replica"}
)
"""Fields of kvstore's own histories (`history.Op`)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `ours` holds what only some models need: `values`, `shown`, and so on."""

    line: int
    process: Process
    type: OpType
    f: str
    key: str = ""
    value: Value = None
    time_ns: int | None = None
    error: str | None = None
    ours: dict[str, Any] | None = None

    def __str__(self) -> str:
        time = "" if self.time_ns is None else f"{self.time_ns / 1e9:.6f}s "
        words = [f"line {self.line}: {time}{shown(self.process)} {self.type} {shown(self.f)}"]
        words += [shown(self.key)] if self.key else []
        words += [shown(self.value)] if self.value is not None else []
        words += [f"→ {json.dumps((self.ours or {})['values'])}"] if "values" in (self.ours or {}) else []
        words += [shown(self.error)] if self.error is not None else []
        return " ".join(words)


class EventPair(NamedTuple):
    """Ranks of an invocation and of the line that ended it, None if none did."""

    invoked: int
    ended: int | None


@dataclass(slots=True)
class EventLog:
    """A history as read. `ops` are all events, those of the nemesis among them; evidence are ranks in it."""

    ops: list[Event] = field(default_factory=list)
    pairs: list[EventPair] = field(default_factory=list)
    """In the order of invocation."""

    def outcome(self, pair: EventPair) -> OpType:
        """Return how an operation ended; INFO if nobody says."""
        return OpType.INFO if pair.ended is None else self.ops[pair.ended].type

    @property
    def nemesis(self) -> Iterator[Event]:
        """Yield what the nemesis did."""
        return (event for event in self.ops if event.process == NEMESIS)


class _Lines(Protocol):
    """An open binary file."""

    def readline(self, limit: int, /) -> bytes: ...


def read_events(lines: _Lines) -> EventLog:
    """Read a history to its end; `HistoryError` with the number of the line if it is none.

    Blank lines and lines that begin with `#` count as lines and are skipped.
    """
    reader = _Reader()
    number = 0
    while raw := lines.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(raw) > LINE_BYTES_MAX:
            raise HistoryError(f"line {number}: is longer than {LINE_BYTES_MAX:,} bytes")
        text = raw.strip()
        if text and not text.startswith(b"#"):
            try:
                plain = _plain(text)
                reader.take(_event(plain, number), plain.get("index"))
            except (ValueError, RecursionError) as problem:  # a `HistoryError` is a ValueError, and so are the codecs'
                raise HistoryError(f"line {number}: {problem}") from None
    return reader.log()


# --- one line -------------------------------------------------------------------------------------------------------


def _plain(text: bytes) -> dict[str, Any]:
    plain = json.loads(text.decode(), object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float)
    if type(plain) is not dict:
        raise HistoryError("is no JSON object")
    return plain


def _event(plain: dict[str, Any], line: int) -> Event:
    for name in plain:
        if name not in _KNOWN:
            raise HistoryError(f"has the unknown field {shown(name)}; {', '.join(_KNOWN_SHOWN)} are known")
    for name in ("process", "type", "f"):
        if name not in plain:
            raise HistoryError(f"has no {name}")
    try:
        how = OpType(plain["type"])
    except ValueError:
        raise HistoryError("type is none of invoke, ok, fail, info") from None
    return Event(
        line, _scalar(plain, "process"), how, _text(plain, "f"), _key(plain.get("key")), _value(plain.get("value"), "value"),
        _whole(plain.get("time_ns"), "time_ns"), None if plain.get("error") is None else _text(plain, "error"), _ours(plain),
    )  # fmt: skip


_KNOWN_SHOWN: Final = ("index", "process", "type", "f", "key", "value", "time_ns", "error", *sorted(IGNORED))
_KNOWN: Final = frozenset(_KNOWN_SHOWN) | OURS


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HistoryError("has a field twice")
    return found


def _no_float(text: str) -> NoReturn:
    raise HistoryError(f"has the number {text[:40]}: numbers are whole, because others do not compare well")


def _value(plain: Any, name: str, depth: int = 0) -> Value:
    if plain is None or type(plain) is int:
        return plain
    if type(plain) is str:
        return _unicode(plain, name)
    if type(plain) is list and depth < DEPTH_MAX:
        return tuple(_value(each, name, depth + 1) for each in plain)
    raise HistoryError(f"{name} is not null, a whole number, text, or a list of such (at most {DEPTH_MAX} deep)")


def _unicode(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HistoryError(f"{name} holds half a surrogate pair, which is no text") from None
    return text


def _text(plain: dict[str, Any], name: str) -> str:
    if type(plain[name]) is not str:
        raise HistoryError(f"{name} is no text")
    return _unicode(plain[name], name)


def _scalar(plain: dict[str, Any], name: str) -> Process:
    value = plain[name]
    return value if type(value) is int else _text(plain, name)


def _key(plain: Any) -> str:
    """Return a key as text: a whole number or a list is its JSON, so 1 and "1" are one key."""
    if plain is None:
        return ""
    return _unicode(plain, "key") if type(plain) is str else shown(_value(plain, "key"))


def _whole(plain: Any, name: str) -> int | None:
    if plain is not None and type(plain) is not int:
        raise HistoryError(f"{name} is no whole number")
    return plain


def _ours(plain: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fields of our own histories, with text checked and lists of text as tuples."""
    found = {name: plain[name] for name in plain if name in OURS}
    for name, value in found.items():
        if name in ("values", "shown"):
            if type(value) is not list or any(type(each) not in (str, int) for each in value):
                raise HistoryError(f"{name} is no list of text or whole numbers")
            found[name] = tuple(
                each if type(each) is str and _unicode(each, name) == each else str(each) for each in value
            )
        elif name in ("r", "w", "replied", "attempts"):
            _whole(value, name)
        else:
            _text(plain, name)
    return found or None


# --- all of them ----------------------------------------------------------------------------------------------------


class _Reader:
    """Holds what has been read, and which operations are under way."""

    def __init__(self) -> None:
        self._ops: list[Event] = []
        self._under_way: dict[Process, int] = {}
        self._ends: dict[int, int] = {}
        self._retired: dict[Process, int] = {}
        self._time_ns: int | None = None

    def take(self, event: Event, index: object) -> None:
        """Add an event; nothing is added if it cannot come next."""
        rank = len(self._ops)
        if rank == EVENTS_MAX:
            raise HistoryError(f"there are more than {EVENTS_MAX:,} events")
        if index is not None and (type(index) is not int or index != rank):
            raise HistoryError(f"index is {str(index)[:40]} where {rank} should come (or none at all)")
        if event.time_ns is not None:
            if self._time_ns is not None and event.time_ns < self._time_ns:
                raise HistoryError("time_ns runs backwards")
            self._time_ns = event.time_ns
        if event.process == NEMESIS:
            if event.type is not OpType.INFO:
                raise HistoryError("the nemesis' events are of type info")
        elif event.type is OpType.INVOKE:
            self._begin(event, rank)
        else:
            self._end(event, rank)
        self._ops.append(event)

    def _begin(self, event: Event, rank: int) -> None:
        who = shown(event.process)
        if event.process in self._under_way:
            line = self._ops[self._under_way[event.process]].line
            raise HistoryError(f"process {who} still has the operation of line {line} under way")
        if event.process in self._retired:
            line = self._retired[event.process]
            raise HistoryError(f"process {who} ended with info at line {line}: use another number for what comes after")
        self._under_way[event.process] = rank

    def _end(self, event: Event, rank: int) -> None:
        began = self._under_way.pop(event.process, None)
        if began is None:
            raise HistoryError(f"process {shown(event.process)} has nothing under way that could end")
        invocation = self._ops[began]
        if (invocation.f, invocation.key) != (event.f, event.key):
            raise HistoryError(f"f or key differ from those of the invocation at line {invocation.line}")
        self._ends[began] = rank
        if event.type is OpType.INFO:
            self._retired[event.process] = event.line

    def log(self) -> EventLog:
        """Return everything."""
        invoked = (rank for rank, event in enumerate(self._ops) if event.type is OpType.INVOKE)
        return EventLog(self._ops, [EventPair(rank, self._ends.get(rank)) for rank in invoked])
