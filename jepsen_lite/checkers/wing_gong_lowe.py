"""The search for an order in which one object, doing one thing at a time, would have given all the answers it gave.

    real time          p0 ├── write 1 ──┤                  level 0 ends with the return of write 1: until then one of
                       p1     ├───── write 2 ─────┤         {write 1, write 2, read} comes first; write 1 must have come
                       p2   ├── read → 1 ────┤             level 1 ends with the return of the read, and so on

    configuration = (level, which of the open operations are linearized, which unknown ones were used, state of the model)

Depth first, every configuration once, those that used the fewest unknown operations first. An order exists iff some path passes
the last level. The deepest level that any path reached but none passed is where the history breaks: cut before that return, it is
linearizable; with it, it is not.

What keeps it small, and why each is sound
  1. Only what was invoked before the first return that is not yet linearized can come next: anything else began later.
  2. A read that shows the present state is taken at once. It changes nothing, its call has begun, and in any order in which
     it comes later it can as well be moved here. So a configuration never has such reads open.
  3. Of open operations that are equal, the one that must return first is taken first; the unknown ones have for ever. Two
     that are equal may change their places in any order as long as both are open there.
  4. An unknown operation (`info`) that nobody can have noticed is left out: it may never have happened.
  5. An unknown operation is taken only directly before one that can tell: a read that now matches, or an operation that
     would end in another state without it, and also with it afterwards. Otherwise leave it out, or take it later.
  6. What can be done after using more of the unknown ones can be done after using less of them (the rest never happens). So
     of configurations that agree in all else, those that used more are not looked at. (Hence the fewest first: depth first
     alone looked at 210,263 where 25,023 are enough.)
  7. An operation that nobody can have noticed is taken along with one that wipes out what it did: the state is the same, and
     later it could only be in the way. (Without this, n open writes that nobody reads are 2^n configurations.)
  8. Levels make the memo small: "linearized" is a bit for each open operation, however long the history.

Complexity: O(n · 2^c · s · c) steps and O(n · 2^c · s) memory at worst, for n operations, c open at a time (those of unknown
outcome are open for ever) and s states; deciding it is NP-complete (Gibbons and Korach 1997). In practice a few n.
Source: Wing and Gong 1993; Lowe, "Testing for linearizability", 2017 (memo, levels); `reliability` 3.1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from jepsen_lite.checkers.calls import Call
from jepsen_lite.checkers.models import IMPOSSIBLE, Model

__all__ = ["Bounds", "Broke", "Chain", "GaveUp", "Order", "Stuck", "search"]

Chain: TypeAlias = "tuple[int, Chain] | None"
"""Linearized calls by their numbers, the last first. Configurations share their tails."""
LOOKS_PER_CLOCK: Final = 256
EFFECTS_MAX: Final = 50_000
STUCK_MAX: Final = 16
"""Configurations kept of the level at which it broke, for the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When to give up, for one object. A configuration takes 120 to 250 bytes, so the default ends below 1 GiB."""

    configurations_max: int = 3_000_000
    open_max: int = 20_000_000
    """Sum over all levels of the calls open there: 8 bytes each, taken before the search begins."""
    deadline_s: float = float("inf")
    """By `clock`."""
    clock: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """It is linearizable: the calls in an order that proves it. Unknown ones that are missing never took effect."""

    calls: Sequence[Call]
    configurations: int


class Stuck(NamedTuple):
    """One of the ways to get as far as the level that none could pass: its last call that changed the state, the state, and
    the open calls that it had not linearized."""

    last: Call | None
    state: Any
    could_be_next: Sequence[Call]


@dataclass(frozen=True, slots=True)
class Broke:
    """It is not: everything before the return of `call` is, and nothing lets `call` return as it did."""

    call: Call
    stuck: Sequence[Stuck]
    configurations: int
    linearized: int
    """How many calls the longest order has."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Nobody knows: a bound was met."""

    reason: str
    configurations: int


class _Open(NamedTuple):
    """A call that is open at a level. `before`: bits of equal ones that return earlier."""

    bit: int
    before: int
    number: int
    operation: Any


