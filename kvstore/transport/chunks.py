"""Chunks: a body above CHUNK_SIZE_BYTES_MAX travels as several PART operations with the same id, then its own operation.

What a connection may hold unfinished is bounded by REASSEMBLY_BYTES_MAX, in which every PART counts PART_OVERHEAD_BYTES
more than its bytes (else many tiny PARTs would take thirty times the memory they are counted for); beyond it the
connection ends with `DecodeError`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvstore.errors import DecodeError
from kvstore.limits import CHUNK_SIZE_BYTES_MAX, REASSEMBLY_BYTES_MAX

__all__ = ["PART_OVERHEAD_BYTES", "Reassembly", "split"]

PART_OVERHEAD_BYTES = 256
"""What a list, its place in the dictionary and a bytes object take at most, besides the bytes."""


def split(body: bytes, size_bytes: int = CHUNK_SIZE_BYTES_MAX) -> Iterator[bytes]:
    """Yield the pieces of a body; all but the last are PARTs. A small body is one piece."""
    for start in range(0, max(len(body), 1), size_bytes):
        yield body[start : start + size_bytes]


class Reassembly:
    """The unfinished bodies of one direction of a connection. `unfinished` is always the same dict: who looks at it before
    every operation spares a call where, nearly always, there is none."""

    __slots__ = ("_bytes", "unfinished")

    def __init__(self) -> None:
        self.unfinished: dict[int, list[bytes]] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self.unfinished)

    def add(self, operation_id: int, chunk: bytes) -> None:
        """Keep one PART. `DecodeError` if the connection would hold too much."""
        size_bytes = len(chunk) + PART_OVERHEAD_BYTES
        if self._bytes + size_bytes > REASSEMBLY_BYTES_MAX:
            raise DecodeError("unfinished chunks exceed their bound", limit_bytes=REASSEMBLY_BYTES_MAX)
        self._bytes += size_bytes
        self.unfinished.setdefault(operation_id, []).append(chunk)

    def take(self, operation_id: int, last: bytes) -> bytes:
        """Return the whole body that ends with `last`, and forget its parts."""
        parts = self.unfinished.pop(operation_id, None)
        if parts is None:
            return last
        body = b"".join([*parts, last])
        self._bytes -= len(body) - len(last) + len(parts) * PART_OVERHEAD_BYTES
        return body
