"""A user's dead node could not be replaced, and a new node never became a member: one rotten record was waited for, for ever.

A heal waited for the dead owner whose place was being taken, and the joiner for the heal; a scan over a record that the
engine itself cannot read asked for no heal at all. Found by `jepsen-lite run --moves`: seeds 6, 1 and 16.
"""

from __future__ import annotations

import asyncio

from kvstore.storage.engine import Family
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import Cluster, in_cluster, name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAMES = [name_of_key(f"city {number}") for number in range(8)]


async def fill(cluster: Cluster) -> None:
    client = cluster.client(0)
    for name in NAMES:
        await client.put(name, b"v", w=3, dw=3)
    await cluster.whole()


async def settled(cluster: Cluster) -> None:
    await cluster.until(lambda: all(h.node.placement.is_settled for h in cluster.hosts if h.node is not None))


def test_a_rotten_record_at_a_living_owner_does_not_keep_a_dead_one_from_being_replaced() -> None:
    """The dead owner's data was given up with the replacement: the heal asks the others."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        dead = cluster.node(2).node_id
        await cluster.kill(2)
        cluster.corrupt(1, NAMES[0])

        replacement = asyncio.ensure_future(cluster.start(cluster.add_host(), join=("n0:7400",), replaced=dead.hex()))
        await cluster.until(replacement.done)
        await replacement

        await settled(cluster)
        assert [cluster.held_values(index, NAMES[0]) for index in (0, 1, 3)] == [[b"v"]] * 3

    in_cluster(main)


def test_a_record_that_the_engine_cannot_read_is_healed_when_a_scan_meets_it() -> None:
    """No client has to read it first."""

    async def main(cluster: DiskCluster) -> None:
        await fill(cluster)
        cluster.disk(1).corrupt(Family.DATA, storage_key(NAMES[0]))

        joining = asyncio.ensure_future(cluster.start(cluster.add_host()))
        await cluster.until(joining.done)
        await joining

        await settled(cluster)

    in_disk_cluster(main)
