"""The inbox: frames of clients that arrive close together are handled together, as if one client had sent them all.

    few operations under way        ──────────────────────► handled at once
    many    a frame, a frame, …     ─┬ worth their cost ──► one batch, one group for each set of owners
                                     └ HOLD_S_MAX ────────►

What an operation costs a node is mostly what its frame costs: a batch of the store, a message to each other owner. Five hundred
clients with one operation each would pay that five hundred times; the five hundred operations of one client pay it ten times.
The rule for "worth" is the Coalescer's: a share of what is under way, so that waiting adds a share to the latency there is.

Invariants
  1. Frames are handled in the order in which they came, also across the two ways.
  2. A frame waits HOLD_S_MAX at most, and its operations have that much less time left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from cluster.requests import ReplyTo
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.transport.session import Request, Session

__all__ = ["HOLD_S_MAX", "Arrival", "Inbox", "Tickets"]

IN_FLIGHT_MIN = 32
"""With fewer operations under way nobody waits: there is no crowd."""
SHARE = 8
"""Of what is under way, one in so many is worth a batch of its own."""
HOLD_S_MAX = 0.02
"""An eighth of the latency that hundreds of clients at one node have anyway."""


class Arrival(NamedTuple):
    """One frame; `late_s` is what it waited before it arrived at the loop time `at`."""

    session: Session
    requests: Iterable[Request]
    late_s: float
    at: float


class Inbox:
    """One node's. `handle` is given all that waited, in order; `in_flight` counts the operations under way."""

    def __init__(
        self, handle: Callable[[list[Arrival]], None], in_flight: Callable[[], int], *, chaos: Chaos = CALM
    ) -> None:
        self._handle, self._in_flight, self._chaos = handle, in_flight, chaos
        self._loop = asyncio.get_running_loop()
        self._in_flight_min = chaos.pick(Point.INBOX_EAGER, IN_FLIGHT_MIN, 0, 2)
        self._waiting: list[Arrival] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_gathering(self) -> bool:
        """Whether a frame that arrives now is to be offered; else it is handled at once."""
        return self._count > 0 or self._in_flight() >= self._in_flight_min

    def keeps(self, session: Session, requests: Sequence[Request], late_s: float) -> bool:
        """Take a frame; all that wait are handled now if together they are worth it. False: it is worth it alone."""
        count = self._count + len(requests)
        is_worth_it = count * SHARE >= self._in_flight()
        if is_worth_it and not self._waiting:
            return False
        self._waiting.append(Arrival(session, requests, late_s, self._loop.time()))
        self._count = count
        if is_worth_it:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(HOLD_S_MAX, self.flush)
        return True

    def flush(self) -> None:
        """Have everything that waits handled now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting, self._count = self._waiting, [], 0
        if waiting:
            self._chaos.hit(Probe.FRAMES_GATHERED)
            self._handle(waiting)


class Tickets:
    """Numbers the operations of several sessions, so that one reply function answers them all."""

    __slots__ = ("_owners",)

    def __init__(self) -> None:
        self._owners: list[tuple[ReplyTo, int]] = []

    def number(self, reply: ReplyTo, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield the requests of one session with tickets in place of its own operation ids."""
        owners = self._owners
        for operation_id, verb, version, remaining_ms, key, body in requests:
            owners.append((reply, operation_id))
            yield len(owners) - 1, verb, version, remaining_ms, key, body

    def reply(self, ticket: int, status: int, body: bytes) -> None:
        """Answer the operation that has this ticket."""
        reply, operation_id = self._owners[ticket]
        reply(operation_id, status, body)
