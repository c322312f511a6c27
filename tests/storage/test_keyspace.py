"""Object names and storage keys: one name per object, keys in order, tokens as published."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import DecodeError, InvalidArgument, ValueTooLarge
from kvstore.ids import ObjectType
from kvstore.limits import KEY_SIZE_BYTES_MAX
from kvstore.storage import keyspace

REGISTER, LWW = ObjectType.REGISTER, ObjectType.LWW

BUCKETS = st.text("abcXYZ019_.-", min_size=1, max_size=64)
TYPES = st.sampled_from(list(ObjectType))
# Zeros and FFs are what the escape is about, so they come often.
KEYS = st.lists(st.sampled_from([b"\x00", b"\xff", b"\x01", b"a", b"z"]), min_size=1, max_size=20).map(b"".join)

# Published in docs/formats.md, "Tokens and keys". A change here loses every stored record.
VECTORS = [
    ("default", REGISTER, b"a", "0164656661756c7400610000", "0877f700f490c975"),
    ("default", LWW, b"a", "0264656661756c7400610000", "a7a485b95c4c37a7"),
    ("default", REGISTER, b"hello", "0164656661756c740068656c6c6f0000", "e80a2985ae3dc56f"),
    ("cities.v2", REGISTER, "Zürich".encode(), "016369746965732e7632005ac3bc726963680000", "23f18e616c5387c0"),
    ("b", REGISTER, b"\x00", "01620000ff0000", "2054a6a940f6647b"),
    ("b", LWW, b"a\x00\xffb", "0262006100ffff620000", "b9d6fab67d86fb10"),
]


@pytest.mark.parametrize(("bucket", "object_type", "key", "name", "token"), VECTORS)
def test_published_vectors(bucket: str, object_type: ObjectType, key: bytes, name: str, token: str) -> None:
    """Every implementation computes these names and tokens."""
    made = keyspace.object_name(bucket, object_type, key)

    assert made.hex() == name
    assert keyspace.storage_key(made).hex() == token + name
    assert keyspace.token_of(keyspace.storage_key(made)) == int(token, 16)


def test_the_hash_is_xxh3_with_seed_zero() -> None:
    """The reference value of the empty input, from the xxHash project, so that a changed library is noticed."""
    assert xxhash.xxh3_64_hexdigest(b"") == "2d06800538d394c2"


@given(BUCKETS, TYPES, KEYS)
def test_a_name_reads_back_as_what_it_was_made_of(bucket: str, object_type: ObjectType, key: bytes) -> None:
    """`parse_name` undoes `object_name`; all accessors agree with it."""
    name = keyspace.object_name(bucket, object_type, key)

    assert keyspace.parse_name(name) == (bucket, object_type, key)
    assert keyspace.check_name(name) == keyspace.bucket_bytes(name) == bucket.encode()
    assert keyspace.object_name(bucket.encode(), object_type, key) == name
    assert keyspace.check_storage_key(keyspace.storage_key(name)) == name


@given(TYPES, KEYS, KEYS)
def test_names_sort_as_their_keys_and_none_is_a_prefix_of_another(kind: ObjectType, one: bytes, other: bytes) -> None:
    """Order preserving and self-delimiting: what sorted ranges will need."""
    name, other_name = keyspace.object_name("b", kind, one), keyspace.object_name("b", kind, other)

    assert (name < other_name) == (one < other)
    assert one == other or not other_name.startswith(name)


@given(st.lists(st.sampled_from([b"\x00", b"\xff", b"\x01", b"\x02", b"b", b"/", b"\n"]), max_size=12).map(b"".join))
def test_whatever_is_accepted_is_the_one_name_of_its_object(name: bytes) -> None:
    """Random bytes are either refused or exactly what `object_name` makes: no object has two names."""
    try:
        parsed = keyspace.parse_name(name)
    except DecodeError:
        return
    assert keyspace.object_name(*parsed) == name


@pytest.mark.parametrize(
    "name",
    [
        b"", b"\x01", b"\x00b\x00k\x00\x00", b"\x03b\x00k\x00\x00",  # no or unknown type
        b"\x01\x00k\x00\x00", b"\x01a/b\x00k\x00\x00", b"\x01" + b"b" * 65 + b"\x00k\x00\x00", b"\x01b\n\x00k\x00\x00",  # bucket
        b"\x01b\x00\x00\x00", b"\x01b\x00" + b"k" * (KEY_SIZE_BYTES_MAX + 1) + b"\x00\x00",  # key
        b"\x01b\x00" + b"\x00\xff" * (KEY_SIZE_BYTES_MAX + 1) + b"\x00\x00",
        b"\x01b\x00k\x00k\x00\x00", b"\x01b\x00k\x00\x01\x00\x00", b"\x01b\x00\x00\xff",  # escape
        b"\x01b\x00k\x00", b"\x01b\x00k", b"\x01b\x00k\x00\x00\x00", b"\x01b\x00k\x00\x00\xff", b"\x01b\x00k\x00\x00\n",  # end
    ],
)  # fmt: skip
def test_anything_else_is_refused(name: bytes) -> None:
    """Unknown type, bad bucket, bad key, bad escape, missing end and trailing bytes: all `DecodeError`."""
    with pytest.raises(DecodeError):
        keyspace.check_name(name)
    with pytest.raises(DecodeError):
        keyspace.parse_name(name)


@pytest.mark.parametrize("key", [b"k" * KEY_SIZE_BYTES_MAX, b"\x00" * KEY_SIZE_BYTES_MAX, b"\xff"])
def test_keys_at_the_limit_are_names(key: bytes) -> None:
    """The limit counts bytes of the key, not of its escaped form."""
    assert keyspace.parse_name(keyspace.object_name("b" * 64, LWW, key)).key == key


@pytest.mark.parametrize(
    ("bucket", "object_type", "key", "error"),
    [
        ("", 1, b"k", InvalidArgument), ("a/b", 1, b"k", InvalidArgument), ("b" * 65, 1, b"k", InvalidArgument),
        ("bücket", 1, b"k", InvalidArgument), ("b\n", 1, b"k", InvalidArgument), (b"\xff", 1, b"k", InvalidArgument),
        ("b", 0, b"k", InvalidArgument), ("b", 3, b"k", InvalidArgument), ("b", 300, b"k", InvalidArgument),
        ("b", 1, b"", InvalidArgument), ("b", 1, b"k" * (KEY_SIZE_BYTES_MAX + 1), ValueTooLarge),
    ],
)  # fmt: skip
def test_a_name_is_not_made_of_bad_parts(
    bucket: str | bytes, object_type: int, key: bytes, error: type[Exception]
) -> None:
    """Callers learn which part is wrong, definitely and before anything is sent."""
    with pytest.raises(error):
        keyspace.object_name(bucket, object_type, key)


def test_a_storage_key_with_a_foreign_token_is_refused() -> None:
    """A record cannot be smuggled to another place on the ring."""
    key = keyspace.storage_key(keyspace.object_name("b", REGISTER, b"k"))

    with pytest.raises(DecodeError):
        keyspace.check_storage_key(bytes([key[0] ^ 1]) + key[1:])
    with pytest.raises(DecodeError):
        keyspace.check_storage_key(key[:8])


@given(BUCKETS, KEYS)
def test_an_arc_of_the_ring_is_one_range_of_keys(bucket: str, key: bytes) -> None:
    """A key lies between the bounds of its own token, and inside the whole ring."""
    made = keyspace.storage_key(keyspace.object_name(bucket, REGISTER, key))
    token = keyspace.token_of(made)

    assert keyspace.token_bound(token) <= made < keyspace.token_bound(token + 1)
    assert keyspace.token_bound(0) <= made < keyspace.token_bound(1 << 64)


@pytest.mark.parametrize("token", [-1, (1 << 64) + 1])
def test_a_bound_off_the_ring_is_refused(token: int) -> None:
    """Tokens are 0 to 2**64, the latter as an end only."""
    with pytest.raises(InvalidArgument):
        keyspace.token_bound(token)
