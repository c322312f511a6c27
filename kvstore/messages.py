"""The verbs of the wire, their statuses and their bodies: what one operation in a frame may say.

    request   (id, verb, placement_version, remaining_ms, key, body)
    reply     (id, status, body)

`key` is the object name for client verbs and the storage key for peer verbs. Bodies are `bytes`: either a flat msgpack
array (decoded with the limits below) or a raw record. ONLY APPEND to the enums: values are part of the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack
import msgspec

from kvstore.errors import DecodeError
from kvstore.flat import unpack_flat
from kvstore.limits import CONTEXT_SIZE_BYTES_MAX

__all__ = [
    "CONSISTENCY_ALL", "CONSISTENCY_QUORUM", "PROTOCOL_VERSION", "GetReply", "GetRequest", "PutReply",
    "PutRequest", "Status", "Verb", "WireSibling", "asking_history", "decode_delete", "decode_get", "decode_get_reply",
    "decode_put", "decode_put_reply", "encode_get_reply", "encode_body", "decode_body", "get_reply_fields", "in_session",
]  # fmt: skip

PROTOCOL_VERSION = 1
CONSISTENCY_QUORUM = 101
"""Symbolic count on the wire: N // 2 + 1 of the cluster's N (never clamped: it is explicit)."""
CONSISTENCY_ALL = 102
"""Symbolic count on the wire: N."""


class Verb(IntEnum):
    """What a request asks for. 1-31 from clients, 32-63 between nodes. ONLY APPEND."""

    PART = 0
    PUT = 1
    GET = 2
    DELETE = 3
    TOPOLOGY = 8
    STATUS = 9
    BUCKET_CREATE = 10
    JOIN = 11
    REPLICATE = 32
    REPLICATE_EARLY = 33
    FETCH = 34
    FORWARDED_PUT = 36
    FORWARDED_GET = 37
    FORWARDED_DELETE = 38
    PING = 40
    TOPOLOGY_ADOPT = 41
    MOVED = 42
    """A joiner tells the founder how far it is; see cluster/membership/receiver.py."""
    FORWARDED_ADMIN = 43
    REPLICATE_GROUP = 44
    """Many REPLICATEs in one operation; see kvstore/groups.py."""
    FETCH_GROUP = 45
    SCAN = 46
    """A page of a partition's records; see kvstore/pages.py."""


class Status(IntEnum):
    """How a reply ended. ONLY APPEND."""

    OK = 0
    PART = 1
    APPLIED = 2
    """Applied but not yet durable; a second reply (OK or ERROR) with the same id follows."""
    ERROR = 3
    """`body` is `errors.error_to_wire`."""


class PutRequest(NamedTuple):
    """What a PUT asks, and a DELETE: that is a put of a tombstone, `value` None, which replaces exactly what `context` covers.

    `context` None is blind; consistency None is the bucket's default. `tells_history` is a session's: the reply then says
    what the write has seen also if it left siblings, as a context that only reads take.
    """

    operation_id: bytes
    value: bytes | None
    context: bytes | None
    ttl_ms: int
    w: int | None
    dw: int | None
    pw: int | None
    tells_history: bool = False


class DeleteBody(NamedTuple):
    """Body of DELETE."""

    operation_id: bytes
    context: bytes
    w: int | None
    dw: int | None
    pw: int | None
    tells_history: bool = False


class GetRequest(NamedTuple):
    """Body of GET (an empty body means all defaults). `history` is a session's: a context of what the answer has to cover."""

    r: int | None
    pr: int | None
    history: bytes | None = None


class PutReply(NamedTuple):
    """Body of an OK reply to PUT and DELETE. `context` is empty when siblings were left: read before overwriting."""

    acked: int
    needed: int
    n: int
    primaries_acked: int
    durable: int
    siblings: int
    superseded: bool
    context: bytes


class WireSibling(NamedTuple):
    """One live value of a GET reply. `expires_ms` is 0 or milliseconds since 1970."""

    actor: bytes
    counter: int
    hlc: int
    expires_ms: int
    value: bytes


class GetReply(NamedTuple):
    """Body of an OK reply to GET. No siblings means not found; `context` then covers the tombstones, or is empty."""

    context: bytes
    replied: int
    n: int
    primaries_replied: int
    siblings: list[WireSibling]


_ONE_CALL_SIZE_BYTES_MAX = 8 * 1024
_packer = msgpack.Packer(autoreset=True)
# The bodies of every put and get, decoded and checked in one call of C: their fields' number and types stand in the type, so
# nothing nested or too long is ever allocated. 0.2 us each, where a flat list that is then checked and copied takes 1 to 1.6.
_put_request = msgspec.msgpack.Decoder(PutRequest).decode
_delete_request = msgspec.msgpack.Decoder(DeleteBody).decode
_put_reply = msgspec.msgpack.Decoder(PutReply).decode
_get_reply_of_one = msgspec.msgpack.Decoder(tuple[bytes, int, int, int, bytes, int, int, int, bytes]).decode
_TRUE = b"\xc3"
_HEADER_OF_ONE = b"\x99"
"""How the reply to a get with one value begins: an array of nine fields."""


def encode_body(fields: Any) -> bytes:
    """Encode a flat list of scalars as a body."""
    packed: bytes = _packer.pack(fields)
    return packed


