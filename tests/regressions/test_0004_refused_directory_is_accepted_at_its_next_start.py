"""A user read an acknowledged write as "not found": a rolled-back node was refused once, restarted, and then accepted.

Its refused start had taken the next boot number, which no peer had seen; any supervisor that restarts a process did the rest. Now
the refusal is durable in the directory itself. Found by a stranger who followed the README.
"""

from __future__ import annotations

import pytest

from kvstore.errors import StaleIdentity
from tests.support.cluster import Cluster, in_cluster, name_of_key


def test_a_rolled_back_directory_stays_refused() -> None:
    """However often it is started; and what was acknowledged meanwhile is still read from the others."""

    async def main(cluster: Cluster) -> None:
        cluster.expects_death = True
        name = name_of_key("lost1")
        await cluster.stop(2)
        snapshot = cluster.hosts[2].disk.copy(is_block_level=True)
        await cluster.restart(2)
        await cluster.whole()
        await cluster.client(0).put(name, b"precious")
        await cluster.kill(2)
        cluster.hosts[2].disk = snapshot
        for _ in range(3):
            with pytest.raises(StaleIdentity):
                await cluster.restart(2)

        assert await cluster.client(0).values(name) == [b"precious"]

    in_cluster(main)


def test_a_copied_directory_is_refused_before_it_speaks() -> None:
    """It never waits for its original to die in order to take its place."""

    async def main(cluster: Cluster) -> None:
        copy = cluster.add_host()
        copy.disk = cluster.hosts[2].disk.copy()
        for _ in range(2):
            with pytest.raises(StaleIdentity, match="--moved"):
                await cluster.start(copy, join=())

        await cluster.kill(2)
        with pytest.raises(StaleIdentity):
            await cluster.start(copy, join=())
        await cluster.restart(2)
        await cluster.until(lambda: all(link.is_up for _, link in cluster.node(0).peers.all()))
        await cluster.client(0).put(name_of_key("k"), b"v", w=3)

    in_cluster(main)
