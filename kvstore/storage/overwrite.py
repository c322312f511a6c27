"""Overwrites: the record of a put that replaces the only live value, spliced instead of decoded and encoded again.

    vector   … actor, n …       ─►  … actor, n + 1 …
    operations  packed          ─►  packed + the new one, the oldest dropped beyond OPERATIONS_KEPT_MAX
    one sibling                 ─►  the new one

Nearly every overwrite is of this form: one live value, an actor the record knows, a newer operation id, a later time. Everything
else is None here and takes the general way (`decode_record`, `update` or `update_lww`, `encode_record`), of which this must be an
exact copy: tests/storage/test_overwrite.py holds the two together byte for byte.
"""

from __future__ import annotations

from kvstore.causality.dvvset import Sibling
from kvstore.causality.version_vector import VECTOR_ENTRY_SIZE_BYTES
from kvstore.ids import ACTOR_SIZE_BYTES, ActorId, StorageKey
from kvstore.limits import OPERATIONS_KEPT_MAX
from kvstore.storage.record import OPERATION, RecordView, pack_record, value_hash

__all__ = ["actor_counter", "overwrite"]

_OPERATION_ID_SIZE = 16


def actor_counter(view: RecordView, actor: ActorId) -> int:
    """Return how many dots of the actor the record has seen, 0 if none."""
    start = view.encoded_vector.find(actor)
    if start < 0 or start % VECTOR_ENTRY_SIZE_BYTES:
        return 0
    return int.from_bytes(view.encoded_vector[start + ACTOR_SIZE_BYTES : start + VECTOR_ENTRY_SIZE_BYTES], "big")


def overwrite(key: StorageKey, view: RecordView, new: Sibling, digest: bytes) -> tuple[bytes, bytes] | None:
    """Return (record, encoded vector) with `new` in place of the record's one value, or None if it is not that simple.

    `new` must carry the actor's next counter. None also if `new` may be a retry: the general way decides about those.
    """
    start = view.encoded_vector.find(new.actor)
    if len(view.fields) != 6 or start < 0 or start % VECTOR_ENTRY_SIZE_BYTES or new.hlc <= view.hlc_max:
        return None
    operations = view.operations or _implied(view)
    if new.operation_id <= operations[-OPERATION.size : _OPERATION_ID_SIZE - OPERATION.size]:
        return None
    index = start // VECTOR_ENTRY_SIZE_BYTES
    operations += OPERATION.pack(new.operation_id, digest, index, new.counter)
    operations = operations[-OPERATIONS_KEPT_MAX * OPERATION.size :]
    counter_at = start + ACTOR_SIZE_BYTES
    vector = view.encoded_vector[:counter_at] + new.counter.to_bytes(8, "big") + view.encoded_vector[counter_at + 8 :]
    record = pack_record(
        key, vector, operations, (index, new.counter, new.hlc, new.expires, new.operation_id, new.value)
    )
    return record, vector


def _implied(view: RecordView) -> bytes:
    """Return the packed operation of a record that does not write it twice."""
    index, counter, _, expires, operation_id, value = view.fields
    return OPERATION.pack(operation_id, value_hash(value, expires), index, counter)
