"""Direct lanes: TCP connections that carry frames without gRPC in between, for those whom gRPC has introduced.

    client ── Exchange, "is there a lane?" ──► node          over gRPC, at the one address that everybody knows
           ◄── port and key ──
           ── TCP: MAGIC key ──► the node's lane listener
           ◄── MAGIC key ──      frames from here on (lane_connection.py)

A message costs gRPC in Python about 75 us at each end and two changes of thread; a lane about a tenth. Who cannot reach the port
(a firewall, a tunnel, a container that publishes one port) stays with gRPC. The key is random for every listener: behind a
tunnel the port may be somebody else's, and who does not know the key is not ours.

The key keeps nothing from attackers: it is there to find out who one is talking to; HELLO admits peers as it does over gRPC.
"""

from __future__ import annotations

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, cast

from kvstore.env import Accept
from kvstore.errors import DecodeError, Unavailable
from kvstore.limits import CONNECTIONS_COUNT_MAX, GREETING_TIMEOUT_S
from kvstore.transport.lane_connection import LaneConnection
from kvstore.transport.rules import report_bug

__all__ = ["LANE_S_MAX", "LaneListener", "LaneOffer", "open_lane"]

MAGIC = b"kvlane1\n"
KEY_SIZE_BYTES = 16
GREETING_SIZE_BYTES = len(MAGIC) + KEY_SIZE_BYTES
LANE_S_MAX = 0.5
"""How long a lane may take to open before gRPC is used instead."""
WRITE_BUFFER_BYTES_MAX = 256 * 1024
"""What the socket's transport takes before it says that it is full; `backlog_bytes` counts from there."""
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 1
"""A peer whose machine vanished without a word is noticed after 15 s, as over gRPC."""


class LaneOffer(NamedTuple):
    """Where a node's lanes begin."""

    port: int
    key: bytes

    def encode(self) -> str:
        """Return it as a value of gRPC metadata."""
        return f"{self.port} {self.key.hex()}"

    @staticmethod
    def decode(text: str) -> LaneOffer:
        """Raise `DecodeError` for what is none."""
        port, _, key = text.partition(" ")
        try:
            offer = LaneOffer(int(port.encode("ascii")), bytes.fromhex(key))
        except ValueError:
            raise DecodeError("not an offer of a lane") from None
        if not 0 < offer.port < 65_536 or len(offer.key) != KEY_SIZE_BYTES:
            raise DecodeError("not an offer of a lane", port=offer.port)
        return offer


async def open_lane(host: str, offer: LaneOffer, peer: str, accept: Accept, *, timeout_s: float) -> LaneConnection:
    """Connect within `timeout_s`, LANE_S_MAX at most, or raise `Unavailable`; nothing is left behind then."""
    loop = asyncio.get_running_loop()
    greeting: asyncio.Future[LaneConnection] = loop.create_future()
    greeters: list[_Greeter] = []
    opened: LaneConnection | None = None

    def greeter() -> _Greeter:
        greeters.append(_Greeter(offer.key, greeting, peer, accept))
        return greeters[-1]

    try:
        async with asyncio.timeout(min(timeout_s, LANE_S_MAX)):
            await loop.create_connection(greeter, host, offer.port)
            opened = await greeting
    except (OSError, TimeoutError) as problem:
        opened = _maybe_result(greeting)  # after a stall of this loop, answer and timeout come in the same turn
        if opened is None:
            raise Unavailable(f"no lane to {peer}: {problem or 'no answer'}") from None
    finally:
        for each in greeters:
            if opened is None and each.transport is not None:
                each.transport.abort()
    return opened


def _maybe_result(greeting: asyncio.Future[LaneConnection]) -> LaneConnection | None:
    is_greeted = greeting.done() and not greeting.cancelled() and greeting.exception() is None
    return greeting.result() if is_greeted else None


class _Greeting(asyncio.Protocol, ABC):
    """The first bytes of either side: all of them are `expected`, or the connection is cut."""

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._arrived = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        _prepare(self.transport)

    def data_received(self, data: bytes) -> None:
        """Compare what has come so far."""
        assert self.transport is not None
        self._arrived += data
        length = len(self._expected)
        if self._arrived[:length] != self._expected[: len(self._arrived)]:
            self.transport.abort()
        elif len(self._arrived) >= length:
            self.greeted(self.transport, self._arrived[length:])

    @abstractmethod
    def greeted(self, transport: asyncio.Transport, rest: bytes) -> None:
        """The peer is who it should be; `rest` came behind its greeting."""


