"""Typed unary calls over gRPC, on the port that serves the frames: one call is one operation, handed to an injected handler.

    bytes ──parse──► request ──unary_messages──► Operation ──► UnaryHandler.ask ··· reply ──► message
      └──────────────── whatever goes wrong ──unary_errors──► status and kvstore-error-bin

Nothing is decided here: limits, consistency, overload and deadlines are the handler's, as they are for a frame.

Invariants
  1. A call that ends early (cancelled, too late, its connection lost) leaves nothing: the reply that comes later finds a future
     that nobody waits for.
  2. A malformed call costs itself only, and nothing of it is logged. So messages are parsed here and not by gRPC, which logs a
     traceback for every one that it cannot parse.
  3. Every status given here carries a trailer that says whether the operation may have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

from kvstore.transport import grpc_loader  # noqa: F401  # before gRPC itself

# isort: split
import grpc
import grpc.aio
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from kvstore.errors import (
    DecodeError,
    InternalError,
    KVStoreError,
    Overloaded,
    Timeout,
    ValueTooLarge,
    error_from_wire,
)
from kvstore.ids import ObjectType
from kvstore.messages import Status
from kvstore.ring.topology import Topology
from kvstore.ring.topology_codec import decode
from kvstore.transport.grpc_connection import PEER_ERRORS
from kvstore.transport.grpc_options import MESSAGE_SIZE_BYTES_MAX
from kvstore.transport.unary_errors import ERROR_TRAILER, as_read_error, error_trailer, status_name
from kvstore.transport.unary_messages import (
    Operation,
    bucket_list,
    create_bucket_operation,
    delete_operation,
    description,
    get_operation,
    get_reply,
    get_reply_parts,
    put_operation,
    write_reply,
)
from kvstore.v1 import frames_pb2, registers_pb2
from kvstore.v1 import registers_pb2 as pb

__all__ = ["CLUSTER", "CLUSTER_ID_KEY", "REGISTERS", "UnaryHandler", "UnaryServices"]

REGISTERS: str = registers_pb2.DESCRIPTOR.services_by_name["Registers"].full_name
CLUSTER: str = registers_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name
FRAMES: str = frames_pb2.DESCRIPTOR.services_by_name["Frames"].full_name
CLUSTER_ID_KEY = "kvstore-cluster-id"
DEADLINE_S_DEFAULT = 5.0
"""Of a call without one; the Python client's default as well."""
DEADLINE_S_MAX = 600.0
"""Calls are answered by then; a coordinator cuts the deadlines of frames to the same."""
CALLS_COUNT_MAX = 1_024
"""Calls under way on one listener: each may hold a message of 4 MiB, which was received before anybody could refuse it."""
LARGE_READS_COUNT_MAX = 8
"""Large reads under way: each may hold 64 values of 1 MiB while its caller takes them."""
BUSY_RETRY_AFTER_S = 0.1
STATUS_DETAILS_LENGTH_MAX = 200

R = TypeVar("R", bound=Message)
Parts = Iterable[Message]


class UnaryHandler(Protocol):
    """What a node does with a call."""

    def ask(self, operation: Operation, remaining_s: float, reply: Callable[[int, bytes], None]) -> None:
        """Begin an operation of a client; `reply` is called once, with the status and body of its reply, now or later."""

    def topology(self) -> Topology:
        """Return the topology in use; `NotReady` if there is none."""

    def check_cluster(self, cluster_id: bytes) -> None:
        """Raise `ClusterMismatch` unless this is a node of that cluster."""


class _Call:
    """One call under way: how long it may take, and what its error will need."""

    __slots__ = ("_handler", "is_read", "operation_id", "remaining_s")

    def __init__(self, handler: UnaryHandler, remaining_s: float, *, is_read: bool) -> None:
        self._handler, self.remaining_s, self.is_read = handler, remaining_s, is_read
        self.operation_id = b""

    async def perform(self, operation: Operation) -> bytes:
        """Return the OK body, or raise the error of the reply. Call it once."""
        self.operation_id = operation.operation_id
        done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def reply(status: int, body: bytes) -> None:
            if not done.done():  # else the call was cancelled, or its time was up
                done.set_result((status, body))

        with _after_the_fact():
            self._handler.ask(operation, self.remaining_s, reply)
        status, body = await done
        if status != Status.OK:
            raise error_from_wire(body)
        return body


