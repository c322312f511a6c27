"""The switches of a simulated disk: what it does wrong now, to any process on it. A nemesis turns them at any moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvstore.storage.engine import Family

__all__ = ["ReadFault", "Trouble"]


@dataclass(slots=True)
class ReadFault:
    """Reads of lower <= key < upper fail, `left` times (None: until removed). Rot is `Corruption`, else an I/O error."""

    family: Family
    lower: bytes
    upper: bytes
    left: int | None = None
    is_corruption: bool = False


@dataclass(slots=True)
class Trouble:
    """The switches. Times are of the run's loop, in seconds; the defaults are a healthy disk."""

    sync_factor: float = 1.0
    """Syncs begun before `slow_until_s` take this many times as long."""
    slow_until_s: float = 0.0
    syncs_stall_until_s: float = 0.0
    """Syncs begun before that moment end after it."""
    writes_stall_until_s: float = 0.0
    """Writes are refused with `Overloaded` until then: delaying them would stop the event loop."""
    syncs_fail_for_good: bool = False
    """Also at the next open, which therefore fails."""
    write_errors_left: int = 0
    """So many writes (in fact one: it poisons) fail with an I/O error."""
    size_limit_bytes: int | None = None
    """Where the file system is full until `full_until_s`: a write that does not fit fails, indefinitely."""
    full_until_s: float = 0.0
    watermark_bytes: int = 0
    """Free bytes below which client data is refused definitely; looked at on every sync and after every failure."""
    is_mark_lost: bool = False
    """After a failed sync the SUSPECT mark cannot be written either, and the page cache is dropped before the next start.
    The witness remembers the failure, if the machine has one."""
    read_faults: list[ReadFault] = field(default_factory=list)
