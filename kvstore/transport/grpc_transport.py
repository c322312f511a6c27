"""`Transport` over gRPC: one channel and one bidirectional `Exchange` stream per connection, one server per listener.

    connect ── channel ── Exchange ──► initial metadata from the server = accepted ── handler attached ── frames
    serve   ── grpc.aio.server ── FramesServicer + grpc.health.v1 ──► one GrpcConnection per Exchange

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
import socket
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote

from kvstore.transport import grpc_core  # noqa: F401  # before gRPC itself

# isort: split
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from kvstore.env import Accept, Connection
from kvstore.errors import ConfigError, Unavailable
from kvstore.limits import CONNECTIONS_COUNT_MAX
from kvstore.transport.grpc_connection import EOF, GrpcConnection
from kvstore.transport.grpc_options import (
    KEEPALIVE,
    Keepalive,
    client_options,
    server_options,
)
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

    def __init__(self, keepalive: Keepalive = KEEPALIVE) -> None:
        self._keepalive = keepalive
        self._open: dict[GrpcConnection, asyncio.Task[None]] = {}
        self._services: Services | None = None

    def also_serve(self, services: Services) -> None:
        """Serve more than frames and health at every address that is served from now on."""
        self._services = services

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        channel: Any = grpc.aio.insecure_channel(address, options=client_options(self._keepalive))
        call = channel.stream_stream(METHOD_PATH)()
        is_open = False
        try:
            await _wait_accepted(call, address, timeout_s)
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

    async def serve(self, address: str, accept: Accept) -> GrpcListener:
        listener = GrpcListener(accept, self._keepalive, self._services)
        await listener.start(address)
        return listener

    async def close(self) -> None:
        """Close every connection made here and wait until nothing of them is left (at most about LINGER_S)."""
        finishing = list(self._open.values())
        for connection in list(self._open):
            connection.close()
        await asyncio.gather(*finishing, return_exceptions=True)

    async def _finish(self, connection: GrpcConnection, stream: _ClientStream, channel: Any) -> None:
        try:
            await connection.wait_finished()
        finally:
            del self._open[connection]
            stream.release()
            await channel.close()


async def _wait_accepted(call: Any, address: str, timeout_s: float) -> None:
    """Wait for the server's mark in the initial metadata. Without it the stream was refused; its status says why."""
    try:
        async with asyncio.timeout(timeout_s):
            metadata = await call.initial_metadata()
            if MARK in metadata:
                return
            problem = f"{(await call.code()).name}: {await call.details()}"
    except TimeoutError:
        raise Unavailable(f"no answer from {address}", timeout_s=timeout_s) from None
    raise Unavailable(f"cannot connect to {address}: {problem[:DETAILS_LENGTH_MAX]}")


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

    async def start(self, address: str) -> None:
        """Bind and begin to accept. `ConfigError` if the address cannot be had; nothing is left behind then."""
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
        await self.set_serving(True)
        await self._server.start()

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
        await self._server.stop(grace=LINGER_S)
        for connection in connections:
            await connection.wait_finished()

    async def _exchange(self, _: Any, context: Any) -> None:
        """One RPC = one connection: returns, and so ends the stream, once the connection is closed."""
        if len(self._connections) >= CONNECTIONS_COUNT_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{CONNECTIONS_COUNT_MAX} connections are open")
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
