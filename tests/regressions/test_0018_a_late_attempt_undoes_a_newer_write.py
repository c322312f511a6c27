"""A user's newer value was overwritten by an older one: its first attempt had waited in a stopped node, and was carried out last.

A put times out at a paused node and is acknowledged through another one; a newer put follows; then the node goes on, finds the
old attempt in its queue with all of its time left, and gives it a new timestamp. Now a frame says when it was sent, and what it
waited is time that its operations no longer have. Found by simulated pauses (storm seed 2); overload was the same: a node that
was behind worked for clients that had given up.
"""

from __future__ import annotations

import asyncio

from jepsen_lite.sim.swarm import Swarm
from jepsen_lite.sim.world import World
from kvstore.ids import ObjectType
from kvstore.storage.keyspace import object_name, storage_key


def test_an_attempt_that_waited_in_a_paused_node_is_not_carried_out() -> None:
    """The first owner of the key is paused: whatever is put meanwhile is acknowledged, and stays."""

    async def story(world: World) -> list[bytes]:
        await world.form()
        client = world.open_client("c0", timeout=5.0, attempt_timeout=0.3)
        bucket = client.bucket("default", type=bytes, object_type=ObjectType.LWW)
        found = []
        for key in ("k0", "k1", "k2", "k3"):
            await bucket.put(key, b"first")
            await asyncio.sleep(1)  # the client has links to all nodes now
            first_owner = world.owners(storage_key(object_name("default", ObjectType.LWW, key.encode())))[0]
            paused = next(host.process for host in world.hosts if host.name == first_owner)
            assert paused is not None
            world.loop.pause(paused)
            await bucket.put(key, b"older")
            await asyncio.sleep(2.5)  # by now the client suspects that node, and asks another one at once
            await bucket.put(key, b"newer")
            world.loop.resume(paused)
            await asyncio.sleep(3)
            found.append((await bucket.get(key, r=3)).value)
        await world.close_client(client)
        await world.stop_all()
        return found

    world = World(1, Swarm())
    assert world.run(story(world), until_s=300) == [b"newer"] * 4
