"""The nemesis does everything its swarm says, counts it, stops when the run ends, and brings everybody back who can come.

Each test works with one part of the swarm at full strength and all others calm, so that its faults are its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest

from jepsen_lite.sim.clock_faults import ClockFault, ClockSwarm
from jepsen_lite.sim.disk_faults import ENDING, HARMING, PASSING, DiskFault, DiskSwarm
from jepsen_lite.sim.nemesis import Nemesis, ProcessFault, fault_names
from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.swarm import ProcessSwarm, Swarm
from jepsen_lite.sim.world import World
from kvstore.errors import KVStoreError

SEEDS_MAX = 25
"""Within so many seeds every fault of a part has to happen; each part needs fewer than half of them today."""
DURATION_S = 6.0
AFTER_S = 20.0
KEYS = 12
TRAFFIC = ("net_frames_delivered", "net_frames_dropped", "net_answered_reset")
"""Counted by the network, and no faults: what a dead connection still carried is dropped, or answered by a reset, later."""

PROCESSES = ProcessSwarm(
    crash_pause_s=0.5, power_share=0.5, together_share=0.2, point_share=0.25, event_share=0.25, restart_s_max=0.3,
    stop_share=0.2, freeze_pause_s=1.0, freeze_s_mean=0.2, starve_pause_s=1.0, starve_factor=20.0, lost_disk_share=0.1,
    old_disk_share=0.2, moved_share=0.3, replaced_share=0.5,
)  # fmt: skip
DISKS = DiskSwarm(
    pause_s=0.05, weights=tuple((kind, 1.0) for kind in (*PASSING, *HARMING)), slow_factor=10.0, lasts_s_max=0.3,
    stall_s_max=0.1, free_bytes_max=5_000, read_errors_max=3, read_share=0.3,
)  # fmt: skip
CLOCKS = ClockSwarm(
    pause_s=0.1, weights=tuple((kind, 1.0) for kind in ClockFault if kind is not ClockFault.SET_RIGHT),
    step_ns_max=1_000_000_000, lasts_s_max=0.5, client_share=0.2,
)  # fmt: skip
NETWORK = NetworkSwarm(
    late_share=0.02, late_s_max=0.5, loss_good=0.02, duplicate_share=0.1, straggle_share=0.5, clogs_per_s=0.2,
    clog_s_mean=0.5, partition_mode="isolate", partition_s_mean=0.5, partitions_per_s=0.5, swizzles_per_s=0.2,
    flaps_per_s=0.2, resets_per_s=0.5, silent_crash_share=0.5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Every unclean start would say so."""
    caplog.set_level(100, logger="kvnode")


async def _load(world: World) -> None:
    """Put until cancelled: faults of disks and points of I/O need something to hit."""
    client = world.open_client("c0", timeout=1.0, attempt_timeout=0.3)
    for number in count():
        await asyncio.sleep(0.01)
        try:
            await client.put(f"k{number % KEYS}", number)
            await client.get(f"k{number % KEYS}", r=3)
        except KVStoreError:
            continue  # it is what faults are for


async def _story(world: World) -> tuple[dict[str, int], dict[str, int]]:
    await world.form()
    nemesis = Nemesis(world, ["c0"])
    await _write_everything(world)
    load = world.loop.create_task(_load(world))
    await nemesis.run(DURATION_S)
    await nemesis.end()
    load.cancel()
    await asyncio.sleep(AFTER_S / 10)
    at_end = nemesis.counts
    assert [host.name for host in world.hosts if not host.is_up and not host.is_gone] == []
    fired = world.buggify.counts()
    await _use_everything(world)
    await asyncio.sleep(AFTER_S)
    assert world.buggify.counts() == fired
    assert [host.name for host in world.hosts if not host.is_up and not host.is_gone] == []
    after = nemesis.counts
    await world.stop_all()
    return at_end, after


async def _write_everything(world: World) -> None:
    """The budget counts copies: before there are any it would let every disk fail."""
    client = world.open_client("c2", timeout=20.0)
    for number in range(KEYS):
        await client.put(f"k{number}", "before", w=2, dw=2)
    await world.close_client(client)


