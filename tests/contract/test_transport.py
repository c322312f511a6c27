"""What every `Transport` promises, asked of the real one (loopback; gRPC and direct lanes) and its twins (memory, simulated).

In one sentence: frames arrive whole, in order and once, until the connection ends; and its end is told to each side
exactly once, after which no frame arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kvstore.env import Accept, Connection, FrameHandler
from kvstore.errors import ConfigError, InternalError, Unavailable, ValueTooLarge
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX, FRAME_SIZE_BYTES_MAX
from tests.support.transports import DirectWorld, GrpcWorld, MemoryWorld, Recorder, Side, SimWorld, World, echo

MIB = 1024 * 1024


@pytest.fixture(params=[GrpcWorld, DirectWorld, MemoryWorld, SimWorld], ids=["grpc", "direct", "memory", "sim"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """One implementation; whatever it leaves running is a failure of the test."""
    before = asyncio.all_tasks()
    world: World = request.param()
    yield world
    await world.close()
    leftovers = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leftovers:
        await asyncio.wait(leftovers, timeout=5)  # what is on its way out may finish
    assert [task for task in leftovers if not task.done()] == []


class Pair:
    """A connected client and server end."""

    def __init__(self, listener: Any, client: Recorder, server: Recorder) -> None:
        self.listener, self.client, self.server = listener, client, server


@pytest.fixture
async def pair(world: World) -> AsyncIterator[Pair]:
    ends, starts = Side(), Side()
    listener = await world.server.serve(world.address, ends)
    await world.client.connect(listener.address, starts, timeout_s=5)
    yield Pair(listener, starts.recorders[0], await ends.recorder(0))
    await listener.close()


# Frames


async def test_frames_arrive_in_the_order_they_were_sent(pair: Pair) -> None:
    """2,000 small frames, both ways at once: none is lost, doubled, merged or overtaken."""
    ours = [b"c%d" % number for number in range(2_000)]
    theirs = [b"s%d" % number for number in range(2_000)]

    for request, reply in zip(ours, theirs, strict=True):
        pair.client.connection.send(request)
        pair.server.connection.send(reply)

    assert await pair.server.until_frames(2_000) == ours
    assert await pair.client.until_frames(2_000) == theirs


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2 * MIB, FRAME_SIZE_BYTES_MAX])
async def test_a_frame_of_any_allowed_size_arrives_whole(pair: Pair, size: int) -> None:
    """From empty to FRAME_SIZE_BYTES_MAX; the sizes are where the envelope changes its form."""
    frame = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    pair.client.connection.send(frame)
    pair.client.connection.send(b"next")

    assert await pair.server.until_frames(2) == [frame, b"next"]


async def test_an_oversize_frame_is_refused_by_send(pair: Pair) -> None:
    """The error carries both sizes, nothing was sent, and the connection goes on."""
    with pytest.raises(ValueTooLarge) as caught:
        pair.client.connection.send(b"x" * (FRAME_SIZE_BYTES_MAX + 1))

    pair.client.connection.send(b"fine")

    assert caught.value.details == {"size_bytes": FRAME_SIZE_BYTES_MAX + 1, "limit_bytes": FRAME_SIZE_BYTES_MAX}
    assert await pair.server.until_frames(1) == [b"fine"]
    assert pair.client.closings == []


async def test_frames_sent_while_accepting_arrive(world: World) -> None:
    """Either side may speak from inside `accept`, before the other has its handler: a greeting needs no round trip."""
    ends, starts = Side(), Side()

    def greet(side: Side, greeting: bytes) -> Accept:
        def accept(connection: Connection) -> FrameHandler:
            connection.send(greeting)
            return side(connection)

        return accept

    listener = await world.server.serve(world.address, greet(ends, b"hello from the server"))
    await world.client.connect(listener.address, greet(starts, b"hello from the client"), timeout_s=5)

    assert await starts.recorders[0].until_frames(1) == [b"hello from the server"]
    assert await (await ends.recorder(0)).until_frames(1) == [b"hello from the client"]
    await listener.close()


async def test_two_connections_are_independent(world: World) -> None:
    """Between the same two hosts: each has its own order, and its own end."""
    ends, starts = Side(echo), Side()
    listener = await world.server.serve(world.address, ends)
    first = await world.client.connect(listener.address, starts, timeout_s=5)
    second = await world.client.connect(listener.address, starts, timeout_s=5)

    first.close(ValueError("done with it"))
    await starts.recorders[0].until_closed()
    second.send(b"still here")

    assert await starts.recorders[1].until_frames(1) == [b"still here"]
    assert starts.recorders[1].closings == []
    await listener.close()


# The end


@pytest.mark.parametrize("closer", ["client", "server"])
async def test_an_orderly_close_is_told_to_both_sides_without_an_error(pair: Pair, closer: str) -> None:
    """Each side hears of it exactly once; closing again, or from the other side, changes nothing."""
    end = pair.client if closer == "client" else pair.server

    end.connection.close()
    end.connection.close(ValueError("too late"))

    assert await pair.client.until_closed() is None
    assert await pair.server.until_closed() is None
    pair.client.connection.close()
    pair.server.connection.close()
    await pair.listener.close()
    assert pair.client.closings == pair.server.closings == [None]


@pytest.mark.parametrize("closer", ["client", "server"])
async def test_a_close_with_an_error_is_an_error_on_both_sides(pair: Pair, closer: str) -> None:
    """The closing side gets its own error back, the other one learns that the connection was lost."""
    ours, theirs = (pair.client, pair.server) if closer == "client" else (pair.server, pair.client)
    reason = ValueError("no more of this")

    ours.connection.close(reason)

    assert await ours.until_closed() is reason
    assert isinstance(await theirs.until_closed(), ConnectionResetError)
    await pair.listener.close()
    assert len(ours.closings) == len(theirs.closings) == 1


async def test_connection_closed_is_never_called_from_inside_close(pair: Pair) -> None:
    """A caller of `close` needs not be ready for a callback before it returns."""
    pair.client.connection.close()

    assert pair.client.closings == []
    assert await pair.client.until_closed() is None


@pytest.mark.parametrize("error", [None, ValueError("enough")], ids=["orderly", "error"])
async def test_frames_under_way_at_the_end_may_be_lost_but_only_from_the_back(
    pair: Pair, error: Exception | None
) -> None:
    """What arrives of them is a prefix, then the end, then nothing (the recorder would fail)."""
    frames = [b"%d" % number for number in range(2_000)]
    for frame in frames:
        pair.client.connection.send(frame)
        pair.server.connection.send(frame)
    await pair.server.until_frames(10)

    pair.client.connection.close(error)
    pair.client.connection.send(b"after the end")

    await pair.client.until_closed()
    await pair.server.until_closed()
    assert pair.client.frames == frames[: len(pair.client.frames)]
    assert pair.server.frames == frames[: len(pair.server.frames)]
    assert pair.client.connection.backlog_bytes == 0


async def test_a_side_may_close_from_inside_frame_received(world: World) -> None:
    """The frame that made it close is the last one it gets, however many follow."""
    ends, starts = Side(lambda recorder, frame: recorder.connection.close()), Side()
    listener = await world.server.serve(world.address, ends)
    connection = await world.client.connect(listener.address, starts, timeout_s=5)

    for _ in range(100):
        connection.send(b"one is enough")

    server = await ends.recorder(0)
    assert await server.until_closed() is None
    assert len(server.frames) == 1
    await starts.recorders[0].until_closed()
    await listener.close()


async def test_a_side_may_close_from_inside_accept(world: World) -> None:
    """A server that is full, for instance. The client is refused, or connected and then told the end."""

    def refuse(connection: Connection) -> FrameHandler:
        connection.close()
        refused.append(Recorder(connection))
        return refused[0]

    refused: list[Recorder] = []
    starts = Side()
    listener = await world.server.serve(world.address, refuse)
    await connect_and_be_ended(world, listener.address, starts)

    assert await refused[0].until_closed() is None
    await listener.close()


async def connect_and_be_ended(world: World, address: str, starts: Side) -> None:
    """Both are right, because acceptance and end may arrive at the same moment."""
    try:
        await world.client.connect(address, starts, timeout_s=5)
    except Unavailable:
        assert starts.recorders == []
    else:
        await starts.recorders[0].until_closed()


async def test_a_handler_that_raises_costs_its_connection_and_is_seen(world: World) -> None:
    """The bug reaches the loop's exception handler and the handler's `connection_closed`; others are not harmed."""
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))

    def stumble(recorder: Recorder, frame: bytes) -> None:
        if frame == b"boom":
            raise ZeroDivisionError("a bug in a handler")
        echo(recorder, frame)

    ends, starts = Side(stumble), Side()
    listener = await world.server.serve(world.address, ends)
    bad = await world.client.connect(listener.address, starts, timeout_s=5)
    good = await world.client.connect(listener.address, starts, timeout_s=5)

    bad.send(b"boom")
    error = await (await ends.recorder(0)).until_closed()
    good.send(b"fine")

    assert isinstance(error, InternalError)
    assert [type(bug) for bug in seen] == [ZeroDivisionError]
    assert isinstance(await starts.recorders[0].until_closed(), ConnectionResetError)
    assert await starts.recorders[1].until_frames(1) == [b"fine"]
    await listener.close()


async def test_an_accept_that_raises_costs_one_connection_and_is_seen(world: World) -> None:
    """The listener goes on."""
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))
    ends, starts = Side(echo), Side()

    def stumble_once(connection: Connection) -> FrameHandler:
        if not seen:
            raise ZeroDivisionError("a bug in accept")
        return ends(connection)

    listener = await world.server.serve(world.address, stumble_once)
    await connect_and_be_ended(world, listener.address, starts)
    second = await world.client.connect(listener.address, starts, timeout_s=5)
    second.send(b"fine")

    assert [type(bug) for bug in seen] == [ZeroDivisionError]
    assert await starts.recorders[-1].until_frames(1) == [b"fine"]
    await listener.close()


# Connecting and listening


async def test_connecting_where_nobody_listens_is_refused_at_once(world: World) -> None:
    """`Unavailable`, definite, and long before the timeout; `accept` is not called."""
    starts = Side()

    async with asyncio.timeout(5):
        with pytest.raises(Unavailable) as caught:
            await world.client.connect(world.refusing_address(), starts, timeout_s=60)

    assert caught.value.definite
    assert starts.recorders == []


async def test_connecting_to_a_host_that_never_answers_fails_at_the_timeout(world: World) -> None:
    """Packets vanish, or the listener accepts and is silent: `Unavailable` with the timeout."""
    starts = Side()

    async with world.silent_address() as address:
        with pytest.raises(Unavailable) as caught:
            await world.client.connect(address, starts, timeout_s=0.1)

    assert caught.value.details == {"timeout_s": 0.1}
    assert starts.recorders == []


async def test_a_cancelled_connect_leaves_nothing_behind(world: World) -> None:
    """The fixture fails if a task stays; `accept` is not called."""
    starts = Side()

    async with world.silent_address() as address:
        connecting = asyncio.create_task(world.client.connect(address, starts, timeout_s=60))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    assert starts.recorders == []


async def test_closing_the_listener_ends_its_connections_and_frees_the_address(world: World) -> None:
    """Within a second: every accepted connection is closed, new ones are refused, the address can be served again."""
    ends, starts = Side(), Side(echo)
    listener = await world.server.serve(world.address, ends)
    for _ in range(3):
        await world.client.connect(listener.address, starts, timeout_s=5)
    servers = [await ends.recorder(index) for index in range(3)]

    async with asyncio.timeout(1):
        await listener.close()

    assert [server.closings for server in servers] == [[None]] * 3
    for client in starts.recorders:
        assert await client.until_closed() is None
    with pytest.raises(Unavailable):
        await world.client.connect(listener.address, starts, timeout_s=5)
    again = await world.server.serve(listener.address, ends)
    assert again.address == listener.address
    await again.close()


async def test_an_address_is_served_by_one_listener_only(world: World) -> None:
    """Two nodes that shared a port would each get some of the connections, and nobody would know."""
    listener = await world.server.serve(world.address, Side())

    with pytest.raises(ConfigError, match="in use"):
        await world.server.serve(listener.address, Side())

    await listener.close()


async def test_port_zero_gives_an_address_of_its_own(world: World) -> None:
    """The listener knows the port it really got."""
    first = await world.server.serve(world.address, Side())
    second = await world.server.serve(world.address, Side())

    assert first.address != second.address
    assert not first.address.endswith(":0")
    await first.close()
    await second.close()


@pytest.mark.parametrize("address", ["nonsense", "host:", ":", "host:port"])
async def test_an_address_without_host_or_port_is_a_config_error(world: World, address: str) -> None:
    """Said at once, with the form that is wanted."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        await world.server.serve(address, Side())


