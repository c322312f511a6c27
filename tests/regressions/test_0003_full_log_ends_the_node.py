"""A user lost a node, reads included, because its disk was full for a moment while a put waited for its sync.

RocksDB had no room for the log; the sync said so with a StorageError, which was taken for a failed fsync, and the process
ended. Now nothing is acknowledged until a sync gets through again, and reads go on. Found by `tests/campaigns/disk_full.py`.
"""

from __future__ import annotations

import asyncio

from cluster.store import NO_SPACE_RETRY_S, Store
from kvstore.errors import StorageError
from kvstore.ids import StorageKey
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from tests.support.cluster import on_loop

KEY = StorageKey(b"k" * 12)


class FullLog(MemoryEngine):
    """An engine whose next syncs find no room for the log."""

    failures_left = 0

    async def sync(self) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise StorageError("the disk has no space: what was applied but not synced is in doubt")
        await super().sync()


def test_a_log_without_room_delays_acknowledgements_and_ends_nothing() -> None:
    """The same group is synced again: acknowledged once, after the first sync that got through; the node lives."""

    async def body() -> None:
        engine = FullLog.open(MemoryDisk())
        assert isinstance(engine, FullLog)
        engine.failures_left = 3
        fatal: list[Exception] = []
        told: list[str] = []
        store = Store(engine, fatal.append)

        store.stage(KEY, b"record", lambda problem: told.append("applied"))
        store.commit_staged()
        store.when_durable(lambda: told.append("durable"))
        await asyncio.sleep(2.5 * NO_SPACE_RETRY_S)

        assert told == ["applied"] and not store.is_durable(KEY) and store.read(KEY) == b"record"

        await asyncio.sleep(2 * NO_SPACE_RETRY_S)

        assert told == ["applied", "durable"] and store.is_durable(KEY) and fatal == []

    on_loop(body)
