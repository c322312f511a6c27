"""What a client operation needs while it is under way: where its reply goes, and until when it matters."""

from __future__ import annotations

from collections.abc import Callable

from kvstore.errors import KVStoreError, error_to_wire
from kvstore.messages import Status

__all__ = ["Reply", "ReplyTo", "fail"]

Reply = Callable[[int, bytes], None]
"""(status, body); called exactly once. Replies to a connection that is gone are dropped by the session."""

ReplyTo = Callable[[int, int, bytes], None]
"""(operation id, status, body) of one session; called exactly once for each operation."""


def fail(reply: Reply, error: KVStoreError) -> None:
    """Answer with an error."""
    reply(Status.ERROR, error_to_wire(error))