# Backpressure


async def test_the_backlog_counts_bytes_until_they_are_handed_on(pair: Pair) -> None:
    """It grows with every `send` and is zero again when all arrived."""
    for _ in range(10):
        pair.client.connection.send(b"x" * 1_000)
    high = pair.client.connection.backlog_bytes

    await pair.server.until_frames(10)
    pair.server.connection.send(b"a round trip later the last write has returned")
    await pair.client.until_frames(1)

    assert high == 10_000
    assert pair.client.connection.backlog_bytes == 0


async def test_a_peer_that_takes_no_answers_is_no_longer_listened_to(world: World) -> None:
    """Its requests, each answered with 1 MiB, are read until the backlog passes its bound, and again when it is taken.

    Observable: how many requests the server has read, and that its backlog never exceeds the bound by more than the
    answer that crossed it. Meanwhile other connections are served.
    """
    highest = 0

    def answer(recorder: Recorder, frame: bytes) -> None:
        nonlocal highest
        recorder.connection.send(frame)
        highest = max(highest, recorder.connection.backlog_bytes)

    ends, starts = Side(answer), Side()
    listener = await world.server.serve(world.address, ends)
    async with world.stubborn_peer(listener.address) as stubborn:
        await stubborn.flood([b"x" * MIB] * 40)
        flooded = await ends.recorder(0)
        await flooded.until(lambda: flooded.connection.backlog_bytes > CONNECTION_BACKLOG_BYTES_MAX)
        read_when_full = len(flooded.frames)

        other = await world.client.connect(listener.address, starts, timeout_s=5)
        for number in range(50):
            other.send(b"x")
            await starts.recorders[0].until_frames(number + 1)
        assert len(flooded.frames) == read_when_full < 40

        await stubborn.take(40)
        assert len(flooded.frames) == 40
    assert highest <= CONNECTION_BACKLOG_BYTES_MAX + MIB
    await listener.close()


async def test_two_sides_that_flood_each_other_do_not_wait_for_each_other(pair: Pair) -> None:
    """Far more than the bound in both directions at once: only the accepting side pauses, so there is no deadlock."""
    count = 2 * CONNECTION_BACKLOG_BYTES_MAX // MIB
    for _ in range(count):
        pair.client.connection.send(b"c" * MIB)
        pair.server.connection.send(b"s" * MIB)

    await pair.client.until_frames(count)
    await pair.server.until_frames(count)
