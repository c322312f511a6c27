"""A user waited for the whole timeout, and a rotten copy was never healed: a read ended only at an answer that was enough.

One replica failed first and the last one answered late: nobody was left to ask, and nothing judged that. In flight for ever;
4,096 of them and the node refuses everything. Found by simulated disks with read errors (storms of seeds 1-60).
"""

from __future__ import annotations

import asyncio
import contextlib

from jepsen_lite.sim.disk import ReadFault
from kvstore.errors import KVStoreError
from kvstore.storage.engine import Family
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")
KEY = storage_key(NAME)


def test_a_read_whose_first_replica_fails_and_whose_last_answers_is_answered() -> None:
    """A user waits for the whole timeout, and the node counts the read as in flight for ever (4,096 of them: Overloaded)."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"value", w=3, dw=3)
        cluster.disk(1).fail_reads(ReadFault(Family.DATA, b"", b"\xff" * 9))
        cluster.delays["n2", "n0"] = 0.3
        with contextlib.suppress(KVStoreError):
            await cluster.client(0).get(NAME, r=3, timeout_s=1.0)
        await asyncio.sleep(1)
        assert cluster.node(0).coordinator.in_flight == 0

    in_disk_cluster(main)


def test_a_heal_that_failed_once_is_tried_again_at_the_next_read() -> None:
    """A rotten copy is never healed before the node restarts, if one owner answered the first heal with an error."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"value", w=3, dw=3)
        cluster.disk(0).flip_bits(KEY)
        cluster.disk(1).fail_reads(ReadFault(Family.DATA, b"", b"\xff" * 9, left=2))
        cluster.delays["n2", "n0"] = 0.05
        for _ in range(10):
            with contextlib.suppress(KVStoreError):
                await cluster.client(0).get(NAME, r=2, timeout_s=1.0)
        await cluster.client(0).get(NAME, r=3, timeout_s=1.0)

    in_disk_cluster(main)
