"""The simulated world: what forming, a kill, a power loss, a silent crash, a stop and a changed disk mean for those who stay.

                 page cache   boot id   connections        the node afterwards
kill             stays        same      reset              the same one, nothing missing
power loss       may be lost  another   reset              the same one, history may be missing
silent crash     may be lost  another   nobody is told     the same one, history may be missing
stop             synced       same      closed             the same one, nothing missing
lost disk        gone         another   reset              another one, which has to join
old disk         gone         another   reset              refused
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.swarm import Swarm
from jepsen_lite.sim.world import Host, World
from kvstore.client.client import AsyncClient
from kvstore.errors import ReadError, UnavailableError
from kvstore.ids import ObjectType
from kvstore.messages import Verb, decode_put_reply, encode_body
from kvstore.storage.engine import Family
from kvstore.storage.keyspace import object_name, storage_key

BUCKET = b"default"
CALM = Swarm()
LOSING = NetworkSwarm(loss_good=0.3, duplicate_share=0.2)
POWER_SEEDS = 6
"""A power loss takes nothing in two of three cases; these are enough for one that does."""
SILENT_S = 5.0
KEYS = 30


def in_world(seed: int, story: Callable[[World], Coroutine[Any, Any, Any]], swarm: Swarm = CALM) -> Any:
    """Run a story in a world in which at most two minutes pass, and stop what still runs."""
    world = World(seed, swarm)

    async def main() -> Any:
        await world.form()
        told = await story(world)
        await world.stop_all()
        return told

    return world.run(main(), until_s=120)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Every refused or unclean start would say so."""
    caplog.set_level(100, logger="kvnode")


@pytest.mark.parametrize("seed", range(4))
def test_latecomers_join_while_clients_write(seed: int) -> None:
    """Some die while they join; everything written before, meanwhile and afterwards is read from the grown cluster."""
    world = World(seed, replace(CALM, nodes=5, late_joins=2))

    async def main() -> list[set[str]]:
        await world.form()
        client = world.open_client("c0", timeout=20.0)
        writing = asyncio.get_running_loop().create_task(_write_slowly(client, "meanwhile"))
        await world.grow()
        await writing
        shown = [{sibling.value async for sibling in _siblings(client, number)} for number in range(KEYS)]
        await world.close_client(client)
        members = {len(host.node.changes.topology().members) for host in world.running() if host.node is not None}
        await world.stop_all()
        assert members == {5} and world.problems == []
        return shown

    assert world.run(main(), until_s=120) == [{f"meanwhile {number}"} for number in range(KEYS)]


async def _write_slowly(client: AsyncClient, says: str) -> None:
    for number in range(KEYS):
        await client.put(f"k{number}", f"{says} {number}")
        await asyncio.sleep(0.1)


async def _siblings(client: AsyncClient, number: int) -> AsyncIterator[Any]:
    for sibling in (await client.get(f"k{number}", r=3)).siblings:
        yield sibling


def key_of(key: str) -> bytes:
    return storage_key(object_name(BUCKET, ObjectType.REGISTER, key.encode()))


def node_id(host: Host) -> bytes:
    assert host.node is not None
    return host.node.node_id