@dataclass(slots=True)
class _Level:
    """Up to one return: whose bit that is, the open reads, those of them that are new here, other calls, the bits of those
    by their operations, those that nobody noticed, and how many unknown calls have begun."""

    bit: int
    number: int
    reads: list[_Open] = field(default_factory=list)
    new_reads: list[_Open] = field(default_factory=list)
    others: list[_Open] = field(default_factory=list)
    same: dict[Any, int] = field(default_factory=dict)
    unnoticed: list[_Open] = field(default_factory=list)
    unknown: int = 0


class _Effect(NamedTuple):
    """What an unknown call does to a state, at a level: which open reads then match, which other calls can tell and what
    comes of them, and which other unknown ones may follow."""

    after: Any
    reads: int = 0
    tellers: Sequence[tuple[_Open, Any]] = ()
    followers: Sequence[int] = ()


_NO_EFFECT: Final = _Effect(None)


class _At(NamedTuple):
    level: int
    mask: int
    used: int
    state: Any
    chain: Chain


class _Bound(Exception):
    """A bound was met: no error, the reason why the search ended."""


def search(model: Model[Any], calls: Sequence[Call], bounds: Bounds | None = None) -> Order | Broke | GaveUp:
    """Judge the calls to one object, in the order of invocation."""
    bounds = bounds or Bounds()
    found = _Search(model, calls, bounds)
    try:
        return found.run()
    except _Bound as bound:
        return GaveUp(str(bound), found.looked_at)


