"""Records: the bytes of one object's state, on disk and between replicas, protected by a checksum.

    record = xxh3_64(storage key + body) (8, big endian) | body
    body   = flat msgpack array: format, encoded vector, operations,
             then for each sibling: actor, counter, hlc, expires, operation id, value (nil = tombstone)

The checksum covers the storage key, so a well-formed record in the wrong place is detected too. The encoding is canonical:
equal states are equal bytes, which is what replicas, the Merkle trie and the fast paths compare. Siblings and operations name
their actor by its index in the vector. Never tolerate an unreadable record as "not found".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgpack
import msgspec
import xxhash

from kvstore.causality.dvvset import DVVSet, Operation, Sibling
from kvstore.causality.version_vector import VECTOR_ENTRY_SIZE_BYTES, VersionVector, decode_vector, encode_vector
from kvstore.errors import Corruption, DecodeError
from kvstore.flat import unpack_flat
from kvstore.ids import ACTOR_SIZE_BYTES, StorageKey
from kvstore.limits import OPERATIONS_KEPT_MAX

__all__ = [
    "OPERATION",
    "RECORD_FORMAT",
    "RecordView",
    "check_record",
    "decode_record",
    "encode_record",
    "pack_record",
    "stored_vector",
    "vector_of",
    "value_hash",
    "view_record",
]

RECORD_FORMAT = 1
_FIELDS_BEFORE, _FIELDS_EACH = 3, 6
_FIELDS_MAX = 65_536
_ONE_CALL_SIZE_BYTES_MAX = 64 * 1024
"""Up to two siblings in so few bytes are decoded by one call in C (0.6 µs; `unpack_flat` takes 1.8 µs): nested lists could make
it allocate 5 MB at worst. What is larger or longer pays for the safe way, whose cost then disappears in its size."""
_FORMAT_AT = {0xDC: 11, 0xDD: 13}
"""Where the format stands, by the first byte of the body; at 9 behind a short header."""
OPERATION = struct.Struct(">Q16s8sHQ")
_VALUE_KIND = {bytes, type(None)}
_SIBLING_KINDS: tuple[set[type], ...] = ({int}, {int}, {int}, {int}, {bytes}, {bytes, type(None)})
_digest = xxhash.xxh3_64_digest
_pack = msgspec.msgpack.Encoder().encode  # the bytes are msgpack's own (tests/storage/test_record.py), in half the time
_decode_one = msgspec.msgpack.Decoder(tuple[int, bytes, bytes, int, int, int, int, bytes, bytes | None]).decode
_HEADER_OF_ONE = b"\x99"
"""How the body of a record with one value begins: an array of nine fields. Its types are checked as it is decoded."""


class RecordView(NamedTuple):
    """The parts of a record as they are stored. `fields` holds six for each sibling, see the module docstring."""

    encoded_vector: bytes
    hlc_max: int
    fields: Sequence[Any]
    operations: bytes
    """Packed; empty if it is the one of the only sibling."""

    def actor_of(self, index: int) -> bytes:
        """Return the actor with this index in the vector."""
        start = index * VECTOR_ENTRY_SIZE_BYTES
        return self.encoded_vector[start : start + ACTOR_SIZE_BYTES]


def value_hash(value: bytes | None, expires: int) -> bytes:
    """Return the 8 bytes by which two uses of one operation id are told apart (a ttl is part of the value)."""
    return _digest((b"\x00" if value is None else b"\x01" + value) + (b"\x01" if expires else b"\x00"))


def encode_record(storage_key: StorageKey, state: DVVSet, encoded_vector: bytes | None = None) -> bytes:
    """Return the canonical record of a non-empty state. `encoded_vector` is that of its vector, if it is at hand."""
    vector, siblings, operations = state
    actors = sorted(vector)
    body: list[Any] = [RECORD_FORMAT, encode_vector(vector) if encoded_vector is None else encoded_vector, b""]
    for actor, counter, hlc, expires, operation_id, value in siblings:
        body += (actors.index(actor), counter, hlc, expires, operation_id, value)
    # One live value and nothing overwritten is by far the most common record: its own operation is not written twice.
    if not _is_implied(operations, siblings):
        body[2] = b"".join([OPERATION.pack(t, o, h, actors.index(a), c) for t, o, h, a, c in operations])
    packed = _pack(body)
    return _digest(storage_key + packed) + packed


def pack_record(storage_key: StorageKey, encoded_vector: bytes, operations: bytes, sibling: tuple[Any, ...]) -> bytes:
    """Return the record of these parts, which must be canonical already (see overwrite.py)."""
    packed = _pack((RECORD_FORMAT, encoded_vector, operations, *sibling))
    return _digest(storage_key + packed) + packed


def _is_implied(operations: tuple[Operation, ...], siblings: tuple[Sibling, ...]) -> bool:
    if len(operations) != 1 or len(siblings) != 1:
        return False
    actor, counter, hlc, expires, operation_id, value = siblings[0]
    return operations[0] == (hlc, operation_id, value_hash(value, expires), actor, counter)


def check_record(storage_key: StorageKey, record: bytes) -> bool:
    """Return whether the checksum fits this record in this place. Decodes nothing."""
    return record[:8] == _digest(storage_key + record[8:])


def decode_record(storage_key: StorageKey, record: bytes) -> DVVSet:
    """Verify and decode a record; `Corruption` if the bytes or their place are wrong. Never a partial state."""
    if len(record) < 12 or not check_record(storage_key, record):
        raise Corruption("a record failed its checksum", key=storage_key.hex(), size_bytes=len(record))
    try:
        return _decode_body(record)
    except (ValueError, TypeError, IndexError, DecodeError, msgpack.UnpackException) as problem:
        refusal = _malformed(record, problem)
        refusal.details["key"] = storage_key.hex()
        raise refusal from None


def view_record(record: bytes) -> RecordView:
    """Return what a reader or merger needs of a record that `check_record` accepted, without building a DVVSet.

    Raises Corruption if the body is malformed.
    """
    try:
        if record[8:9] == _HEADER_OF_ONE and len(record) <= _ONE_CALL_SIZE_BYTES_MAX:
            one = _decode_one(record[8:])
            if one[0] == RECORD_FORMAT:
                return RecordView(one[1], one[5], one[_FIELDS_BEFORE:], one[2])
        form, vector, operations, *fields = _fields(record)
        _check_format(form)
        if type(vector) is not bytes or type(operations) is not bytes or len(fields) % _FIELDS_EACH:
            raise ValueError(f"a vector and operations are bytes, and a sibling has 6 fields, not {len(fields)}")
        if any(
            not set(map(type, fields[column::_FIELDS_EACH])) <= kinds for column, kinds in enumerate(_SIBLING_KINDS)
        ):
            raise ValueError("a sibling has fields of the wrong type")
        return RecordView(vector, max(fields[2::_FIELDS_EACH], default=0), fields, operations)
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as problem:
        raise _malformed(record, problem) from None


def stored_vector(record: bytes) -> bytes:
    """Return the encoded vector of a record that `check_record` accepted: `view_record(record).encoded_vector`, sooner.

    A record of up to two siblings begins, after the checksum, with three bytes: array, format, bytes of one length byte.
    """
    if record[8] & 0xF0 == 0x90 and record[9] == RECORD_FORMAT and record[10] == 0xC4:
        return record[12 : 12 + record[11]]
    return view_record(record).encoded_vector


def vector_of(record: bytes) -> VersionVector:
    """Return the vector of a record that `check_record` accepted. Raises Corruption."""
    try:
        return decode_vector(stored_vector(record))
    except DecodeError as problem:
        raise _malformed(record, problem) from None


def _decode_body(record: bytes) -> DVVSet:
    fields = _fields(record)
    _check_format(fields[0])
    if type(fields[1]) is not bytes or type(fields[2]) is not bytes:
        raise ValueError("a vector and operations are bytes")
    vector = decode_vector(fields[1])
    actors = list(vector)  # decoding checked that they are in ascending order
    if (len(fields) - _FIELDS_BEFORE) % _FIELDS_EACH:
        raise ValueError("a sibling has 6 fields")
    if len(fields) == _FIELDS_BEFORE + _FIELDS_EACH:
        siblings: tuple[Sibling, ...] = (_sibling(actors, fields[_FIELDS_BEFORE:]),)
    else:
        starts = range(_FIELDS_BEFORE, len(fields), _FIELDS_EACH)
        siblings = tuple([_sibling(actors, fields[i : i + _FIELDS_EACH]) for i in starts])
        if any(a[:2] >= b[:2] for a, b in pairwise(siblings)):
            raise ValueError("siblings are not in the order of their dots")
    for sibling in siblings:
        if vector[sibling.actor] < sibling.counter:
            raise ValueError("a sibling's dot is not covered by the vector")
    return DVVSet(vector, siblings, _operations(actors, fields[2], siblings))


def _fields(record: bytes) -> list[Any]:
    if record[8] & 0xF0 == 0x90 and len(record) <= _ONE_CALL_SIZE_BYTES_MAX:
        fields = msgpack.unpackb(memoryview(record)[8:], max_array_len=15, max_map_len=0, max_ext_len=0, max_str_len=0)
        assert type(fields) is list, "its first byte says array"
        return fields
    return unpack_flat(record, start=8, fields_max=_FIELDS_MAX)


def _malformed(record: bytes, problem: Exception) -> Corruption:
    """Return the refusal of a body. A newer format may hold anything behind its number, so the number is looked at first."""
    at = _FORMAT_AT.get(record[8], 9) if len(record) > 8 else 0
    form = record[at] if at < len(record) else 0
    if at and RECORD_FORMAT < form < 0x80:
        return Corruption(f"a record is malformed: {_newer(form)}", size_bytes=len(record))
    return Corruption(f"a record is malformed: {problem}", size_bytes=len(record))


def _newer(form: int) -> str:
    return f"record has format {form}, this build reads up to {RECORD_FORMAT}"


def _check_format(form: Any) -> None:
    if type(form) is int and form > RECORD_FORMAT:
        raise ValueError(_newer(form))
    if type(form) is not int or form != RECORD_FORMAT:
        raise ValueError("a record begins with its format")


def _sibling(actors: list[Any], fields: list[Any]) -> Sibling:
    index, counter, hlc, expires, operation_id, value = fields
    if type(value) not in _VALUE_KIND or type(operation_id) is not bytes or len(operation_id) != 16:
        raise ValueError("a sibling has fields of the wrong type")
    if not (type(counter) is type(hlc) is type(expires) is type(index) is int):
        raise ValueError("a sibling has fields of the wrong type")
    if index < 0 or hlc < 0 or expires < 0 or counter < 1:
        raise ValueError("a sibling has numbers out of range")
    return Sibling(actors[index], counter, hlc, expires, operation_id, value)  # type: ignore[arg-type]  # NewTypes


def _operations(actors: list[Any], packed: bytes, siblings: tuple[Sibling, ...]) -> tuple[Operation, ...]:
    if not packed:
        if len(siblings) != 1:
            return ()
        one = siblings[0]
        digest = value_hash(one.value, one.expires)
        return (Operation(one.hlc, one.operation_id, digest, one.actor, one.counter),)
    if len(packed) > OPERATIONS_KEPT_MAX * OPERATION.size or len(packed) % OPERATION.size:
        raise ValueError("operations have 42 bytes each and are at most 16")
    return tuple([Operation(t, o, h, actors[i], c) for t, o, h, i, c in OPERATION.iter_unpack(packed)])
