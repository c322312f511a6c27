"""Hedged reads in a cluster: a slow owner costs nobody his latency, and asking more costs at most a twentieth."""

from __future__ import annotations

import asyncio

import pytest

from cluster.coordinator.hedge import BURST, SHARE
from cluster.counters import Counters
from kvstore.messages import Verb, encode_body
from tests.support.cluster import Client, Cluster, in_cluster, name_of_key

KEYS = [f"key{number}" for number in range(40)]


async def filled(cluster: Cluster) -> Client:
    """Return a client of the first node; every owner holds all keys."""
    client = cluster.client(0)
    for key in KEYS:
        await client.put(name_of_key(key), key.encode(), w=3)
    return client


async def read(cluster: Cluster, client: Client, gets: int, *, at_once: int = 1, r: int | None = None) -> list[float]:
    """Get keys in turn, `at_once` together in one frame; return how long each took, sorted."""
    took: list[float] = []

    async def one(number: int) -> None:
        started = cluster.loop.time()
        assert await client.values(name_of_key(KEYS[number % len(KEYS)]), r=r) == [KEYS[number % len(KEYS)].encode()]
        took.append(cluster.loop.time() - started)

    for first in range(0, gets, at_once):
        await asyncio.gather(*(one(number) for number in range(first, first + at_once)))
    return sorted(took)


def counted(cluster: Cluster) -> Counters:
    """Return the counters of the node that is asked."""
    return cluster.node(0).counters


def p99(took: list[float]) -> float:
    """Return the 99th percentile of sorted times."""
    return took[len(took) * 99 // 100]


@pytest.mark.parametrize("at_once", [1, 20])
def test_nobody_is_asked_twice_when_nobody_is_slow(at_once: int) -> None:
    """Not even among thousands of reads: late is what takes longer than most do."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        await read(cluster, client, 2_000, at_once=at_once)
        assert (counted(cluster).hedges, counted(cluster).hedges_won) == (0, 0)
        assert cluster.node(0).reads.hedge.delay_s < 0.01

    in_cluster(main)


@pytest.mark.parametrize("at_once", [1, 20])
@pytest.mark.parametrize("delay_s", [0.02, 0.3])
def test_a_slow_owner_does_not_set_the_latency(at_once: int, delay_s: float) -> None:
    """The p99 follows the fast owner, whether the other was slow from the start or becomes it."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        usual = p99(await read(cluster, client, 1_000, at_once=at_once))
        for slow in ("n1", "n2"):
            before = counted(cluster).hedges
            cluster.delays = {(slow, "n0"): delay_s}
            noticing = await read(cluster, client, 100 * at_once, at_once=at_once)
            slowed = p99(await read(cluster, client, 1_600, at_once=at_once))
            assert slowed < min(3 * usual, delay_s)
            hedges = counted(cluster).hedges - before
            assert 0 < hedges <= SHARE * (1_600 + len(noticing)) + BURST + at_once
        assert counted(cluster).hedges_won > 0

    in_cluster(main)


@pytest.mark.parametrize("at_once", [1, 5])
def test_a_pause_now_and_then_is_hidden(at_once: int) -> None:
    """One frame in fifty meets an owner that pauses: the hedge is answered after what most reads take, twice."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        usual = p99(await read(cluster, client, 1_000, at_once=at_once))
        took: list[float] = []
        for _ in range(25):
            cluster.delays = {("n1", "n0"): 0.08}
            took += await read(cluster, client, at_once, at_once=at_once)
            cluster.delays = {}
            took += await read(cluster, client, 49 * at_once, at_once=at_once)
        counters = counted(cluster)
        assert p99(sorted(took)) < 3 * usual
        assert 0 < counters.hedges <= SHARE * counters.gets + BURST + at_once

    in_cluster(main)


@pytest.mark.parametrize("at_once", [4, 20])
def test_when_all_are_slow_the_hedges_stay_within_their_budget(at_once: int) -> None:
    """More asking would make it slower. Afterwards a late read is again one that is slower than most."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        await read(cluster, client, 1_000, at_once=at_once)
        for delay_s in (0.03, 0.09, 0.3):
            before = counted(cluster).hedges
            cluster.delays = {("n1", "n0"): delay_s, ("n2", "n0"): delay_s}
            await read(cluster, client, 1_000, at_once=at_once)
            assert counted(cluster).hedges - before <= SHARE * 1_000 + BURST + at_once

        cluster.delays = {}
        await read(cluster, client, 6_000, at_once=at_once)
        assert cluster.node(0).reads.hedge.delay_s < 0.01

    in_cluster(main)


def test_reads_of_all_owners_are_not_hedged_and_cost_no_budget() -> None:
    """r=3: there is nobody else to ask."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        await read(cluster, client, 400, r=3)
        cluster.delays = {("n1", "n0"): 0.05}
        await read(cluster, client, 100, r=3)
        assert counted(cluster).hedges == 0

    in_cluster(main)


def test_a_hedge_answers_a_group_as_one() -> None:
    """Forty gets in one frame cost one message more, not forty; each counts against the budget."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        await read(cluster, client, 2_000, at_once=40)
        cluster.delays = {("n1", "n0"): 0.5}
        operations = cluster.node(0).reads._operations
        body, deadline = encode_body([None, None]), cluster.loop.time() + 5
        answers = []
        for _ in range(2):  # one of two frames asks the slow owner
            answers += [client.link.request(Verb.GET, 0, deadline, name_of_key(key), body) for key in KEYS]
            await asyncio.sleep(0.02)
        assert counted(cluster).hedges == counted(cluster).hedges_won == len(KEYS) and not operations
        assert all(answer.done() for answer in answers)

    in_cluster(main)


def test_no_timer_runs_while_nothing_waits() -> None:
    """The watcher ends with the last read, and begins again with the next."""

    async def main(cluster: Cluster) -> None:
        client = await filled(cluster)
        reads = cluster.node(0).reads
        await read(cluster, client, 10)
        assert reads._is_watching
        await asyncio.sleep(0.2)
        assert not reads._is_watching
        await read(cluster, client, 1)
        assert reads._is_watching

    in_cluster(main)