class _Search:
    """One search: `levels` and `unknown` are the history, `seen` and `stack` how far it came."""

    def __init__(self, model: Model[Any], calls: Sequence[Call], bounds: Bounds) -> None:
        self.model, self.calls, self.bounds = model, calls, bounds
        self.step = model.step
        self.looked_at = self.deepest = 0
        self.noticed: set[Any] = set()
        self.unknown: list[_Open] = []
        self.levels: list[_Level] = []
        self.seen: list[dict[tuple[int, Any], tuple[int, ...]]] = []
        self.stuck: list[_At] = []
        self._effects: dict[tuple[int, Any, int], _Effect] = {}

    def run(self) -> Order | Broke:
        self.noticed = {mark for call in self.calls for mark in self.model.sees(call.operation)}
        self.unknown = self._noticed_unknown()
        self._make_levels()
        self.seen = [{} for _ in self.levels]
        stacks: list[list[_At]] = [[] for _ in range(len(self.unknown) + 1)]
        stacks[0].append(self._settle(_At(0, 0, 0, self.model.initial(), None)))
        while (used := next((count for count, stack in enumerate(stacks) if stack), None)) is not None:
            at = stacks[used].pop()
            if at.level == len(self.levels):
                return Order([self.calls[number] for number in _numbers(at.chain)], self.looked_at)
            if self._is_new(at):
                stacks[used] += map(self._settle, self._by_others(at))
                for after in self._by_unknown(at):
                    stacks[after.used.bit_count()].append(self._settle(after))
        return self._broke()

    # --- the history, level by level ---------------------------------------------------------------------------------

    def _noticed_unknown(self) -> list[_Open]:
        """Return the calls of unknown outcome that somebody may have noticed (4), in the order of invocation."""
        found: list[_Open] = []
        same: dict[Any, int] = {}
        for number, call in enumerate(self.calls):
            operation = call.operation
            if (
                call.returned is None
                and not self.model.is_read(operation)
                and self.model.leaves(operation) in self.noticed
            ):
                before = same.get(operation, 0)
                found.append(_Open(1 << len(found), before, number, operation))
                same[operation] = before | found[-1].bit
        return found

    def _make_levels(self) -> None:
        """Sweep over the history once; a call keeps one bit, of the lowest ones that are free, while it is open."""
        calls = self.calls
        answered = [number for number, call in enumerate(calls) if call.returned is not None]
        began = [self.calls[each.number].invoked for each in self.unknown]
        bits: dict[int, int] = {}
        free, width, coming, total = list[int](), 0, 0, 0
        for target in sorted(answered, key=lambda number: calls[number].returned or 0):
            returned = calls[target].returned or 0
            new: list[int] = []
            while coming < len(answered) and calls[answered[coming]].invoked < returned:
                if not free:
                    free, width = [1 << width], width + 1
                bits[answered[coming]] = free.pop()
                new.append(answered[coming])
                coming += 1
            total += len(bits)
            if total > self.bounds.open_max:
                raise _Bound(f"memory: more than {self.bounds.open_max:,} calls are open at all returns together")
            self.levels.append(self._level(target, bits, new, bisect_left(began, returned)))
            free.append(bits.pop(target))

    def _level(self, target: int, bits: dict[int, int], new: Sequence[int], unknown: int) -> _Level:
        calls, is_read = self.calls, self.model.is_read
        level = _Level(bits[target], target, unknown=unknown)
        same = level.same
        for number in sorted(bits, key=lambda number: calls[number].returned or 0):
            operation = calls[number].operation
            each = _Open(bits[number], same.get(operation, 0), number, operation)
            if is_read(operation):
                level.reads.append(each)
            else:
                same[operation] = each.before | each.bit
                level.others.append(each)
        fresh = frozenset(new)
        level.new_reads = [each for each in level.reads if each.number in fresh]
        level.unnoticed = [each for each in level.others if self.model.leaves(each.operation) not in self.noticed]
        level.others.reverse()  # the stack gives back the last first: the one that must return first
        return level

    # --- from one configuration to the next ----------------------------------------------------------------------------

    def _settle(self, at: _At) -> _At:
        """Take every read that matches (2), and pass every level whose call is linearized."""
        level, mask, used, state, chain = at
        step, levels = self.step, self.levels
        if level == len(levels):
            return at
        reads = levels[level].reads
        while True:
            for bit, _, number, operation in reads:
                if not mask & bit and step(state, operation) is not IMPOSSIBLE:
                    mask |= bit
                    chain = (number, chain)
            done = levels[level].bit
            if not mask & done:
                return _At(level, mask, used, state, chain)
            mask ^= done
            level += 1
            if level == len(levels):
                return _At(level, mask, used, state, chain)
            reads = levels[level].new_reads  # those before did not match, and the state is the same

    def _by_others(self, at: _At) -> Iterator[_At]:
        """Take an open call that is no read and whose outcome is known."""
        level, mask, used, state, chain = at
        step = self.step
        for bit, before, number, operation in self.levels[level].others:
            if not mask & bit and not before & ~mask:
                after = step(state, operation)
                if after is not IMPOSSIBLE:
                    yield self._along(_At(level, mask | bit, used, state, chain), operation, after, number)

    def _along(self, at: _At, operation: Any, after: Any, number: int) -> _At:
        """Take an operation that leads to `after`, and before it what nobody noticed and it wipes out (7)."""
        level, mask, used, state, chain = at
        for bit, _, other, unnoticed in self.levels[level].unnoticed:
            if not mask & bit:
                between = self.step(state, unnoticed)
                if between is not IMPOSSIBLE and self.step(between, operation) == after:
                    mask, state, chain = mask | bit, between, (other, chain)
        return _At(level, mask, used, after, (number, chain))

    def _by_unknown(self, at: _At) -> Iterator[_At]:
        """Take an unknown call, and then what can tell (5); or another unknown one in between."""
        pending: list[tuple[_At, Sequence[int]]] = [(at, range(self.levels[at.level].unknown))]
        while pending:
            (level, mask, used, state, chain), candidates = pending.pop()
            same = self.levels[level].same
            for which in candidates:
                bit, before, number, operation = self.unknown[which]
                if used & bit or before & ~used or same.get(operation, 0) & ~mask:
                    continue  # an equal one comes first (3)
                effect = self._effect(level, state, which)
                reached = _At(level, mask, used | bit, effect.after, (number, chain))
                if effect.reads & ~mask:
                    yield reached
                    continue
                for each, after in effect.tellers:
                    if not mask & each.bit and not each.before & ~mask:
                        yield self._along(reached._replace(mask=mask | each.bit), each.operation, after, each.number)
                if effect.followers:
                    pending.append((reached, effect.followers))

    def _effect(self, level: int, state: Any, which: int) -> _Effect:
        """Return what an unknown call does to a state. Many configurations of a level share it: it is kept for a while."""
        found = self._effects.get((level, state, which))
        if found is None:
            if len(self._effects) >= EFFECTS_MAX:
                self._effects.clear()
            found = self._effects[level, state, which] = self._new_effect(self.levels[level], state, which)
        return found

    def _new_effect(self, level: _Level, state: Any, which: int) -> _Effect:
        step, first = self.step, self.unknown[which].operation
        after = step(state, first)
        if after is IMPOSSIBLE or after == state:
            return _NO_EFFECT
        reads = sum(each.bit for each in level.reads if step(after, each.operation) is not IMPOSSIBLE)
        both = [(each, step(after, each.operation)) for each in level.others]
        tellers = [
            (each, then) for each, then in both
            if then is not IMPOSSIBLE and not self._is_idle(state, first, each.operation, then)
        ]  # fmt: skip
        followers = []
        for other, each in enumerate(self.unknown[: level.unknown]):
            then = step(after, each.operation)
            if other != which and then is not IMPOSSIBLE and then != after:
                if not self._is_idle(state, first, each.operation, then, may_swap=other < which):
                    followers.append(other)
        return _Effect(after, reads, tellers, followers)

    def _is_idle(self, state: Any, first: Any, second: Any, both: Any, *, may_swap: bool = True) -> bool:
        """Return whether `first` changes nothing about `second`: leaving it out, or taking it after, comes to the same."""
        without = self.step(state, second)
        if without is IMPOSSIBLE:
            return False
        return without == both or (may_swap and self.step(without, first) == both)

    # --- memo and evidence -----------------------------------------------------------------------------------------------

    def _is_new(self, at: _At) -> bool:
        """Return whether it has to be looked at, and remember it (6)."""
        seen, key, used = self.seen[at.level], (at.mask, at.state), at.used
        before = seen.get(key, ())
        for other in before:
            if not other & ~used:
                return False
        seen[key] = (*(other for other in before if used & ~other), used) if used or before else _NOTHING_USED
        self._count()
        if at.level > self.deepest:
            self.deepest = at.level
            self.stuck.clear()
        if at.level == self.deepest and len(self.stuck) < STUCK_MAX:
            self.stuck.append(at)
        return True

    def _count(self) -> None:
        self.looked_at += 1
        bounds = self.bounds
        if self.looked_at > bounds.configurations_max:
            raise _Bound(f"memory: more than {bounds.configurations_max:,} configurations")
        if self.looked_at % LOOKS_PER_CLOCK == 0 and bounds.clock() > bounds.deadline_s:
            raise _Bound(f"time: {self.looked_at:,} configurations were not all")

    def _broke(self) -> Broke:
        level = self.levels[self.deepest]
        open_ = sorted([*level.reads, *level.others], key=lambda each: self.calls[each.number].invoked)
        stuck, linearized = [], 0
        for at in self.stuck:
            done = _numbers(at.chain)
            linearized = max(linearized, len(done))
            changed = (self.calls[number] for number in reversed(done))
            last = next((call for call in changed if not self.model.is_read(call.operation)), None)
            left = [self.calls[each.number] for each in open_ if not at.mask & each.bit]
            left += [self.calls[each.number] for each in self.unknown[: level.unknown] if not at.used & each.bit]
            stuck.append(Stuck(last, at.state, left))
        return Broke(self.calls[level.number], stuck, self.looked_at, linearized)


_NOTHING_USED: Final = (0,)


def _numbers(chain: Chain) -> list[int]:
    """Return a chain in the order in which it was made."""
    numbers = []
    while chain is not None:
        number, chain = chain
        numbers.append(number)
    return numbers[::-1]