def decode_body(body: bytes, *, fields_max: int = 4_096) -> list[Any]:
    """Decode a flat msgpack array; anything else is a `DecodeError`. The caller checks the fields' types."""
    try:
        if body[:1] < b"\xa0" and len(body) <= _ONE_CALL_SIZE_BYTES_MAX:
            # A short header in a small body: nothing it could nest is worth the slower, flat decoding.
            fields = msgpack.unpackb(body, max_array_len=15, max_map_len=0, max_ext_len=0)
            if type(fields) is list and len(fields) <= fields_max:
                return fields
        return unpack_flat(body, fields_max=fields_max, text_length_max=65_536)
    except (ValueError, TypeError, msgpack.UnpackException) as problem:
        raise DecodeError(f"unreadable body: {problem}") from None


def _check_counts(*counts: Any) -> None:
    for count in counts:
        if count is not None and (type(count) is not int or not 0 <= count <= CONSISTENCY_ALL):
            raise DecodeError("a consistency count must be a small integer or nil")


def _check_context(context: Any) -> None:
    if type(context) is not bytes or len(context) > CONTEXT_SIZE_BYTES_MAX:
        raise DecodeError(f"a context must be at most {CONTEXT_SIZE_BYTES_MAX} bytes")


def decode_put(body: bytes) -> PutRequest:
    """Decode and check the body of PUT; `DecodeError` if it is not one."""
    try:
        request = _put_request(body)
    except msgspec.DecodeError as problem:
        raise DecodeError(f"not the body of PUT: {problem}") from None
    operation_id, value, context, ttl_ms, w, dw, pw, _ = request
    if len(operation_id) != 16 or value is None:
        raise DecodeError("PUT needs a 16-byte operation id and a value")
    if not 0 <= ttl_ms < 1 << 45:
        raise DecodeError("ttl_ms out of range")
    if context is not None:
        _check_context(context)
    if w is not None or dw is not None or pw is not None:
        _check_counts(w, dw, pw)
    return request


def decode_delete(body: bytes) -> PutRequest:
    """Decode and check the body of DELETE into a put of a tombstone; `DecodeError` if it is not one."""
    try:
        request = _delete_request(body)
    except msgspec.DecodeError as problem:
        raise DecodeError(f"not the body of DELETE: {problem}") from None
    if len(request.operation_id) != 16:
        raise DecodeError("DELETE needs a 16-byte operation id")
    operation_id, context, w, dw, pw, tells_history = request
    _check_context(context)
    _check_counts(w, dw, pw)
    return PutRequest(operation_id, None, context, 0, w, dw, pw, tells_history)


_GET_DEFAULTS = GetRequest(None, None)


def decode_get(body: bytes) -> GetRequest:
    """Decode and check the body of GET; `DecodeError` if it is not one."""
    if not body:
        return _GET_DEFAULTS
    fields = decode_body(body, fields_max=3)
    if not 2 <= len(fields) <= 3:
        raise DecodeError("GET takes 2 fields, or 3 in a session", fields=len(fields))
    _check_counts(*fields[:2])
    if len(fields) == 3 and fields[2] is not None:
        _check_context(fields[2])
    return GetRequest(*fields)


def in_session(body: bytes, history: bytes) -> bytes:
    """Return the body of GET with what its answer has to cover."""
    r, pr, _ = decode_get(body)
    return encode_body((r, pr, history))


def asking_history(body: bytes) -> bytes:
    """Return the body of PUT or DELETE, asking for what the write has seen: one field more, which its first byte counts."""
    return bytes((body[0] + 1,)) + body[1:] + _TRUE


def decode_put_reply(body: bytes) -> PutReply:
    """Decode the body of an OK reply to PUT or DELETE."""
    try:
        return _put_reply(body)
    except msgspec.DecodeError as problem:
        raise DecodeError(f"not the reply to a put: {problem}") from None


def encode_get_reply(context: bytes, replied: int, n: int, primaries_replied: int, flat_siblings: list[Any]) -> bytes:
    """Encode a GET reply; `flat_siblings` holds actor, counter, hlc, expires_ms, value for each live value in turn."""
    packed: bytes = _packer.pack([context, replied, n, primaries_replied, *flat_siblings])
    return packed


def get_reply_fields(body: bytes) -> Sequence[Any]:
    """Decode the body of an OK reply to GET (may be up to REASSEMBLY_BYTES_MAX long) into the four fields of its head, and five
    for each sibling in turn."""
    if body[:1] == _HEADER_OF_ONE:  # nearly every answer
        try:
            return _get_reply_of_one(body)
        except msgspec.DecodeError as problem:
            raise DecodeError(f"not the reply to a get: {problem}") from None
    fields = decode_body(body, fields_max=65_536)
    if len(fields) < 4 or (len(fields) - 4) % 5 or type(fields[0]) is not bytes:
        raise DecodeError("a get reply has 4 fields and 5 for each sibling")
    return fields


def decode_get_reply(body: bytes) -> GetReply:
    """Decode the body of an OK reply to GET, siblings included."""
    context, replied, n, primaries_replied, *flat = get_reply_fields(body)
    rest = iter(flat)
    siblings = [WireSibling(*five) for five in zip(rest, rest, rest, rest, rest, strict=True)]
    return GetReply(context, replied, n, primaries_replied, siblings)
