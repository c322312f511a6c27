"""A node that had said "adopted durably" came back with an older placement, past the barrier that counted on it.

Two adoptions overlapped: epoch 3 was on its way to disk when epoch 2 arrived, which only looked at the one in use (1) and
was written over 3. A kill before it was put right again left 2 on disk, though 3 had been acknowledged.
"""

from __future__ import annotations

import asyncio

from kvstore.ring.buckets import BucketProperties
from kvstore.ring.topology import with_bucket
from kvstore.ring.topology_codec import decode
from kvstore.storage.engine import Family
from tests.support.cluster import Cluster, in_cluster


def test_what_was_adopted_stays_on_disk_whatever_arrives_beside_it() -> None:
    """At every moment after an adoption returned, the disk holds that epoch or a later one."""

    async def main(cluster: Cluster) -> None:
        node = cluster.node(0)
        first = node.placement.topology
        assert first is not None
        second = with_bucket(first, BucketProperties("a"))
        third = with_bucket(second, BucketProperties("b"))
        engine = cluster.hosts[0].engine
        assert engine is not None
        seen: list[int] = []

        async def adopt_third() -> None:
            assert await node.keeper.adopt(third)
            for _ in range(20):
                document = engine.get(Family.META, b"topology")
                assert document is not None
                seen.append(decode(document).epoch)
                await asyncio.sleep(0.0005)

        third_adopted = asyncio.ensure_future(adopt_third())
        await asyncio.sleep(0)
        assert not await node.keeper.adopt(second)
        await third_adopted
        assert set(seen) == {third.epoch} and node.placement.epoch == third.epoch

    in_cluster(main, nodes=1)
