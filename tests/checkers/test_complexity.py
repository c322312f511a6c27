"""A history of 20,000 operations is judged in well under a second, also if all of them are about one object.

Bounds are on CPU time and about ten times what is measured, because machines that run tests are slow and busy; a quadratic
checker misses them by far more (20,000² steps are minutes).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from jepsen_lite.checkers.causality import check_causality, check_phantoms
from jepsen_lite.checkers.convergence import StateSeen, check_convergence
from jepsen_lite.checkers.dot_causality import Joined, Observed, check_dot_causality
from jepsen_lite.checkers.dots import Binding, Dot, DotWitness
from jepsen_lite.checkers.lww import check_lww
from jepsen_lite.checkers.resurrection import check_resurrection
from jepsen_lite.checkers.session_guarantees import check_session_guarantees
from jepsen_lite.checkers.set_full import check_set_full
from jepsen_lite.checkers.siblings import check_siblings
from jepsen_lite.checkers.staleness import measure_staleness
from jepsen_lite.checkers.verdict import Verdict
from jepsen_lite.history import ContextKind, F, History, Kind, OpType
from kvstore.causality.context import encode_context
from kvstore.causality.version_vector import encode_vector
from kvstore.ids import ActorId

OPS = 20_000
CPU_S_MAX = 3.0
ACTOR = b"a" * 20
TOKEN = b"k" * 8


@cache
def _registers(keys: int, kind: Kind = Kind.REGISTER) -> History:
    """Return 20,000 operations: each key in turn is read and overwritten, one put in five is blind or of unknown outcome."""
    history, live, counters = History(), {f"k{n}": [""] * 0 for n in range(keys)}, dict.fromkeys(range(keys), 0)
    process = history.new_process()
    for number in range(OPS // 2):
        which = number // 2 % keys
        key = f"k{which}"
        if number % 2 == 0:
            op = history.invoke(process, F.GET, key, time_ns=number * 1000, kind=kind)
            history.complete(op, OpType.OK, time_ns=number * 1000, values=live[key])
            continue
        is_blind = number % 10 == 1 and kind is Kind.REGISTER
        vector = {ActorId(ACTOR): counters[which]} if counters[which] else {}
        counters[which] += 1
        op = history.invoke(
            process, F.PUT, key, time_ns=number * 1000, kind=kind, value=f"v{number}", shown=[] if is_blind else live[key],
            context_kind=ContextKind.BLIND if is_blind else ContextKind.FRESH,
            context=None if is_blind else encode_context(TOKEN, 0, encode_vector(vector)),
        )  # fmt: skip
        is_info = number % 10 == 3
        history.complete(op, OpType.INFO if is_info else OpType.OK, time_ns=number * 1000)
        live[key] = [*live[key], f"v{number}"] if is_blind else [f"v{number}"]
        process = history.new_process() if is_info else process
    for key, values in live.items():
        op = history.invoke(process, F.FINAL, key, time_ns=OPS * 1000, kind=kind)
        history.complete(op, OpType.OK, time_ns=OPS * 1000, values=values)
    return history


def _dots(history: History) -> list[Observed]:
    bindings: dict[str, dict[Dot, Binding]] = {}
    finals: dict[str, tuple[str, ...]] = {}
    for pair in history.pairs():
        op = pair.invocation
        if op.f is F.PUT:
            of = bindings.setdefault(op.key, {})
            of[Dot(ACTOR, len(of) + 1)] = Binding((op.value or "").encode().ljust(16), op.value)
        elif op.f is F.FINAL:
            finals[op.key] = pair.values
    return [
        Observed(
            key, TOKEN, of,
            Joined({ActorId(ACTOR): len(of)}, {dot: each for dot, each in of.items() if each.value in finals[key]}),
        )
        for key, of in bindings.items()
    ]  # fmt: skip


def _set() -> History:
    """Return adds with a read after every hundredth: two million elements read."""
    history = History()
    added: list[str] = []
    for number in range(OPS):
        if number % 100 == 99:
            op = history.invoke(0, F.READ, "s", time_ns=number, kind=Kind.SET)
            history.complete(op, OpType.OK, time_ns=number, values=added)
        else:
            op = history.invoke(0, F.ADD, "s", time_ns=number, kind=Kind.SET, value=str(number))
            history.complete(op, OpType.OK, time_ns=number)
            added.append(str(number))
    return history


def _cpu_s(judge: Callable[[], object]) -> float:
    started = time.process_time()
    judge()
    return time.process_time() - started


CHECKS: dict[str, Callable[[History], Verdict]] = {
    "causality": check_causality,
    "phantoms": check_phantoms,
    "session_guarantees": check_session_guarantees,
    "resurrection": lambda history: check_resurrection(history, converged_at_ns=0, written_twice=()),
    "siblings": lambda history: check_siblings(history, written_twice=()),
    "dot_causality": lambda history: check_dot_causality(history, _dots(history)),
}


@pytest.mark.parametrize("keys", [1, 500])
@pytest.mark.parametrize("name", list(CHECKS))
def test_registers_are_judged_in_time(keys: int, name: str) -> None:
    """And the history is a good one, so that nothing was skipped."""
    check, history = CHECKS[name], _registers(keys)

    assert check(history).is_ok, check(history).explain(history)[:2000]
    assert _cpu_s(lambda: check(history)) < CPU_S_MAX


@pytest.mark.parametrize("keys", [1, 500])
def test_lww_objects_are_judged_in_time(keys: int) -> None:
    """Every put but the last of each key is a loser to be explained."""
    history = _registers(keys, Kind.LWW)

    assert check_lww(history, margin_ns=0).is_ok
    assert _cpu_s(lambda: check_lww(history, margin_ns=0)) < CPU_S_MAX


def test_a_history_in_which_everything_is_lost_is_judged_in_time() -> None:
    """Violations with their evidence cost no more than their number."""
    wrecked = History()
    for op in _registers(1).ops:
        if op.f is not F.GET and op.f is not F.FINAL:
            wrecked.append(replace(op, index=len(wrecked)))
    final = wrecked.invoke(wrecked.new_process(), F.FINAL, "k0", time_ns=OPS * 1000)
    wrecked.complete(final, OpType.OK, time_ns=OPS * 1000, values=[])

    assert len(check_causality(wrecked).violations) > 3_000
    assert _cpu_s(lambda: check_causality(wrecked)) < CPU_S_MAX


def test_staleness_is_measured_in_time() -> None:
    """Ancestors of ten thousand puts to one key are bits of big integers."""
    assert measure_staleness(_registers(1)).stale == 0
    assert _cpu_s(lambda: measure_staleness(_registers(1))) < CPU_S_MAX


def test_sets_are_judged_in_the_time_it_takes_to_look_at_every_read() -> None:
    """Two million elements read."""
    history = _set()

    assert check_set_full(history).figures["stable"] == OPS * 0.99
    assert _cpu_s(lambda: check_set_full(history)) < 2 * CPU_S_MAX


def test_dots_and_states_are_judged_in_time() -> None:
    """A hundred thousand observations each."""
    witness = DotWitness()
    seen = [StateSeen(n, f"n{n % 3}", f"k{n % 500}", b"%d" % (n // 1500)) for n in range(5 * OPS)]
    owners = {f"k{n}": ("n0", "n1", "n2") for n in range(500)}

    def see_all() -> None:
        for number in range(5 * OPS):
            witness.see(
                "n", b"k%d" % (number % 100), Dot(ACTOR, number // 100 + 1), Binding(b"%16d" % number, str(number))
            )

    assert _cpu_s(see_all) < CPU_S_MAX
    assert _cpu_s(lambda: check_convergence(seen, owners, healed_ns=0)) < CPU_S_MAX


def test_a_history_is_read_and_written_in_time() -> None:
    """As JSON lines."""
    text = _registers(500).to_json_lines()

    assert _cpu_s(lambda: History.from_json_lines(text).to_json_lines()) < CPU_S_MAX
