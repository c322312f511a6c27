"""The contexts one client keeps, and which of them a write of a given kind is made with.

    BLIND       none                        STALE      the oldest context it still keeps of the object
    MISSING     none, and says so           OWN        from its own write's reply
    OTHER_KEY   of another object           FOREIGN    the newest one of another client, with what that one was shown

Where there is none of that kind the recorder reads first: FRESH. What is remembered is also on the board, for others' FOREIGN.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from jepsen_lite.history import ContextKind
from jepsen_lite.workloads.board import Board, Known, Target
from kvstore.client.results import OMITTED, Omitted

__all__ = ["Contexts", "Given"]

KNOWN_MAX: Final = 4
"""Contexts kept of each object: the oldest one is a few writes behind by the time it is used."""


class Given(NamedTuple):
    """The context of a write as it is sent, and as it is recorded."""

    kind: ContextKind
    sent: bytes | Omitted | None
    shown: tuple[str, ...] = ()

    @property
    def recorded(self) -> bytes | None:
        """What a history holds of it; None if nothing was sent."""
        return bytes(self.sent) if isinstance(self.sent, bytes) else None


class Contexts:
    """What the client `name` has of every object since its life began."""

    def __init__(self, board: Board, name: str) -> None:
        self._board, self._name = board, name
        self._known: dict[Target, deque[Known]] = {}

    def forget(self) -> None:
        """Begin another life. What is on the board stays there."""
        self._known = {}

    def newest(self, target: Target) -> Known | None:
        """Return the newest context of the object."""
        kept = self._known.get(target)
        return kept[-1] if kept else None

    def remember(self, target: Target, known: Known) -> None:
        """Keep a context, and post it."""
        self._known.setdefault(target, deque(maxlen=KNOWN_MAX)).append(known)
        posted = self._board.newest.setdefault(target, {})
        posted.pop(self._name, None)  # so that the newest is the last
        posted[self._name] = known

    def unread(self, target: Target, how: ContextKind) -> Given | None:
        """Return the context of that kind if it needs no read."""
        if how is ContextKind.BLIND:
            return Given(how, OMITTED)
        if how is ContextKind.MISSING:
            return Given(how, None)
        if how is ContextKind.OTHER_KEY:
            other = next((kept[-1] for of, kept in reversed(self._known.items()) if of != target), None)
            return None if other is None else Given(how, other.context)
        found = self._find(target, how)
        return None if found is None else Given(how, found.context, found.shown)

    def _find(self, target: Target, how: ContextKind) -> Known | None:
        kept = self._known.get(target, ())
        if how is ContextKind.STALE:
            return next(iter(kept), None)
        if how is ContextKind.OWN:
            return next((known for known in reversed(kept) if known.is_own), None)
        if how is ContextKind.FOREIGN:
            posted = self._board.newest.get(target, {})
            return next((known for name, known in reversed(posted.items()) if name != self._name), None)
        return None
