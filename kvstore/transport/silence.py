"""Silence: how long a peer has said nothing, in heartbeats that ran, and when to ask it for a sign of life.

    heard ──► 0        owes us an answer ──► one more        owes us nothing ──► counts only after `idle_beats` such beats

Whoever owes nothing has no reason to speak. Between nodes `idle_beats` is 1: a dead peer is noticed before it is needed. A
client asks rarely: five hundred of them with a link to each of three nodes sent as many signs of life as operations.
"""

from __future__ import annotations

__all__ = ["Silence"]


class Silence:
    """Counts for one connection at a time; `beats` is the silence so far."""

    __slots__ = ("_idle_beats", "_quiet", "beats")

    def __init__(self, idle_beats: int) -> None:
        self._idle_beats = idle_beats
        self._quiet = self.beats = 0

    def beat(self, *, heard: bool, owes: bool) -> None:
        """Note one heartbeat: whether the peer spoke since the last one, and whether it owes an answer. Ask it if `beats`."""
        if heard:
            self._quiet = self.beats = 0
            return
        self._quiet += 1
        if owes or self._quiet >= self._idle_beats:
            self.beats += 1
