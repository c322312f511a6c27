"""The clients of the first simulation: each writes unique values one after the other, and tells the history what it saw.

A client remembers, for each key, the newest context it got and the values which that context stands for, and uses it for
later puts even when others have written meanwhile: that is how siblings come about. Blind puts make more of them.

Each seed draws its mix. Short attempts on a few hot keys are the hard part: a retry then often meets a coordinator where its
value is known and already replaced. That mix found the first real bug, which no run on cold keys had in 240 seeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from jepsen_lite.sim.oracle import History, Outcome
from jepsen_lite.sim.world import World
from kvstore.client.bucket import AsyncBucket
from kvstore.client.client import AsyncClient
from kvstore.client.results import OMITTED, Context, Omitted
from kvstore.errors import KVStoreError
from kvstore.ids import ObjectType

__all__ = ["WorkloadClient", "read_all"]

OPERATION_TIMEOUT_S = 1.5
ATTEMPT_TIMEOUT_S = 0.4
HOT_KEYS_COUNT = 2
FINAL_TIMEOUT_S = 30.0
BUCKET = "default"


@dataclass(frozen=True, slots=True)
class Mix:
    """How all clients of one run behave."""

    blind_share: float
    hot_share: float
    think_s_max: float
    attempt_timeout_s: float

    @classmethod
    def of(cls, world: World) -> Mix:
        """Draw the mix of a seed."""
        rng = world.rng("workload mix")
        return cls(
            blind_share=rng.uniform(0.05, 0.4),
            hot_share=rng.choice([0.0, 0.5, 0.9]),
            think_s_max=rng.choice([0.03, 0.08]),
            attempt_timeout_s=rng.choice([0.1, ATTEMPT_TIMEOUT_S]),
        )


def _open(
    world: World, name: str, timeout_s: float, attempt_timeout_s: float = ATTEMPT_TIMEOUT_S
) -> tuple[AsyncClient, dict[ObjectType, AsyncBucket[bytes]]]:
    client = AsyncClient(
        [host.address for host in world.hosts], transport=world.network.transport(name), clock=world.clock(name),
        rng=world.rng(f"client {name}"), timeout=timeout_s, attempt_timeout=attempt_timeout_s,
    )  # fmt: skip
    types = (ObjectType.REGISTER, ObjectType.LWW)
    return client, {kind: client.bucket(BUCKET, type=bytes, object_type=kind) for kind in types}


class WorkloadClient:
    """One client process, on a host of its own."""

    def __init__(self, world: World, name: str, history: History) -> None:
        self.name, self.ops = name, 0
        self._world, self._history, self._rng = world, history, world.rng(f"workload {name}")
        self._mix = Mix.of(world)
        self._client, self._buckets = _open(world, name, OPERATION_TIMEOUT_S, self._mix.attempt_timeout_s)
        self._known: dict[str, tuple[Context, tuple[bytes, ...]]] = {}

    async def run(self, keys: Sequence[tuple[ObjectType, str]], ends_at: float) -> None:
        """Work until `ends_at`, then disconnect. The first few keys are the hot ones."""
        rng, now = self._rng, self._world.loop.time
        while now() < ends_at:
            await asyncio.sleep(rng.uniform(0, self._mix.think_s_max))
            kind, key = rng.choice(keys[:HOT_KEYS_COUNT] if rng.random() < self._mix.hot_share else keys)
            await self._operate(self._buckets[kind], kind, key)
            self.ops += 1
        await self._client.close()

    async def _operate(self, bucket: AsyncBucket[bytes], kind: ObjectType, key: str) -> None:
        draw = self._rng.random()
        if draw < 0.35:
            await self._get(bucket, key)
        elif kind is ObjectType.LWW or draw < 0.35 + 0.65 * self._mix.blind_share:
            await self._put(bucket, key, OMITTED, ())
        else:
            if self._rng.random() < 0.5 or key not in self._known:
                await self._get(bucket, key)
            context, shown = self._known.get(key, (OMITTED, ()))
            await self._put(bucket, key, context, shown)

    async def _get(self, bucket: AsyncBucket[bytes], key: str) -> None:
        try:
            result = await bucket.get(key)
        except KVStoreError as error:
            self._trace("get", key, error.code)
            return
        shown = tuple(sibling.value for sibling in result.siblings)
        self._history.show(key, shown)
        self._known[key] = (result.context, shown)
        self._trace("get", key, b" ".join(shown))

    async def _put(
        self, bucket: AsyncBucket[bytes], key: str, context: Context | Omitted, shown: tuple[bytes, ...]
    ) -> None:
        value = f"{self.name}:{self.ops}".encode()
        now = self._world.loop.time
        record = self._history.invoke(key, value, shown, now())
        try:
            result = await bucket.put(key, value, context=context)
        except KVStoreError as error:
            self._history.end(record, Outcome.FAIL if error.definite else Outcome.INFO, now())
            self._trace("put", key, value, error.code)
            return
        self._history.end(record, Outcome.OK, now())
        if result.context is not None:
            self._known[key] = (result.context, (value,))
        self._trace("put", key, value, "ok", result.acked, result.siblings)

    def _trace(self, operation: str, *fields: str | int | bytes) -> None:
        self._world.trace.record(operation, self.name, *fields)


async def read_all(world: World, keys: Sequence[tuple[ObjectType, str]]) -> dict[str, list[bytes]]:
    """Read every key from all replicas; they must all answer. Returns the live values."""
    client, buckets = _open(world, "reader", FINAL_TIMEOUT_S)
    final: dict[str, list[bytes]] = {}
    for kind, key in keys:
        result = await buckets[kind].get(key, r=len(world.hosts))
        final[key] = [sibling.value for sibling in result.siblings]
        world.trace.record("final", key, *final[key])
    await client.close()
    return final
