"""Typed calls to real nodes over loopback: the semantics of frames, because it is the coordinator of frames that answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import msgpack
import pytest

from kvstore.client.client import AsyncClient
from kvstore.limits import KEY_SIZE_BYTES_MAX, SIBLINGS_COUNT_MAX, VALUE_SIZE_BYTES_MAX
from kvstore.transport.grpc_unary import CLUSTER_ID_KEY
from kvstore.v1 import registers_pb2 as pb
from tests.support.unary import Caller, GrpcNode, error_and_status, error_of, grpc_nodes, until

LWW = "OBJECT_TYPE_LWW"
ID = b"operation id 16b"


@pytest.fixture
async def node() -> AsyncIterator[GrpcNode]:
    """A cluster of one."""
    async with grpc_nodes(1) as nodes:
        yield nodes[0]


@pytest.fixture
def caller(node: GrpcNode) -> Caller:
    return node.caller()


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """Return how a call that must fail failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


# One object


async def test_two_blind_puts_are_siblings_until_somebody_saw_both(caller: Caller) -> None:
    """Neither is lost, the second has no context to overwrite with, and a put with the context of a read replaces both."""
    first = await caller.put("cart", b"apples")
    second = await caller.put("cart", b"bread")
    seen = await caller.get("cart")
    resolved = await caller.put("cart", b"both", context=seen.context)

    assert (first.HasField("context"), second.HasField("context"), second.siblings) == (True, False, 2)
    assert [sibling.value for sibling in seen.siblings] == [b"apples", b"bread"]
    assert len({(sibling.dot.actor, sibling.dot.counter) for sibling in seen.siblings}) == 2
    assert (resolved.siblings, resolved.acked, resolved.durable, resolved.primaries_acked) == (1, 1, 1, 1)
    assert await caller.values("cart") == [b"both"]


async def test_the_context_of_a_write_replaces_that_write(caller: Caller) -> None:
    """And not what came beside it meanwhile."""
    mine = await caller.put("k", b"mine")
    await caller.put("k", b"theirs")

    await caller.put("k", b"mine again", context=mine.context)

    assert await caller.values("k") == [b"mine again", b"theirs"]


async def test_a_delete_removes_what_its_context_saw(caller: Caller) -> None:
    """A value that came after the read stays; deleting all leaves "not found", which is a success and has a context."""
    await caller.put("k", b"old")
    seen = await caller.get("k")
    await caller.put("k", b"new")

    await caller.delete("k", seen.context)
    after_first = await caller.values("k")
    await caller.delete("k", (await caller.get("k")).context)
    gone = await caller.get("k")

    assert after_first == [b"new"]
    assert (list(gone.siblings), len(gone.context) > 0, gone.replied) == ([], True, 1)


async def test_nothing_found_is_a_state_to_write_upon(caller: Caller) -> None:
    """Two callers that both found nothing are concurrent; an empty context is something else, and refused."""
    seen = await caller.get("k")
    await caller.put("k", b"a", context=seen.context)
    await caller.put("k", b"b", context=seen.context)

    refused = await refusal(caller.put("k", b"c", context=b""))

    assert await caller.values("k") == [b"a", b"b"]
    assert error_and_status(refused) == ("INVALID_ARGUMENT", "invalid_context", True)


async def test_the_newest_wins_in_lww(caller: Caller) -> None:
    """And lives beside the register of the same key."""
    await caller.put("k", b"register")
    await caller.put("k", b"older", kind=LWW)
    await caller.put("k", b"newer", kind=LWW)

    assert await caller.values("k", kind=LWW) == [b"newer"]
    assert await caller.values("k") == [b"register"]


async def test_a_value_may_expire(caller: Caller) -> None:
    """The time of its end is told with it."""
    await caller.put("k", b"v", ttl_ms=60_000)

    (sibling,) = (await caller.get("k")).siblings

    assert sibling.expires_ms - sibling.written_ms == 60_000


async def test_a_repeated_put_is_one_write(caller: Caller) -> None:
    """With the same operation id; with another value under it, it is a mistake. Without one each put has its own."""
    first = await caller.put("k", b"v", operation_id=ID)
    again = await caller.put("k", b"v", operation_id=ID)
    refused = await refusal(caller.put("k", b"w", operation_id=ID))

    assert (first.operation_id, again.operation_id, again.siblings) == (ID, ID, 1)
    assert error_and_status(refused) == ("INVALID_ARGUMENT", "invalid_argument", True)
    assert len((await caller.put("other", b"v")).operation_id) == 16
    assert (await caller.put("k", b"v")).siblings == 2


