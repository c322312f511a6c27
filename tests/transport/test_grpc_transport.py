"""What is true of the gRPC transport only: strangers at the port, dead networks, health checks, and what is logged.

Everything it shares with its twin is in tests/contract/test_transport.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvstore.errors import DecodeError, Unavailable
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX
from kvstore.transport import grpc_transport
from kvstore.transport.envelope import wrap
from kvstore.transport.grpc_options import Keepalive
from kvstore.transport.grpc_transport import SERVICE_NAME, GrpcListener, GrpcTransport
from kvstore.v1.frames_pb2 import Frame
from kvstore.v1.frames_pb2_grpc import FramesStub
from tests.support.transports import Side, echo, raw_exchange, raw_server

MIB = 1024 * 1024
SHORT_KEEPALIVE = Keepalive(interval_s=0.3, timeout_s=0.3)
STATUS = health_pb2.HealthCheckResponse


class Served:
    """An echoing listener, its side, and the transport to reach it with."""

    def __init__(self, transport: GrpcTransport, listener: GrpcListener, ends: Side) -> None:
        self.transport, self.listener, self.ends = transport, listener, ends

    async def assert_well(self) -> None:
        """A new connection is accepted and answered."""
        starts = Side()
        connection = await self.transport.connect(self.listener.address, starts, timeout_s=5)
        connection.send(b"are you well?")
        assert await starts.recorders[0].until_frames(1) == [b"are you well?"]
        connection.close()
        await starts.recorders[0].until_closed()


@pytest.fixture
async def served(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    """Nothing a peer does may be logged as an error: a stranger at the port could fill the disk with tracebacks."""
    transport, ends = GrpcTransport(has_lanes=False), Side(echo)
    listener = await transport.serve("127.0.0.1:0", ends)
    yield Served(transport, listener, ends)
    await transport.close()
    await listener.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


# Strangers


@pytest.mark.parametrize(
    "words",
    [
        b"\x00\xff\x13\x37" * 1_000,
        b"GET / HTTP/1.1\r\nHost: kv\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    ],
    ids=["garbage", "HTTP/1", "broken HTTP/2"],
)
async def test_a_stranger_who_speaks_another_protocol_is_sent_away(served: Served, words: bytes) -> None:
    """The socket is closed, no connection is made of it, and the listener goes on."""
    host, _, port = served.listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(words)
    try:
        async with asyncio.timeout(5):
            await reader.read()
    except ConnectionResetError:
        pass
    writer.close()

    await served.assert_well()
    assert len(served.ends.recorders) == 1


async def test_a_message_that_is_no_frame_ends_its_connection_only(served: Served) -> None:
    """The handler is told a `DecodeError`, the client a status with the reason."""
    async with raw_exchange(served.listener.address) as call:
        await call.write(b"\xff\xff\xff")
        server = await served.ends.recorder(0)

        assert isinstance(await server.until_closed(), DecodeError)
        assert await call.code() is grpc.StatusCode.ABORTED
        assert "not a Frame" in await call.details()
    await served.assert_well()


async def test_an_oversize_message_ends_its_connection_only(served: Served) -> None:
    """A client with other limits than ours sends 5 MiB: refused by size, before it is decoded."""
    async with raw_exchange(served.listener.address, [("grpc.max_send_message_length", -1)]) as call:
        await call.write(wrap(b"x" * 5 * MIB))
        server = await served.ends.recorder(0)

        assert isinstance(await server.until_closed(), ConnectionResetError)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.frames == []
    await served.assert_well()


async def test_a_foreign_client_can_use_the_generated_stub(served: Served) -> None:
    """The proto says all that is needed: send Frames, read Frames, half-close, and the status is OK.

    The empty Frame at the end is how the server finds out that the half-close is one, and not a lost client.
    """
    async with grpc.aio.insecure_channel(served.listener.address) as channel:
        call: Any = FramesStub(channel).Exchange()  # type: ignore[no-untyped-call]  # generated
        await call.write(Frame(payload=b"ping"))
        assert (await call.read()).payload == b"ping"
        await call.done_writing()

        assert (await call.read()).payload == b""
        assert await call.read() is grpc_transport.EOF
        assert await call.code() is grpc.StatusCode.OK
    assert (await served.ends.recorder(0)).closings == [None]


async def test_a_frame_with_fields_of_the_future_is_understood(served: Served) -> None:
    """Unknown fields are skipped, as protobuf promises to those who add them later."""
    async with raw_exchange(served.listener.address) as call:
        await call.write(wrap(b"ping") + b"\x10\x01")

        assert await call.read() == wrap(b"ping")


async def test_connecting_to_a_grpc_server_without_frames_says_so() -> None:
    """The address works but is no kvstore: `Unavailable` with the status, at once."""
    server: Any = grpc.aio.server()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    with pytest.raises(Unavailable, match="UNIMPLEMENTED"):
        await GrpcTransport(has_lanes=False).connect(address, Side(), timeout_s=5)

    await server.stop(None)


async def test_connections_above_the_bound_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold a backlog, so their number is bounded. A place that becomes free can be had again."""
    monkeypatch.setattr(grpc_transport, "CONNECTIONS_COUNT_MAX", 2)
    starts = Side()
    for _ in range(2):
        await served.transport.connect(served.listener.address, starts, timeout_s=5)

    with pytest.raises(Unavailable, match="RESOURCE_EXHAUSTED"):
        await served.transport.connect(served.listener.address, starts, timeout_s=5)

    starts.recorders[0].connection.close()
    await (await served.ends.recorder(0)).until_closed()
    await served.assert_well()


