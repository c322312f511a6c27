"""A user's puts broke their connection with "please report" where the record of the key was malformed behind a valid checksum.

The short ways of a put and a merge read a record without decoding it, and trusted its types: a time that is text, an index of
100,000, operations that are a number. What they raised was no `Corruption`, so the node neither refused the put nor asked
other owners for a good copy. Only a bug or another version writes such a record. Found by tests/fuzz.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import xxhash

from kvstore.causality.version_vector import encode_vector, is_next_of_one
from kvstore.errors import Corruption
from kvstore.ids import ActorId, ObjectType, StorageKey
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.overwrite import overwrite
from kvstore.storage.record import value_hash, view_record

KEY = storage_key(object_name("default", ObjectType.LWW, b"k"))
ACTOR = ActorId(b"a" * 20)
GOOD = [1, encode_vector({ACTOR: 1}), b"", 0, 1, 7, 0, bytes(16), b"value"]


def record_of(fields: list[Any]) -> bytes:
    """Return these fields as a record whose checksum is right, under a header longer than it needs to be."""
    body: bytes = b"\xdc" + len(fields).to_bytes(2, "big") + msgpack.packb(fields)[1:]
    return xxhash.xxh3_64_digest(KEY + body) + body


@pytest.mark.parametrize(
    ("field", "value"), [(2, 5), (3, b"x"), (4, 1.5), (5, b"now"), (5, None), (6, True), (7, 16), (8, 3), (1, 28)]
)
def test_a_field_of_the_wrong_type_is_corruption_for_the_short_way_too(field: int, value: Any) -> None:
    """Which a node knows how to handle: it refuses, and reads the other owners."""
    with pytest.raises(Corruption):
        view_record(record_of([*GOOD[:field], value, *GOOD[field + 1 :]]))


@pytest.mark.parametrize(("field", "value"), [(3, 100_000), (3, -1), (4, -5), (5, -1)])
def test_a_number_out_of_range_makes_the_short_way_step_aside(field: int, value: int) -> None:
    """The general way then decodes the record, and says what is wrong with it."""
    view = view_record(record_of([*GOOD[:field], value, *GOOD[field + 1 :]]))

    assert overwrite(StorageKey(KEY), view, ACTOR, 9, 0, b"o" * 16, b"new", value_hash(b"new", 0)) is None


def test_a_vector_cut_short_is_nobodys_next() -> None:
    """Two of one length that is no multiple of an entry's."""
    assert is_next_of_one(bytes(30), bytes(30)) is None
