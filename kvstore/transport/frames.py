"""Frames: the unit of work on the wire, one flat msgpack array of scalars.

    HELLO     [0, protocol_min, protocol_max, cluster id, node id, boot number, boot nonce, topology epoch, address, capabilities]
    REQUESTS  [1, sent at, then for each operation: id, verb, placement_version, remaining_ms, key, body]
    REPLIES   [2, topology epoch, then for each operation: id, status, body]
    REFUSED   [3, error]                  the connection ends after it

Flat, because nested lists let a 4 MiB frame allocate 309 MB (see kvstore/flat.py). Bodies are bytes that are
decoded later, each with limits of its own. Every malformed frame is a `DecodeError` and costs at most its connection.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from kvstore.errors import DecodeError
from kvstore.flat import unpack_flat
from kvstore.ids import CLUSTER_ID_SIZE_BYTES, NODE_ID_SIZE_BYTES
from kvstore.limits import FRAME_OPERATIONS_MAX, FRAME_SIZE_BYTES_MAX
from kvstore.messages import PROTOCOL_VERSION

__all__ = [
    "FrameKind",
    "Hello",
    "REPLY_STRIDE",
    "REQUEST_FIRST",
    "REQUEST_STRIDE",
    "decode_frame",
    "encode_frame",
    "hello_fields",
    "hello_from",
]

REQUEST_FIRST = 2
"""Where the first operation of a REQUESTS frame begins, behind the milliseconds of the sender's own clock: see lateness.py."""
REQUEST_STRIDE = 6
REPLY_STRIDE = 3
_FIELDS_MAX = 2 + REQUEST_STRIDE * FRAME_OPERATIONS_MAX
_FIRST_FIELD = {0xDC: 3, 0xDD: 5}
"""Where an array's first field begins, by the array's first byte; 1 for all others."""
_KINDS_WITHOUT_TEXT = (b"\x01", b"\x02", b"\x03")
_INT: set[type] = {int}
_BYTES: set[type] = {bytes}
_pack = msgspec.msgpack.Encoder().encode  # the bytes are msgpack's own, in a third of the time (2 µs for 50 requests)


class FrameKind(IntEnum):
    """First field of every frame. ONLY APPEND."""

    HELLO = 0
    REQUESTS = 1
    REPLIES = 2
    REFUSED = 3


class Hello(NamedTuple):
    """Who speaks. `cluster_id` empty: any cluster will do (a client, or a node that has none yet); `node_id` empty: a client."""

    protocol_min: int = PROTOCOL_VERSION
    protocol_max: int = PROTOCOL_VERSION
    cluster_id: bytes = b""
    node_id: bytes = b""
    boot_number: int = 0
    boot_nonce: int = 0
    topology_epoch: int = 0
    address: str = ""
    capabilities: str = ""


def encode_frame(fields: list[Any]) -> bytes:
    """Encode a whole frame; the caller keeps it within FRAME_SIZE_BYTES_MAX. Plain bytes and ints: no subclass but an enum."""
    return _pack(fields)


def hello_fields(hello: Hello) -> list[Any]:
    """Return the fields of a HELLO frame."""
    return [FrameKind.HELLO, *hello]


def hello_from(fields: list[Any]) -> Hello:
    """Return the Hello of a decoded HELLO frame; more fields than we know are a newer peer's and ignored."""
    if len(fields) < 10:
        raise DecodeError("HELLO has 9 fields", fields=len(fields) - 1)
    hello = Hello(*fields[1:10])
    numbers = (hello.protocol_min, hello.protocol_max, hello.boot_number, hello.boot_nonce, hello.topology_epoch)
    texts = (hello.address, hello.capabilities)
    if not all(type(n) is int and n >= 0 for n in numbers) or not all(type(t) is str and len(t) <= 256 for t in texts):
        raise DecodeError("HELLO has fields of the wrong type")
    _check_id("cluster", hello.cluster_id, CLUSTER_ID_SIZE_BYTES)
    _check_id("node", hello.node_id, NODE_ID_SIZE_BYTES)
    return hello


def _check_id(whose: str, identifier: object, size_bytes: int) -> None:
    """An id is whole or empty: part of one would be remembered as somebody (storage/identity.py)."""
    if type(identifier) is not bytes:
        raise DecodeError("HELLO has fields of the wrong type")
    if len(identifier) not in (0, size_bytes):
        raise DecodeError(f"a {whose} id has {size_bytes} bytes, or none", size_bytes=len(identifier))


def decode_frame(frame: bytes) -> list[Any]:
    """Decode one frame into its flat fields, of the right types and count; anything else is a `DecodeError`."""
    if len(frame) > FRAME_SIZE_BYTES_MAX:
        raise DecodeError("frame too large", size_bytes=len(frame), limit_bytes=FRAME_SIZE_BYTES_MAX)
    try:
        fields = unpack_flat(frame, fields_max=_FIELDS_MAX, text_length_max=_text_length_max(frame))
    except ValueError as problem:
        raise DecodeError(f"unreadable frame: {problem}") from None
    if not fields:
        raise DecodeError("a frame begins with its kind")
    _check(fields)
    return fields


def _text_length_max(frame: bytes) -> int:
    """Only HELLO holds texts: frames of operations take the faster way. Looks at the kind, wherever the header puts it."""
    first = _FIRST_FIELD.get(frame[0], 1) if frame else 0
    return 0 if frame[first : first + 1] in _KINDS_WITHOUT_TEXT else 4_096


def _check(fields: list[Any]) -> None:
    kind = fields[0]
    if kind == FrameKind.REQUESTS and type(kind) is int:
        if len(fields) < 2 or type(fields[1]) is not int:
            raise DecodeError("REQUESTS begins with the time it was sent at")
        _check_columns(fields, REQUEST_FIRST, REQUEST_STRIDE, (_INT, _INT, _INT, _INT, _BYTES, _BYTES))
    elif kind == FrameKind.REPLIES and type(kind) is int:
        if len(fields) < 2 or type(fields[1]) is not int:
            raise DecodeError("REPLIES begins with the topology epoch")
        _check_columns(fields, 2, REPLY_STRIDE, (_INT, _INT, _BYTES))
    elif type(kind) is not int or kind not in (FrameKind.HELLO, FrameKind.REFUSED):
        raise DecodeError("unknown kind of frame")
    elif kind == FrameKind.REFUSED and (len(fields) != 2 or type(fields[1]) is not bytes):
        raise DecodeError("REFUSED carries one error")


def _check_columns(fields: list[Any], start: int, stride: int, kinds: tuple[set[type], ...]) -> None:
    if (len(fields) - start) % stride or len(fields) == start:
        raise DecodeError("a frame ends in the middle of an operation", fields=len(fields))
    for column, kind in enumerate(kinds):
        if set(map(type, fields[start + column :: stride])) != kind:
            raise DecodeError("an operation has a field of the wrong type", field=column)
