"""One run: a cluster, its clients and its nemesis, all from one seed; then everything is healed, read and judged.

    draw swarm ─► form ─► SAFETY: clients and faults ─► heal ─► LIVENESS: final reads until the owners agree ─► judge ─► Report

A run is a function of (code, seed, workload, duration). Whatever it raises carries the line that replays it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from jepsen_lite.checkers.durable import DurableJudge
from jepsen_lite.checkers.verdict import Verdict
from jepsen_lite.history import History, OpType
from jepsen_lite.judges import Evidence, broken, judge, unjudged
from jepsen_lite.recorder import Board, Recorder
from jepsen_lite.sim.nemesis import Nemesis
from jepsen_lite.sim.peek import copies, left_waiting, retries_worked
from jepsen_lite.sim.swarm import Swarm
from jepsen_lite.sim.world import World
from jepsen_lite.workloads.catalogue import DEFAULT_NAME, draw, open_reader, open_recorder, work, workload_line
from jepsen_lite.workloads.finals import final_reads, last_writes
from kvstore.chaos import GUARDS
from kvstore.ids import StorageKey
from kvstore.ring.token import partition_of
from kvstore.ring.topology import Topology
from kvstore.storage.identity import META_NODE_ID

__all__ = ["Report", "RunOptions", "replay_line", "run_seed"]

CLIENTS = 8
DURATION_S = 60.0
GROWTH_S = 4.0
"""How long clients work while latecomers join."""
MORE_MAX = 10
LARGE_LAST_SHARE = 0.34
"""Of runs, those that end with records of several chunks: two values of the largest size cost 0.2 CPU s."""
UNTIL_S_MORE = 300.0
"""Virtual time within which a run has to end: a cluster that does not come back is an error."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Size of a run; `swarm` None draws it from the seed."""

    workload: str = DEFAULT_NAME
    duration_s: float = DURATION_S
    operations_min: int = 500
    """The load goes on, with all faults, until so many operations were invoked (or for MORE_MAX times half the duration)."""
    clients: int = CLIENTS
    has_moves: bool = False
    """Partitions move in this run while clients work and things break: `Swarm.draw_with_moves`."""
    swarm: Swarm | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What one run came to. `violations` are texts with their evidence; none is a good run."""

    seed: int
    hash: str
    ok: bool
    ops: int
    acked: int
    virtual_s: float
    cpu_s: float
    events: int
    swarm: Sequence[str]
    faults: dict[str, int]
    probes: dict[str, int]
    buggify: dict[str, int]
    figures: dict[str, float]
    moves: dict[str, int]
    """What became of the moves of partitions once clients worked, and which faults met one."""
    violations: list[str]
    replay: str
    deaths: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        return asdict(self)


def replay_line(seed: int, options: RunOptions) -> str:
    """Return the command that repeats a run."""
    more = "" if options.workload == DEFAULT_NAME else f" --workload {options.workload}"
    more += " --moves" if options.has_moves else ""
    more += "" if options.duration_s == DURATION_S else f" --duration {options.duration_s:g}"
    return f"jepsen-lite replay --seed {seed}{more}"


def run_seed(seed: int, options: RunOptions | None = None, *, history: History | None = None) -> Report:
    """Run one seed and judge it. A run that fails by itself (an assertion, a deadlock, an unseen failure) is a bad run.

    `history`, if given, is an empty one, which it fills.
    """
    options = options or RunOptions()
    run = _Run(seed, options, History() if history is None else history)
    started_s = time.process_time()
    try:
        report = run.world.run(run.main(), until_s=options.duration_s * (2 + MORE_MAX) + UNTIL_S_MORE)
    except Exception as error:  # boundary: whatever happened in a run is its verdict
        error.add_note(f"the last events were\n{run.world.trace.tail()}\nreplay: {replay_line(seed, options)}")
        notes = "\n".join(getattr(error, "__notes__", ()))
        report = run.report([], [f"{type(error).__name__}: {error}\n{notes}"])
    return replace(report, cpu_s=time.process_time() - started_s)


class _Run:
    """One run from start to verdict."""

    def __init__(self, seed: int, options: RunOptions, history: History) -> None:
        self.options = options
        self.world = World(seed, options.swarm or (Swarm.draw_with_moves(seed) if options.has_moves else None))
        self.history, self.board = history, Board()
        durable = DurableJudge(
            self.world.witness, partial(copies, self.world), lambda key: key in self.world.atlas.ever_damaged
        )
        self.board.durable, self.board.retries_worked = durable, partial(retries_worked, self.world)
        self.world.moves.on_owners = self._owners_change
        self.names = [f"c{number}" for number in range(options.clients)]
        self._rngs = {name: self.world.rng(f"client {name}") for name in self.names}
        self.nemesis = Nemesis(self.world, self.names)
        self.workload = draw(options.workload, self.world.rng("workload"))

    def _owners_change(self, topology: Topology) -> None:
        """Hold the owners to come to what was acknowledged; not for weak objects: one replica did, and a guest counts as one."""
        world, durable = self.world, self.board.durable
        of_id = {host.disk.meta(META_NODE_ID): host.name for host in world.hosts}

        def owners(key: bytes) -> list[str]:
            if world.atlas.is_weak(key):
                return []
            return [
                of_id.get(node, "")
                for node in topology.owners_of(partition_of(StorageKey(key), topology.partition_bits))
            ]

        if durable is not None:
            durable.moved(owners)

    async def main(self) -> Report:
        world, workload = self.world, self.workload
        for line in self._swarm_lines():
            world.trace.record("swarm", line)
        await world.form()
        recorders = [open_recorder(world, self.history, self.board, name, workload) for name in self.names]
        if world.grows_before_faults:
            await self._grow(recorders)
        await self._load(recorders, self.options.duration_s)
        for _ in range(MORE_MAX):
            if _count(self.history) < self.options.operations_min:
                await self._load(recorders, self.options.duration_s / 2)
        await self.nemesis.end()
        for recorder in recorders:
            await recorder.close()
        verdicts = judge(await self._evidence())
        await world.stop_all()
        unguarded = [
            f"guard: {each}: nothing should lead there" for each in sorted(GUARDS) if world.buggify.probes[each]
        ]
        unproved = [f"not judged: {each}" for each in unjudged(verdicts) if not each.startswith("set_full")]
        return self.report(verdicts, [*world.problems, *broken(verdicts, self.history), *unguarded, *unproved])

    async def _grow(self, recorders: Sequence[Recorder]) -> None:
        loop = self.world.loop
        tasks = self._work(recorders, loop.time() + GROWTH_S)
        await self.world.grow()
        for task in tasks:
            await task

    def _work(self, recorders: Sequence[Recorder], ends_at_s: float) -> list[asyncio.Task[None]]:
        loop = self.world.loop
        return [loop.create_task(work(self.workload, each, self._rngs[each.name], ends_at_s)) for each in recorders]

    async def _load(self, recorders: Sequence[Recorder], duration_s: float) -> None:
        """Let clients work and faults happen for this long."""
        tasks = self._work(recorders, self.world.loop.time() + duration_s)
        await self.nemesis.run(duration_s)
        for task in tasks:
            await task

    def _swarm_lines(self) -> tuple[str, ...]:
        return (*self.world.swarm.lines(), self.world.buggify.line(), workload_line(self.workload))

    async def _evidence(self) -> Evidence:
        world = self.world
        reader = open_reader(world, self.history, self.board)
        healed_s = world.loop.time()
        unwritten = await last_writes(world, reader, is_large=world.rng("last writes").random() < LARGE_LAST_SHARE)
        finals = await final_reads(world, reader, list(self.board.touched), healed_s=healed_s)
        await reader.close()
        clocks = [host.clock for host in world.hosts]
        return Evidence(
            history=self.history, witness=world.witness, finals=finals, board=self.board, clocks=clocks,
            left_waiting=left_waiting(world), unwritten=unwritten,
            doubles_requests=world.swarm.network.doubles_requests,
        )  # fmt: skip

    def report(self, verdicts: Sequence[Verdict], violations: list[str]) -> Report:
        """Return what is known by now."""
        world, history = self.world, self.history
        figures = {f"{v.checker}.{name}": value for v in verdicts for name, value in v.figures.items()}
        return Report(
            seed=world.seed, hash=world.trace.hexdigest(), ok=not violations, ops=_count(history),
            acked=_count(history, OpType.OK), virtual_s=round(world.loop.time(), 3), cpu_s=0.0, events=world.trace.count,
            swarm=self._swarm_lines(),
            faults={name: count for name, count in self.nemesis.counts.items() if count},
            probes=world.buggify.probes, buggify=world.buggify.counts(), figures=figures,
            moves=world.moves.counts(), violations=violations,
            replay=replay_line(world.seed, self.options), deaths=world.deaths,
        )  # fmt: skip


def _count(history: History, outcome: OpType | None = None) -> int:
    return sum(1 for pair in history.pairs() if outcome is None or pair.outcome is outcome)
