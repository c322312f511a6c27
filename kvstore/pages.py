"""Bodies of SCAN: a range of one partition's records, page by page, as one holder sends it to another.

    asked     [partition, placement version, after key or empty, digests only?]
    answered  xxh3 of the rest ‖ [[key, record or its digest], …], is last?       keys ascending, from just after the one asked

Decoded with their types by one call of C. A page is bounded by its count and its bytes, except that its last record may be as
large as records get; the checksum tells a damaged page from one whose records were damaged where they lay (each has its own).
"""

from __future__ import annotations

import itertools

import msgspec
from xxhash import xxh3_64_digest

from kvstore.errors import DecodeError
from kvstore.limits import REASSEMBLY_BYTES_MAX, SCAN_RECORDS_MAX

__all__ = ["Page", "Scan", "decode_page", "decode_scan", "digest_of", "encode_page", "encode_scan"]

CHECKSUM_BYTES = 8
SCAN_BODY_BYTES_MAX = 4_096
Page = tuple[list[tuple[bytes, bytes]], bool]
"""(key, record or digest) in the order of keys, and whether the range ends here."""
Scan = tuple[int, int, bytes, bool]
"""Partition, its placement version, the key after which to begin (empty: at its start), whether digests suffice."""
_encode = msgspec.msgpack.Encoder().encode
_page = msgspec.msgpack.Decoder(Page)
_scan = msgspec.msgpack.Decoder(Scan)


def digest_of(record: bytes) -> bytes:
    """Return what stands for a record where only difference matters: 8 bytes."""
    return xxh3_64_digest(record)


def encode_scan(scan: Scan) -> bytes:
    """Encode the body of SCAN."""
    return _encode(scan)


def decode_scan(body: bytes) -> Scan:
    """Decode the body of SCAN; DecodeError if it is none."""
    if len(body) > SCAN_BODY_BYTES_MAX:
        raise DecodeError("the body of SCAN is too large", size_bytes=len(body), limit_bytes=SCAN_BODY_BYTES_MAX)
    try:
        scan: Scan = _scan.decode(body)
    except msgspec.DecodeError as problem:
        raise DecodeError(f"not the body of SCAN: {problem}") from None
    return scan


def encode_page(page: Page) -> bytes:
    """Encode the answer to SCAN."""
    packed = _encode(page)
    return xxh3_64_digest(packed) + packed


def decode_page(body: bytes, *, after: bytes) -> Page:
    """Decode the answer to a SCAN that began after the key `after`. DecodeError: damaged, too large, or not in order."""
    if len(body) > REASSEMBLY_BYTES_MAX:
        raise DecodeError("a page is too large", size_bytes=len(body), limit_bytes=REASSEMBLY_BYTES_MAX)
    packed = body[CHECKSUM_BYTES:]
    if xxh3_64_digest(packed) != body[:CHECKSUM_BYTES]:
        raise DecodeError("a page fails its checksum", size_bytes=len(body))
    try:
        items, is_last = _page.decode(packed)
    except msgspec.DecodeError as problem:
        raise DecodeError(f"unreadable page: {problem}") from None
    keys = [after, *[key for key, _ in items]]
    if len(items) > SCAN_RECORDS_MAX or not (items or is_last) or any(a >= b for a, b in itertools.pairwise(keys)):
        raise DecodeError("a page has too many records, none, or not in the order of their keys", records=len(items))
    return items, is_last
