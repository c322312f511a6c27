"""White-box causality: merged contexts against the joined replicas.

A row is: the script; the context each write was given, as dots by its value (`a2 b1` = a vector; a delete is named `-`); the
dots seen (`A@a1`, `-@a2` a tombstone); the joined vector; the siblings at the end (their dots).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from jepsen_lite.checkers.dot_causality import Joined, Observed, check_dot_causality, join_replicas, observe
from jepsen_lite.checkers.dots import Binding, Dot, DotWitness
from jepsen_lite.checkers.verdict import Broken, Outcome
from jepsen_lite.history import F, History, Kind, OpType
from kvstore.causality.context import encode_context
from kvstore.causality.dvvset import EMPTY, DVVSet, sync
from kvstore.causality.version_vector import VersionVector, encode_vector
from kvstore.ids import ActorId, ObjectType
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import encode_record
from tests.causality.histories import World, actor_of, put, worlds
from tests.checkers.scripts import tell

K = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
DELETE_ID = b"delete".ljust(16, b".")

A_B = "0 put k A ok; 1 put k B [A] ok; final k -> "
GOOD = [
    ("there", "0 put k A ok; final k -> ", {}, "A@a1", "a1", "a1"),
    ("covered and gone", A_B, {"B": "a1"}, "A@a1 B@a2", "a2", "a2"),
    ("siblings", A_B, {"B": ""}, "A@a1 B@b1", "a1 b1", "a1 b1"),
    ("unknown outcome, never applied", "0 put k A info; final k -> ", {}, "", "", ""),
    ("unknown outcome, applied", "0 put k A info; final k -> ", {}, "A@a1", "a1", "a1"),
    ("unknown outcome, applied and lost with a disk", "0 put k A info; final k -> ", {}, "A@a1", "", ""),
    ("unknown outcome, lost: what it had covered stays", "0 put k A ok; 1 put k B [A] info; final k -> ", {"B": "a1"},
     "A@a1 B@b1", "a1", "a1"),
    ("unknown outcome, applied: what it had covered goes", "0 put k A ok; 1 put k B [A] info; final k -> ", {"B": "a1"},
     "A@a1 B@b1", "a1 b1", "b1"),
    ("applied, then covered by another", "0 put k A info; 1 put k B [A] ok; final k -> ", {"B": "a1"}, "A@a1 B@b1", "a1 b1",
     "b1"),
    ("a retry keeps its smallest dot", "0 put k A ok; final k -> ", {}, "A@a1 A@b1", "a1 b1", "a1"),
    ("a retry came back: one dot is covered, the other is there", A_B, {"B": "a1"}, "A@a1 A@c1 B@b1", "a1 b1 c1", "b1 c1"),
    ("a retry did not come back", A_B, {"B": "a1"}, "A@a1 A@c1 B@b1", "a1 b1 c1", "b1"),
    ("deleted", "0 put k A ok; 1 delete k [A] ok; final k -> ", {"-": "a1"}, "A@a1 -@a2", "a2", "a2"),
    ("deleted, unknown outcome, applied", "0 put k A ok; 1 delete k [A] info; final k -> ", {"-": "a1"}, "A@a1 -@a2", "a2",
     "a2"),
    ("deleted, unknown outcome, not applied", "0 put k A ok; 1 delete k [A] info; final k -> ", {"-": "a1"}, "A@a1", "a1",
     "a1"),
    ("recreated", "0 put k A ok; 1 delete k [A] ok; 0 put k B [] ok; final k -> ", {"-": "a1", "B": "a2"}, "A@a1 -@a2 B@a3",
     "a3", "a3"),
    ("blind recreation stands beside the tombstone", "0 put k A ok; 1 delete k [A] ok; 0 put k B ok; final k -> ", {"-": "a1"},
     "A@a1 -@a2 B@a3", "a3", "a2 a3"),
    ("a blind delete saw nobody knows what", "0 put k A ok; 1 delete k ok; final k -> ", {}, "A@a1 -@a2", "a2", "a2"),
    ("refused, never applied", "0 put k A ok; 1 put k B [A] fail; final k -> ", {"B": "a1"}, "A@a1", "a1", "a1"),
]  # fmt: skip
BAD = [
    ("acknowledged and never applied", "0 put k A ok; final k -> ", {}, "", "", "", Broken.LOST),
    ("acknowledged and gone", "0 put k A ok; final k -> ", {}, "A@a1", "a1", "", Broken.LOST),
    ("acknowledged and forgotten", "0 put k A ok; final k -> ", {}, "A@a1", "", "", Broken.LOST),
    ("erased by a context that never saw it", A_B, {"B": ""}, "A@a1 B@b1", "a1 b1", "b1", Broken.LOST),
    ("erased by a server-id clock", A_B, {"B": ""}, "A@a1 B@a2", "a2", "a2", Broken.LOST),
    ("half an effect: covered by a write that was lost", "0 put k A ok; 1 put k B [A] info; final k -> ", {"B": "a1"},
     "A@a1 B@b1", "a1", "", Broken.LOST),
    ("unknown outcome, applied, erased unseen", "0 put k A info; 1 put k B ok; final k -> ", {}, "A@a1 B@b1", "a1 b1", "b1",
     Broken.LOST),
    ("a refused write covers nothing", "0 put k A ok; 1 put k B [A] fail; final k -> ", {"B": "a1"}, "A@a1", "a1", "",
     Broken.LOST),
    ("a delete of unknown outcome that left no dot", "0 put k A ok; 1 delete k [A] info; final k -> ", {"-": "a1"}, "A@a1",
     "a1", "",
     Broken.LOST),
    ("gone with what was deleted", "0 put k A ok; 1 delete k [A] ok; 0 put k B ok; final k -> ", {"-": "a1"},
     "A@a1 -@a2 B@a3", "a3", "a2", Broken.LOST),
    ("covered and there", A_B, {"B": "a1"}, "A@a1 B@b1", "a1 b1", "a1 b1", Broken.RESURRECTED),
    ("deleted and there", "0 put k A ok; 1 delete k [A] ok; final k -> ", {"-": "a1"}, "A@a1 -@b1", "a1 b1", "a1 b1",
     Broken.RESURRECTED),
    ("covered by a write of unknown outcome that took effect", "0 put k A ok; 1 put k B [A] info; final k -> ", {"B": "a1"},
     "A@a1 B@b1", "a1 b1", "a1 b1", Broken.RESURRECTED),
    ("a tombstone that was covered", "1 delete k [] ok; 0 put k B [] ok; final k -> ", {"-": "", "B": "a1"}, "-@a1 B@a2",
     "a2", "a1 a2",
     Broken.RESURRECTED),
    ("refused and applied", "0 put k A fail; final k -> ", {}, "A@a1", "a1", "a1", Broken.PHANTOM),
    ("nobody put it", "0 put k A ok; final k -> ", {}, "A@a1 Z@b1", "a1 b1", "a1 b1", Broken.PHANTOM),
]  # fmt: skip


def _dot(text: str) -> Dot:
    return Dot(text[0].encode() * 20, int(text[1:]))


def _vector(text: str) -> VersionVector:
    return {ActorId(dot.actor): dot.counter for dot in map(_dot, text.split())}


def _told(script: str, contexts: dict[str, str]) -> History:
    """Return the history of a script, its writes with their contexts' bytes and deletes with an operation id."""
    ops = []
    for op in tell(script).ops:
        name = op.value or ("-" if op.f is F.DELETE else "")
        if op.type is OpType.INVOKE and name in contexts:
            op = replace(op, context=encode_context(K[:8], 0, encode_vector(_vector(contexts[name]))))
        if op.f is F.DELETE and name in contexts:
            op = replace(op, operation_id=DELETE_ID.hex())
        ops.append(op)
    return History.of(ops)


