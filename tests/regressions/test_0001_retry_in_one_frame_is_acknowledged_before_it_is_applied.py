"""A client that retried in the same frame was told OK for a value that was refused, or not yet on disk.

put(id 7) was staged; put(id 7) again found the staged record, saw a key that was neither dirty nor syncing, and was
acknowledged at once. Then the batch was refused (disk full), or the power went before the sync.
"""

from __future__ import annotations

import asyncio

from kvstore.errors import DiskFull
from tests.support.cluster import Cluster, in_cluster, name_of_key

NAME = name_of_key("k")


def test_a_retry_in_the_same_frame_is_refused_with_its_batch() -> None:
    """Disk full: neither of the two was written, and both say so."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        cluster.hosts[0].disk.capacity_bytes = 1
        outcomes = await asyncio.gather(
            *[client.put(NAME, b"v", operation=7, w=1) for _ in range(2)], return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [DiskFull, DiskFull]

    in_cluster(main, nodes=1)


def test_a_read_in_the_frame_of_a_write_waits_until_it_is_durable() -> None:
    """What was shown must still be there after a power loss."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        writing = asyncio.ensure_future(client.put(NAME, b"v", w=1, dw=0))
        await asyncio.sleep(0)
        shown = await client.values(NAME, r=1)
        await cluster.power_loss(0)
        await asyncio.gather(writing, return_exceptions=True)
        await cluster.restart(0)
        assert await cluster.client(0).values(NAME, r=1) == shown == [b"v"]

    in_cluster(main, nodes=1)
