"""Judges a run: every checker on what was recorded and seen, each with the parameters that this run calls for.

    Evidence(history, witness, finals, clocks, …) ── judge ──► [Verdict]        broken(verdicts) ──► lines; none is a good run

    black box   causality  phantoms  lww  lww_clocks  resurrection  siblings  set_full  sessions  refused
    white box   dots  dot_causality  convergence  counts  durable  sent_once  nodes           figures only: staleness

What is covered
  * Every acknowledged write must survive, also one with w=1 or dw=1: what may be lost is bounded where the damage is done
    (`FaultAtlas`), so no judge needs an exception. See workloads/pace.py.
  * lww by time: the rule of `clock.must_win`, with what the nodes' clocks really showed: wrong ones cover little.
  * A value that a witness saw at two dots may return (`may_return`): documented for retries that come late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from jepsen_lite.checkers.causality import check_causality, check_phantoms
from jepsen_lite.checkers.convergence import check_convergence
from jepsen_lite.checkers.dot_causality import Observed, check_dot_causality, observe
from jepsen_lite.checkers.dots import Binding, Dot, DotWitness
from jepsen_lite.checkers.lww import check_lww
from jepsen_lite.checkers.resurrection import check_resurrection
from jepsen_lite.checkers.sent_once import check_sent_once
from jepsen_lite.checkers.sessions import check_sessions
from jepsen_lite.checkers.set_full import check_set_full
from jepsen_lite.checkers.siblings import check_siblings
from jepsen_lite.checkers.staleness import measure_staleness
from jepsen_lite.checkers.stories import Story, may_return, stories
from jepsen_lite.checkers.verdict import Broken, Outcome, Verdict, Violation
from jepsen_lite.history import READS, REFUSED, History, Kind, OpType, Pair
from jepsen_lite.recorder import Board, Target
from jepsen_lite.sim.clock import SimClock
from jepsen_lite.workloads.finals import Finals, decoded, final_reads
from jepsen_lite.workloads.payload import name_of

__all__ = ["Evidence", "broken", "check_lww_clocks", "check_refused", "final_reads", "judge", "unjudged"]

NEVER_NS: Final = 1 << 80
"""A margin of clocks beyond all time: `check_lww` then judges by contexts alone, and `check_lww_clocks` by the clocks."""
HLC_STEP_NS: Final = 2_000_000
"""As in `clock.must_win`: timestamps are whole milliseconds, and one of them may be counted up logically."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything known of a run. `clocks` are those of all nodes, in any order."""

    history: History
    witness: DotWitness
    finals: Finals
    board: Board
    clocks: Sequence[SimClock] = ()
    siblings_max: int | None = None
    """What the workload can cause at most, if it is known."""
    shown_is_durable: bool = True
    """False if faults beyond the budget took away what reads had shown."""
    collected: frozenset[Target] = frozenset()
    """Objects of which any node dropped a record by the tombstone rule."""
    left_waiting: Mapping[str, int] = field(default_factory=dict)
    """Nodes that at the end, after a pause, still counted operations as under way."""
    unwritten: Sequence[Target] = ()
    """Objects that could not be written to after the heal."""
    doubles_requests: bool = False
    """Whether the network did: one operation may then have two dots although its client sent it once."""

    @property
    def objects(self) -> list[Target]:
        """Every object that was touched."""
        return list(self.board.touched)

    def written_twice(self) -> list[str]:
        """Return the values that the witness saw at two dots, by their names in the history."""
        return [name_of(value) for value in self.witness.written_twice()]


