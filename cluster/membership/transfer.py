"""The small transfer of a join: every old owner sends what it holds to every owner that is to have it.

It runs while the whole cluster has adopted the new placement and serves no client, so nothing changes under it; it is bounded by
JOIN_RECORDS_MAX records. Replicas merge what arrives, so sending twice is harmless. (Joining with more data needs pending
owners and comes later.)
"""

from __future__ import annotations

import asyncio

from cluster.placement import Placement
from cluster.store import Store
from kvstore.errors import Corruption, InvalidArgument
from kvstore.messages import Verb
from kvstore.storage.engine import Engine, Family
from kvstore.storage.record import check_record

__all__ = ["JOIN_RECORDS_MAX", "send_all"]

JOIN_RECORDS_MAX = 10_000
"""Above this many records on any member a join is refused: the cluster stands still while they are copied."""
BATCH_RECORDS = 128
BATCH_BYTES = 4 * 1024 * 1024
"""Half of CONNECTION_BACKLOG_BYTES_MAX, above which a link refuses more."""
REACH_OWNERS_S = 5.0
"""For a link to come up: two attempts to connect and the pauses between them."""


async def send_all(engine: Engine, store: Store, placement: Placement, *, deadline: float) -> int:
    """Send every local record to the other owners of its partition; return how many records were sent.

    Raises Corruption (a local record is unreadable), or what a receiver or its link raised; sending again is safe.
    """
    if placement.topology is None or placement.topology.transfer is None:
        raise InvalidArgument("no node is joining")
    store.commit_staged()
    sent = calls_bytes = 0
    calls = []
    for key, record in engine.scan(Family.DATA, b"", b"\xff" * 16):
        if not check_record(key, record):  # type: ignore[arg-type]
            raise Corruption("a record to be transferred is unreadable", key=key.hex())
        slot = placement.slot(key)
        for link in slot.peers:
            # The joiner became known a moment ago: the founder reaches it, but our own link to it may still be connecting.
            await link.wait_up(REACH_OWNERS_S)
        calls += [link.call(Verb.REPLICATE, slot.version, deadline, key, record) for link in slot.peers]
        sent += 1
        calls_bytes += len(record)
        if len(calls) >= BATCH_RECORDS or calls_bytes >= BATCH_BYTES:
            await asyncio.gather(*calls)
            calls, calls_bytes = [], 0
    await asyncio.gather(*calls)
    return sent
