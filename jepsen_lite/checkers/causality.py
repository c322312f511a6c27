"""Black-box judge of registers: no value is gone unless somebody who had been shown it replaced or deleted it.

    put A ──ok──►   read shows {A}   put B (with its context) ──?──►   at the end:  {B} fine   {A} fine   {} A is LOST

It looks only at values that clients wrote and were shown, never at contexts, dots or clocks of the store: an oracle that
trusted those passed 60,000 walks that lost data (`correctness` rule 29).

Invariants
  1. An acknowledged value, and one that a read has shown (reads show only what is durable), is *accounted for* at the end:
     it is there, or a delete that may have happened had been shown it, or a put that may have happened had been shown it
     and is itself accounted for. So a chain of replacements ends in a value that is really there, or in a delete. A put of
     unknown outcome may have replaced or not, but not half: A gone and B not there is a loss.
  2. Nothing is seen that nobody put to this object, whose put certainly failed, or whose put was not yet invoked.
  3. No write succeeds with an unusable context or one of another key.
  4. All reads of all replicas after the run show the same.
A put's own context stands for that put's value, so what the value had replaced is accounted for through it. A blind delete
reads for itself and nobody knows what: it may have seen whatever was put before it ended.

Source: `correctness` rule 29; `reliability` 3.6. Complexity: O(history + all values shown).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from jepsen_lite.checkers.stories import Story, final_values, outcome_words, stories, values_put
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import READS, REFUSED, ContextKind, F, History, Kind, OpType, Pair

__all__ = ["accounted", "check_causality", "check_phantoms", "unaccounted"]


def check_causality(history: History, *, shown_is_durable: bool = True) -> Verdict:
    """Judge all registers by invariants 1, 3 and 4. `shown_is_durable` False after faults that take synced data away."""
    told = stories(history, Kind.REGISTER)
    violations: list[Violation] = []
    for story in told:
        violations += _lost(story, shown_is_durable=shown_is_durable)
        violations += _accepted(story)
        violations += unsettled(story)
    return Verdict(
        "causality",
        tuple(violations),
        unjudged=tuple(story.key for story in told if story.has_effects and story.final is None),
        figures={
            "values": sum(len(story.puts) for story in told),
            "acknowledged": sum(pair.is_ok for story in told for pair in story.writes),
            "unknown": sum(pair.outcome is OpType.INFO for story in told for pair in story.writes),
        },
    )


def check_phantoms(history: History) -> Verdict:
    """Judge every answered read of every kind of object by invariant 2: one violation for each object and value."""
    put = values_put(history)
    violations: list[Violation] = []
    shown: dict[tuple[Kind, str, str], bool] = {}
    for pair in history.pairs():
        op = pair.invocation
        if op.f in READS:
            for value in pair.values:
                if (op.kind, op.key, value) not in shown and (why := _phantom(pair, put.get(value))):
                    shown[op.kind, op.key, value] = True
                    evidence = (*(put[value].indexes if value in put else ()), *pair.indexes)
                    violations.append(Violation(Broken.PHANTOM, op.key, f"{value} was shown {why}", evidence))
    return Verdict("phantoms", tuple(violations))


def _phantom(read: Pair, put: Pair | None) -> str | None:
    assert read.completion is not None, "an answered read"
    if put is None:
        return "and nobody ever wrote it"
    if (put.invocation.key, put.invocation.kind) != (read.invocation.key, read.invocation.kind):
        return f"here, and was written to {put.invocation.kind} {put.invocation.key}"
    if not put.may_have_happened:
        return "although its write certainly failed"
    return "before anybody wrote it" if read.completion.index < put.invocation.index else None


def accounted(story: Story, final: Collection[str]) -> dict[str, bool]:
    """Return the values that are accounted for (invariant 1), each once.

    Walks back in time: a client can only have been shown what was put before its own write was invoked.
    """
    found = dict.fromkeys(final, True)
    horizon = _blind_horizon(story)
    for pair in reversed(story.writes):
        op = pair.invocation
        if op.value is not None and op.index < horizon:
            found[op.value] = True
        if pair.may_have_happened and (op.value is None or op.value in found):
            for value in op.shown:
                if value in story.puts and story.puts[value].invocation.index < op.index:
                    found[value] = True
    return found


def _blind_horizon(story: Story) -> float:
    """Return the index before which any put may have been seen by a blind delete."""
    blind = [pair for pair in story.deletes if pair.invocation.context_kind is ContextKind.BLIND]
    return max((pair.completion.index if pair.completion and pair.is_ok else float("inf") for pair in blind), default=0)


def unaccounted(story: Story) -> Iterator[Pair]:
    """Yield the puts whose values are gone although nothing accounts for it, whatever their outcome; none without a final."""
    if story.final is None:
        return
    found = accounted(story, final_values(story))
    for value, pair in story.puts.items():
        if value not in found:
            yield pair


def _lost(story: Story, *, shown_is_durable: bool) -> Iterator[Violation]:
    replacers: Mapping[str, list[Pair]] | None = None
    for pair in unaccounted(story):
        assert story.final is not None, "nothing is judged without a final read"
        value = pair.invocation.value or ""
        shown = story.first_shown.get(value)
        if pair.is_ok or (shown_is_durable and shown is not None and pair.may_have_happened):
            replacers = _replacers(story) if replacers is None else replacers
            others = [index for other in replacers.get(value, [])[:_EVIDENCE_MAX] for index in other.indexes]
            evidence = (*pair.indexes, *(shown.indexes if shown else ()), *others, *story.final.indexes)
            how = "shown" if shown is not None and not pair.is_ok else outcome_words(pair)
            message = f"{value} was {how} and is gone, and nothing that replaced it is there"
            yield Violation(Broken.LOST, story.key, message, evidence)


_EVIDENCE_MAX = 4
"""Would-be replacers shown with a lost value: enough to see the chain, few enough to read."""


def _replacers(story: Story) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in story.writes:
        for value in pair.invocation.shown:
            found.setdefault(value, []).append(pair)
    return found


def _accepted(story: Story) -> Iterator[Violation]:
    for pair in story.writes:
        if pair.is_ok and pair.invocation.context_kind in REFUSED:
            what = pair.invocation.value if pair.invocation.f is F.PUT else "a delete"
            message = f"{what} was acknowledged with a context that is {pair.invocation.context_kind}"
            yield Violation(Broken.CONTEXT_ACCEPTED, story.key, message, pair.indexes)


def unsettled(story: Story) -> Iterator[Violation]:
    """Yield a violation if the final reads of one object differ (invariant 4)."""
    for pair in story.finals[1:]:
        if frozenset(pair.values) != frozenset(story.finals[0].values):
            message = f"final reads show {sorted(story.finals[0].values)} and {sorted(pair.values)}"
            yield Violation(Broken.UNSETTLED, story.key, message, (*story.finals[0].indexes, *pair.indexes))
            return
