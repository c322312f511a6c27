"""`Transport` over gRPC: one channel and one bidirectional `Exchange` stream per connection, one server per listener.

    connect ── channel ── Exchange ──► initial metadata from the server = accepted ── handler attached ── frames
                                   └─► an offer in it ── the channel ends ── a direct lane (lane.py) ── frames
    serve   ── grpc.aio.server ── FramesServicer + grpc.health.v1 ──► one GrpcConnection per Exchange
            └─ lane listener ──► one LaneConnection per lane

How a connection ends, and what each side is told by `connection_closed`:

    | who ends it                      | that side | the other side                    |
    |----------------------------------|-----------|-----------------------------------|
    | client close()                   | None      | None (half-close)                 |
    | server close()                   | None      | None (status OK)                  |
    | either close(error)              | error     | ConnectionResetError              |
    | process, machine or network dies | -         | ConnectionResetError (keepalive: within 15 s) |

Invariants
  1. A misbehaving peer costs its own connection only: nothing of it is logged as an exception, the listener goes on.
  2. `connect` leaves nothing behind when it raises or is cancelled.
  3. Every task belongs to a connection and every connection to its transport or listener, whose `close` waits for them.

Not supported: `fork` after gRPC was first used in the process (its threads do not survive; start a new process), and
two event loops in one process where the first one to use gRPC is blocked or gone: grpc.aio delivers events of all loops
through the one that used it first.

Types: grpcio ships none; grpc-stubs does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote

from kvstore.transport import grpc_loader  # noqa: F401  # before gRPC itself

# isort: split
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from kvstore.env import Accept, Connection
from kvstore.errors import ConfigError, DecodeError, Unavailable
from kvstore.limits import CONNECTIONS_COUNT_MAX, GREETING_TIMEOUT_S
from kvstore.transport.grpc_connection import EOF, GrpcConnection
from kvstore.transport.grpc_options import (
    KEEPALIVE,
    Keepalive,
    client_options,
    server_options,
)
from kvstore.transport.lane import LaneListener, LaneOffer, open_lane
from kvstore.transport.lane_connection import LaneConnection
from kvstore.transport.rules import report_bug
from kvstore.v1 import frames_pb2

__all__ = ["EOF", "SERVICE_NAME", "GrpcListener", "GrpcTransport", "Services"]

SERVICE_NAME: str = frames_pb2.DESCRIPTOR.services_by_name["Frames"].full_name
METHOD_PATH = f"/{SERVICE_NAME}/Exchange"
MARK = "kvstore-frames"
"""Key in the initial metadata that says "accepted". Without a mark of ours, a refusal could be taken for an acceptance:
its metadata arrives one event before its status."""
LINGER_S = 0.5
"""How long an orderly end may take to reach the peer before the stream is cut."""
WANTS_LANE = (("kvstore-wants", "lane"),)
"""Metadata of a client that takes a direct lane if there is one; whoever does not know it answers as always."""
LANE = "kvstore-lane"
"""Key in the initial metadata that offers one: the stream ends then, and nothing was accepted on it."""
NO_LANE_S = 60.0
"""How long an address whose lane could not be reached is not asked for one again."""
DETAILS_LENGTH_MAX = 200
"""Characters of an error that a peer is told in the status of a stream; headers are bounded."""


class Services(Protocol):
    """What a listener serves beside frames and health."""

    @property
    def options(self) -> Sequence[tuple[str, int]]:
        """Options of gRPC that the services need; they win over those of the listener."""

    def add_to(self, server: Any) -> Sequence[str]:
        """Add the services to a server that has not started, and return their names."""


class _ClientStream:
    """The connecting half of an Exchange: owns its channel."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.read = call.read
        self.write = call.write
        self._linger: asyncio.TimerHandle | None = None

    def end(self, error: Exception | None) -> None:
        if error is not None:
            self._call.cancel()
        else:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._call.cancel)

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def confirm_end(self) -> None:
        """Nothing to do: `read` gives EOF for the status OK only and raises for all others."""

    def release(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._call.cancel()


class _ServerStream:
    """The accepting half of an Exchange: lives as long as the RPC's handler, which `ended` lets return."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.read = context.read
        self.write = context.write
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, error: Exception | None) -> None:
        if error is not None:
            self._context.set_code(grpc.StatusCode.ABORTED)
            self._context.set_details(f"{type(error).__name__}: {error}"[:DETAILS_LENGTH_MAX])
        if not self.ended.done():
            self.ended.set_result(None)

    async def half_close(self) -> None:
        """Nothing to do: the status is the end, and gRPC sends it when the handler returns."""

    async def confirm_end(self) -> None:
        """Tell a half-close from a client that is gone: `read` gives EOF for both, a write fails for the latter."""
        await self.write(b"")


class GrpcTransport:
    """`Transport` of the real world. Use it from one event loop; `close` it before that loop ends."""

    def __init__(self, keepalive: Keepalive = KEEPALIVE, *, has_lanes: bool = True, lane_port: int = 0) -> None:
        """Without lanes, none are offered nor taken. `lane_port` 0: any free one for each address that is served."""
        self._keepalive, self._has_lanes, self._lane_port = keepalive, has_lanes, lane_port
        self._open: dict[GrpcConnection, asyncio.Task[None]] = {}
        self._lanes: dict[LaneConnection, None] = {}
        self._no_lane_until: dict[str, float] = {}
        """Bounded by the addresses that this process connects to."""
        self._services: Services | None = None

    def also_serve(self, services: Services) -> None:
        """Serve more than frames and health at every address that is served from now on."""
        self._services = services

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + timeout_s
        wants_lane = self._has_lanes and self._no_lane_until.get(address, 0.0) <= loop.time()
        met = await self._meet(address, accept, timeout_s, wants_lane=wants_lane)
        if isinstance(met, GrpcConnection):
            return met
        try:
            left_s = max(0.0, gives_up_at - loop.time())  # half of it, so that gRPC has a chance as well
            lane = await open_lane(address.rpartition(":")[0].strip("[]"), met, address, accept, timeout_s=left_s / 2)
        except Unavailable:
            self._no_lane_until[address] = loop.time() + NO_LANE_S
            left_s = gives_up_at - loop.time()
            if left_s <= 0:
                raise Unavailable(f"no answer from {address}", timeout_s=timeout_s) from None
            met = await self._meet(address, accept, left_s, wants_lane=False)
            assert isinstance(met, GrpcConnection), "no lane was asked for"
            return met
        self._lanes[lane] = None
        lane.finished.add_done_callback(lambda _: self._lanes.pop(lane, None))
        return lane

    async def serve(self, address: str, accept: Accept) -> GrpcListener:
        listener = GrpcListener(accept, self._keepalive, self._services)
        await listener.start(address, lane_port=self._lane_port if self._has_lanes else None)
        return listener

    async def close(self) -> None:
        """Close every connection made here and wait until nothing of them is left (at most about LINGER_S)."""
        finishing = [*self._open.values(), *(lane.finished for lane in self._lanes)]
        for connection in list(self._open):
            connection.close()
        for lane in list(self._lanes):
            lane.close()
        await asyncio.gather(*finishing, return_exceptions=True)

    async def _meet(
        self, address: str, accept: Accept, timeout_s: float, *, wants_lane: bool
    ) -> GrpcConnection | LaneOffer:
        """Open an Exchange: the connection over it, or what was offered instead."""
        channel: Any = grpc.aio.insecure_channel(address, options=client_options(self._keepalive))
        call = channel.stream_stream(METHOD_PATH)(metadata=WANTS_LANE if wants_lane else None)
        is_open = False
        try:
            offer = await _wait_accepted(call, address, timeout_s)
            if wants_lane and offer is not None:
                return offer
            stream = _ClientStream(call)
            connection = GrpcConnection(address, stream, is_accepted=False)
            handler = accept(connection)
            is_open = True
        finally:
            if not is_open:
                call.cancel()
                await channel.close()
        connection.start(handler)
        finish = self._finish(connection, stream, channel)
        self._open[connection] = asyncio.get_running_loop().create_task(finish)
        return connection

    async def _finish(self, connection: GrpcConnection, stream: _ClientStream, channel: Any) -> None:
        try:
            await connection.wait_finished()
        finally:
            del self._open[connection]
            stream.release()
            await channel.close()


async def _wait_accepted(call: Any, address: str, timeout_s: float) -> LaneOffer | None:
    """Wait for the server's mark in the initial metadata. Without it the stream was refused; its status says why."""
    try:
        async with asyncio.timeout(timeout_s):
            metadata = await call.initial_metadata()
            if MARK in metadata:
                return _offer_in(metadata)
            problem = f"{(await call.code()).name}: {await call.details()}"
    except TimeoutError:
        raise Unavailable(f"no answer from {address}", timeout_s=timeout_s) from None
    raise Unavailable(f"cannot connect to {address}: {problem[:DETAILS_LENGTH_MAX]}")


def _offer_in(metadata: Any) -> LaneOffer | None:
    try:
        return LaneOffer.decode(str(metadata[LANE])) if LANE in metadata else None
    except DecodeError as problem:
        raise Unavailable(f"the server offered what is no lane: {problem}") from None


async def _check_bindable(host: str, port: int) -> None:
    """Raise `ConfigError` with the system's reason, which gRPC would only print. (gRPC checks again by itself.)"""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, resolved in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(resolved)
    except OSError as problem:
        raise ConfigError(f"cannot listen on {host}:{port}: {problem.strerror or problem}") from None


def _peer_of(context: Any) -> str:
    """`ipv6:%5B::1%5D:52580` -> `[::1]:52580`"""
    return unquote(context.peer()).partition(":")[2]


class GrpcListener:
    """One served address: its server, its connections and its health service."""

    def __init__(self, accept: Accept, keepalive: Keepalive, services: Services | None = None) -> None:
        self._accept = accept
        self._address = ""
        self._connections: dict[GrpcConnection, None] = {}
        self._lanes = LaneListener(accept, self._connections.__len__)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
        options = dict(server_options(keepalive)) | dict(services.options if services is not None else ())
        self._server: Any = grpc.aio.server(options=list(options.items()))
        exchange = grpc.stream_stream_rpc_method_handler(self._exchange)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, {"Exchange": exchange}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = (SERVICE_NAME, *(services.add_to(self._server) if services is not None else ()))

    @property
    def address(self) -> str:
        return self._address

    @property
    def connections_count(self) -> int:
        """Open connections of either kind."""
        return len(self._connections) + self._lanes.connections_count

    async def start(self, address: str, *, lane_port: int | None = None) -> None:
        """Bind and begin to accept, also lanes unless `lane_port` is None. `ConfigError` if an address cannot be had;
        nothing is left behind then."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65_535:
            raise ConfigError(f"{address!r} is not of the form HOST:PORT")
        await _check_bindable(host.strip("[]"), int(port))
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as problem:
            raise ConfigError(f"cannot listen on {address}: {problem}") from None
        if bound == 0 or int(port) not in (0, bound):
            raise ConfigError(f"cannot listen on {address}: got port {bound}")
        self._address = f"{host}:{bound}"
        if lane_port is not None:
            await self._start_lanes(host.strip("[]"), lane_port)
        await self.set_serving(True)
        await self._server.start()

    async def _start_lanes(self, host: str, port: int) -> None:
        try:
            await self._lanes.start(host, port)
        except OSError as problem:
            await self._server.stop(grace=None)
            raise ConfigError(f"cannot listen for lanes on {host}:{port}: {problem.strerror or problem}") from None

    async def set_serving(self, is_serving: bool) -> None:
        """Say SERVING or NOT_SERVING to health checks, overall and for each service. Frames flow either way."""
        names = health_pb2.HealthCheckResponse
        status = names.SERVING if is_serving else names.NOT_SERVING
        for service in (health.OVERALL_HEALTH, *self._names):
            await self._health.set(service, status)

    async def close(self) -> None:
        """Stop accepting, close every connection accepted here, and return within 1 s."""
        await self._health.enter_graceful_shutdown()
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        await asyncio.gather(self._lanes.close(), self._server.stop(grace=LINGER_S))
        for connection in connections:
            await connection.wait_finished()

    async def _exchange(self, _: Any, context: Any) -> None:
        """One RPC = one connection: returns, and so ends the stream, once the connection is closed."""
        if self.connections_count >= CONNECTIONS_COUNT_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{CONNECTIONS_COUNT_MAX} connections are open")
        offer = self._lanes.offer
        if offer is not None and WANTS_LANE[0] in context.invocation_metadata():
            await context.send_initial_metadata(((MARK, "1"), (LANE, offer.encode())))
            # A stream that ended at once would give its client the status without the metadata. The client cancels it.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(context.read(), GREETING_TIMEOUT_S)
            return
        await context.send_initial_metadata(((MARK, "1"),))
        stream = _ServerStream(context)
        connection = GrpcConnection(_peer_of(context), stream, is_accepted=True)
        try:
            connection.start(self._accept(connection))
        except Exception as bug:  # the task boundary: one connection must not cost the listener
            connection.close(report_bug(connection.peer, bug))
            return
        self._connections[connection] = None
        try:
            await stream.ended
            await connection.wait_written()
        except asyncio.CancelledError:  # the peer cancelled, vanished, or the server stops
            connection.close(ConnectionResetError(f"the connection to {connection.peer} was lost"))
            raise
        finally:
            del self._connections[connection]
