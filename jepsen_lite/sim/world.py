"""A whole cluster made from one seed: loop, network, disks, clocks, nodes and clients, and the hands that break them.

    World(seed) ─┬─ swarm     what this seed may do wrong, and how hard
                 ├─ loop      virtual time; every node and client is a process with a CPU of its own
                 ├─ network   real frames over breakable connections
                 ├─ host n0   disk, clock: they survive its process
                 ├─ host n1 …
                 ├─ atlas     which copies may be damaged now
                 └─ trace     every frame, disk operation, timer and fault, in one hash

Invariants
  1. Every component draws from a stream of its own, derived from (seed, name): adding one does not disturb the others.
  2. A node is made of product code only; what it is given instead of the world are the twins of `Env`.
  3. A killed process says nothing to anybody, and none of its code runs again.
Source: `reliability` section 2; FoundationDB's simulator (SIGMOD 2021, section 4).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from cluster.node import Node, NodeOptions
from jepsen_lite.checkers.dots import DotWitness
from jepsen_lite.sim.atlas import FaultAtlas
from jepsen_lite.sim.boundary import ProcessEngine, ProcessTransport
from jepsen_lite.sim.buggify import Buggify
from jepsen_lite.sim.clock import SimClock
from jepsen_lite.sim.disk import SimDisk
from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.moves import MoveLog
from jepsen_lite.sim.network import SimNetwork
from jepsen_lite.sim.processes import Process, ProcessDied
from jepsen_lite.sim.swarm import Swarm, derived_rng
from jepsen_lite.sim.trace import Trace
from jepsen_lite.sim.witness import CHECKSUM_SIZE_BYTES, WitnessedEngine
from kvstore.chaos import FREQUENT, Point
from kvstore.client.client import AsyncClient
from kvstore.env import Env
from kvstore.errors import KVStoreError
from kvstore.ids import StorageKey
from kvstore.ring.token import partition_of
from kvstore.storage.record import check_record

__all__ = ["PORT", "Host", "World"]

T = TypeVar("T")
PORT = 7400
CALM_SYNC_S_MIN = 0.000_5
MOVE_PORTS = 1000
"""Between the addresses of one machine: more than it will ever lose disks."""
LATE_S_MAX = 2.0
"""How long clients work before a latecomer starts."""
JOIN_DIES_SHARE, JOIN_DIES_S_MAX = 0.5, 0.4
"""Of joins: how many end with a kill of the joiner, and how long after its start."""
JOIN_ATTEMPTS_MAX, JOIN_PAUSE_S = 20, 1.0
JOIN_TIMEOUT_S = 10.0
SETTLE_S_MAX, SETTLE_POLL_S = 60.0, 0.02
"""Until the last one that joined has what it needs, and those that gave have dropped it."""


class Host:
    """One machine: its disk and clock survive its node."""

    def __init__(self, name: str, clock: SimClock, disk: SimDisk) -> None:
        self.name, self.clock, self.disk = name, clock, disk
        self.port = PORT
        """Grows when the disk was lost: who starts then is another node."""
        self.replaces = ""
        """The id of the node it was, whose place it takes with an empty disk."""
        self.moves = 0
        """How often it came back under another address."""
        self.engine: WitnessedEngine | None = None
        self.node: Node | None = None
        self.process: Process | None = None
        """The life that runs now; None while the host is down."""
        self.is_power_lost_next = self.is_silent_next = False
        """What the next kill means to the disk and to the network."""
        self.is_new = True
        """It has not been a member yet: its next start joins."""
        self.starts = 0
        """Also names its streams of random numbers, so it is never set back."""
        self.boots = 1
        """Starts of the machine, of which a power loss adds one; names the boot id."""
        self.is_gone = False
        """It will not come back: its store was refused, or failed for good."""
        self.refusal = ""

    @property
    def address(self) -> str:
        """Where its node listens."""
        return f"{self.name}:{self.port + MOVE_PORTS * self.moves}"

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.process is not None


class World:
    """One run. Make it, call `run(main)`; everything else is for `main`."""

    def __init__(self, seed: int, swarm: Swarm | None = None) -> None:
        self.seed = seed
        self.swarm = swarm if swarm is not None else Swarm.draw(seed)
        self.loop = VirtualLoop(self.rng("timers"))
        self.trace = Trace(self.loop)
        self.witness = DotWitness()
        self.moves = MoveLog()
        self._cut_s = -1.0
        self.buggify = Buggify(
            self.rng("buggify"), p_active=self.swarm.buggify_share,
            always=(Point.PAGE_TINY,) if self.swarm.is_page_tiny else (),
        )  # fmt: skip
        self.buggify.quiet(FREQUENT)  # a join is one attempt, which any lost connection cancels
        self.network = SimNetwork(self.rng("network"), on_event=self._network_event)
        self.hosts = [self.make_host(f"n{number}") for number in range(self.swarm.nodes)]
        self.atlas = FaultAtlas([host.name for host in self.hosts])
        self.client_clocks: dict[str, SimClock] = {}
        self._clients_made = 0
        self.lost_batches = 0
        self.is_formed = False
        self.problems: list[str] = []
        """What the nemesis itself saw go wrong."""
        self.deaths: list[str] = []
        """Nodes that ended themselves, and why: expected only where a disk was broken for good."""

    def rng(self, name: str) -> random.Random:
        """Return the random stream of this name."""
        return derived_rng(self.seed, name)

    def run(self, main: Coroutine[Any, Any, T], *, until_s: float) -> T:
        """Run `main` in this world. What it leaves running is cancelled; what fails unseen fails the run."""
        return self.loop.run(main, until_s=until_s)

    # --- hosts --------------------------------------------------------------------------------------------------------

    async def form(self) -> None:
        """Found a cluster on the first host and let the others join it one after the other, except for latecomers."""
        for host in self.hosts[: len(self.hosts) - self.swarm.late_joins]:
            await self.start(host)
        self.moves.begin()
        if not self.grows_before_faults:
            await self._let_loose()

    @property
    def latecomers(self) -> list[Host]:
        """The hosts that join once clients work."""
        return self.hosts[len(self.hosts) - self.swarm.late_joins :]

    @property
    def grows_before_faults(self) -> bool:
        """Whether latecomers join before the faults begin."""
        return self.swarm.late_joins > 0 and not self.swarm.is_late_under_faults

    async def grow(self) -> None:
        """Let the latecomers join while clients work; at times one dies while it joins, and tries again."""
        rng = self.rng("growth")
        for host in self.latecomers:
            await asyncio.sleep(rng.uniform(0, LATE_S_MAX))
            if rng.random() < JOIN_DIES_SHARE:
                joining = self.loop.create_task(self.start(host))
                await asyncio.sleep(rng.uniform(0, JOIN_DIES_S_MAX))
                if not joining.done() and host.is_up:
                    self.kill(host, is_power_loss=False)
                await joining
            for _ in range(JOIN_ATTEMPTS_MAX):
                if host.is_up or await self.start(host):
                    break
                await asyncio.sleep(JOIN_PAUSE_S)
            else:
                self.problems.append(f"{host.name} could not join in {JOIN_ATTEMPTS_MAX} attempts: {host.refusal}")
        await self._let_loose()

    async def _let_loose(self) -> None:
        """The cluster is complete: from now on network and buggify are themselves."""
        await self.wait_settled()
        self.is_formed = True
        self.buggify.wake()
        self.network.swarm = self.swarm.network
        names = [host.name for host in self.hosts]
        rng = self.rng("wires")
        for source, target in [(a, b) for a in names for b in names if a != b]:
            self.network.change(source, target, self.swarm.network.conditions(rng))
        for host in self.running():
            self._set_lying(host)

    async def wait_settled(self) -> None:
        """Wait for moves under way to end; that they do not is a problem."""
        for _ in range(round(SETTLE_S_MAX / SETTLE_POLL_S)):
            if self.is_settled():
                return
            await asyncio.sleep(SETTLE_POLL_S)
        self.problems.append("the moves of partitions did not end")

    def is_settled(self) -> bool:
        """Whether some node runs, and none knows of a move."""
        nodes = [host.node for host in self.running() if host.node is not None and host.node.identity is not None]
        return bool(nodes) and all(node.placement.is_settled for node in nodes)

    async def start(self, host: Host) -> bool:
        """Start the node of a host on the disk it has. False: it died meanwhile, or will not start (`refusal` says why)."""
        assert host.process is None, f"{host.name} is running"
        host.starts += 1
        host.refusal = ""  # who dies in this start was not refused, though an earlier one may have been
        try:
            inner = host.disk.open(boot_id=f"{host.name} boot {host.boots}")
        except KVStoreError as error:
            return self._refused(host, error)
        host.engine = WitnessedEngine(
            inner, node=host.name, trace=self.trace, witness=self.witness, disk=host.disk,
            due_from_heal=partial(self.atlas.due_from_heal, host.name),
            on_topology=self.moves.see if host is self.hosts[0] else None,
        )  # fmt: skip
        host.engine.see_all()
        self.trace.record("start", host.name, host.starts, int(inner.report.history_may_be_missing))
        host.process = process = self.loop.spawn(host.name)
        process.on_death.append(lambda: self._process_died(host, process))
        try:
            await self.loop.run_in(process, self._boot(host, process, host.engine))
        except ProcessDied:
            return False
        except KVStoreError as error:
            if host.process is process:
                self.loop.kill(process)
            return self._refused(host, error)
        host.is_new, host.replaces = False, ""
        self._set_lying(host)
        self.trace.record("ready", host.name)
        return True

    def _refused(self, host: Host, error: KVStoreError) -> bool:
        host.refusal = error.code
        self.trace.record("refused", host.name, error.code)
        return False

    async def _boot(self, host: Host, process: Process, engine: WitnessedEngine) -> None:
        """In the new process: make the node and start it."""
        env = Env(
            transport=ProcessTransport(self.loop, process, self.network.transport(host.name)),
            engine=ProcessEngine(self.loop, engine), clock=host.clock, random=self.rng(f"node {host.name} {host.starts}"),
            chaos=self.buggify,
        )  # fmt: skip
        host.node = node = Node(env, self._node_options(host))
        host.disk.on_harm = node.store.forget_kept
        node.fatal.add_done_callback(lambda fatal: self._node_ended(host, process, fatal), context=self.loop.outside)
        await node.start()

    def _node_options(self, host: Host) -> NodeOptions:
        founder = self.hosts[0]
        join = (founder.address,) if host.is_new and host is not founder else ()
        return NodeOptions(
            listen=host.address, join=join, replaced=host.replaces, partition_bits=self.swarm.partition_bits, n=self.swarm.n,
            record_cache_bytes=self.swarm.cache_bytes, join_timeout_s=JOIN_TIMEOUT_S,
        )  # fmt: skip

    def kill(self, host: Host, *, is_power_loss: bool, is_silent: bool = False) -> None:
        """Kill the process of a host now; power loss may take what it had not synced."""
        assert host.process is not None, f"{host.name} is down already"
        host.is_power_lost_next, host.is_silent_next = is_power_loss, is_silent
        self.loop.kill(host.process)

    def _process_died(self, host: Host, process: Process) -> None:
        if host.process is not process:
            return  # it had stopped in order
        is_power_loss, host.is_power_lost_next = host.is_power_lost_next, False
        is_silent, host.is_silent_next = host.is_silent_next, False
        host.node = host.process = None
        self.network.crash(host.name, silent=is_silent)
        if is_power_loss:
            lost = host.disk.lose_power()
            host.boots += 1
            self.lost_batches += lost
        else:
            lost = 0
            host.disk.kill()
        self.trace.record("crash", host.name, int(is_power_loss), int(is_silent), lost)
        self.moves.count("power_loss" if is_power_loss else "kill")

    def _node_ended(self, host: Host, process: Process, fatal: asyncio.Future[None]) -> None:
        """A node says that its process must end: do what `kvnode` does, at once."""
        if fatal.cancelled() or process.is_dead:
            return
        problem = fatal.exception()
        self.trace.record("fatal", host.name, type(problem).__name__)
        self.deaths.append(f"{host.name}: {problem}")
        self.loop.call_soon(self.loop.kill, process, context=self.loop.outside)

    async def stop(self, host: Host) -> None:
        """Stop a running node in an orderly way (SIGTERM)."""
        node, process = host.node, host.process
        assert node is not None and process is not None
        try:
            await self.loop.run_in(process, node.stop())
        except ProcessDied:
            return
        except KVStoreError as error:  # its disk could not take the last words
            self.trace.record("stop failed", host.name, error.code)
            if host.process is process:
                self.loop.kill(process)
            return
        if host.process is not process:
            return
        host.node = host.process = None
        self.loop.kill(process)
        self.network.crash(host.name)
        self.trace.record("stop", host.name)

    async def stop_all(self) -> None:
        """Stop every running node, and put what the loop did into the trace."""
        for host in self.running():
            await self.stop(host)
        self.trace.record("loop", self.loop.callbacks_run, self.loop.digest())

    def running(self) -> list[Host]:
        """Return the hosts whose process runs."""
        return [host for host in self.hosts if host.is_up]

    def make_host(self, name: str) -> Host:
        """Return a machine; it is not one of `hosts` unless the world was made with it."""
        sync_s = (CALM_SYNC_S_MIN, self.swarm.syncs_s_max)
        disk = SimDisk(name, self.rng(f"disk {name}"), now=self.loop.time, sync_s=sync_s)
        return Host(name, self._clock(name), disk)

    def _clock(self, name: str) -> SimClock:
        skew_s = self.swarm.clock_skew_s_max
        return SimClock(self.loop, offset_ns=round(self.rng(f"clock {name}").uniform(-skew_s, skew_s) * 1e9))

    def _set_lying(self, host: Host) -> None:
        if host.engine is not None:
            host.engine.is_lying = self.is_formed and self.swarm.is_disk_lying

    # --- clients ------------------------------------------------------------------------------------------------------

    def open_client(self, name: str, **options: Any) -> AsyncClient:
        """Return a client on a machine of its own (`machine.life`), which knows the addresses of all nodes.

        It belongs to the harness: it costs no virtual CPU, and lives until `close_client`.
        """
        self._clients_made += 1
        machine = name.partition(".")[0]
        clock = self.client_clocks.setdefault(machine, self._clock(machine))
        return AsyncClient(
            [host.address for host in self.hosts], clock=clock, rng=self.rng(f"client {name} {self._clients_made}"),
            transport=self.network.transport(machine), chaos=self.buggify, **options,
        )  # fmt: skip

    async def close_client(self, client: AsyncClient) -> None:
        """Close a client."""
        await client.close()

    # --- looking inside -----------------------------------------------------------------------------------------------

    def owners(self, key: bytes) -> list[str]:
        """Return the names of the running hosts that own a key, by the newest topology that any of them has."""
        topologies = [h.node.placement.topology for h in self.running() if h.node is not None and h.node.is_ready]
        newest = max((t for t in topologies if t is not None), key=lambda t: t.epoch)
        owners = newest.owners_of(partition_of(key, newest.partition_bits))
        by_id = {h.node.node_id: h for h in self.running() if h.node is not None and h.node.identity is not None}
        living = [by_id[node_id] for node_id in owners if node_id in by_id]
        return [host.name for host in living if _is_readable(host, key) or self._can_heal(key, living)]

    def _can_heal(self, key: bytes, owners: list[Host]) -> bool:
        """Whether reads can replace an unreadable copy: every other owner must answer, and one must hold something."""
        is_whole = not any(host.is_gone or host.replaces for host in self.hosts)
        return is_whole and any(host.disk.peek(key) and _is_readable(host, key) for host in owners)

    def states(self, key: bytes) -> dict[str, bytes]:
        """Return what each running owner of a key has applied last, past all faults; b"" if nothing, or unreadable."""
        owners = self.owners(key)
        return {host.name: host.disk.peek(key) or b"" for host in self.hosts if host.name in owners}

    def _network_event(self, kind: str, source: str, target: str, data: bytes) -> None:
        if kind == "cut" and self.loop.time() != self._cut_s:  # the links of one partition are cut together
            self._cut_s = self.loop.time()
            self.moves.count("partition")
        self.trace.record(kind, source, target, hashlib.blake2b(data, digest_size=16).digest() if data else b"")


def _is_readable(host: Host, key: bytes) -> bool:
    record = host.disk.peek(key)
    return record is None or (len(record) > CHECKSUM_SIZE_BYTES and check_record(StorageKey(key), record))
