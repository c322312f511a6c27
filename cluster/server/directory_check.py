"""May this data directory be started at all? A copy or a rolled-back one must not speak with the original's identity.

    copied (other inode)              refused, until the operator says with --moved that the original is gone
    its start was seen before         refused for good by this mark: the next start would have a fresh number, but old data

The reason is durable before the node ends, so that a supervisor that starts it again gets the same answer.
"""

from __future__ import annotations

from kvstore.errors import StaleIdentity
from kvstore.storage.engine import Engine, Family

__all__ = ["check_directory", "refuse_directory"]

META_REFUSED = b"\x00refused"
_COPY, _STALE = b"C", b"S"
COPY_MESSAGE = (
    "this data directory is a copy of another; if it was moved as a whole while the node was stopped, and the original will "
    "never be started again, start it once with --moved; otherwise use an empty --data directory"
)


async def check_directory(engine: Engine, *, moved: bool) -> None:
    """Raise StaleIdentity if this directory must not be started; nothing but the reason is written then."""
    refused = engine.get(Family.META, META_REFUSED)
    if refused is None and engine.report.is_copy:
        refused = _COPY + COPY_MESSAGE.encode()
        if not moved:
            await _remember(engine, refused)
    if refused is None:
        return
    if refused[:1] != _COPY or not moved:
        raise StaleIdentity(refused[1:].decode())
    engine.apply([(Family.META, META_REFUSED, None)])


async def refuse_directory(engine: Engine, reason: StaleIdentity) -> None:
    """Remember durably that peers refused this directory as a clone or a rollback."""
    await _remember(engine, _STALE + reason.message.encode())


async def _remember(engine: Engine, refused: bytes) -> None:
    engine.apply([(Family.META, META_REFUSED, refused)])
    await engine.sync()
