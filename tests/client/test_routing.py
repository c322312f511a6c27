"""Where operations go: to a live owner, elsewhere when it fails, and always within the one deadline."""

from __future__ import annotations

import asyncio

import pytest

from kvstore import AsyncClient, errors
from kvstore.client.failures import ClientClosed
from kvstore.ids import PartitionId
from kvstore.messages import Verb
from kvstore.ring.token import partition_of
from kvstore.storage.keyspace import object_name, storage_key
from tests.client.fake_cluster import (
    FakeCluster,
    FakeNode,
    apply_then_hang_up,
    refuse,
    simulate,
    stay_silent,
    with_cluster,
)


def partition_of_key(key: str) -> PartitionId:
    return partition_of(storage_key(object_name("default", 1, key.encode())), 2)


def keys_of_all_partitions() -> list[str]:
    """Return one key for each of the four partitions, in order."""
    first: dict[int, str] = {}
    for i in range(100):
        first.setdefault(partition_of_key(f"k{i}"), f"k{i}")
    return [first[partition] for partition in range(4)]


KEYS = keys_of_all_partitions()


async def touch_all(kv: AsyncClient) -> None:
    """Use every partition, so that the links to all owners are open."""
    for key in KEYS:
        await kv.get(key)
    await asyncio.sleep(0.5)


def forget(cluster: FakeCluster) -> None:
    for node in cluster.nodes:
        node.seen.clear()


def test_operations_go_to_the_first_owner_of_the_key() -> None:
    """With the placement version of its partition, so that a stale plan is noticed."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        forget(cluster)

        for key in KEYS:
            await kv.put(key, 1)

        assert [len(node.seen) for node in cluster.nodes] == [1, 1, 1, 1, 0]
        assert {request[2] for request in cluster.seen} == {2}

    with_cluster(main, nodes_count=5)


def test_the_first_operations_travel_through_the_node_that_is_connected() -> None:
    """Nobody waits for links to the owners: any node forwards."""

    async def main() -> None:
        cluster = FakeCluster(5)
        await cluster.serve()
        async with cluster.client() as kv:
            await kv.get(KEYS[3])

        assert len(cluster.nodes[0].seen) == 1

    simulate(main)


def test_a_client_needs_no_connect() -> None:
    """The first operation does it, in its own deadline."""

    async def main() -> None:
        cluster = FakeCluster()
        await cluster.serve()
        kv = cluster.client()

        assert (await kv.put("k", 1)).acked == 3
        await kv.close()

    simulate(main)


def test_a_dead_owner_is_passed_over() -> None:
    """To the next owner, at once and without an error."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        forget(cluster)

        cluster.network.crash(cluster.nodes[1].host)
        await kv.put(KEYS[1], 1)

        assert [len(node.seen) for node in cluster.nodes] == [0, 0, 1, 0, 0]

    with_cluster(main, nodes_count=5)


def test_with_all_owners_dead_any_node_is_asked() -> None:
    """It forwards, or says with what authority it cannot."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        forget(cluster)

        for owner in (1, 2, 3):
            cluster.network.crash(cluster.nodes[owner].host)
        await kv.get(KEYS[1])

        assert len(cluster.nodes[0].seen) + len(cluster.nodes[4].seen) == 1

    with_cluster(main, nodes_count=5)


@pytest.mark.parametrize("is_read", [True, False])
def test_a_connection_that_breaks_mid_operation_costs_one_more_attempt(is_read: bool) -> None:
    """The retry goes to the next owner; a put that had landed is recognised there by its operation id."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        forget(cluster)
        cluster.nodes[0].script.append(apply_then_hang_up)

        if is_read:
            await kv.get(KEYS[0])
        else:
            assert (await kv.put(KEYS[0], 1)).siblings == 1

        assert [len(node.seen) for node in cluster.nodes] == [1, 1, 0]

    with_cluster(main)


