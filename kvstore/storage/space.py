"""Low-space watermark: refuse writes while that is still a definite answer, before the disk itself says no.

RocksDB needs room of its own (log, memtables being written out, compaction), and a log write that fails for lack of space is
an *indefinite* error. So below a watermark of free bytes client data is refused with `DiskFull`, nothing applied, reads go on,
and writes go on as soon as there is room again. META stays writable: topology, boot numbers and acknowledgements are small.

Asking the file system costs about 1 us, a put about 5: so it is asked once per `check_every_bytes` applied, at every sync, and
at every attempt while space is low. No clock is involved.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from kvstore.errors import DiskFull

__all__ = ["CHECK_EVERY_BYTES", "WATERMARK_BYTES_MAX", "WATERMARK_BYTES_MIN", "SpaceGuard", "default_watermark_bytes"]

CHECK_EVERY_BYTES = 256 * 1024
"""Applied between two looks at the file system; far below any watermark, so it cannot be jumped over."""
WATERMARK_BYTES_MAX = 256 * 1024 * 1024
"""Enough for a compaction; what memtables still have to write out is counted apart (`owed_bytes`)."""
WATERMARK_BYTES_MIN = 16 * 1024 * 1024


def default_watermark_bytes(total_bytes: int) -> int:
    """Return 5 % of the file system, within [16 MiB, 256 MiB]."""
    return min(WATERMARK_BYTES_MAX, max(WATERMARK_BYTES_MIN, total_bytes // 20))


class SpaceGuard:
    """Says whether there is room for client data. `free_bytes` asks the file system."""

    __slots__ = (
        "_check_every_bytes",
        "_free_bytes",
        "_left_bytes",
        "free_bytes_seen",
        "is_low",
        "owed_bytes",
        "watermark_bytes",
    )

    def __init__(
        self, free_bytes: Callable[[], int], *, watermark_bytes: int, check_every_bytes: int = CHECK_EVERY_BYTES
    ) -> None:
        self._free_bytes = free_bytes
        self._check_every_bytes = check_every_bytes
        self._left_bytes = check_every_bytes
        self.watermark_bytes = watermark_bytes
        self.owed_bytes: Callable[[], int] = _nothing
        """What the engine has in memory and still has to write out: it is as good as taken."""
        self.free_bytes_seen = 0
        self.is_low = False
        self.refresh()

    @classmethod
    def of_directory(cls, path: str | os.PathLike[str], *, watermark_bytes: int | None = None) -> SpaceGuard:
        """Guard the file system that holds `path`; `watermark_bytes` None is `default_watermark_bytes` of it."""

        def free_bytes() -> int:
            status = os.statvfs(path)
            return status.f_bavail * status.f_frsize

        if watermark_bytes is None:
            status = os.statvfs(path)
            watermark_bytes = default_watermark_bytes(status.f_blocks * status.f_frsize)
        return cls(free_bytes, watermark_bytes=watermark_bytes)

    def refresh(self) -> bool:
        """Ask the file system; return True if space is low."""
        self._left_bytes = self._check_every_bytes
        self.free_bytes_seen = self._free_bytes() - self.owed_bytes()
        self.is_low = self.free_bytes_seen < self.watermark_bytes
        return self.is_low

    def charge(self, size_bytes: int) -> bool:
        """Count bytes about to be applied; return True if space is low."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0 or self.is_low:
            return self.refresh()
        return False

    def refusal(self) -> DiskFull:
        """Return the error for a write that is refused now."""
        return DiskFull(
            "the disk is below its low-space watermark: nothing was written, reads go on; free some space",
            free_bytes=self.free_bytes_seen, watermark_bytes=self.watermark_bytes, retry_after_s=1.0,
        )  # fmt: skip


def _nothing() -> int:
    return 0
