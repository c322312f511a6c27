"""What happens to processes: they are killed, lose their power, are stopped in an orderly way, frozen, or starved.

    a crash is of one or of all; at random, at an I/O point, or at the n-th next event
    at random, a power loss waits a little for a moment in which it hurts: with writes that are not synced

Who went down is told to `revive_later`, which starts it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any

from jepsen_lite.sim.fault_log import FaultLog
from jepsen_lite.sim.processes import Process
from jepsen_lite.sim.world import Host, World

__all__ = ["ProcessFault", "ProcessFaults"]

POINT_WAIT_S_MAX = 2.0
"""How long a crash waits for its victim to come to an I/O point."""
EVENTS_MAX = 400
"""A crash at the n-th next callback: about two requests' worth of them."""
HURT_POLLS_MAX = 200
HURT_POLL_S = 0.000_5
"""A power loss waits up to 0.1 s for a moment with unsynced writes: ten times as likely to hurt as at random."""
HURT_S_MAX = 0.02
"""And then a little more, so that the write may meanwhile have reached the others, or have been acknowledged."""


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


class ProcessFaults:
    """Draws from the nemesis' stream, `rng`, once for each kind of fault."""

    def __init__(
        self, world: World, rng: random.Random, log: FaultLog, revive_later: Callable[[Host, random.Random], None]
    ) -> None:
        self._world, self._swarm, self._rng = world, world.swarm.process, rng
        self._log, self._revive_later = log, revive_later
        self.stops: list[asyncio.Task[None]] = []
        """Orderly stops that were begun."""

    def all(self, ends_at: float) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run until `ends_at`, one for each kind."""
        swarm = self._swarm
        return [
            self._repeat(pause_s, strike, ends_at)
            for pause_s, strike in (
                (swarm.crash_pause_s, self._crash), (swarm.freeze_pause_s, self._freeze), (swarm.starve_pause_s, self._starve),
            )
        ]  # fmt: skip

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
            await self.crash_at_event(victim, rng, is_power_loss=is_power_loss)
        else:
            if is_power_loss:
                await self._wait_unsynced(victim, rng)
            together = self._world.running() if rng.random() < self._swarm.together_share else [victim]
            for host in together:
                await self.crash_one(host, rng, is_power_loss=is_power_loss)

    async def crash_one(self, host: Host, rng: random.Random, *, is_power_loss: bool) -> None:
        process = host.process
        if process is None:
            return
        if rng.random() < self._swarm.stop_share and not process.is_paused:
            self._log.note(ProcessFault.STOP, host.name)
            stopping = self._world.loop.create_task(self._world.stop(host))
            self.stops.append(stopping)
            await asyncio.shield(stopping)  # the end of the faults must not leave a node half stopped
        else:
            is_silent = is_power_loss and rng.random() < self._world.swarm.network.silent_crash_share
            self._log.note(ProcessFault.POWER_LOSS if is_power_loss else ProcessFault.KILL, host.name)
            if is_silent:
                self._log.note(ProcessFault.SILENT, host.name)
            self._world.kill(host, is_power_loss=is_power_loss, is_silent=is_silent)
        self._revive_later(host, rng)

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
            self._log.note(ProcessFault.AT_POINT, host.name, name)
            return True

        host.is_power_lost_next = is_power_loss
        loop.on_point = dies
        try:
            await self._wait_death(host, victim, rng)
        finally:
            loop.on_point = None

    async def crash_at_event(self, host: Host, rng: random.Random, *, is_power_loss: bool) -> None:
        victim = host.process
        assert victim is not None, "it was up a moment ago"
        host.is_power_lost_next = is_power_loss
        self._world.loop.kill_after(victim, rng.randint(1, EVENTS_MAX))
        try:
            if await self._wait_death(host, victim, rng):
                self._log.note(ProcessFault.AT_EVENT, host.name)
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
        self._revive_later(host, rng)
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
        self._log.note(ProcessFault.FREEZE, host.name)
        self._world.loop.pause(process)
        self._world.loop.call_later(rng.expovariate(1 / self._swarm.freeze_s_mean), self._world.loop.resume, process)

    async def _starve(self, rng: random.Random) -> None:
        up = self._world.running()
        if not up:
            return
        host = rng.choice(up)
        process = host.process
        assert process is not None
        self._log.note(ProcessFault.STARVE, host.name)
        self._world.loop.slow_down(process, self._swarm.starve_factor)
        self._world.loop.call_later(rng.uniform(0, 5.0), self._world.loop.slow_down, process, 1.0)
