"""A copy that had been healed was rotten again after a power loss, any time later.

Heals and repairs waited for somebody else's sync; a cluster that only reads has none. Found by simulated disks.
"""

from __future__ import annotations

import asyncio

from kvstore.storage.keyspace import storage_key
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")
KEY = storage_key(NAME)


def test_a_healed_copy_becomes_durable_without_waiting_for_the_next_put() -> None:
    """In a cluster that only reads, a power loss brings the rot back, any time later."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"value", w=3, dw=3)
        cluster.disk(0).flip_bits(KEY)
        good = cluster.disk(1).peek_durable(KEY)
        await cluster.client(0).get(NAME)
        await cluster.until(lambda: cluster.disk(0).peek(KEY) == good)
        await asyncio.sleep(30)
        assert cluster.disk(0).peek_durable(KEY) == good

    in_disk_cluster(main)
