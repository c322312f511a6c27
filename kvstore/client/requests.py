"""Performs one operation: the deadline, the first attempt, and, only if that failed, the attempts after it.

The way of success is `begin` and nothing else: one future, no task, no timer (the link's sweep watches the deadline), 7 us of
Python for an awaited get with its decoding. All that retries cost stands in `again`, which a success never enters.

An attempt gets at most `attempt_timeout_s`, so that a node that stopped without closing its connections costs that much and
not the whole deadline; the operation id makes it harmless if the first node does answer after all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Protocol

from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.client.deadline import DEADLINE
from kvstore.client.options import Options
from kvstore.client.retry import Attempts
from kvstore.client.routing import Router
from kvstore.errors import KVStoreError, ReadTimeout, StalePlacement, Unavailable, WrongOwner
from kvstore.messages import Verb

__all__ = ["Requests", "Sender"]


class Sender(Protocol):
    """What a bucket needs to send its operations: `Requests`, or those of a session. See the methods there."""

    def deadline(self, timeout_s: float) -> float:
        """Return the loop time at which an operation begun now must be over."""

    def begin(self, verb: Verb, name: bytes, body: bytes, deadline: float) -> Awaitable[bytes]:
        """Begin an operation; an error is for `again`."""

    async def again(self, error: KVStoreError, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Go on after `begin` ended with `error`."""

    async def perform(self, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Both."""


class Requests:
    """Sends the operations of one client."""

    __slots__ = ("_attempt_timeout_s", "_attempts_max", "_chaos", "_rng", "_send", "_time", "router")

    def __init__(self, router: Router, options: Options, rng: random.Random, *, chaos: Chaos = CALM) -> None:
        self.router, self._rng, self._chaos = router, rng, chaos
        self._send, self._time = router.send, router.loop.time
        self._attempts_max = options.attempts_max
        self._attempt_timeout_s = chaos.pick(Point.ATTEMPT_SHORT, options.attempt_timeout_s, 0.04, 0.15)

    def deadline(self, timeout_s: float) -> float:
        """Return the loop time at which an operation begun now must be over: its own timeout or an outer deadline."""
        deadline = self._time() + timeout_s
        outer = DEADLINE.get()
        return deadline if outer is None or outer > deadline else outer

    def begin(self, verb: Verb, name: bytes, body: bytes, deadline: float) -> asyncio.Future[bytes]:
        """Send the first attempt; the future gives the OK body. An error, raised here or by the future, is for `again`."""
        now = self._time()
        if deadline <= now:
            raise _too_late(verb)
        attempt_deadline = now + self._attempt_timeout_s
        return self._send(verb, name, body, attempt_deadline if attempt_deadline < deadline else deadline)

    async def perform(self, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Return the OK body. Raises what `again` does. Gets and puts do without it: its coroutine costs them 0.4 us."""
        try:
            return await self.begin(verb, name, body, deadline)
        except KVStoreError as error:
            first = error
        return await self.again(first, verb, name, body, deadline)

    async def again(self, error: KVStoreError, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Return the OK body after the first attempt ended with `error`; raises what `retry` decides to report."""
        attempts = Attempts(is_read=verb is Verb.GET, deadline=deadline, attempts_max=self._attempts_max)
        while True:
            delay_s = attempts.failed(error, self._time(), self._rng)
            if delay_s is None or self.router.closed:
                raise self._final(attempts, error) from None
            await self._recover(error, self._chaos.pick(Point.RETRY_STORM, delay_s, 0.0), deadline)
            now = self._time()
            if now >= deadline:
                raise self._final(attempts, error) from None
            try:
                attempt_deadline = min(deadline, now + self._attempt_timeout_s)
                answer = await self._send(verb, name, body, attempt_deadline, attempts.count)
            except KVStoreError as problem:
                error = problem
            else:
                self._chaos.hit(Probe.CLIENT_RETRY_WORKED)
                return answer

    def _final(self, attempts: Attempts, last: KVStoreError) -> KVStoreError:
        final = attempts.final()
        self._chaos.hit(Probe.CLIENT_KEPT_DOUBT if last.definite and not final.definite else Probe.CLIENT_GAVE_UP)
        return final

    async def _recover(self, error: KVStoreError, delay_s: float, deadline: float) -> None:
        """Make the next attempt worth making: a node to send to, the topology that the error spoke of, a pause."""
        try:
            if not self.router.is_usable:
                self._chaos.hit(Probe.CLIENT_FOUND_NO_NODE)
                await self.router.wait_usable(deadline)
                return
            if isinstance(error, WrongOwner | StalePlacement):
                self._chaos.hit(Probe.CLIENT_ROUTE_STALE)
                await self.router.refresh(deadline)
        except KVStoreError as problem:
            self.router.refresh_error = problem  # the next attempt says what is wrong, or works all the same
        await asyncio.sleep(delay_s)


def _too_late(verb: Verb) -> KVStoreError:
    """The deadline passed before anything was sent, which is definite: a `Timeout` would say too little."""
    message = "the deadline had passed before the operation was sent"
    return ReadTimeout(message) if verb is Verb.GET else Unavailable(message)
