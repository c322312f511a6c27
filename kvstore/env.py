"""The seam to the world: what a node or client may ask of time, chance, network and disk, as Protocols.

Two roots build an `Env`: the real one (uvloop, gRPC, RocksDB) and the simulated one (virtual-time loop, seeded network,
disk and clock). Both hand it to the same code. Timers come from the running event loop, which the root chooses.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvstore.chaos import CALM, Chaos
from kvstore.storage.engine import Engine

__all__ = ["Clock", "Connection", "Env", "FrameHandler", "Listener", "Transport"]


class Clock(Protocol):
    """Wall time, which may step and drift. Durations come from the loop's `time()` instead."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 as this machine believes."""


class FrameHandler(Protocol):
    """What the transport calls, always on the event loop and never concurrently for one connection."""

    def frame_received(self, frame: bytes) -> None:
        """Handle one whole frame. Must not raise: close the connection instead."""

    def connection_closed(self, error: Exception | None) -> None:
        """Called exactly once, after which no frame arrives; `error` is None for an orderly end."""


class Connection(Protocol):
    """One side of an ordered, reliable, bounded stream of frames. Either side may send at any time."""

    @property
    def peer(self) -> str:
        """Address of the other side, for messages only."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes accepted by `send` that the transport could not yet hand on."""

    def send(self, frame: bytes) -> None:
        """Queue one frame (at most FRAME_SIZE_BYTES_MAX); never blocks. After close it is silently dropped."""

    def close(self, error: Exception | None = None) -> None:
        """End the connection now; frames already queued may be lost. Idempotent; `connection_closed` follows."""


class Listener(Protocol):
    """A served address."""

    @property
    def address(self) -> str:
        """The `host:port` really bound (the port is known even if 0 was asked for)."""

    async def set_serving(self, is_serving: bool) -> None:
        """Tell health checks whether this address serves; at first it does. Connections are accepted either way."""

    async def close(self) -> None:
        """Stop accepting, and close every connection accepted here."""


Accept = Callable[[Connection], FrameHandler]


class Transport(Protocol):
    """Opens and serves connections. While the backlog of an accepted connection is above CONNECTION_BACKLOG_BYTES_MAX the
    transport stops reading from it, so that a peer that does not take its replies cannot make us queue more. The side that
    connected always reads: if both paused, two flooding peers would wait for each other."""

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        """Connect, or raise `Unavailable`; `accept` is called with the new connection and gives its handler."""

    async def serve(self, address: str, accept: Accept) -> Listener:
        """Listen on `host:port`; `accept` is called for every connection made to it."""


@dataclass(frozen=True, slots=True)
class Env:
    """Everything a node may touch. `random` is seeded in simulation and from the operating system otherwise; `chaos` disturbs
    the node in simulation only."""

    transport: Transport
    engine: Engine
    clock: Clock
    random: random.Random
    chaos: Chaos = CALM