Run = Callable[[Any, _Call], Awaitable[Parts]]
Deliver = Callable[[Parts], Awaitable[bytes]]


class UnaryServices:
    """`Registers`, `Cluster` and reflection. `operation_id` makes the id of a write that came without one."""

    def __init__(self, handler: UnaryHandler, operation_id: Callable[[], bytes]) -> None:
        self._handler, self._new_id = handler, operation_id
        self._calls_count = self._large_reads_count = 0

    @property
    def calls_count(self) -> int:
        """Calls under way."""
        return self._calls_count

    @property
    def options(self) -> Sequence[tuple[str, int]]:
        """What the server needs to bear many calls of one channel."""
        # Clients stay below max_concurrent_streams by themselves and queue the rest. But by default gRPC's server also counts a
        # stream until Python let go of it, and refuses at random what is above (UNAVAILABLE, without a trailer): of 200 gets at
        # once in one channel 25 were lost, of 1,000 279. A higher maximum only moves that. What bounds calls that nobody
        # took yet is grpc.server.max_pending_requests (1,000, at most 3,000), and of those taken CALLS_COUNT_MAX.
        return (("grpc.http.overload_protection", 0),)

    def add_to(self, server: Any) -> tuple[str, ...]:
        """Add the services to a server that was not started, and return their names."""
        _add(server, REGISTERS, {
            "Get": self._unary(pb.GetRequest, self._get, is_read=True),
            "GetLarge": self._streamed(pb.GetRequest, self._get_large, is_read=True),
            "Put": self._unary(pb.PutRequest, self._put),
            "Delete": self._unary(pb.DeleteRequest, self._delete),
        })  # fmt: skip
        _add(server, CLUSTER, {
            "Describe": self._unary(pb.DescribeRequest, self._describe, is_read=True),
            "CreateBucket": self._unary(pb.CreateBucketRequest, self._create_bucket),
            "ListBuckets": self._unary(pb.ListBucketsRequest, self._list_buckets, is_read=True),
        })  # fmt: skip
        names = (REGISTERS, CLUSTER)
        reflection.enable_server_reflection((*names, FRAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return names

    # --- the methods --------------------------------------------------------------------------------------------------

    async def _get(self, request: pb.GetRequest, call: _Call) -> Parts:
        reply = await self._read(request, call)
        size_bytes = reply.ByteSize()
        if size_bytes > MESSAGE_SIZE_BYTES_MAX:
            raise ValueTooLarge(
                "the answer is too large for one message: use GetLarge", size_bytes=size_bytes,
                limit_bytes=MESSAGE_SIZE_BYTES_MAX,
            )  # fmt: skip
        return [reply]

    async def _get_large(self, request: pb.GetRequest, call: _Call) -> Parts:
        return get_reply_parts(await self._read(request, call))

    async def _read(self, request: pb.GetRequest, call: _Call) -> pb.GetReply:
        operation = get_operation(request, self._default_type)
        body = await call.perform(operation)
        with _after_the_fact():
            return get_reply(operation.name, body)

    async def _put(self, request: pb.PutRequest, call: _Call) -> Parts:
        operation = put_operation(request, self._default_type, self._new_id)
        body = await call.perform(operation)
        with _after_the_fact():
            return [write_reply(operation, body)]

    async def _delete(self, request: pb.DeleteRequest, call: _Call) -> Parts:
        operation = delete_operation(request, self._default_type, self._new_id)
        body = await call.perform(operation)
        with _after_the_fact():
            return [write_reply(operation, body)]

    async def _describe(self, request: pb.DescribeRequest, call: _Call) -> Parts:
        return [description(self._handler.topology())]

    async def _create_bucket(self, request: pb.CreateBucketRequest, call: _Call) -> Parts:
        body = await call.perform(create_bucket_operation(request))
        with _after_the_fact():
            return [pb.CreateBucketReply(topology_epoch=decode(body).epoch)]

    async def _list_buckets(self, request: pb.ListBucketsRequest, call: _Call) -> Parts:
        return [bucket_list(self._handler.topology())]

    def _default_type(self, bucket: str) -> ObjectType:
        return self._handler.topology().bucket(bucket).default_type

    # --- what all calls have in common --------------------------------------------------------------------------------

    def _unary(self, kind: type[R], run: Run, *, is_read: bool = False) -> Any:
        async def method(message: bytes, context: Any) -> bytes:
            return await self._answer(kind, run, is_read, _only, message, context)

        return grpc.unary_unary_rpc_method_handler(method)

    def _streamed(self, kind: type[R], run: Run, *, is_read: bool) -> Any:
        async def method(message: bytes, context: Any) -> None:
            await self._answer(kind, run, is_read, partial(_write_all, context), message, context)

        return grpc.unary_stream_rpc_method_handler(method)

    async def _answer(
        self, kind: type[R], run: Run, is_read: bool, deliver: Deliver, message: bytes, context: Any
    ) -> bytes:  # fmt: skip
        remaining_s = context.time_remaining()
        remaining_s = DEADLINE_S_DEFAULT if remaining_s is None else min(remaining_s, DEADLINE_S_MAX)
        call = _Call(self._handler, remaining_s, is_read=is_read)
        error: KVStoreError
        try:
            with self._counted(is_large=deliver is not _only):
                self._check_cluster(context)
                async with asyncio.timeout(remaining_s):
                    return await deliver(await run(_parsed(kind, message), call))
        except KVStoreError as problem:
            error = problem
        except TimeoutError:
            error = Timeout("no answer before the deadline", timeout_s=round(remaining_s, 3))
        except asyncio.CancelledError:
            raise  # by the caller, its deadline, or the end of the listener; nobody is left to tell
        except Exception as bug:  # the task boundary: gRPC would hide it, and answer without a trailer
            error = _report_bug(context, bug)
        await _abort(context, error, call)
        raise AssertionError("abort raises")

    @contextmanager
    def _counted(self, *, is_large: bool) -> Iterator[None]:
        if self._calls_count >= CALLS_COUNT_MAX or (is_large and self._large_reads_count >= LARGE_READS_COUNT_MAX):
            raise Overloaded("too many calls at once", retry_after_s=BUSY_RETRY_AFTER_S, in_flight=self._calls_count)
        self._calls_count += 1
        self._large_reads_count += is_large
        try:
            yield
        finally:
            self._calls_count -= 1
            self._large_reads_count -= is_large

    def _check_cluster(self, context: Any) -> None:
        for key, value in context.invocation_metadata() or ():
            if key == CLUSTER_ID_KEY:
                self._handler.check_cluster(_unhex(value))


def _add(server: Any, service: str, methods: dict[str, Any]) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))


