"""Contexts: the opaque causal token a read gives and a write hands back.

    format (1) | hash of the object's name (8) | highest HLC time it covers (8, big endian) | encoded version vector

The name hash makes a context useless on another key (`InvalidContext`); the HLC lets the coordinator mint a later time than
anything the client saw. An empty context is the unusable one that a put with siblings returns.
"""

from __future__ import annotations

import struct

from kvstore.causality.version_vector import VersionVector, decode_vector
from kvstore.errors import DecodeError, InvalidContext
from kvstore.ids import HlcTimestamp
from kvstore.limits import VECTOR_ENTRIES_MAX

__all__ = ["CONTEXT_FORMAT", "UNUSABLE", "decode_context", "encode_context"]

CONTEXT_FORMAT = 1
UNUSABLE = b""
_HEADER = struct.Struct(">B8sQ")


def encode_context(token: bytes, hlc: int, encoded_vector: bytes) -> bytes:
    """Return a context for the object whose name hashes to `token` (the first 8 bytes of its storage key)."""
    return _HEADER.pack(CONTEXT_FORMAT, token, hlc) + encoded_vector


def decode_context(context: bytes, token: bytes) -> tuple[VersionVector, HlcTimestamp]:
    """Return the vector and highest HLC of a context; `InvalidContext` if it is unusable, broken or of another key."""
    if not context:
        raise InvalidContext(
            "this context came from a put that left siblings: read the key, then write with that context"
        )
    if len(context) < _HEADER.size:
        raise InvalidContext("not a context", size_bytes=len(context))
    version, of_token, hlc = _HEADER.unpack_from(context)
    if version != CONTEXT_FORMAT:
        raise InvalidContext(f"context has format {version}, this node reads {CONTEXT_FORMAT}")
    if of_token != token:
        raise InvalidContext("the context belongs to another key")
    try:
        return decode_vector(context[_HEADER.size :], VECTOR_ENTRIES_MAX), hlc
    except DecodeError as problem:
        raise InvalidContext(f"broken context: {problem.message}") from None
