"""Names of objects, and the keys the engine sorts them by.

    object name   type (1) | bucket | 00 | escape(key) | 00 00          escape: 00 becomes 00 FF
    storage key   token (8, big endian) | object name                   token = XXH3-64(object name), seed 0

So any arc of the ring is one contiguous range on disk. The escape is that of FoundationDB's tuple layer: it keeps the order
of keys and makes a name self-delimiting, so that a sort key can later be appended *after* the name without a new format
(it will not enter the token, hence one partition key stays together).

Invariants
  1. One object has exactly one name: what `check_name` accepts is what `object_name` makes, and nothing else.
  2. Names of one bucket and type sort as their keys do, and no name is a prefix of another.
Test vectors: docs/formats.md, "Tokens and keys". They are part of the format: a change loses every stored record.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import xxhash

from kvstore.errors import DecodeError, InvalidArgument, ValueTooLarge
from kvstore.ids import ObjectType, StorageKey, Token
from kvstore.limits import BUCKET_NAME_LENGTH_MAX, KEY_SIZE_BYTES_MAX

__all__ = [
    "TOKEN_SIZE_BYTES", "ObjectName", "bucket_bytes", "check_name", "check_storage_key", "name_of", "object_name",
    "parse_name", "storage_key", "token_bound", "token_of",
]  # fmt: skip

TOKEN_SIZE_BYTES = 8
NAME_SIZE_BYTES_MAX = 1 + BUCKET_NAME_LENGTH_MAX + 1 + 2 * KEY_SIZE_BYTES_MAX + 2
"""Of an object whose key is all zeros, each of which is escaped."""
_TOKENS_COUNT = 1 << 64
_TYPES_KNOWN = frozenset(ObjectType)
_BUCKET = re.compile(rb"[A-Za-z0-9_.-]{1,%d}" % BUCKET_NAME_LENGTH_MAX)
# The quantifiers are possessive, so that a hostile name costs one pass: every branch eats what it can or the match fails.
_NAME = re.compile(
    rb"[%s](%s)\x00((?:[^\x00]++|\x00\xff)++)\x00\x00" % (re.escape(bytes(ObjectType)), _BUCKET.pattern), re.DOTALL
)  # fmt: skip
_match_name = _NAME.fullmatch


class ObjectName(NamedTuple):
    """The three parts that make an object's identity."""

    bucket: str
    object_type: ObjectType
    key: bytes


def object_name(bucket: str | bytes, object_type: int, key: bytes) -> bytes:
    """Return the one name of an object. `InvalidArgument` or `ValueTooLarge` if a part is out of bounds."""
    try:
        raw_bucket = bucket.encode("ascii") if isinstance(bucket, str) else bucket
    except UnicodeEncodeError:
        raise InvalidArgument(f"bucket {bucket!r} may hold only A-Z a-z 0-9 _ . -") from None
    if _BUCKET.fullmatch(raw_bucket) is None:
        raise InvalidArgument(f"bucket {bucket!r} must be 1 to {BUCKET_NAME_LENGTH_MAX} of A-Z a-z 0-9 _ . -")
    if object_type not in _TYPES_KNOWN:
        raise InvalidArgument("unknown object type", object_type=int(object_type))
    if not key:
        raise InvalidArgument("a key must not be empty")
    if len(key) > KEY_SIZE_BYTES_MAX:
        raise ValueTooLarge("the key is too long", size_bytes=len(key), limit_bytes=KEY_SIZE_BYTES_MAX)
    if 0 in key:
        key = key.replace(b"\x00", b"\x00\xff")
    return b"%c%s\x00%s\x00\x00" % (object_type, raw_bucket, key)


def storage_key(name: bytes) -> StorageKey:
    """Return what the engine sorts the object by. `name` must be one that `check_name` accepts."""
    return StorageKey(xxhash.xxh3_64_digest(name) + name)


def check_name(name: bytes) -> bytes:
    """Return the bucket of a name, or raise `DecodeError` if it is not one. Runs for every request: about 1 us."""
    match = _match_name(name) if len(name) <= NAME_SIZE_BYTES_MAX else None  # 4 MiB of escapes would take 60 ms
    if match is None:
        raise DecodeError("not an object name", size_bytes=len(name))
    # A name this short cannot hold too long a key, and nearly all are: the exact count is only for the others.
    if len(name) > KEY_SIZE_BYTES_MAX:
        escaped = match[2]
        size_bytes = len(escaped) - escaped.count(0)
        if size_bytes > KEY_SIZE_BYTES_MAX:
            raise DecodeError("the key is too long", size_bytes=size_bytes, limit_bytes=KEY_SIZE_BYTES_MAX)
    return match[1]


def bucket_bytes(name: bytes) -> bytes:
    """Return the bucket of a name that was checked before."""
    return name[1 : name.index(0)]


def parse_name(name: bytes) -> ObjectName:
    """Take a name apart, or raise `DecodeError` if it is not exactly what `object_name` makes."""
    bucket = check_name(name)
    key = name[len(bucket) + 2 : -2].replace(b"\x00\xff", b"\x00")
    return ObjectName(bucket.decode("ascii"), ObjectType(name[0]), key)


def check_storage_key(key: bytes) -> bytes:
    """Return the name inside a storage key from a peer or the disk; `DecodeError` unless name and token agree."""
    name = key[TOKEN_SIZE_BYTES:]
    check_name(name)
    if xxhash.xxh3_64_digest(name) != key[:TOKEN_SIZE_BYTES]:
        raise DecodeError("the token of a storage key does not belong to its name", token=key[:TOKEN_SIZE_BYTES].hex())
    return name


def name_of(key: bytes) -> bytes:
    """Return the object name inside a storage key that was checked before."""
    return key[TOKEN_SIZE_BYTES:]


def token_of(key: bytes) -> Token:
    """Return the position of a storage key on the ring."""
    return Token(int.from_bytes(key[:TOKEN_SIZE_BYTES], "big"))


def token_bound(token: int) -> bytes:
    """Return the bound for scans that sorts before every storage key at or after `token`.

    `token` may be 2**64, which no key reaches: an arc is `scan(token_bound(first), token_bound(last + 1))`.
    """
    if not 0 <= token <= _TOKENS_COUNT:
        raise InvalidArgument("token out of range", token=token)
    # Nine FF bytes sort after every storage key, because a name begins with a type far below FF.
    return token.to_bytes(TOKEN_SIZE_BYTES, "big") if token < _TOKENS_COUNT else b"\xff" * (TOKEN_SIZE_BYTES + 1)
