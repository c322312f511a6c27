"""Which network faults a run has, and how strong: drawn once per seed, presence and intensity each.

    swarm = NetworkSwarm.draw(rng)        swarm.line()          loss=0.12/1 dup=0.31 delay=0.004+0.05 ...
    swarm.conditions(wire_rng)            one direction of one pair: its own delay, its own share of the rest
    swarm.schedule(hosts, rng, ...)       what the nemesis does and when, for `SimNetwork.play`

A fixed mix of all faults hides bugs: one fault keeps the system from reaching the state in which another would hurt.
Source: Groce et al., "Swarm testing", ISSTA 2012; VOPR's ranges [7] (`reliability` section 2), with two differences. A
clog is drawn per second instead of per tick, at a tenth of VOPR's rate: at its own, every link would be clogged most of
the time, and a connection (VOPR has datagrams) would hardly ever live. And capacity is bytes per second.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from jepsen_lite.sim.net_partitions import (
    PARTITION_MODES,
    PartitionMode,
    Step,
    flapping,
    isolate,
    partition,
    split,
    swizzle_clog,
)
from jepsen_lite.sim.net_wire import WireConditions

__all__ = ["NetworkSwarm"]


@dataclass(frozen=True, slots=True)
class NetworkSwarm:
    """The network of one run. A share of 0 means that the fault is absent; times in seconds.

    Rates and means of partitions, swizzles, flaps and resets go into `schedule`, `silent_crash_share` is for whoever
    crashes hosts, and all others are drawn into wires by `conditions`.
    """

    delay_s_min: float = 0.000_1
    delay_s_max: float = 0.000_2
    """Each direction draws its own base within these."""
    jitter_s_mean: float = 0.000_2
    late_share: float = 0.0
    late_s_max: float = 0.0
    loss_good: float = 0.0
    loss_bad: float = 0.0
    bad_enter: float = 0.0
    bad_leave: float = 1.0
    duplicate_share: float = 0.0
    straggle_share: float = 0.0
    bandwidth_bytes_per_s: float = 0.0
    """0: without bound."""
    clogs_per_s: float = 0.0
    clog_s_mean: float = 0.0
    black_hole_share: float = 0.0
    """Of wires: how many lose every frame above `black_hole_bytes`."""
    black_hole_bytes: int = 0
    knock_loss_share: float = 0.0
    """Of wires: how many let no new connection through."""
    partition_mode: PartitionMode = "none"
    partition_s_mean: float = 0.0
    partitions_per_s: float = 0.0
    swizzles_per_s: float = 0.0
    flaps_per_s: float = 0.0
    resets_per_s: float = 0.0
    silent_crash_share: float = 0.0
    """Of crashes: how many take the machine with them, so that no connection is reset."""

    @classmethod
    def calm(cls) -> NetworkSwarm:
        """Return a network of one rack on a good day: a fraction of a millisecond, no fault."""
        return cls()

    @classmethod
    def draw(cls, rng: random.Random) -> NetworkSwarm:
        """Draw the network of a seed; each fault is absent in half of them."""
        swarm = _with_delays(cls(), rng)
        if _present(rng):
            swarm = replace(swarm, late_share=rng.choice([0.002, 0.02, 0.1]), late_s_max=rng.uniform(0.1, 2.0))
        if _present(rng):
            swarm = _with_losses(swarm, rng)
        if _present(rng):
            swarm = replace(swarm, duplicate_share=rng.uniform(0, 0.5))
        if _present(rng):
            swarm = replace(swarm, straggle_share=rng.uniform(0, 1))
        if _present(rng):
            swarm = replace(swarm, bandwidth_bytes_per_s=round(10 ** rng.uniform(4.5, 7)))
        if _present(rng):
            swarm = replace(swarm, clogs_per_s=rng.uniform(0, 0.2), clog_s_mean=rng.uniform(0, 5))
        if _present(rng, 0.2):
            swarm = replace(swarm, black_hole_share=rng.uniform(0, 0.5), black_hole_bytes=rng.choice([1_400, 9_000]))
        if _present(rng, 0.2):
            swarm = replace(swarm, knock_loss_share=rng.uniform(0, 0.3))
        return _with_nemesis(swarm, rng)

    def conditions(self, rng: random.Random) -> WireConditions:
        """Draw the first conditions of one direction."""
        has_black_hole = rng.random() < self.black_hole_share
        return WireConditions(
            delay_s_min=rng.uniform(self.delay_s_min, self.delay_s_max),
            jitter_s_mean=self.jitter_s_mean, late_share=self.late_share, late_s_max=self.late_s_max,
            loss_good=self.loss_good, loss_bad=self.loss_bad, bad_enter=self.bad_enter, bad_leave=self.bad_leave,
            duplicate_share=self.duplicate_share, straggle_share=self.straggle_share,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s or None,
            clogs_per_s=self.clogs_per_s, clog_s_mean=self.clog_s_mean,
            frame_bytes_max=self.black_hole_bytes if has_black_hole else None,
            loses_knocks=rng.random() < self.knock_loss_share,
        )  # fmt: skip

    def schedule(self, hosts: Sequence[str], rng: random.Random, *, duration_s: float) -> tuple[Step, ...]:
        """Draw what the nemesis does to the network of these hosts in the next `duration_s`; at the end all is healed.

        Cuts do not count, so where two faults meet on a link, the first heal ends both.
        """
        steps: list[Step] = []
        for at_s in _arrivals(self.partitions_per_s, rng, duration_s):
            links = partition(self.partition_mode, hosts, rng)
            healed_s = min(duration_s, at_s + rng.expovariate(1 / self.partition_s_mean))
            steps += [Step(at_s, "cut", links), Step(healed_s, "heal", links)]
        for at_s in _arrivals(self.flaps_per_s, rng, duration_s):
            links = isolate(hosts, rng.choice(sorted(hosts)))
            flaps = flapping(links, period_s=rng.choice([0.1, 0.2, 1.0]), duration_s=min(2.0, duration_s - at_s))
            steps += [step._replace(at_s=min(duration_s, at_s + step.at_s)) for step in flaps]
        for at_s in _arrivals(self.swizzles_per_s, rng, duration_s):
            swizzle = swizzle_clog(hosts, rng, duration_s=_swizzle_s(rng, duration_s - at_s))
            steps += [step._replace(at_s=min(duration_s, at_s + step.at_s)) for step in swizzle]
        for at_s in _arrivals(self.resets_per_s, rng, duration_s):
            source, target = rng.sample(sorted(hosts), 2)
            steps.append(Step(at_s, "reset", ((source, target),)))
        everything = split(*[[host] for host in hosts])
        return (*sorted(steps), Step(duration_s, "heal", everything), Step(duration_s, "unclog", everything))

    @property
    def doubles_requests(self) -> bool:
        """Whether a definite failure may be untrue: the first copy was refused, as its asker was told, and the second was
        not. No TCP does that, so a judge must count definite failures of such a run as indefinite."""
        return self.duplicate_share > 0

    def line(self) -> str:
        """Return what differs from a calm network, as one line for reports."""
        calm = NetworkSwarm()
        drawn = [(field.name, getattr(self, field.name)) for field in fields(self)]
        shown = [f"{name}={_short(value)}" for name, value in drawn if value != getattr(calm, name)]
        return " ".join(shown) or "calm"


def _present(rng: random.Random, share: float = 0.5) -> bool:
    return rng.random() < share


def _arrivals(per_s: float, rng: random.Random, duration_s: float) -> list[float]:
    """Draw the times at which something of this rate happens."""
    at_s, times_s = 0.0, []
    while per_s > 0 and (at_s := at_s + rng.expovariate(per_s)) < duration_s:
        times_s.append(at_s)
    return times_s


def _swizzle_s(rng: random.Random, left_s: float) -> float:
    """FoundationDB: mostly short, up to ten seconds: 10·e^(-10u)."""
    return min(left_s, 10 * math.exp(-10 * rng.random()))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _with_delays(swarm: NetworkSwarm, rng: random.Random) -> NetworkSwarm:
    """VOPR: one-way minimum 0-30 ms, mean 30-100 ms. Two thirds of the seeds are one data centre instead: with such delays
    a workload of short timeouts gets a fifth as much acknowledged (32 puts instead of 169, over 80 seeds)."""
    if rng.random() < 2 / 3:
        return replace(swarm, delay_s_max=rng.uniform(0.000_2, 0.005), jitter_s_mean=0.000_5)
    minimum_s = rng.uniform(0, 0.030)
    maximum_s, jitter_s = rng.uniform(minimum_s, 0.060), rng.uniform(0.001, 0.040)
    return replace(swarm, delay_s_min=minimum_s, delay_s_max=maximum_s, jitter_s_mean=jitter_s)


def _with_losses(swarm: NetworkSwarm, rng: random.Random) -> NetworkSwarm:
    """A good state with little loss and bursts with up to all of it; 0-30 % overall is VOPR's range."""
    return replace(
        swarm, loss_good=rng.choice([0.0, 0.001, rng.uniform(0, 0.05)]), loss_bad=rng.uniform(0.3, 1.0),
        bad_enter=rng.choice([0.000_5, 0.005, 0.02]), bad_leave=rng.uniform(0.1, 0.5),
    )  # fmt: skip


def _with_nemesis(swarm: NetworkSwarm, rng: random.Random) -> NetworkSwarm:
    if _present(rng, 0.7):
        swarm = replace(
            swarm, partition_mode=rng.choice(PARTITION_MODES[1:]), partition_s_mean=rng.choice([0.5, 2.0, 8.0, 20.0]),
            partitions_per_s=rng.uniform(0.05, 0.5),
        )  # fmt: skip
    if _present(rng, 0.3):
        swarm = replace(swarm, swizzles_per_s=rng.uniform(0.02, 0.2))
    if _present(rng, 0.3):
        swarm = replace(swarm, flaps_per_s=rng.uniform(0.02, 0.2))
    if _present(rng):
        swarm = replace(swarm, resets_per_s=rng.uniform(0.05, 0.5))
    if _present(rng):
        swarm = replace(swarm, silent_crash_share=rng.uniform(0, 1))
    return swarm
