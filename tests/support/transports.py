"""Handlers that record, and the worlds (gRPC, direct lanes, memory, simulation) in which the transport contract must hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import grpc.aio

from jepsen_lite.sim.network import SimNetwork
from kvstore.env import Connection, FrameHandler, Transport
from kvstore.transport.grpc_transport import LANE, METHOD_PATH, WANTS_LANE, GrpcTransport
from kvstore.transport.lane import MAGIC, LaneOffer
from kvstore.transport.memory import MemoryNetwork

PATIENCE_S = 20.0


class Recorder:
    """A frame handler that keeps what it got; `on_frame(recorder, frame)` may react."""

    def __init__(self, connection: Connection, on_frame: Callable[[Recorder, bytes], None] | None = None) -> None:
        self.connection = connection
        self.frames: list[bytes] = []
        self.closings: list[Exception | None] = []
        self._on_frame = on_frame
        self._changed = asyncio.Event()

    def frame_received(self, frame: bytes) -> None:
        assert not self.closings, "a frame after the end"
        self.frames.append(frame)
        self._changed.set()
        if self._on_frame is not None:
            self._on_frame(self, frame)

    def connection_closed(self, error: Exception | None) -> None:
        self.closings.append(error)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is asked again whenever something arrives."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_frames(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.frames) >= count)
        return self.frames

    async def until_closed(self) -> Exception | None:
        await self.until(lambda: bool(self.closings))
        return self.closings[0]


class Side:
    """An `accept` function that remembers the recorders it made."""

    def __init__(self, on_frame: Callable[[Recorder, bytes], None] | None = None) -> None:
        self.recorders: list[Recorder] = []
        self._on_frame = on_frame
        self._changed = asyncio.Event()

    def __call__(self, connection: Connection) -> FrameHandler:
        recorder = Recorder(connection, self._on_frame)
        self.recorders.append(recorder)
        self._changed.set()
        return recorder

    async def recorder(self, index: int) -> Recorder:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.recorders) <= index:
                self._changed.clear()
                await self._changed.wait()
        return self.recorders[index]


def echo(recorder: Recorder, frame: bytes) -> None:
    recorder.connection.send(frame)


class StubbornPeer(Protocol):
    """A client that sends and does not take what it is answered, until it does."""

    async def flood(self, frames: list[bytes]) -> None:
        """Send as much of it as the other side takes, the rest when it does."""

    async def take(self, count: int) -> None:
        """Begin to read, and return when `count` frames were read."""


class World(Protocol):
    """One implementation and what the contract needs to know of it."""

    client: Transport
    server: Transport
    address: str
    """Where `server` may serve, with port 0."""

    def refusing_address(self) -> str: ...
    def silent_address(self) -> Any: ...
    def stubborn_peer(self, address: str) -> Any: ...
    async def close(self) -> None: ...


class GrpcWorld:
    """Real sockets on 127.0.0.1."""

    address = "127.0.0.1:0"

    def __init__(self) -> None:
        self.client = self.server = self.transport = GrpcTransport(has_lanes=False)

    def refusing_address(self) -> str:
        return "127.0.0.1:1"

    @asynccontextmanager
    async def silent_address(self) -> AsyncIterator[str]:
        async with raw_server(lambda reader, writer: asyncio.Event().wait()) as address:
            yield address

    @asynccontextmanager
    async def stubborn_peer(self, address: str) -> AsyncIterator[StubbornPeer]:
        async with raw_exchange(address) as call:
            yield _StubbornGrpc(call)

    async def close(self) -> None:
        await self.transport.close()


@asynccontextmanager
async def raw_server(serve: Callable[[Any, Any], Any]) -> AsyncIterator[str]:
    """A plain TCP server; `serve(reader, writer)` runs for each connection and is cancelled at the end."""
    tasks: list[asyncio.Task[None]] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await serve(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def raw_exchange(
    address: str, options: list[tuple[str, int]] | None = None, metadata: Any = None
) -> AsyncIterator[Any]:
    """An Exchange stream of a client that is not ours: bytes in, bytes out."""
    channel: Any = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *(options or [])])
    call = channel.stream_stream(METHOD_PATH)(metadata=metadata)
    try:
        yield call
    finally:
        call.cancel()
        await channel.close()


class _StubbornGrpc:
    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing: asyncio.Task[None] | None = None

    async def flood(self, frames: list[bytes]) -> None:
        async def write() -> None:
            for frame in frames:
                await self._call.write(b"\x0a" + _varint(len(frame)) + frame)

        self._writing = asyncio.create_task(write())

    async def take(self, count: int) -> None:
        for _ in range(count):
            await self._call.read()
        assert self._writing is not None
        await self._writing


class DirectWorld(GrpcWorld):
    """Real sockets on 127.0.0.1, and direct lanes between those that met over gRPC."""

    def __init__(self) -> None:
        self.client = self.server = self.transport = GrpcTransport()

    @asynccontextmanager
    async def stubborn_peer(self, address: str) -> AsyncIterator[StubbornPeer]:
        async with raw_lane(address) as (reader, writer):
            yield _StubbornLane(reader, writer)


async def lane_offer(address: str) -> LaneOffer:
    """Ask a node where its lanes begin, as a client does."""
    async with raw_exchange(address, metadata=WANTS_LANE) as call:
        return LaneOffer.decode((await call.initial_metadata())[LANE])


@asynccontextmanager
async def raw_lane(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A greeted lane of a client that is not ours: bytes in, bytes out."""
    offer = await lane_offer(address)
    reader, writer = await asyncio.open_connection("127.0.0.1", offer.port)
    try:
        writer.write(MAGIC + offer.key)
        assert await reader.readexactly(len(MAGIC) + len(offer.key)) == MAGIC + offer.key
        yield reader, writer
    finally:
        writer.transport.abort()


