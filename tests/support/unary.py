"""Product nodes in this process that serve gRPC on loopback, as `kvnode` does, but on disks in memory; and typed callers of them.

    async with grpc_nodes(3) as nodes:  caller = nodes[0].caller();  await caller.put("k", b"v")

The caller uses generated stubs and nothing of `kvstore.client`: what a program in another language has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from cluster.node import Node, NodeOptions
from cluster.placement import Placement
from cluster.server.unary_service import UnaryService
from kvstore.client.operation_ids import OperationIds
from kvstore.env import Env
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from kvstore.system import SystemClock
from kvstore.transport.grpc_transport import GrpcTransport
from kvstore.transport.grpc_unary import UnaryServices
from kvstore.v1 import registers_pb2 as pb
from kvstore.v1.registers_pb2_grpc import ClusterStub, RegistersStub

__all__ = ["Caller", "GrpcNode", "error_and_status", "error_of", "grpc_nodes", "trailers_of", "until"]

ERROR_TRAILER = "kvstore-error-bin"
"""Spelled out: it is part of the interface."""
PATIENCE_S = 10.0
UNSPECIFIED = "OBJECT_TYPE_UNSPECIFIED"


def error_of(failure: grpc.aio.AioRpcError) -> pb.Error:
    """Return the `Error` in the trailing metadata of a failed call."""
    return pb.Error.FromString(trailers_of(failure)[ERROR_TRAILER])


def trailers_of(failure: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the trailing metadata of a failed call."""
    metadata: Any = failure.trailing_metadata()
    return dict(metadata or ())


def error_and_status(failure: grpc.aio.AioRpcError) -> tuple[str, str, bool]:
    """Return status, code and definiteness of a failed call: what most tests ask for."""
    error = error_of(failure)
    return failure.code().name, error.code, error.definite


async def until(condition: Callable[[], bool]) -> None:
    """Give way to everything else until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # there is no event behind most conditions
            await asyncio.sleep(0)


class Caller:
    """One channel to one address."""

    def __init__(self, address: str) -> None:
        self.channel: Any = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.registers: Any = RegistersStub(self.channel)  # type: ignore[no-untyped-call]  # generated
        self.cluster: Any = ClusterStub(self.channel)  # type: ignore[no-untyped-call]

    async def get(
        self, key: str, *, bucket: str = "", kind: str = UNSPECIFIED, timeout: float | None = PATIENCE_S, **fields: Any
    ) -> Any:  # fmt: skip
        request = pb.GetRequest(object=pb.ObjectName(bucket=bucket, type=kind, key=key.encode()), **fields)
        return await self.registers.Get(request, timeout=timeout)

    async def put(
        self, key: str, value: bytes, *, bucket: str = "", kind: str = UNSPECIFIED, timeout: float | None = PATIENCE_S,
        **fields: Any,
    ) -> Any:  # fmt: skip
        named = pb.ObjectName(bucket=bucket, type=kind, key=key.encode())
        return await self.registers.Put(pb.PutRequest(object=named, value=value, **fields), timeout=timeout)

    async def delete(self, key: str, context: bytes, *, timeout: float | None = PATIENCE_S, **fields: Any) -> Any:
        request = pb.DeleteRequest(object=pb.ObjectName(key=key.encode()), context=context, **fields)
        return await self.registers.Delete(request, timeout=timeout)

    async def values(self, key: str, **fields: Any) -> list[bytes]:
        """Return the live values, sorted."""
        return sorted(sibling.value for sibling in (await self.get(key, **fields)).siblings)


class GrpcNode:
    """A started node, and what makes its calls."""

    def __init__(self, number: int) -> None:
        self.transport = GrpcTransport()
        self.disk = MemoryDisk()
        self._engine = MemoryEngine.open(self.disk, boot_id="boot", sync_delay_s=lambda: 0.0)
        self._env = Env(
            transport=self.transport, engine=self._engine, clock=SystemClock(), random=random.Random(f"node {number}")
        )
        self._callers: list[Caller] = []
        self.node: Node
        self.calls: UnaryServices

    async def start(self, join: tuple[str, ...]) -> None:
        self.node = Node(self._env, NodeOptions(listen="127.0.0.1:0", join=join, partition_bits=3))
        self.calls = UnaryServices(UnaryService(self.node), OperationIds(self._env.clock, self._env.random).next)
        self.transport.also_serve(self.calls)
        await self.node.start()

    def caller(self) -> Caller:
        """Return a caller with a connection of its own; it is closed with the node."""
        self._callers.append(Caller(self.node.address))
        return self._callers[-1]

    async def stop(self) -> None:
        for caller in self._callers:
            await caller.channel.close()
        await self.node.stop()
        await self.transport.close()


def _agree(placements: list[Placement]) -> bool:
    """Whether all use one topology, in which nobody moves: a request planned with an older one would be refused."""
    return all(each.is_settled for each in placements) and len({each.epoch for each in placements}) == 1


@asynccontextmanager
async def grpc_nodes(count: int) -> AsyncIterator[list[GrpcNode]]:
    """A cluster of `count` nodes, settled; the first one founds it. Nothing of it is left at the end."""
    nodes: list[GrpcNode] = []
    try:
        for number in range(count):
            nodes.append(GrpcNode(number))
            await nodes[-1].start((nodes[0].node.address,) if number else ())
        await until(lambda: _agree([each.node.placement for each in nodes]))
        yield nodes
    finally:
        await asyncio.gather(*[each.stop() for each in nodes])
