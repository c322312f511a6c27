"""From events of any system to what each checker reads: calls by key, a `History`, operations with their times.

    EventLog ──┬─ calls_by_key(model)   ──► linearizability      write = put, read = get and final, delete writes null
               ├─ calls_by_key(None)    ──► counters
               ├─ as_history(kind)      ──► set_full, causality, phantoms, session guarantees, staleness
               └─ timed, windows        ──► availability         start-NAME … stop-NAME of the nemesis

Evidence of a `History` counts without the nemesis' events; `Foreign.translate` makes ranks of the log of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from jepsen_lite.checkers.availability import Timed, Window
from jepsen_lite.checkers.calls import Call, Operation, Value, shown
from jepsen_lite.checkers.models import Model, ModelError
from jepsen_lite.checkers.verdict import Verdict
from jepsen_lite.events import NEMESIS, Event, EventLog, EventPair
from jepsen_lite.history import ContextKind, F, History, HistoryError, Kind, Op, OpType

__all__ = ["Foreign", "as_history", "calls_by_key", "timed", "windows"]

SAME: Final = {"put": "write", "get": "read", "final": "read"}
OURS: Final = {"write": F.PUT, "read": F.GET}
"""Of registers; in a set, `read` is itself."""
KIND_OF_F: Final = {
    "put": Kind.REGISTER, "get": Kind.REGISTER, "delete": Kind.REGISTER, "write": Kind.REGISTER, "add": Kind.SET,
}  # fmt: skip


# --- calls ----------------------------------------------------------------------------------------------------------


def calls_by_key(log: EventLog, model: Model[Any] | None) -> dict[str, list[Call]]:
    """Return what happened or may have, by key, in the order of invocation. Without a model, operations as they stand."""
    found: dict[str, list[Call]] = {}
    for pair in log.pairs:
        if log.outcome(pair) is not OpType.FAIL:
            asked = log.ops[pair.invoked]
            returned = pair.ended if log.outcome(pair) is OpType.OK else None
            call = Call(_operation(log, pair, model), pair.invoked, returned, pair.ended)
            found.setdefault(asked.key, []).append(call)
    return found


def _operation(log: EventLog, pair: EventPair, model: Model[Any] | None) -> Operation:
    asked = log.ops[pair.invoked]
    answer = log.ops[pair.ended] if pair.ended is not None and log.outcome(pair) is OpType.OK else None
    result = None if answer is None else _result(answer)
    if model is None:
        return Operation(asked.f, asked.value, result)
    f, value = ("write", None) if asked.f == "delete" else (SAME.get(asked.f, asked.f), asked.value)
    try:
        return model.understand(asked.process, f, value, result, is_known=answer is not None)
    except ModelError as problem:
        raise HistoryError(f"line {(answer or asked).line}: {problem}") from None


def _result(answer: Event) -> Value:
    """Return what was answered; the siblings of our own histories as one value, if they are no more."""
    values = (answer.ours or {}).get("values")
    if values is None or answer.f == "read":
        return answer.value if values is None else tuple(values)
    if len(values) > 1:
        raise HistoryError(f"line {answer.line}: {len(values)} values were read at once: no such model has siblings")
    return values[0] if values else None


# --- histories of ours ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Foreign:
    """A log as a `History`, and the rank in the log of each of its operations."""

    history: History
    ranks: Sequence[int]

    def translate(self, verdict: Verdict) -> Verdict:
        """Return the verdict with evidence that counts as the log does."""
        violations = [
            replace(each, evidence=tuple(self.ranks[index] for index in each.evidence)) for each in verdict.violations
        ]
        return replace(verdict, violations=tuple(violations))


def as_history(log: EventLog, kind: Kind) -> Foreign:
    """Return the log as a history of objects that are of this kind unless an event says otherwise; `HistoryError` with
    the line if it is none: written values must be unique."""
    history, ranks, processes = History(), [], dict[object, int]()
    kinds = _kinds(log, kind)
    now_ns = 0
    for rank, event in enumerate(log.ops):
        if event.process == NEMESIS:
            continue
        now_ns = event.time_ns if event.time_ns is not None else now_ns
        process = processes.setdefault(event.process, len(processes))
        try:
            history.append(_op(event, len(history), process, now_ns, kinds[event.key]))
        except ValueError as problem:
            raise HistoryError(f"line {event.line}: {problem}") from None
        ranks.append(rank)
    return Foreign(history, ranks)


def _kinds(log: EventLog, default: Kind) -> dict[str, Kind]:
    """Return what each key is where no event says so: a register if it is put or written, a set if anything is added."""
    kinds = {event.key: default for event in log.ops}
    for event in log.ops:
        if "kind" not in (event.ours or {}) and event.f in KIND_OF_F:
            kinds[event.key] = KIND_OF_F[event.f]
    return kinds


def _op(event: Event, index: int, process: int, time_ns: int, default: Kind) -> Op:
    ours = event.ours or {}
    kind = Kind(ours.get("kind", default))
    f = F(event.f if kind is Kind.SET else OURS.get(event.f, event.f))
    is_write = f in (F.PUT, F.ADD)
    is_asked = event.type is OpType.INVOKE
    return Op(
        index=index, process=process, type=event.type, f=f, key=event.key, time_ns=time_ns, kind=kind,
        value=_as_text(event.value) if is_write and event.value is not None else None,
        values=None if is_write or f is F.DELETE or event.type is not OpType.OK else _values(event),
        shown=ours.get("shown", ()) if is_asked else (), context_kind=_context_kind(ours) if is_asked else ContextKind.BLIND,
        replied=ours.get("replied"), attempts=ours.get("attempts"), r=ours.get("r"), w=ours.get("w"), error=event.error,
    )  # fmt: skip


def _context_kind(ours: dict[str, Any]) -> ContextKind:
    return ContextKind(ours.get("context_kind", ContextKind.FRESH if "shown" in ours else ContextKind.BLIND))


def _values(event: Event) -> tuple[str, ...]:
    if event.ours is not None and "values" in event.ours:
        return tuple(event.ours["values"])
    if event.value is None:
        return ()
    return tuple(map(_as_text, event.value)) if isinstance(event.value, tuple) else (_as_text(event.value),)


def _as_text(value: Value) -> str:
    return value if isinstance(value, str) else shown(value)


# --- times ----------------------------------------------------------------------------------------------------------


def timed(log: EventLog) -> Iterator[Timed]:
    """Yield every operation with its times; `HistoryError` if an event has none."""
    for pair in log.pairs:
        began, ended = log.ops[pair.invoked], None if pair.ended is None else log.ops[pair.ended]
        yield Timed(_time_ns(began), None if ended is None else _time_ns(ended), log.outcome(pair))


def windows(log: EventLog) -> list[Window]:
    """Return the faults that the nemesis started and stopped. Each is told twice by Jepsen, when it is asked for and when it
    is done: the window is from the first start to the last stop before the next start. One without a stop has no end."""
    found: list[Window] = []
    for event in log.nemesis:
        what, _, name = event.f.partition("-")
        last = next((at for at in reversed(range(len(found))) if found[at].name == (name or "fault")), None)
        if what == "start" and (last is None or found[last].until_ns is not None):
            found.append(Window(name or "fault", _time_ns(event)))
        elif what == "stop" and last is not None:
            found[last] = found[last]._replace(until_ns=_time_ns(event))
    return found


def _time_ns(event: Event) -> int:
    if event.time_ns is None:
        raise HistoryError(f"line {event.line}: has no time_ns, and this checker needs it")
    return event.time_ns
