"""Nodes as processes: killed at any await and at any I/O point, paused and starved, and what the cluster promised holds.

The values of one story are few; what matters is that every step of a put has been the last one of its coordinator.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from cluster.node import Node
from jepsen_lite.sim.boundary import ProcessTransport
from jepsen_lite.sim.clock import SimClock
from jepsen_lite.sim.processes import Process
from jepsen_lite.sim.swarm import Swarm
from jepsen_lite.sim.world import Host, World
from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError

POINTS = ("frame sent", "about to apply", "applied", "about to sync", "synced")


def in_world(seed: int, story: Callable[[World], Coroutine[Any, Any, Any]]) -> Any:
    """Run a story in a world in which at most two minutes pass; what the dead leave behind must make no noise."""
    world = World(seed, Swarm())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return world.run(story(world), until_s=120)


def make_client(world: World) -> AsyncClient:
    """A client of the harness: it costs nothing and nobody kills it."""
    return world.open_client("c0", attempt_timeout=0.4)


def process_of(host: Host) -> Process:
    assert host.process is not None, f"{host.name} is down"
    return host.process


async def put_while_dying(world: World, host: Host) -> None:
    """Put until `host` died, restart it, and read everything that was acknowledged from all replicas."""
    client, acked = make_client(world), []
    victim = process_of(host)
    for number in range(200):
        if victim.is_dead:
            break
        try:
            await client.put(f"k{number}", number, timeout=2)
            acked.append(number)
        except KVStoreError:
            continue  # it may be there or not
    assert victim.is_dead and host.process is None
    assert world.loop.pending_tasks(victim) == []
    events = victim.events
    assert await world.start(host)
    for number in acked:
        assert (await client.get(f"k{number}", r=3, timeout=10)).value == number
    assert victim.events == events
    assert world.witness.verdict().violations == ()
    await client.close()
    await world.stop_all()


@pytest.mark.parametrize("is_power_loss", [False, True])
def test_a_node_may_die_at_any_callback(is_power_loss: bool) -> None:
    """P1: just before its n-th next one, for many n; what was acknowledged is on all replicas afterwards."""

    async def story(world: World, events: int) -> None:
        await world.form()
        host = world.hosts[events % 3]
        host.is_power_lost_next = is_power_loss
        world.loop.kill_after(process_of(host), events)
        await put_while_dying(world, host)

    for events in range(1, 120, 7):
        in_world(events, partial(story, events=events))


@pytest.mark.parametrize("point", POINTS)
def test_a_node_may_die_at_any_point_of_its_disk_and_network(point: str) -> None:
    """Named points between two awaits: the callback that reaches one unwinds and does nothing more."""

    async def story(world: World, count: int) -> None:
        await world.form()
        victim, left = process_of(world.hosts[count % 3]), [count]

        def dies(process: Process, name: str) -> bool:
            left[0] -= process is victim and name == point
            return process is victim and name == point and left[0] <= 0

        world.hosts[count % 3].is_power_lost_next = count % 2 == 0
        world.loop.on_point = dies
        await put_while_dying(world, world.hosts[count % 3])

    for count in (1, 2, 5):
        in_world(count, partial(story, count=count))


def test_a_node_may_die_while_it_starts() -> None:
    """At any callback of its start: the harness is told that it is down, and the next start comes up."""

    async def story(world: World, events: int) -> int:
        await world.form()
        host = world.hosts[1]
        world.kill(host, is_power_loss=False)
        starting = world.loop.create_task(world.start(host))
        while host.process is None:
            await _turn(world)
        world.loop.kill_after(process_of(host), events)
        await starting
        is_dead = host.process is None
        if is_dead:
            assert await world.start(host)
        world.loop.kill_after(process_of(host), None)
        await world.stop_all()
        return int(is_dead)

    deaths = sum(in_world(events, partial(story, events=events)) for events in range(1, 60, 6))
    assert deaths > 3


async def _turn(world: World) -> None:
    turn = world.loop.create_future()
    world.loop.call_soon(turn.set_result, None)
    await turn


def test_of_a_crashed_node_nothing_is_left_in_memory() -> None:
    """Its object graph is one big cycle, which must hang on nothing that lives."""
    nodes: list[weakref.ref[Node]] = []

    async def story(world: World) -> None:
        await world.form()
        client = make_client(world)
        for number in range(3):
            host = world.hosts[number]
            assert host.node is not None
            nodes.append(weakref.ref(host.node))
            await client.put("k", number)
            world.kill(host, is_power_loss=True)
            assert await world.start(host)
        await client.put("k", 9)
        gc.collect()
        assert [node() for node in nodes] == [None, None, None]
        await client.close()
        await world.stop_all()

    in_world(1, story)


def test_a_paused_node_is_survived_and_comes_back_with_stale_state() -> None:
    """P5: longer than every timeout of the others; then its queue and its timers run, and it takes part again."""

    async def story(world: World) -> None:
        await world.form()
        client, paused = make_client(world), process_of(world.hosts[2])
        await client.put("k", "before")
        world.loop.pause(paused)
        events = paused.events
        for number in range(10):
            await client.put(f"k{number}", number, timeout=5)
        await _sleep(world, 30)
        assert paused.events == events

        world.loop.resume(paused)
        await _sleep(world, 5)
        for number in range(10):
            assert (await client.get(f"k{number}", r=3, timeout=10)).value == number
        await client.close()
        await world.stop_all()

    in_world(3, story)


async def _sleep(world: World, duration_s: float) -> None:
    woken = world.loop.create_future()
    world.loop.call_later(duration_s, woken.set_result, None)
    await woken


def test_a_starved_node_is_slow_and_its_peers_are_not() -> None:
    """P6: requests to a node whose CPU is 500 times slower take longer; the others answer as before."""

    async def story(world: World, factor: float) -> tuple[float, float]:
        await world.form()
        client, times = make_client(world), []
        world.loop.slow_down(process_of(world.hosts[2]), factor)
        for count in (2, 3):
            started = world.loop.time()
            for number in range(20):
                await client.put(f"{count}k{number}", number, w=count, dw=0, timeout=30)
            times.append(world.loop.time() - started)
        await client.close()
        return times[0], times[1]

    fast, starved = (in_world(2, partial(story, factor=factor)) for factor in (1, 500))
    assert starved[1] > 2 * fast[1]
    assert starved[0] < starved[1]


def test_clients_can_be_processes_too() -> None:
    """With a CPU of their own; a killed one leaves its connections to the network, and its tasks to nobody."""

    async def story(world: World) -> None:
        await world.form()
        process = world.loop.spawn("c7")
        process.on_death.append(partial(world.network.crash, "c7"))
        transport = ProcessTransport(world.loop, process, world.network.transport("c7"))
        shown: list[object] = []

        async def work() -> None:
            client = AsyncClient(
                [host.address for host in world.hosts], transport=transport, clock=SimClock(world.loop),
                rng=world.rng("client c7"),
            )  # fmt: skip
            for number in range(1_000):
                await client.put(f"k{number}", number)
                shown.append(number)

        task = world.loop.create_task_in(process, work())
        await _sleep(world, 1)
        assert process.events > 20 and shown and not task.done()
        world.loop.kill(process)
        count = len(shown)
        await _sleep(world, 1)
        assert len(shown) == count and world.network.connections_count("c7") == 0
        await world.stop_all()

    in_world(4, story)
