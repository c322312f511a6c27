"""A user could not grow a cluster any more: one rotten record, of a put that had failed, was waited for, for ever.

It was at one owner only, so a heal found nothing at the others and kept it as it was; and every page of the scan ended there. Now
such a record is left out of what is copied: it was never acknowledged by a quorum. Found by `jepsen-lite run --moves`, seed 50.
"""

from __future__ import annotations

import asyncio

from kvstore.errors import IndeterminateError
from kvstore.storage.engine import Family
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import Cluster, in_cluster, name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

GOOD = [name_of_key(f"city {number}") for number in range(8)]
ALONE = [name_of_key(f"alone {number}") for number in range(12)]
"""Enough for some to be in a partition that node 1 gives away."""


async def fill(cluster: Cluster) -> None:
    """Eight records everywhere, and twelve at node 1 only."""
    await cluster.whole()
    client = cluster.client(0)
    for name in GOOD:
        await client.put(name, b"v", w=3, dw=3)
    other = cluster.client(1)
    await other.link.wait_up(5)
    cluster.cut_off(1)
    puts = await asyncio.gather(*(other.put(name, b"a", timeout_s=3) for name in ALONE), return_exceptions=True)
    assert all(isinstance(each, IndeterminateError) for each in puts)
    cluster.network.heal_all()
    await cluster.whole()


async def join_and_settle(cluster: Cluster) -> None:
    joining = asyncio.ensure_future(cluster.start(cluster.add_host()))
    await cluster.until(joining.done, timeout_s=120)
    await joining
    await cluster.until(lambda: all(h.node.placement.is_settled for h in cluster.hosts if h.node is not None))


def test_a_rotten_record_that_nobody_else_holds_does_not_keep_a_node_out() -> None:
    """Everything else arrives; the rotten one stays where it is, and stays an error."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        for name in ALONE:
            cluster.corrupt(1, name)
        await join_and_settle(cluster)
        for name in GOOD:
            assert [each for each in (0, 1, 2, 3) if cluster.held_values(each, name) == [b"v"]] == sorted(
                cluster.owners(name)
            )

    in_cluster(main)


def test_also_if_the_engine_itself_cannot_read_it() -> None:
    """The scan goes on behind it."""

    async def main(cluster: DiskCluster) -> None:
        await fill(cluster)
        for name in ALONE:
            cluster.disk(1).corrupt(Family.DATA, storage_key(name))
        await join_and_settle(cluster)

    in_disk_cluster(main)
