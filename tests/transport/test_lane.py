"""Direct lanes over real sockets: who gets one, who stays with gRPC, and strangers at the port."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.env import Connection
from kvstore.errors import DecodeError
from kvstore.limits import FRAME_SIZE_BYTES_MAX
from kvstore.transport import grpc_transport, lane, lane_connection
from kvstore.transport.grpc_connection import GrpcConnection
from kvstore.transport.grpc_transport import GrpcListener, GrpcTransport
from kvstore.transport.lane import KEY_SIZE_BYTES, MAGIC, LaneListener, LaneOffer, open_lane
from kvstore.transport.lane_connection import END, LaneConnection
from tests.support.transports import PATIENCE_S, Recorder, Side, echo, lane_offer, raw_lane, raw_server

SHORT_S = 0.2


class Served:
    """An echo behind a real port."""

    def __init__(self, transport: GrpcTransport, listener: GrpcListener, ends: Side) -> None:
        self.transport, self.listener, self.ends = transport, listener, ends

    async def connect(self, transport: GrpcTransport | None = None) -> Connection:
        """Connect, and see that an echo comes back."""
        starts = Side()
        connection = await (transport or self.transport).connect(self.listener.address, starts, timeout_s=5)
        connection.send(b"hello")
        assert await starts.recorders[0].until_frames(1) == [b"hello"]
        return connection


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    transport, ends = GrpcTransport(), Side(echo)
    listener = await transport.serve("127.0.0.1:0", ends)
    yield Served(transport, listener, ends)
    await transport.close()
    await listener.close()


async def hung_up(reader: asyncio.StreamReader) -> bytes:
    """Return what a socket gives until the other side closes it."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


# Who gets one


async def test_who_met_over_grpc_talks_over_a_lane(served: Served) -> None:
    """And the gRPC channel is gone by then."""
    assert isinstance(await served.connect(), LaneConnection)
    assert served.transport._open == {}


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_side_that_wants_no_lanes_talks_over_grpc(served: Served, who: str) -> None:
    """An older build, or `--lane-port -1`."""
    other = GrpcTransport(has_lanes=False)
    if who == "client":
        assert isinstance(await served.connect(other), GrpcConnection)
    else:
        listener = await other.serve("127.0.0.1:0", served.ends)
        assert isinstance(await Served(served.transport, listener, served.ends).connect(), GrpcConnection)
        await listener.close()
    await other.close()


