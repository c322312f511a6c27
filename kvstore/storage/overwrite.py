"""Overwrites: the record of a put that replaces the only live value, spliced instead of decoded and encoded again.

    vector   … actor, n …       ─►  … actor, n + 1 …
    operations  packed          ─►  packed + the new one, the oldest dropped beyond OPERATIONS_KEPT_MAX
    one sibling                 ─►  the new one

Nearly every overwrite is of this form: one live value, an actor the record knows, an operation it does not, a later time.
Everything else is None here and takes the general way (`decode_record`, `update` or `update_lww`, `encode_record`), of which this
must be an exact copy: tests/storage/test_overwrite.py holds the two together byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from kvstore.causality.version_vector import COUNTER_MAX, VECTOR_ENTRY_SIZE_BYTES
from kvstore.ids import ACTOR_SIZE_BYTES, ActorId, StorageKey
from kvstore.limits import OPERATIONS_KEPT_MAX
from kvstore.storage.record import OPERATION, RecordView, pack_record, value_hash

__all__ = ["overwrite"]

_HLC_SIZE, _INDEX_MAX = 8, 65_535
_HLC_END = _HLC_SIZE - OPERATION.size
_OPERATIONS_SIZE_MAX = OPERATIONS_KEPT_MAX * OPERATION.size


def overwrite(
    key: StorageKey, view: RecordView, actor: ActorId, hlc: int, expires: int, operation_id: bytes, value: bytes | None,
    digest: bytes,
) -> tuple[bytes, bytes] | None:  # fmt: skip
    """Return (record, encoded vector) with a new value in place of the record's one, or None if it is not that simple.

    The value gets the actor's next dot. `digest` is its `value_hash`. None also if the put may be a retry: the general way
    decides about those.
    """
    encoded_vector, hlc_max, fields, operations = view
    start = encoded_vector.find(actor)
    if len(fields) != 6 or start < 0 or start % VECTOR_ENTRY_SIZE_BYTES or hlc <= hlc_max:
        return None
    try:
        operations = operations or _implied(fields)
    except struct.error:
        return None  # numbers that no record of ours has: the general way says what is wrong with it
    if operation_id in operations or hlc.to_bytes(_HLC_SIZE, "big") <= operations[-OPERATION.size : _HLC_END]:
        return None
    index, counter_at = start // VECTOR_ENTRY_SIZE_BYTES, start + ACTOR_SIZE_BYTES
    counter = int.from_bytes(encoded_vector[counter_at : counter_at + 8], "big") + 1
    if counter > COUNTER_MAX or index > _INDEX_MAX:
        return None
    operations += OPERATION.pack(hlc, operation_id, digest, index, counter)
    if len(operations) > _OPERATIONS_SIZE_MAX:
        operations = operations[-_OPERATIONS_SIZE_MAX:]
    vector = encoded_vector[:counter_at] + counter.to_bytes(8, "big") + encoded_vector[counter_at + 8 :]
    return pack_record(key, vector, operations, (index, counter, hlc, expires, operation_id, value)), vector


def _implied(fields: Sequence[Any]) -> bytes:
    """Return the packed operation of a record that does not write it twice."""
    index, counter, hlc, expires, operation_id, value = fields
    return OPERATION.pack(hlc, operation_id, value_hash(value, expires), index, counter)
