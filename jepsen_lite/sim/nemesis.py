"""The nemesis of one run: everything its swarm allows, at times drawn from its seed, until the safety phase is over.

    processes   kill, power loss, orderly stop; alone or all together; at random, at an I/O point, at the n-th next event;
                freeze (SIGSTOP), starve; restart, at times on an empty or on an old disk
    disks       DiskNemesis.step        within the budget of the atlas
    network     NetworkSwarm.schedule   partitions, flaps, clogs, resets
    clocks      ClockFaults             steps, strobes, drifts, jumps

Any number of nodes may be down at once. `end` undoes what can be undone, and brings back whoever can come back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from enum import StrEnum
from typing import Any

from jepsen_lite.sim.clock_faults import ClockFault, ClockFaults, plan
from jepsen_lite.sim.disk import Snapshot
from jepsen_lite.sim.disk_faults import DiskFault, DiskNemesis
from jepsen_lite.sim.fault_log import FaultLog
from jepsen_lite.sim.net_wire import COUNTERS
from jepsen_lite.sim.processes import Process
from jepsen_lite.sim.strikes import Strikes
from jepsen_lite.sim.world import Host, World
from kvstore.storage.identity import META_NODE_ID

__all__ = ["Nemesis", "ProcessFault", "fault_names"]

POINT_WAIT_S_MAX = 2.0
"""How long a crash waits for its victim to come to an I/O point."""
EVENTS_MAX = 400
"""A crash at the n-th next callback: about two requests' worth of them."""
HURT_POLLS_MAX = 200
HURT_POLL_S = 0.000_5
"""A power loss waits up to 0.1 s for a moment with unsynced writes: ten times as likely to hurt as at random."""
HURT_S_MAX = 0.02
"""And then a little more, so that the write may meanwhile have reached the others, or have been acknowledged."""
RESTARTS_MAX = 20
RESTART_PAUSE_S = 1.0
BRING_BACK_S = 1.0
CLONE_WAIT_S = 20.0
"""A second node with one identity must have been refused by then, while the first one runs and its peers hear it."""
HEARD_S = 7
"""Longer than a link takes to find that its peer is gone: `dead_beats` heartbeats."""
START_S_MAX, START_POLL_S = 60.0, 0.02