@contextmanager
def _after_the_fact() -> Iterator[None]:
    """Once an operation was begun, only its reply may say that it did not happen: anything else that fails is no refusal, even if
    its class says so (`DecodeError`, when an owner of a newer version answers in a form that is not known here)."""
    try:
        yield
    except KVStoreError as error:
        raise RuntimeError(f"the operation was begun, but what became of it cannot be told: {error}") from error


async def _only(parts: Parts) -> bytes:
    """Return the one message of an answer, which gRPC sends when the method returns."""
    (message,) = parts
    return message.SerializeToString()


async def _write_all(context: Any, parts: Parts) -> bytes:
    """Send the messages of an answer one after the other, as fast as the caller takes them."""
    try:
        for message in parts:
            await context.write(message.SerializeToString())
    except PEER_ERRORS:
        raise asyncio.CancelledError from None  # the caller went away, and nobody is left to tell
    return b""


def _parsed(kind: type[R], message: bytes) -> R:
    try:
        return kind.FromString(message)
    except ProtobufDecodeError:
        raise DecodeError(f"not a {kind.DESCRIPTOR.full_name}") from None


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise DecodeError(f"{CLUSTER_ID_KEY} is not hexadecimal") from None


def _report_bug(context: Any, bug: Exception) -> InternalError:
    """Show the loop's exception handler what a call raised, and return what its caller is told."""
    message = f"a call of {unquote(context.peer())} raised"
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": bug})
    return InternalError(f"the call could not be handled: {bug!r}; please report")


async def _abort(context: Any, error: KVStoreError, call: _Call) -> None:
    if call.is_read:
        error = as_read_error(error)
    trailer = error_trailer(error, is_read=call.is_read, operation_id=call.operation_id)
    status = grpc.StatusCode[status_name(error)]
    await context.abort(status, error.message[:STATUS_DETAILS_LENGTH_MAX], ((ERROR_TRAILER, trailer),))