async def test_frames_and_calls_see_each_others_writes(node: GrpcNode, caller: Caller) -> None:
    """One store, one causality: a context from here is good there. The Python client's values are msgpack."""
    async with AsyncClient(node.node.address) as client:
        users = client.bucket("default")
        await users.put("ada", {"name": "Ada"})
        from_frames = await caller.get("ada")
        await caller.put("ada", msgpack.packb({"name": "Lovelace"}), context=from_frames.context)
        from_calls = await users.get("ada")
        await users.put("ada", "gone soon", context=from_calls.context)
        await caller.delete("ada", (await caller.get("ada")).context)

        assert [msgpack.unpackb(sibling.value) for sibling in from_frames.siblings] == [{"name": "Ada"}]
        assert from_calls.value == {"name": "Lovelace"}
        assert not (await users.get("ada")).found


# Refusals


async def test_limits_are_those_of_frames(caller: Caller) -> None:
    """What is too large or malformed is the caller's fault, and nothing happened."""
    await caller.put("k" * KEY_SIZE_BYTES_MAX, bytes(VALUE_SIZE_BYTES_MAX))
    seen = (await caller.get("other")).context
    calls = {
        "value_too_large": [
            caller.get("k" * (KEY_SIZE_BYTES_MAX + 1)),
            caller.put("k", bytes(VALUE_SIZE_BYTES_MAX + 17)),
        ],
        "invalid_argument": [caller.get(""), caller.get("k", bucket="no such name")],
        "decode_error": [caller.put("k", b"v", ttl_ms=1 << 45), caller.get("k", r=103), caller.put("k", b"v", w=1_000)],
        "invalid_context": [caller.put("k", b"v", context=b"x"), caller.put("k", b"v", context=seen)],
    }

    for code, group in calls.items():
        for call in group:
            assert error_and_status(await refusal(call)) == ("INVALID_ARGUMENT", code, True)
    assert await caller.values("k") == []


async def test_what_has_to_be_changed_first_is_a_failed_precondition(caller: Caller) -> None:
    """An unknown bucket, more copies than there are nodes, more siblings than may be."""
    for _ in range(SIBLINGS_COUNT_MAX):
        await caller.put("k", b"v")

    calls = {
        "no_such_bucket": caller.get("k", bucket="nowhere"),
        "insufficient_nodes": caller.put("new", b"v", w=pb.COUNT_ALL),
        "too_many_siblings": caller.put("k", b"v"),
    }
    for code, call in calls.items():
        assert error_and_status(await refusal(call)) == ("FAILED_PRECONDITION", code, True)


async def test_a_node_that_is_not_ready_refuses(node: GrpcNode, caller: Caller) -> None:
    """As it refuses frames: before its start is complete, and from the beginning of its stop."""
    node.node.service.is_open = False

    for call in (caller.get("k"), caller.put("k", b"v"), caller.delete("k", b"context")):
        refused = await refusal(call)
        assert error_and_status(refused) == ("UNAVAILABLE", "not_ready", True)
        assert error_of(refused).retry_after_s > 0


