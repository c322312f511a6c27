"""Connections that mean no good, over real sockets: those who say nothing, say it slowly, say it wrongly, or are too many.

Each costs its own connection and nothing else: a normal client is served meanwhile, and what was held for them is given back.
(Garbage at the port, oversize messages, dead networks and the bound of connections are in test_grpc_transport.py, wrong frames in
test_session.py, clones in tests/cluster/test_admission.py, a second process in tests/cli/test_commands_real.py.)
"""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from kvstore.errors import ClusterMismatch, DecodeError, ProtocolMismatch, Unavailable, error_from_wire
from kvstore.limits import GREETING_TIMEOUT_S
from kvstore.messages import PROTOCOL_VERSION, Verb
from kvstore.transport import grpc_options, memory, session
from kvstore.transport.envelope import unwrap, wrap
from kvstore.transport.frames import FrameKind, Hello, decode_frame, encode_frame, hello_fields
from kvstore.transport.grpc_transport import METHOD_PATH, GrpcListener, GrpcTransport
from kvstore.transport.link import Link
from kvstore.transport.memory import MemoryNetwork
from kvstore.transport.session import Session
from tests.support.transports import Side
from tests.transport.peers import ADDRESS, ScriptedService, run, serve

GREETING = wrap(encode_frame(hello_fields(Hello())))
IDLE_COUNT = 1_000
SHORT_S = 0.3


class Served:
    """A scripted node behind a real port, and a normal client of it."""

    def __init__(
        self, transport: GrpcTransport, listener: GrpcListener, service: ScriptedService, client: Link
    ) -> None:
        self.transport, self.listener, self.service, self.client = transport, listener, service, client

    async def assert_client_is_served(self) -> None:
        """The client that was there all along gets its answer."""
        deadline = asyncio.get_running_loop().time() + 10
        assert await self.client.call(Verb.GET, 0, deadline, b"echo", b"are you well?") == b"are you well?"

    async def until_connections(self, count: int) -> None:
        """Wait until the listener holds so many connections besides the client's."""
        async with asyncio.timeout(20):
            while self.listener.connections_count != count + 1:
                await self.assert_client_is_served()

    async def until_tasks(self, count: int) -> None:
        """Wait until no more tasks run than that: a connection that ended is still being put away for a moment."""
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > count:
                await self.assert_client_is_served()


@pytest.fixture
def is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers have 0.3 s to greet, and refused ones 0.3 s to read why."""
    for module in (session, grpc_options):
        monkeypatch.setattr(module, "GREETING_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(session, "REFUSED_LINGER_S", SHORT_S)
    monkeypatch.setattr(grpc_options, "STREAMLESS_S_MAX", SHORT_S)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A node on loopback and its client."""
    service, transport = ScriptedService(), GrpcTransport()
    listener = await transport.serve("127.0.0.1:0", lambda connection: Session(connection, service))
    client = Link(transport=transport, address=listener.address, hello=Hello, rng=random.Random(1))
    client.start()
    await client.wait_up(10)
    yield Served(transport, listener, service, client)
    await client.close()
    await transport.close()
    await listener.close()


async def refusal(call: Any) -> Exception:
    """Return the error in the REFUSED frame that must come next."""
    async with asyncio.timeout(10):
        kind, error = decode_frame(unwrap(await call.read()))
    assert kind == FrameKind.REFUSED
    return error_from_wire(error)


def stream(channel: Any) -> Any:
    return channel.stream_stream(METHOD_PATH)()


def channel_to(served: Served) -> Any:
    return grpc.aio.insecure_channel(served.listener.address, options=[("grpc.use_local_subchannel_pool", 1)])


# Who says nothing, or says it slowly


@pytest.mark.usefixtures("is_short")
async def test_a_stream_that_never_says_hello_is_refused_and_closed(served: Served) -> None:
    """After GREETING_TIMEOUT_S it is told why, and after the linger time it is gone."""
    async with channel_to(served) as channel:
        call = stream(channel)
        error = await refusal(call)

        assert type(error) is Unavailable and "did not say HELLO in time" in str(error)
        assert error.retryable, "a peer that was stopped may come again"
        async with asyncio.timeout(10):
            assert await call.code() is grpc.StatusCode.ABORTED
        await served.until_connections(0)