def _observed(dots: str, vector: str, siblings: str) -> Observed:
    bindings = {}
    for text in dots.split():
        value, at = text.split("@")
        bindings[_dot(at)] = Binding(
            DELETE_ID if value == "-" else value.encode() * 16, None if value == "-" else value
        )
    final = {dot: bindings[dot] for dot in map(_dot, siblings.split())}
    return Observed("k", K[:8], bindings, Joined(_vector(vector), final))


@pytest.mark.parametrize("row", [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_covered_is_gone_and_uncovered_is_there(row: tuple[str, dict[str, str], str, str, str]) -> None:
    """Nothing here breaks a promise."""
    script, contexts, dots, vector, siblings = row
    history = _told(script, contexts)

    verdict = check_dot_causality(history, [_observed(dots, vector, siblings)])

    assert verdict.is_ok, verdict.explain(history)


@pytest.mark.parametrize("row", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_contexts_do_not_explain_is_named(row: tuple[str, dict[str, str], str, str, str, Broken]) -> None:
    """Exactly one violation each."""
    script, contexts, dots, vector, siblings, broken = row

    verdict = check_dot_causality(_told(script, contexts), [_observed(dots, vector, siblings)])

    assert [violation.broken for violation in verdict.violations] == [broken]


def test_a_collected_record_leaves_doubt_about_unknown_outcomes_only() -> None:
    """After collection vectors do not tell any more whether the write of unknown outcome took effect."""
    history = _told("0 put k A ok; 1 put k B [A] info; final k -> ", {"B": "a1"})
    gone = _observed("A@a1 B@b1", "", "")

    assert check_dot_causality(history, [replace(gone, is_collected=True)]).is_ok
    assert not check_dot_causality(history, [gone]).is_ok


def test_a_delete_that_cannot_be_recognised_excuses_but_does_not_forbid() -> None:
    """Of unknown outcome, and the recorder does not know its operation id."""
    history = tell("0 put k A ok; 1 delete k [A] info; final k -> ")
    context = encode_context(K[:8], 0, encode_vector(_vector("a1")))
    ops = [replace(op, context=context) if op.f is F.DELETE and op.type is OpType.INVOKE else op for op in history.ops]

    for siblings in ("", "a1"):
        assert check_dot_causality(History.of(ops), [_observed("A@a1", "a1", siblings)]).is_ok


def test_a_context_of_another_key_must_not_be_acknowledged() -> None:
    """The hash in it says whose it is."""
    history = tell("0 put k A ok; 1 put k B [A] ok; final k -> ")
    context = encode_context(b"another.", 0, encode_vector(_vector("a1")))
    ops = [replace(op, context=context) if op.value == "B" and op.type is OpType.INVOKE else op for op in history.ops]

    verdict = check_dot_causality(History.of(ops), [_observed("A@a1 B@b1", "a1 b1", "a1 b1")])

    assert [violation.broken for violation in verdict.violations] == [Broken.CONTEXT_ACCEPTED]


@pytest.mark.parametrize(("hlc", "broken"), [(8, []), (7, [Broken.CLOCK_BEHIND]), (6, [Broken.CLOCK_BEHIND]), (0, [])])
def test_a_write_is_later_than_everything_its_context_had_seen(hlc: int, broken: list[Broken]) -> None:
    """The context carries the highest time it covers, here 7; 0 means that the time of the dot is not known."""
    history = tell("0 put k A ok; 1 put k B [A] ok; final k -> ")
    context = encode_context(K[:8], 7, encode_vector(_vector("a1")))
    ops = [replace(op, context=context) if op.value == "B" and op.type is OpType.INVOKE else op for op in history.ops]
    seen = _observed("A@a1 B@b1", "a1 b1", "b1")
    late = {dot: each._replace(hlc=hlc if each.value == "B" else 7) for dot, each in seen.bindings.items()}

    verdict = check_dot_causality(History.of(ops), [replace(seen, bindings=late)])

    assert [violation.broken for violation in verdict.violations] == broken


def test_an_object_that_nobody_observed_is_unjudged() -> None:
    """Unknown is not good."""
    assert check_dot_causality(tell("0 put k A ok"), []).outcome is Outcome.UNKNOWN
    assert check_dot_causality(tell("0 put k A fail; 1 get k -> "), []).outcome is Outcome.OK


LWW = [
    ("the newest is there", "A@a1:5 B@b1:7", "a1 b1", "b1", None),
    ("ties go to the larger dot", "A@a1:5 B@b1:5", "a1 b1", "b1", None),
    ("an older one is there", "A@a1:5 B@b1:7", "a1 b1", "a1", Broken.OVERTAKEN),
    ("nothing is there", "A@a1:5 B@b1:7", "a1 b1", "", Broken.OVERTAKEN),
    ("an acknowledged one is forgotten", "A@a1:5 B@b1:7", "a1", "a1", Broken.LOST),
    ("a deleted one is back", "A@a1:5 B@a2:6 -@b1:7", "a2 b1", "a2", Broken.OVERTAKEN),
]


@pytest.mark.parametrize(
    ("dots", "vector", "siblings", "broken"), [row[1:] for row in LWW], ids=[row[0] for row in LWW]
)
def test_in_lww_the_newest_write_that_replicas_know_is_there(
    dots: str, vector: str, siblings: str, broken: Broken | None
) -> None:
    """By (HLC, actor, counter); contexts never choose."""
    bindings = {}
    for text in dots.split():
        value, at, hlc = text.replace(":", "@").split("@")
        bindings[_dot(at)] = Binding(value.encode() * 16, None if value == "-" else value, int(hlc))
    final = Joined(_vector(vector), {dot: bindings[dot] for dot in map(_dot, siblings.split())})
    history = tell("0 put w A ok; 1 put w B ok; final w -> ")

    verdict = check_dot_causality(history, [Observed("w", K[:8], bindings, final, Kind.LWW)])

    assert [violation.broken for violation in verdict.violations] == ([broken] if broken else [])


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_replicas_join_from_the_definition_as_they_sync(world: World) -> None:
    """The judge does not use the product's `sync`; on real states both say the same."""
    synced = EMPTY
    for state in world.states:
        synced = sync(synced, state)

    joined = join_replicas(world.states)

    assert joined.vector == synced.vector
    assert sorted(joined.siblings) == [(s.actor, s.counter) for s in synced.siblings]


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_real_states_keep_every_promise(world: World) -> None:
    """The real DVVSet, seen through a witness, with the contexts of the real clients; every put acknowledged."""
    witness, history = DotWitness(), History()
    for state in world.snapshots:
        if state != EMPTY:
            witness.see_record("n", K, encode_record(K, state))
    process = history.new_process()
    for dot, event in world.events.items():
        binding = witness.bindings(K)[Dot(*dot)]
        seen = DVVSet({}, (), ()).vector | {
            actor: max(c for a, c in event.seen if a == actor) for actor, _ in sorted(event.seen)
        }
        f, value = (F.DELETE, None) if event.value is None else (F.PUT, binding.value)
        op = history.invoke(
            process, f, "k", time_ns=0, value=value, operation_id=binding.operation_id.hex(),
            context=encode_context(K[:8], 0, encode_vector(seen)),
        )  # fmt: skip
        history.complete(op, OpType.INFO if dot not in _kept(world) else OpType.OK, time_ns=0)
        process = history.new_process()

    verdict = check_dot_causality(history, [observe(witness, K, world.states, kind=Kind.REGISTER)])

    assert verdict.is_ok, verdict.explain(history)


def _kept(world: World) -> frozenset[tuple[ActorId, int]]:
    """Return the dots that no lost disk took away: what could have been acknowledged."""
    return frozenset[tuple[ActorId, int]]().union(*world.known)


def test_observe_reads_records_as_the_witness_does() -> None:
    """Two replicas of which one is behind: the join has what the newer one says."""
    witness = DotWitness()
    old = put(EMPTY, {}, actor_of(0), 1, b"A")
    new = put(old, old.vector, actor_of(0), 2, b"B")
    for state in (old, new):
        witness.see_record("n1", K, encode_record(K, state))

    seen = observe(witness, K, [old, new], kind=Kind.REGISTER)

    assert (seen.key, seen.token, len(seen.bindings)) == ("k", K[:8], 2)
    assert [binding.value for binding in seen.final.siblings.values()] == ["B"]
    lww = observe(witness, K, [old, put(EMPTY, {}, actor_of(1), 9, b"C")], kind=Kind.LWW)
    assert [binding.value for binding in lww.final.siblings.values()] == ["C"]