def test_a_node_that_stopped_without_a_word_costs_one_attempt_timeout() -> None:
    """Not the whole deadline."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        cluster.nodes[0].script.append(stay_silent)
        began = asyncio.get_running_loop().time()

        await kv.put(KEYS[0], 1)

        assert 0.5 <= asyncio.get_running_loop().time() - began < 0.7

    with_cluster(main, attempt_timeout=0.5)


def test_a_put_that_times_out_is_in_doubt_and_a_get_is_not() -> None:
    """Both end at the deadline, whatever is retried inside."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        for node in cluster.nodes:
            node.script.extend([stay_silent] * 20)
        loop = asyncio.get_running_loop()

        for verb in ("put", "get"):
            began = loop.time()
            with pytest.raises(errors.Timeout if verb == "put" else errors.ReadTimeout) as caught:
                await (kv.put(KEYS[0], 1, timeout=1.2) if verb == "put" else kv.get(KEYS[0], timeout=1.2))
            assert caught.value.definite == (verb == "get")
            assert caught.value.details["attempts"] == 3
            assert 1.2 <= loop.time() - began < 1.25

    with_cluster(main, attempt_timeout=0.5)


def test_a_doubtful_put_stays_doubtful_when_the_retry_is_refused() -> None:
    """The first attempt was applied; that the others refused does not undo it."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        cluster.nodes[0].script.append(apply_then_hang_up)
        for node in cluster.nodes:
            node.script.extend([refuse(errors.Unavailable("no", needed=2, alive=1))] * 20)

        with pytest.raises(errors.CoordinatorLost) as caught:
            await kv.put(KEYS[0], 1)

        assert caught.value.maybe_applied

    with_cluster(main)


def test_a_put_that_every_node_refuses_is_definitely_not_applied() -> None:
    """With the numbers of the refusal."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        for node in cluster.nodes:
            node.script.extend([refuse(errors.Unavailable("no", needed=2, alive=1))] * 20)

        with pytest.raises(errors.Unavailable) as caught:
            await kv.put(KEYS[0], 1)

        assert caught.value.definite
        assert caught.value.details == {"needed": 2, "alive": 1, "attempts": 8}

    with_cluster(main)


def test_deadlines_nest_and_only_shrink() -> None:
    """The smallest bound holds for all that is inside, retries included."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        for node in cluster.nodes:
            node.script.extend([stay_silent] * 50)
        loop = asyncio.get_running_loop()
        began = loop.time()

        with kv.timeout(0.3), kv.timeout(60):
            with pytest.raises(errors.ReadTimeout):
                await kv.get(KEYS[0], timeout=30)
            assert 0.3 <= loop.time() - began < 0.35
            with pytest.raises(errors.Unavailable) as caught:
                await kv.put(KEYS[0], 1)
            assert caught.value.definite
        assert loop.time() - began < 0.36

    with_cluster(main)


def test_a_newer_topology_announced_by_any_reply_is_fetched_and_followed() -> None:
    """No operation fails for it."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        cluster.topology = cluster.placed(cluster.topology, shift=1)
        await kv.get(KEYS[0])
        await asyncio.sleep(0.2)
        forget(cluster)

        await kv.get(KEYS[0])

        assert [len(node.seen) for node in cluster.nodes] == [0, 1, 0, 0]
        assert cluster.seen[0][2] == 3

    with_cluster(main, nodes_count=4)


@pytest.mark.parametrize("refusal", [errors.WrongOwner("x"), errors.StalePlacement("x")])
def test_a_refusal_for_an_old_plan_makes_a_new_plan(refusal: errors.KVStoreError) -> None:
    """The topology is fetched before the next attempt, which then carries the new version."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        forget(cluster)

        def move(node: FakeNode, session: object, request: object) -> None:
            cluster.topology = cluster.placed(cluster.topology, shift=1)
            refuse(refusal)(node, session, request)  # type: ignore[arg-type]

        cluster.nodes[0].script.append(move)
        await kv.put(KEYS[0], 1)

        assert [request[2] for request in cluster.seen] == [2, 3]

    with_cluster(main)


def test_a_node_that_joined_is_used_and_one_that_left_is_let_go() -> None:
    """Links follow the topology; the seed stays known, as the way back in."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        gone = cluster.nodes.pop(1)
        joined = FakeNode(cluster, type(gone.node_id)(b"J" * 8), "n9:1")
        cluster.nodes.append(joined)
        await cluster.start_node(joined)
        cluster.nodes.sort(key=lambda node: node.node_id)
        cluster.topology = cluster.placed(cluster.topology)
        await kv.get(KEYS[0])
        await asyncio.sleep(1.0)
        await touch_all(kv)
        forget(cluster)

        for key in KEYS:
            await kv.get(key)

        assert len(joined.seen) >= 1
        assert cluster.network.connections_count(gone.host) == 0

    with_cluster(main)


