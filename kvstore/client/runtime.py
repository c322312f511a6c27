"""What all buckets of one client share: its world, its router and its operation ids, made when first used.

    AsyncClient, AsyncBucket ──► Runtime ──► Requests ──► Router ──► links

Nothing touches the world before the first operation, so that a client may be made outside a loop; it then belongs to the
loop that used it first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

from kvstore.chaos import CALM, Chaos, Point
from kvstore.client.failures import ClientClosed
from kvstore.client.operation_ids import OperationIds
from kvstore.client.options import Options
from kvstore.client.requests import Requests
from kvstore.client.routing import Router
from kvstore.env import Clock, Transport
from kvstore.errors import NoSuchBucket
from kvstore.ids import OperationId
from kvstore.limits import INFLIGHT_PER_LINK_MAX
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.topology import Topology
from kvstore.transport.link import LinkOptions

__all__ = ["Runtime"]

BUCKET_POLL_S = 0.02


class _Closeable(Protocol):
    async def close(self) -> None:
        """Release what it holds."""


IDLE_BEATS = 10
"""Heartbeats (of 0.5 s) after which a node that owes nothing is asked whether it is still there."""


class Runtime:
    """The running part of a client. What was not given is the machine's own."""

    __slots__ = ("_chaos", "_clock", "_closed", "_operation_ids", "_owned_transport", "_requests", "_rng", "_seeds",
                 "_transport", "options")  # fmt: skip

    def __init__(
        self, seeds: Sequence[str], options: Options, *, transport: Transport | None, clock: Clock | None,
        rng: random.Random | None, chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self.options, self._chaos = options, chaos
        self._seeds, self._transport, self._clock, self._rng = seeds, transport, clock, rng
        self._owned_transport: _Closeable | None = None
        self._requests: Requests | None = None
        self._operation_ids: OperationIds | None = None
        self._closed = False

    def start(self) -> Requests:
        """Return what sends operations. Needs the running loop the first time."""
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._requests is None:
            clock, rng = self._world()
            self._operation_ids, self._rng = OperationIds(clock, rng), rng
            in_flight_max = self._chaos.pick(Point.LINK_NARROW, INFLIGHT_PER_LINK_MAX, 2, 8)
            options = LinkOptions(
                connect_timeout_s=self.options.connect_timeout_s, in_flight_max=in_flight_max, idle_beats=IDLE_BEATS
            )  # fmt: skip
            router = Router(self._seeds, self._network(), rng, options, chaos=self._chaos)
            self._requests = Requests(router, self.options, rng, chaos=self._chaos)
        return self._requests

    async def close(self) -> None:
        """End every connection. Idempotent."""
        self._closed = True
        if self._requests is not None:
            await self._requests.router.close()
        owned, self._owned_transport = self._owned_transport, None
        if owned is not None:
            await owned.close()

    async def topology(self, deadline: float, *, newest: bool = False) -> Topology:
        """Return the topology, once known; with `newest`, fetch it anew. Raises Unavailable at the deadline."""
        router = self.start().router
        await router.wait_usable(deadline)
        if newest:
            await router.refresh(deadline)
        assert router.topology is not None, "wait_usable returns only with a topology"
        return router.topology

    async def bucket_properties(self, name: str) -> BucketProperties:
        """Return a bucket's properties; an unknown one is looked for once more in the newest topology."""
        deadline = self.start().deadline(self.options.timeout_s)
        try:
            return (await self.topology(deadline)).bucket(name)
        except NoSuchBucket:
            return (await self.topology(deadline, newest=True)).bucket(name)

    async def wait_bucket(self, name: str, deadline: float) -> BucketProperties:
        """Return a bucket that was just created: the node asked for the topology may hear of it later than its creator."""
        while True:
            try:
                return (await self.topology(deadline, newest=True)).bucket(name)
            except NoSuchBucket:
                await asyncio.sleep(BUCKET_POLL_S)

    def operation_id(self) -> OperationId:
        """Return a new operation id."""
        assert self._operation_ids is not None, "a client is started before it writes"
        return self._operation_ids.next()

    def jitter(self) -> float:
        """Return a number in [0, 1) that other clients do not share."""
        assert self._rng is not None, "a client is started before it waits"
        return self._rng.random()

    def _world(self) -> tuple[Clock, random.Random]:
        if self._clock is not None and self._rng is not None:
            return self._clock, self._rng
        from kvstore.system import SystemClock, system_random

        return self._clock or SystemClock(), self._rng or system_random()

    def _network(self) -> Transport:
        if self._transport is not None:
            return self._transport
        # Here and not above: importing gRPC takes 0.1 s and starts threads, which a client with another transport
        # (every simulated one) does without.
        from kvstore.transport.grpc_transport import GrpcTransport

        transport = self._owned_transport = GrpcTransport()
        return transport
