"""Version vectors: for each actor, how many of its dots a state has seen.

A vector is a plain `dict[ActorId, int]` (counter >= 1), because it is built and compared on every request; an actor that is
missing has counter 0. A *dot* `(actor, counter)` is covered by a vector that has at least that counter, so a vector always
stands for a downward closed set of dots.

Encoded form: actors in ascending byte order, each actor (20 bytes) followed by its counter (8 bytes, big endian): canonical,
so equal vectors are equal bytes. Source: Preguiça et al., "Dotted Version Vectors", 2010.
"""

from __future__ import annotations

import struct
from enum import Enum

from kvstore.errors import DecodeError
from kvstore.ids import ActorId
from kvstore.limits import VECTOR_ENTRIES_STORED_MAX

__all__ = [
    "Relation",
    "VersionVector",
    "compare",
    "covers",
    "decode_vector",
    "descends",
    "encode_vector",
    "merge_vectors",
]

VersionVector = dict[ActorId, int]

_ENTRY = struct.Struct(">20sQ")
VECTOR_ENTRY_SIZE_BYTES = _ENTRY.size
COUNTER_MAX = (1 << 63) - 1


class Relation(Enum):
    """How one history stands to another."""

    EQUAL = "equal"
    DOMINATES = "dominates"
    DOMINATED = "dominated"
    CONCURRENT = "concurrent"


def covers(vector: VersionVector, actor: ActorId, counter: int) -> bool:
    """Return whether the dot (actor, counter) is in the history that `vector` stands for."""
    return vector.get(actor, 0) >= counter


def descends(ours: VersionVector, theirs: VersionVector) -> bool:
    """Return whether `ours` covers everything that `theirs` covers (also when they are equal)."""
    for actor, counter in theirs.items():
        if ours.get(actor, 0) < counter:
            return False
    return True


def compare(ours: VersionVector, theirs: VersionVector) -> Relation:
    """Return how `ours` stands to `theirs`. O(len(ours) + len(theirs))."""
    if ours == theirs:
        return Relation.EQUAL
    if descends(ours, theirs):
        return Relation.DOMINATES
    return Relation.DOMINATED if descends(theirs, ours) else Relation.CONCURRENT


def merge_vectors(ours: VersionVector, theirs: VersionVector) -> VersionVector:
    """Return the least upper bound. Commutative, associative, idempotent; neither argument is modified."""
    merged = dict(ours)
    for actor, counter in theirs.items():
        if merged.get(actor, 0) < counter:
            merged[actor] = counter
    return merged


def encode_vector(vector: VersionVector) -> bytes:
    """Return the canonical bytes; the empty vector is empty bytes."""
    if len(vector) == 1:  # nearly every record of a healthy cluster
        for actor, counter in vector.items():
            return _ENTRY.pack(actor, counter)
    return b"".join([_ENTRY.pack(actor, vector[actor]) for actor in sorted(vector)])


def is_next_of_one(ours: bytes, theirs: bytes) -> ActorId | None:
    """Return the actor whose next dot is all that encoded `theirs` has and `ours` has not, or None if it is not so simple."""
    if len(ours) != len(theirs):
        return None
    if len(ours) == _ENTRY.size:  # nearly every record
        (actor, counter), (their_actor, their_counter) = _ENTRY.unpack(ours), _ENTRY.unpack(theirs)
        return actor if actor == their_actor and counter + 1 == their_counter else None
    if len(ours) % _ENTRY.size:
        return None  # no vector at all: who decodes it says so
    stepped: ActorId | None = None
    for start in range(0, len(ours), _ENTRY.size):
        end = start + _ENTRY.size
        if ours[start:end] == theirs[start:end]:
            continue
        actor, counter = _ENTRY.unpack_from(ours, start)
        if stepped is not None or _ENTRY.unpack_from(theirs, start) != (actor, counter + 1):
            return None
        stepped = actor
    return stepped


def decode_vector(encoded: bytes, entries_max: int = VECTOR_ENTRIES_STORED_MAX) -> VersionVector:
    """Decode canonical bytes; `DecodeError` if they are not exactly what `encode_vector` makes, or of too many actors."""
    if len(encoded) % _ENTRY.size or len(encoded) > entries_max * _ENTRY.size:
        raise DecodeError("a version vector has 28 bytes an entry", size_bytes=len(encoded))
    if len(encoded) == _ENTRY.size:  # nearly every record
        actor, counter = _ENTRY.unpack(encoded)
        if 0 < counter <= COUNTER_MAX:
            return {actor: counter}
    vector: VersionVector = {}
    last = b""
    for actor, counter in _ENTRY.iter_unpack(encoded):
        if actor <= last or not 0 < counter <= COUNTER_MAX:
            raise DecodeError("a version vector has ascending actors and positive counters")
        vector[actor] = counter
        last = actor
    return vector
