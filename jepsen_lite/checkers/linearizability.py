"""Judge of objects that promise to do one thing at a time: each operation takes effect at one moment between call and return.

    write 1 ├──┤      read → 1 ├──┤         linearizable
    write 1 ├──┤      read → 0 ├──┤         not: the write was over before the read began
    write 1 ├─ info …       read → 0 ├─┤ read → 1 ├─┤     linearizable: it took effect late

    calls ── by key ──► search (wing_gong_lowe.py) ──► Order · Broke · GaveUp ──► Verdict: ok · violated · unknown

Keys are judged one by one: a history is linearizable iff the part of every object is (Herlihy and Wing's locality).
The verdict is three-valued. A key whose search met a bound is `unjudged`, with the reason; it is never passed over as good.

A violation names the earliest return up to which nothing fits, the states in which the object may have been just before, and for
every operation that was open then why it does not help: it cannot end as it did in that state, or it can, and leads to another
of the states that are listed. The history before that return *is* linearizable, so no shorter one shows it.

Complexity and source: see wing_gong_lowe.py. Measured, pure Python, one key, 10,000 operations, 10 clients, 8 unknown writes:
docs/histories.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jepsen_lite.checkers.calls import Call
from jepsen_lite.checkers.models import IMPOSSIBLE, Model
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.checkers.wing_gong_lowe import Bounds, Broke, GaveUp, Stuck, search

__all__ = ["check_linearizability"]

STATES_SHOWN_MAX = 4
CALLS_SHOWN_MAX = 12


@dataclass(slots=True)
class _Total:
    violations: list[Violation] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    calls: int = 0
    unknown: int = 0
    configurations: int = 0
    configurations_max: int = 0


def check_linearizability(
    calls: Mapping[str, Sequence[Call]], model: Model[Any], *, bounds: Bounds | None = None
) -> Verdict:
    """Judge the calls to each object, which are in the order of invocation. The deadline is one for all keys together.

    Figures: operations, unknown ones among them, keys, configurations looked at, and the most for one key.
    """
    total = _Total()
    for key, of_key in calls.items():
        found = search(model, of_key, bounds)
        total.calls += len(of_key)
        total.unknown += sum(call.returned is None for call in of_key)
        total.configurations += found.configurations
        total.configurations_max = max(total.configurations_max, found.configurations)
        if isinstance(found, Broke):
            total.violations.append(_violation(key, model, found))
        elif isinstance(found, GaveUp):
            total.unjudged.append(f"{key} ({found.reason})")
    figures = {
        "operations": total.calls, "unknown": total.unknown, "keys": len(calls), "configurations": total.configurations,
        "configurations_of_a_key_max": total.configurations_max,
    }  # fmt: skip
    return Verdict("linearizability", tuple(total.violations), tuple(total.unjudged), figures)


# --- evidence -------------------------------------------------------------------------------------------------------


def _violation(key: str, model: Model[Any], broke: Broke) -> Violation:
    shown = _different(broke.stuck)[:STATES_SHOWN_MAX]
    evidence = list(broke.call.indexes)
    for stuck in shown:
        evidence += stuck.last.indexes if stuck.last is not None else ()
        evidence += [index for call in stuck.could_be_next[:CALLS_SHOWN_MAX] for index in call.indexes]
    lines = [f"{broke.call} fits nowhere; an order of {broke.linearized} operations is the longest. By then"]
    lines += [line for stuck in shown for line in _why(model, broke.call, stuck)]
    return Violation(Broken.NOT_LINEARIZABLE, key, "\n    ".join(lines), tuple(evidence))


def _different(stuck: Sequence[Stuck]) -> list[Stuck]:
    """Return one of each state: the one that left the fewest calls, since the others can still come to it."""
    found: dict[Any, Stuck] = {}
    for each in stuck:
        if each.state not in found or len(each.could_be_next) < len(found[each.state].could_be_next):
            found[each.state] = each
    return list(found.values())


def _why(model: Model[Any], target: Call, stuck: Stuck) -> Iterator[str]:
    after = "at the beginning" if stuck.last is None else f"after {stuck.last}"
    yield f"it {model.show(stuck.state)}, {after}:"
    for call in stuck.could_be_next[:CALLS_SHOWN_MAX]:
        next_state = model.step(stuck.state, call.operation)
        if next_state is IMPOSSIBLE:
            yield f"  {call} cannot be next: it {model.show(stuck.state)}"
        elif call is not target:
            yield f"  {call} can, and then it {model.show(next_state)}; that does not help"
    if len(stuck.could_be_next) > CALLS_SHOWN_MAX:
        yield f"  and {len(stuck.could_be_next) - CALLS_SHOWN_MAX} more"
