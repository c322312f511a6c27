"""Bodies of REPLICATE_GROUP and FETCH_GROUP: many plain writes or reads of one frame as one operation between two nodes.

    REPLICATE_GROUP   [[placement version, key, record], …]     ─►  empty  or  [index, …]  of those to be asked again alone
    FETCH_GROUP       [[placement version, key], …]             ─►  [record or nil, …]     nil: ask again alone

A group carries only what needs no words. Whatever is out of the ordinary (another placement, an unreadable record, one that is
not durable yet or too large) is named in the answer and asked again by REPLICATE or FETCH, which have errors of their own: so
there is one place for each rule.

Decoded with their types by one call of C, nested only as far as shown. A body is refused by its size before it is decoded and by
its count after, so it makes us allocate at most about 30 times GROUP_BODY_BYTES_MAX, for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from kvstore.errors import DecodeError
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_OPERATIONS_MAX, GROUP_SIZE_BYTES_MAX

__all__ = [
    "GROUP_BODY_BYTES_MAX", "Fetch", "Write", "decode_fetches", "decode_records", "decode_refused", "decode_writes",
    "encode_fetches", "encode_records", "encode_refused", "encode_writes",
]  # fmt: skip

GROUP_BODY_BYTES_MAX = 2 * GROUP_SIZE_BYTES_MAX
"""A full group, its last record and what msgpack adds to each."""
Write = tuple[int, StorageKey, bytes]
"""Placement version, storage key, record."""
Fetch = tuple[int, StorageKey]
"""Placement version, storage key."""
Item = TypeVar("Item")
_encode = msgspec.msgpack.Encoder().encode
_writes = msgspec.msgpack.Decoder(list[tuple[int, bytes, bytes]])
_fetches = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
_indexes = msgspec.msgpack.Decoder(list[int])
_records = msgspec.msgpack.Decoder(list[bytes | None])


def encode_writes(writes: list[Write]) -> bytes:
    """Encode the body of REPLICATE_GROUP."""
    return _encode(writes)


def decode_writes(body: bytes) -> list[Write]:
    """Decode the body of REPLICATE_GROUP; `DecodeError` unless it is one to GROUP_OPERATIONS_MAX writes."""
    return _decoded(_writes, body)  # type: ignore[arg-type]  # a StorageKey is bytes


def encode_fetches(fetches: list[Fetch]) -> bytes:
    """Encode the body of FETCH_GROUP."""
    return _encode(fetches)


def decode_fetches(body: bytes) -> list[Fetch]:
    """Decode the body of FETCH_GROUP; `DecodeError` unless it is one to GROUP_OPERATIONS_MAX reads."""
    return _decoded(_fetches, body)  # type: ignore[arg-type]  # a StorageKey is bytes


def encode_refused(indexes: Sequence[int]) -> bytes:
    """Encode the positions of the writes that were not taken; empty if all were."""
    return _encode(indexes) if indexes else b""


def decode_refused(body: bytes, count: int) -> list[int]:
    """Decode the OK body of REPLICATE_GROUP; `DecodeError` unless it is ascending positions below `count`."""
    if not body:
        return []
    indexes = _decoded(_indexes, body)
    if any(a >= b for a, b in zip([-1, *indexes], [*indexes, count], strict=True)):
        raise DecodeError("refused writes are ascending positions in the group")
    return indexes


def encode_records(records: list[bytes | None]) -> bytes:
    """Encode the answer to FETCH_GROUP."""
    return _encode(records)


def decode_records(body: bytes, count: int) -> list[bytes | None]:
    """Decode the OK body of FETCH_GROUP; `DecodeError` unless it is `count` records or nils."""
    records = _decoded(_records, body)
    if len(records) != count:
        raise DecodeError("an answer to a group has a record or nil for each of its reads", records=len(records))
    return records


def _decoded(decoder: msgspec.msgpack.Decoder[list[Item]], body: bytes) -> list[Item]:
    if len(body) > GROUP_BODY_BYTES_MAX:
        raise DecodeError("a group is too large", size_bytes=len(body), limit_bytes=GROUP_BODY_BYTES_MAX)
    try:
        items = decoder.decode(body)
    except msgspec.DecodeError as problem:
        raise DecodeError(f"unreadable group: {problem}") from None
    if not 0 < len(items) <= GROUP_OPERATIONS_MAX:
        raise DecodeError("a group is empty or has too many operations", operations=len(items))
    return items
