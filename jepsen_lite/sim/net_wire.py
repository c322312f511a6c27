"""One direction between two hosts: when does a packet that leaves now arrive, if at all?

    arrival = now + time in the queue (bandwidth) + base + jitter (+ a long tail)        or never: cut, lost, too large

    Gilbert-Elliott loss, one step per packet:      good ──bad_enter──► bad ──bad_leave──► good
                                                    loss_good            loss_bad

Invariants
  1. A wire keeps no packets. What is lost, waits or comes again is the business of net_stream.py.
  2. All chance comes from the wire's own stream, so what happens on one wire does not disturb another.
  3. While clogged, nothing leaves and nothing arrives; whoever met the clog is called again at its end, in that order.
Source: `reliability` faults N1-N3, N6, N7, N10, N14, G1; Gilbert 1960 and Elliott 1963 for bursts of loss.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["COUNTERS", "Tally", "Wire", "WireConditions"]

COUNTERS = (
    "late", "lost", "met_cut", "black_hole", "knock_lost", "clogged", "duplicated", "duplicated_late", "corrupted",
    "corruption_caught", "straggled", "answered_reset", "broken_losses", "broken_silence", "broken_queue",
    "broken_reset", "broken_checksum", "crashed", "crashed_silently", "cuts", "heals", "frames_delivered", "frames_dropped",
)  # fmt: skip
"""Every injected fault and its consequence, in the order of reports."""

CLOG_CREDIT_S_MAX = 1.0
"""A wire that was idle for an hour has not saved up an hour's chance to clog at its next packet."""


class Tally:
    """Counts what happened; every name is there from the start, so that a report shows what was never hit."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(COUNTERS, 0)

    def add(self, name: str) -> None:
        self.counts[name] += 1


@dataclass(frozen=True, slots=True)
class WireConditions:
    """How one direction behaves. The default is calm; shares are probabilities per packet or frame.

    `corrupt_share` is off in every swarm: gRPC over TCP has a checksum per segment, and TLS one per record, so that this
    fault tests only what the decoders do with what gets past them.
    """

    delay_s_min: float = 0.000_1
    jitter_s_mean: float = 0.000_2
    late_share: float = 0.0
    late_s_max: float = 0.4
    loss_good: float = 0.0
    loss_bad: float = 0.0
    bad_enter: float = 0.0
    bad_leave: float = 1.0
    duplicate_share: float = 0.0
    duplicate_s_max: float = 0.5
    straggle_share: float = 0.0
    """Of connections that one side gives up: how often the frames under way arrive late, after those of its successor."""
    straggle_s_max: float = 2.0
    bandwidth_bytes_per_s: float | None = None
    clogs_per_s: float = 0.0
    clog_s_mean: float = 0.0
    frame_bytes_max: int | None = None
    """Frames above never arrive, however often they are sent: a path MTU black hole."""
    loses_knocks: bool = False
    """New connections are not answered, existing ones work: a full accept queue, or a firewall that forgot a rule."""
    corrupt_share: float = 0.0


class Wire:
    """From `source` to `target`. A nemesis may set `conditions` and `is_cut` at any time."""

    def __init__(
        self, source: str, target: str, *, rng: random.Random, conditions: WireConditions, tally: Tally,
        is_dead: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self.source, self.target, self.rng, self.conditions = source, target, rng, conditions
        self.is_cut = False
        self._tally, self._is_dead = tally, is_dead
        self._is_bad = False
        self._busy_until_s = self._clogged_until_s = 0.0
        self._last_packet_s = 0.0
        self._held: dict[Callable[[], None], None] = {}  # in the order in which they met the clog

    def blocks(self) -> bool:
        """Return whether nothing may arrive now."""
        return self.is_cut or self._is_dead(self.target)

    def arrival_s(self, now_s: float, size_bytes: int, *, is_knock: bool = False) -> float | None:
        """Return when a packet that leaves now arrives, or None if it is lost."""
        cause = self._loss(size_bytes, is_knock)
        if cause is not None:
            self._tally.add(cause)
            return None
        if self.conditions.bandwidth_bytes_per_s is not None:
            start_s = max(now_s, self._busy_until_s)
            now_s = self._busy_until_s = start_s + size_bytes / self.conditions.bandwidth_bytes_per_s
        return now_s + self.delay_s()

    def delay_s(self) -> float:
        """Draw the time under way of one packet."""
        conditions, rng = self.conditions, self.rng
        delay_s = conditions.delay_s_min
        if conditions.jitter_s_mean:
            delay_s += rng.expovariate(1 / conditions.jitter_s_mean)
        if self.draw(conditions.late_share):
            self._tally.add("late")
            delay_s += rng.uniform(0, conditions.late_s_max)
        return delay_s

    def draw(self, share: float) -> bool:
        """Return whether something of this probability happens. What is impossible or certain draws nothing."""
        return share >= 1.0 or (share > 0.0 and self.rng.random() < share)

    def _loss(self, size_bytes: int, is_knock: bool) -> str | None:
        conditions = self.conditions
        if self.blocks():
            return "met_cut"
        if is_knock and conditions.loses_knocks:
            return "knock_lost"
        if conditions.frame_bytes_max is not None and size_bytes > conditions.frame_bytes_max:
            return "black_hole"
        if self.draw(conditions.bad_leave if self._is_bad else conditions.bad_enter):
            self._is_bad = not self._is_bad
        return "lost" if self.draw(conditions.loss_bad if self._is_bad else conditions.loss_good) else None

    # Clogs.

    def clog(self, for_s: float | None = None) -> None:
        """Let nothing through for this long (None: until `unclog`), then everything at once."""
        self._tally.add("clogged")
        loop = asyncio.get_running_loop()
        until_s = float("inf") if for_s is None else loop.time() + for_s
        self._clogged_until_s = max(self._clogged_until_s, until_s)
        if for_s is not None:
            loop.call_at(until_s, self._release)

    def unclog(self) -> None:
        """End every clog."""
        self._clogged_until_s = 0.0
        self._release()

    def stops(self, resume: Callable[[], None]) -> bool:
        """Return whether the wire is clogged; if so `resume` is called at the end of it. It may also clog now, by chance."""
        now_s = asyncio.get_running_loop().time()
        credit_s = min(now_s - self._last_packet_s, CLOG_CREDIT_S_MAX)
        self._last_packet_s = now_s
        if self._clogged_until_s <= now_s and self.draw(self.conditions.clogs_per_s * credit_s):
            self.clog(self.rng.expovariate(1 / self.conditions.clog_s_mean) if self.conditions.clog_s_mean else 0.0)
        if self._clogged_until_s <= now_s:
            return False
        self._held[resume] = None
        return True

    def _release(self) -> None:
        loop = asyncio.get_running_loop()
        if self._clogged_until_s <= loop.time():
            held, self._held = self._held, {}
            for resume in held:
                loop.call_soon(resume)
