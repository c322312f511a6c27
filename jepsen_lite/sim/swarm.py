"""Which faults a run has, and how strong: everything that is drawn from a seed before the run begins, printed first.

    Swarm.draw(seed)  ─►  cluster: 3 to 5 nodes, partitions, cache
                          network, disk, clock, process: presence and intensity of each fault

Each part draws from a stream of its own, so that adding a fault to one does not change the others.
Source: Groce et al., "Swarm Testing", ISSTA 2012; `reliability` section 2.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from jepsen_lite.sim.clock_faults import ClockSwarm
from jepsen_lite.sim.disk_faults import DiskSwarm
from jepsen_lite.sim.net_swarm import NetworkSwarm

__all__ = ["ProcessSwarm", "Swarm", "derived_rng"]

BUGGIFY_SHARE_ACTIVE = 0.25
Part = TypeVar("Part", NetworkSwarm, ClockSwarm, "ProcessSwarm")


def derived_rng(seed: int, name: str) -> random.Random:
    """Return the stream of one component: the same for the same (seed, name) in every process."""
    return random.Random(hashlib.sha256(f"{seed}/{name}".encode()).digest())


@dataclass(frozen=True, slots=True)
class ProcessSwarm:
    """What happens to processes. Times in seconds; a pause of infinity is absence."""

    crash_pause_s: float = float("inf")
    """Mean time between crashes. A crash kills the process, or takes the power of its machine."""
    power_share: float = 0.0
    together_share: float = 0.0
    """Of crashes: how many hit every node that is up."""
    point_share: float = 0.0
    """Of crashes: how many wait for the victim to reach an I/O point; another share waits for its n-th next callback."""
    event_share: float = 0.0
    restart_s_max: float = 1.5
    stop_share: float = 0.0
    """Of crashes: how many are orderly stops (SIGTERM) instead."""
    freeze_pause_s: float = float("inf")
    """Mean time between SIGSTOPs."""
    freeze_s_mean: float = 0.5
    starve_pause_s: float = float("inf")
    starve_factor: float = 1.0
    clone_pause_s: float = float("inf")
    """Mean time between attempts to start a second node on a copy of a disk."""
    lost_disk_share: float = 0.0
    """Of restarts after a crash: how many find an empty disk, if the budget allows it."""
    old_disk_share: float = 0.0
    """Of restarts: how many find an old copy of the disk."""
    moved_share: float = 0.0
    """Of one machine's restarts: how many are under another address."""
    replaced_share: float = 0.0
    """Of machines that lost their disk or may not use it: how many come back empty and take their own old place."""
    strikes_per_move: float = 0.0
    """How often, on average, the nemesis strikes at a move of partitions that it sees under way."""

    @classmethod
    def calm(cls) -> ProcessSwarm:
        """Return a run in which processes live."""
        return cls()

    @classmethod
    def draw(cls, rng: random.Random) -> ProcessSwarm:
        """Draw the processes of a seed; each fault is absent in a part of them."""
        never = float("inf")
        return cls(
            crash_pause_s=rng.choice([never, 1.0, 2.0, 4.0, 10.0]),
            power_share=rng.choice([0.0, 0.5, 1.0]), together_share=rng.choice([0.0, 0.2, 0.6]),
            point_share=rng.choice([0.0, 0.3]), event_share=rng.choice([0.0, 0.3]),
            restart_s_max=rng.choice([0.2, 1.5, 5.0]), stop_share=rng.choice([0.0, 0.2]),
            freeze_pause_s=rng.choice([never, never, 2.0, 6.0]), freeze_s_mean=rng.choice([0.1, 1.0, 8.0]),
            starve_pause_s=rng.choice([never, never, 5.0]), starve_factor=rng.choice([5.0, 50.0]),
            clone_pause_s=rng.choice([never, never, 20.0]),
            lost_disk_share=rng.choice([0.0, 0.0, 0.2]), old_disk_share=rng.choice([0.0, 0.0, 0.1]),
            moved_share=rng.choice([0.0, 0.0, 0.5]), replaced_share=rng.choice([0.0, 1.0]),
        )  # fmt: skip

    def with_moves(self, rng: random.Random) -> ProcessSwarm:
        """Return the same with machines that lose their disks and take their own places again, and with strikes at moves."""
        never = float("inf")
        return replace(
            self, crash_pause_s=rng.choice([2.0, 4.0, 10.0]) if self.crash_pause_s == never else self.crash_pause_s,
            lost_disk_share=rng.choice([0.0, 0.2, 1.0]), old_disk_share=rng.choice([0.0, 0.2]), replaced_share=1.0,
            strikes_per_move=rng.choice([1.0, 2.0, 4.0]),
        )  # fmt: skip

    def line(self) -> str:
        """Return what differs from a calm run, in one line."""
        shown = [f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name) != f.default]
        return "process " + (" ".join(shown) or "calm")


