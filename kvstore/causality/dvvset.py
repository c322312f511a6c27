"""Dotted siblings: the state of one register, and the only four ways in which it may change.

    state   = version vector (everything ever seen)  +  the values of it that nothing has replaced, each with its own dot

            {a:3, b:1}   (a,3) "red"   (b,1) "blue"      two siblings; (a,1) and (a,2) were seen and replaced

A value leaves a state only because a vector covers its dot and the state that owns that vector does not hold it any more,
which means that somebody who had seen it replaced it. `update` makes a new dot, `sync` joins two states, `join` gives the
history for a context, `discard` drops what a context covers.

Invariants
  1. Every sibling's dot is covered by the vector; siblings are sorted by dot; no dot occurs twice.
  2. `sync` is commutative and idempotent, and associative as long as no operation id was written at two coordinators.
  3. An operation id occurs at most once among the siblings: the smallest dot survives (a retry through another
     coordinator is one value). Who replaced one dot of an operation replaced the operation: another dot of it that turns up
     later is dropped where the two states prove it, else it is a sibling (retries.py).
  4. `operations` are the newest OPERATIONS_KEPT_MAX (time, operation id, value hash, dot) known, overwritten ones too, and
     every dot of one that has two.

Sources: Preguiça et al., "Dotted Version Vectors", 2010; Gonçalves, DVVSet, section "sync". Differs: dots are explicit
instead of implied by list position, because dropping a retried duplicate may leave a gap in an actor's run.
"""

from __future__ import annotations

from typing import NamedTuple

from kvstore.causality.retries import first_of_each_operation, without_replaced
from kvstore.causality.version_vector import VersionVector, merge_vectors
from kvstore.ids import ActorId, HlcTimestamp, OperationId
from kvstore.limits import OPERATIONS_KEPT_MAX

__all__ = ["EMPTY", "DVVSet", "Operation", "Sibling", "discard", "join", "sync", "sync_lww", "update", "update_lww"]


class Sibling(NamedTuple):
    """One value and its dot. `value` None is a tombstone; `expires` is 0 or an absolute HLC time."""

    actor: ActorId
    counter: int
    hlc: HlcTimestamp
    expires: HlcTimestamp
    operation_id: OperationId
    value: bytes | None


class Operation(NamedTuple):
    """A put this state remembers, so that its retry is recognised.

    Sorted by the time a node gave it: ids begin with a time as well, but with a client's, and one whose clock is behind
    would be forgotten at once.
    """

    hlc: HlcTimestamp
    operation_id: OperationId
    value_hash: bytes
    actor: ActorId
    counter: int


class DVVSet(NamedTuple):
    """State of one object. Treat the vector as immutable: states share it."""

    vector: VersionVector
    siblings: tuple[Sibling, ...]
    operations: tuple[Operation, ...]


EMPTY = DVVSet({}, (), ())


def join(state: DVVSet) -> VersionVector:
    """Return everything the state has seen: what a context covers. Do not modify it."""
    return state.vector


def discard(state: DVVSet, context: VersionVector) -> DVVSet:
    """Return the state without the siblings that `context` covers, having seen everything in `context`."""
    return DVVSet(merge_vectors(state.vector, context), tuple(_uncovered(state, context)), state.operations)


def update(state: DVVSet, context: VersionVector, new: Sibling, value_hash: bytes) -> DVVSet:
    """Return the state with `new` in place of exactly the siblings that `context` covers.

    The new dot must be the actor's next one: one above its counter in the state *and* in the context.
    """
    assert new.counter > state.vector.get(new.actor, 0), "a dot is never minted twice"
    assert new.counter > context.get(new.actor, 0), "a context never names dots above the minting actor's"
    kept = _uncovered(state, context) if context else list(state.siblings)
    vector = merge_vectors(state.vector, context) if context else dict(state.vector)
    vector[new.actor] = new.counter
    kept.append(new)
    if len(kept) > 1:
        kept.sort()
    return DVVSet(vector, tuple(kept), _remember(state.operations, new, value_hash))


def update_lww(state: DVVSet, new: Sibling, value_hash: bytes) -> tuple[DVVSet, bool]:
    """Return the state after a last-writer-wins put, and whether `new` lost against what was there."""
    vector = dict(state.vector)
    vector[new.actor] = new.counter
    siblings = state.siblings
    if not siblings or (len(siblings) == 1 and siblings[0].hlc < new.hlc):
        winner = new
    else:
        winner = _lww_winner([*siblings, new])
    return DVVSet(vector, (winner,), _remember(state.operations, new, value_hash)), winner is not new


def sync(ours: DVVSet, theirs: DVVSet) -> DVVSet:
    """Join two states (least upper bound): keep what both hold, and what the other has not seen. Modifies neither."""
    if not ours.vector:
        return theirs
    if not theirs.vector:
        return ours
    their_dots = {(s.actor, s.counter) for s in theirs.siblings}
    kept = [s for s in ours.siblings if (s[0], s[1]) in their_dots or theirs.vector.get(s.actor, 0) < s.counter]
    our_vector = ours.vector
    kept += [s for s in theirs.siblings if our_vector.get(s.actor, 0) < s.counter]
    kept = without_replaced(kept, (*ours.operations, *theirs.operations), ours, theirs)
    kept.sort()
    if len(kept) > 1:
        kept = first_of_each_operation(kept)
    return DVVSet(
        merge_vectors(our_vector, theirs.vector), tuple(kept), _merge_operations(ours.operations, theirs.operations)
    )


def sync_lww(ours: DVVSet, theirs: DVVSet) -> DVVSet:
    """Join two last-writer-wins states: the greatest (HLC, actor, counter, value) survives; vectors never choose."""
    if not ours.vector:
        return theirs
    if not theirs.vector:
        return ours
    siblings = [*ours.siblings, *theirs.siblings]
    winner = (_lww_winner(siblings),) if siblings else ()
    operations = _merge_operations(ours.operations, theirs.operations)
    return DVVSet(merge_vectors(ours.vector, theirs.vector), winner, operations)


def _lww_winner(siblings: list[Sibling]) -> Sibling:
    return max(siblings, key=lambda s: (s.hlc, s.actor, s.counter, s.value or b"", s.expires, s.operation_id))


def _uncovered(state: DVVSet, context: VersionVector) -> list[Sibling]:
    """Return the siblings that whoever has this context was not shown."""
    kept = [s for s in state.siblings if context.get(s.actor, 0) < s.counter]
    return without_replaced(kept, state.operations, DVVSet(context, (), ())) if kept else kept


def _remember(operations: tuple[Operation, ...], new: Sibling, value_hash: bytes) -> tuple[Operation, ...]:
    operation = Operation(new.hlc, new.operation_id, value_hash, new.actor, new.counter)
    if not operations:
        return (operation,)
    return _merge_operations(operations, (operation,))


def _merge_operations(ours: tuple[Operation, ...], theirs: tuple[Operation, ...]) -> tuple[Operation, ...]:
    if ours == theirs:
        return ours
    return tuple(sorted({*ours, *theirs})[-OPERATIONS_KEPT_MAX:])
