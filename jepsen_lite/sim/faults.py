"""What goes wrong in the first simulation: nodes are killed, lose power alone or together, and connections are reset.

Each seed draws its own mix (`reliability` section 2, "swarm"), so that some runs are calm and some are storms. Any number
of nodes may be down at once; at the end all are back, and stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from jepsen_lite.sim.world import Host, World

__all__ = ["Faults"]

RESTART_S_MAX = 1.5
HURT_POLLS_MAX = 200
HURT_POLL_S = 0.0005
"""A power loss waits up to 0.1 s for a moment with unsynced writes: ten times as likely to hurt as at random."""
HURT_S_MAX = 0.02
"""And then a little more, so that the write may meanwhile have reached the others, or have been acknowledged."""


class Faults:
    """The nemesis of one run."""

    def __init__(self, world: World) -> None:
        self.crashes = 0
        self._world, self._rng = world, world.rng("faults")
        self._pause_s = self._rng.choice([0.2, 0.5, 1.0, 2.0])
        self._reset_share = self._rng.choice([0.0, 0.3, 0.6])
        self._power_share = self._rng.choice([0.3, 0.7, 1.0])
        self._together_share = self._rng.choice([0.0, 0.3, 0.7])
        self._restarts: dict[str, asyncio.Task[None]] = {}

    async def run(self, clients: Sequence[str], ends_at: float) -> None:
        """Break things until `ends_at`, then wait until every node is back."""
        world, rng = self._world, self._rng
        while world.loop.time() < ends_at:
            await asyncio.sleep(rng.expovariate(1 / self._pause_s))
            if rng.random() < self._reset_share:
                self._reset([*clients, *[host.name for host in world.hosts]])
            else:
                await self._crash()
        for restart in self._restarts.values():
            await restart

    def _reset(self, names: Sequence[str]) -> None:
        host, other = self._rng.sample(names, 2)
        self._world.trace.record("reset", host, other)
        self._world.network.reset(host, other)

    async def _crash(self) -> None:
        rng, up = self._rng, self._world.running()
        if not up:
            return
        is_power_loss = rng.random() < self._power_share
        victim = rng.choice(up)
        if is_power_loss:
            await self._wait_unsynced(victim)
        together = self._world.running() if rng.random() < self._together_share else [victim]
        for host in together:
            if host.node is not None:
                await self._crash_one(host, is_power_loss=is_power_loss)

    async def _crash_one(self, host: Host, *, is_power_loss: bool) -> None:
        self.crashes += 1
        restart = self._restarts.pop(host.name, None)
        if restart is not None:
            restart.cancel()
        await self._world.crash(host, is_power_loss=is_power_loss)
        delay_s = self._rng.uniform(0.01, RESTART_S_MAX)
        self._restarts[host.name] = self._world.loop.create_task(self._restart(host, delay_s))

    async def _restart(self, host: Host, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self._world.start(host)

    async def _wait_unsynced(self, host: Host) -> None:
        for _ in range(HURT_POLLS_MAX):
            if host.disk.unsynced_count:
                await asyncio.sleep(self._rng.uniform(0, HURT_S_MAX))
                return
            await asyncio.sleep(HURT_POLL_S)