def test_an_older_topology_never_replaces_a_newer_one() -> None:
    """A node that was away still has the old one."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        old = cluster.topology
        cluster.topology = cluster.placed(cluster.topology, shift=1)
        newest = (await kv.topology()).epoch
        for node in cluster.nodes:
            node.topology = old

        assert (await kv.topology()).epoch == newest

    with_cluster(main)


def test_no_node_in_reach_is_definite_and_names_them() -> None:
    """Nothing was sent; and it takes no longer than asked."""

    async def main() -> None:
        cluster = FakeCluster()
        kv = cluster.client(timeout=0.5)

        with pytest.raises(errors.Unavailable, match="n0:1") as caught:
            await kv.put("k", 1)

        assert caught.value.definite
        assert asyncio.get_running_loop().time() < 0.7
        with pytest.raises(errors.Unavailable):
            async with cluster.client(timeout=0.1):
                pass
        await kv.close()

    simulate(main)


def test_a_cluster_that_comes_up_in_time_is_waited_for() -> None:
    """A restart of all nodes is not an error to a patient caller."""

    async def main() -> None:
        cluster = FakeCluster()
        kv = cluster.client()
        put = asyncio.create_task(kv.put("k", 1))
        await asyncio.sleep(1.0)
        await cluster.serve()

        assert (await put).acked == 3
        await kv.close()

    simulate(main)


def test_a_node_that_is_not_ready_is_asked_again() -> None:
    """Starting and joining nodes say so; the others are tried meanwhile."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        for node in cluster.nodes:
            node.script.extend([refuse(errors.NotReady("starting", retry_after_s=0.1))] * 2)

        assert (await kv.put(KEYS[0], 1)).acked == 3

    with_cluster(main)


def test_a_cancelled_operation_leaves_nothing_behind() -> None:
    """A late answer to it finds nobody, quietly."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        get = asyncio.create_task(kv.get(KEYS[0]))
        await asyncio.sleep(0)

        get.cancel()
        with pytest.raises(asyncio.CancelledError):
            await get

        await asyncio.sleep(0.1)
        assert not (await kv.get(KEYS[0])).found

    with_cluster(main)


def test_closing_fails_what_is_under_way_and_all_that_follows() -> None:
    """A put under way is in doubt; one after the close was never sent."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await touch_all(kv)
        for node in cluster.nodes:
            node.script.append(stay_silent)
        bucket = kv.bucket("default")
        put = asyncio.create_task(bucket.put(KEYS[0], 1))
        await asyncio.sleep(0.1)

        await kv.close()

        with pytest.raises(errors.CoordinatorLost):
            await put
        with pytest.raises(ClientClosed):
            await bucket.put(KEYS[0], 1)
        with pytest.raises(ClientClosed):
            await kv.get(KEYS[0])
        await kv.close()
        assert cluster.network.connections_count("client") == 0

    with_cluster(main)


def test_tools_can_speak_to_one_node() -> None:
    """By address, by id, or by as much of the id as is needed."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        node = cluster.nodes[1]

        good: list[str | bytes] = [node.address, node.node_id, node.node_id.hex(), node.node_id.hex()[:2]]
        bad: list[str | bytes] = ["a", "ff", b"", ""]
        for name in good:
            assert await kv.call_node(name, Verb.PING) == b"pong"
        for name in bad:
            with pytest.raises(errors.InvalidArgument):
                await kv.call_node(name, Verb.PING)
        with pytest.raises(errors.Unavailable):
            await kv.call_node("nowhere:1", Verb.PING, timeout=0.1)

    with_cluster(main)
