"""The answering side of a connection: who may speak, what is whole, and how a stranger is sent away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvstore.errors import (
    ClusterMismatch,
    DecodeError,
    KVStoreError,
    NotReady,
    ProtocolMismatch,
    error_from_wire,
)
from kvstore.limits import CHUNK_SIZE_BYTES_MAX, FRAME_SIZE_BYTES_MAX, REASSEMBLY_BYTES_MAX
from kvstore.messages import PROTOCOL_VERSION, Status, Verb
from kvstore.transport.chunks import Reassembly
from kvstore.transport.frames import FrameKind, Hello, decode_frame, encode_frame, hello_fields, hello_from
from kvstore.transport.session import REFUSED_LINGER_S, Session
from tests.transport.peers import HELLO, ScriptedService, run

GREETING = encode_frame(hello_fields(Hello(cluster_id=b"c" * 16, node_id=b"client-1")))


class FakeConnection:
    """Remembers what was sent through it."""

    peer = "test:1"
    backlog_bytes = 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed_with: list[Exception | None] = []

    def send(self, frame: bytes) -> None:
        if not self.closed_with:
            self.sent.append(frame)

    def close(self, error: Exception | None = None) -> None:
        self.closed_with.append(error)

    @property
    def fields(self) -> list[list[Any]]:
        return [decode_frame(frame) for frame in self.sent]


class Fixture:
    """A session with its connection and service; made inside the loop."""

    def __init__(self) -> None:
        self.connection, self.service = FakeConnection(), ScriptedService()
        self.session = Session(self.connection, self.service)

    def receive(self, fields: list[Any]) -> None:
        self.session.frame_received(encode_frame(fields))

    def greet(self) -> None:
        self.session.frame_received(GREETING)

    def refusal(self) -> KVStoreError:
        """Return the error of the refusal that must be the last thing sent."""
        kind, error = self.connection.fields[-1]
        assert kind == FrameKind.REFUSED
        return error_from_wire(error)


def request(operation_id: int, key: bytes, body: bytes = b"", verb: int = Verb.GET) -> list[Any]:
    return [operation_id, int(verb), 1, 900, key, body]


def sessions(test: Callable[[Fixture], Any]) -> None:
    """Run a test with a new fixture on virtual time."""

    async def main() -> None:
        await test(Fixture())

    run(main)


def test_an_admitted_peer_is_welcomed_and_answered() -> None:
    """HELLO for HELLO, then replies under the newest topology epoch."""

    async def test(f: Fixture) -> None:
        f.greet()
        f.service.epoch = 4
        f.receive([1, 0, *request(10, b"echo", b"one"), *request(11, b"error")])
        await asyncio.sleep(0.01)

        welcome, replies = f.connection.fields
        assert hello_from(welcome) == HELLO
        assert replies[:5] == [2, 4, 10, Status.OK, b"one"]
        assert replies[5:7] == [11, Status.ERROR]
        assert error_from_wire(replies[7]).code == "not_found"
        assert f.session.hello is not None
        assert f.session.hello.node_id == b"client-1"

    sessions(test)


@pytest.mark.parametrize("is_greeted", [False, True], ids=["before HELLO", "before the welcome"])
def test_requests_before_the_welcome_are_refused(is_greeted: bool) -> None:
    """Nobody is served before it was admitted; the service never sees the operations."""

    async def test(f: Fixture) -> None:
        f.service.is_mute = True
        if is_greeted:
            f.greet()
        f.receive([1, 0, *request(10, b"echo")])

        assert type(f.refusal()) is DecodeError
        assert f.service.handled == []

    sessions(test)


@pytest.mark.parametrize(
    "frame",
    [
        b"garbage",
        b"",
        encode_frame([9, 1]),
        encode_frame([2, 7, 10, 0, b"a reply"]),
        encode_frame([3, b"a refusal"]),
        bytes(FRAME_SIZE_BYTES_MAX + 1),
        GREETING,
        encode_frame([1, 2, 3]),
        encode_frame([1, 0, *request(10, b"echo"), *request(11, b"echo")[:-1], "text"]),
    ],
    ids=["garbage", "nothing", "unknown kind", "replies", "a refusal", "too large", "a second hello", "short", "text"],
)
def test_a_frame_that_does_not_belong_ends_the_connection_with_a_typed_refusal(frame: bytes) -> None:
    """And nothing of it was handled, not even the good operations in front of the bad one."""

    async def test(f: Fixture) -> None:
        f.greet()
        f.session.frame_received(frame)

        assert type(f.refusal()) is DecodeError
        assert f.service.handled == []

    sessions(test)


@pytest.mark.parametrize(("low", "high"), [(PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 3), (0, PROTOCOL_VERSION - 1)])
def test_a_peer_without_a_common_protocol_is_refused(low: int, high: int) -> None:
    """The message names both sides' versions; the service is not asked."""

    async def test(f: Fixture) -> None:
        f.receive(hello_fields(Hello(protocol_min=low, protocol_max=high)))

        refusal = f.refusal()
        assert type(refusal) is ProtocolMismatch
        assert f"{low}..{high}" in refusal.message
        assert f.service.sessions == []

    sessions(test)