def judge(evidence: Evidence) -> list[Verdict]:
    """Return the verdict of every checker; those without objects of their kind have nothing to say."""
    history, twice, finals = evidence.history, evidence.written_twice(), evidence.finals
    return [
        check_causality(history, shown_is_durable=evidence.shown_is_durable),
        check_phantoms(history),
        check_refused(history, evidence.witness),
        check_lww(history, margin_ns=NEVER_NS, written_twice=twice),
        check_lww_clocks(history, evidence.clocks, evidence.witness),
        check_resurrection(history, converged_at_ns=finals.converged_ns, written_twice=twice),
        check_siblings(history, siblings_max=evidence.siblings_max, written_twice=twice),
        check_set_full(history),
        check_sessions(history, written_twice=twice),
        evidence.witness.verdict(),
        check_dot_causality(history, _observed(evidence)),
        _convergence(evidence),
        Verdict("counts", tuple(evidence.board.short), figures={"overdue": float(evidence.board.overdue)}),
        evidence.board.durable.verdict() if evidence.board.durable is not None else Verdict("durable"),
        check_sent_once(history, twice) if not evidence.doubles_requests else Verdict("sent_once"),
        _nodes(evidence),
        Verdict("staleness", figures=measure_staleness(history).figures()),
    ]


def broken(verdicts: Sequence[Verdict], history: History) -> list[str]:
    """Return every broken promise with its evidence, each a text of several lines; none if the run was good."""
    return [
        f"{verdict.checker}: {violation.explain(history)}" for verdict in verdicts for violation in verdict.violations
    ]  # fmt: skip


