"""White-box judge of convergence: after the last fault all owners of every key come to hold the same bytes, and keep them.

    healed ──┬────────────┬───────────────┬──────────── end
    k  n1    A            A               B                       T1: the first instant from which on all owners of all keys
       n2         A             B                                     agree until the end; the result is T1 − T0
                                          ▲ T1

A state is seen when a replica is looked at, or when it applies a record; it holds until the next observation of that replica and
key. What was seen before T0 counts as the state at T0. `state` is any fingerprint of the canonical bytes; None is "no record".

Invariants
  1. From T1 to the end every owner of every key holds the same state. An owner that was never looked at agrees with nobody.
  2. T1 − T0 <= the bound.
Load must have stopped before T0, or T1 is when it stopped. Queued hints and Merkle roots are judged in the same way: give each
owner's figure as one more key whose owners must agree (on zero).

Source: `reliability` 3.8. Complexity: O(1) for each observation, plus the sort if they are not in the order of time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

from jepsen_lite.checkers.verdict import Broken, Verdict, Violation, percentile

__all__ = ["StateSeen", "check_convergence"]

KEYS_NAMED_MAX: Final = 10
"""Diverged keys that are named one by one; the rest are counted."""


class StateSeen(NamedTuple):
    """What one replica held of one key from `time_ns` on."""

    time_ns: int
    replica: str
    key: str
    state: bytes | None


@dataclass(slots=True)
class _Key:
    """One key: what its owners hold now. `unseen` owners have not been looked at."""

    owners: frozenset[str]
    held: dict[str, bytes | None] = field(default_factory=dict)
    counts: Counter[bytes | None] = field(default_factory=Counter)
    agreed_at_ns: int | None = None

    @property
    def agrees(self) -> bool:
        return len(self.held) == len(self.owners) and len(self.counts) <= 1

    def see(self, replica: str, state: bytes | None) -> None:
        if replica in self.held:
            before = self.held[replica]
            self.counts[before] -= 1
            if not self.counts[before]:
                del self.counts[before]
        self.held[replica] = state
        self.counts[state] += 1

    def words(self) -> str:
        """Return who holds what, for a message."""
        said = []
        for owner in sorted(self.owners):
            state = self.held.get(owner)
            said.append(
                f"{owner}={'unseen' if owner not in self.held else 'none' if state is None else state.hex()[:12]}"
            )
        return " ".join(said)


def check_convergence(
    seen: Iterable[StateSeen], owners: Mapping[str, Sequence[str]], *, healed_ns: int, bound_ns: int | None = None
) -> Verdict:
    """Judge the keys of `owners`; other keys and replicas that are no owners (fallbacks) are ignored.

    Figures: `converged_ms` since the heal (absent if never), and over keys `key_p50_ms`, `key_p99_ms`, `key_max_ms`.
    """
    keys = {key: _Key(frozenset(of)) for key, of in owners.items()}
    disagreeing = sum(bool(key.owners) for key in keys.values())
    converged_at_ns = None if disagreeing else healed_ns
    ordered = sorted(seen, key=lambda each: each.time_ns)
    for time_ns, together in groupby(ordered, key=lambda each: max(each.time_ns, healed_ns)):
        before = disagreeing
        touched: dict[str, bool] = {}
        for each in together:
            key = keys.get(each.key)
            if key is not None and each.replica in key.owners:
                touched.setdefault(each.key, key.agrees)
                key.see(each.replica, each.state)
        for name, agreed in touched.items():
            disagreeing += _settle(keys[name], agreed, time_ns)
        if disagreeing:
            converged_at_ns = None
        elif before or converged_at_ns is None:
            converged_at_ns = time_ns
    return _verdict(keys, converged_at_ns, healed_ns, bound_ns)


def _settle(key: _Key, agreed: bool, time_ns: int) -> int:
    """Note whether a key agrees after an instant; returns by how much the number of disagreeing keys changes."""
    agrees = key.agrees
    if not agrees:
        key.agreed_at_ns = None
    elif key.agreed_at_ns is None:
        key.agreed_at_ns = time_ns
    return int(agreed) - int(agrees)


def _verdict(keys: Mapping[str, _Key], converged_at_ns: int | None, healed_ns: int, bound_ns: int | None) -> Verdict:
    violations: list[Violation] = []
    diverged = [name for name, key in keys.items() if key.owners and not key.agrees]
    for name in diverged[:KEYS_NAMED_MAX]:
        violations.append(Violation(Broken.DIVERGED, name, f"its owners never agreed: {keys[name].words()}"))
    if len(diverged) > KEYS_NAMED_MAX:
        violations.append(Violation(Broken.DIVERGED, "*", f"{len(diverged) - KEYS_NAMED_MAX} more keys diverged"))
    times_ms = [(key.agreed_at_ns - healed_ns) / 1e6 for key in keys.values() if key.agreed_at_ns is not None]
    figures = {
        "keys": float(len(keys)), "diverged": float(len(diverged)), "key_p50_ms": percentile(times_ms, 0.5),
        "key_p99_ms": percentile(times_ms, 0.99), "key_max_ms": max(times_ms, default=0.0),
    }  # fmt: skip
    if converged_at_ns is not None:
        took_ns = converged_at_ns - healed_ns
        figures["converged_ms"] = took_ns / 1e6
        if bound_ns is not None and took_ns > bound_ns:
            late = [name for name, key in keys.items() if (key.agreed_at_ns or healed_ns) - healed_ns > bound_ns]
            message = (
                f"agreed {took_ns / 1e6:.0f} ms after the heal, bound {bound_ns / 1e6:.0f} ms, {len(late)} keys late"
            )
            violations.append(Violation(Broken.SLOW, late[0], message))
    return Verdict("convergence", tuple(violations), unjudged=() if keys else ("*",), figures=figures)