async def test_a_client_that_reads_nothing_cannot_hold_up_the_close(served: Served) -> None:
    """Its stream is full and takes not even the end; after the linger time it is cut. Within a second."""
    async with raw_exchange(served.listener.address) as call:
        await call.write(wrap(b""))
        server = await served.ends.recorder(0)
        for _ in range(CONNECTION_BACKLOG_BYTES_MAX // MIB):
            server.connection.send(b"x" * MIB)

        async with asyncio.timeout(1):
            await served.listener.close()

        assert server.closings == [None]


async def test_a_client_that_vanishes_is_an_error_not_an_orderly_end(served: Served) -> None:
    """Cancelled or killed, a client looks like a half-close at first; fifty times in a row it is told apart."""
    for index in range(50):
        async with raw_exchange(served.listener.address) as call:
            await call.write(wrap(b"ping"))
            await call.read()
        error = await (await served.ends.recorder(index)).until_closed()
        assert isinstance(error, ConnectionResetError)


# Dead networks


class Proxy:
    """A TCP proxy that can stop forwarding while both sockets stay open, as when a cable is pulled."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self.chunks_count = 0
        self.changed = asyncio.Event()

    def pull_the_cable(self) -> None:
        self._flows.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flows.wait()
            writer.write(data)
            self.chunks_count += 1
            self.changed.set()

    async def until_chunks(self, count: int) -> None:
        async with asyncio.timeout(20):
            while self.chunks_count < count:
                self.changed.clear()
                await self.changed.wait()


async def test_both_sides_notice_that_the_network_is_dead() -> None:
    """No FIN, no RST, only silence: keepalive ends the connection on each side with an error."""
    transport, ends, starts = GrpcTransport(SHORT_KEEPALIVE, has_lanes=False), Side(echo), Side()
    listener = await transport.serve("127.0.0.1:0", ends)
    proxy = Proxy(listener.address)
    async with raw_server(proxy.serve) as address:
        connection = await transport.connect(address, starts, timeout_s=5)
        connection.send(b"ping")
        client, server = starts.recorders[0], await ends.recorder(0)
        await client.until_frames(1)

        proxy.pull_the_cable()
        connection.send(b"into the void")

        assert isinstance(await client.until_closed(), ConnectionResetError)
        assert isinstance(await server.until_closed(), ConnectionResetError)
        await transport.close()
        await listener.close()


async def test_an_idle_connection_is_kept_and_its_pings_are_not_punished() -> None:
    """gRPC servers send away clients that ping more than they expect; ours expects what ours sends."""
    transport, ends, starts = GrpcTransport(SHORT_KEEPALIVE, has_lanes=False), Side(echo), Side()
    listener = await transport.serve("127.0.0.1:0", ends)
    proxy = Proxy(listener.address)
    async with raw_server(proxy.serve) as address:
        connection = await transport.connect(address, starts, timeout_s=5)

        await proxy.until_chunks(proxy.chunks_count + 24)  # a ping and its answer from each side, six times
        connection.send(b"still there?")

        assert await starts.recorders[0].until_frames(1) == [b"still there?"]
        await transport.close()
        await listener.close()


# Health


async def _health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        status: int = reply.status
        return status


async def test_health_follows_what_the_node_says(served: Served) -> None:
    """SERVING at first, overall and for the service; NOT_SERVING while the node says so, when frames still flow."""
    for is_serving, expected in ((None, STATUS.SERVING), (False, STATUS.NOT_SERVING), (True, STATUS.SERVING)):
        if is_serving is not None:
            await served.listener.set_serving(is_serving)

        assert await _health(served.listener.address, "") == expected
        assert await _health(served.listener.address, SERVICE_NAME) == expected
        await served.assert_well()


async def test_health_of_an_unknown_service_is_not_found(served: Served) -> None:
    """As the health protocol says."""
    with pytest.raises(grpc.RpcError) as caught:
        await _health(served.listener.address, "kvstore.v1.Nonsense")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# Ends of the process


async def test_closing_the_transport_closes_what_it_opened(served: Served) -> None:
    """When it returns nothing of its connections is left, and both sides were told."""
    starts = Side()
    for _ in range(3):
        await served.transport.connect(served.listener.address, starts, timeout_s=5)

    await served.transport.close()

    assert [recorder.closings for recorder in starts.recorders] == [[None]] * 3
    assert [await (await served.ends.recorder(index)).until_closed() for index in range(3)] == [None] * 3


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_a_loop_that_ends_in_the_middle_leaves_no_noise(
    loop_name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client that returns from `main` without closing; and the next loop of the process works as well.

    (A listener must be closed: grpc.aio's own destructor complains of a server that outlives its loop.)
    """
    import uvloop

    async def main() -> int:
        transport, ends, starts = GrpcTransport(has_lanes=False), Side(echo), Side()
        listener = await transport.serve("127.0.0.1:0", ends)
        connection = await transport.connect(listener.address, starts, timeout_s=5)
        connection.send(b"ping")
        received = len(await starts.recorders[0].until_frames(1))
        await listener.close()
        return received

    for _ in range(2):
        factory = uvloop.new_event_loop if loop_name == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(main()) == 1
    assert "never retrieved" not in caplog.text
    assert "Traceback" not in caplog.text + capfd.readouterr().err