class _Greeter(_Greeting):
    """The connecting side."""

    def __init__(self, key: bytes, done: asyncio.Future[LaneConnection], peer: str, accept: Accept) -> None:
        super().__init__(MAGIC + key)
        self._done, self._peer, self._accept = done, peer, accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.write(self._expected)

    def greeted(self, transport: asyncio.Transport, rest: bytes) -> None:
        if self._done.done():
            transport.abort()
            return
        connection = LaneConnection(transport, self._peer, is_accepted=False)
        transport.set_protocol(connection)
        try:
            handler = self._accept(connection)
        except Exception as bug:  # the task boundary: it belongs to whoever connects, as over gRPC
            connection.close(ConnectionAbortedError("there is no handler"))
            self._done.set_exception(bug)
            return
        self._done.set_result(connection)
        connection.start(handler, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Refused, or not a lane."""
        if not self._done.done():
            self._done.set_exception(ConnectionResetError(f"it hung up: {exc or 'no word'}"))


class _Doorman(_Greeting):
    """The accepting side, until the peer gave the key."""

    def __init__(self, listener: LaneListener, key: bytes) -> None:
        super().__init__(MAGIC + key)
        self._listener = listener
        self._due = asyncio.get_running_loop().call_later(GREETING_TIMEOUT_S, self._too_late)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.knocked(self)

    def greeted(self, transport: asyncio.Transport, rest: bytes) -> None:
        self._due.cancel()
        transport.write(self._expected)
        self._listener.admitted(self, transport, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left, or was cut."""
        self._due.cancel()
        self._listener.left(self)

    def _too_late(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class LaneListener:
    """Where the lanes of one served address begin. `others_count`: connections that count against the same bound."""

    def __init__(self, accept: Accept, others_count: Callable[[], int]) -> None:
        self._accept, self._others_count = accept, others_count
        self._key = os.urandom(KEY_SIZE_BYTES)
        self._doormen: dict[_Doorman, None] = {}
        self._connections: dict[LaneConnection, None] = {}
        self._server: asyncio.Server | None = None
        self.offer: LaneOffer | None = None
        """None before `start` and after `close`."""

    @property
    def connections_count(self) -> int:
        """Open lanes, those not greeted yet included."""
        return len(self._connections) + len(self._doormen)

    async def start(self, host: str, port: int = 0) -> None:
        """Listen. Raises OSError: the port cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Doorman(self, self._key), host, port)
        self.offer = LaneOffer(self._server.sockets[0].getsockname()[1], self._key)

    async def close(self) -> None:
        """Stop accepting, end every lane, and wait until nothing of them is left (LINGER_S at most)."""
        self.offer = None
        if self._server is not None:
            self._server.close()
        for doorman in list(self._doormen):
            if doorman.transport is not None:
                doorman.transport.abort()
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.finished for connection in connections))

    def knocked(self, doorman: _Doorman) -> None:
        """Somebody connected who has not said anything yet."""
        self._doormen[doorman] = None
        # The loop may have accepted before `close` and tell only now.
        if self.offer is None or self.connections_count + self._others_count() > CONNECTIONS_COUNT_MAX:
            doorman._too_late()

    def left(self, doorman: _Doorman) -> None:
        """It is gone without having been admitted."""
        self._doormen.pop(doorman, None)

    def admitted(self, doorman: _Doorman, transport: asyncio.Transport, rest: bytes) -> None:
        """It gave the key."""
        self._doormen.pop(doorman, None)
        connection = LaneConnection(transport, _peer_of(transport), is_accepted=True)
        transport.set_protocol(connection)
        self._connections[connection] = None
        connection.finished.add_done_callback(lambda _: self._connections.pop(connection, None))
        try:
            handler = self._accept(connection)
        except Exception as bug:  # the task boundary: one connection must not cost the listener
            connection.close(report_bug(connection.peer, bug))
            return
        connection.start(handler, rest)


def _peer_of(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    if name is None:  # it left before uvloop asked for its name; what it sent is there all the same
        return "a peer that has left"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _prepare(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
    found = transport.get_extra_info("socket")
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 1_000 * (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S)),
    ):
        if hasattr(socket, name):
            found.setsockopt(level, getattr(socket, name), value)
