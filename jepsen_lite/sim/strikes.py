"""Strikes at moves of partitions: the part of the nemesis that looks where a move is, and hits there.

    move seen ─► pause ─► kill, power loss, crash at an event, or cut ─► pause ─► … until the move is over or the strikes are

A move takes about a second, so that most faults that come at random times would miss it. Of the nodes that are up the joiner is
the likeliest victim; anybody else may be, the founder too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Protocol

from jepsen_lite.sim.net_partitions import PARTITION_MODES, isolate, partition
from jepsen_lite.sim.world import Host, World
from kvstore.storage.identity import META_NODE_ID

__all__ = ["Strikes"]

STRIKE_POLL_S, STRIKES_MAX = 0.02, 8
STRIKE_PAUSES_S = (0.1, 0.4, 2.0)
"""Mean time until the first strike at a move, and between two: pages, phases or the whole of it."""
STRIKE_CUT_SHARE, STRIKE_EVENT_SHARE, STRIKE_CUTS_S = 0.35, 0.25, (0.5, 3.0, 12.0)
"""A cut of the last kind outlasts JOIN_TIMEOUT_S, after which the founder cancels a move that is COPYING."""


class Crash(Protocol):
    """Kills a host, or takes its power, and sees to its restart."""

    def __call__(self, host: Host, rng: random.Random, *, is_power_loss: bool) -> Awaitable[object]: ...


class Strikes:
    """`crash` strikes now, `crash_later` within the victim's next callbacks."""

    def __init__(self, world: World, crash: Crash, crash_later: Crash) -> None:
        self._world, self._crash, self._crash_later = world, crash, crash_later
        self._mean = world.swarm.process.strikes_per_move

    async def run(self, ends_at: float) -> None:
        """Strike at every move that is seen until then."""
        rng, struck = self._world.rng("strikes"), (0, b"")
        while self._world.loop.time() < ends_at:
            await asyncio.sleep(STRIKE_POLL_S)
            move = self._world.moves.current
            if move is not None and (move.began, move.joiner) != struck:
                struck = move.began, move.joiner
                await self._strike(rng, ends_at)

    async def _strike(self, rng: random.Random, ends_at: float) -> None:
        pause_s = rng.choice(STRIKE_PAUSES_S)
        for _ in range(min(STRIKES_MAX, round(rng.expovariate(1 / self._mean)))):
            await asyncio.sleep(rng.expovariate(1 / pause_s))
            move = self._world.moves.current
            if move is None or self._world.loop.time() >= ends_at:
                return
            up = self._world.running()
            joiners = [host for host in up if host.disk.meta(META_NODE_ID) == move.joiner]
            if up:
                await self._strike_at(rng.choice([*up, *joiners, *joiners]), rng)

    async def _strike_at(self, victim: Host, rng: random.Random) -> None:
        draw = rng.random()
        if draw < STRIKE_CUT_SHARE:
            self._cut(victim, rng)
        elif draw < STRIKE_CUT_SHARE + STRIKE_EVENT_SHARE:
            await self._crash_later(victim, rng, is_power_loss=rng.random() < 0.5)
        else:
            await self._crash(victim, rng, is_power_loss=rng.random() < 0.5)

    def _cut(self, victim: Host, rng: random.Random) -> None:
        names, network = [host.name for host in self._world.hosts], self._world.network
        is_any = rng.random() < 0.5
        links = partition(rng.choice(PARTITION_MODES[1:]), names, rng) if is_any else isolate(names, victim.name)
        network.cut_links(links)
        self._world.loop.call_later(rng.expovariate(1 / rng.choice(STRIKE_CUTS_S)), network.heal_links, links)
