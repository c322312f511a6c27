"""One operation at two dots: a client sent it again through another coordinator, which had not heard of it.

    both dots unreplaced      the smallest one stands for the operation                  `first_of_each_operation`
    one of them replaced      so is the operation: its other dots are dropped            `without_replaced`

Whoever wrote with a context that covers one dot had been shown the value, at this dot or at a smaller one that stood for it. What
the other dot holds is that value, not another one, and it does not come back when the node that holds it does.

A state has *replaced* an operation if it covers a dot of it and, were that not so, would hold something else than it does:

    holds no dot of it                                 it would hold one
    holds a larger dot than the covered one            it would hold the smaller one
    holds one, and never heard of the covered one      only a context told it of that dot, and who had the context had seen it

"Never heard" is certain only of an operation that the state would remember if it had: it remembers the newest
OPERATIONS_KEPT_MAX. Nothing is dropped on less; so after as many newer operations a replaced value may be back as a sibling.

Source: `correctness` rule 6, which let it come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvstore.limits import OPERATIONS_KEPT_MAX

if TYPE_CHECKING:
    from kvstore.causality.dvvset import DVVSet, Operation, Sibling

__all__ = ["first_of_each_operation", "without_replaced"]


def first_of_each_operation(ordered: list[Sibling]) -> list[Sibling]:
    """Return the first sibling of each operation."""
    seen: set[bytes] = set()
    first = []
    for sibling in ordered:
        if sibling.operation_id not in seen:
            seen.add(sibling.operation_id)
            first.append(sibling)
    return first


def without_replaced(kept: list[Sibling], operations: Sequence[Operation], *states: DVVSet) -> list[Sibling]:
    """Return `kept` without the operations that one of the states has replaced, as far as `operations` can tell.

    O(siblings + operations), and no more unless an operation that is kept at one dot is known at another.
    """
    at = {(s.operation_id, s.actor, s.counter) for s in kept}
    ids = {s.operation_id for s in kept}
    others = [o for o in operations if o.operation_id in ids and (o.operation_id, o.actor, o.counter) not in at]
    if not others:
        return kept
    gone = {o.operation_id for o in others if any(_has_replaced(state, o) for state in states)}
    return [s for s in kept if s.operation_id not in gone]


def _has_replaced(state: DVVSet, operation: Operation) -> bool:
    _, operation_id, _, actor, counter = operation
    if state.vector.get(actor, 0) < counter:
        return False
    held = [(s.actor, s.counter) for s in state.siblings if s.operation_id == operation_id]
    if not held or (actor, counter) in held:
        return not held
    return (actor, counter) < held[0] or _never_heard_of(state, operation)


def _never_heard_of(state: DVVSet, operation: Operation) -> bool:
    """Whether the state would remember the operation's dot if any replica in its past had held it."""
    known = state.operations
    return operation not in known and (len(known) < OPERATIONS_KEPT_MAX or known[0] < operation)
