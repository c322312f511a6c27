"""Typed calls become exactly the operations that frames carry, and errors keep what they say on their way to other languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvstore.causality.context import decode_context
from kvstore.errors import (
    CoordinatorLost,
    InvalidArgument,
    InvalidContext,
    KVStoreError,
    NoSuchBucket,
    Overloaded,
    ReadTimeout,
    StorageError,
    Timeout,
    WriteQuorumUnsatisfied,
)
from kvstore.ids import ObjectType
from kvstore.messages import (
    CONSISTENCY_ALL,
    CONSISTENCY_QUORUM,
    PutRequest,
    Verb,
    decode_delete,
    decode_get,
    decode_put,
    encode_body,
    encode_get_reply,
)
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.transport.unary_errors import (
    MAYBE_APPLIED,
    TRAILER_SIZE_BYTES_MAX,
    as_read_error,
    error_trailer,
    status_name,
)
from kvstore.transport.unary_messages import (
    create_bucket_operation,
    delete_operation,
    get_operation,
    get_reply,
    get_reply_parts,
    put_operation,
    write_reply,
)
from kvstore.v1 import registers_pb2 as pb

ID = bytes(range(16))
NAME = object_name("default", ObjectType.REGISTER, b"k")
K = pb.ObjectName(key=b"k")
MIB = 1 << 20


def register_everywhere(bucket: str) -> ObjectType:
    return ObjectType.REGISTER


def put_of(request: pb.PutRequest) -> PutRequest:
    return decode_put(put_operation(request, register_everywhere, lambda: ID).body)


# Requests


def test_what_is_absent_in_a_put_is_what_a_frame_leaves_out() -> None:
    """No context is a blind put, no count is the bucket's, no id is a new one; an empty bucket is `default`."""
    operation = put_operation(pb.PutRequest(object=K, value=b"v"), register_everywhere, lambda: ID)

    assert (operation.verb, operation.name, operation.operation_id) == (Verb.PUT, NAME, ID)
    assert decode_put(operation.body) == PutRequest(ID, b"v", None, 0, None, None, None)


def test_what_is_given_is_passed_on_also_if_it_is_zero_or_empty() -> None:
    """Absent and zero are different: w=0 was asked for; so are absent and empty: an empty context is to be refused."""
    request = pb.PutRequest(object=K, value=b"", context=b"", ttl_ms=5, w=0, dw=1, pw=2, operation_id=b"o" * 16)

    assert put_of(request) == PutRequest(b"o" * 16, b"", b"", 5, 0, 1, 2)


def test_the_constants_are_those_of_frames() -> None:
    """ONE, QUORUM and ALL of the enum are numbers that the counts take."""
    assert (pb.COUNT_ZERO, pb.COUNT_ONE) == (0, 1)
    assert (pb.COUNT_QUORUM, pb.COUNT_ALL) == (CONSISTENCY_QUORUM, CONSISTENCY_ALL)
    assert put_of(pb.PutRequest(object=K, value=b"v", w=pb.COUNT_QUORUM)).w == CONSISTENCY_QUORUM


def test_a_get_says_its_counts_or_nothing() -> None:
    """An empty body is the cheap form of all defaults."""
    plain = get_operation(pb.GetRequest(object=K), register_everywhere)
    strict = get_operation(pb.GetRequest(object=K, r=2, pr=0), register_everywhere)

    assert (plain.verb, plain.name, plain.body, plain.operation_id) == (Verb.GET, NAME, b"", b"")
    assert decode_get(strict.body) == (2, 0, None)


def test_a_delete_needs_a_context() -> None:
    """Nobody could say what it would remove."""
    whole = pb.DeleteRequest(object=K, context=b"seen", dw=3)

    body = delete_operation(whole, register_everywhere, lambda: ID).body

    assert decode_delete(body) == PutRequest(ID, None, b"seen", 0, None, 3, None)
    with pytest.raises(InvalidContext):
        delete_operation(pb.DeleteRequest(object=K), register_everywhere, lambda: ID)


