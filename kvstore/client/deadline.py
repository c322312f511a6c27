"""Deadlines that nest: `with kv.timeout(0.2):` bounds everything inside it, and an inner one can only shrink it.

One context variable for the process, because a deadline belongs to the caller's work, not to a client. It holds loop time,
which both asyncio and uvloop take from the monotonic clock; that is why a thread of the sync client may set it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["DEADLINE", "deadline_scope"]

DEADLINE: ContextVar[float | None] = ContextVar("kvstore_deadline", default=None)


@contextmanager
def deadline_scope(deadline: float) -> Iterator[None]:
    """Bound what runs inside by `deadline` (loop time), or by the outer deadline if that is earlier."""
    outer = DEADLINE.get()
    token = DEADLINE.set(deadline if outer is None else min(outer, deadline))
    try:
        yield
    finally:
        DEADLINE.reset(token)
