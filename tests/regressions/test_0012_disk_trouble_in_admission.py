"""Two nodes never spoke again, because one of them had a full disk when the other restarted.

The storage error travelled as a refusal that is final. Found by simulated disks.
"""

from __future__ import annotations

import pytest

from jepsen_lite.sim.disk import ReadFault
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_PEER_BOOT
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


@pytest.mark.parametrize("how", ["read error", "no space"])
def test_a_disk_that_fails_in_admission_does_not_part_two_nodes_for_ever(how: str) -> None:
    """The last start of a peer cannot be looked up or noted just then, and its link is down until one of the two restarts.

    A full disk is enough: any peer that restarts meanwhile is parted from it for good.
    """

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.kill(2)
        if how == "read error":
            cluster.disk(0).fail_reads(ReadFault(Family.META, META_PEER_BOOT, META_PEER_BOOT + b"\xff", left=3))
        else:
            cluster.disk(0).fill(free_bytes=0)
        await cluster.restart(2)
        cluster.disk(0).heal()
        await cluster.whole()

    in_disk_cluster(main)
