"""How machines come back: started again, at times on an empty or on an old disk, under another address, or as another node.

down ─ later, or found down ─► disk, address changed? ─► start ──► up
                                                           │ refused as stale or suspect: takes its own place, or is gone
                                                           └ else: again, RESTARTS_MAX times
"""

from __future__ import annotations

import asyncio
import random

from jepsen_lite.sim.disk import Snapshot
from jepsen_lite.sim.disk_faults import DiskNemesis
from jepsen_lite.sim.fault_log import FaultLog
from jepsen_lite.sim.process_faults import ProcessFault
from jepsen_lite.sim.world import Host, World
from kvstore.storage.identity import META_NODE_ID

__all__ = ["Revival"]

RESTARTS_MAX = 20
RESTART_PAUSE_S = 1.0
BRING_BACK_S = 1.0
START_S_MAX, START_POLL_S = 60.0, 0.02


class Revival:
    """Draws from the nemesis' stream, `rng`. Set `is_over` when the faults end: then nobody is changed, only started.
    Set `is_healed` when everything that can end has ended: then who does not come back is given up."""

    def __init__(self, world: World, disks: DiskNemesis, rng: random.Random, log: FaultLog) -> None:
        self._world, self._disk_nemesis, self._swarm = world, disks, world.swarm.process
        self._rng, self._log = rng, log
        self.restarts: dict[str, asyncio.Task[None]] = {}
        """The last one of each machine."""
        self._mover = world.rng("mover").choice(world.hosts)
        """The one machine that may come back under another address: of two, neither could find the other again."""
        self._snapshots: dict[str, Snapshot] = {}
        self.is_over = self.is_healed = False

    async def bring_back(self, ends_at: float) -> None:
        """Start again whoever ended by itself, as a supervisor does."""
        rng = random.Random(self._rng.getrandbits(64))
        while self._world.loop.time() < ends_at:
            await asyncio.sleep(BRING_BACK_S)
            for host in self._world.hosts:
                if not host.is_up and host.starts:
                    self.later(host, rng)

    def bring_latecomers(self, within_s: float) -> None:
        """Start those who join late, if they are to do that under faults."""
        for host in self._latecomers_due():
            self.restarts[host.name] = self._world.loop.create_task(self.restart(host, self._rng.uniform(0, within_s)))

    def _latecomers_due(self) -> list[Host]:
        if not self._world.swarm.is_late_under_faults:
            return []
        return [host for host in self._world.latecomers if not host.starts and host.name not in self.restarts]

    def later(self, host: Host, rng: random.Random) -> None:
        """Start a machine again after a while, unless that is under way."""
        if host.is_gone or self.is_over:
            return
        known = self.restarts.get(host.name)
        if known is None or known.done():
            delay_s = rng.uniform(0.01, self._swarm.restart_s_max)
            self.restarts[host.name] = self._world.loop.create_task(self.restart(host, delay_s))

    async def restart(self, host: Host, delay_s: float) -> None:
        """Start a machine again, as often as it takes; or give it up."""
        await asyncio.sleep(delay_s)
        self._change_disk(host)
        self._change_address(host)
        for _ in range(RESTARTS_MAX):
            if host.is_up:
                return
            self._log.note(ProcessFault.RESTART, host.name)
            if await self._start(host):
                self._remember(host)
                return
            if host.refusal in ("stale_identity", "suspect_store") or (self.is_over and host.disk.is_doomed):
                host.disk.is_retired = True
                if not self._take_own_place(host):
                    self._give_up(host)
                    return
            if host.is_new and self._world.hosts[0].is_gone:
                break
            await asyncio.sleep(RESTART_PAUSE_S)
        if host.is_new and not host.is_up and (self.is_healed or not self._world.swarm.has_moves):
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
        self._log.note(ProcessFault.GONE, host.name, host.refusal)

    def _take_own_place(self, host: Host) -> bool:
        """Give a machine whose disk may not be used an empty one, to take the place of the node that it was."""
        lost, has_moves = host.disk.meta(META_NODE_ID), self._world.swarm.has_moves
        if (lost is None and not has_moves) or host is self._world.hosts[0]:
            return False
        if self._rng.random() >= self._swarm.replaced_share:
            return False
        self._log.note(ProcessFault.REPLACED, host.name, lost or b"")
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
        if self.is_over or not host.starts or any(h.is_gone or h.port != host.port for h in self._world.hosts):
            return
        if draw < swarm.lost_disk_share and host is not self._world.hosts[0]:
            lost = host.disk.meta(META_NODE_ID)
            if self._disk_nemesis.lose_disk(host.disk):
                self._log.note(ProcessFault.LOST_DISK, host.name)
                self._begin_anew(host, lost)
        elif draw < swarm.lost_disk_share + swarm.old_disk_share and host.name in self._snapshots:
            snapshot = self._snapshots[host.name]
            if self._disk_nemesis.restore_old(host.disk, snapshot, is_block_level=rng.random() < 0.5):
                self._log.note(ProcessFault.OLD_DISK, host.name)

    def _change_address(self, host: Host) -> None:
        """Once in a while the machine comes back under another address."""
        if (
            host is self._mover
            and not self.is_over
            and not host.is_new
            and self._rng.random() < self._swarm.moved_share
        ):
            host.moves += 1
            self._log.note(ProcessFault.MOVED, host.name, host.address)

    def _remember(self, host: Host) -> None:
        if self._rng.random() < 0.3:
            self._snapshots[host.name] = host.disk.snapshot()
