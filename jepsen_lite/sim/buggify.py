"""Seeded chaos: which of the product's buggify points are awake in a run, when they fire, and which probes were hit.

    seed ──► for each point, in enum order: awake? (p_active) and a stream of its own
                                              └─ asked ──► fires? (p_fire; a tenth of that for FREQUENT points)

One for each run, shared by its nodes and clients. Few points are awake in a run and the mix differs from seed to seed, which
finds more than everything at once: each run goes far in its own direction (swarm testing).

Invariants
  1. A point draws from its own stream only, so a new one at the end of the enum changes nothing for the others.
  2. A point that sleeps draws nothing, and with none awake a run is the same, event for event, as with `CALM`.
Source: Zhou et al., "FoundationDB", SIGMOD 2021, section 4; `reliability` section 2 (p_active 0.25, p_fire 0.25).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import TypeVar

from kvstore.chaos import FREQUENT, ON_REQUEST, Point, Probe

__all__ = ["FREQUENT_SHARE", "Buggify"]

T = TypeVar("T")
FREQUENT_SHARE = 0.1
"""One reply in forty lost (with p_fire 0.25) still lets retries succeed; one in four would stop most operations."""


class Buggify:
    """The `Chaos` of one run. `hit` is told every probe as it is hit (for a trace or a total over many runs)."""

    is_calm = False

    def __init__(
        self, rng: random.Random, *, p_active: float = 0.25, p_fire: float = 0.25, only: Collection[Point] | None = None,
        hit: Callable[[str], None] | None = None, always: Collection[Point] = (),
    ) -> None:  # fmt: skip
        """`only`: no other point is awake, to find out which one breaks a run. `always`: those of ON_REQUEST that fire."""
        self.asked = dict.fromkeys(map(str, Point), 0)
        self.fired = dict.fromkeys(map(str, Point), 0)
        self.probes = dict.fromkeys(map(str, Probe), 0)
        self._told, self._streams = hit, dict[Point, random.Random]()
        self._quiet: frozenset[Point] = frozenset()
        for point in Point:
            is_awake, stream = rng.random() < p_active, random.Random(rng.getrandbits(64))
            if point in ON_REQUEST:
                is_awake = point in always
            if is_awake and (only is None or point in only):
                self._streams[point] = stream
        self._p_fire = {point: p_fire * (FREQUENT_SHARE if point in FREQUENT else 1.0) for point in Point}
        self._p_fire |= dict.fromkeys(ON_REQUEST, 1.0)

    @property
    def awake(self) -> tuple[Point, ...]:
        """Return the points that may fire in this run."""
        return tuple(self._streams)

    def quiet(self, points: Collection[Point] = tuple(Point)) -> None:
        """Let none of `points` fire until `wake`: all at the end of a run's faults, FREQUENT ones while a cluster forms (a
        join is one attempt, which any lost connection cancels). What was made tiny at its construction stays so."""
        self._quiet = frozenset(points)

    def wake(self) -> None:
        """Let all that are awake fire again."""
        self._quiet = frozenset()

    def fires(self, point: Point) -> bool:
        """Whether the point goes the unusual way this time."""
        self.asked[point] += 1
        stream = self._streams.get(point)
        if stream is None or point in self._quiet or stream.random() >= self._p_fire[point]:
            return False
        self.fired[point] += 1
        return True

    def pick(self, point: Point, default: T, *others: T) -> T:
        """Return `default`, or one of `others` if the point fires."""
        return self._streams[point].choice(others) if self.fires(point) else default

    def hit(self, probe: Probe) -> None:
        """Count a probe."""
        self.probes[probe] += 1
        if self._told is not None:
            self._told(probe)

    def counts(self) -> dict[str, int]:
        """Return how often each awake point fired, in enum order."""
        return {str(point): self.fired[point] for point in self._streams}

    def line(self) -> str:
        """Return the awake points in one line."""
        return "buggify " + (",".join(self._streams) or "none")
