"""What goes wrong with the clocks of one run: drawn per seed, planned ahead, applied at its time, counted and traced.

    ClockSwarm.draw(rng) ──► plan(...) ──► [ClockEvent(at_s, host, kind, amount)] ──► ClockFaults.run

    step     ± (1 ms .. 5 min), exponential           once
    strobe   forth and back every few ms, many times   ends where it began
    drift    x0.5 .. x2, or slow (up to 1,000 ppm)     until the next one
    jump     further ahead than MAX_CLOCK_SKEW         until set right

The plan is a pure function of its arguments, so it can be printed, shrunk and replayed. What the promise covers of all this
is `clock.must_win`: it looks at what the clocks really showed.
Source: `reliability` C1 to C4; Jepsen's bump-time and strobe-time.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from jepsen_lite.sim.clock import SimClock
from jepsen_lite.sim.fault_log import FaultLog
from kvstore.causality.hlc import MAX_CLOCK_SKEW_MS

__all__ = ["ClockEvent", "ClockFault", "ClockFaults", "ClockSwarm", "plan"]

STEP_NS_MIN, STEP_NS_MAX = 1_000_000, 300_000_000_000
STROBES_MAX = 20
FAR_FACTOR_MAX = 1_000.0
"""A jump goes up to this many times MAX_CLOCK_SKEW_MS ahead: about half an hour."""


class ClockFault(StrEnum):
    """Names of the counters, in their order. ONLY APPEND."""

    STEP = "step"
    STROBE = "strobe"
    DRIFT = "drift"
    SLOW_DRIFT = "slow_drift"
    FAR_JUMP = "far_jump"
    SET_RIGHT = "set_right"


@dataclass(frozen=True, slots=True)
class ClockEvent:
    """At `at_s` the clock of `host` is stepped by `step_ns`, and runs at `rate` if that is not 0."""

    at_s: float
    host: str
    kind: ClockFault
    step_ns: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:.3f}s {self.host} {self.kind} step_ns={self.step_ns} rate={self.rate:g}"


@dataclass(frozen=True, slots=True)
class ClockSwarm:
    """Presence and intensity of every fault in one run. A weight of 0 is absence; `pause_s` is the mean between faults."""

    pause_s: float = float("inf")
    weights: tuple[tuple[ClockFault, float], ...] = ()
    step_ns_max: int = STEP_NS_MIN
    strobe_pause_s: float = 0.01
    lasts_s_max: float = 0.0
    """After at most that long a clock that jumped is set right. (Others stay wrong.)"""
    client_share: float = 0.0
    """Share of the faults that hit the machine of a client."""

    @classmethod
    def calm(cls) -> ClockSwarm:
        """Return a run without clock faults."""
        return cls()

    @classmethod
    def draw(cls, rng: random.Random) -> ClockSwarm:
        """Draw a run: each fault is absent in half of them."""
        kinds = [kind for kind in ClockFault if kind is not ClockFault.SET_RIGHT]
        return cls(
            pause_s=rng.choice([0.3, 1.0, 3.0]),
            weights=tuple((kind, round(rng.uniform(0.2, 2.0), 2) if rng.random() < 0.5 else 0.0) for kind in kinds),
            step_ns_max=rng.choice([10_000_000, 1_000_000_000, STEP_NS_MAX]), strobe_pause_s=rng.choice([0.002, 0.01, 0.1]),
            lasts_s_max=rng.choice([0.5, 3.0, 10.0]), client_share=rng.choice([0.0, 0.2, 0.5]),
        )  # fmt: skip

    def line(self) -> str:
        """Return everything in one line."""
        present = ",".join(f"{kind}:{weight:g}" for kind, weight in self.weights if weight)
        rest = " ".join(f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if f.name != "weights")
        return f"clock {rest} faults={present or 'none'}"


def plan(
    swarm: ClockSwarm, rng: random.Random, *, nodes: Sequence[str], clients: Sequence[str] = (), from_s: float, to_s: float,
) -> list[ClockEvent]:  # fmt: skip
    """Return all events of a run in the order of their times, within [from_s, to_s)."""
    kinds = [kind for kind, weight in swarm.weights if weight]
    if not kinds:
        return []
    weights = [weight for _, weight in swarm.weights if weight]
    events: list[ClockEvent] = []
    at_s = from_s + rng.expovariate(1 / swarm.pause_s)
    while at_s < to_s:
        host = rng.choice(clients if clients and rng.random() < swarm.client_share else nodes)
        events += _events(swarm, rng, rng.choices(kinds, weights)[0], host, at_s)
        at_s += rng.expovariate(1 / swarm.pause_s)
    return sorted((event for event in events if event.at_s < to_s), key=lambda event: event.at_s)


def _events(swarm: ClockSwarm, rng: random.Random, kind: ClockFault, host: str, at_s: float) -> list[ClockEvent]:
    match kind:
        case ClockFault.STROBE:
            delta_ns = _step_ns(swarm, rng)
            times = 2 * rng.randint(1, STROBES_MAX)
            return [
                ClockEvent(at_s + i * swarm.strobe_pause_s, host, kind, -delta_ns if i % 2 else delta_ns)
                for i in range(times)
            ]
        case ClockFault.DRIFT:
            return [ClockEvent(at_s, host, kind, rate=math.exp(rng.uniform(math.log(0.5), math.log(2.0))))]
        case ClockFault.SLOW_DRIFT:
            return [ClockEvent(at_s, host, kind, rate=1.0 + rng.uniform(-1e-3, 1e-3))]
        case ClockFault.FAR_JUMP:
            ahead_ns = round(MAX_CLOCK_SKEW_MS * 1e6 * math.exp(rng.uniform(math.log(1.1), math.log(FAR_FACTOR_MAX))))
            ends_at_s = at_s + rng.uniform(0, swarm.lasts_s_max)
            return [ClockEvent(at_s, host, kind, ahead_ns), ClockEvent(ends_at_s, host, ClockFault.SET_RIGHT)]
    return [ClockEvent(at_s, host, ClockFault.STEP, _step_ns(swarm, rng))]


def _step_ns(swarm: ClockSwarm, rng: random.Random) -> int:
    """Exponential between the bounds: every order of magnitude is as likely as the next."""
    size = math.exp(rng.uniform(math.log(STEP_NS_MIN), math.log(max(STEP_NS_MIN, swarm.step_ns_max))))
    return round(size) * rng.choice([-1, 1])


class ClockFaults:
    """Applies a plan to the clocks of all machines (name -> clock)."""

    def __init__(self, clocks: Mapping[str, SimClock], events: Sequence[ClockEvent], log: FaultLog) -> None:
        self._clocks, self._events, self._log = clocks, events, log

    async def run(self) -> None:
        """Apply every event at its time."""
        now = asyncio.get_running_loop().time
        for event in self._events:
            await asyncio.sleep(max(0.0, event.at_s - now()))
            self.apply(event)

    def apply(self, event: ClockEvent) -> None:
        """Apply one event now."""
        clock = self._clocks[event.host]
        if event.kind is ClockFault.SET_RIGHT:
            clock.set_right()
        if event.step_ns:
            clock.step(event.step_ns)
        if event.rate:
            clock.set_rate(event.rate)
        self._log.note(event.kind, event.host, event.step_ns, round(event.rate * 1e9))

    def set_all_right(self) -> None:
        """Let every clock show true time: the end of a run's faults."""
        for clock in self._clocks.values():
            clock.set_right()