class ProcessFault(StrEnum):
    """Names of the counters, in their order. ONLY APPEND."""

    KILL = "kill"
    POWER_LOSS = "power_loss"
    STOP = "stop"
    SILENT = "silent_crash"
    AT_POINT = "crash_at_point"
    AT_EVENT = "crash_at_event"
    FREEZE = "freeze"
    STARVE = "starve"
    RESTART = "restart"
    LOST_DISK = "restart_on_empty_disk"
    OLD_DISK = "restart_on_old_disk"
    GONE = "gone_for_good"
    CLONE = "clone_refused"
    MOVED = "restart_elsewhere"
    REPLACED = "replaced"


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
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._stops: list[asyncio.Task[None]] = []
        self._mover = world.rng("mover").choice(world.hosts)
        """The one machine that may come back under another address: of two, neither could find the other again."""
        self._snapshots: dict[str, Snapshot] = {}
        self._clock_faults: ClockFaults | None = None
        self._strikes = Strikes(world, self._crash_one, self._crash_at_event)
        self._is_over = self._is_healed = False

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
        world, swarm = self._world, self._swarm
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
        for pause_s, strike in (
            (swarm.crash_pause_s, self._crash), (swarm.freeze_pause_s, self._freeze), (swarm.starve_pause_s, self._starve),
        ):  # fmt: skip
            tasks.append(world.loop.create_task(self._repeat(pause_s, strike, ends_at)))
        tasks.append(world.loop.create_task(self._hurt_disks(ends_at)))
        if swarm.strikes_per_move:
            tasks.append(world.loop.create_task(self._strikes.run(ends_at)))
        world.moves.is_under_faults = True
        tasks.append(world.loop.create_task(self._bring_back(ends_at)))
        for host in self._latecomers_due():
            delay_s = self._rng.uniform(0, duration_s * world.swarm.late_until)
            self._restarts[host.name] = world.loop.create_task(self._restart(host, delay_s))
        await asyncio.sleep(max(0.0, ends_at - world.loop.time()))
        for task in tasks:
            task.cancel()
        for task in tasks:
            await _ended(task)

    async def end(self) -> None:
        """End every fault that can end, and start every node that will start."""
        world = self._world
        self._is_over, world.moves.is_under_faults = True, False
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
        for task in [*self._stops, *self._restarts.values()]:
            await task
        self._is_healed = True
        for host in world.hosts:
            if not host.is_up and not host.is_gone:
                await self._restart(host, 0.0)
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

    # --- processes ----------------------------------------------------------------------------------------------------

    async def _repeat(self, pause_s: float, strike: Any, ends_at: float) -> None:
        if pause_s == float("inf"):
            return
        rng = random.Random(self._rng.getrandbits(64))
        while True:
            await asyncio.sleep(rng.expovariate(1 / pause_s))
            if self._world.loop.time() >= ends_at:
                return
            await strike(rng)

    async def _crash(self, rng: random.Random) -> None:
        up = self._world.running()
        if not up:
            return
        victim = rng.choice(up)
        is_power_loss = rng.random() < self._swarm.power_share
        draw = rng.random()
        if draw < self._swarm.point_share:
            await self._crash_at_point(victim, rng, is_power_loss=is_power_loss)
        elif draw < self._swarm.point_share + self._swarm.event_share:
            await self._crash_at_event(victim, rng, is_power_loss=is_power_loss)
        else:
            if is_power_loss:
                await self._wait_unsynced(victim, rng)
            together = self._world.running() if rng.random() < self._swarm.together_share else [victim]
            for host in together:
                await self._crash_one(host, rng, is_power_loss=is_power_loss)

    async def _crash_one(self, host: Host, rng: random.Random, *, is_power_loss: bool) -> None:
        process = host.process
        if process is None:
            return
        if rng.random() < self._swarm.stop_share and not process.is_paused:
            self.processes.note(ProcessFault.STOP, host.name)
            stopping = self._world.loop.create_task(self._world.stop(host))
            self._stops.append(stopping)
            await asyncio.shield(stopping)  # the end of the faults must not leave a node half stopped
        else:
            is_silent = is_power_loss and rng.random() < self._world.swarm.network.silent_crash_share
            self.processes.note(ProcessFault.POWER_LOSS if is_power_loss else ProcessFault.KILL, host.name)
            if is_silent:
                self.processes.note(ProcessFault.SILENT, host.name)
            self._world.kill(host, is_power_loss=is_power_loss, is_silent=is_silent)
        self._restart_later(host, rng)

    async def _crash_at_point(self, host: Host, rng: random.Random, *, is_power_loss: bool) -> None:
        """The victim dies at the n-th I/O point it comes to, if it comes to one in time."""
        loop, victim = self._world.loop, host.process
        left = rng.choice([1, 1, 2, 5, 20])

        def dies(process: Process, name: str) -> bool:
            nonlocal left
            if process is not victim:
                return False
            left -= 1
            if left:
                return False
            self.processes.note(ProcessFault.AT_POINT, host.name, name)
            return True

        host.is_power_lost_next = is_power_loss
        loop.on_point = dies
        try:
            await self._wait_death(host, victim, rng)
        finally:
            loop.on_point = None

    async def _crash_at_event(self, host: Host, rng: random.Random, *, is_power_loss: bool) -> None:
        victim = host.process
        assert victim is not None, "it was up a moment ago"
        host.is_power_lost_next = is_power_loss
        self._world.loop.kill_after(victim, rng.randint(1, EVENTS_MAX))
        try:
            if await self._wait_death(host, victim, rng):
                self.processes.note(ProcessFault.AT_EVENT, host.name)
        finally:
            victim.dies_at_event = None

    async def _wait_death(self, host: Host, victim: Process | None, rng: random.Random) -> bool:
        try:
            for _ in range(round(POINT_WAIT_S_MAX / 0.01)):
                if host.process is not victim:
                    break
                await asyncio.sleep(0.01)
        finally:
            if host.process is victim:
                host.is_power_lost_next = False
        if host.process is victim:
            return False
        self._restart_later(host, rng)
        return True

    async def _wait_unsynced(self, host: Host, rng: random.Random) -> None:
        for _ in range(HURT_POLLS_MAX):
            if host.disk.unsynced_count:
                await asyncio.sleep(rng.uniform(0, HURT_S_MAX))
                return
            await asyncio.sleep(HURT_POLL_S)

    async def _freeze(self, rng: random.Random) -> None:
        up = [host for host in self._world.running() if host.process is not None and not host.process.is_paused]
        if not up:
            return
        host = rng.choice(up)
        process = host.process
        assert process is not None
        self.processes.note(ProcessFault.FREEZE, host.name)
        self._world.loop.pause(process)
        self._world.loop.call_later(rng.expovariate(1 / self._swarm.freeze_s_mean), self._world.loop.resume, process)

    async def _starve(self, rng: random.Random) -> None:
        up = self._world.running()
        if not up:
            return
        host = rng.choice(up)
        process = host.process
        assert process is not None
        self.processes.note(ProcessFault.STARVE, host.name)
        self._world.loop.slow_down(process, self._swarm.starve_factor)
        self._world.loop.call_later(rng.uniform(0, 5.0), self._world.loop.slow_down, process, 1.0)

    # --- coming back --------------------------------------------------------------------------------------------------

    async def _bring_back(self, ends_at: float) -> None:
        """Start again whoever ended by itself, as a supervisor does."""
        rng = random.Random(self._rng.getrandbits(64))
        while self._world.loop.time() < ends_at:
            await asyncio.sleep(BRING_BACK_S)
            for host in self._world.hosts:
                if not host.is_up and host.starts:
                    self._restart_later(host, rng)

    def _latecomers_due(self) -> list[Host]:
        if not self._world.swarm.is_late_under_faults:
            return []
        return [host for host in self._world.latecomers if not host.starts and host.name not in self._restarts]

    def _restart_later(self, host: Host, rng: random.Random) -> None:
        if host.is_gone or self._is_over:
            return
        known = self._restarts.get(host.name)
        if known is None or known.done():
            delay_s = rng.uniform(0.01, self._swarm.restart_s_max)
            self._restarts[host.name] = self._world.loop.create_task(self._restart(host, delay_s))

    async def _restart(self, host: Host, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._change_disk(host)
        self._change_address(host)
        for _ in range(RESTARTS_MAX):
            if host.is_up:
                return
            self.processes.note(ProcessFault.RESTART, host.name)
            if await self._start(host):
                self._remember(host)
                return
            if host.refusal in ("stale_identity", "suspect_store") or (self._is_over and host.disk.is_doomed):
                host.disk.is_retired = True
                if not self._take_own_place(host):
                    self._give_up(host)
                    return
            if host.is_new and self._world.hosts[0].is_gone:
                break
            await asyncio.sleep(RESTART_PAUSE_S)
        if host.is_new and not host.is_up and (self._is_healed or not self._world.swarm.has_moves):
            self._give_up(host)

    async def _start(self, host: Host) -> bool:
        """Start a host; one that is not done in START_S_MAX (the founder may be gone, and a joiner waits for it) is killed."""
        starting: asyncio.Task[bool] = self._world.loop.create_task(self._world.start(host))
        give_up_at = self._world.loop.time() + START_S_MAX
        while not starting.done() and self._world.loop.time() < give_up_at:  # noqa: ASYNC110  # it may end in any of three ways
            await asyncio.sleep(START_POLL_S)
        if not starting.done() and host.is_up:
            self._world.kill(host, is_power_loss=False)
        return await starting

    def _give_up(self, host: Host) -> None:
        host.is_gone = True
        self.processes.note(ProcessFault.GONE, host.name, host.refusal)

    def _take_own_place(self, host: Host) -> bool:
        """Give a machine whose disk may not be used an empty one, to take the place of the node that it was."""
        lost, has_moves = host.disk.meta(META_NODE_ID), self._world.swarm.has_moves
        if (lost is None and not has_moves) or host is self._world.hosts[0]:
            return False
        if self._rng.random() >= self._swarm.replaced_share:
            return False
        self.processes.note(ProcessFault.REPLACED, host.name, lost or b"")
        host.disk.wipe()
        self._begin_anew(host, lost)
        return True

    def _begin_anew(self, host: Host, lost: bytes | None) -> None:
        host.port += 1
        host.is_new = True
        if self._world.swarm.has_moves and not self._world.moves.is_member(lost):
            return  # it had no place yet; that of a node before it may still be to take
        if lost is not None and self._swarm.replaced_share:
            host.replaces = lost.hex()

    def _change_disk(self, host: Host) -> None:
        """Once in a while the machine comes back without its disk, or with an old copy of it."""
        rng, swarm = self._rng, self._swarm
        draw = rng.random()
        if self._is_over or not host.starts or any(h.is_gone or h.port != host.port for h in self._world.hosts):
            return
        if draw < swarm.lost_disk_share and host is not self._world.hosts[0]:
            lost = host.disk.meta(META_NODE_ID)
            if self._disk_nemesis.lose_disk(host.disk):
                self.processes.note(ProcessFault.LOST_DISK, host.name)
                self._begin_anew(host, lost)
        elif draw < swarm.lost_disk_share + swarm.old_disk_share and host.name in self._snapshots:
            snapshot = self._snapshots[host.name]
            if self._disk_nemesis.restore_old(host.disk, snapshot, is_block_level=rng.random() < 0.5):
                self.processes.note(ProcessFault.OLD_DISK, host.name)

    def _change_address(self, host: Host) -> None:
        """Once in a while the machine comes back under another address."""
        if (
            host is self._mover
            and not self._is_over
            and not host.is_new
            and self._rng.random() < self._swarm.moved_share
        ):
            host.moves += 1
            self.processes.note(ProcessFault.MOVED, host.name, host.address)

    def _remember(self, host: Host) -> None:
        if self._rng.random() < 0.3:
            self._snapshots[host.name] = host.disk.snapshot()

    def _may_cost_a_node(self, name: str) -> bool:
        """Not while partitions move: a member that is gone for good blocks that. Without its founder nothing moves at all."""
        world = self._world
        return world.is_settled() and not (world.swarm.has_moves and name == world.hosts[0].name)

    def _counts(self, name: str, key: bytes) -> bool:
        """Whether a host's copy may be the one that is left: a joiner may be dropped with its copies, and who leaves will be."""
        world = self._world
        if not world.swarm.has_moves or world.moves.current is None:  # without: old seeds stay what they were
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
