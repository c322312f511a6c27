"""What the adapter of typed calls does by itself: statuses and trailers, deadlines, cancelled and malformed calls, reflection.

The handler here is a script; the calls go over real sockets on loopback. tests/cluster/test_unary_service.py asks real nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvstore.errors import (
    ClusterMismatch,
    CoordinatorLost,
    Corruption,
    DecodeError,
    DiskFull,
    InsufficientNodes,
    InternalError,
    InvalidContext,
    KVStoreError,
    NoSuchBucket,
    NotReady,
    Overloaded,
    ReadQuorumUnsatisfied,
    ReadTimeout,
    StorageError,
    Timeout,
    TooManySiblings,
    Unavailable,
    ValueTooLarge,
    WriteQuorumUnsatisfied,
    error_to_wire,
)
from kvstore.ids import ClusterId, NodeId
from kvstore.limits import VALUE_SIZE_BYTES_MAX
from kvstore.messages import Status, Verb, encode_body, encode_get_reply
from kvstore.ring.topology import Member, Topology, found
from kvstore.transport import grpc_unary
from kvstore.transport.grpc_transport import GrpcTransport
from kvstore.transport.grpc_unary import CLUSTER, CLUSTER_ID_KEY, REGISTERS, UnaryServices
from kvstore.transport.unary_messages import Operation
from kvstore.v1 import registers_pb2 as pb
from tests.support.transports import Side
from tests.support.unary import Caller, error_and_status, error_of, trailers_of, until

ID = bytes(range(16))
OURS = ClusterId(b"o" * 16)
PUT_OK = encode_body((1, 1, 1, 1, 1, 1, False, b"context"))
K = pb.ObjectName(key=b"k")
Reply = Callable[[int, bytes], None]


class Script:
    """A handler that answers as it is told to; by default it does not."""

    def __init__(self) -> None:
        self.asked: list[Operation] = []
        self.remaining_s: list[float] = []
        self.replies: list[Reply] = []
        self.answer: tuple[int, bytes] | None = None
        self.bug: Exception | None = None
        self.was_asked = asyncio.Event()

    def fails_with(self, error: KVStoreError) -> None:
        self.answer = (int(Status.ERROR), error_to_wire(error))

    def ask(self, operation: Operation, remaining_s: float, reply: Reply) -> None:
        self.asked.append(operation)
        self.remaining_s.append(remaining_s)
        self.replies.append(reply)
        self.was_asked.set()
        if self.bug is not None:
            raise self.bug
        if self.answer is not None:
            reply(*self.answer)

    def topology(self) -> Topology:
        return found(OURS, "dev", Member(NodeId(b"n" * 8), "127.0.0.1:1", "default", 1), partition_bits=1)

    def check_cluster(self, cluster_id: bytes) -> None:
        if cluster_id != OURS:
            raise ClusterMismatch("this node belongs to another cluster")


class Served:
    """A listener with typed calls, and a caller of it."""

    def __init__(self, script: Script, calls: UnaryServices, listener: Any) -> None:
        self.script, self.calls, self.listener = script, calls, listener
        self.caller = Caller(listener.address)
        self.bugs: list[Any] = []

    async def refused(self, call: Any) -> tuple[str, str, bool]:
        """Return status, code and definiteness of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return error_and_status(caught.value)

    async def is_well(self) -> bool:
        """Whether the next call is answered, and none is under way afterwards."""
        self.script.answer, self.script.bug = (int(Status.OK), PUT_OK), None
        await self.caller.put("k", b"v")
        await until(lambda: self.calls.calls_count == 0)
        return True


@pytest.fixture
async def served(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    """Nothing a caller does may be logged as an error, or leave a task."""
    transport, script, before = GrpcTransport(), Script(), asyncio.all_tasks()
    calls = UnaryServices(script, lambda: ID)
    transport.also_serve(calls)
    served = Served(script, calls, await transport.serve("127.0.0.1:0", Side()))
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: served.bugs.append(context))
    yield served
    await served.caller.channel.close()
    await served.listener.close()
    leftovers = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leftovers:
        await asyncio.wait(leftovers, timeout=5)
    assert [task for task in leftovers if not task.done()] == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


# Errors