def test_an_unspecified_type_is_the_default_of_the_bucket() -> None:
    """A given one asks nobody; the type is part of the name."""
    asked: list[str] = []

    def lww(bucket: str) -> ObjectType:
        asked.append(bucket)
        return ObjectType.LWW

    unspecified = get_operation(pb.GetRequest(object=pb.ObjectName(bucket="b", key=b"k")), lww)
    register = pb.ObjectName(bucket="b", key=b"k", type=pb.OBJECT_TYPE_REGISTER)

    assert unspecified.name == object_name("b", ObjectType.LWW, b"k")
    assert get_operation(pb.GetRequest(object=register), lww).name == object_name("b", ObjectType.REGISTER, b"k")
    assert asked == ["b"]


@pytest.mark.parametrize("size_bytes", [0, 1, 15, 17, MIB])
def test_an_operation_id_has_16_bytes(size_bytes: int) -> None:
    """It is also told back in every error, so its size is checked before anything else can fail."""
    with pytest.raises(InvalidArgument):
        put_of(pb.PutRequest(object=K, operation_id=bytes(size_bytes)))


def test_the_name_of_a_bucket_is_measured_before_it_is_quoted() -> None:
    """Error messages quote names; this one would have a megabyte."""
    with pytest.raises(InvalidArgument) as of_object:
        get_operation(pb.GetRequest(object=pb.ObjectName(bucket="x" * MIB, key=b"k")), register_everywhere)
    with pytest.raises(InvalidArgument) as of_bucket:
        create_bucket_operation(pb.CreateBucketRequest(bucket=pb.Bucket(name="x" * MIB)))

    assert max(len(str(of_object.value)), len(str(of_bucket.value))) < 100


def test_a_new_bucket_holds_registers_unless_it_says_otherwise() -> None:
    """The body is that of BUCKET_CREATE."""
    bucket = pb.Bucket(name="users", w=1, ttl_ms=7)

    operation = create_bucket_operation(pb.CreateBucketRequest(bucket=bucket))

    assert operation.verb == Verb.BUCKET_CREATE
    assert operation.body == encode_body(("users", 1, None, 1, None, None, None, 7))


# Replies


def sibling_fields(actor: bytes, counter: int, value: bytes, expires_ms: int = 0) -> list[object]:
    return [actor * 20, counter, (1_000 << 16) + 3, expires_ms, value]


def test_siblings_come_in_the_order_of_their_dots() -> None:
    """So that a resolver that depends on the order still does the same everywhere."""
    flat = (
        sibling_fields(b"b", 1, b"third") + sibling_fields(b"a", 2, b"second", 99) + sibling_fields(b"a", 1, b"first")
    )

    reply = get_reply(NAME, encode_get_reply(b"context", 2, 3, 1, flat))

    assert [sibling.value for sibling in reply.siblings] == [b"first", b"second", b"third"]
    assert (reply.context, reply.replied, reply.n, reply.primaries_replied) == (b"context", 2, 3, 1)
    assert (reply.siblings[0].hlc, reply.siblings[0].written_ms) == ((1_000 << 16) + 3, 1_000)
    assert [sibling.HasField("expires_ms") for sibling in reply.siblings] == [False, True, False]


def test_never_written_is_a_state_one_can_have_seen() -> None:
    """Reading nothing gives a context as well: a put with it says "there was nothing", not "I lost my context"."""
    reply = get_reply(NAME, encode_get_reply(b"", 2, 3, 2, []))

    assert list(reply.siblings) == []
    assert decode_context(reply.context, storage_key(NAME)[:8]) == ({}, 0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([], [[]]), ([1, 1], [[1, 1], []]), ([MIB, 1, MIB + 16, 1], [[MIB], [1], [MIB + 16], [1], []])],
)
def test_a_large_reply_is_cut_between_siblings(sizes: list[int], expected: list[list[int]]) -> None:
    """No message is much above a megabyte, and only the last one has the context: it stands for all of them."""
    siblings = [pb.Sibling(value=bytes(size)) for size in sizes]
    whole = pb.GetReply(siblings=siblings, context=b"c", replied=2, n=3, primaries_replied=1)

    parts = list(get_reply_parts(whole))

    assert [[len(sibling.value) for sibling in part.siblings] for part in parts] == expected
    assert [part.context for part in parts] == [b""] * (len(parts) - 1) + [b"c"]
    assert (parts[-1].replied, parts[-1].n, parts[-1].primaries_replied) == (2, 3, 1)


