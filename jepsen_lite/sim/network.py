"""The simulated network: the surface of `MemoryNetwork`, with everything a network may do to connections.

    network = SimNetwork(rng, swarm, on_event)        one world; the swarm says how each wire behaves at first
    network.transport("n1")                           what the host n1 uses; it serves addresses "n1:PORT"
    network.wire("n1", "n2")                          one direction: conditions, cut, clog: changeable at any time
    network.play(schedule)                            cuts, heals and clogs of net_partitions.py at their times

    host A ── SimConnection ── Stream ─────► Wire A→B ─────► SimConnection ── host B
                  (ends)     (order, retry)  (delay, loss, …)

Frames are the real encoded frames of the real Link and Session; what a cut swallowed is sent again, as TCP does, until
the connection ends: by the retries of a stream, by silence, or because an end was told.

Invariants
  1. Order, once, prefix: see net_connection.py. No fault but `duplicate_share` and `corrupt_share` breaks them.
  2. A run is a function of the callers, the loop and one injected rng: every wire derives its own stream from it.
  3. Nothing of a crashed process reaches the network again: transports made before the crash refuse to work.
  4. `on_event` sees every frame delivered ("frame"), lost ("drop"), doubled ("dup") and damaged ("corrupt"), every end
     that opened ("open") and ended ("end"), and every change by a nemesis, so that a hash of them covers the run.
Source: `reliability` sections 2 and 3, faults N1 to N15 (N15 as `loses_knocks`), G1.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from jepsen_lite.sim.net_connection import SimConnection
from jepsen_lite.sim.net_partitions import DirectedLink, Links, Step
from jepsen_lite.sim.net_stream import TcpTimes
from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.net_transport import SimListener, SimTransport, host_of
from jepsen_lite.sim.net_wire import Tally, Wire, WireConditions
from kvstore.env import Accept
from kvstore.errors import ConfigError

__all__ = ["EventTrace", "SimNetwork"]

EventTrace = Callable[[str, str, str, bytes], None]
"""(kind, source host, target host, frame or detail)."""
EPHEMERAL_PORT_FIRST = 49_152
RESET_S_MAX = 0.05
"""A middlebox resets both ends of a connection within this time, each at its own moment."""


def _no_trace(kind: str, source: str, target: str, data: bytes) -> None:
    pass


class SimNetwork:
    """The wires between hosts and the hands that break them."""

    def __init__(
        self, rng: random.Random, swarm: NetworkSwarm | None = None, on_event: EventTrace = _no_trace, *,
        times: TcpTimes | None = None,
    ) -> None:  # fmt: skip
        self.swarm, self.times, self.tally = swarm or NetworkSwarm.calm(), times or TcpTimes(), Tally()
        self.trace = on_event
        self._seed = rng.getrandbits(64)
        self._wires: dict[DirectedLink, Wire] = {}
        self._listeners: dict[str, SimListener] = {}
        self._ends: dict[SimConnection, None] = {}  # every open end, in the order of creation
        self._flushing: dict[SimConnection, None] = {}  # closed ends whose stream still carries their end
        self._lives: dict[str, int] = {}
        self._dead: dict[str, None] = {}
        self._connections_made = 0
        self._next_port = EPHEMERAL_PORT_FIRST

    # The surface of MemoryNetwork.

    def transport(self, host: str) -> SimTransport:
        """Return the transport of one host. After a crash a restarted host asks for another, which also revives it."""
        self.revive(host)
        return SimTransport(self, host)

    def cut(self, host: str, other: str) -> None:
        """Let nothing pass between two hosts, also not what is under way."""
        self.cut_links(((host, other), (other, host)))

    def cut_one_way(self, source: str, target: str) -> None:
        """Let nothing pass from `source` to `target`; the other way still works."""
        self.cut_links(((source, target),))

    def heal(self, host: str, other: str) -> None:
        """Let things pass again, both ways. What waited is sent again at its next retry, if the connection still lives."""
        self.heal_links(((host, other), (other, host)))

    def heal_all(self) -> None:
        """Undo every cut."""
        self.heal_links(self._wires)

    def reset(self, host: str, other: str) -> None:
        """Break every connection between two hosts; each end learns within RESET_S_MAX, at its own moment."""
        self._note("reset", host, other)
        loop = asyncio.get_running_loop()
        for end in list(self._ends):
            if (end.host, end.peer_host) in ((host, other), (other, host)):
                delay_s = self.wire(end.peer_host, end.host).rng.uniform(0, RESET_S_MAX)
                loop.call_later(delay_s, end.break_now, "reset")

    def crash(self, host: str, *, silent: bool = False) -> None:
        """The process of a host dies: its listeners and ends are gone and none of its handlers is called again.

        The other ends are told after a delay. `silent`: its machine died too, so nobody is told and nothing answers,
        connecting included, until `revive` or the next `transport(host)`; the other ends find out by themselves.
        """
        self._note("crash_silent" if silent else "crash", host, host)
        self.tally.add("crashed_silently" if silent else "crashed")
        self._lives[host] = self._lives.get(host, 0) + 1
        for address in [address for address in self._listeners if host_of(address) == host]:
            del self._listeners[address]
        if silent:
            self._dead[host] = None
        for end in [end for end in (*self._ends, *self._flushing) if end.host == host]:
            end.crash(is_silent=silent)
        if silent:
            for end in [end for end in self._flushing if end.host == host]:
                del self._flushing[end]

    def connections_count(self, host: str) -> int:
        """Return how many ends are open on a host."""
        return sum(1 for end in self._ends if end.host == host)

    # More faults.

    @property
    def counts(self) -> dict[str, int]:
        """Every fault and how often it struck, in the order of `net_wire.COUNTERS`; zeros included."""
        return dict(self.tally.counts)

    def wire(self, source: str, target: str) -> Wire:
        """Return one direction between two hosts; its first conditions are drawn from the swarm."""
        wire = self._wires.get((source, target))
        if wire is None:
            rng = random.Random(f"{self._seed}/{source}/{target}")
            wire = Wire(
                source, target, rng=rng, conditions=self.swarm.conditions(rng), tally=self.tally,
                is_dead=self._dead.__contains__,
            )  # fmt: skip
            self._wires[source, target] = wire
        return wire

    def change(self, source: str, target: str, conditions: WireConditions) -> None:
        """Give one direction other conditions, from its next packet on."""
        self.trace("conditions", source, target, repr(conditions).encode())
        self.wire(source, target).conditions = conditions

    def cut_links(self, links: Iterable[DirectedLink]) -> None:
        """Cut directions, as the functions of net_partitions.py name them. Cuts do not count: one heal is enough."""
        for source, target in links:
            self._note("cut", source, target, counter="cuts")
            self.wire(source, target).is_cut = True

    def heal_links(self, links: Iterable[DirectedLink]) -> None:
        """Heal directions; those that were not cut stay as they are."""
        for source, target in links:
            if self.wire(source, target).is_cut:
                self._note("heal", source, target, counter="heals")
                self.wire(source, target).is_cut = False

    def clog_links(self, links: Iterable[DirectedLink], for_s: float | None = None) -> None:
        """Hold back everything for this long (None: until unclogged), then release it in a burst."""
        for source, target in links:
            self._note("clog", source, target)
            self.wire(source, target).clog(for_s)

    def unclog_links(self, links: Iterable[DirectedLink]) -> None:
        """End every clog of these directions."""
        for source, target in links:
            self._note("unclog", source, target)
            self.wire(source, target).unclog()

    def revive(self, host: str) -> None:
        """A silently crashed machine answers again: old connections get a reset, new ones a refusal until it serves."""
        if host in self._dead:
            self._note("revive", host, host)
            del self._dead[host]

    def calm(self) -> None:
        """End every fault of the network and inject no more (for the liveness phase of a run). Dead hosts stay dead."""
        self.swarm = NetworkSwarm.calm()
        links = list(self._wires)
        self.heal_links(links)
        self.unclog_links(links)
        for source, target in links:
            self.change(source, target, self.swarm.conditions(self._wires[source, target].rng))

    def reset_links(self, links: Iterable[DirectedLink]) -> None:
        """Break every connection between the hosts of each link."""
        for source, target in links:
            self.reset(source, target)

    def play(self, schedule: Sequence[Step]) -> None:
        """Apply each step at its time, counted from now."""
        loop = asyncio.get_running_loop()
        actions: dict[str, Callable[[Links], None]] = {
            "cut": self.cut_links, "heal": self.heal_links, "clog": self.clog_links, "unclog": self.unclog_links,
            "reset": self.reset_links,
        }  # fmt: skip
        for step in schedule:
            loop.call_later(step.at_s, actions[step.action], step.links)

    def _note(self, kind: str, source: str, target: str, *, counter: str | None = None) -> None:
        if counter is not None:
            self.tally.add(counter)
        self.trace(kind, source, target, b"")

    # For ends and transports.

    def life(self, host: str) -> int:
        return self._lives.get(host, 0)

    def shut(self, end: SimConnection, *, is_flushing: bool) -> None:
        self._ends.pop(end, None)
        if is_flushing:
            self._flushing[end] = None

    def flushed(self, end: SimConnection) -> None:
        self._flushing.pop(end, None)

    def open_pair(self, source: str, address: str) -> tuple[SimConnection, SimConnection]:
        """Return the two ends of a new connection (for `SimTransport`); the accepting one is nobody's yet."""
        target = host_of(address)
        self._connections_made = number = self._connections_made + 1
        ours = SimConnection(self, self.wire(source, target), peer=address, number=number, is_accepted=False)
        theirs = SimConnection(self, self.wire(target, source), peer=source, number=number, is_accepted=True)
        ours.other, theirs.other = theirs, ours
        self._ends[ours] = None
        return ours, theirs

    def knock(self, address: str, theirs: SimConnection, answer: Callable[[bool], None]) -> None:
        """A connection arrives. The answer leaves first, so that frames sent while accepting come after it."""
        listener = self._listeners.get(address)
        theirs.signal(partial(theirs.other.answered, partial(answer, listener is not None)))
        if listener is not None:
            self._ends[theirs] = None
            theirs.open()
            listener.accept_end(theirs)

    def bind(self, address: str, accept: Accept) -> SimListener:
        """Return a new listener (for `SimTransport`); port 0 gives the next free one."""
        host, _, port = address.rpartition(":")
        if port == "0":
            address, self._next_port = f"{host}:{self._next_port}", self._next_port + 1
        if address in self._listeners:
            raise ConfigError(f"cannot listen on {address}: address already in use")
        self._listeners[address] = listener = SimListener(self, address, accept)
        return listener

    def unbind(self, listener: SimListener) -> None:
        """Stop accepting; the address may be used again. Idempotent."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]