STATUSES: list[tuple[KVStoreError, str, bool]] = [
    (DecodeError("x"), "INVALID_ARGUMENT", True),
    (InvalidContext("x"), "INVALID_ARGUMENT", True),
    (ValueTooLarge("x", size_bytes=2, limit_bytes=1), "INVALID_ARGUMENT", True),
    (NoSuchBucket("x"), "FAILED_PRECONDITION", True),
    (TooManySiblings("x"), "FAILED_PRECONDITION", True),
    (InsufficientNodes("x"), "FAILED_PRECONDITION", True),
    (Overloaded("x", retry_after_s=0.5), "RESOURCE_EXHAUSTED", True),
    (DiskFull("x"), "RESOURCE_EXHAUSTED", True),
    (NotReady("x"), "UNAVAILABLE", True),
    (Unavailable("x"), "UNAVAILABLE", True),
    (Corruption("x"), "DATA_LOSS", True),
    (Timeout("x", acked=1), "DEADLINE_EXCEEDED", False),
    (WriteQuorumUnsatisfied("x", acked=1, needed=2), "UNKNOWN", False),
    (CoordinatorLost("x"), "UNKNOWN", False),
    (StorageError("x"), "UNKNOWN", False),
    (InternalError("x"), "INTERNAL", False),
]