def test_a_write_that_left_siblings_has_no_context() -> None:
    """Absent, not empty: whoever passes on what was there cannot pass on an unusable one by accident."""
    operation = put_operation(pb.PutRequest(object=K, value=b"v"), register_everywhere, lambda: ID)

    alone = write_reply(operation, encode_body((2, 2, 3, 2, 1, 1, False, b"context")))
    beside = write_reply(operation, encode_body((2, 2, 3, 2, 1, 2, True, b"")))

    assert (alone.context, alone.acked, alone.needed, alone.n, alone.durable) == (b"context", 2, 2, 3, 1)
    assert (alone.operation_id, alone.siblings, alone.superseded) == (ID, 1, False)
    assert (beside.HasField("context"), beside.siblings, beside.superseded) == (False, 2, True)


# Errors


def every_kind(kind: type[KVStoreError] = KVStoreError) -> list[type[KVStoreError]]:
    """Return the product's errors that can reach a call."""
    found = [kind] if kind.__module__ == "kvstore.errors" else []
    return found + [each for child in kind.__subclasses__() for each in every_kind(child)]


@pytest.mark.parametrize("kind", every_kind())
def test_doubt_never_looks_like_a_refusal(kind: type[KVStoreError]) -> None:
    """An indefinite error has a status that promises nothing, a definite one of a write has a status of its own."""
    error = kind("why")

    is_doubtful = status_name(error) in MAYBE_APPLIED

    assert is_doubtful == (not error.definite or kind is ReadTimeout)
    assert pb.Error.FromString(error_trailer(error)).definite == error.definite


def test_the_table_in_the_proto_file_is_true() -> None:
    """What users of other languages are told of statuses and codes is what the code does."""
    proto = (Path(__file__).parents[2] / "proto/kvstore/v1/registers.proto").read_text()
    table = proto[proto.index("//   status ") : proto.index("// (For Get,")]
    actual = {kind.code: status_name(kind("why")) for kind in every_kind()}
    told: dict[str, str] = {}
    status = ""
    for line in table.splitlines()[1:]:
        status = next(iter(re.findall(r"^//   ([A-Z_]+)", line)), status)
        told |= {word: status for word in re.findall(r"[a-z_]+", line) if word in actual}

    assert len(told) == 26
    assert told == {code: actual[code] for code in told}


def test_a_failed_read_changed_nothing_and_says_so() -> None:
    """Also if what failed is a disk or a connection; and another replica has its own disk."""
    for error in (Timeout("late"), CoordinatorLost("gone"), StorageError("broken")):
        wire = pb.Error.FromString(error_trailer(as_read_error(error), is_read=True))
        assert (wire.definite, wire.retryable) == (True, True)
    assert type(as_read_error(Timeout("late", needed=2))) is ReadTimeout


def test_an_error_keeps_its_numbers() -> None:
    """Numbers as numbers, the pause for itself, all else as text; nothing of what is None."""
    error = WriteQuorumUnsatisfied("short", acked=1, needed=2, retry_after_s=0.25, node=b"\x01", why="x", nothing=None)

    wire = pb.Error.FromString(error_trailer(error, operation_id=ID))

    assert (wire.code, wire.definite, wire.retryable) == ("write_quorum_unsatisfied", False, True)
    assert (dict(wire.numbers), dict(wire.texts)) == ({"acked": 1, "needed": 2}, {"node": "01", "why": "x"})
    assert (wire.retry_after_s, wire.operation_id) == (0.25, ID)
    assert not pb.Error.FromString(error_trailer(NoSuchBucket("x"))).HasField("retry_after_s")


def test_a_trailer_is_small_whatever_an_error_says() -> None:
    """Metadata above some kilobytes would cost the caller the whole error."""
    details = {f"detail {number} " + "n" * 100: "\U0001f600" * 1_000 for number in range(100)}

    trailer = error_trailer(Overloaded("\U0001f600" * 10_000, **details, big=1 << 70), operation_id=ID)

    assert len(trailer) <= TRAILER_SIZE_BYTES_MAX
    assert pb.Error.FromString(trailer).code == "overloaded"
