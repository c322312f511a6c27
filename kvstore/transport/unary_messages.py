"""Typed calls as operations of a frame, and back: pure translation between protobuf messages and what the wire's verbs carry.

    GetRequest, PutRequest, ...  ──►  Operation(verb, name, body)  ──► whoever answers operations
    GetReply, WriteReply, ...    ◄──  body of the OK reply         ◄──

Checked here is only what the translation itself could not bear (a name, an operation id); all other bounds are those of the
operation, and are checked where frames' operations are: a second copy of a rule would sooner or later be another rule.
The meaning of every field is in proto/kvstore/v1/registers.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kvstore.causality.context import encode_context
from kvstore.causality.hlc import LOGICAL_BITS
from kvstore.errors import InvalidArgument, InvalidContext
from kvstore.ids import OPERATION_ID_SIZE_BYTES, ObjectType
from kvstore.limits import BUCKET_NAME_LENGTH_MAX
from kvstore.messages import Verb, WireSibling, decode_get_reply, decode_put_reply, encode_body
from kvstore.ring.buckets import DEFAULT_BUCKET_NAME, BucketProperties
from kvstore.ring.topology import MemberState, Topology
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.v1 import registers_pb2 as pb

__all__ = [
    "Operation", "bucket_list", "create_bucket_operation", "delete_operation", "description", "get_operation", "get_reply",
    "get_reply_parts", "put_operation", "write_reply",
]  # fmt: skip

DefaultType = Callable[[str], ObjectType]
"""Gives the default type of a bucket; `NoSuchBucket` or `NotReady` if that is not known."""
_REPLY_PART_BYTES = 1024 * 1024
"""A message of a large read takes siblings up to this size together; a single one may be 16 bytes larger."""


class Operation(NamedTuple):
    """What a request of a frame says, without its number and deadline. `operation_id` is empty for what is no write."""

    verb: Verb
    name: bytes
    body: bytes
    operation_id: bytes = b""


# --- requests -------------------------------------------------------------------------------------------------------------


def get_operation(request: pb.GetRequest, default_type: DefaultType) -> Operation:
    """Return the GET."""
    r, pr = _given(request, "r"), _given(request, "pr")
    body = b"" if r is None and pr is None else encode_body((r, pr))
    return Operation(Verb.GET, _name(request.object, default_type), body)


def put_operation(request: pb.PutRequest, default_type: DefaultType, new_id: Callable[[], bytes]) -> Operation:
    """Return the PUT. An absent context is blind; an empty one is passed on, to be refused."""
    operation_id = _operation_id(request, new_id)
    context = request.context if request.HasField("context") else None
    body = (operation_id, request.value, context, request.ttl_ms, *_write_counts(request))
    return Operation(Verb.PUT, _name(request.object, default_type), encode_body(body), operation_id)


def delete_operation(request: pb.DeleteRequest, default_type: DefaultType, new_id: Callable[[], bytes]) -> Operation:
    """Return the DELETE."""
    if not request.context:
        raise InvalidContext("a delete needs the context of a get: it removes exactly what that saw")
    operation_id = _operation_id(request, new_id)
    body = (operation_id, request.context, *_write_counts(request))
    return Operation(Verb.DELETE, _name(request.object, default_type), encode_body(body), operation_id)


def create_bucket_operation(request: pb.CreateBucketRequest) -> Operation:
    """Return the BUCKET_CREATE."""
    bucket = request.bucket
    _check_bucket_length(bucket.name)
    counts = [_given(bucket, count) for count in ("r", "w", "dw", "pr", "pw")]
    object_type = bucket.default_type or pb.OBJECT_TYPE_REGISTER
    return Operation(Verb.BUCKET_CREATE, b"", encode_body((bucket.name, object_type, *counts, bucket.ttl_ms)))


def _name(named: pb.ObjectName, default_type: DefaultType) -> bytes:
    bucket = named.bucket or DEFAULT_BUCKET_NAME
    _check_bucket_length(bucket)
    object_type = int(named.type)
    if object_type == pb.OBJECT_TYPE_UNSPECIFIED:
        object_name(bucket, ObjectType.REGISTER, named.key)  # a malformed name is that, and no unknown bucket
        object_type = default_type(bucket)
    return object_name(bucket, object_type, named.key)


def _check_bucket_length(bucket: str) -> None:
    """The one check that comes before all others: their messages quote the name, which may have 4 MiB."""
    if len(bucket) > BUCKET_NAME_LENGTH_MAX:
        raise InvalidArgument("the bucket's name is too long", length=len(bucket), limit=BUCKET_NAME_LENGTH_MAX)


def _operation_id(request: pb.PutRequest | pb.DeleteRequest, new_id: Callable[[], bytes]) -> bytes:
    if not request.HasField("operation_id"):
        return new_id()
    if len(request.operation_id) != OPERATION_ID_SIZE_BYTES:
        raise InvalidArgument("an operation id has 16 bytes", size_bytes=len(request.operation_id))
    return request.operation_id


def _write_counts(request: pb.PutRequest | pb.DeleteRequest) -> tuple[int | None, int | None, int | None]:
    return _given(request, "w"), _given(request, "dw"), _given(request, "pw")


def _given(message: pb.GetRequest | pb.PutRequest | pb.DeleteRequest | pb.Bucket, count: str) -> int | None:
    """Return an optional count: absent is not 0."""
    number: int = getattr(message, count)
    return number if message.HasField(count) else None


# --- replies --------------------------------------------------------------------------------------------------------------


def get_reply(name: bytes, body: bytes) -> pb.GetReply:
    """Translate the OK body of a GET of `name`."""
    context, replied, n, primaries_replied, siblings = decode_get_reply(body)
    # Never written is a state one can have seen, too: without a context of its own, the put that follows would be taken for one
    # that lost its context.
    context = context or encode_context(storage_key(name)[:8], 0, b"")
    return pb.GetReply(
        siblings=[_sibling(each) for each in sorted(siblings, key=_dot_of)], context=context, replied=replied,
        primaries_replied=primaries_replied, n=n,
    )  # fmt: skip


def get_reply_parts(whole: pb.GetReply) -> Iterator[pb.GetReply]:
    """Cut a reply into messages that can travel; the last one has no siblings, but all the rest."""
    yield from (pb.GetReply(siblings=part) for part in _parts(whole.siblings))
    last = pb.GetReply()
    last.CopyFrom(pb.GetReply(context=whole.context, replied=whole.replied, n=whole.n))
    last.primaries_replied = whole.primaries_replied
    yield last


def _parts(siblings: Iterable[pb.Sibling]) -> Iterator[list[pb.Sibling]]:
    part: list[pb.Sibling] = []
    size_bytes = 0
    for sibling in siblings:
        if part and size_bytes + len(sibling.value) > _REPLY_PART_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(sibling)
        size_bytes += len(sibling.value)
    if part:
        yield part


def write_reply(operation: Operation, body: bytes) -> pb.WriteReply:
    """Translate the OK body of a PUT or DELETE."""
    acked, needed, n, primaries_acked, durable, siblings, superseded, context = decode_put_reply(body)
    return pb.WriteReply(
        acked=acked, needed=needed, n=n, primaries_acked=primaries_acked, durable=durable, siblings=siblings,
        superseded=superseded, context=context or None, operation_id=operation.operation_id,
    )  # fmt: skip


def _sibling(sibling: WireSibling) -> pb.Sibling:
    return pb.Sibling(
        value=sibling.value, dot=pb.Dot(actor=sibling.actor, counter=sibling.counter), hlc=sibling.hlc,
        written_ms=sibling.hlc >> LOGICAL_BITS, expires_ms=sibling.expires_ms or None,
    )  # fmt: skip


def _dot_of(sibling: WireSibling) -> tuple[bytes, int]:
    return sibling.actor, sibling.counter


# --- the cluster ----------------------------------------------------------------------------------------------------------


def description(topology: Topology) -> pb.Description:
    """Translate what clients of other languages need of a topology: whom to call."""
    members = [
        pb.Member(
            node_id=member.node_id, address=member.address, zone=member.zone, weight=member.weight,
            is_joining=member.state is MemberState.JOINING,
        )
        for member in topology.members
    ]  # fmt: skip
    return pb.Description(
        cluster_id=topology.cluster_id, cluster_name=topology.cluster_name, topology_epoch=topology.epoch, n=topology.n,
        members=members,
    )  # fmt: skip


def bucket_list(topology: Topology) -> pb.ListBucketsReply:
    """Translate the buckets of a topology."""
    return pb.ListBucketsReply(buckets=[_bucket(each) for each in topology.buckets])


def _bucket(bucket: BucketProperties) -> pb.Bucket:
    return pb.Bucket(
        name=bucket.name, default_type=pb.ObjectType.Name(bucket.default_type), r=bucket.r, w=bucket.w, dw=bucket.dw,
        pr=bucket.pr, pw=bucket.pw, ttl_ms=bucket.ttl_ms,
    )  # fmt: skip
