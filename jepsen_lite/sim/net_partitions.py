"""Who cannot talk to whom: partitions as directed links to cut, and schedules of cuts and clogs over time. Pure.

    isolate        A ╳ {B C D E}          bridge           {A B} ╳ {D E}, all see C
    split          {A B} ╳ {C D E}        majorities_ring  everybody sees a majority, nobody the same one
    one_way        A hears nobody, or nobody hears A

Each function takes the hosts in any order and returns links sorted, each once, so that equal partitions are equal tuples.
Source: Jepsen's nemesis (partition-halves, bridge, majorities-ring); FoundationDB's swizzle-clogging [3]; VOPR's
partition modes [7]; of 136 network-partition failures most needed only one isolated node [27] (`reliability`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = [
    "DirectedLink", "Links", "PARTITION_MODES", "PartitionMode", "Step", "bridge", "flapping", "halves", "isolate",
    "isolate_one_way", "majorities_ring", "majority_minority", "partition", "random_one_way", "split", "swizzle_clog",
]  # fmt: skip

DirectedLink = tuple[str, str]
"""(source host, target host)."""
Links = tuple[DirectedLink, ...]
PartitionMode = Literal[
    "none", "isolate", "halves", "minority", "bridge", "ring", "one-way-in", "one-way-out", "random"
]
PARTITION_MODES: tuple[PartitionMode, ...] = (
    "none", "isolate", "halves", "minority", "bridge", "ring", "one-way-in", "one-way-out", "random",
)  # fmt: skip


class Step(NamedTuple):
    """One entry of a schedule, `at_s` seconds after its start."""

    at_s: float
    action: Literal["cut", "heal", "clog", "unclog", "reset"]
    links: Links


def split(*groups: Sequence[str]) -> Links:
    """Cut every group from every other, both ways. A host in no group talks to all."""
    return _sorted([
        (source, target)
        for number, group in enumerate(groups)
        for other_number, other in enumerate(groups)
        if number != other_number
        for source in group
        for target in other
    ])  # fmt: skip


def isolate(hosts: Sequence[str], victim: str) -> Links:
    """Cut one host from all others, both ways."""
    return split([victim], _without(hosts, victim))


def isolate_one_way(hosts: Sequence[str], victim: str, direction: Literal["in", "out"]) -> Links:
    """`in`: the victim hears nobody, and is heard; `out`: the reverse."""
    others = _without(hosts, victim)
    return _sorted([(other, victim) if direction == "in" else (victim, other) for other in others])


def halves(hosts: Sequence[str], rng: random.Random) -> Links:
    """Cut a random half from the rest; of an odd number the first part is the smaller one."""
    shuffled = _shuffled(hosts, rng)
    middle = len(shuffled) // 2
    return split(shuffled[:middle], shuffled[middle:])


def majority_minority(hosts: Sequence[str], rng: random.Random) -> Links:
    """Cut a random minority, of any size from one to the largest, from the rest. Fewer than three hosts have none."""
    shuffled = _shuffled(hosts, rng)
    largest = (len(shuffled) - 1) // 2
    if largest == 0:
        return ()
    size = rng.randint(1, largest)
    return split(shuffled[:size], shuffled[size:])


def bridge(hosts: Sequence[str], rng: random.Random) -> Links:
    """Cut two parts from each other, while one random host sees both."""
    _, *others = _shuffled(hosts, rng)
    middle = len(others) // 2
    return split(others[:middle], others[middle:])


def majorities_ring(hosts: Sequence[str], rng: random.Random) -> Links:
    """Leave every host connected (both ways) with a majority, itself included, and cut the rest.

    Up to five hosts stand in a ring and see their neighbours, so that no two see the same majority. For more, Jepsen's
    stochastic form: connect the least connected hosts until all see a majority; equal views are then possible, but rare.
    """
    ring = _shuffled(hosts, rng)
    majority = len(ring) // 2 + 1
    sees: dict[str, dict[str, None]] = {host: {host: None} for host in ring}
    if len(ring) <= 5:
        for host, neighbour in zip(ring, [*ring[1:], *ring[:1]], strict=True):
            _connect(sees, host, neighbour)
    while True:
        host, *others = sorted(_shuffled(hosts, rng), key=lambda name: len(sees[name]))
        if len(sees[host]) >= majority:
            return _sorted([(a, b) for a in hosts for b in hosts if b not in sees[a]])
        _connect(sees, host, next(other for other in others if other not in sees[host]))


def random_one_way(hosts: Sequence[str], rng: random.Random, share: float) -> Links:
    """Cut each direction by itself with probability `share`."""
    links = [(source, target) for source in sorted(hosts) for target in sorted(hosts) if source != target]
    return tuple(link for link in links if rng.random() < share)


def partition(mode: PartitionMode, hosts: Sequence[str], rng: random.Random) -> Links:
    """Return a random partition of one kind."""
    match mode:
        case "none":
            return ()
        case "isolate":
            return isolate(hosts, rng.choice(sorted(hosts)))
        case "halves":
            return halves(hosts, rng)
        case "minority":
            return majority_minority(hosts, rng)
        case "bridge":
            return bridge(hosts, rng)
        case "ring":
            return majorities_ring(hosts, rng)
        case "one-way-in":
            return isolate_one_way(hosts, rng.choice(sorted(hosts)), "in")
        case "one-way-out":
            return isolate_one_way(hosts, rng.choice(sorted(hosts)), "out")
        case "random":
            return random_one_way(hosts, rng, rng.uniform(0.1, 0.6))


# Schedules.


def flapping(links: Links, *, period_s: float, duration_s: float) -> tuple[Step, ...]:
    """Cut and heal in turn, half a period each, and end healed (fault N5: 100 ms or so)."""
    cycles = max(1, int(duration_s / period_s))
    steps: list[Step] = []
    for cycle in range(cycles):
        steps += [Step(cycle * period_s, "cut", links), Step((cycle + 0.5) * period_s, "heal", links)]
    return tuple(steps)


def swizzle_clog(
    hosts: Sequence[str], rng: random.Random, *, duration_s: float, pairs_count: int = 10
) -> tuple[Step, ...]:
    """Clog each host (all its links) with probability 1/2 in the first half, unclog in another order in the second.

    And clog `pairs_count` random directed links meanwhile. Everything is unclogged at `duration_s`, and the two kinds may
    end each other early where they meet: `unclog` ends every clog of a link.
    """
    steps: list[Step] = []
    for host in sorted(hosts):
        links = isolate(hosts, host)
        if rng.random() < 0.5:
            steps.append(Step(rng.uniform(0, duration_s / 2), "clog", links))
            steps.append(Step(rng.uniform(duration_s / 2, duration_s), "unclog", links))
    for _ in range(pairs_count if len(hosts) > 1 else 0):
        source, target = rng.sample(sorted(hosts), 2)
        begin_s, end_s = sorted((rng.uniform(0, duration_s), rng.uniform(0, duration_s)))
        steps += [Step(begin_s, "clog", ((source, target),)), Step(end_s, "unclog", ((source, target),))]
    everything = split(*[[host] for host in hosts])
    return (*sorted(steps), Step(duration_s, "unclog", everything))


def _connect(sees: dict[str, dict[str, None]], host: str, other: str) -> None:
    sees[host][other] = sees[other][host] = None


def _shuffled(hosts: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(sorted(hosts), len(hosts))


def _without(hosts: Sequence[str], victim: str) -> list[str]:
    return [host for host in hosts if host != victim]


def _sorted(links: list[DirectedLink]) -> Links:
    return tuple(sorted(dict.fromkeys(links)))
