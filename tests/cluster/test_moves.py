"""Moves of partitions with data under load: what clients see before, during and after, and what an interrupted joiner does."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from cluster.membership import receiver
from kvstore.errors import JoinRefused, KVStoreError
from tests.support.cluster import Cluster, in_cluster, name_of_key

NAMES = [name_of_key(f"key {number}") for number in range(60)]


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a partition takes several pages."""
    monkeypatch.setattr("cluster.membership.source.SCAN_RECORDS_MAX", 3)


async def fill(cluster: Cluster, says: str = "before") -> None:
    client = cluster.client(0)
    await client.link.wait_up(5)
    for number, name in enumerate(NAMES):
        await client.put(name, f"{says} {number}".encode())


class Load:
    """Puts and strict reads through the first node until it is stopped; a read that misses what was acknowledged fails it."""

    def __init__(self, cluster: Cluster, index: int = 0) -> None:
        self._client, self._is_over = cluster.client(index), False
        self.acknowledged: dict[bytes, set[bytes]] = {}
        self.operations = 0
        self.refused: list[KVStoreError] = []
        self._task = asyncio.ensure_future(self._work())

    async def stop(self) -> None:
        self._is_over = True
        await self._task

    async def _work(self) -> None:
        for number in count():
            if self._is_over:
                return
            name, value = NAMES[number % len(NAMES)], b"during %d" % number
            known = set(self.acknowledged.get(name, ()))
            try:
                shown = await self._client.values(name)
                assert known <= set(shown), f"a read by quorum missed {known - set(shown)}"
                await self._client.put(name, value)
            except KVStoreError as error:
                self.refused.append(error)
            else:
                self.acknowledged.setdefault(name, set()).add(value)
            self.operations += 1
            await asyncio.sleep(0.002)


async def settled(cluster: Cluster) -> None:
    await cluster.until(
        lambda: all(h.node.placement.is_settled for h in cluster.hosts if h.node is not None), timeout_s=90
    )


async def check(cluster: Cluster, load: Load) -> None:
    """Everything is on every owner, and nowhere else."""
    for name in NAMES:
        holders = [i for i, host in enumerate(cluster.hosts) if host.node is not None and cluster.held_values(i, name)]
        owners = cluster.owners(name)
        assert sorted(holders) == sorted(owners)
        for index in owners:
            held = {value for value in cluster.held_values(index, name) if value is not None}
            assert load.acknowledged.get(name, set()) <= held, f"{name!r} on n{index}"


@pytest.mark.parametrize("seed", range(3))
def test_clients_are_served_while_one_node_becomes_four(seed: int) -> None:
    """No strict read misses an acknowledged write, before, during or after a join; nothing is held by who does not own it."""

    async def main(cluster: Cluster) -> None:
        await cluster.start(cluster.hosts[0])
        await fill(cluster)
        load = Load(cluster)
        for index in (1, 2, 3):
            await cluster.start(cluster.hosts[index])
            await settled(cluster)
        await load.stop()
        await check(cluster, load)
        assert load.operations > 100
        assert len(load.refused) < load.operations / 10
        assert all(error.retryable for error in load.refused)

    in_cluster(main, nodes=4, is_started=False, seed=seed)


