"""The arithmetic of `kvctl bench`: which operation on which key comes next, when it should start, what its latency was.

    open loop, 1000/s    intended   0.000   0.001   0.002 …            the server stalls for one second at 0.001
                         issued     0.000   0.001   1.001
                         answered   0.0004  1.001   1.0014
                         latency    0.4 ms  1 s     0.9994 s           from `intended`: the stall is seen by all that
                                                                       should have run in it (no coordinated omission)

Pure: chance and time are arguments.

Invariants
  1. Open-loop latency counts from the intended start. If an operation was issued early (timers are coarse, we wake up
     to 1 ms before it is due) it counts from the issue, so coarse timers are no part of the result.
  2. Zipfian ranks are scattered over the key space by a fixed hash, so that hot keys are not neighbours.

Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010 (mixes A-F); Gray et al., "Quickly
generating billion-record synthetic databases", SIGMOD 1994, section 3.2 (the zipfian generator, theta = 0.99);
G. Tene, "How NOT to measure latency" (coordinated omission).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from kvstore.errors import InvalidArgument

__all__ = ["WORKLOADS", "Kind", "Mix", "choose_mix", "key_chooser", "key_of", "latency_ns", "start_delay_s"]

ZIPFIAN_THETA = 0.99
EARLY_NS = 1_000_000
"""Loops wait in whole milliseconds; waking up to this much early keeps the schedule without spinning."""
KeyChooser = Callable[[], int]


class Kind(IntEnum):
    """What one benchmark operation does."""

    READ = 0
    UPDATE = 1
    INSERT = 2
    READ_MODIFY_WRITE = 3

    @property
    def label(self) -> str:
        """Name in results."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Mix:
    """A workload: shares of the kinds (summing to 1, in order of `Kind`) and the distribution it runs with by default."""

    shares: tuple[float, float, float, float]
    distribution: str
    says: str

    @property
    def reads(self) -> bool:
        """True if it needs keys to be there beforehand."""
        return self.shares[Kind.READ] > 0 or self.shares[Kind.READ_MODIFY_WRITE] > 0

    def chooser(self, rng: random.Random) -> Callable[[], Kind]:
        """Return a function giving the next kind."""
        only = [kind for kind in Kind if self.shares[kind] == 1.0]
        if only:
            kind = only[0]
            return lambda: kind
        limits = [sum(self.shares[: kind + 1]) for kind in Kind]
        chance, kinds = rng.random, list(Kind)

        def choose() -> Kind:
            point = chance()
            for limit, kind in zip(limits, kinds, strict=True):
                if point < limit:
                    return kind
            return kinds[0]

        return choose


WORKLOADS = {
    "a": Mix((0.5, 0.5, 0.0, 0.0), "zipfian", "50 % read, 50 % update"),
    "b": Mix((0.95, 0.05, 0.0, 0.0), "zipfian", "95 % read, 5 % update"),
    "c": Mix((1.0, 0.0, 0.0, 0.0), "zipfian", "read only"),
    "d": Mix((0.95, 0.0, 0.05, 0.0), "latest", "95 % read of recent keys, 5 % insert"),
    "f": Mix((0.5, 0.0, 0.0, 0.5), "zipfian", "50 % read, 50 % read-modify-write"),
    "put": Mix((0.0, 1.0, 0.0, 0.0), "uniform", "put only"),
    "get": Mix((1.0, 0.0, 0.0, 0.0), "uniform", "get only"),
}


def choose_mix(name: str) -> Mix:
    """Return the workload called `name`, or raise `InvalidArgument` saying why there is none."""
    if name == "e":
        raise InvalidArgument(
            "workload e scans, and this version has no scan; the others are a, b, c, d, f, put and get"
        )
    return WORKLOADS[name]


def key_of(index: int) -> bytes:
    """Return the benchmark's key number `index` (the same as the prototype's, so that figures compare)."""
    return b"user%012d" % index


def key_chooser(distribution: str, keys_count: int, newest: Callable[[], int], rng: random.Random) -> KeyChooser:
    """Return a function giving the next key number. `newest()` is the number of keys there are now (for `latest`)."""
    chance = rng.random
    if distribution == "uniform":
        return lambda: int(chance() * keys_count)
    rank = _zipfian_rank(keys_count, rng)
    if distribution == "zipfian":
        return lambda: _scatter(rank()) % keys_count
    if distribution == "latest":
        return lambda: max(0, newest() - 1 - rank())
    raise InvalidArgument(f"unknown distribution {distribution!r}: uniform, zipfian or latest")


def _zipfian_rank(count: int, rng: random.Random) -> KeyChooser:
    zeta = sum(1.0 / rank**ZIPFIAN_THETA for rank in range(1, count + 1))
    alpha = 1.0 / (1.0 - ZIPFIAN_THETA)
    half_theta = 1.0 + 0.5**ZIPFIAN_THETA
    eta = (1.0 - (2.0 / count) ** (1.0 - ZIPFIAN_THETA)) / (1.0 - half_theta / zeta) if count > 2 else 0.0
    chance = rng.random

    def rank() -> int:
        point = chance()
        scaled = point * zeta
        if scaled < 1.0 or count == 1:
            return 0
        if scaled < half_theta or count == 2:
            return 1
        return min(count - 1, int(count * (eta * point - eta + 1.0) ** alpha))

    return rank


def _scatter(rank: int) -> int:
    """FNV-1a style mixing of one 64-bit word; collisions only make two ranks share a key, as in YCSB."""
    mixed = (rank ^ 0xCBF29CE484222325) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 29) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF


def start_delay_s(intended_ns: int, now_ns: int) -> float:
    """Return how long to wait before issuing the operation due at `intended_ns`; 0.0 means issue it now."""
    wait_ns = intended_ns - now_ns - EARLY_NS
    return wait_ns * 1e-9 if wait_ns > 0 else 0.0


def latency_ns(intended_ns: int, issued_ns: int, answered_ns: int) -> int:
    """Return what the operation's user waited (invariant 1)."""
    return answered_ns - min(intended_ns, issued_ns)
