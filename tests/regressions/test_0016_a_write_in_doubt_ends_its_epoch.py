"""A user lost an acknowledged put: its dot had been used before, by a put whose fate the full disk had left in doubt.

"No space" out of RocksDB is indefinite: the batch may be in the log. The node kept its actor, so the next put got the same dot;
if the log brings the first one back after a power loss, one dot stands for two values and a merge drops one of them. Now a
record of ours that is in doubt ends the epoch of its partition. Found by `jepsen-lite`, seeds 1, 5, 14, 16 (dots bound twice).
"""

from __future__ import annotations

import asyncio
import contextlib

from kvstore.errors import KVStoreError
from kvstore.storage.keyspace import storage_key
from kvstore.storage.record import decode_record
from tests.support.cluster import name_of_key
from tests.support.faulty_cluster import DiskCluster, in_disk_cluster

NAME = name_of_key("city")


def actors_of(seed: int) -> dict[bytes, bytes]:
    """Put, put in doubt, put; return who minted what is there in the end."""

    async def main(cluster: DiskCluster) -> dict[bytes, bytes]:
        await cluster.whole()
        client = cluster.client(0)
        await client.put(NAME, b"first", w=3)
        cluster.disk(0).fill(free_bytes=0)
        with contextlib.suppress(KVStoreError):
            await client.put(NAME, b"in doubt", timeout_s=1.0)
        cluster.disk(0).free_space()
        await asyncio.sleep(10)
        await client.put(NAME, b"second", w=3)
        await client.put(NAME, b"third", w=3)
        record = cluster.disk(1).peek(storage_key(NAME))
        assert record is not None
        return {s.value or b"": s.actor for s in decode_record(storage_key(NAME), record).siblings}

    return in_disk_cluster(main, seed=seed)


def test_a_dot_in_doubt_is_not_minted_again() -> None:
    """Where the put in doubt is not there, the next one has another actor; where it is, its dot is known and the actor stays."""
    found = [actors_of(seed) for seed in range(8)]

    for actors in found:
        assert (actors[b"second"] == actors[b"first"]) == (b"in doubt" in actors)
        assert actors[b"third"] == actors[b"second"]
    assert {b"in doubt" in actors for actors in found} == {False, True}, "both ways have to be seen"