@pytest.mark.parametrize(("error", "status", "definite"), STATUSES, ids=lambda value: getattr(value, "code", None))
async def test_every_error_of_a_put_reaches_its_caller_whole(
    served: Served, error: KVStoreError, status: str, definite: bool
) -> None:
    """Status, code, definiteness, numbers, and the operation id, with which the put can be repeated."""
    served.script.fails_with(error)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.caller.put("k", b"v")

    told = error_of(caught.value)
    assert error_and_status(caught.value) == (status, error.code, definite)
    assert (told.retryable, told.operation_id, told.message) == (error.retryable, ID, "x")
    numbers = {name: value for name, value in error.details.items() if name != "retry_after_s"}
    assert (dict(told.numbers), told.retry_after_s) == (numbers, error.details.get("retry_after_s", 0.0))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Timeout("x"), "DEADLINE_EXCEEDED", "read_timeout"),
        (ReadTimeout("x"), "DEADLINE_EXCEEDED", "read_timeout"),
        (ReadQuorumUnsatisfied("x", replied=1, needed=2), "UNAVAILABLE", "read_quorum_unsatisfied"),
        (CoordinatorLost("x"), "UNAVAILABLE", "read_error"),
        (StorageError("x"), "UNKNOWN", "storage_error"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_an_error_of_a_get_is_always_definite(
    served: Served, error: KVStoreError, status: str, code: str
) -> None:
    """It changed nothing, however it failed."""
    served.script.fails_with(error)

    assert await served.refused(served.caller.get("k")) == (status, code, True)


async def test_a_bug_costs_its_call_and_is_seen(served: Served) -> None:
    """The caller is told INTERNAL, which leaves open whether it happened; the loop's exception handler gets the exception."""
    served.script.bug = RuntimeError("a bug")

    assert await served.refused(served.caller.put("k", b"v")) == ("INTERNAL", "internal", False)

    assert [context["exception"] for context in served.bugs] == [served.script.bug]
    assert await served.is_well()


@pytest.mark.parametrize("body", [b"", b"\x91\x01", encode_body((1, 1, 1, 1, 1, 1, False, b"context", "new"))])
async def test_an_answer_that_cannot_be_read_is_no_refusal(served: Served, body: bytes) -> None:
    """The write was acknowledged, perhaps by an owner of a newer version: a decode error here must not look definite."""
    served.script.answer = (int(Status.OK), body)
    bucket = pb.CreateBucketRequest(bucket=pb.Bucket(name="users"))

    for call in (
        served.caller.put("k", b"v"),
        served.caller.delete("k", b"c"),
        served.caller.cluster.CreateBucket(bucket),
    ):
        assert await served.refused(call) == ("INTERNAL", "internal", False)


async def test_a_handler_that_raises_has_refused_nothing(served: Served) -> None:
    """It answers by `reply`; what it raises, and be it a refusal, came at a point that nobody knows. It is a bug."""
    served.script.bug = DiskFull("while committing")

    assert await served.refused(served.caller.put("k", b"v")) == ("INTERNAL", "internal", False)

    assert len(served.bugs) == 1


# Malformed and hostile


@pytest.mark.parametrize("method", ["Registers/Get", "Registers/Put", "Registers/Delete", "Cluster/CreateBucket"])
async def test_what_is_no_message_is_an_invalid_argument(served: Served, method: str) -> None:
    """It costs its own call and nothing is logged: a stranger could fill the disk with tracebacks."""
    call = served.caller.channel.unary_unary(f"/kvstore.v1.{method}")

    assert await served.refused(call(b"\xff\xff\xff", timeout=5)) == ("INVALID_ARGUMENT", "decode_error", True)

    assert served.script.asked == []
    assert await served.is_well()


async def test_a_message_above_4_mib_is_refused_by_grpc(served: Served) -> None:
    """Before it reaches us, so without a trailer: a caller that keeps to "no trailer is doubt" is on the safe side."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.caller.put("k", bytes(4 * 1024 * 1024))

    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await served.is_well()


async def test_a_long_bucket_name_does_not_break_the_error(served: Served) -> None:
    """A megabyte in the message of the error would make its metadata too large to travel."""
    refused = await served.refused(served.caller.get("k", bucket="\U0001f600" * 300_000))

    assert refused == ("INVALID_ARGUMENT", "invalid_argument", True)


async def test_an_error_with_the_longest_words_arrives(served: Served) -> None:
    """The largest trailer and status text there can be, together, are within what gRPC takes as metadata."""
    details = {f"{number:060d}": "\U0001f600" * 60 for number in range(20)}
    served.script.fails_with(Overloaded("\U0001f600" * 1_000, **details))

    assert await served.refused(served.caller.put("k", b"v")) == ("RESOURCE_EXHAUSTED", "overloaded", True)


async def test_too_many_calls_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is on what may hold memory here; the refusal is definite and says when to come back."""
    monkeypatch.setattr(grpc_unary, "CALLS_COUNT_MAX", 1)
    waiting = asyncio.ensure_future(served.caller.put("k", b"v"))
    await served.script.was_asked.wait()

    assert await served.refused(served.caller.put("k", b"v")) == ("RESOURCE_EXHAUSTED", "overloaded", True)

    served.script.replies[0](int(Status.OK), PUT_OK)
    await waiting
    assert await served.is_well()


async def test_500_calls_at_once_in_one_channel_are_all_answered(served: Served) -> None:
    """More than the streams of a channel: its client queues, and none is refused without a word of ours."""
    served.script.answer = (int(Status.OK), PUT_OK)

    answers = await asyncio.gather(*[served.caller.put("k", b"v") for _ in range(500)])

    assert len(answers) == 500


# Deadlines and cancelled calls


@pytest.mark.parametrize(("given_s", "expected_s"), [(None, 5.0), (3.0, 3.0), (10_000.0, 600.0)])
async def test_the_deadline_is_that_of_the_call(served: Served, given_s: float | None, expected_s: float) -> None:
    """Five seconds if there is none, ten minutes at most."""
    served.script.answer = (int(Status.OK), PUT_OK)

    await served.caller.put("k", b"v", timeout=given_s)

    assert served.script.remaining_s == [pytest.approx(expected_s, abs=1.0)]


async def test_a_call_without_a_deadline_ends_after_the_default(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is our own, and a write's is indefinite."""
    monkeypatch.setattr(grpc_unary, "DEADLINE_S_DEFAULT", 0.05)

    assert await served.refused(served.caller.put("k", b"v", timeout=None)) == ("DEADLINE_EXCEEDED", "timeout", False)
    assert await served.refused(served.caller.get("k", timeout=None)) == ("DEADLINE_EXCEEDED", "read_timeout", True)

    assert await served.is_well()


@pytest.mark.parametrize("end", ["cancelled", "late"])
async def test_a_call_that_ended_early_leaves_nothing(served: Served, end: str) -> None:
    """What replies later finds nobody, and says nothing."""
    call = asyncio.ensure_future(served.caller.put("k", b"v", timeout=0.2 if end == "late" else 10))
    await served.script.was_asked.wait()
    if end == "cancelled":
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    else:
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    await until(lambda: served.calls.calls_count == 0)

    served.script.replies[0](int(Status.OK), PUT_OK)

    assert served.bugs == []
    assert await served.is_well()


async def test_calls_under_way_do_not_hold_up_the_end_of_the_listener(served: Served) -> None:
    """They are cut off; their callers cannot know what became of them, and there is no trailer that says otherwise."""
    call = asyncio.ensure_future(served.caller.put("k", b"v", timeout=30))
    await served.script.was_asked.wait()

    async with asyncio.timeout(3):
        await served.listener.close()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert trailers_of(caught.value) == {}


# Large reads


def large_reply(count: int) -> tuple[int, bytes]:
    flat: list[object] = []
    for number in range(count):
        flat += [b"a" * 20, number, 1 << 16, 0, b"%d" % number + bytes(VALUE_SIZE_BYTES_MAX)]
    return int(Status.OK), encode_get_reply(b"context", 1, 1, 1, flat)


async def test_a_reply_above_4_mib_takes_the_other_method(served: Served) -> None:
    """Get says so; GetLarge gives the same siblings in several messages, and the context at the end."""
    served.script.answer = large_reply(6)

    assert await served.refused(served.caller.get("k")) == ("INVALID_ARGUMENT", "value_too_large", True)
    parts = [part async for part in served.caller.registers.GetLarge(pb.GetRequest(object=K), timeout=10)]

    siblings = [sibling for part in parts for sibling in part.siblings]
    assert [sibling.value[:1] for sibling in siblings] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [part.context for part in parts if part.context] == [b"context"]
    assert await served.is_well()


async def test_who_does_not_take_a_large_read_loses_it(served: Served) -> None:
    """At its deadline; and what it did not take is not kept."""
    served.script.answer = large_reply(16)
    call = served.caller.registers.GetLarge(pb.GetRequest(object=K), timeout=1)
    await call.read()

    assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await served.is_well()


async def test_who_sets_no_deadline_cannot_hold_a_large_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default holds for taking the answer as well as for making it."""
    monkeypatch.setattr(grpc_unary, "DEADLINE_S_DEFAULT", 0.2)
    served.script.answer = large_reply(16)
    call = served.caller.registers.GetLarge(pb.GetRequest(object=K))

    await until(lambda: bool(served.script.asked) and served.calls.calls_count == 0)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [part async for part in call]
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await served.is_well()


async def test_few_large_reads_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold 64 MiB."""
    monkeypatch.setattr(grpc_unary, "LARGE_READS_COUNT_MAX", 1)
    first = served.caller.registers.GetLarge(pb.GetRequest(object=K), timeout=10)
    await served.script.was_asked.wait()

    second = served.caller.registers.GetLarge(pb.GetRequest(object=K), timeout=10)

    assert await served.refused(second.read()) == ("RESOURCE_EXHAUSTED", "overloaded", True)
    first.cancel()
    assert await served.is_well()


# What tools see


async def test_a_request_may_name_its_cluster(served: Served) -> None:
    """Another cluster's node refuses before it did anything; no name is no question."""
    served.script.answer = (int(Status.OK), PUT_OK)
    put = served.caller.registers.Put
    request = pb.PutRequest(object=K, value=b"v")

    await put(request, timeout=5, metadata=((CLUSTER_ID_KEY, OURS.hex()),))
    wrong = put(request, timeout=5, metadata=((CLUSTER_ID_KEY, "00" * 16),))
    broken = put(request, timeout=5, metadata=((CLUSTER_ID_KEY, "not hex"),))

    assert await served.refused(wrong) == ("FAILED_PRECONDITION", "cluster_mismatch", True)
    assert await served.refused(broken) == ("INVALID_ARGUMENT", "decode_error", True)
    assert len(served.script.asked) == 1


async def test_the_cluster_describes_itself(served: Served) -> None:
    """Members and buckets come from the topology; nothing is asked of anybody."""
    told = await served.caller.cluster.Describe(pb.DescribeRequest(), timeout=5)
    buckets = await served.caller.cluster.ListBuckets(pb.ListBucketsRequest(), timeout=5)

    assert (told.cluster_id, told.cluster_name, told.topology_epoch, told.n) == (OURS, "dev", 1, 3)
    assert [member.address for member in told.members] == ["127.0.0.1:1"]
    assert [(bucket.name, bucket.default_type) for bucket in buckets.buckets] == [("default", pb.OBJECT_TYPE_REGISTER)]
    assert served.script.asked == []


async def test_a_bucket_is_created_by_the_verb_of_frames(served: Served) -> None:
    """And a failure of it is a write's."""
    served.script.fails_with(Timeout("late"))

    request = pb.CreateBucketRequest(bucket=pb.Bucket(name="users"))

    assert await served.refused(served.caller.cluster.CreateBucket(request)) == ("DEADLINE_EXCEEDED", "timeout", False)
    assert [operation.verb for operation in served.script.asked] == [Verb.BUCKET_CREATE]


async def test_health_answers_for_each_service(served: Served) -> None:
    """A probe may ask for the one it needs."""
    stub: Any = health_pb2_grpc.HealthStub(served.caller.channel)
    for is_serving in (False, True):
        await served.listener.set_serving(is_serving)
        for name in (REGISTERS, CLUSTER, ""):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert (answer.status == health_pb2.HealthCheckResponse.SERVING) == is_serving


async def test_reflection_tells_the_services_and_their_schema(served: Served) -> None:
    """What grpcurl needs to work without a .proto file."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(served.caller.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="kvstore.v1.Registers"),
    ]

    services, schema = [answer async for answer in stub.ServerReflectionInfo(iter(asked), timeout=5)]

    assert [service.name for service in services.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "kvstore.v1.Cluster",
        "kvstore.v1.Frames",
        "kvstore.v1.Registers",
    ]
    assert b"operation_id" in schema.file_descriptor_response.file_descriptor_proto[0]
