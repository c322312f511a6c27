"""The nemesis of one run: everything its swarm allows, at times drawn from its seed, until the safety phase is over.

    processes   ProcessFaults           killed, stopped, frozen, starved
    machines    Revival                 started again, at times on an empty or on an old disk, or elsewhere
    disks       DiskNemesis.step        within the budget of the atlas
    network     NetworkSwarm.schedule   partitions, flaps, clogs, resets
    clocks      ClockFaults             steps, strobes, drifts, jumps

Any number of nodes may be down at once. `end` undoes what can be undone, and brings back whoever can come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from jepsen_lite.sim.clock_faults import ClockFault, ClockFaults, plan
from jepsen_lite.sim.disk_faults import DiskFault, DiskNemesis
from jepsen_lite.sim.fault_log import FaultLog
from jepsen_lite.sim.net_wire import COUNTERS
from jepsen_lite.sim.process_faults import ProcessFault, ProcessFaults
from jepsen_lite.sim.revival import Revival
from jepsen_lite.sim.strikes import Strikes
from jepsen_lite.sim.world import Host, World
from kvstore.storage.identity import META_NODE_ID

__all__ = ["Nemesis", "ProcessFault", "fault_names"]

CLONE_WAIT_S = 20.0
"""A second node with one identity must have been refused by then, while the first one runs and its peers hear it."""
HEARD_S = 7
"""Longer than a link takes to find that its peer is gone: `dead_beats` heartbeats."""


def fault_names() -> list[str]:
    """Return the name of every fault, as `Nemesis.counts` has it."""
    names = [str(fault) for fault in ProcessFault]
    names += [f"disk_{fault}" for fault in DiskFault] + [f"clock_{fault}" for fault in ClockFault]
    return [*names, *[f"net_{name}" for name in COUNTERS], "unsynced_batches_lost"]


class Nemesis:
    """Make it after the cluster was formed; `run`, then `end`."""

    def __init__(self, world: World, clients: Sequence[str]) -> None:
        self._world, self._clients, self._swarm = world, list(clients), world.swarm.process
        self._rng = world.rng("nemesis")
        record = world.trace.record
        self.processes = FaultLog(ProcessFault, record)
        self.disks = FaultLog(DiskFault, record)
        self.clocks = FaultLog(ClockFault, record)
        disks = {host.name: host.disk for host in world.hosts}
        self._disk_nemesis = DiskNemesis(
            disks,
            swarm=world.swarm.disk,
            rng=world.rng("disk nemesis"),
            atlas=world.atlas,
            log=self.disks,
            may_cost_a_node=self._may_cost_a_node,
            counts=self._counts,
        )
        self._revival = Revival(world, self._disk_nemesis, self._rng, self.processes)
        self._process_faults = ProcessFaults(world, self._rng, self.processes, self._revival.later)
        self._strikes = Strikes(world, self._process_faults.crash_one, self._process_faults.crash_at_event)
        self._clock_faults: ClockFaults | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Every fault of the run that happened, by its name."""
        network = {f"net_{name}": count for name, count in self._world.network.counts.items()}
        disks = {f"disk_{name}": count for name, count in self.disks.counts.items()}
        clocks = {f"clock_{name}": count for name, count in self.clocks.counts.items()}
        return {
            **self.processes.counts,
            **disks,
            **clocks,
            **network,
            "unsynced_batches_lost": self._world.lost_batches,
        }

    async def run(self, duration_s: float) -> None:
        """Break things for this long."""
        world = self._world
        ends_at = world.loop.time() + duration_s
        names = [host.name for host in world.hosts]
        world.network.play(
            world.swarm.network.schedule([*names, *self._clients], world.rng("schedule"), duration_s=duration_s)
        )
        events = plan(
            world.swarm.clock, world.rng("clock plan"), nodes=names, clients=self._clients, from_s=world.loop.time(),
            to_s=ends_at,
        )  # fmt: skip
        clocks = {host.name: host.clock for host in world.hosts} | world.client_clocks
        self._clock_faults = ClockFaults(clocks, [e for e in events if e.host in clocks], self.clocks)
        tasks = [world.loop.create_task(self._clock_faults.run())]
        tasks += [world.loop.create_task(each) for each in self._process_faults.all(ends_at)]
        tasks.append(world.loop.create_task(self._hurt_disks(ends_at)))
        if self._swarm.strikes_per_move:
            tasks.append(world.loop.create_task(self._strikes.run(ends_at)))
        world.moves.is_under_faults = True
        tasks.append(world.loop.create_task(self._revival.bring_back(ends_at)))
        self._revival.bring_latecomers(duration_s * world.swarm.late_until)
        await asyncio.sleep(max(0.0, ends_at - world.loop.time()))
        for task in tasks:
            task.cancel()
        for task in tasks:
            await _ended(task)

    async def end(self) -> None:
        """End every fault that can end, and start every node that will start."""
        world = self._world
        self._revival.is_over, world.moves.is_under_faults = True, False
        world.network.calm()
        world.loop.on_point = None
        self._disk_nemesis.heal_all()
        if self._clock_faults is not None:
            self._clock_faults.set_all_right()
        world.buggify.quiet()
        for host in world.hosts:
            if host.process is not None:
                host.process.dies_at_event = None
                world.loop.slow_down(host.process, 1.0)
                world.loop.resume(host.process)
        for task in [*self._process_faults.stops, *self._revival.restarts.values()]:
            await task
        self._revival.is_healed = True
        for host in world.hosts:
            if not host.is_up and not host.is_gone:
                await self._revival.restart(host, 0.0)
        gone = [host for host in world.hosts if host.is_gone]
        if not gone:
            await world.wait_settled()
        elif world.swarm.has_moves:
            world.problems += [f"moves: {host.name} could not join a healed cluster: {host.refusal}" for host in gone]
        if self._swarm.clone_pause_s != float("inf"):
            await self._try_clone()

    async def _try_clone(self) -> None:
        """Start a second node on a copy of a disk, while the first one runs: it must be refused, whatever kind of copy it is."""
        world = self._world
        original = self._rng.choice([host for host in world.running() if host.node is not None and host.node.is_ready])
        if not await self._is_heard(original):
            return  # then who comes first is taken for the original, and nothing is wrong with that
        clone = world.make_host("x0")
        clone.is_new = self._rng.random() < 0.5  # started as a copy of a member, or told to join
        self._disk_nemesis.clone(original.disk, clone.disk, is_block_level=self._rng.random() < 0.5)
        started = world.loop.create_task(world.start(clone))
        await asyncio.sleep(CLONE_WAIT_S)
        if started.done() and started.result() and clone.is_up and clone.node is not None and clone.node.is_ready:
            world.problems.append(f"clone: a second node with the identity of {original.name} was taken in")
        else:
            self.processes.note(ProcessFault.CLONE, clone.name, clone.refusal)
        if clone.is_up:
            world.kill(clone, is_power_loss=False)
        started.cancel()
        await _ended(started)
        if not original.is_up:
            world.problems.append(f"clone: {original.name} ended because of a copy of itself")

    async def _is_heard(self, original: Host) -> bool:
        """Wait until every other node has had a connection to this one for HEARD_S: a dead one may look alive until then."""
        assert original.node is not None
        heard_s = 0
        for _ in range(round(CLONE_WAIT_S)):
            nodes = [host.node for host in self._world.running() if host.node is not None and host is not original]
            links = [node.peers.link(original.node.node_id) for node in nodes]
            is_heard = bool(links) and all(link is not None and link.is_up for link in links)
            heard_s = heard_s + 1 if is_heard else 0
            if heard_s > HEARD_S:
                return True
            await asyncio.sleep(1)
        return False

    def _may_cost_a_node(self, name: str) -> bool:
        """Not while partitions move, or before whoever lost its place has it again: two members that are gone for good block each
        other's replacement. Without its founder nothing moves at all."""
        world = self._world
        if world.swarm.has_moves and (name == world.hosts[0].name or any(host.replaces for host in world.hosts)):
            return False
        return world.is_settled()

    def _counts(self, name: str, key: bytes) -> bool:
        """Whether a host's copy may be the one that is left: a joiner may be dropped with its copies, and who leaves will be.

        One whose join was cancelled is no owner either, though nothing is under way any more and it still has its copies.
        """
        world = self._world
        if not world.swarm.has_moves:  # old seeds stay what they were
            return True
        return any(
            host.name == name and world.moves.is_owner((host.disk.meta(META_NODE_ID) or b""), key)
            for host in world.hosts
        )

    # --- disks --------------------------------------------------------------------------------------------------------

    async def _hurt_disks(self, ends_at: float) -> None:
        while (pause_s := self._disk_nemesis.next_pause_s()) != float("inf"):
            await asyncio.sleep(pause_s)
            if self._world.loop.time() >= ends_at:
                return
            self._disk_nemesis.step()


async def _ended(task: asyncio.Task[Any] | Coroutine[Any, Any, Any]) -> None:
    """Wait for a task that was cancelled, or that failed: that fails the run."""
    try:
        await task
    except asyncio.CancelledError:
        return
