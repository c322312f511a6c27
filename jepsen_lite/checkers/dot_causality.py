"""White-box judge of registers and lww: what contexts did not cover is there at the end, what they covered is not.

    merged = join of the contexts of all writes that took effect          V = vector of the joined replicas
    dot of an acknowledged value   not in merged ─► its value is there                 else LOST
    dot of any value               in merged     ─► that dot is not there              else RESURRECTED (false concurrency)
    unknown outcome                its dot in V ─► it took effect: both rules hold     not in V ─► it has none

This trusts what the store says about dots and contexts, so it says where a bug is, and misses bugs that lie in the same way on
both sides (`correctness` rule 29); causality.py trusts nothing. Run both.

Invariants, for each object; D(w) are the dots at which a write was seen (two if a retry met another coordinator)
  1. A write took effect if it was acknowledged, or a dot of it is in V: a state that covers the dot came through its write, so
     it covers its context, too. A refused write has no dot.
  2. acknowledged, no dot in merged  ⇒  present.   In V, none in merged  ⇒  present (erased by a state that never saw it).
  3. A dot in merged is not among the siblings. (A value with two dots of which one is covered may be there: documented.)
  4. Every sibling was put here. So acked-uncovered ⊆ actual ⊆ (acked ∪ unknown) − covered.
  5. lww: contexts never choose. The sibling is the greatest (HLC, actor, counter) of all dots in V, and V has all that were
     acknowledged. (One that lost at its coordinator is never a sibling, so "no dot was seen" means nothing here.)
  6. A write that took effect has a later time than everything its context covers (`correctness` rule 4).
An object whose record was collected, or deleted by a client without a context (nobody knows what that delete saw), has contexts
that only *may* have been applied: they excuse an absence and forbid no presence.

Source: `reliability` 3.6, after kv679_eqc. Complexity: O((writes + dots) · |VV|); naming the evidence of a violation O(writes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jepsen_lite.checkers.dots import Binding, Dot, DotWitness, key_of, value_of
from jepsen_lite.checkers.stories import Story, outcome_words, stories
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import REFUSED, ContextKind, F, History, Kind, OpType, Pair
from kvstore.causality.context import decode_context
from kvstore.causality.dvvset import DVVSet
from kvstore.causality.version_vector import VersionVector, covers
from kvstore.errors import InvalidContext
from kvstore.ids import ActorId

__all__ = ["Joined", "Observed", "check_dot_causality", "join_replicas", "observe"]


@dataclass(frozen=True, slots=True)
class Joined:
    """The join of all replicas of one object."""

    vector: VersionVector
    siblings: Mapping[Dot, Binding]


@dataclass(frozen=True, slots=True)
class Observed:
    """What the world saw of one object: every dot ever applied on any node, and the join of all replicas at the end."""

    key: str
    token: bytes
    """The first 8 bytes of the storage key, which contexts carry."""
    bindings: Mapping[Dot, Binding]
    final: Joined
    kind: Kind = Kind.REGISTER
    is_collected: bool = False
    """Whether any node ever dropped the record by the tombstone rule, so that vectors no longer tell everything."""


def join_replicas(states: Iterable[DVVSet]) -> Joined:
    """Join replicas from the definition, not with the product's `sync`: that is what is judged.

    A sibling survives if no replica covers its dot without holding it. O(replicas² · siblings).
    """
    states = list(states)
    vector: VersionVector = {}
    siblings: dict[Dot, Binding] = {}
    for state in states:
        for actor, counter in state.vector.items():
            vector[actor] = max(counter, vector.get(actor, 0))
    held = [frozenset(Dot(s.actor, s.counter) for s in state.siblings) for state in states]
    for state in states:
        for s in state.siblings:
            dot = Dot(s.actor, s.counter)
            if all(dot in h or not covers(o.vector, s.actor, s.counter) for h, o in zip(held, states, strict=True)):
                siblings[dot] = Binding(s.operation_id, value_of(s.value), s.hlc)
    return Joined(vector, siblings)


def observe(
    witness: DotWitness, storage_key: bytes, states: Iterable[DVVSet], *, kind: Kind, is_collected: bool = False
) -> Observed:
    """Return what is known of one object, from the witness and the final states of its replicas (lww: see invariant 5)."""
    states = list(states)
    joined = join_replicas(states)
    if kind is Kind.LWW and states:
        every = {
            Dot(s.actor, s.counter): Binding(s.operation_id, value_of(s.value), s.hlc)
            for o in states
            for s in o.siblings
        }
        winner = max(every, key=lambda dot: (every[dot].hlc, dot), default=None)
        joined = Joined(joined.vector, {} if winner is None else {winner: every[winner]})
    return Observed(key_of(storage_key), storage_key[:8], witness.bindings(storage_key), joined, kind, is_collected)


def check_dot_causality(history: History, observed: Iterable[Observed]) -> Verdict:
    """Judge every object of which there is an observation; registers and lww objects without one are unjudged."""
    told = {(kind, story.key): story for kind in (Kind.REGISTER, Kind.LWW) for story in stories(history, kind)}
    violations: list[Violation] = []
    seen: dict[tuple[Kind, str], bool] = {}
    dots = 0
    for each in observed:
        seen[each.kind, each.key] = True
        dots += len(each.bindings)
        story = told.get((each.kind, each.key)) or Story(each.key, each.kind)
        violations += _Object(story, each).judge()
    unjudged = [story.key for which, story in told.items() if which not in seen and story.has_effects]
    return Verdict("dot_causality", tuple(violations), tuple(unjudged), {"objects": len(seen), "dots": dots})


@dataclass(slots=True)
class _Object:
    """One object: its writes by their dots, and the contexts that were applied, or may have been."""

    story: Story
    seen: Observed
    merged: VersionVector = field(default_factory=dict)
    excused: VersionVector = field(default_factory=dict)
    """Contexts that may have been applied, joined."""
    blind_horizon: float = 0
    """Puts invoked before this index may have been covered by a blind delete."""
    by_value: dict[str, list[Dot]] = field(default_factory=dict)
    by_operation: dict[bytes, list[Dot]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def judge(self) -> list[Violation]:
        """Return everything that is wrong with this object."""
        for dot, binding in self.seen.bindings.items():
            self.by_operation.setdefault(binding.operation_id, []).append(dot)
            if binding.value is not None:
                self.by_value.setdefault(binding.value, []).append(dot)
        for pair in self.story.writes:
            self._apply(pair)
        for pair in self.story.writes:
            self._judge_write(pair)
        self._judge_siblings()
        return self.violations

    # --- which contexts were applied --------------------------------------------------------------------------------

    def _dots(self, pair: Pair) -> list[Dot]:
        op = pair.invocation
        if op.value is not None:
            return self.by_value.get(op.value, [])
        return self.by_operation.get(bytes.fromhex(op.operation_id), []) if op.operation_id else []

    def _is_in_vector(self, dot: Dot) -> bool:
        return covers(self.seen.final.vector, ActorId(dot.actor), dot.counter)

    def _apply(self, pair: Pair) -> None:
        op = pair.invocation
        if not pair.may_have_happened or op.context_kind in REFUSED:
            return
        took_effect = pair.is_ok or any(map(self._is_in_vector, self._dots(pair)))
        if op.f is F.DELETE and op.context_kind is ContextKind.BLIND:
            until = pair.completion.index if pair.completion is not None and pair.is_ok else float("inf")
            self.blind_horizon = max(self.blind_horizon, until)
        elif op.context is not None:
            # Was it applied and then forgotten, or never? A delete nobody can recognise, or a collected record, leaves doubt.
            is_unrecognisable = op.value is None and op.operation_id is None
            if took_effect or is_unrecognisable or (self.seen.is_collected and self._dots(pair)):
                self._join(pair, op.context, into=self.merged if took_effect else self.excused)

    def _join(self, pair: Pair, context: bytes, *, into: VersionVector) -> None:
        try:
            vector, context_hlc = decode_context(context, self.seen.token)
        except InvalidContext as problem:
            if pair.is_ok:
                self._add(Broken.CONTEXT_ACCEPTED, f"acknowledged with a context that cannot be read: {problem}", pair)
            return
        for actor, counter in vector.items():
            into[actor] = max(counter, into.get(actor, 0))
        for dot in self._dots(pair):
            hlc = self.seen.bindings[dot].hlc
            if 0 < hlc <= context_hlc:
                message = f"{_name(pair)} got time {hlc} at dot {dot}, and its context had seen {context_hlc}"
                self._add(Broken.CLOCK_BEHIND, message, pair)

    # --- what must be there -----------------------------------------------------------------------------------------

    def _judge_write(self, pair: Pair) -> None:
        op, dots = pair.invocation, self._dots(pair)
        if not pair.may_have_happened:
            if dots:
                self._add(Broken.PHANTOM, f"{_name(pair)} certainly failed and was applied at dot {dots[0]}", pair)
        elif self.seen.kind is Kind.LWW:
            if pair.is_ok and dots and not self.seen.is_collected and not any(map(self._is_in_vector, dots)):
                self._add(Broken.LOST, f"{_name(pair)} was acknowledged and no replica knows its dot", pair)
        elif pair.is_ok and not dots and (op.value is not None or op.operation_id):
            self._add(Broken.LOST, f"{_name(pair)} was acknowledged and no node ever applied it", pair)
        elif op.value is not None and dots:
            self._judge_put(pair, dots)

    def _judge_put(self, pair: Pair, dots: list[Dot]) -> None:
        is_due = pair.is_ok or any(map(self._is_in_vector, dots))
        if is_due and not any(dot in self.seen.final.siblings for dot in dots) and not self._is_excused(pair, dots):
            message = f"{_name(pair)} ({outcome_words(pair)}, dot {dots[0]}) is gone and no applied context covers it"
            self._add(Broken.LOST, message, pair)

    def _is_excused(self, pair: Pair, dots: list[Dot]) -> bool:
        if pair.invocation.index < self.blind_horizon:
            return True
        return any(_covered(self.merged, dot) or _covered(self.excused, dot) for dot in dots)

    # --- what must not be there -------------------------------------------------------------------------------------

    def _judge_siblings(self) -> None:
        for dot, binding in self.seen.final.siblings.items():
            put = self.story.puts.get(binding.value) if binding.value is not None else None
            if binding.value is not None and put is None:
                self._add(Broken.PHANTOM, f"{binding.value!r} is at dot {dot} and nobody put it here")
            elif self.seen.kind is Kind.REGISTER and _covered(self.merged, dot):
                name = binding.value or "a tombstone"
                message = f"{name} is at dot {dot}, which a context covers that was applied"
                self._add(Broken.RESURRECTED, message, put, self._who_covers(dot))
        if self.seen.kind is Kind.LWW:
            self._judge_winner()

    def _judge_winner(self) -> None:
        known = {dot: binding for dot, binding in self.seen.bindings.items() if self._is_in_vector(dot)}
        if not known or self.seen.is_collected:
            return
        best = max(known, key=lambda dot: (known[dot].hlc, dot))
        if best not in self.seen.final.siblings:
            what = known[best].value or "a tombstone"
            put = self.story.puts.get(what)
            self._add(
                Broken.OVERTAKEN, f"{what} at dot {best} is the newest write that replicas know, and did not win", put
            )

    def _who_covers(self, dot: Dot) -> Pair | None:
        """Return the first write whose context covers the dot."""
        for pair in self.story.writes:
            context = pair.invocation.context
            if pair.outcome is not OpType.FAIL and context is not None:
                try:
                    vector, _ = decode_context(context, self.seen.token)
                except InvalidContext:
                    continue  # said already, where it was applied
                if _covered(vector, dot):
                    return pair
        return None

    def _add(self, broken: Broken, message: str, *pairs: Pair | None) -> None:
        evidence = tuple(index for pair in pairs if pair is not None for index in pair.indexes)
        self.violations.append(Violation(broken, self.seen.key, message, evidence))


def _covered(vector: VersionVector, dot: Dot) -> bool:
    return vector.get(ActorId(dot.actor), 0) >= dot.counter


def _name(pair: Pair) -> str:
    return pair.invocation.value or "a delete"