def test_a_peer_that_speaks_newer_versions_too_is_admitted() -> None:
    """Rolling upgrades: the ranges need only overlap."""

    async def test(f: Fixture) -> None:
        f.receive(hello_fields(Hello(protocol_min=PROTOCOL_VERSION, protocol_max=PROTOCOL_VERSION + 5)))

        assert hello_from(f.connection.fields[0]) == HELLO

    sessions(test)


def test_a_refused_peer_has_time_to_read_why() -> None:
    """`Connection.close` may drop what is queued, so it comes a second later; meanwhile the peer is not heard."""

    async def test(f: Fixture) -> None:
        f.service.refusal = ClusterMismatch("another cluster")
        f.greet()
        assert type(f.refusal()) is ClusterMismatch
        assert f.connection.closed_with == []

        f.greet()
        f.receive([1, 0, *request(10, b"echo")])
        await asyncio.sleep(REFUSED_LINGER_S + 0.1)

        assert len(f.connection.sent) == 1
        assert f.service.handled == []
        assert [type(error) for error in f.connection.closed_with] == [ClusterMismatch]

    sessions(test)


def test_a_welcome_that_comes_too_late_has_no_effect() -> None:
    """The service may decide later; by then a bad frame may have had the peer refused."""

    async def test(f: Fixture) -> None:
        f.service.is_mute = True
        f.greet()
        f.receive([1, 0, *request(10, b"echo")])

        f.session.welcome(HELLO)
        f.receive([1, 0, *request(11, b"echo")])

        assert [fields[0] for fields in f.connection.fields] == [FrameKind.REFUSED]
        assert f.service.handled == []

    sessions(test)


def test_a_large_reply_travels_in_chunks() -> None:
    """Every frame fits the wire; PARTs come before the final reply of the same id."""

    async def test(f: Fixture) -> None:
        body = bytes(range(256)) * (14 * 1024) + b"end"
        f.greet()
        f.session.reply(10, Status.OK, body)
        await asyncio.sleep(0.01)

        reassembly, replies = Reassembly(), []
        assert all(len(frame) <= FRAME_SIZE_BYTES_MAX for frame in f.connection.sent)
        for fields in f.connection.fields[1:]:
            replies += list(zip(fields[2::3], fields[3::3], fields[4::3], strict=True))
        for operation_id, status, chunk in replies[:-1]:
            assert status == Status.PART
            reassembly.add(operation_id, chunk)
        assert replies[-1][:2] == (10, Status.OK)
        assert reassembly.take(10, replies[-1][2]) == body

    sessions(test)


def test_a_large_request_is_handed_over_whole() -> None:
    """PARTs may lie in several frames and between other operations; the service sees whole operations in order."""

    async def test(f: Fixture) -> None:
        chunk = b"x" * CHUNK_SIZE_BYTES_MAX
        f.greet()
        f.receive([1, 0, *request(10, b"", chunk, Verb.PART), *request(11, b"silent", b"small")])
        f.receive([1, 0, *request(10, b"", chunk, Verb.PART)])
        f.receive([1, 0, *request(10, b"silent", b"end"), *request(12, b"silent")])

        assert [r[0] for r in f.service.handled] == [11, 10, 12]
        assert f.service.handled[1][5] == chunk + chunk + b"end"

    sessions(test)


def test_unfinished_chunks_beyond_the_bound_end_the_connection() -> None:
    """A peer cannot make us hold more than REASSEMBLY_BYTES_MAX."""

    async def test(f: Fixture) -> None:
        frame = encode_frame([1, 0, *request(10, b"", bytes(3 * CHUNK_SIZE_BYTES_MAX), Verb.PART)])
        f.greet()
        for _ in range(REASSEMBLY_BYTES_MAX // (3 * CHUNK_SIZE_BYTES_MAX)):
            f.session.frame_received(frame)
        assert type(f.refusal()) is DecodeError

    sessions(test)


def test_closing_sends_what_is_queued() -> None:
    """As far as the transport still takes it."""

    async def test(f: Fixture) -> None:
        f.greet()
        f.session.reply(10, Status.OK, b"last words")
        f.session.close(NotReady("draining"))

        assert f.connection.fields[-1] == [2, 3, 10, Status.OK, b"last words"]
        assert [type(error) for error in f.connection.closed_with] == [NotReady]

    sessions(test)


def test_the_service_hears_of_the_end_and_late_replies_are_dropped() -> None:
    """Replies may still be on their way from the disk when the peer is gone."""

    async def test(f: Fixture) -> None:
        f.greet()
        f.connection.close(None)
        f.session.connection_closed(None)
        f.session.reply(10, Status.OK, b"too late")
        await asyncio.sleep(0.01)

        assert f.service.closed_count == 1
        assert len(f.connection.sent) == 1

    sessions(test)
