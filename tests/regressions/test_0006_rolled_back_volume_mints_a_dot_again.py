"""A user lost an acknowledged write, on all three replicas, after one node's volume was put back to a moment of its last run.

Nothing had changed but its contents: same kernel, same inode, and a boot number that no peer had seen. "Same boot" was taken for
"nothing is missing", so the node's actor epochs went on and minted dots that the others already held for other values. Now
the kernel itself remembers how far the store had come (`witness.py`). Found by a simulated disk.
"""

from __future__ import annotations

import pytest

from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


@pytest.mark.parametrize("has_witness", [True, False])
def test_a_volume_rolled_back_to_an_earlier_moment_of_its_last_run_reuses_no_dot(has_witness: bool) -> None:
    """zfs rollback or a restored volume, and no reboot. Where the kernel cannot remember, every kill counts as loss."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"a", w=3, dw=3)
        snapshot = cluster.disk(0).snapshot()
        await cluster.client(0).put(NAME, b"b", w=3, dw=3)
        await cluster.kill(0)
        cluster.disk(0).restore(snapshot, is_block_level=True)
        cluster.disk(0).witness.is_missing = not has_witness
        await cluster.restart(0)
        assert cluster.engine(0).report.is_rolled_back is has_witness
        await cluster.whole()
        await cluster.client(0).put(NAME, b"c", w=3, dw=3)
        assert await cluster.client(1).values(NAME, r=3) == [b"a", b"b", b"c"]

    in_disk_cluster(main)


def test_a_write_that_only_others_had_on_disk_counts_too() -> None:
    """The snapshot has everything that was synced; what was applied after it had been sent to the others already."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"a", w=3, dw=3)
        cluster.disk(0).trouble.syncs_stall_until_s = cluster.loop.time() + 60
        await cluster.client(0).put(NAME, b"b")
        await cluster.until(lambda: cluster.held_values(1, NAME) == cluster.held_values(2, NAME) == [b"a", b"b"])
        snapshot = cluster.disk(0).snapshot()
        await cluster.kill(0)
        cluster.disk(0).heal()
        cluster.disk(0).trouble.syncs_stall_until_s = 0.0
        cluster.disk(0).restore(snapshot, is_block_level=True)
        await cluster.restart(0)
        await cluster.whole()
        await cluster.client(0).put(NAME, b"c", w=3, dw=3)
        assert await cluster.client(1).values(NAME, r=3) == [b"a", b"b", b"c"]

    in_disk_cluster(main)


def test_a_kill_alone_keeps_the_actor() -> None:
    """The other side of it: vectors do not grow by being killed."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"0", w=3, dw=3)
        for number in range(1, 6):
            await cluster.kill(0)
            await cluster.restart(0)
            await cluster.whole()
            await cluster.client(0).put(NAME, b"%d" % number, w=3, dw=3)
        record = cluster.record(0, NAME)
        assert record is not None and len(record.vector) == 1

    in_disk_cluster(main)
