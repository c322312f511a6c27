"""A user read an acknowledged write as "not found": a rolled-back node was refused, could not write that down, and came back.

Its disk stalled in that moment, so the mark of regression 0004 was given up at once, and the node did not even end; its next
start took a number nobody had seen. Now the mark is tried for some seconds, the node ends whether it succeeds or not, and the
kernel remembers the refusal, too. Found by a simulated disk.
"""

from __future__ import annotations

import asyncio

import pytest

from kvstore.errors import KVStoreError, StaleIdentity
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


async def refuse_while_writes_stall(cluster: DiskCluster, stall_s: float) -> None:
    """n2 is put back by one start, and hears of it while its disk takes no write."""
    await cluster.whole()
    await cluster.stop(2)
    snapshot = cluster.disk(2).snapshot()
    await cluster.restart(2)
    await cluster.whole()
    await cluster.client(0).put(NAME, b"precious", w=3, dw=3)
    await cluster.kill(2)
    disk = cluster.disk(2)
    disk.restore(snapshot, is_block_level=True)
    cluster.delays["n0", "n2"] = cluster.delays["n1", "n2"] = 0.1
    cluster.loop.call_later(0.05, setattr, disk.trouble, "writes_stall_until_s", cluster.loop.time() + stall_s)
    with pytest.raises(StaleIdentity):
        await cluster.restart(2)
    assert isinstance(cluster.fatal["n2"], StaleIdentity) and cluster.hosts[2].node is None


@pytest.mark.parametrize("has_witness", [True, False])
def test_a_rolled_back_node_stays_refused_although_its_disk_stalls_when_it_hears_of_it(has_witness: bool) -> None:
    """A stall of a second: the mark is written before the node ends, so that not even a reboot brings it back."""

    async def main(cluster: DiskCluster) -> None:
        cluster.disk(2).witness.is_missing = not has_witness
        await refuse_while_writes_stall(cluster, 1.0)
        await asyncio.sleep(2)
        cluster.hosts[2].boots += 1
        for _ in range(3):
            with pytest.raises(StaleIdentity):
                await cluster.restart(2)
        assert await cluster.client(0).values(NAME) == [b"precious"]

    in_disk_cluster(main, expects_death=True)


def test_what_the_disk_never_took_the_kernel_remembers() -> None:
    """Longer than the node tries: it ends without a mark, its next starts refuse, and they write the mark that was missing."""

    async def main(cluster: DiskCluster) -> None:
        await refuse_while_writes_stall(cluster, 60.0)
        cluster.disk(2).heal()
        with pytest.raises(StaleIdentity):
            await cluster.restart(2)
        cluster.hosts[2].boots += 1
        for _ in range(2):
            with pytest.raises(StaleIdentity):
                await cluster.restart(2)

    in_disk_cluster(main, expects_death=True)


def test_a_running_node_that_is_refused_ends_although_nothing_can_be_written() -> None:
    """It meets the peer that knows better only after its start: it stops serving at once, and ends within seconds."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.stop(2)
        snapshot = cluster.disk(2).snapshot()
        await cluster.restart(2)
        await cluster.whole()
        await cluster.kill(2)
        disk = cluster.disk(2)
        disk.restore(snapshot, is_block_level=True)
        cluster.cut_off(2)
        node = await cluster.restart(2)
        assert node.is_ready
        disk.trouble.writes_stall_until_s = float("inf")
        for other in ("n0", "n1"):
            cluster.network.heal("n2", other)
            cluster.network.reset("n2", other)
        await cluster.until(lambda: not node.is_ready)
        await cluster.until(lambda: "n2" in cluster.fatal)
        await cluster.bury(2)
        disk.heal()
        with pytest.raises(KVStoreError, match="already seen"):
            await cluster.restart(2)

    in_disk_cluster(main, expects_death=True)