async def _use_everything(world: World) -> None:
    """Every key can be written and read: two of three nodes are up at least."""
    client = world.open_client("c1", timeout=20.0)
    for number in range(KEYS):
        await client.put(f"k{number}", "after")
        assert "after" in [sibling.value for sibling in (await client.get(f"k{number}")).siblings]
    await world.close_client(client)


def run(seed: int, swarm: Swarm) -> dict[str, int]:
    """Run a nemesis in a small world; whatever it did, nothing happens after its end. Returns what happened."""
    world = World(seed, swarm)
    at_end, after = world.run(_story(world), until_s=400)
    quiet = {name: times for name, times in after.items() if name not in TRAFFIC}
    assert quiet == {name: times for name, times in at_end.items() if name not in TRAFFIC}, f"seed {seed}"
    return at_end


def seen(swarm: Swarm, wanted: list[str]) -> Counter[str]:
    """Run seeds until every wanted fault happened."""
    total: Counter[str] = Counter()
    for seed in range(SEEDS_MAX):
        total.update(run(seed, swarm))
        if all(total[name] for name in wanted):
            return total
    pytest.fail(f"in {SEEDS_MAX} seeds nothing of {[name for name in wanted if not total[name]]} happened")


def test_every_fault_of_processes_happens() -> None:
    """Kills, power losses and stops, at random, at points and at callbacks; freezes, starvation; lost and old disks."""
    wanted = [str(fault) for fault in ProcessFault if fault is not ProcessFault.CLONE]

    total = seen(Swarm(process=PROCESSES, network=NetworkSwarm(silent_crash_share=0.5)), wanted)

    assert total["restart"] >= total["kill"] + total["power_loss"] + total["stop"]
    assert total["net_crashed_silently"] == total["silent_crash"]


def test_every_fault_of_disks_happens() -> None:
    """Those that pass, and those that harm what is at rest, as far as the budget allows."""
    wanted = [f"disk_{fault}" for fault in (*PASSING, *HARMING, DiskFault.REFUSED)]

    seen(Swarm(disk=DISKS), wanted)


def test_a_failed_disk_costs_its_node_and_no_other() -> None:
    """A failed sync or write ends a node for good; the budget spares the others."""
    ending = replace(DISKS, weights=tuple((kind, 1.0) for kind in ENDING))

    total = seen(Swarm(disk=ending), [f"disk_{fault}" for fault in ENDING])

    assert total["gone_for_good"] > 0


def test_every_fault_of_clocks_happens() -> None:
    """Steps, strobes, drifts and jumps; those that jumped too far are set right."""
    seen(Swarm(clock=CLOCKS), [f"clock_{fault}" for fault in ClockFault])


def test_faults_of_the_network_happen() -> None:
    """Loss, copies, delay, clogs, cuts and resets; after the end nothing is lost, cut or late any more."""
    wanted = ["lost", "duplicated", "late", "straggled", "clogged", "cuts", "heals", "met_cut", "broken_reset"]

    seen(Swarm(network=NETWORK), [f"net_{name}" for name in wanted])


def test_a_stop_that_the_end_of_the_faults_interrupts_is_finished() -> None:
    """Otherwise a node stays half stopped: it runs, serves nobody, and everything that it owns looks unhealed."""
    swarm = Swarm(process=ProcessSwarm(crash_pause_s=0.05, stop_share=1.0, restart_s_max=0.1))
    world = World(1, swarm)

    async def story() -> list[bool]:
        await world.form()
        nemesis = Nemesis(world, [])
        for _ in range(20):
            await nemesis.run(0.3)
        await nemesis.end()
        ready = [host.node is not None and host.node.is_ready for host in world.hosts]
        await world.stop_all()
        return ready

    assert all(world.run(story(), until_s=400))


def test_a_calm_swarm_does_nothing() -> None:
    """No fault is counted that was not asked for."""
    assert {name for name, times in run(3, Swarm()).items() if times} == {"net_frames_delivered"}


def test_whatever_is_counted_has_a_name_in_the_list() -> None:
    """`jepsen-lite list` shows every name that a report may have, once."""
    names = fault_names()

    assert len(set(names)) == len(names)
    assert sorted(run(4, Swarm())) == sorted(names)