def unjudged(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what nothing was proved about, as `checker: key`."""
    return [
        f"{verdict.checker}: {key}" for verdict in verdicts if verdict.outcome is not Outcome.OK for key in verdict.unjudged
    ]  # fmt: skip


# --- white box ------------------------------------------------------------------------------------------------------


def _observed(evidence: Evidence) -> Iterator[Observed]:
    """Sets are judged by their elements: what their registers hold are unions, and no values of the history."""
    for target, records in evidence.finals.states.items():
        if target.kind is not Kind.SET:
            states = [state for record in records.values() if (state := decoded(target, record)) is not None]
            seen = observe(
                evidence.witness,
                target.storage_key,
                states,
                kind=target.kind,
                is_collected=target in evidence.collected,
            )
            final = replace(seen.final, siblings=_named(seen.final.siblings))
            yield replace(seen, bindings=_named(seen.bindings), final=final)


def _named(bindings: Mapping[Dot, Binding]) -> Mapping[Dot, Binding]:
    return {
        dot: binding if binding.value is None else binding._replace(value=name_of(binding.value))
        for dot, binding in bindings.items()
    }


def _convergence(evidence: Evidence) -> Verdict:
    finals = evidence.finals
    owners = {str(target): of for target, of in finals.owners.items()}
    verdict = check_convergence(finals.seen, owners, healed_ns=finals.healed_ns, bound_ns=finals.bound_ns)
    unread = [
        Violation(Broken.UNSETTLED, target.key, "not all its replicas answered a read although everything was healed")
        for target in finals.unread
    ]
    return replace(verdict, violations=(*verdict.violations, *unread))


def _nodes(evidence: Evidence) -> Verdict:
    found = [
        Violation(Broken.LEFT_WAITING, node, f"{count} operations are under way although nobody waits for any")
        for node, count in evidence.left_waiting.items()
    ]
    found += [
        Violation(Broken.UNSETTLED, target.key, "no write was acknowledged although everything was healed")
        for target in evidence.unwritten
    ]
    return Verdict("nodes", tuple(found))


# --- contexts that must be refused ----------------------------------------------------------------------------------


def check_refused(history: History, witness: DotWitness) -> Verdict:
    """Judge that no write with an unusable context, or one of another key, was acknowledged, shown, or applied anywhere."""
    refused = [pair for pair in history.pairs() if pair.invocation.context_kind in REFUSED]
    wanted = {pair.invocation.value: pair for pair in refused if pair.invocation.value is not None}
    found = [(pair, "was acknowledged", pair.indexes) for pair in refused if pair.is_ok]
    found += [
        (wanted[value], "was shown", read.indexes)
        for read in history.pairs()
        if read.invocation.f in READS
        for value in read.values
        if value in wanted
    ]
    for object_id in witness.objects():
        for binding in witness.bindings(object_id).values():
            name = None if binding.value is None else name_of(binding.value)
            if name in wanted:
                found.append((wanted[name], "was applied by a node", ()))
    violations = [
        Violation(
            Broken.CONTEXT_ACCEPTED, pair.invocation.key,
            f"{pair.invocation.value or 'a delete'} {how} with a context that is {pair.invocation.context_kind}",
            (*pair.indexes, *evidence),
        )
        for pair, how, evidence in found
    ]  # fmt: skip
    return Verdict("refused", tuple(violations), figures={"refused": float(len(refused))})


# --- lww by what the clocks really showed ---------------------------------------------------------------------------


def check_lww_clocks(history: History, clocks: Sequence[SimClock], witness: DotWitness) -> Verdict:
    """Judge that no lww write lost to one that certainly got an earlier time: the rule of `clock.must_win`.

    Its first half is worked out once for each winner: a strobed clock has thousands of changes. Complexity: O(writes + changes)
    for each object, if few changes lie within one write.
    """
    violations: list[Violation] = []
    compared = 0
    for story in stories(history, Kind.LWW) if clocks else ():
        rivals = _rivals(story, witness)
        if rivals:
            compared += 1
            violations += _overtaken(story, rivals, clocks)
    return Verdict("lww_clocks", tuple(violations), figures={"compared": float(compared)})


def _rivals(story: Story, witness: DotWitness) -> list[Pair]:
    """Return who took the place of everybody else: the value that is there, or all deletes. None if in doubt about one."""
    if story.final is None or len(story.final.values) > 1:
        return []
    winner = story.puts.get(story.final.values[0]) if story.final.values else None
    if winner is not None:
        twice = [name_of(value) for value in witness.written_twice()]
        return [winner] if winner.is_ok and not may_return(winner, twice) else []
    if story.final.values or _has_repeated_delete(story, witness):
        return []
    return story.deletes if all(pair.is_ok for pair in story.deletes) else []


def _has_repeated_delete(story: Story, witness: DotWitness) -> bool:
    """Return whether a delete has two dots: a retry that came late made the second, after the acknowledgement."""
    bindings = witness.bindings(Target(Kind.LWW, story.key).storage_key).values()
    tombstones = [binding.operation_id for binding in bindings if binding.value is None]
    return len(tombstones) > len(dict.fromkeys(tombstones))


def _overtaken(story: Story, rivals: Collection[Pair], clocks: Sequence[SimClock]) -> Iterator[Violation]:
    ended_ns = max(pair.completion.time_ns for pair in rivals if pair.completion is not None)
    latest_ns = max(clock.reach_ns(0.0, ended_ns / 1e9)[1] for clock in clocks)
    is_deleted = not (story.final and story.final.values)
    for pair in story.writes:
        until_ns = _until_ns(story, pair)
        is_other = pair not in rivals and not (is_deleted and pair.invocation.value is None)
        if is_other and until_ns is not None and pair.invocation.time_ns > ended_ns:
            earliest_ns = min(clock.reach_ns(pair.invocation.time_ns / 1e9, until_ns / 1e9)[0] for clock in clocks)
            if earliest_ns > latest_ns + HLC_STEP_NS:
                ahead_ms = (earliest_ns - latest_ns) / 1e6
                lost, won = (
                    pair.invocation.value or "a delete",
                    [each.invocation.value or "a delete" for each in rivals],
                )
                message = f"{lost} lost to {' '.join(won)}, whose time is at least {ahead_ms:.0f} ms earlier"
                evidence = (*pair.indexes, *(index for each in rivals for index in each.indexes))
                yield Violation(Broken.OVERTAKEN, story.key, message, evidence)


def _until_ns(story: Story, pair: Pair) -> int | None:
    """Return by when a write had certainly got its time; None if it may never have."""
    if pair.is_ok and pair.completion is not None:
        return pair.completion.time_ns
    shown = story.first_shown.get(pair.invocation.value or "")
    if shown is None or shown.completion is None or pair.outcome is OpType.FAIL:
        return None
    return shown.completion.time_ns
