"""What simulated disks found in the product, each as its smallest story; `xfail(strict)` falls as soon as it is mended.

Move each one to tests/regressions with its fix.
"""

from __future__ import annotations

import asyncio

import pytest

from jepsen_lite.sim.disk import ReadFault
from kvstore.errors import KVStoreError, ReadError, StaleIdentity
from kvstore.storage.engine import Family
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")
KEY = storage_key(NAME)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="same_boot is taken for a proof that nothing was lost: correctness 1 and 3",
)
def test_a_volume_rolled_back_to_an_earlier_moment_of_its_last_run_reuses_no_dot() -> None:
    """`c`, acknowledged by all three, is gone. (zfs rollback or a restored volume, and no reboot: a container does not.)

    Its boot number was never presented, its inode is the same, its kernel too: so its actor epochs go on, and mint a dot that the
    others already hold for `b`.
    """

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"a", w=3, dw=3)
        snapshot = cluster.disk(0).snapshot()
        await cluster.client(0).put(NAME, b"b", w=3, dw=3)
        await cluster.kill(0)
        cluster.disk(0).restore(snapshot, is_block_level=True)
        await cluster.restart(0)
        await cluster.whole()
        await cluster.client(0).put(NAME, b"c", w=3, dw=3)
        assert await cluster.client(1).values(NAME, r=3) == [b"a", b"b", b"c"]

    in_disk_cluster(main)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="without SUSPECT the next start is same_boot, although an fsync had failed",
)
def test_a_failed_sync_whose_mark_could_not_be_written_reuses_no_dot() -> None:
    """A file system that remounts read-only takes the mark with it; unmounted and mounted again, it is the same kernel.

    `rocksdb.py` says "the next start only sees an unclean stop", but an unclean stop under the same kernel keeps the epochs.
    """

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"a", w=3, dw=3)
        cluster.disk(0).trouble.is_mark_lost = True
        cluster.disk(0).fail_next_sync()
        await cluster.client(0).put(NAME, b"b")
        await cluster.until(lambda: "n0" in cluster.fatal)
        await cluster.bury(0)
        cluster.disk(0).crash(lambda count: 0)  # the page cache that was never written is dropped by the umount
        cluster.cut_off(0)
        await cluster.restart(0)
        await cluster.client(0).put(NAME, b"c", w=1, dw=1)
        for other in ("n1", "n2"):
            cluster.network.heal("n0", other)
            cluster.network.reset("n0", other)
        await cluster.whole()
        assert await cluster.client(1).values(NAME, r=3) == [b"a", b"b", b"c"]

    in_disk_cluster(main, expects_death=True)


@pytest.mark.xfail(
    strict=True, reason="the mark of a refused directory may fail to be written; the node neither retries nor stays out"
)
def test_a_rolled_back_node_stays_refused_although_its_disk_stalls_when_it_hears_of_it() -> None:
    """Regression 0004 again: refused once, its next start takes a number nobody has seen, and is accepted with old data."""

    async def main(cluster: DiskCluster) -> None:
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
        cluster.loop.call_later(0.05, setattr, disk.trouble, "writes_stall_until_s", cluster.loop.time() + 1.0)
        with pytest.raises(KVStoreError):
            await cluster.restart(2)
        await asyncio.sleep(2)
        with pytest.raises(StaleIdentity):
            await cluster.restart(2)

    in_disk_cluster(main, expects_death=True)


def test_reads_stay_definite_errors() -> None:
    """For comparison: a disk that cannot be read at all makes reads fail over, and writes elsewhere go on."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"value", w=3, dw=3)
        cluster.disk(0).fail_reads(ReadFault(Family.DATA, b"", b"\xff" * 9))
        assert await cluster.client(1).values(NAME, r=2) == [b"value"]
        with pytest.raises(ReadError):
            await cluster.client(0).get(NAME, r=3, timeout_s=1.0)

    in_disk_cluster(main)
