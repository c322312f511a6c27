"""Trace of a run: one running hash over every event, so that two runs can be compared by 64 hex digits.

    event = virtual time in ns ‖ kind ‖ fields         packed by msgpack: each part has its type and length, so that no
                                                       two events collide

Invariants
  1. Equal digests mean equal event sequences. A field is an int, str, bytes or None: nothing with an address or an
     unordered repr can enter.
  2. Only the last `keep` events stay in memory, whatever the length of the run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import NoReturn

import msgpack

__all__ = ["Field", "Trace"]

Field = int | str | bytes | None
EVENTS_KEPT_DEFAULT = 50
BYTES_SHOWN_MAX = 24


class Trace:
    """Collects the events of one run; made by the world, written by everything that is simulated."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, keep: int = EVENTS_KEPT_DEFAULT) -> None:
        self._loop = loop
        self._hash, self._pack = hashlib.sha256(), msgpack.Packer(default=_refuse).pack
        self._last: deque[tuple[int, str, tuple[Field, ...]]] = deque(maxlen=keep)
        self.count = 0

    def record(self, kind: str, *fields: Field) -> None:
        """Add one event at the current virtual time."""
        now_ns = round(self._loop.time() * 1e9)
        self._hash.update(self._pack((now_ns, kind, fields)))
        self._last.append((now_ns, kind, fields))
        self.count += 1

    def hexdigest(self) -> str:
        """Return the hash of all events so far."""
        return self._hash.hexdigest()

    def tail(self) -> str:
        """Return the last events as lines to read, oldest first."""
        return "\n".join(f"{at_ns / 1e9:12.6f}  {kind:<10} {_show(fields)}" for at_ns, kind, fields in self._last)


def _refuse(field: object) -> NoReturn:
    raise TypeError(f"a trace field cannot be {type(field).__name__}: its text may differ between runs")


def _show(fields: tuple[Field, ...]) -> str:
    return " ".join(_show_bytes(field) if isinstance(field, bytes) else str(field) for field in fields)


def _show_bytes(raw: bytes) -> str:
    return raw[:BYTES_SHOWN_MAX].hex() + (f"..({len(raw)})" if len(raw) > BYTES_SHOWN_MAX else "")