class _StubbornLane:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._writing: asyncio.Task[None] | None = None

    async def flood(self, frames: list[bytes]) -> None:
        async def write() -> None:
            for frame in frames:
                self._writer.write(len(frame).to_bytes(4, "big") + frame)
                await self._writer.drain()

        self._writing = asyncio.create_task(write())

    async def take(self, count: int) -> None:
        for _ in range(count):
            await self._reader.readexactly(int.from_bytes(await self._reader.readexactly(4), "big"))
        assert self._writing is not None
        await self._writing


def _varint(number: int) -> bytes:
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


class MemoryWorld:
    """A network in memory with random delays of up to a millisecond."""

    address = "server:0"

    def __init__(self) -> None:
        rng = random.Random(1)
        self.network = MemoryNetwork(lambda source, target: rng.uniform(0, 0.001))
        self.client, self.server = self.network.transport("client"), self.network.transport("server")

    def refusing_address(self) -> str:
        return "server:1"

    @asynccontextmanager
    async def silent_address(self) -> AsyncIterator[str]:
        self.network.cut("client", "silent")
        yield "silent:1"

    @asynccontextmanager
    async def stubborn_peer(self, address: str) -> AsyncIterator[StubbornPeer]:
        yield _StubbornMemory(self.network, address)

    async def close(self) -> None:
        pass


class SimWorld:
    """The simulated network on a calm day, here on the loop of real time."""

    address = "server:0"

    def __init__(self) -> None:
        self.network = SimNetwork(random.Random(1))
        self.client, self.server = self.network.transport("client"), self.network.transport("server")

    def refusing_address(self) -> str:
        return "server:1"

    @asynccontextmanager
    async def silent_address(self) -> AsyncIterator[str]:
        self.network.cut("client", "silent")
        yield "silent:1"

    @asynccontextmanager
    async def stubborn_peer(self, address: str) -> AsyncIterator[StubbornPeer]:
        yield _StubbornMemory(self.network, address)

    async def close(self) -> None:
        pass


class _StubbornMemory:
    def __init__(self, network: MemoryNetwork | SimNetwork, address: str) -> None:
        self._ours: Any
        theirs: Any
        self._ours, theirs = network.open_pair("client", address)
        self._ours.signal(partial(network.knock, address, theirs, lambda is_accepted: None))

    async def flood(self, frames: list[bytes]) -> None:
        for frame in frames:
            self._ours.send(frame)

    async def take(self, count: int) -> None:
        recorder = Recorder(self._ours)
        self._ours.start(recorder)
        await recorder.until_frames(count)
