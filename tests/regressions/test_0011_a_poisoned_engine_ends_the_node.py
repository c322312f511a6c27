"""A node with a broken disk stayed ready for ever, and every write it coordinated failed in doubt.

A write error poisons the engine, but only a failed sync ends the node, and nobody asked for a sync. Found by simulated disks.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kvstore.errors import KVStoreError
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


@pytest.mark.parametrize("broken", [0, 1])
def test_a_node_whose_engine_is_poisoned_by_a_write_error_dies(broken: int) -> None:
    """It stays ready, its writes all fail indefinitely, and nothing restarts or replaces it."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        cluster.disk(broken).trouble.write_errors_left = 1
        for number in range(3):
            with contextlib.suppress(KVStoreError):
                await cluster.client(0).put(NAME, b"%d" % number, timeout_s=1.0)
        await asyncio.sleep(5)
        has_died = f"n{broken}" in cluster.fatal
        await cluster.bury(broken)
        assert has_died

    in_disk_cluster(main, expects_death=True)
