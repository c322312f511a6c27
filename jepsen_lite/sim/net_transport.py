"""What one host of the simulated network uses: its `Transport`, and the listeners that it serves.

A transport belongs to one life of its process. After `SimNetwork.crash` the old one refuses to work, so that tasks of the
dead process that are still being cancelled cannot reach anybody; the restarted host asks the network for a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from jepsen_lite.sim.net_connection import SimConnection
from kvstore.env import Accept, Connection
from kvstore.errors import ConfigError, Unavailable
from kvstore.transport.rules import report_bug

__all__ = ["SimListener", "SimTransport", "Switchboard", "host_of"]


class Switchboard(Protocol):
    """What a transport asks of its network."""

    def life(self, host: str) -> int:
        """Return how often the process of a host has crashed."""

    def open_pair(self, source: str, address: str) -> tuple[SimConnection, SimConnection]:
        """Return the two ends of a new connection; the accepting one is nobody's yet."""

    def knock(self, address: str, theirs: SimConnection, answer: Callable[[bool], None]) -> None:
        """A connection arrives at its listener, if there is one."""

    def bind(self, address: str, accept: Accept) -> SimListener:
        """Return a new listener."""

    def unbind(self, listener: SimListener) -> None:
        """Stop accepting."""


def host_of(address: str) -> str:
    """Return the host of `HOST:PORT`; anything else is a `ConfigError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{address!r} is not of the form HOST:PORT")
    return host


class SimListener:
    """A served address of the simulated network."""

    def __init__(self, network: Switchboard, address: str, accept: Accept) -> None:
        self._network, self._address, self._accept = network, address, accept
        self._accepted: dict[SimConnection, None] = {}
        self.is_serving = True

    @property
    def address(self) -> str:
        return self._address

    async def set_serving(self, is_serving: bool) -> None:
        """What the gRPC twin tells health checks; here it is only kept."""
        self.is_serving = is_serving

    async def close(self) -> None:
        """Stop accepting and close every connection accepted here; their handlers have been told when this returns."""
        self._network.unbind(self)
        for end in self._accepted:
            end.close()
        self._accepted.clear()
        await asyncio.sleep(0)

    def accept_end(self, end: SimConnection) -> None:
        """Give an arrived connection its handler."""
        for closed in [other for other in self._accepted if other.is_closed]:
            del self._accepted[closed]
        self._accepted[end] = None
        try:
            end.start(self._accept(end))
        except Exception as bug:  # the task boundary: one connection must not cost the listener
            end.close(report_bug(end.peer, bug))


class SimTransport:
    """`Transport` of one host, for one life of its process."""

    def __init__(self, network: Switchboard, host: str) -> None:
        self._network, self._host, self._life = network, host, network.life(host)

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        self._check_alive()
        ours, theirs = self._network.open_pair(self._host, address)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        ours.signal(partial(self._network.knock, address, theirs, partial(_answer, answer)), is_knock=True)
        is_open = False
        try:
            async with asyncio.timeout(timeout_s):
                is_accepted = await answer
            self._check_alive()
            if not is_accepted:
                raise Unavailable(f"cannot connect to {address}: connection refused")
            ours.open()
            handler = accept(ours)
            is_open = True
        except TimeoutError:
            raise Unavailable(f"no answer from {address}", timeout_s=timeout_s) from None
        finally:
            if not is_open:
                ours.close(ConnectionAbortedError("given up while connecting"))
        ours.start(handler)
        return ours

    async def serve(self, address: str, accept: Accept) -> SimListener:
        self._check_alive()
        if host_of(address) != self._host:
            raise ConfigError(f"cannot listen on {address}: not an address of {self._host}")
        return self._network.bind(address, accept)

    def _check_alive(self) -> None:
        if self._network.life(self._host) != self._life:
            raise Unavailable(f"the process of {self._host} that asks has crashed")


def _answer(answer: asyncio.Future[bool], is_accepted: bool) -> None:
    if not answer.done():  # the connecting side may have given up
        answer.set_result(is_accepted)