async def _until(condition: Callable[[], object]) -> None:
    """Look every tenth of a (virtual) millisecond, for ten seconds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0.000_1)
    pytest.fail("it never came to that")


async def restart(world: World, host: Host) -> bool:
    """Start a host; returns whether its node knows that history may be missing."""
    assert await world.start(host)
    assert host.engine is not None
    return host.engine.report.history_may_be_missing


# --- forming --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_formed_cluster_has_every_host_as_an_owner_of_something(nodes: int) -> None:
    """One topology, as many owners of a key as there are copies, and a client that can use all of them."""

    async def story(world: World) -> None:
        client = world.open_client("c0")
        owners: dict[str, None] = {}
        for number in range(40):
            await client.put(f"k{number}", number)
            of_key = world.owners(key_of(f"k{number}"))
            assert len(of_key) == len(set(of_key)) == 3
            owners.update(dict.fromkeys(of_key))
        assert sorted(owners) == [f"n{number}" for number in range(nodes)]
        topologies = [host.node.placement.topology for host in world.hosts if host.node is not None]
        assert topologies == topologies[:1] * nodes
        await world.close_client(client)

    in_world(1, story, replace(CALM, nodes=nodes))


def test_the_network_of_the_swarm_begins_after_the_cluster_was_formed() -> None:
    """A join is one attempt, so it gets a good day; then every wire between nodes has conditions of the swarm."""

    async def story(world: World) -> None:
        assert world.network.counts["lost"] == 0
        assert world.network.wire("n0", "n1").conditions.loss_good == LOSING.loss_good
        await asyncio.sleep(10)  # pings of the nodes are enough
        assert world.network.counts["lost"] > 0

    in_world(2, story, replace(CALM, network=LOSING))


# --- ends of a process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_power_loss", [False, True])
def test_a_kill_keeps_what_was_applied_and_a_power_loss_may_not(is_power_loss: bool) -> None:
    """A killed process leaves the page cache; only a power loss takes unsynced batches, and is seen at the next start."""

    async def story(world: World) -> int:
        client, host = world.open_client("c0"), world.hosts[1]
        identity, boots = node_id(host), host.boots
        put = world.loop.create_task(client.put("k", "v"))
        await _until(lambda: host.disk.unsynced_count)
        world.kill(host, is_power_loss=is_power_loss)
        await put
        assert not host.is_up
        assert await restart(world, host) is is_power_loss
        assert (node_id(host), host.boots) == (identity, boots + is_power_loss)
        assert (await client.get("k", r=3, timeout=10)).value == "v"
        await world.close_client(client)
        return world.lost_batches

    losses = [in_world(seed, story) for seed in range(POWER_SEEDS)]

    assert any(losses) is is_power_loss


def test_an_orderly_stop_leaves_nothing_unsynced_and_nothing_missing() -> None:
    """SIGTERM: the same node comes back, of the same boot, and knows that its history is whole."""

    async def story(world: World) -> None:
        client, host = world.open_client("c0"), world.hosts[2]
        await client.put("k", "v")
        identity, boots = node_id(host), host.boots
        await world.stop(host)
        assert not host.is_up and host.disk.unsynced_count == 0
        assert world.running() == world.hosts[:2]
        assert not await restart(world, host)
        assert (node_id(host), host.boots) == (identity, boots)
        await world.close_client(client)

    in_world(4, story)


def test_of_a_silent_crash_nobody_is_told() -> None:
    """The others' ends stay open until they find out by themselves; after a kill they are reset within milliseconds."""

    async def story(world: World, is_silent: bool) -> int:
        world.kill(world.hosts[2], is_power_loss=True, is_silent=is_silent)
        await asyncio.sleep(0.1)
        left = world.network.connections_count("n0") + world.network.connections_count("n1")
        await asyncio.sleep(SILENT_S)
        assert await restart(world, world.hosts[2])
        return left

    loud, silent = (in_world(5, partial(story, is_silent=is_silent)) for is_silent in (False, True))

    assert silent > loud


def test_a_host_is_started_once() -> None:
    """Starting what runs, or killing what is down, is a bug of the harness."""

    async def story(world: World) -> None:
        with pytest.raises(AssertionError, match="is running"):
            await world.start(world.hosts[0])
        world.kill(world.hosts[0], is_power_loss=False)
        with pytest.raises(AssertionError, match="is down already"):
            world.kill(world.hosts[0], is_power_loss=False)

    in_world(6, story)


def test_a_node_whose_sync_failed_ends_itself_and_never_comes_back() -> None:
    """As `kvnode` does: the process ends at once, and the next start refuses the store."""

    async def story(world: World) -> None:
        client, host = world.open_client("c0"), world.hosts[1]
        host.disk.fail_next_sync()
        await client.put("k", "v", timeout=5)
        await _until(lambda: not host.is_up)
        assert [death for death in world.deaths if death.startswith("n1: ")]
        assert not await world.start(host)
        assert host.refusal == "suspect_store"
        assert (await client.get("k", timeout=5)).value == "v"
        await world.close_client(client)

    in_world(7, story)


# --- changed disks --------------------------------------------------------------------------------------------------------


def test_who_lost_its_disk_is_another_node_and_has_to_join() -> None:
    """And in this version a cluster with a dead member takes nobody in: it is refused, and owns nothing."""

    async def story(world: World) -> None:
        client, host = world.open_client("c0"), world.hosts[2]
        await client.put("k", "v")
        world.kill(host, is_power_loss=True)
        host.disk.wipe()
        host.port += 1
        host.is_new = True
        assert not await world.start(host)
        assert host.refusal == "join_refused" and not host.is_up
        assert sorted(world.owners(key_of("k"))) == ["n0", "n1"]
        assert (await client.get("k", timeout=5)).value == "v"
        await world.close_client(client)

    in_world(8, story)


