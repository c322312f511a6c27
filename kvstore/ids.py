"""Identifiers that travel between nodes, and the object types: the nouns every other module shares.

All ids are `bytes` so that they compare, hash and go on the wire without conversion; people see them as hex.
Rule for editing: sizes and enum values here are part of the disk and wire formats.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NewType

__all__ = [
    "ACTOR_SIZE_BYTES",
    "CLUSTER_ID_SIZE_BYTES",
    "NODE_ID_SIZE_BYTES",
    "OPERATION_ID_SIZE_BYTES",
    "ActorId",
    "ClusterId",
    "HlcTimestamp",
    "NodeId",
    "ObjectType",
    "OperationId",
    "PartitionId",
    "StorageKey",
    "Token",
    "short_id",
]

NodeId = NewType("NodeId", bytes)
"""8 random bytes, minted with the data directory and never reused."""
ClusterId = NewType("ClusterId", bytes)
"""16 random bytes, minted by the founding node."""
PartitionId = NewType("PartitionId", int)
"""Index of a ring slice, 0 <= partition < Q."""
Token = NewType("Token", int)
"""Position on the ring, 0 <= token < 2**64."""
ActorId = NewType("ActorId", bytes)
"""node id (8) + partition (4, big endian) + random actor epoch (8): who mints dots (see causality/actor.py)."""
OperationId = NewType("OperationId", bytes)
"""16 bytes chosen by the client: 8 of time (big endian ns), 8 of randomness. The same id twice is one write."""
StorageKey = NewType("StorageKey", bytes)
"""token (8, big endian) + object name: what the engine sorts by (see storage/keyspace.py)."""
HlcTimestamp = NewType("HlcTimestamp", int)
"""Hybrid logical time: milliseconds since 1970 << 16 | logical counter. Fits an unsigned 64-bit integer."""

NODE_ID_SIZE_BYTES = 8
CLUSTER_ID_SIZE_BYTES = 16
ACTOR_SIZE_BYTES = 20
OPERATION_ID_SIZE_BYTES = 16


class ObjectType(IntEnum):
    """Conflict rule of an object; part of its identity. ONLY APPEND: values are part of the format."""

    REGISTER = 1
    LWW = 2


def short_id(identifier: bytes) -> str:
    """Return the first four hex digits, which is how people tell nodes apart in logs and tables."""
    return identifier.hex()[:4]
