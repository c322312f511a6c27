"""The models that `jepsen-lite check` knows: which checkers judge a history of them, and what they need of it.

register · cas-register · lock · fenced-lock · linearizable-set · linearizable-counter      any system
set · counter · sessions · causality                                                        any system with such operations
staleness · availability                                                                    figures: nothing can be violated
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jepsen_lite.checkers.availability import measure_availability, table
from jepsen_lite.checkers.causality import check_causality, check_phantoms
from jepsen_lite.checkers.counters import CounterError, check_counters
from jepsen_lite.checkers.linearizability import check_linearizability
from jepsen_lite.checkers.models import CasRegister, Counter, FencedLock, GrowOnlySet, Lock, Model, Register
from jepsen_lite.checkers.session_guarantees import check_session_guarantees
from jepsen_lite.checkers.set_full import check_set_full
from jepsen_lite.checkers.staleness import curves, measure_staleness
from jepsen_lite.checkers.verdict import Outcome, Verdict
from jepsen_lite.checkers.wing_gong_lowe import Bounds
from jepsen_lite.events import EventLog
from jepsen_lite.foreign import as_history, calls_by_key, timed, windows
from jepsen_lite.history import F, History, HistoryError, Kind

__all__ = ["MODELS", "Judged", "judge_events"]

LINEARIZABLE: Final[tuple[tuple[str, Callable[[], Model[Any]], str], ...]] = (
    ("register", Register, "read and write of one value: linearizable"),
    ("cas-register", CasRegister, "read, write, cas [old, new]: linearizable"),
    ("lock", Lock, "acquire (→ token or null) and release: linearizable, one holder at a time, no leases"),
    ("fenced-lock", FencedLock, "acquire → token, use token: tokens grow although leases expire"),
    ("linearizable-set", GrowOnlySet, "add and read of all elements: linearizable"),
    ("linearizable-counter", Counter, "add and read: linearizable"),
)
MODELS: Final = (
    *((name, says) for name, _, says in LINEARIZABLE),
    ("set", "add and read: no element that was known to be there goes missing"),
    ("counter", "add, read, final: between what was certainly added and what may have been"),
    ("sessions", "put, get, delete with `shown`: read your writes, monotonic reads and writes, writes follow reads"),
    (
        "causality",
        "put, get, delete with `shown`, and final: nothing is gone unless somebody who saw it replaced it; no phantoms",
    ),
    ("staleness", "put and get with `shown`: how old answers are (figures only)"),
    ("availability", "anything with time_ns: share answered and latency for each fault window (figures only)"),
)
"""(name, what it is), in the order of `jepsen-lite list`."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found: verdicts whose evidence are ranks in the log, figures about the history, and a text to show."""

    verdicts: Sequence[Verdict]
    figures: dict[str, float] = field(default_factory=dict)
    text: str = ""

    @property
    def outcome(self) -> Outcome:
        """VIOLATED beats UNKNOWN beats OK."""
        found = [verdict.outcome for verdict in self.verdicts]
        return next((each for each in (Outcome.VIOLATED, Outcome.UNKNOWN) if each in found), Outcome.OK)


def judge_events(log: EventLog, model: str, *, bounds: Bounds | None = None, only_finals: bool = False) -> Judged:
    """Judge a history; `HistoryError` if it is not one of this model."""
    for name, make, _ in LINEARIZABLE:
        if name == model:
            return Judged([check_linearizability(calls_by_key(log, make()), make(), bounds=bounds)])
    match model:
        case "counter":
            return _counter(log, only_finals=only_finals)
        case "availability":
            rows = measure_availability(timed(log), windows(log))
            return Judged([], {f"{row.window}.ok_share": row.ok_share for row in rows}, table(rows))
        case "staleness":
            found = measure_staleness(as_history(log, Kind.REGISTER).history)
            return Judged([], found.figures(), curves(found))
        case "set":
            return _by_history(log, Kind.SET, check_set_full)
        case "sessions":
            return _by_history(log, Kind.REGISTER, check_session_guarantees)
        case "causality":
            return _by_history(log, Kind.REGISTER, check_causality, check_phantoms)
    raise HistoryError(f"no model {model!r}; there are {', '.join(name for name, _ in MODELS)}")


def _by_history(log: EventLog, kind: Kind, *checks: Callable[[History], Verdict]) -> Judged:
    """A history in which the checkers find nothing of their kind proves nothing."""
    foreign = as_history(log, kind)
    verdicts = [foreign.translate(check(foreign.history)) for check in checks]
    reads = sum(pair.is_ok and pair.invocation.f in (F.GET, F.READ, F.FINAL) for pair in foreign.history.pairs())
    if not any(op.kind is kind for op in foreign.history.ops):
        verdicts.append(Verdict("history", unjudged=(f"there is no {kind} in it",)))
    return Judged(verdicts, {"operations": len(log.pairs), "answered_reads": reads})


def _counter(log: EventLog, *, only_finals: bool) -> Judged:
    try:
        return Judged([check_counters(calls_by_key(log, None), only_finals=only_finals)])
    except CounterError as problem:
        raise HistoryError(str(problem)) from None
