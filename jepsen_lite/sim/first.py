"""The first simulation: clients write unique values to a few keys while nodes lose power; then everything must be there.

    python -m jepsen_lite.sim.first --seed 7             one run: a line of JSON, exit code 1 if a promise was broken
    python -m jepsen_lite.sim.first --seeds 0..200       many runs, a line each
    python -m jepsen_lite.sim.first --seed 7 --mutant lying-disk     must be flagged, or the harness is blind

    0 s ─ start 3 nodes ─► clients and faults for ~10 virtual s ─► all nodes back ─► read every key from all replicas ─► judge

What is judged, and by whom
  lost        black box: an acknowledged or shown value is gone and nobody who had been shown it replaced it
  phantoms    black box: a value was seen that nobody put, or whose put had failed definitely
  overtaken   black box, lww: an older value won although the clocks could tell
  dup_dots    white box: one dot was bound to two values, anywhere, ever
  diverged    white box: after the reads (which repair) a replica still holds another state
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jepsen_lite.sim.faults import Faults
from jepsen_lite.sim.oracle import History
from jepsen_lite.sim.workload import WorkloadClient, read_all
from jepsen_lite.sim.world import World, WorldOptions
from kvstore.causality.dvvset import DVVSet
from kvstore.ids import ObjectType, StorageKey
from kvstore.storage.engine import Family
from kvstore.storage.keyspace import parse_name
from kvstore.storage.record import decode_record

__all__ = ["FirstOptions", "Verdict", "replay_line", "run_seed"]

REPAIR_S = 3.0
"""Virtual time that read repair gets before replicas are compared: longer than its own timeout."""
MUTANTS = {"lying-disk": WorldOptions(is_disk_lying=True)}


@dataclass(frozen=True, slots=True)
class FirstOptions:
    """Size of a run. `until_s` bounds the whole run, so that a cluster that does not come back is an error."""

    duration_s: float = 10.0
    clients: int = 6
    keys: int = 20
    until_s: float = 180.0
    world: WorldOptions = field(default_factory=WorldOptions)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one run came to. The lists are empty if every promise was kept."""

    seed: int
    hash: str
    events: int
    ops: int
    acked: int
    crashes: int
    lost_batches: int
    dots: int
    lost: list[str]
    phantoms: list[str]
    overtaken: list[str]
    dup_dots: list[str]
    diverged: list[str]

    @property
    def is_ok(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.phantoms or self.overtaken or self.dup_dots or self.diverged)


def replay_line(seed: int) -> str:
    """Return the command that repeats a run."""
    return f"python -m jepsen_lite.sim.first --seed {seed}"


def run_seed(seed: int, options: FirstOptions | None = None) -> Verdict:
    """Run one seed and judge it. Whatever the run itself raises carries the replay line and the end of the trace."""
    run = _FirstRun(seed, options or FirstOptions())
    try:
        return run.world.run(run.main(), until_s=run.options.until_s)
    except BaseException as error:  # boundary: every failure of a run names its seed
        error.add_note(f"the last events were\n{run.world.trace.tail()}\nreplay: {replay_line(seed)}")
        raise


class _FirstRun:
    """One run from start to verdict."""

    def __init__(self, seed: int, options: FirstOptions) -> None:
        self.options = options
        self.world = World(seed, options=options.world)
        self.history = History()
        self.faults = Faults(self.world)
        self.registers = [f"r{number}" for number in range(options.keys // 2)]
        self.lww = [f"w{number}" for number in range(options.keys - options.keys // 2)]

    async def main(self) -> Verdict:
        world, options = self.world, self.options
        await world.start_all()
        ends_at = world.loop.time() + options.duration_s
        clients = [WorkloadClient(world, f"c{number}", self.history) for number in range(options.clients)]
        keys = [(ObjectType.REGISTER, key) for key in self.registers] + [(ObjectType.LWW, key) for key in self.lww]
        under_way = [world.loop.create_task(client.run(keys, ends_at)) for client in clients]
        under_way.append(world.loop.create_task(self.faults.run([client.name for client in clients], ends_at)))
        for task in under_way:
            await task
        final = await read_all(world, keys)
        await _sleep_until(world, world.loop.time() + REPAIR_S)
        verdict = self._judge(final, sum(client.ops for client in clients))
        await world.stop_all()
        return replace(verdict, hash=world.trace.hexdigest(), events=world.trace.count)

    def _judge(self, final: dict[str, list[bytes]], ops: int) -> Verdict:
        world, history = self.world, self.history
        skew_s = world.options.clock_skew_s_max + world.options.clock_drift_max * world.loop.time()
        return Verdict(
            seed=world.seed, hash="", events=0, ops=ops, acked=history.acknowledged_count(),
            crashes=self.faults.crashes, lost_batches=world.lost_batches, dots=world.witness.count,
            lost=history.lost(final, self.registers),
            phantoms=history.phantoms(final),
            overtaken=history.overtaken(final, self.lww, margin_s=2 * skew_s + 0.002),
            dup_dots=list(world.witness.duplicates),
            diverged=_diverged(world),
        )  # fmt: skip


async def _sleep_until(world: World, at_s: float) -> None:
    woken = world.loop.create_future()
    world.loop.call_at(at_s, woken.set_result, None)
    await woken


def _diverged(world: World) -> list[str]:
    """Return every object whose vector and values are not the same on all nodes (N is their number)."""
    stores = [(host.name, _states(host.engine)) for host in world.hosts if host.engine is not None]
    found = []
    for key in sorted({key for _, states in stores for key in states}):
        held = [(name, states.get(key)) for name, states in stores]
        if any(state is None or state[:2] != held[0][1][:2] for _, state in held if held[0][1] is not None):
            values = {name: state and [sibling.value for sibling in state.siblings] for name, state in held}
            found.append(f"{parse_name(key[8:]).key.decode()}: {values}")
    return found


def _states(engine: Any) -> dict[bytes, DVVSet]:
    return {key: decode_record(StorageKey(key), record) for key, record in engine.scan(Family.DATA, b"", b"\xff" * 9)}


def _seeds(text: str) -> range:
    first, _, end = text.partition("..")
    return range(int(first), int(end))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the module docstring; returns the exit code."""
    logging.getLogger("kvnode").setLevel(logging.ERROR)  # every simulated restart would say that it was unclean
    parser = argparse.ArgumentParser(prog="python -m jepsen_lite.sim.first", description="simulate three nodes")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--seed", type=int, help="run this seed")
    chosen.add_argument("--seeds", type=_seeds, metavar="A..B", help="run the seeds A to B-1")
    parser.add_argument("--duration", type=float, default=FirstOptions().duration_s, help="virtual seconds of load")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break the world so that a promise must break")
    given = parser.parse_args(arguments)
    world = MUTANTS[given.mutant] if given.mutant else WorldOptions()
    options = FirstOptions(duration_s=given.duration, world=world)
    seeds = given.seeds if given.seeds is not None else [given.seed]
    broken = [seed for seed in seeds if not _run_and_print(seed, options)]
    for seed in broken:
        sys.stderr.write(f"broken promise; replay: {replay_line(seed)}\n")
    return 1 if broken else 0


def _run_and_print(seed: int, options: FirstOptions) -> bool:
    try:
        verdict = run_seed(seed, options)
    except Exception:  # boundary: one seed that fails must not hide the others
        traceback.print_exc()
        return False
    sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
    sys.stdout.flush()
    return verdict.is_ok


if __name__ == "__main__":
    sys.exit(main())
