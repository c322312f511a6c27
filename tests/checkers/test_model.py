"""Every checker passes every run of a store that is correct by construction, and flags each single corruption of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jepsen_lite.checkers.causality import check_causality, check_phantoms
from jepsen_lite.checkers.dot_causality import Joined, Observed, check_dot_causality
from jepsen_lite.checkers.dots import Binding, Dot
from jepsen_lite.checkers.lww import check_lww
from jepsen_lite.checkers.resurrection import check_resurrection
from jepsen_lite.checkers.set_full import check_set_full
from jepsen_lite.checkers.siblings import check_siblings
from jepsen_lite.checkers.staleness import measure_staleness
from jepsen_lite.checkers.verdict import Broken, Outcome, Verdict
from jepsen_lite.history import F, History, Kind, Op, OpType
from tests.checkers.model import Model, random_steps, run, steps

RUNS = settings(max_examples=100, deadline=None)
CORRUPTED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
"""Not every run has something to corrupt."""
runs = steps.map(run)
long_runs = st.integers(0, 2**32 - 1).map(lambda seed: run(random_steps(seed)))
Run = tuple[Model, list[Observed]]


def _verdicts(model: Model, observed: list[Observed], history: History | None = None) -> list[Verdict]:
    history = history or model.history
    twice = model.witness.written_twice()
    return [
        check_causality(history),
        check_phantoms(history),
        check_lww(history, margin_ns=0, written_twice=twice),
        check_resurrection(history, converged_at_ns=model.healed_ns, written_twice=twice),
        check_siblings(history, written_twice=twice),
        check_set_full(history),
        check_dot_causality(history, observed),
        model.witness.verdict(),
    ]


@RUNS
@given(runs)
def test_a_correct_store_breaks_no_promise(taken: Run) -> None:
    """Whatever clients do, however writes end, and whoever retries."""
    model, observed = taken

    for verdict in _verdicts(model, observed):
        assert not verdict.violations, verdict.explain(model.history)
        assert verdict.checker == "set_full" or verdict.outcome is Outcome.OK
    staleness = measure_staleness(model.history)
    assert 0 <= staleness.stale <= staleness.reads
    assert History.from_json_lines(model.history.to_json_lines()).ops == model.history.ops


@RUNS
@given(runs)
def test_what_a_retry_excuses_needs_no_witness(taken: Run) -> None:
    """The number of attempts in the history is enough, where it is recorded."""
    model, _ = taken

    for verdict in (
        check_lww(model.history, margin_ns=0),
        check_resurrection(model.history, converged_at_ns=model.healed_ns),
        check_siblings(model.history),
    ):
        assert not verdict.violations, verdict.explain(model.history)


def _final(history: History, key: str) -> Op:
    return next(op for op in history.ops if op.f is F.FINAL and op.type is OpType.OK and op.key == key)


def _corrupt(history: History, key: str, change: Callable[[tuple[str, ...]], Sequence[str]]) -> History:
    """Return the history with another answer of the final read of `key`."""
    final = _final(history, key)
    return History.of(
        replace(op, values=tuple(change(op.values or ()))) if op.index == final.index else op for op in history.ops
    )


def _found(verdict: Verdict, *broken: Broken) -> bool:
    return any(violation.broken in broken for violation in verdict.violations)


def _values(history: History, key: str) -> tuple[str, ...]:
    return _final(history, key).values or ()


@CORRUPTED
@given(long_runs, st.data())
def test_a_live_value_that_is_dropped_is_lost(taken: Run, data: st.DataObject) -> None:
    """Black box and white box both say so, unless a client's delete of unknown outcome is a possible excuse.

    A value with two dots may be there although one of them was replaced; then its absence is none to complain of.
    """
    model, observed = taken
    history, twice = model.history, model.witness.written_twice()
    puts = {pair.invocation.value: pair for pair in history.pairs() if pair.invocation.f is F.PUT}
    shown = {value for pair in history.pairs() if pair.invocation.f is not F.FINAL for value in pair.values}
    excused = {
        value
        for pair in history.pairs()
        if pair.invocation.f is F.DELETE and pair.outcome is OpType.INFO
        for value in pair.invocation.shown
    }
    live = [v for v in _values(history, "k0") if (puts[v].is_ok or v in shown) and v not in twice]
    assume(live)
    value = data.draw(st.sampled_from(live))
    dropped = _corrupt(history, "k0", lambda values: [each for each in values if each != value])

    assert value in excused or _found(check_causality(dropped), Broken.LOST)
    after = [_without(each, value) if each.key == "k0" else each for each in observed]
    assert _found(check_dot_causality(history, after), Broken.LOST)


def _without(observed: Observed, value: str) -> Observed:
    kept = {dot: binding for dot, binding in observed.final.siblings.items() if binding.value != value}
    return replace(observed, final=Joined(observed.final.vector, kept))


@CORRUPTED
@given(long_runs, st.data())
def test_a_covered_value_that_is_there_again_is_resurrected(taken: Run, data: st.DataObject) -> None:
    """A value that an acknowledged write had seen, in the final read and among the siblings."""
    model, observed = taken
    history, twice = model.history, model.witness.written_twice()
    replaced = sorted(
        value
        for pair in history.pairs()
        if pair.invocation.key == "k0" and pair.is_ok and pair.invocation.f in (F.PUT, F.DELETE)
        for value in pair.invocation.shown
        if value not in _values(history, "k0") and value not in twice
    )
    assume(replaced)
    value = data.draw(st.sampled_from(replaced))
    back = _corrupt(history, "k0", lambda values: [*values, value])

    assert _found(check_resurrection(back, written_twice=twice), Broken.RESURRECTED)
    (seen,) = [each for each in observed if each.key == "k0"]
    dot = next(dot for dot, binding in seen.bindings.items() if binding.value == value)
    zombie = replace(seen, final=Joined(seen.final.vector, {**seen.final.siblings, dot: seen.bindings[dot]}))
    assert _found(check_dot_causality(history, [zombie]), Broken.RESURRECTED)


@CORRUPTED
@given(long_runs, st.sampled_from(["k0", "w0", "s0"]), st.data())
def test_what_nobody_wrote_or_surely_failed_is_a_phantom(taken: Run, key: str, data: st.DataObject) -> None:
    """In registers, lww objects and sets."""
    model, _ = taken
    failed = [
        pair.invocation.value or "ghost"
        for pair in model.history.pairs()
        if pair.invocation.key == key and pair.outcome is OpType.FAIL
    ]
    ghost = data.draw(st.sampled_from([*failed, "ghost"]))
    haunted = _corrupt(model.history, key, lambda values: [*values, ghost])

    assert _found(check_phantoms(haunted), Broken.PHANTOM)
    if key == "s0":
        assert _found(check_set_full(haunted), Broken.PHANTOM)


@RUNS
@given(runs)
def test_a_phantom_among_the_siblings_is_one(taken: Run) -> None:
    """White box: a dot whose value nobody put."""
    model, observed = taken
    ghost = {Dot(b"g" * 20, 1): Binding(b"g" * 16, "ghost", 1)}
    (seen,) = [each for each in observed if each.key == "k0"]
    haunted = replace(seen, final=Joined(seen.final.vector, {**seen.final.siblings, **ghost}))

    assert _found(check_dot_causality(model.history, [haunted]), Broken.PHANTOM)


@CORRUPTED
@given(long_runs, st.data())
def test_a_value_or_element_shown_twice_is_duplicated(taken: Run, data: st.DataObject) -> None:
    """In a register and in a set."""
    model, _ = taken
    key = data.draw(st.sampled_from(["k0", "s0"]))
    assume(_values(model.history, key))
    value = data.draw(st.sampled_from(_values(model.history, key)))
    twice = _corrupt(model.history, key, lambda values: [*values, value])

    assert _found(check_set_full(twice) if key == "s0" else check_siblings(twice), Broken.DUPLICATED)


@CORRUPTED
@given(long_runs, st.data())
def test_an_acknowledged_element_that_is_dropped_is_lost(taken: Run, data: st.DataObject) -> None:
    """From the final read, which no later read saves."""
    model, _ = taken
    acked = [p.invocation.value or "" for p in model.history.pairs() if p.invocation.f is F.ADD and p.is_ok]
    assume(acked)
    element = data.draw(st.sampled_from(acked))

    dropped = _corrupt(model.history, "s0", lambda values: [each for each in values if each != element])

    assert _found(check_set_full(dropped), Broken.LOST)


@CORRUPTED
@given(long_runs, st.data())
def test_a_dot_that_is_bound_twice_is_named_at_once(taken: Run, data: st.DataObject) -> None:
    """To another value, or to another operation with the same value."""
    model, _ = taken
    bound = [(name, dot) for name in model.witness.objects() for dot in model.witness.bindings(name)]
    assume(bound)
    name, dot = data.draw(st.sampled_from(bound))
    first = model.witness.bindings(name)[dot]
    other = data.draw(st.sampled_from([first._replace(value="other"), first._replace(operation_id=b"o" * 16)]))

    assert model.witness.see("n1", name, dot, first) is None
    violation = model.witness.see("n1", name, dot, other)

    assert violation is not None
    assert violation.broken is Broken.DOT_REUSED
    assert not model.witness.verdict().is_ok


@CORRUPTED
@given(long_runs, st.data())
def test_in_lww_an_older_value_that_wins_is_flagged(taken: Run, data: st.DataObject) -> None:
    """Any acknowledged value put back in place of what won, if a later write was acknowledged after it had ended."""
    model, observed = taken
    history, twice = model.history, model.witness.written_twice()
    writes = [
        p for p in history.pairs() if p.invocation.key == "w0" and p.is_ok and p.invocation.f in (F.PUT, F.DELETE)
    ]
    older = [
        pair
        for pair in writes
        if pair.invocation.value is not None
        and pair.invocation.value not in twice
        and any(pair.indexes[1] < other.indexes[0] for other in writes)
    ]
    assume(older)
    value = data.draw(st.sampled_from(older)).invocation.value or ""

    wrong = _corrupt(history, "w0", lambda _: [value])

    assert _found(check_lww(wrong, margin_ns=0, written_twice=twice), Broken.OVERTAKEN, Broken.RESURRECTED)
    (seen,) = [each for each in observed if each.key == "w0"]
    dot = next(dot for dot, binding in seen.bindings.items() if binding.value == value)
    wrong_end = replace(seen, final=Joined(seen.final.vector, {dot: seen.bindings[dot]}))
    assert _found(check_dot_causality(history, [wrong_end]), Broken.OVERTAKEN)


def test_the_model_reaches_what_it_is_for() -> None:
    """Siblings, deletes, retries that came back, and misses: a model that never branches proves nothing."""
    reached = {"siblings": 0, "replaced": 0, "stale": 0, "twice": 0, "info": 0}
    for seed in range(40):
        model, observed = run(random_steps(seed, 60))
        assert not any(verdict.violations for verdict in _verdicts(model, observed)), f"seed {seed}"
        reached["siblings"] += check_siblings(model.history).figures["siblings_max"] > 2
        reached["replaced"] += check_resurrection(model.history).figures["replaced"] > 3
        reached["stale"] += measure_staleness(model.history).stale > 0
        reached["twice"] += len(model.witness.written_twice()) > 0
        registers = [pair for pair in model.history.pairs() if pair.invocation.kind is Kind.REGISTER]
        reached["info"] += any(pair.outcome is OpType.INFO for pair in registers)

    assert all(count >= 10 for count in reached.values()), reached
