"""When a read is late, which owners usually are, and how many reads may ask one owner more.

    answers of a peer ─► AnswerTimes ─► its p95 ──► of all peers the middle one ─► delay_s: a read that waits longer is late
                                     └► late share ─► behind: asked first only now and then
    gets ──────────────► Budget: a twentieth of them may be hedged

Pure: no clock, no randomness; "recent" is counted in answers. An answer costs the append of a tuple; `learn` looks at a bounded
number of them at a time.

Invariants
  1. HEDGE_S_MIN <= delay_s <= HEDGE_S_MAX, and HEDGE_S_MAX until SAMPLES_MIN gets were answered by the middle peer.
  2. Fewer hedges than SHARE * gets + burst + the gets of one group, whatever the peers do.
The middle one of the peers, the lower of two: a peer that is always slow must not set the measure for itself, and the p95 of
all answers would be its own as soon as it gives a twentieth of them. A hedge for each of its reads is more than the budget: so
it is passed over, and one frame in PROBE_EVERY finds out, hedged, whether it has recovered. One that is down answers nothing:
it comes last.

Source: Dean, Barroso, "The Tail at Scale", CACM 2013 (hedged requests: after the p95, so 5 % more load). Differs: a budget
enforces the 5 %.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate, islice
from typing import Generic, Protocol, TypeVar

__all__ = ["HEDGE_S_MAX", "HEDGE_S_MIN", "AnswerTimes", "Budget", "Hedge"]

HEDGE_S_MIN, HEDGE_S_MAX = 0.002, 0.1
"""Sooner, the loop's own pauses and the coalescer's hold decide who is late; later, a caller notices in any case."""
QUANTILE = 0.95
PRECISION = 1.1
"""How far, as a factor, an answer's time may be from the bound of its bucket."""
SAMPLES_MIN, SAMPLES_MAX = 100, 1_024
"""Gets: fewer say nothing about a p95; with so many, all that came before counts half."""
REVIEW_EVERY = 16
"""Answers of a peer after which its p95 is taken again: 2 us, and rarely another result."""
HEARD_MAX, LEARNT_AT_ONCE = 1_024, 32
"""Answers kept for `learn`, and how many of them it looks at, evenly spread: when there are more, they say the same."""
LATE_SHARE_STEP, LATE_SHARE_MAX = 1 / 16, 0.5
"""A peer is behind after eleven late answers in a row; of a healthy one a twentieth are late."""
PROBE_EVERY = 17
"""Prime, so that the rotation of owners, which the frame's number decides too, shows each of them to the probe."""
SHARE, BURST = 0.05, 64.0
"""Hedges may add a twentieth to the reads (and 64 at once): when all are slow, more asking makes it slower."""


def _bounds() -> tuple[float, ...]:
    bounds = [HEDGE_S_MIN]
    while bounds[-1] * PRECISION < HEDGE_S_MAX:
        bounds.append(bounds[-1] * PRECISION)  # multiplied, not a power: the same floats on every machine
    return (*bounds, HEDGE_S_MAX)


_BOUNDS = _bounds()
"""Upper bounds of the buckets; what took longer than the last is in one more."""


