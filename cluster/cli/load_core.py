"""How far a load has come: which prefix of the input needs no second look, although records finish out of order.

    offset   0        120       260       330       510
    record   |  done   |  done   |  open   |  done   |      resume at 260: everything before it is settled

Pure: no clock, no files. The driver calls `start` in input order and `settle` in any order.

Invariants
  1. `offset` never moves back, and never past a record that is still open or has to be tried again.
  2. What is held for out-of-order records is bounded by the driver's concurrency.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from kvstore.errors import ConfigError

__all__ = ["STATE_SCHEMA", "LoadProgress", "LoadState", "check_resume"]

STATE_SCHEMA = 1
UNTRACKED = -1


@dataclass(frozen=True, slots=True)
class LoadState:
    """What the state file keeps: where to go on, and what the load was, so that another load cannot take it over."""

    source: str
    size_bytes: int
    cluster_id: str
    bucket: str
    key_field: str
    offset: int = 0
    line: int = 0
    ok: int = 0
    failed: int = 0

    def as_document(self) -> dict[str, Any]:
        """Return the JSON document of the state file."""
        return {"schema": STATE_SCHEMA, **asdict(self)}

    @classmethod
    def from_document(cls, document: object) -> LoadState:
        """Read a state file's JSON document, or raise `ConfigError`."""
        if not isinstance(document, dict) or document.get("schema") != STATE_SCHEMA:
            raise ConfigError("the state file is not one of this version: remove it or pass --restart")
        try:
            return msgspec.convert({name: value for name, value in document.items() if name != "schema"}, cls)
        except msgspec.ValidationError as problem:
            raise ConfigError(f"the state file is unreadable ({problem}): remove it or pass --restart") from None


def check_resume(found: LoadState, wanted: LoadState) -> LoadState:
    """Return where `wanted` may go on, given the state file `found`; `ConfigError` if that is from another load.

    A file that grew at its end is the same load; one that shrank is not.
    """
    for name in ("source", "cluster_id", "bucket", "key_field"):
        ours, theirs = getattr(wanted, name), getattr(found, name)
        if ours != theirs:
            raise ConfigError(f"the state file is of another load ({name} {theirs!r}, now {ours!r}): pass --restart")
    if wanted.size_bytes < found.offset:
        raise ConfigError(f"{wanted.source} is shorter than what was already loaded of it: pass --restart")
    return found


class LoadProgress:
    """Tracks open records and the settled prefix."""

    __slots__ = ("_base", "_held", "_open", "_settled", "line", "offset")

    def __init__(self, offset: int, line: int) -> None:
        self.offset = offset
        self.line = line
        self._base = 0  # number of the oldest record in _open
        self._open: deque[tuple[int, int]] = deque()
        self._settled: set[int] = set()
        self._held: int | None = None

    @property
    def open_count(self) -> int:
        """Records that are tracked: from the oldest unsettled one on."""
        return len(self._open)

    @property
    def is_held(self) -> bool:
        """True if a record has to be tried again, so that the offset can never reach the end."""
        return self._held is not None

    def start(self, end_offset: int, end_line: int) -> int:
        """Note the next record of the input, which ends at `end_offset`; returns its number for `settle` or `hold`.

        Once a record is held what follows is not tracked (it cannot move the offset), so memory stays bounded.
        """
        if self._held is not None:
            return UNTRACKED
        assert end_offset > (self._open[-1][0] if self._open else self.offset), "records start in input order"
        self._open.append((end_offset, end_line))
        return self._base + len(self._open) - 1

    def settle(self, number: int) -> None:
        """Record `number` needs no second look: acknowledged, or wrong in itself."""
        if number == UNTRACKED:
            return
        assert self._base <= number < self._base + len(self._open) and number not in self._settled
        self._settled.add(number)
        while self._base in self._settled:
            self._settled.remove(self._base)
            self.offset, self.line = self._open.popleft()
            self._base += 1

    def hold(self, number: int) -> None:
        """Record `number` has to be tried again by a resumed load: the offset stays before it."""
        if number == UNTRACKED:
            return
        self._held = number if self._held is None else min(number, self._held)
