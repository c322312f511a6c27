"""`Transport` in memory: the deterministic twin of the gRPC one, for simulation and unit tests, with faults on demand.

    network = MemoryNetwork(delay)            one world; `delay(source, target)` is the injected policy
    network.transport("n1")                   what the host n1 uses; it serves addresses "n1:PORT"
    network.cut("n1", "n2")                   from now on nothing passes; connections stay open and silent (half-open)

Invariants
  1. Frames of one direction arrive in the order they were sent, whole and once, or stop arriving: after one frame was
     swallowed by a cut no later one of that connection arrives, heal or not. That is what TCP gives: late frames are
     modelled by a long delay, not by a gap.
  2. Handlers are called in timers and `call_soon` of the running loop, never inside `send`, `close`, `reset`, `crash`.
  3. No randomness and no clock of its own: a run is a function of the callers, the policy and the loop.
  4. What is under way at the end: an orderly `close` and a `crash` deliver it, `close(error)` and `reset` lose it. The
     `Connection` contract allows both, so callers must survive both.

Deliberately absent: bandwidth. A paused or swallowed frame counts as backlog of its sender, as with the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from kvstore.env import Accept, Connection
from kvstore.errors import ConfigError, Unavailable
from kvstore.limits import CONNECTIONS_COUNT_MAX
from kvstore.transport.memory_connection import MemoryConnection
from kvstore.transport.rules import report_bug

__all__ = ["DelayPolicy", "FrameTrace", "MemoryListener", "MemoryNetwork", "MemoryTransport"]

DelayPolicy = Callable[[str, str], float | None]
"""(source host, target host) -> seconds under way, or None: swallowed."""
FrameTrace = Callable[[str, str, bytes], None]
"""(source host, target host, frame), called just before the frame is handed to its handler."""
EPHEMERAL_PORT_FIRST = 49_152


def _no_delay(source: str, target: str) -> float | None:
    return 0.0


def _no_trace(source: str, target: str, frame: bytes) -> None:
    pass


def _host_of(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{address!r} is not of the form HOST:PORT")
    return host


class MemoryNetwork:
    """The wires between hosts, and what may go wrong with them."""

    def __init__(self, delay: DelayPolicy = _no_delay, on_frame: FrameTrace = _no_trace) -> None:
        self._delay = delay
        self._on_frame = on_frame
        self._cuts: set[tuple[str, str]] = set()  # only asked for membership, never iterated
        self._listeners: dict[str, MemoryListener] = {}
        self._ends: dict[MemoryConnection, None] = {}  # every open end, in the order of creation
        self._next_port = EPHEMERAL_PORT_FIRST

    def transport(self, host: str) -> MemoryTransport:
        """Return the transport of one host; after `crash` a restarted host asks for another."""
        return MemoryTransport(self, host)

    def cut(self, host: str, other: str) -> None:
        """Swallow everything between two hosts, also what is under way."""
        self.cut_one_way(host, other)
        self.cut_one_way(other, host)

    def cut_one_way(self, source: str, target: str) -> None:
        """Swallow everything from `source` to `target`; the other way still works."""
        self._cuts.add((source, target))

    def heal(self, host: str, other: str) -> None:
        """Let things pass again, both ways. Directions that lost a frame stay silent until their connection ends."""
        self._cuts -= {(host, other), (other, host)}

    def heal_all(self) -> None:
        """Undo every cut."""
        self._cuts.clear()

    def reset(self, host: str, other: str) -> None:
        """End every connection between two hosts with an error at both ends, losing what is under way."""
        for end in list(self._ends):
            if (end.host, end.peer_host) in ((host, other), (other, host)):
                end.reset()

    def crash(self, host: str) -> None:
        """The process of a host dies: its listeners and ends are gone and none of its handlers is called again.

        The other ends get an error after the delay; or never, if it is swallowed, until they send something.
        """
        for address in [address for address in self._listeners if _host_of(address) == host]:
            del self._listeners[address]
        for end in [end for end in self._ends if end.host == host]:
            end.crash()

    def connections_count(self, host: str) -> int:
        """Return how many ends are open on a host."""
        return sum(1 for end in self._ends if end.host == host)

    def delay_s(self, source: str, target: str) -> float | None:
        return None if (source, target) in self._cuts else self._delay(source, target)

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    def frame_delivered(self, source: str, target: str, frame: bytes) -> None:
        self._on_frame(source, target, frame)

    def forget(self, end: MemoryConnection) -> None:
        self._ends.pop(end, None)

    def open_pair(self, source: str, address: str) -> tuple[MemoryConnection, MemoryConnection]:
        """Return the two ends of a new connection (for `MemoryTransport`); the accepting one is nobody's yet."""
        ours, theirs = MemoryConnection.pair(self, source=source, address=address, target=_host_of(address))
        self._ends[ours] = None
        return ours, theirs

    def knock(self, address: str, theirs: MemoryConnection, answer: Callable[[bool], None]) -> None:
        """A connection arrives. The answer leaves first, so that frames sent while accepting come after it."""
        listener = self._listeners.get(address)
        if listener is not None and not listener.has_room():
            listener = None
        theirs.signal(partial(answer, listener is not None))
        if listener is not None:
            self._ends[theirs] = None
            listener.accept_end(theirs)

    def bind(self, address: str, accept: Accept) -> MemoryListener:
        """Return a new listener (for `MemoryTransport`); port 0 gives the next free one."""
        host, _, port = address.rpartition(":")
        if port == "0":
            address, self._next_port = f"{host}:{self._next_port}", self._next_port + 1
        if address in self._listeners:
            raise ConfigError(f"cannot listen on {address}: address already in use")
        self._listeners[address] = listener = MemoryListener(self, address, accept)
        return listener

    def unbind(self, listener: MemoryListener) -> None:
        """Stop accepting; the address may be used again. Idempotent."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]


class MemoryListener:
    """A served address of the network in memory."""

    def __init__(self, network: MemoryNetwork, address: str, accept: Accept) -> None:
        self._network, self._address, self._accept = network, address, accept
        self._accepted: dict[MemoryConnection, None] = {}
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

    def has_room(self) -> bool:
        """Return whether one more connection may be accepted (CONNECTIONS_COUNT_MAX)."""
        for closed in [other for other in self._accepted if other.is_closed]:
            del self._accepted[closed]
        return len(self._accepted) < CONNECTIONS_COUNT_MAX

    def accept_end(self, end: MemoryConnection) -> None:
        """Give an arrived connection its handler."""
        self._accepted[end] = None
        try:
            end.start(self._accept(end))
        except Exception as bug:  # the task boundary: one connection must not cost the listener
            end.close(report_bug(end.peer, bug))


class MemoryTransport:
    """`Transport` of one host of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self._network = network
        self._host = host

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        ours, theirs = self._network.open_pair(self._host, address)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        ours.signal(partial(self._network.knock, address, theirs, partial(_answer, answer)))
        is_open = False
        try:
            async with asyncio.timeout(timeout_s):
                is_accepted = await answer
            if not is_accepted:
                raise Unavailable(f"cannot connect to {address}: connection refused")
            handler = accept(ours)
            is_open = True
        except TimeoutError:
            raise Unavailable(f"no answer from {address}", timeout_s=timeout_s) from None
        finally:
            if not is_open:
                ours.close(ConnectionAbortedError("given up while connecting"))
        ours.start(handler)
        return ours

    async def serve(self, address: str, accept: Accept) -> MemoryListener:
        if _host_of(address) != self._host:
            raise ConfigError(f"cannot listen on {address}: not an address of {self._host}")
        return self._network.bind(address, accept)


def _answer(answer: asyncio.Future[bool], is_accepted: bool) -> None:
    if not answer.done():  # the connecting side may have given up
        answer.set_result(is_accepted)
