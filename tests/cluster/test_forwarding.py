"""Requests at a node that does not own the key: passed on once, to an owner, and never coordinated twice."""

from __future__ import annotations

import pytest

from kvstore.errors import InvalidArgument, Unavailable, WrongOwner, error_from_wire
from kvstore.messages import Status, Verb
from tests.support.cluster import Cluster, in_cluster, name_of_key


def foreign_name(cluster: Cluster) -> tuple[bytes, int]:
    """Return a name and the one node of four that does not own it."""
    for number in range(100):
        name = name_of_key(f"key {number}")
        strangers = [index for index in range(4) if index not in cluster.owners(name)]
        if strangers == [3]:
            return name, 3
    raise AssertionError("placement is not balanced")


def test_a_non_owner_passes_every_verb_on_once() -> None:
    """The client sees the same answers, and only owners hold the record."""

    async def main(cluster: Cluster) -> None:
        name, stranger = foreign_name(cluster)
        client = cluster.client(stranger)
        put = await client.put(name, b"v", w=3)
        assert put.acked == 3
        assert (await client.get(name, r=3)).replied == 3
        await client.delete(name, put.context)
        assert await client.values(name, r=3) == []
        assert cluster.node(stranger).counters.forwarded == 4
        assert cluster.record(stranger, name) is None
        assert sum(cluster.node(index).counters.puts for index in range(4)) == 1

    in_cluster(main, nodes=4)


def test_a_forwarded_request_at_a_wrong_owner_is_refused() -> None:
    """It is not passed on a second time."""

    async def main(cluster: Cluster) -> None:
        name, stranger = foreign_name(cluster)
        link = next(link for node_id, link in cluster.node(0).peers.all() if node_id == cluster.node(stranger).node_id)
        for verb in (Verb.FORWARDED_PUT, Verb.FORWARDED_GET, Verb.FORWARDED_DELETE):
            with pytest.raises(WrongOwner) as refused:
                await link.call(verb, 1, cluster.loop.time() + 1, name, b"")
            assert refused.value.definite and refused.value.topology_epoch == cluster.node(stranger).placement.epoch

    in_cluster(main, nodes=4)


def test_a_non_owner_tries_the_next_owner_and_says_so_when_there_is_none() -> None:
    """Dead owners are passed over; with nobody left nothing was tried."""

    async def main(cluster: Cluster) -> None:
        name, stranger = foreign_name(cluster)
        client = cluster.client(stranger)
        await client.put(name, b"v", w=3)
        first, second, third = cluster.owners(name)
        slot = cluster.node(stranger).placement.slots()[cluster.partition(name)]
        await cluster.kill(first)
        await cluster.until(lambda: slot.reachable() == 2)
        assert await client.values(name) == [b"v"]
        await cluster.kill(second, third)
        await cluster.until(lambda: slot.reachable() == 0)
        with pytest.raises(Unavailable) as refused:
            await client.put(name, b"lost")
        assert refused.value.definite

    in_cluster(main, nodes=4)


def test_peer_verbs_are_for_members() -> None:
    """A client cannot write a record past the coordinator, nor forward."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        for verb in (
            Verb.REPLICATE,
            Verb.FETCH,
            Verb.FORWARDED_PUT,
            Verb.SCAN,
            Verb.MOVED,
            Verb.TOPOLOGY_ADOPT,
            Verb.FORWARDED_ADMIN,
        ):
            with pytest.raises(InvalidArgument):
                await client.call(verb, name_of_key("k"), b"x")

    in_cluster(main)


def test_every_operation_gets_exactly_one_reply() -> None:
    """Also the refused ones."""

    async def main(cluster: Cluster) -> None:
        replies: list[tuple[int, bytes]] = []
        node = cluster.node(0)
        frame = node.coordinator.begin(lambda _, status, body: replies.append((status, body)))
        node.coordinator.put(frame, 1, name_of_key("k"), b"?", cluster.loop.time() + 1)
        node.coordinator.ask(frame)
        assert [status for status, _ in replies] == [Status.ERROR]
        assert error_from_wire(replies[0][1]).definite

    in_cluster(main, nodes=1)
