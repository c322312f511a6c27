"""A user lost an acknowledged write after a node's disk had failed a sync and could not even be marked as suspect.

A file system that became read-only took the mark with it; unmounted and mounted again it came back without its page cache,
under the same kernel, so the next start found an unclean stop that seemed harmless, and minted a dot of before again. Now the
kernel remembers the failed sync beside the mark. Found by a simulated disk.
"""

from __future__ import annotations

import pytest

from kvstore.errors import SuspectStore
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


async def fail_a_sync_and_its_mark(cluster: DiskCluster) -> None:
    """The others have `b`, of which the disk of n0 has nothing in the end."""
    await cluster.whole()
    await cluster.client(0).put(NAME, b"a", w=3, dw=3)
    cluster.disk(0).trouble.is_mark_lost = True
    cluster.disk(0).fail_next_sync()
    await cluster.client(0).put(NAME, b"b")
    await cluster.until(lambda: "n0" in cluster.fatal)
    await cluster.bury(0)
    cluster.disk(0).crash(lambda count: 0)  # the page cache that was never written is dropped by the umount
    cluster.cut_off(0)


async def write_alone_and_meet_again(cluster: DiskCluster) -> None:
    """A put by n0 in its solitude, which must survive the meeting."""
    await cluster.restart(0)
    assert cluster.engine(0).report.history_may_be_missing
    await cluster.client(0).put(NAME, b"c", w=1, dw=1)
    for other in ("n1", "n2"):
        cluster.network.heal("n0", other)
        cluster.network.reset("n0", other)
    await cluster.whole()
    assert await cluster.client(1).values(NAME, r=3) == [b"a", b"b", b"c"]


def test_a_store_whose_sync_failed_stays_closed_while_the_kernel_lives() -> None:
    """Exactly as if the mark were there."""

    async def main(cluster: DiskCluster) -> None:
        await fail_a_sync_and_its_mark(cluster)
        for _ in range(2):
            with pytest.raises(SuspectStore):
                await cluster.restart(0)
        assert await cluster.client(1).values(NAME, r=2) == [b"a", b"b"]

    in_disk_cluster(main, expects_death=True)


@pytest.mark.parametrize("how", ["reboot", "no witness"])
def test_a_failed_sync_whose_mark_could_not_be_written_reuses_no_dot(how: str) -> None:
    """Where nobody remembers the failure the store opens, and its actor epochs retire."""

    async def main(cluster: DiskCluster) -> None:
        await fail_a_sync_and_its_mark(cluster)
        if how == "reboot":
            cluster.hosts[0].boots += 1
        else:
            cluster.disk(0).witness.is_missing = True
        await write_alone_and_meet_again(cluster)

    in_disk_cluster(main, expects_death=True)
