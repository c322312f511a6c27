"""Keepalive of one end: a ping after a silence, and the end of the connection after a longer one.

    heard ──keepalive_s──► ping ──silence_s──► dead         whatever arrives starts it again

The times are those of gRPC (kvstore/transport/grpc_options.py), spread, so that the two ends learn at different times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jepsen_lite.sim.net_stream import TcpTimes

__all__ = ["Keepalive"]


class Keepalive:
    """`factor` stretches the times; `ping()` asks the other end for a sign of life, `dead()` breaks the connection."""

    __slots__ = ("_dead", "_heard_s", "_keepalive_s", "_loop", "_ping", "_silence_s", "_timer")

    def __init__(self, times: TcpTimes, factor: float, *, ping: Callable[[], None], dead: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._keepalive_s, self._silence_s = times.keepalive_s * factor, times.silence_s * factor
        self._ping, self._dead = ping, dead
        self._heard_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; until then nothing happens."""
        self.heard()
        self._watch_at(self._heard_s + self._keepalive_s)

    def heard(self) -> None:
        """Something arrived."""
        self._heard_s = self._loop.time()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_at(self, when_s: float) -> None:
        self._timer = self._loop.call_at(when_s, self._watch)

    def _watch(self) -> None:
        # Compares instants, not durations: a rounded duration may be a hair short, and then time would stand still here.
        now_s, ping_s = self._loop.time(), self._heard_s + self._keepalive_s
        if now_s >= ping_s + self._silence_s:
            self._dead()
        elif now_s < ping_s:
            self._watch_at(ping_s)
        else:
            self._watch_at(ping_s + self._silence_s)
            self._ping()  # last: it may be one too many for a broken stream, whose end then stops this timer
