"""A range read from RocksDB, which tells a bad block from the end.

`items()` of rocksdict ends silently at a corrupt block, and `set_iterate_lower_bound` sets the *upper* bound: so a scan seeks,
asks the iterator for its status at the end, and asserts the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator

from rocksdict import RdictIter

from kvstore.errors import StorageError
from kvstore.storage.rocksdb_errors import translate

__all__ = ["Scan"]


class Scan(Iterator[tuple[bytes, bytes]]):
    """One range in key order, from the snapshot RocksDB took when it was made. Raises at a bad block, never just ends."""

    __slots__ = ("__weakref__", "_iterator", "_lower", "_upper")

    def __init__(self, iterator: RdictIter, lower: bytes, upper: bytes) -> None:
        self._iterator: RdictIter | None = iterator
        self._lower = lower
        self._upper = upper
        iterator.seek(lower)

    def __next__(self) -> tuple[bytes, bytes]:
        iterator = self._iterator
        if iterator is None:
            raise StorageError("the engine was closed during a scan")
        try:
            if not iterator.valid():
                iterator.status()
                raise StopIteration
            key: bytes = iterator.key()
            value: bytes = iterator.value()
            iterator.next()
        except StopIteration:
            raise
        except Exception as error:  # boundary: rocksdict raises nothing narrower
            raise translate(error) from error
        assert self._lower <= key < self._upper, "RocksDB left the bounds of a scan"
        return key, value

    def release(self) -> None:
        """Let go of the RocksDB iterator, which would keep the database locked."""
        self._iterator = None
