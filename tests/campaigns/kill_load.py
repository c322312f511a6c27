"""The load of the kill campaign: several clients that read, write with what they read, and write blindly, until told to stop.

hot      50 keys everybody fights over: read, then put with the context of that read (concurrent ones leave siblings)
fresh    a new key each, written once
beside   blind puts, a few on each key: all of them must stay
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvstore.client.client import AsyncClient
from kvstore.client.results import GetResult
from kvstore.errors import KVStoreError
from tests.campaigns.history import History, Outcome, Put

__all__ = ["HOT_KEYS", "KillLoad"]

HOT_KEYS = tuple(f"hot-{number:02}" for number in range(50))
SHARE_HOT, SHARE_FRESH = 0.5, 0.25
BLIND_PUTS_EACH = 8
"""Blind puts on one key; a key takes at most 64 siblings."""
PAUSE_AFTER_ERROR_S = 0.02


@dataclass(slots=True)
class KillLoad:
    """Runs `workers` tasks over the clients; `stop` lets them finish what they began."""

    clients: Sequence[AsyncClient]
    rng: random.Random
    history: History = field(default_factory=History)
    errors: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    _number: int = 0
    _stopping: bool = False

    async def run(self, workers: int) -> None:
        """Load until `stop`. Raises what is no KVStoreError: that is a bug."""
        await asyncio.gather(*(self._work(self.clients[number % len(self.clients)]) for number in range(workers)))

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    async def _work(self, client: AsyncClient) -> None:
        while not self._stopping:
            chance = self.rng.random()
            if chance < SHARE_HOT:
                is_fine = await self._read_and_put(client, self.rng.choice(HOT_KEYS))
            elif chance < SHARE_HOT + SHARE_FRESH:
                is_fine = await self._put(client, f"fresh-{self._next()}")
            else:
                is_fine = await self._put(client, f"beside-{self._next() // (4 * BLIND_PUTS_EACH)}")
            if not is_fine:
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _read_and_put(self, client: AsyncClient, key: str) -> bool:
        try:
            seen = await client.get(key)
        except KVStoreError as error:
            self._count(error)
            return False
        self.reads += 1
        return await self._put(client, key, seen=seen, shown=self.note(key, seen))

    async def _put(
        self, client: AsyncClient, key: str, *, seen: GetResult[str] | None = None, shown: tuple[str, ...] = ()
    ) -> bool:
        put = self.history.begin(key, f"{key}={self._next()}", shown)
        try:
            if seen is None:
                await client.put(key, put.value)
            else:
                await client.put(key, put.value, context=seen.context)
        except KVStoreError as error:
            self._failed(put, error)
            return False
        put.outcome = Outcome.ACKNOWLEDGED
        return True

    def note(self, key: str, seen: GetResult[str]) -> tuple[str, ...]:
        """Keep the dots that a read showed; returns its values."""
        for sibling in seen.siblings:
            self.history.saw(key, sibling.actor, sibling.counter, sibling.value)
        return tuple(sibling.value for sibling in seen.siblings)

    def _failed(self, put: Put, error: KVStoreError) -> None:
        put.outcome = Outcome.FAILED if error.definite else Outcome.UNKNOWN
        self._count(error)

    def _count(self, error: KVStoreError) -> None:
        name = f"{error.code}{'' if error.definite else ' (unknown)'}"
        self.errors[name] = self.errors.get(name, 0) + 1
