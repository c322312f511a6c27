"""Seeded chaos in whole clusters: every point fires, nothing acknowledged is lost, and asleep it changes nothing at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from functools import partial
from itertools import count

import pytest

from jepsen_lite.sim.buggify import FREQUENT_SHARE, Buggify
from kvstore.chaos import CALM, FREQUENT, ON_REQUEST, Chaos, Point, Probe
from kvstore.client.bucket import AsyncBucket
from kvstore.client.client import AsyncClient
from kvstore.env import Env
from kvstore.errors import KVStoreError
from kvstore.messages import Verb, encode_body
from kvstore.storage.keyspace import storage_key
from tests.support import cluster as support
from tests.support.cluster import Cluster, Host, in_cluster, name_of_key

SEEDS_MIN, SEEDS_MAX = 5, 20
"""Eight are enough today; another point or another order of the enum may need some more."""
ROUNDS, KEYS_A_ROUND = 4, 12
LARGE = bytes(40_000)
Told = dict[str, str]
"""Key -> the one value that was written to it and acknowledged."""


async def _quietly(work: Awaitable[object]) -> bool:
    """Whether it was done; while chaos reigns any operation may fail."""
    try:
        await work
    except KVStoreError:
        return False
    return True


async def _start(cluster: Cluster, host: Host) -> None:
    """Start a host's node; a refused join is asked for again, as an operator would."""
    join = () if host is cluster.hosts[0] else (cluster.hosts[0].address,)
    for _ in range(8):
        if await _quietly(cluster.start(host, join=join)):
            return
        await asyncio.sleep(0.5)  # virtual: until the members have found each other again
    raise AssertionError(f"{host.name} could not join in eight attempts")


def _client(cluster: Cluster, name: str, chaos: Chaos) -> AsyncClient:
    return AsyncClient(
        [host.address for host in cluster.hosts], transport=cluster.network.transport(name), clock=cluster.hosts[0].clock,
        rng=cluster.rng(name), chaos=chaos, timeout=2.0, attempt_timeout=0.4,
    )  # fmt: skip


async def _write_unique(bucket: AsyncBucket[str], keys: list[str], told: Told) -> None:
    """Write each key once; what is acknowledged must never be missing again."""
    async with bucket.batch(max_in_flight=KEYS_A_ROUND) as batch:
        for key in keys:
            batch.put(key, f"{key} of {bucket.name}")
    failed = {failure.key for failure in batch.failed}
    told.update({key: f"{key} of {bucket.name}" for key in keys if key not in failed})


async def _work(client: AsyncClient, name: str, told: Told, trouble: asyncio.Task[None]) -> None:
    """A few rounds, and more until the trouble is over."""
    plain, lww = client.bucket("default", type=str), client.bucket("default", object_type="lww")
    for number in count():
        if number >= ROUNDS and trouble.done():
            break
        await _write_unique(plain, [f"{name} {number} {i}" for i in range(KEYS_A_ROUND)], told)
        await plain.get_many(list(told)[-2 * KEYS_A_ROUND :])
        await asyncio.sleep(0.05)
        for key in ("hot", "cold"):
            await _quietly(plain.put(f"{key} {number}", "blind"))
            await _quietly(plain.update(key, lambda value: (value or "")[-50:] + name))
            await _quietly(lww.put(key, number))
        await _quietly(client.put("early", number, w=2, dw=1))
        await _quietly(client.put("large", LARGE))
        await _quietly(plain.delete("hot"))


async def _forward(cluster: Cluster, key: str) -> None:
    """Send operations to a node that does not own the key, as a client with an old topology does."""
    name = name_of_key(key)
    running = [index for index, host in enumerate(cluster.hosts) if host.node is not None]
    for index in [index for index in running if index not in cluster.owners(name)] * 8:
        client = cluster.client(index)
        await _quietly(client.put(name, b"forwarded", timeout_s=0.3))
        await _quietly(client.call(Verb.GET, name, encode_body([2, None]), 0.3))
        await client.link.close()


async def _ask_with_a_newer_placement(cluster: Cluster, key: str) -> None:
    """Have a node ask its peers with a placement that they have not heard of, as right after the end of a join."""
    deadline = cluster.loop.time() + 1.0
    for _, link in cluster.node(0).peers.all() * 4:
        await _quietly(link.call(Verb.FETCH, 1_000_000, deadline, storage_key(name_of_key(key)), b""))


async def _rot(cluster: Cluster, client: AsyncClient, told: Told) -> None:
    """Make records unreadable at one of their owners, and read them until they are healed."""
    for key in list(told)[:6]:
        name = name_of_key(key.encode())
        index = cluster.owners(name)[0]
        if cluster.hosts[index].node is not None and cluster.record(index, name) is not None:
            cluster.corrupt(index, name)
        for _ in range(4):
            await _quietly(client.get(key, r=3))


async def _trouble(cluster: Cluster, client: AsyncClient, chaos: Chaos) -> None:
    await asyncio.sleep(0.1)
    await _quietly(client.create_bucket("later"))
    await cluster.kill(1)
    await asyncio.sleep(0.2)
    await _start(cluster, cluster.hosts[1])
    await cluster.power_loss(2)
    await asyncio.sleep(0.2)
    await _start(cluster, cluster.hosts[2])
    if isinstance(chaos, Buggify):  # a transfer of hundreds of records is one attempt: one that is refused cancels it
        chaos.quiet(FREQUENT)
        await _start(cluster, cluster.add_host())
        chaos.wake()
    else:
        await _start(cluster, cluster.add_host())


