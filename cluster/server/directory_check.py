"""May this data directory be started at all? A copy or a rolled-back one must not speak with the original's identity.

    copied (other inode)              refused, until the operator says with --moved that the original is gone
    its start was seen before         refused for good by this mark: the next start would have a fresh number, but old data

The reason is kept before the node ends, so that a supervisor that starts it again gets the same answer: first by the kernel's
memory, which neither stalls nor fails, then durably by the directory itself. A disk that does not take the mark is tried again
for REFUSAL_MARK_S; the node ends in any case, and its next start, reminded by the kernel, tries again before it refuses. Only
a disk that took no mark, on a machine without a witness or restarted since, comes back as if nothing had been said (ADR 0004).
"""

from __future__ import annotations

import asyncio
import logging

from kvstore.errors import KVStoreError, StaleIdentity, SyncFailed
from kvstore.storage.engine import Engine, Family

__all__ = ["REFUSAL_MARK_S", "check_directory", "refuse_directory"]

log = logging.getLogger("kvnode")

META_REFUSED = b"\x00refused"
_COPY, _STALE = b"C", b"S"
REFUSAL_MARK_S = 5.0
"""A stall of RocksDB or a moment without space is shorter, and a supervisor's patience longer."""
REFUSAL_RETRY_S, REFUSAL_RETRY_S_MAX = 0.05, 1.0
COPY_MESSAGE = (
    "this data directory is a copy of another; if it was moved as a whole while the node was stopped, and the original will "
    "never be started again, start it once with --moved; otherwise use an empty --data directory"
)


async def check_directory(engine: Engine, *, moved: bool) -> None:
    """Raise StaleIdentity if this directory must not be started; nothing but the reason is written then."""
    durable = engine.get(Family.META, META_REFUSED)
    refused = durable or engine.report.refused or None
    if refused is None and engine.report.is_copy:
        refused = _COPY + COPY_MESSAGE.encode()
    if refused is None:
        return
    if refused[:1] != _COPY or not moved:
        if durable is None:
            await _remember(engine, refused)
        raise StaleIdentity(refused[1:].decode())
    engine.remember_refusal(b"")
    engine.apply([(Family.META, META_REFUSED, None)])


async def refuse_directory(engine: Engine, reason: StaleIdentity) -> None:
    """Remember, durably if the disk lets us, that peers refused this directory as a clone or a rollback."""
    await _remember(engine, _STALE + reason.message.encode())


async def _remember(engine: Engine, refused: bytes) -> None:
    is_remembered = engine.remember_refusal(refused)
    problem = await _mark(engine, refused)
    if problem is not None:
        log.error(
            "this data directory is refused and could not be marked so (%s): %s", problem,
            "until this machine restarts it stays refused all the same" if is_remembered else "never start it again",
        )  # fmt: skip


async def _mark(engine: Engine, refused: bytes) -> Exception | None:
    """Write the mark and sync it, trying for REFUSAL_MARK_S. Returns why it is not durable, None if it is."""
    problem: Exception = TimeoutError("the disk did not answer in time")
    retry_s = REFUSAL_RETRY_S
    try:
        async with asyncio.timeout(REFUSAL_MARK_S):
            while True:
                try:
                    engine.apply([(Family.META, META_REFUSED, refused)])
                    await engine.sync()
                except SyncFailed as error:  # never try an fsync again; such a store does not open again either
                    return error
                except KVStoreError as error:
                    problem = error
                else:
                    return None
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, REFUSAL_RETRY_S_MAX)
    except TimeoutError:
        return problem