@pytest.mark.parametrize("stranger", ["nobody", "silent", "talkative", "another node"])
async def test_where_the_port_is_not_theirs_they_talk_over_grpc(
    served: Served, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a tunnel or a firewall. The address is not asked for a lane again for a while, and the handler is made once."""
    monkeypatch.setattr(lane, "LANE_S_MAX", SHORT_S)
    offer = served.listener._lanes.offer
    assert offer is not None
    other = GrpcTransport()
    elsewhere = await other.serve("127.0.0.1:0", Side(echo))

    async def talk(reader: Any, writer: Any) -> None:
        if stranger == "talkative":
            writer.write(b"220 mail.example.org ESMTP\r\n")
        await asyncio.Event().wait()

    async with raw_server(talk) as address:
        ports = {"nobody": 1, "another node": (await lane_offer(elsewhere.address)).port}
        port = ports.get(stranger, int(address.rpartition(":")[2]))
        served.listener._lanes.offer = LaneOffer(port, offer.key)
        first = await served.connect()
        served.listener._lanes.offer = offer
        second = await served.connect()

    assert isinstance(first, GrpcConnection) and isinstance(second, GrpcConnection)
    assert len(served.ends.recorders) == 2
    monkeypatch.setattr(grpc_transport, "NO_LANE_S", 0.0)
    served.transport._no_lane_until.clear()
    assert isinstance(await served.connect(), LaneConnection)
    await elsewhere.close()
    await other.close()


@pytest.mark.parametrize(
    "text", ["", "no port", "7400", "7400 xyz", f"0 {'00' * 16}", f"70000 {'00' * 16}", f"7400 {'00' * 15}", "٧ " + "00" * 16]
)  # fmt: skip
def test_what_is_no_offer_is_a_decode_error(text: str) -> None:
    """Metadata is written by whoever answers."""
    with pytest.raises(DecodeError):
        LaneOffer.decode(text)


def test_an_offer_survives_its_encoding() -> None:
    """Port and key."""
    offer = LaneOffer(7_401, bytes(range(KEY_SIZE_BYTES)))

    assert LaneOffer.decode(offer.encode()) == offer


async def test_an_accept_that_raises_is_the_callers_to_see(served: Served) -> None:
    """And nothing of the lane is left, here or there."""

    def stumble(connection: Connection) -> Any:
        raise ZeroDivisionError("a bug in accept")

    with pytest.raises(ZeroDivisionError):
        await served.transport.connect(served.listener.address, stumble, timeout_s=5)
    assert isinstance(await (await served.ends.recorder(0)).until_closed(), ConnectionResetError)
    assert served.transport._lanes == {}


async def test_a_connect_that_is_cancelled_while_the_lane_opens_leaves_nothing(served: Served) -> None:
    """At every step of it, the last one too, when the lane is open already and nobody takes it."""
    for steps in range(1, 60):
        connecting = asyncio.create_task(served.transport.connect(served.listener.address, Side(), timeout_s=5))
        for _ in range(steps):
            await asyncio.sleep(0)
        if connecting.done():
            (await connecting).close()
            continue
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
    await served.transport.close()
    for recorder in served.ends.recorders:
        await recorder.until_closed()
    assert served.transport._lanes == {}


# Strangers at the port


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", MAGIC + bytes(KEY_SIZE_BYTES), b"\x00" * 100])
async def test_who_does_not_know_the_key_is_cut_at_once(served: Served, said: bytes) -> None:
    """Nothing is answered, and nobody is told of it."""
    offer = await lane_offer(served.listener.address)
    reader, writer = await asyncio.open_connection("127.0.0.1", offer.port)
    writer.write(said)

    assert await hung_up(reader) == b""
    assert served.ends.recorders == []
    writer.transport.abort()
    await served.connect()


async def test_who_greets_too_slowly_is_cut(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when every byte is right; it counts against the bound of connections until then."""
    monkeypatch.setattr(lane, "GREETING_TIMEOUT_S", SHORT_S)
    offer = await lane_offer(served.listener.address)
    reader, writer = await asyncio.open_connection("127.0.0.1", offer.port)
    writer.write(MAGIC + offer.key[:-1])

    assert await hung_up(reader) == b""
    assert served.listener._lanes.connections_count == 0
    writer.transport.abort()


async def test_lanes_count_against_the_bound_of_connections(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes too late is cut; the ones that are there go on."""
    monkeypatch.setattr(lane, "CONNECTIONS_COUNT_MAX", 1)
    async with raw_lane(served.listener.address) as (first, writer):
        offer = served.listener._lanes.offer
        assert offer is not None
        reader, second = await asyncio.open_connection("127.0.0.1", offer.port)
        second.write(MAGIC + offer.key)
        assert await hung_up(reader) == b""
        writer.write(b"\x00\x00\x00\x01x")
        assert await first.readexactly(5) == b"\x00\x00\x00\x01x"
        second.transport.abort()


async def test_a_length_that_no_frame_has_ends_the_lane(served: Served) -> None:
    """With a typed error here; nothing was allocated for it."""
    async with raw_lane(served.listener.address) as (reader, writer):
        writer.write((FRAME_SIZE_BYTES_MAX + 1).to_bytes(4, "big"))
        assert await hung_up(reader) == b""
        error = await (await served.ends.recorder(0)).until_closed()
    assert isinstance(error, DecodeError)
    assert error.details == {"size_bytes": FRAME_SIZE_BYTES_MAX + 1, "limit_bytes": FRAME_SIZE_BYTES_MAX}


async def test_an_end_without_a_word_is_a_loss(served: Served) -> None:
    """In the middle of a frame, for instance: the process died."""
    async with raw_lane(served.listener.address) as (reader, writer):
        writer.write(b"\x00\x00\x00\x09half")
        writer.write_eof()
        assert isinstance(await (await served.ends.recorder(0)).until_closed(), ConnectionResetError)
        await hung_up(reader)


async def test_who_does_not_end_after_our_end_is_cut(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets END and end of file, and half a second."""
    monkeypatch.setattr(lane_connection, "LINGER_S", SHORT_S)
    async with raw_lane(served.listener.address) as (reader, writer):
        server = await served.ends.recorder(0)
        server.connection.close()
        assert await server.until_closed() is None
        assert await hung_up(reader) == END
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(server.connection, LaneConnection)
            await server.connection.finished
        writer.transport.abort()


# Stalls, cancellations and bugs


@pytest.mark.parametrize("ends", ["timeout", "cancelled"])
async def test_a_lane_that_opens_in_the_turn_in_which_it_is_given_up_is_used_or_closed(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our loop stalled. Given up by the timeout it is used, for it is there; by who connects, its handler is told the end."""
    monkeypatch.setattr(lane, "LANE_S_MAX", SHORT_S if ends == "timeout" else PATIENCE_S)
    starts, offer = Side(), LaneOffer(1, bytes(KEY_SIZE_BYTES))

    async def talk(reader: Any, writer: Any) -> None:
        writer.write(await reader.readexactly(len(MAGIC) + KEY_SIZE_BYTES))
        time.sleep(2 * SHORT_S)  # noqa: ASYNC251  # the loop of both: when it goes on, the greeting has arrived and the time is over
        await reader.read()

    async with raw_server(talk) as address:
        offer = offer._replace(port=int(address.rpartition(":")[2]))
        opening = asyncio.create_task(
            open_lane("127.0.0.1", offer, "there", cancelling(starts, ends, lambda: opening), timeout_s=5)
        )
        if ends == "timeout":
            connection = await opening
            assert connection is starts.recorders[0].connection and starts.recorders[0].closings == []
            connection.close()
        else:
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert isinstance(await starts.recorders[0].until_closed(), ConnectionResetError)
    assert len(starts.recorders) == 1


def cancelling(starts: Side, ends: str, task: Any) -> Any:
    """Return an `accept` in whose turn who connects gives up."""

    def accept(connection: Connection) -> Recorder:
        if ends == "cancelled":
            asyncio.get_running_loop().call_soon(task().cancel)
        return starts(connection)  # type: ignore[return-value]

    return accept


async def test_an_accept_that_raises_is_told_to_who_connects(served: Served) -> None:
    """As over gRPC; a connection that nobody handles would be taken for one that works."""

    def accept(connection: Connection) -> Recorder:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await served.transport.connect(served.listener.address, accept, timeout_s=5)
    assert await (await served.ends.recorder(0)).until_closed() is not None
    assert served.transport._lanes == {}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_leaves_at_once_costs_no_more_than_its_lane(run: Any) -> None:
    """It has the key, says a word and resets the connection while our loop is busy: nothing is logged, nothing stays."""
    logged: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        ends = Side()
        listener = LaneListener(ends, lambda: 0)
        await listener.start("127.0.0.1")
        assert listener.offer is not None
        with socket.create_connection(("127.0.0.1", listener.offer.port)) as peer:
            peer.sendall(MAGIC + listener.offer.key)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await (await ends.recorder(0)).until_closed() is not None
        assert listener.connections_count == 0
        await listener.close()

    run(main())
    assert logged == []


async def test_who_was_accepted_as_the_listener_closed_is_not_admitted() -> None:
    """The loop tells of it one turn later; it has the key, and whoever served is gone."""
    ends = Side()
    listener = LaneListener(ends, lambda: 0)
    await listener.start("127.0.0.1")
    doorman = lane._Doorman(listener, bytes(KEY_SIZE_BYTES))
    await listener.close()
    knocking = CutSocket()

    doorman.connection_made(knocking)

    assert knocking.is_cut
    doorman.connection_lost(None)
    assert listener.connections_count == 0


# Pieces


class FakeSocket(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class CutSocket(FakeSocket):
    """Remembers that it was cut."""

    is_cut = False

    def abort(self) -> None:
        self.is_cut = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def setsockopt(self, *option: int) -> None:
        pass


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(0, 2**32))
def test_frames_are_the_same_however_the_network_cuts_them(frames: list[bytes], seed: int) -> None:
    """One byte at a time, or all of them at once; in order, each once, then the end."""

    async def main() -> None:
        rng, written = random.Random(seed), FakeSocket()
        sender = LaneConnection(written, "there", is_accepted=False)
        sender.start(Recorder(sender))
        for frame in frames:
            sender.send(frame)
        await asyncio.sleep(0)
        sender.close()
        receiver = LaneConnection(FakeSocket(), "here", is_accepted=True)
        recorder = Recorder(receiver)
        receiver.start(recorder)
        left = written.written
        while left:
            cut = rng.choice([1, 2, 3, 7, 50, 1_000])
            receiver.data_received(left[:cut])
            left = left[cut:]
        assert recorder.frames == frames
        await asyncio.sleep(0)
        assert recorder.closings == [None]

    asyncio.run(main())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2_000))
def test_no_bytes_do_more_than_end_the_lane(data: bytes) -> None:
    """Whatever a peer sends, the handler gets frames, and then the end at most once."""

    async def main() -> None:
        connection = LaneConnection(FakeSocket(), "here", is_accepted=True)
        recorder = Recorder(connection)
        connection.start(recorder)
        connection.data_received(data)
        await asyncio.sleep(0)
        assert sum(map(len, recorder.frames)) <= len(data)
        assert len(recorder.closings) <= 1

    asyncio.run(main())