class AnswerTimes:
    """How long answers took recently: a histogram with buckets of equal ratio, halved whenever it is full."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0.0] * (len(_BOUNDS) + 1)
        self._total = 0.0

    def add(self, count: int, took_s: float) -> None:
        """Take the time of one answer to `count` gets."""
        self._counts[bisect_left(_BOUNDS, took_s)] += count
        self._total += count
        if self._total >= SAMPLES_MAX:
            self._counts = [held / 2 for held in self._counts]
            self._total = sum(self._counts)

    def p95_s(self) -> float:
        """Return a bound, from HEDGE_S_MIN to HEDGE_S_MAX, within which a share of QUANTILE was answered."""
        if self._total < SAMPLES_MIN:
            return HEDGE_S_MAX
        wanted = self._total * QUANTILE
        reached = zip(_BOUNDS, accumulate(self._counts), strict=False)  # what is above all bounds has none
        return next((bound for bound, seen in reached if seen >= wanted), HEDGE_S_MAX)


class Budget:
    """Hedges that may be made: a bucket that every get fills a little. It may go below nothing by the gets of one group."""

    __slots__ = ("_burst", "_gets", "_left")

    def __init__(self, burst: float = BURST) -> None:
        self._burst = self._left = burst
        self._gets = 0

    def allows(self, gets: int) -> bool:
        """Whether a hedge may be made now, after `gets` in all."""
        left = self._left + (gets - self._gets) * SHARE
        self._left, self._gets = (left if left < self._burst else self._burst), gets
        return self._left >= 1.0

    def spend(self, hedges: int) -> None:
        """Count hedges that were made."""
        self._left -= hedges


class Asked(Protocol):
    """A peer, as far as this module looks at it."""

    @property
    def is_up(self) -> bool:
        """Whether it can be asked."""


Peer = TypeVar("Peer", bound=Asked)


class _Seen:
    """What is known of one peer."""

    __slots__ = ("late_share", "p95_s", "times", "until_review")

    def __init__(self) -> None:
        self.times, self.p95_s = AnswerTimes(), HEDGE_S_MAX
        self.late_share, self.until_review = 0.0, REVIEW_EVERY


class Hedge(Generic[Peer]):
    """Is told of answers and of waiting in vain. `fixed_s`: a read is late after that, whatever was seen."""

    def __init__(self, fixed_s: float | None = None) -> None:
        self.heard: deque[tuple[Peer, int, float]] = deque(maxlen=HEARD_MAX)
        """Answers since the last `learn`, for others to append to: peer, how many gets it answered together, and the time."""
        self._seen: dict[Peer, _Seen] = {}
        self._is_fixed = fixed_s is not None
        self.delay_s = HEDGE_S_MAX if fixed_s is None else fixed_s
        """A read that has waited for longer is late."""
        self.behind: dict[Peer, None] = {}
        """Peers whose answers are usually late: asking them costs a hedge each time. One that goes down stays here."""

    def learn(self) -> None:
        """Take what was heard into account."""
        stride = len(self.heard) // LEARNT_AT_ONCE | 1  # odd: peers take turns
        for peer, count, took_s in islice(self.heard, 0, None, stride):
            seen = self._seen.get(peer) or self._meet(peer)
            seen.times.add(count, took_s)
            self._note(peer, seen, took_s > self.delay_s)
            seen.until_review -= 1
            if not seen.until_review:
                self._review(seen)
        self.heard.clear()

    def waited(self, peer: Peer) -> None:
        """A read is late and this peer has not answered it: it may be long before `heard` says so."""
        self._note(peer, self._seen.get(peer) or self._meet(peer), True)

    def choose(self, readers: tuple[tuple[Peer | None, ...], ...], turn: int, asked: int) -> tuple[Peer | None, ...]:
        """Return the order in which to ask: from this turn's on, the first that begins without peers down or behind; for a
        probe, or if there is none, without those down; else this turn's."""
        behind, count = self.behind, len(readers)
        for shunned in (behind, ()) if turn % PROBE_EVERY else ((),):
            for step in range(count):
                candidates = readers[(turn + step) % count]
                for peer in candidates[:asked]:
                    if peer is not None and (peer in shunned or not peer.is_up):
                        break
                else:
                    return candidates
        return readers[turn % count]

    def _meet(self, peer: Peer) -> _Seen:
        """Begin to know a peer, and forget those that are down: links are replaced, and old times say nothing."""
        self._seen = {other: seen for other, seen in self._seen.items() if other.is_up}
        self.behind = {other: None for other in self.behind if other in self._seen}
        seen = self._seen[peer] = _Seen()
        return seen

    def _note(self, peer: Peer, seen: _Seen, is_late: bool) -> None:
        seen.late_share += (is_late - seen.late_share) * LATE_SHARE_STEP
        if seen.late_share > LATE_SHARE_MAX:
            self.behind[peer] = None
        elif self.behind:
            self.behind.pop(peer, None)

    def _review(self, seen: _Seen) -> None:
        seen.until_review, seen.p95_s = REVIEW_EVERY, seen.times.p95_s()
        if not self._is_fixed:
            known = sorted(other.p95_s for other in self._seen.values())
            self.delay_s = known[(len(known) - 1) // 2]
