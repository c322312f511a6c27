"""What every transport enforces the same way: how large a frame may be, when reading pauses, what a broken handler costs.

Only the accepting side of a connection pauses: it is the one that answers requests, so it stops taking more of them
while its answers are not taken. If both sides paused, two peers that flood each other would each wait for the other to
read, forever. The connecting side is bounded by refusing new operations while its backlog is high
(kvstore/transport/link.py).
"""

from __future__ import annotations

import asyncio

from kvstore.errors import InternalError, ValueTooLarge
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX, FRAME_SIZE_BYTES_MAX

__all__ = ["BACKLOG_RESUME_BYTES", "refuse_oversize", "report_bug"]

BACKLOG_RESUME_BYTES = CONNECTION_BACKLOG_BYTES_MAX // 2
"""Reading resumes below this. Half, so that a peer at the edge does not make us stop and start for every frame."""


def refuse_oversize(frame: bytes) -> None:
    """Raise `ValueTooLarge` if the frame cannot travel; nothing was queued."""
    if len(frame) > FRAME_SIZE_BYTES_MAX:
        raise ValueTooLarge("the frame is too large", size_bytes=len(frame), limit_bytes=FRAME_SIZE_BYTES_MAX)


def report_bug(peer: str, bug: Exception) -> InternalError:
    """Show the loop's exception handler what a frame handler raised, and return the error to close its connection with.

    Both, because the handler's side treats the error as one more lost connection and would hide the bug.
    """
    context = {"message": f"the handler of a frame of {peer} raised", "exception": bug}
    asyncio.get_running_loop().call_exception_handler(context)
    error = InternalError(f"a frame of {peer} could not be handled: {bug!r}; please report")
    error.__cause__ = bug
    return error
