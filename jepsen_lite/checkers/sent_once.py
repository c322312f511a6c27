"""White-box judge of retries: a write that its client sent once has one dot.

    put v, one attempt ──ok──►   v at dot (a,3)              fine
                                 v at (a,3) and at (b,7)     MINTED_TWICE: a node passed it on to two coordinators

Two coordinators may each take a write that was sent twice, or that may have been: only what is known as one attempt is judged.
Not for runs whose network doubles requests. Complexity: O(history).
"""

from __future__ import annotations

from collections.abc import Sequence

from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import History

__all__ = ["check_sent_once"]


def check_sent_once(history: History, written_twice: Sequence[str]) -> Verdict:
    """Judge that a write which its client sent once has one dot (a set's element has no name of its own in the store)."""
    twice = dict.fromkeys(written_twice)
    once = [pair for pair in history.pairs() if pair.is_ok and pair.completion and pair.completion.attempts == 1]
    violations = [
        Violation(Broken.MINTED_TWICE, op.key, f"{op.value} was sent once and has two dots", pair.indexes)
        for pair in once
        if (op := pair.invocation).value in twice
    ]
    return Verdict("sent_once", tuple(violations), figures={"sent_once": float(len(once))})