@dataclass(frozen=True, slots=True)
class Swarm:
    """One run. `syncs_s_max`: how long a healthy sync takes at most; `cache_bytes`: the nodes' record cache."""

    nodes: int = 3
    n: int = 3
    partition_bits: int = 3
    cache_bytes: int = 0
    syncs_s_max: float = 0.005
    clock_skew_s_max: float = 0.05
    buggify_share: float = 0.0
    """Share of the product's buggify points that are active."""
    late_joins: int = 0
    """How many of the nodes join while clients work already."""
    is_late_under_faults: bool = False
    """Whether they join at any time of the faults, and not before these begin."""
    late_until: float = 1.0
    """The part of the load within which they begin then."""
    has_moves: bool = False
    """Whether partitions are to move in this run: the founder is spared what would end it, and joiners do not give up."""
    is_page_tiny: bool = False
    """Whether a joiner copies a few records at a time, so that a run's few objects need many pages."""
    is_disk_lying: bool = False
    """A mutant: syncs do nothing. Do the judges notice?"""
    network: NetworkSwarm = field(default_factory=NetworkSwarm.calm)
    disk: DiskSwarm = field(default_factory=DiskSwarm.calm)
    clock: ClockSwarm = field(default_factory=ClockSwarm.calm)
    process: ProcessSwarm = field(default_factory=ProcessSwarm.calm)

    @classmethod
    def draw(cls, seed: int) -> Swarm:
        """Draw everything from a seed. A tenth of the seeds has a calm network, disk or clock each."""
        rng = derived_rng(seed, "swarm")
        nodes = rng.choice([3, 3, 4, 5])
        latecomers = derived_rng(seed, "latecomers")
        return cls(
            nodes=nodes, late_joins=latecomers.randint(0, nodes - 3), is_late_under_faults=latecomers.random() < 0.5,
            partition_bits=rng.choice([3, 4]),
            cache_bytes=rng.choice([0, 20_000, 1 << 20]), syncs_s_max=rng.choice([0.002, 0.005, 0.02, 0.06]),
            clock_skew_s_max=rng.choice([0.001, 0.05, 0.5]), buggify_share=rng.choice([0.0, BUGGIFY_SHARE_ACTIVE]),
            network=_or_calm(NetworkSwarm, derived_rng(seed, "network swarm")),
            disk=_disk_swarm(derived_rng(seed, "disk swarm")),
            clock=_or_calm(ClockSwarm, derived_rng(seed, "clock swarm")),
            process=_or_calm(ProcessSwarm, derived_rng(seed, "process swarm")),
        )  # fmt: skip

    @classmethod
    def draw_with_moves(cls, seed: int) -> Swarm:
        """Draw a seed in which partitions move while clients work and things break: everything else is as `draw` has it.

        In every run a node joins during the faults; in some a lost or refused disk also comes back empty and takes its own place.
        """
        drawn, rng = cls.draw(seed), derived_rng(seed, "moves")
        nodes = rng.choice([3, 4, 4, 5])
        return replace(
            drawn, nodes=nodes, late_joins=rng.randint(1, max(1, nodes - 3)), is_late_under_faults=True,
            late_until=rng.choice([0.3, 0.8]), has_moves=True, is_page_tiny=rng.random() < 0.8,
            syncs_s_max=max(drawn.syncs_s_max, rng.choice([0.005, 0.02, 0.06])),
            process=drawn.process.with_moves(rng),
        )  # fmt: skip

    def lines(self) -> tuple[str, ...]:
        """Return everything, a line for each part."""
        late = f"{self.late_joins}{'!' * self.is_late_under_faults}"
        late += f"<{self.late_until:g}" if self.late_until < 1 else ""
        late += " tiny pages" if self.is_page_tiny else ""
        cluster = (
            f"cluster nodes={self.nodes} late={late} n={self.n} partitions={1 << self.partition_bits} "
            f"cache={self.cache_bytes} sync<={self.syncs_s_max:g}s skew<={self.clock_skew_s_max:g}s "
            f"buggify={self.buggify_share:g}"
        )
        return cluster, f"network {self.network.line()}", self.disk.line(), self.clock.line(), self.process.line()


def _disk_swarm(rng: random.Random) -> DiskSwarm:
    """In a seventh of the seeds a disk may fail for good."""
    if rng.random() < 0.1:
        return DiskSwarm.calm()
    return DiskSwarm.draw(rng, is_ending=rng.random() < 1 / 7)


def _or_calm(kind: type[Part], rng: random.Random) -> Part:
    is_calm = rng.random() < 0.1
    return kind.calm() if is_calm else kind.draw(rng)