@pytest.mark.usefixtures("is_short")
async def test_a_socket_that_never_begins_http2_is_closed(served: Served) -> None:
    """Slow-loris below gRPC: a byte now and then, and never a preface."""
    host, _, port = served.listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HT")

    async with asyncio.timeout(10):
        while not reader.at_eof():
            try:
                if await asyncio.wait_for(reader.read(1_000), 0.05) == b"":
                    break
            except TimeoutError:
                writer.write(b"T")
            except ConnectionResetError:
                break
    writer.transport.abort()
    await served.assert_client_is_served()


@pytest.mark.usefixtures("is_short")
async def test_an_http2_connection_without_a_stream_is_closed(served: Served) -> None:
    """It has no session, so that no bound of sessions counts it, but it holds a file descriptor."""
    host, _, port = served.listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # and empty SETTINGS

    async with asyncio.timeout(10):
        assert await reader.read()
    writer.transport.abort()
    await served.assert_client_is_served()


@pytest.mark.usefixtures("is_short")
async def test_bytes_of_one_message_that_trickle_in_do_not_count_as_a_greeting(served: Served) -> None:
    """A proxy passes the client's bytes on one at a time: HELLO is not whole in time, so the session is refused."""
    trickling = asyncio.Event()
    host, _, port = served.listener.address.rpartition(":")

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        back = asyncio.ensure_future(_pass_on(far_reader, writer))
        try:
            while data := await reader.read(65_536):
                for byte in data if trickling.is_set() else [data]:
                    far_writer.write(bytes((byte,)) if isinstance(byte, int) else byte)
                    if trickling.is_set():
                        await _pause(0.05)
        finally:
            back.cancel()
            far_writer.transport.abort()
            writer.transport.abort()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = stream(channel)
        await call.initial_metadata()
        trickling.set()
        await call.write(wrap(encode_frame(hello_fields(Hello(address="a" * 200)))))

        assert "did not say HELLO in time" in str(await refusal(call))
        call.cancel()
    server.close()
    await served.until_connections(0)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


async def _pause(delay_s: float) -> None:
    """Let time pass: the slowness of the peer is what is tested."""
    done = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(delay_s, done.set_result, None)
    try:
        await done
    finally:
        timer.cancel()


def test_the_greeting_is_due_in_memory_as_well() -> None:
    """The twin: the same session, at the real bound of 5 s, in virtual time."""

    async def main() -> None:
        network, service, starts = MemoryNetwork(), ScriptedService(), Side()
        await serve(network, service)
        await network.transport("stranger").connect(ADDRESS, starts, timeout_s=1)
        greeted = await network.transport("client").connect(ADDRESS, starts, timeout_s=1)
        greeted.send(encode_frame(hello_fields(Hello())))
        await asyncio.sleep(GREETING_TIMEOUT_S + session.REFUSED_LINGER_S + 0.1)

        stranger, client = starts.recorders
        assert decode_frame(stranger.frames[0])[0] == FrameKind.REFUSED and len(stranger.closings) == 1
        assert decode_frame(client.frames[0])[0] == FrameKind.HELLO and not client.closings

    run(main)


# Too many