async def test_a_busy_node_refuses(node: GrpcNode, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same count and with the same pause as frames."""
    monkeypatch.setattr(node.node.coordinator._planner, "in_flight", 1_000_000)

    refused = await refusal(caller.put("k", b"v"))

    assert error_and_status(refused) == ("RESOURCE_EXHAUSTED", "overloaded", True)
    assert (error_of(refused).retryable, error_of(refused).retry_after_s > 0) == (True, True)
    monkeypatch.undo()
    assert await caller.values("k") == []


async def test_another_cluster_is_refused(caller: Caller) -> None:
    """The id in the metadata is checked as that of a HELLO is."""
    ours = (await caller.cluster.Describe(pb.DescribeRequest())).cluster_id
    get, request = caller.registers.Get, pb.GetRequest(object=pb.ObjectName(key=b"k"))

    await get(request, metadata=((CLUSTER_ID_KEY, ours.hex()),))
    another = await refusal(get(request, metadata=((CLUSTER_ID_KEY, "ab" * 16),)))
    short = await refusal(get(request, metadata=((CLUSTER_ID_KEY, "ab"),)))

    assert error_and_status(another) == ("FAILED_PRECONDITION", "cluster_mismatch", True)
    assert error_and_status(short) == ("INVALID_ARGUMENT", "decode_error", True)


async def test_a_cancelled_put_does_not_leak(node: GrpcNode, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller is gone, the write is not: it ends as it would have, and nothing counts it any more."""
    replies: list[Any] = []
    begin = node.node.coordinator.begin
    monkeypatch.setattr(node.node.coordinator, "begin", lambda reply: begin(lambda *reply_of: replies.append(reply_of)))
    put = asyncio.ensure_future(caller.put("k", b"v"))
    await until(lambda: bool(replies))

    put.cancel()
    await until(lambda: node.calls.calls_count == node.node.coordinator.in_flight == 0)

    monkeypatch.undo()
    assert await caller.values("k") == [b"v"]


# Several nodes


async def test_any_node_takes_any_key() -> None:
    """Four nodes, three copies: who does not own a key passes the operation on, and its errors back. Buckets as well."""
    async with grpc_nodes(4) as nodes:
        callers = [each.caller() for each in nodes]
        await callers[3].cluster.CreateBucket(pb.CreateBucketRequest(bucket=pb.Bucket(name="b", default_type=LWW)))
        for key in "abcdef":
            for caller in callers:
                await caller.put(key, b"v", w=pb.COUNT_ALL, context=(await caller.get(key)).context)
            assert [await caller.values(key) for caller in callers] == [[b"v"]] * 4
            for caller in callers:
                refused = await refusal(caller.put(key, b"v", context=b"not one"))
                assert error_and_status(refused) == ("INVALID_ARGUMENT", "invalid_context", True)
        buckets = (await callers[1].cluster.ListBuckets(pb.ListBucketsRequest())).buckets
        members = (await callers[2].cluster.Describe(pb.DescribeRequest())).members

        assert sum(each.node.counters.forwarded for each in nodes) > 0
        assert [(bucket.name, bucket.default_type) for bucket in buckets] == [
            ("b", pb.OBJECT_TYPE_LWW),
            ("default", pb.OBJECT_TYPE_REGISTER),
        ]
        assert sorted(member.address for member in members) == sorted(each.node.address for each in nodes)


async def test_a_deadline_leaves_time_to_say_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three owners is silent: a put that waits for it is answered just before its deadline, by the node and not by gRPC,
    and is indefinite; repeated with the id it was told, and asking for less, it is the same write."""
    async with grpc_nodes(3) as nodes:
        caller = nodes[0].caller()
        await caller.put("warm", b"up", w=pb.COUNT_ALL)
        monkeypatch.setattr(nodes[2].node.service, "handle", lambda session, requests: None)

        late = await refusal(caller.put("k", b"v", w=pb.COUNT_ALL, timeout=0.6))
        read = await refusal(caller.get("k", r=pb.COUNT_ALL, timeout=0.6))
        again = await caller.put("k", b"v", operation_id=error_of(late).operation_id)

        assert error_and_status(late) == ("DEADLINE_EXCEEDED", "timeout", False)
        assert (error_of(late).numbers["acked"], error_of(late).numbers["needed"]) == (2, 3)
        assert error_and_status(read) == ("DEADLINE_EXCEEDED", "read_timeout", True)
        assert (again.siblings, again.acked) == (1, 2)
        monkeypatch.undo()


async def test_too_few_reachable_owners_are_unavailable() -> None:
    """Before anything is done, so it is definite; a majority goes on."""
    async with grpc_nodes(3) as nodes:
        caller = nodes[0].caller()
        await nodes[2].node.listener.close()  # type: ignore[union-attr]  # it listens
        await until(lambda: not all(link.is_up for _, link in nodes[0].node.peers.all()))

        refused = await refusal(caller.put("k", b"v", w=pb.COUNT_ALL))
        put = await caller.put("k", b"v")

        assert error_and_status(refused) == ("UNAVAILABLE", "unavailable", True)
        assert dict(error_of(refused).numbers) == {"needed": 3, "alive": 2}
        assert (put.acked, put.n) == (2, 3)
