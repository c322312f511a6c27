"""The short way of an overwrite makes the very bytes of the general way, or steps aside."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update, update_lww
from kvstore.ids import ActorId, HlcTimestamp, ObjectType, OperationId
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.overwrite import overwrite
from kvstore.storage.record import RecordView, encode_record, value_hash, view_record

ACTORS = [ActorId(bytes([letter]) * 20) for letter in b"abc"]
KEY = storage_key(object_name("default", ObjectType.LWW, b"k"))
VALUES = st.one_of(st.none(), st.binary(max_size=9))
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTORS), st.integers(0, 60), st.integers(1, 40), st.booleans(), VALUES),
    min_size=1, max_size=30,
)  # fmt: skip


def sibling(state: DVVSet, actor: ActorId, operation: int, hlc: int, expires: bool, value: bytes | None) -> Sibling:
    counter = state.vector.get(actor, 0) + 1
    operation_id = OperationId(operation.to_bytes(16, "big"))
    return Sibling(actor, counter, HlcTimestamp(hlc), HlcTimestamp(99 if expires else 0), operation_id, value)


def replaced(view: RecordView, new: Sibling, digest: bytes) -> tuple[bytes, bytes] | None:
    return overwrite(KEY, view, new.actor, new.hlc, new.expires, new.operation_id, new.value, digest)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.booleans())
def test_the_short_way_equals_the_general_way(
    steps: list[tuple[ActorId, int, int, bool, bytes | None]], lww: bool
) -> None:
    """Over any history: where `overwrite` gives a record, it is the one that decoding, updating and encoding give."""
    state = EMPTY
    for actor, operation, hlc, expires, value in steps:
        new = sibling(state, actor, operation, hlc, expires, value)
        digest = value_hash(value, new.expires)
        general, superseded = (
            update_lww(state, new, digest) if lww else (update(state, state.vector, new, digest), False)
        )
        if state.vector:
            view = view_record(encode_record(KEY, state))
            made = replaced(view, new, digest)
            if made is not None:
                assert not superseded and made[0] == encode_record(KEY, general)
        state = general


def test_the_short_way_is_taken_by_a_plain_overwrite() -> None:
    """Same actor, newer operation, later time: not stepping aside is the point of it."""
    first, _ = update_lww(EMPTY, sibling(EMPTY, ACTORS[0], 1, 1, False, b"v"), value_hash(b"v", 0))
    new = sibling(first, ACTORS[0], 2, 2, False, b"w")

    assert replaced(view_record(encode_record(KEY, first)), new, value_hash(b"w", 0)) is not None


def test_a_retry_is_left_to_the_general_way() -> None:
    """An operation that the record remembers, and one whose time is not later than all of these."""
    first, _ = update_lww(EMPTY, sibling(EMPTY, ACTORS[0], 5, 1, False, b"v"), value_hash(b"v", 0))

    for operation, hlc in ((5, 2), (6, 1)):
        new = sibling(first, ACTORS[0], operation, hlc, False, b"v")
        assert replaced(view_record(encode_record(KEY, first)), new, value_hash(b"v", 0)) is None
