"""Contexts: the opaque causal token a read gives and a write hands back.

    format (1) | hash of the object's name (8) | highest HLC time it covers (8, big endian) | encoded version vector

The name hash makes a context useless on another key (`InvalidContext`); the HLC lets the coordinator mint a later time than
anything the client saw. An empty context is the unusable one that a put with siblings returns.

A *history* is a context of format 2: it says what a session has seen, or what its put has that left siblings. A read takes it as
the least that it has to show. No write does: it may cover siblings that nobody was shown.
"""

from __future__ import annotations

import struct

from kvstore.causality.version_vector import VersionVector, decode_vector
from kvstore.errors import DecodeError, InvalidContext
from kvstore.ids import HlcTimestamp
from kvstore.limits import VECTOR_ENTRIES_MAX, VECTOR_ENTRIES_STORED_MAX

__all__ = [
    "CONTEXT_FORMAT", "HISTORY_FORMAT", "UNUSABLE", "decode_context", "decode_history", "encode_context",
    "encode_history", "is_history",
]  # fmt: skip

CONTEXT_FORMAT = 1
HISTORY_FORMAT = 2
UNUSABLE = b""
_HEADER = struct.Struct(">B8sQ")


def encode_context(token: bytes, hlc: int, encoded_vector: bytes) -> bytes:
    """Return a context for the object whose name hashes to `token` (the first 8 bytes of its storage key)."""
    return _HEADER.pack(CONTEXT_FORMAT, token, hlc) + encoded_vector


def encode_history(token: bytes, encoded_vector: bytes) -> bytes:
    """Return a context that only reads take."""
    return _HEADER.pack(HISTORY_FORMAT, token, 0) + encoded_vector


def is_history(context: bytes) -> bool:
    """Whether this is a context that only reads take."""
    return context[:1] == b"\x02"


def decode_context(context: bytes, token: bytes) -> tuple[VersionVector, HlcTimestamp]:
    """Return the vector and highest HLC of a context; `InvalidContext` if it is unusable, broken or of another key."""
    if not context or is_history(context):
        raise InvalidContext(
            "this context came from a put that left siblings: read the key, then write with that context"
        )
    return _decode(context, token, CONTEXT_FORMAT, VECTOR_ENTRIES_MAX)


def decode_history(context: bytes, token: bytes) -> VersionVector:
    """Return the vector of a context of either format; `InvalidContext` if it is broken or of another key."""
    return _decode(context, token, HISTORY_FORMAT, VECTOR_ENTRIES_STORED_MAX)[0]


def _decode(
    context: bytes, token: bytes, format_max: int, entries_max: int
) -> tuple[VersionVector, HlcTimestamp]:  # fmt: skip
    if len(context) < _HEADER.size:
        raise InvalidContext("not a context", size_bytes=len(context))
    version, of_token, hlc = _HEADER.unpack_from(context)
    if not CONTEXT_FORMAT <= version <= format_max:
        raise InvalidContext(f"context has format {version}, this node reads {format_max}")
    if of_token != token:
        raise InvalidContext("the context belongs to another key")
    try:
        return decode_vector(context[_HEADER.size :], entries_max), hlc
    except DecodeError as problem:
        raise InvalidContext(f"broken context: {problem.message}") from None
