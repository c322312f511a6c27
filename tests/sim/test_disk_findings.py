"""What simulated disks found in the product, each as its smallest story; `xfail(strict)` falls as soon as it is mended.

Move each one to tests/regressions with its fix.
"""

from __future__ import annotations

import pytest

from jepsen_lite.sim.disk import ReadFault
from kvstore.errors import ReadError
from kvstore.storage.engine import Family
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")
KEY = storage_key(NAME)


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
