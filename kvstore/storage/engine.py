"""What a node asks of its disk: an ordered, atomic, group-committed map in named families.

Contract (one suite, `tests/contract/test_engine.py`, holds for every implementation)
  1. `apply` is atomic across families and visible to `get` and `scan` at once, but not durable.
  2. When `sync` returns, everything applied before it was called is durable.
  3. A crash loses a suffix of whole batches and nothing else.
  4. An unreadable record is `Corruption`, never absent. A scan that meets one raises; it never just ends.
  5. After one failed sync every later `apply` and `sync` raises `SyncFailed`: never retry an fsync. The store does not open
     again: its own mark says so, and while the kernel lives also its witness.
  6. An unclean start is `same_boot` only if the kernel's witness proves that everything applied is there (`witness.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["Engine", "Family", "OpenReport", "Put"]


class Family(StrEnum):
    """Column families of one database. ONLY APPEND."""

    DATA = "data"
    META = "meta"


Put = tuple[Family, bytes, bytes | None]
"""(family, key, value); value None deletes the key."""


@dataclass(frozen=True, slots=True)
class OpenReport:
    """How the store was found at open.

    `clean`: the last stop wrote its mark (or the store is new). `same_boot`: the kernel has not restarted since the last
    open *and remembers* (`Witness`) that everything applied then is here. `is_copy`: the directory is not the one its
    identity was written in (copied or restored). `is_rolled_back`: the kernel remembers more than is here, whatever the mark
    says. `doubt`: why an unclean start is not `same_boot`, or why this one will have no witness; for the log, empty if
    neither. `refused`: what `Engine.remember_refusal` was last told under this kernel.
    """

    is_new: bool
    clean: bool
    same_boot: bool
    is_copy: bool
    is_rolled_back: bool = False
    doubt: str = ""
    refused: bytes = b""

    @property
    def history_may_be_missing(self) -> bool:
        """True if applied writes may be gone, so that no actor epoch of before may be continued."""
        is_whole = (self.clean or self.same_boot) and not self.is_rolled_back
        return not self.is_new and (self.is_copy or not is_whole)


class Engine(Protocol):
    """One open store. Calls other than `sync` do not suspend; `sync` must not run the disk on the event loop."""

    @property
    def report(self) -> OpenReport:
        """How the store was found at open."""

    def get(self, family: Family, key: bytes) -> bytes | None:
        """Return the value, or None if there is none. Raises `Corruption` or `StorageError`."""

    def apply(self, puts: Sequence[Put]) -> None:
        """Apply a batch. `DiskFull`: nothing was applied, space is below the watermark. `Overloaded`: nothing was
        applied, the engine would stall. `SyncFailed`: the engine is poisoned. Any other `StorageError`: unknown."""

    def delete_range(self, family: Family, lower: bytes, upper: bytes) -> None:
        """Delete every key with lower <= key < upper, as one atomic batch."""

    def scan(self, family: Family, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) with lower <= key < upper in key order from a stable snapshot."""

    async def sync(self) -> None:
        """Make everything applied before this call durable, or raise `SyncFailed` and poison the engine."""

    def remember_refusal(self, refused: bytes) -> bool:
        """Let the memory of this kernel, not the disk, keep why this store must not be started; empty forgets it. Never fails:
        False if there is no such memory. The next opens have it in `report.refused`, until the kernel restarts."""

    def keys_estimate(self) -> int:
        """Return about how many keys DATA holds."""

    def size_bytes(self) -> int:
        """Return about how many bytes the store takes on disk."""

    async def close(self, *, clean: bool) -> None:
        """Sync and close; with `clean` write the clean-stop mark last. The engine is unusable afterwards."""
