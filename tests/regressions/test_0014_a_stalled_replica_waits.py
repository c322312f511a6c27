"""A put failed in doubt because two replicas' engines were compacting for a second.

A replica whose engine would stall refused at once, and the coordinator counted it as failed; `correctness` promises a delayed
retry. Noticed while reading what simulated disks do.
"""

from __future__ import annotations

import asyncio

import pytest

from kvstore.errors import KVStoreError
from kvstore.messages import PutReply
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


@pytest.mark.parametrize("dw", [0, 3])
def test_a_put_waits_for_replicas_that_stall(dw: int) -> None:
    """Both others stall for half a second: acknowledged after it, by all three."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        for index in (1, 2):
            cluster.disk(index).trouble.writes_stall_until_s = cluster.loop.time() + 0.5
        reply: PutReply = await cluster.client(0).put(NAME, b"value", w=3, dw=dw, timeout_s=5.0)
        assert reply.acked == 3
        assert await cluster.client(1).values(NAME, r=3) == [b"value"]

    in_disk_cluster(main)


def test_a_stall_longer_than_the_deadline_ends_with_it() -> None:
    """An error of its own in time, nothing in flight afterwards, and the next put is well."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        for index in (1, 2):
            cluster.disk(index).trouble.writes_stall_until_s = cluster.loop.time() + 5.0
        with pytest.raises(KVStoreError) as caught:
            await cluster.client(0).put(NAME, b"value", w=3, timeout_s=1.0)
        assert not caught.value.definite
        await cluster.until(lambda: cluster.node(0).coordinator.in_flight == 0)
        await asyncio.sleep(5)
        await cluster.client(0).put(NAME, b"later", w=3, timeout_s=1.0)

    in_disk_cluster(main)
