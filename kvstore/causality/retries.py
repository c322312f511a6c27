"""One operation at two dots: a client sent it again through another coordinator, which had not heard of it.

    both dots unreplaced      the smallest one stands for the operation                  `first_of_each_operation`
    one of them replaced      so is the operation: its other dots are dropped            `without_replaced`

Whoever wrote with a context that covers one dot had been shown the value, at this dot or at a smaller one that stood for it. What
the other dot holds is that value, not another one, and it does not come back when the node that holds it does.

A state has *replaced* an operation if it covers a dot of it and, were that not so, would hold something else than it does:

    holds no dot of it                                 it would hold one
    holds one, and never heard of the covered one      only a context told it of that dot, and who had the context had seen it

The second only if the covered dot is newer than every one that the state knows. A newer one may have covered it by its own
context: somebody in doubt read, was shown an attempt, and repeated the operation with that context where nobody had heard of
it. Nobody has replaced it then, and the state is the same to the byte as if somebody had and the repetition had come later. Nor
does a larger dot than one that was heard of prove anything: a still smaller one may have stood for both until the operation's
own context covered it. A sibling too many can be resolved, a write that is gone can not.
(A put is later than all that the read of its context showed.)

This is a second net: whoever repeats an operation repeats its context too (docs/other_languages.md). Of three attempts with
different contexts, two may each cover the dot that stands for the other, and `sync` drops both.

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
    hlc, operation_id, _, actor, counter = operation
    if state.vector.get(actor, 0) < counter:
        return False
    held = [s for s in state.siblings if s.operation_id == operation_id]
    if not held:
        return True
    times = [s.hlc for s in held] + [o.hlc for o in state.operations if o.operation_id == operation_id]
    return max(times) < hlc and _remembers(state, operation)


def _remembers(state: DVVSet, operation: Operation) -> bool:
    """Whether the state would remember this dot and every newer one, if any replica in its past had held them."""
    known = state.operations
    return len(known) < OPERATIONS_KEPT_MAX or known[0] <= operation