@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("is_power_loss", [False, True])
def test_a_joiner_that_dies_goes_on_where_it_was(after_s: float, is_power_loss: bool) -> None:
    """It had the records before its cursors on disk: the same move goes on, and strict reads never miss."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        load = Load(cluster)
        host = cluster.add_host()
        task = asyncio.ensure_future(cluster.start(host))
        await asyncio.sleep(after_s)
        await (cluster.power_loss(3) if is_power_loss else cluster.kill(3))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.start(host, join=("n0:7400",))
        await settled(cluster)
        await load.stop()
        await check(cluster, load)
        assert cluster.node(0).placement.epoch == 1 + 3 * 3, "three documents for each join: nothing was cancelled"

    in_cluster(main)


def test_a_resumed_copy_asks_for_the_rest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a joiner that dies often would never be done."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        host = cluster.add_host()
        task = asyncio.ensure_future(cluster.start(host))
        await cluster.until(lambda: host.node is not None and getattr(host.node, "receiver", None) is not None)
        node = host.node
        assert node is not None
        await cluster.until(lambda: node.receiver.records >= 20, every_s=0.0005)
        await cluster.kill(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again = await cluster.start(host, join=("n0:7400",))
        owned = sum(3 in cluster.owners(name) for name in NAMES)
        assert again.receiver.records <= owned - 20 + 4 * 3, "all but the pages that were under way"

    in_cluster(main)


def test_a_dead_member_is_replaced_under_load() -> None:
    """The new node takes every place of the dead one, from what all other owners hold; the dead one may not come back."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        dead = cluster.node(2).node_id
        await cluster.kill(2)
        load = Load(cluster)
        host = cluster.add_host()
        await cluster.start(host, join=("n0:7400",), replaced=dead.hex()[:6])
        await settled(cluster)
        await load.stop()
        await check(cluster, load)
        topology = cluster.node(0).placement.topology
        assert topology is not None and topology.removed == (dead,) and len(topology.members) == 3
        cluster.expects_death = True
        with pytest.raises(KVStoreError):
            await cluster.restart(2)

    in_cluster(main)


@pytest.mark.parametrize(
    ("called", "why"), [("", "reachable"), ("ffffffff", "0 members"), ("alive", "is alive"), ("founder", "founding")]
)
def test_what_is_not_safe_is_refused(called: str, why: str) -> None:
    """While a member is down; of nobody; of a living member; of the founder."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        ids = {"alive": cluster.node(1).node_id.hex(), "founder": cluster.node(0).node_id.hex()}
        await cluster.kill(2)
        epoch = cluster.node(0).placement.epoch
        with pytest.raises(JoinRefused, match=why):
            await cluster.start(cluster.add_host(), join=("n0:7400",), replaced=ids.get(called, called))
        assert cluster.node(0).placement.epoch == epoch

    in_cluster(main)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_small_cluster_is_not_held_up_by_a_joiner_that_died(nodes: int) -> None:
    """Where nobody leaves nothing depends on the joiner: its death must not stop the writes of those who were there before."""

    async def main(cluster: Cluster) -> None:
        for index in range(nodes):
            await cluster.start(cluster.hosts[index])
        await fill(cluster)
        task = asyncio.ensure_future(cluster.start(cluster.hosts[nodes]))
        await cluster.until(lambda: cluster.node(0).placement.topology.move is not None)  # type: ignore[union-attr]
        await cluster.kill(nodes)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.client(0).put(NAMES[0], b"while it is dead")
        await cluster.start(cluster.hosts[nodes], join=("n0:7400",))
        await settled(cluster)
        assert b"while it is dead" in await cluster.client(nodes).values(NAMES[0])

    in_cluster(main, nodes=nodes + 1, is_started=False)


def test_a_second_joiner_waits_for_the_first() -> None:
    """One move at a time."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        hosts = [cluster.add_host(), cluster.add_host()]
        await asyncio.gather(*[cluster.start(host, join=("n1:7400",)) for host in hosts])
        await settled(cluster)
        topology = cluster.node(0).placement.topology
        assert topology is not None and len(topology.members) == 5

    in_cluster(main)


def test_what_a_leaving_owner_alone_took_is_copied_before_it_is_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed may still have been shown from there: with its holder gone it would be lost."""
    monkeypatch.setattr(receiver, "RETRY_S", 0.2)

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        host = cluster.add_host()
        task = asyncio.ensure_future(cluster.start(host))
        await cluster.until(lambda: cluster.node(0).placement.topology.move is not None)  # type: ignore[union-attr]
        client = cluster.client(0)
        for index in (1, 2, 3):
            cluster.cut_off(index)
        for number, name in enumerate(NAMES):
            with pytest.raises(KVStoreError):
                await client.put(name, b"alone %d" % number, timeout_s=0.3)
        held = [number for number, name in enumerate(NAMES) if b"alone %d" % number in cluster.held_values(0, name)]
        assert held
        cluster.network.heal_all()
        await task
        await settled(cluster)
        for number in held:
            everywhere = [
                value for index in cluster.owners(NAMES[number]) for value in cluster.held_values(index, NAMES[number])
            ]
            assert b"alone %d" % number in everywhere

    in_cluster(main)