@pytest.mark.parametrize("is_block_level", [False, True])
def test_an_old_copy_of_a_disk_is_refused(is_block_level: bool) -> None:
    """It would mint its dots again. A copy of files shows in its inode, a rolled back volume in what the peers remember."""

    async def story(world: World) -> None:
        client, host = world.open_client("c0"), world.hosts[2]
        await client.put("k", "before")
        await world.stop(host)
        snapshot = host.disk.snapshot()
        await restart(world, host)
        await client.put("k", "after", context=(await client.get("k")).context, w=3)
        world.kill(host, is_power_loss=True)
        host.disk.restore(snapshot, is_block_level=is_block_level)
        assert not await world.start(host)
        if is_block_level:  # it had come up far enough for a peer to know it: it ended itself, and remembers why
            assert world.deaths[-1].startswith("n2: ")
            assert not await world.start(host)
        assert host.refusal == "stale_identity"
        assert (await client.get("k", r=2, timeout=5)).value == "after"
        await world.close_client(client)

    in_world(9, story)


# --- looking inside -------------------------------------------------------------------------------------------------------


def test_owners_and_states_are_those_of_running_hosts() -> None:
    """Who is down has nothing to say; who is back has what it had, or what a read repaired."""

    async def story(world: World) -> None:
        client, host, key = world.open_client("c0"), world.hosts[1], key_of("k")
        await client.put("k", "first", w=3)
        assert len(dict.fromkeys(world.states(key).values())) == 1
        world.kill(host, is_power_loss=False)
        assert sorted(world.owners(key)) == ["n0", "n2"] == list(world.states(key))
        await client.put("k", "second", context=(await client.get("k")).context)
        await restart(world, host)
        assert len(dict.fromkeys(world.states(key).values())) == 2
        await client.get("k", r=3, timeout=10)
        await _until(lambda: len(dict.fromkeys(world.states(key).values())) == 1)
        assert sorted(world.owners(key)) == ["n0", "n1", "n2"]
        await world.close_client(client)

    in_world(10, story)


def test_an_unreadable_copy_counts_as_long_as_reads_can_replace_it() -> None:
    """Its owner is judged as one that has nothing yet. If a host is gone for good, no read can heal, and it is left out."""

    async def story(world: World) -> None:
        client, key = world.open_client("c0"), key_of("k")
        await client.put("k", "v", w=3, dw=3)
        world.hosts[1].disk.corrupt(Family.DATA, key)
        assert sorted(world.owners(key)) == ["n0", "n1", "n2"]
        assert world.states(key)["n1"] == b""
        world.hosts[2].is_gone = True
        assert "n1" not in world.owners(key)
        await world.close_client(client)

    in_world(11, story)


# --- clusters -------------------------------------------------------------------------------------------------------------


def test_a_cluster_with_two_of_three_nodes_down_refuses_and_then_recovers() -> None:
    """A minority neither acknowledges nor pretends; when the others are back, all is there."""

    async def story(world: World) -> None:
        client = world.open_client("c0")
        await client.put("k", "before")
        for host in world.hosts[1:]:
            world.kill(host, is_power_loss=True)
        with pytest.raises((UnavailableError, ReadError)):
            await client.get("k", timeout=1)
        for host in world.hosts[1:]:
            await restart(world, host)
        assert (await client.get("k", r=3, timeout=10)).value == "before"
        await world.close_client(client)

    in_world(6, story)


def test_a_retry_whose_value_was_replaced_gets_no_context() -> None:
    """Else the retrying client overwrites a value it was never shown: an acknowledged write is lost.

    Found by the simulation: A puts "old", its reply is late; B reads "old" and puts "new"; A's retry is recognised, only
    "new" is left, and a context that covers "new" would let A replace it blindly.
    """

    async def story(world: World) -> None:
        client = world.open_client("c0")
        name = object_name(BUCKET, ObjectType.REGISTER, b"k")
        retried = encode_body([b"operation-id-16b", b"\xa3old", None, 0, None, None, None])
        first = decode_put_reply(await client.call_node(world.hosts[0].address, Verb.PUT, name, retried))
        await client.put("k", "new", context=(await client.get("k")).context)

        again = decode_put_reply(await client.call_node(world.hosts[0].address, Verb.PUT, name, retried))

        assert first.context != b""
        assert (again.siblings, again.context) == (1, b""), "the context covers a value the client never saw"
        await world.close_client(client)

    in_world(7, story)
