"""A whole cluster made from one seed: loop, network, disks, clocks, nodes and clients, and the hands that break them.

    World(seed) ─┬─ loop      virtual time                       rng("timers")
                 ├─ network   delays, resets                     rng("network")
                 ├─ host n0   disk, clock, node                  rng("clock n0"), rng("disk n0"), rng("node n0 1"), …
                 ├─ host n1 …
                 └─ trace     every frame delivered, every batch applied, every fault

Invariants
  1. Every component draws from a stream of its own, derived from (seed, name): adding one does not disturb the others.
  2. A node is made of product code only; what it is given instead of the world are the twins of `Env`.
  3. A killed process leaves what it applied; a power loss keeps some prefix of what was not yet synced, and the next
     start has another boot id. Either way the process says nothing to anybody: of a dead one no product code runs.
  4. A node runs in a process of its own (processes.py), behind a boundary (boundary.py); this file runs in the harness.
Source: `reliability` section 2; faults P1 to P3, N7 and N12 of its catalogue. Partitions and clock steps come later.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.node import Node, NodeOptions
from jepsen_lite.sim.boundary import ProcessEngine, ProcessTransport
from jepsen_lite.sim.clock import SimClock
from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.processes import Process, ProcessDied
from jepsen_lite.sim.trace import Trace
from jepsen_lite.sim.witness import DotWitness, WitnessedEngine
from kvstore.env import Env, Transport
from kvstore.storage.engine import Engine
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from kvstore.transport.memory import MemoryNetwork

__all__ = ["Host", "World", "WorldOptions", "derived_rng"]

T = TypeVar("T")
PORT = 7400


@dataclass(frozen=True, slots=True)
class WorldOptions:
    """How the world behaves, times in seconds. Each seed draws how slow its disks are, and how
    many messages are late by up to `late_s_max` (what is behind them on the same connection waits).

    `is_disk_lying`: once the cluster is formed, syncs do nothing (a mutant: do the judges notice?).
    """

    delay_s_min: float = 0.0001
    delay_s_max: float = 0.005
    late_s_max: float = 0.4
    late_share_choices: tuple[float, ...] = (0.0, 0.002, 0.02)
    sync_s_min: float = 0.0005
    sync_s_max_choices: tuple[float, ...] = (0.005, 0.020, 0.060)
    clock_skew_s_max: float = 0.050
    clock_drift_max: float = 1e-4
    partition_bits: int = 3
    is_disk_lying: bool = False


def derived_rng(seed: int, name: str) -> random.Random:
    """Return the stream of one component: the same for the same (seed, name) in every process."""
    return random.Random(hashlib.sha256(f"{seed}/{name}".encode()).digest())


class Host:
    """One machine: its disk and clock survive its node."""

    def __init__(self, name: str, clock: SimClock) -> None:
        self.name, self.clock = name, clock
        self.address = f"{name}:{PORT}"
        self.disk = MemoryDisk()
        self.engine: WitnessedEngine | None = None
        self.node: Node | None = None
        self.process: Process | None = None
        """The life that runs now; None while the host is down."""
        self.is_power_lost_next = False
        """What the next kill means to the disk, if a crash point and not `World.crash` does it."""
        self.starts = 0
        self.boots = 1
        """Starts of the machine, of which a power loss adds one; names the boot id."""


class World:
    """One run. Make it, call `run(main)`; everything else is for `main`."""

    def __init__(self, seed: int, *, nodes: int = 3, options: WorldOptions | None = None) -> None:
        self.seed, self.options = seed, options or WorldOptions()
        self.loop = VirtualLoop(self.rng("timers"))
        self.trace = Trace(self.loop)
        self.witness = DotWitness()
        self.lost_batches = 0
        self._is_formed = False
        self._network_rng = self.rng("network")
        self._late_share = self.rng("late").choice(self.options.late_share_choices)
        self._sync_s_max = self.rng("sync").choice(self.options.sync_s_max_choices)
        self.hosts = [Host(f"n{number}", self.clock(f"n{number}")) for number in range(nodes)]
        self.network = MemoryNetwork(self._delay_s, self._frame_delivered)

    def rng(self, name: str) -> random.Random:
        """Return the random stream of this name."""
        return derived_rng(self.seed, name)

    def run(self, main: Coroutine[Any, Any, T], *, until_s: float) -> T:
        """Run `main` in this world. What it leaves running is cancelled; what fails unseen fails the run."""
        return self.loop.run(main, until_s=until_s)

    # Hosts.

    async def start_all(self) -> None:
        """Found a cluster on the first host, and let the others join it one after the other."""
        for host in self.hosts:
            await self.start(host)
        self._is_formed = True  # from now on a lying disk lies: before, nodes would forget that they are members
        self._set_lying()

    async def start(self, host: Host) -> None:
        """Start the node of a host on the disk it has; a new one joins the first host's cluster."""
        assert host.process is None, f"{host.name} is running"
        host.starts += 1
        sync_rng = self.rng(f"disk {host.name} {host.starts}")
        sync_s_min, sync_s_max = self.options.sync_s_min, self._sync_s_max
        inner = MemoryEngine.open(
            host.disk, boot_id=f"{host.name} boot {host.boots}",
            sync_delay_s=lambda: sync_rng.uniform(sync_s_min, sync_s_max),
        )  # fmt: skip
        host.engine = WitnessedEngine(inner, node=host.name, trace=self.trace, witness=self.witness)
        self.trace.record("start", host.name, host.starts, int(inner.report.history_may_be_missing))
        host.process = process = self.loop.spawn(host.name)
        process.on_death.append(lambda: self._process_died(host))
        try:
            await self.loop.run_in(process, self._boot(host, process, host.engine))
        except ProcessDied:
            return
        self._set_lying()
        self.trace.record("ready", host.name)

    async def _boot(self, host: Host, process: Process, engine: Engine) -> None:
        """In the new process: make the node and start it."""
        host.node = node = Node(self._env(host, process, engine), self._node_options(host))
        node.fatal.add_done_callback(lambda fatal: self._node_died(host, fatal), context=self.loop.outside)
        await node.start()

    async def crash(self, host: Host, *, is_power_loss: bool) -> int:
        """Kill the process of a host at once. Power loss keeps a random prefix of the unsynced batches; returns how many
        were lost."""
        assert host.process is not None, f"{host.name} is down already"
        lost_before, host.is_power_lost_next = self.lost_batches, is_power_loss
        self.loop.kill(host.process)
        return self.lost_batches - lost_before

    def _process_died(self, host: Host) -> None:
        is_power_loss, host.is_power_lost_next = host.is_power_lost_next, False
        host.node = host.process = None
        self.network.crash(host.name)
        power_rng = self.rng(f"power {host.name} {host.starts}")
        keep_share = power_rng.choice([0.0, 0.0, power_rng.random()])
        lost = host.disk.crash(lambda count: round(keep_share * count) if is_power_loss else count)
        host.boots += is_power_loss
        self.lost_batches += lost
        self.trace.record("crash", host.name, int(is_power_loss), lost)

    async def stop_all(self) -> None:
        """Stop every running node in an orderly way."""
        for host in self.running():
            node, process = host.node, host.process
            assert node is not None and process is not None
            try:
                await self.loop.run_in(process, node.stop())
            except ProcessDied:
                continue
            host.node = host.process = None
            self.trace.record("stop", host.name)
        self.trace.record("loop", self.loop.callbacks_run, self.loop.digest())

    def running(self) -> list[Host]:
        """Return the hosts whose node was started and not crashed."""
        return [host for host in self.hosts if host.process is not None]

    def _set_lying(self) -> None:
        for host in self.running():
            if host.engine is not None:
                host.engine.is_lying = self._is_formed and self.options.is_disk_lying

    def spawn_client(self, name: str) -> Process:
        """Return a process for a client: start its work with `loop.run_in`, give it `transport(process)`, kill it at will."""
        process = self.loop.spawn(name)
        process.on_death.append(lambda: self.network.crash(name))
        return process

    def transport(self, process: Process) -> Transport:
        """Return the transport of a process, a node or a client; for clients of the harness ask the network."""
        return ProcessTransport(self.loop, process, self.network.transport(process.name))

    def _env(self, host: Host, process: Process, engine: Engine) -> Env:
        return Env(
            transport=self.transport(process),
            engine=ProcessEngine(self.loop, engine),
            clock=host.clock,
            random=self.rng(f"node {host.name} {host.starts}"),
        )

    def _node_options(self, host: Host) -> NodeOptions:
        founder = self.hosts[0]
        join = () if host is founder or host.starts > 1 else (founder.address,)
        return NodeOptions(listen=host.address, join=join, partition_bits=self.options.partition_bits)

    def _node_died(self, host: Host, fatal: asyncio.Future[None]) -> None:
        if not fatal.cancelled():
            self.loop.call_exception_handler({"message": f"{host.name} died", "exception": fatal.exception()})

    # Network and clocks.

    def clock(self, name: str) -> SimClock:
        """Return a new wall clock for the machine `name`, a little off and drifting."""
        rng, options = self.rng(f"clock {name}"), self.options
        skew_ns = round(rng.uniform(-options.clock_skew_s_max, options.clock_skew_s_max) * 1e9)
        clock = SimClock(self.loop, offset_ns=skew_ns)
        clock.set_rate(1.0 + rng.uniform(-options.clock_drift_max, options.clock_drift_max))
        return clock

    def _delay_s(self, source: str, target: str) -> float:
        rng, options = self._network_rng, self.options
        late_s = rng.uniform(0, options.late_s_max) if rng.random() < self._late_share else 0.0
        return late_s + rng.uniform(options.delay_s_min, options.delay_s_max)

    def _frame_delivered(self, source: str, target: str, frame: bytes) -> None:
        self.trace.record("frame", source, target, hashlib.blake2b(frame, digest_size=16).digest())
