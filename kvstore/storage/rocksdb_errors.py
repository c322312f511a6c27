"""What rocksdict meant by what it raised: bare `Exception`s, told apart by their text in this one place.

An error of the engine is never "not found": what no line here knows is `StorageError`.
"""

from __future__ import annotations

from rocksdict import DbClosedError

from kvstore.errors import Corruption, KVStoreError, Overloaded, StorageError

__all__ = ["is_no_space", "translate"]

_OVERLOADED_RETRY_AFTER_S = 0.1


def is_no_space(error: Exception) -> bool:
    """Whether RocksDB found the disk full."""
    return "No space left" in str(error) or "NoSpace" in str(error)


def translate(error: Exception) -> KVStoreError:
    """Map what rocksdict raised: bare `Exception`s told apart by their text. Anything else is a bug and raised as it is."""
    if isinstance(error, KVStoreError):
        return error
    if isinstance(error, DbClosedError):
        return StorageError("the engine is closed")
    if type(error) is not Exception:
        raise error
    text = str(error)
    if "Corruption" in text or "checksum mismatch" in text:
        return Corruption(text)
    if "ncomplete" in text and "stall" in text:
        return Overloaded("the engine would stall; nothing was written", retry_after_s=_OVERLOADED_RETRY_AFTER_S)
    return StorageError(text)