async def test_a_thousand_idle_connections_cost_little_and_a_client_is_served(served: Served) -> None:
    """All greeted, so that none is due; memory for each is bounded, and all of it is given back when they leave."""
    tasks_count = len(asyncio.all_tasks())
    channels = [channel_to(served) for _ in range(10)]
    gc.collect()
    tracemalloc.start()
    calls = []
    for channel in channels:
        calls += await asyncio.gather(*[_greeted(channel) for _ in range(IDLE_COUNT // len(channels))])
    await served.until_connections(IDLE_COUNT)
    held_bytes = tracemalloc.get_traced_memory()[0]
    await served.assert_client_is_served()
    for call in calls:
        call.cancel()
    del calls
    for channel in channels:
        await channel.close()
    await served.until_connections(0)
    await served.until_tasks(tasks_count)
    served.service.sessions.clear()
    gc.collect()
    left_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    # Of both sides, as the clients are in this process too.
    assert held_bytes < IDLE_COUNT * 48 * 1024
    assert left_bytes < held_bytes / 4


async def _greeted(channel: Any) -> Any:
    call = stream(channel)
    await call.write(GREETING)
    assert decode_frame(unwrap(await call.read()))[0] == FrameKind.HELLO
    return call


def test_connections_above_the_bound_are_refused_in_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a place that becomes free can be had again."""
    monkeypatch.setattr(memory, "CONNECTIONS_COUNT_MAX", 2)

    async def main() -> None:
        network, starts = MemoryNetwork(), Side()
        await serve(network, ScriptedService())
        transport = network.transport("client")
        first = await transport.connect(ADDRESS, starts, timeout_s=1)
        await transport.connect(ADDRESS, starts, timeout_s=1)
        with pytest.raises(Unavailable):
            await transport.connect(ADDRESS, starts, timeout_s=1)
        first.close()
        await asyncio.sleep(0.01)
        await transport.connect(ADDRESS, starts, timeout_s=1)

    run(main)


# Who says it wrongly


@pytest.mark.usefixtures("is_short")
async def test_an_endless_stream_of_refused_frames_costs_nothing_after_the_first(served: Served) -> None:
    """The first one is answered, the others are dropped unread until the stream is closed; others are served meanwhile."""
    async with channel_to(served) as channel:
        call = stream(channel)
        flood = asyncio.ensure_future(_flood(call, wrap(b"\x93garbage" * 1_000)))

        assert type(await refusal(call)) is DecodeError
        await served.assert_client_is_served()
        async with asyncio.timeout(10):
            assert await flood > 0
    await served.until_connections(0)
    assert served.service.handled == [] or all(request[4] == b"echo" for request in served.service.handled)


async def _flood(call: Any, message: bytes) -> int:
    """Write until the other side has had enough; returns how often that went well."""
    written = 0
    try:
        while True:
            await call.write(message)
            written += 1
    except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError):
        return written


async def test_a_stream_of_streams_that_are_refused_leaves_nothing_behind(served: Served) -> None:
    """Two hundred in a row: each is refused, none stays."""
    async with channel_to(served) as channel:
        for _ in range(200):
            call = stream(channel)
            await call.write(wrap(b"garbage"))
            assert type(await refusal(call)) is DecodeError
            call.cancel()
    await served.until_connections(0)


async def test_the_wrong_protocol_and_the_wrong_cluster_are_told_so(served: Served) -> None:
    """By a typed refusal that a person can act on."""
    async with channel_to(served) as channel:
        call = stream(channel)
        await call.write(wrap(encode_frame(hello_fields(Hello(protocol_min=PROTOCOL_VERSION + 1, protocol_max=9)))))
        assert type(await refusal(call)) is ProtocolMismatch

        served.service.refusal = ClusterMismatch("this node belongs to another cluster", ours="63" * 16)
        call = stream(channel)
        await call.write(GREETING)
        assert type(await refusal(call)) is ClusterMismatch


async def test_a_half_open_peer_is_given_up(served: Served) -> None:
    """It greets and then neither sends nor reads: its backlog is bounded, so reading from it stops and nobody else notices."""
    async with channel_to(served) as channel:
        call = stream(channel)
        await call.write(GREETING)
        await call.read()
        request = wrap(encode_frame([1, 0, 10, int(Verb.GET), 0, 9_000, b"echo", bytes(1 << 20)]))
        flood = asyncio.ensure_future(_flood(call, request))
        for _ in range(20):
            await served.assert_client_is_served()
        held = sum(connection.backlog_bytes for connection in served.listener._connections)

        assert held <= 8 * (1 << 20) + 4 * (1 << 20)
        call.cancel()
        async with asyncio.timeout(10):
            await flood
    await served.until_connections(0)
