"""A node ended, or lost a connection, because one read failed while it repaired a copy.

`_repair_local` expected Corruption only; an EIO went up into the frame handler, or into the commit task.
Found by simulated disks.
"""

from __future__ import annotations

import asyncio

from kvstore.errors import StorageError
from kvstore.storage.engine import Family
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


def test_a_read_error_while_a_copy_is_repaired_ends_nothing() -> None:
    """One EIO on a read closes the connection to a peer, or (when it comes in a commit's callback) ends the node."""

    async def main(cluster: DiskCluster) -> None:
        await cluster.whole()
        await cluster.client(0).put(NAME, b"a", w=3, dw=3)
        await cluster.kill(1)
        await cluster.client(0).put(NAME, b"b")
        cluster.record_cache_bytes = 0
        await cluster.restart(1)
        await cluster.whole()
        engine, reads = cluster.engine(1), 0
        get = engine.get

        def second_read_fails(family: Family, key: bytes) -> bytes | None:
            nonlocal reads
            reads += family is Family.DATA
            if family is Family.DATA and reads == 2:
                raise StorageError("IO error: injected: While pread: Input/output error")
            return get(family, key)

        engine.get = second_read_fails  # type: ignore[method-assign]
        assert await cluster.client(1).values(NAME, r=2) == [b"a", b"b"]
        await asyncio.sleep(1)

    in_disk_cluster(main)