async def _missing(client: AsyncClient, told: Told) -> dict[str, object]:
    """Return what was acknowledged and cannot be read any more."""
    found: dict[str, object] = {}
    for key in told:
        result = await client.get(key, r=3, timeout=20.0)
        found[key] = [sibling.value for sibling in result.siblings]
    return {key: found[key] for key in told if told[key] not in found[key]}  # type: ignore[operator]


def run(seed: int, chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> tuple[Told, bytes]:
    """Work in a cluster of four nodes, then five, under chaos; returns what was acknowledged and the digest of the run."""
    told: Told = {}
    monkeypatch.setattr(support, "Env", partial(Env, chaos=chaos))

    async def main(cluster: Cluster) -> bytes:
        for host in list(cluster.hosts):
            await _start(cluster, host)
        clients = [_client(cluster, name, chaos) for name in ("a", "b")]
        trouble = asyncio.create_task(_trouble(cluster, clients[0], chaos))
        await asyncio.gather(_work(clients[0], "a", told, trouble), _work(clients[1], "b", told, trouble))
        await trouble
        await _rot(cluster, clients[0], told)
        await _forward(cluster, "hot")
        await _ask_with_a_newer_placement(cluster, "hot")
        if isinstance(chaos, Buggify):
            chaos.quiet()
        missing = await _missing(clients[1], told)
        assert not missing, f"acknowledged and lost with seed {seed}, {chaos}: {missing}"
        for client in clients:
            await client.close()
        return cluster.loop.digest()

    digest = in_cluster(main, nodes=4, seed=seed, is_started=False)
    return told, digest


def test_every_point_fires_and_no_acknowledged_write_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the points awake in each of a few small runs: together they reach all of them, and every promise holds."""
    fired: dict[str, int] = dict.fromkeys(map(str, Point), 0)
    acknowledged = seeds = 0
    while seeds < SEEDS_MIN or (seeds < SEEDS_MAX and not all(fired.values())):
        chaos = Buggify(random.Random(seeds), p_active=0.5, always=ON_REQUEST)
        told, _ = run(seeds, chaos, monkeypatch)
        seeds += 1
        acknowledged += len(told)
        for point, times in chaos.fired.items():
            fired[point] += times

    assert [point for point, times in fired.items() if not times] == []
    assert acknowledged > 50 * seeds, "runs that acknowledge little prove little"


def test_a_run_with_no_point_awake_is_the_calm_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event for event the same as in production's calm, though every point is asked and every probe counted."""
    asleep = Buggify(random.Random(1), p_active=0.0)

    assert run(3, asleep, monkeypatch) == run(3, CALM, monkeypatch)
    assert sum(asleep.asked.values()) > 1_000
    assert sum(asleep.probes.values()) > 100
    assert asleep.counts() == {}


def test_a_run_repeats_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same events, fires and hits."""
    first, second = (Buggify(random.Random(7), p_active=0.5) for _ in range(2))

    assert run(7, first, monkeypatch) == run(7, second, monkeypatch)
    assert (first.fired, first.asked, first.probes) == (second.fired, second.asked, second.probes)
    assert sum(first.fired.values()) > 0


def test_points_are_drawn_independently_of_each_other() -> None:
    """Waking, asking or adding one changes nothing for the others: each has a draw and a stream of its own."""
    all_awake = Buggify(random.Random(5), p_active=1.0)
    assert Buggify(random.Random(5), p_active=0.0, always=ON_REQUEST).awake == tuple(ON_REQUEST)
    one_awake = Buggify(random.Random(5), p_active=1.0, only=[Point.COMMIT_LATE])
    for _ in range(50):
        all_awake.fires(Point.GROUP_TINY)

    asked = [(all_awake.fires(Point.COMMIT_LATE), one_awake.fires(Point.COMMIT_LATE)) for _ in range(200)]

    assert all_awake.awake == tuple(point for point in Point if point not in ON_REQUEST)
    assert one_awake.awake == (Point.COMMIT_LATE,)
    assert all(ours == theirs for ours, theirs in asked)
    assert any(ours for ours, _ in asked)


def test_shares_are_as_asked_for() -> None:
    """A quarter of the points is awake, an awake one fires in a quarter of its calls, a frequent one in a tenth of that."""
    awake = [len(Buggify(random.Random(seed)).awake) for seed in range(200)]
    chaos = Buggify(random.Random(1), p_active=1.0)
    for _ in range(4_000):
        chaos.fires(Point.REPAIR_LATE)
        chaos.fires(Point.REPLY_DROPPED)

    assert 0.22 < sum(awake) / 200 / len(Point) < 0.28
    assert 0.22 < chaos.fired[Point.REPAIR_LATE] / 4_000 < 0.28
    assert Point.REPLY_DROPPED in FREQUENT
    assert 0.8 < chaos.fired[Point.REPLY_DROPPED] / (FREQUENT_SHARE * chaos.fired[Point.REPAIR_LATE]) < 1.2


def test_pick_and_quiet() -> None:
    """A firing point picks one of the others, a quiet one the default; hits are counted and passed on."""
    heard: list[str] = []
    chaos = Buggify(random.Random(1), p_active=1.0, p_fire=1.0, hit=heard.append)

    picked = {chaos.pick(Point.GROUP_TINY, 512, 1, 2) for _ in range(50)}
    chaos.hit(Probe.CACHE_TURNED)
    chaos.quiet()

    assert picked == {1, 2}
    assert chaos.pick(Point.GROUP_TINY, 512, 1, 2) == 512
    assert not chaos.fires(Point.COMMIT_LATE)
    assert heard == ["cache_turned"]
    assert chaos.probes["cache_turned"] == 1
