"""Partitions, schedules and swarms: pure functions of their hosts and their seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.net_partitions import (
    PARTITION_MODES,
    Links,
    PartitionMode,
    Step,
    bridge,
    flapping,
    halves,
    isolate,
    isolate_one_way,
    majorities_ring,
    majority_minority,
    partition,
    random_one_way,
    split,
    swizzle_clog,
)
from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.net_wire import WireConditions
from jepsen_lite.sim.network import SimNetwork

HOSTS = ["n0", "n1", "n2", "n3", "n4"]
host_counts = st.integers(min_value=3, max_value=9)
seeds = st.integers(min_value=0, max_value=10_000)


def hosts_of(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def views(hosts: list[str], cuts: Links) -> list[tuple[str, ...]]:
    """Return, for each host, those it hears: itself and whoever is not cut towards it."""
    return [tuple(other for other in hosts if (other, host) not in cuts) for host in hosts]


def is_symmetric(cuts: Links) -> bool:
    return all((target, source) in cuts for source, target in cuts)


def groups_of(hosts: list[str], cuts: Links) -> list[int]:
    """Return the sizes of the groups of hosts with the same view, smallest first."""
    return sorted(Counter(views(hosts, cuts)).values())


def test_isolation_cuts_one_host_from_all_others() -> None:
    """Both ways, or one."""
    both = isolate(["c", "a", "b"], "b")

    assert both == (("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"))
    assert isolate_one_way(["c", "a", "b"], "b", "in") == (("a", "b"), ("c", "b"))
    assert isolate_one_way(["c", "a", "b"], "b", "out") == (("b", "a"), ("b", "c"))


def test_a_split_cuts_groups_and_leaves_the_others_alone() -> None:
    """n4 is in no group and talks to everybody."""
    cuts = split(["n0", "n1"], ["n2", "n3"])

    assert len(cuts) == 8
    assert is_symmetric(cuts)
    assert not any("n4" in link for link in cuts)


@settings(max_examples=60, deadline=None)
@given(host_counts, seeds)
def test_halves_and_minorities_are_two_groups_that_hear_only_themselves(count: int, seed: int) -> None:
    """Halves differ by at most one; a minority is smaller than half."""
    hosts, rng = hosts_of(count), random.Random(seed)

    assert groups_of(hosts, halves(hosts, rng)) == [count // 2, count - count // 2]
    minority, majority = groups_of(hosts, majority_minority(hosts, rng))
    assert minority < count / 2 < majority


@settings(max_examples=60, deadline=None)
@given(host_counts, seeds)
def test_a_bridge_hears_all_and_the_two_parts_hear_it_and_themselves(count: int, seed: int) -> None:
    """One host sees everybody, nobody else does."""
    hosts = hosts_of(count)
    cuts = bridge(hosts, random.Random(seed))
    sees_all = [host for host, view in zip(hosts, views(hosts, cuts), strict=True) if len(view) == count]

    assert is_symmetric(cuts)
    assert len(sees_all) == 1
    assert all(sees_all[0] in view for view in views(hosts, cuts))


@settings(max_examples=100, deadline=None)
@given(host_counts, seeds)
def test_in_a_majorities_ring_everybody_sees_a_majority(count: int, seed: int) -> None:
    """Links are two-way. With four or five hosts no two see the same majority; three always see all in such a ring."""
    hosts = hosts_of(count)
    cuts = majorities_ring(hosts, random.Random(seed))
    seen = views(hosts, cuts)

    assert is_symmetric(cuts)
    assert all(host in view and len(view) > count / 2 for host, view in zip(hosts, seen, strict=True))
    if count in (4, 5):
        assert len(set(seen)) == count
        assert {len(view) for view in seen} == {3}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PARTITION_MODES), host_counts, seeds)
def test_every_partition_is_sorted_and_depends_on_hosts_and_seed_alone(
    mode: PartitionMode, count: int, seed: int
) -> None:
    """Not on the order in which the hosts are given; no host is cut from itself."""
    hosts = hosts_of(count)
    cuts = partition(mode, hosts, random.Random(seed))

    assert list(cuts) == sorted(set(cuts))
    assert cuts == partition(mode, hosts[::-1], random.Random(seed))
    assert all(source != target for source, target in cuts)
    assert bool(cuts) == (mode != "none") or mode in ("random", "ring")


def test_random_one_way_cuts_its_share() -> None:
    """Each direction by itself, so that about half of the pairs are asymmetric at 1/2."""
    hosts = hosts_of(20)
    cuts = random_one_way(hosts, random.Random(1), 0.5)

    assert 150 < len(cuts) < 230
    assert not is_symmetric(cuts)


def test_flapping_ends_healed() -> None:
    """Cut for half a period, healed for the other."""
    links = (("a", "b"),)

    steps = flapping(links, period_s=0.5, duration_s=1.0)

    assert list(steps) == [
        Step(0.0, "cut", links), Step(0.25, "heal", links), Step(0.5, "cut", links), Step(0.75, "heal", links),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(host_counts, seeds)
def test_a_swizzle_clogs_hosts_early_and_unclogs_them_late_in_another_order(count: int, seed: int) -> None:
    """And leaves nothing clogged."""
    hosts = hosts_of(count)
    steps = swizzle_clog(hosts, random.Random(seed), duration_s=10.0, pairs_count=3)

    whole_hosts = [step for step in steps[:-1] if len(step.links) > 1]
    assert all(step.at_s <= 5.0 if step.action == "clog" else step.at_s >= 5.0 for step in whole_hosts)
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    assert steps[-1] == (10.0, "unclog", split(*[[host] for host in hosts]))


def test_a_network_plays_a_schedule() -> None:
    """Each step at its time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        network = SimNetwork(random.Random(1))
        network.play(flapping((("a", "b"),), period_s=2.0, duration_s=4.0))
        states = []
        for _ in range(5):
            await asyncio.sleep(0.9)
            states.append((round(loop.time(), 1), network.wire("a", "b").is_cut))
        assert states == [(0.9, True), (1.8, False), (2.7, True), (3.6, False), (4.5, False)]

    VirtualLoop(random.Random(1), charge_s=0.0).run(main(), until_s=100)


# --- swarms


def test_a_calm_swarm_draws_calm_wires() -> None:
    """No fault, and a delay below a millisecond."""
    calm = NetworkSwarm.calm()
    conditions = calm.conditions(random.Random(1))

    assert calm.line() == "calm"
    assert conditions == WireConditions(delay_s_min=conditions.delay_s_min, late_s_max=0.0)
    assert conditions.delay_s_min < 0.001


def test_swarms_differ_in_which_faults_are_present_and_how_strong() -> None:
    """Each fault is absent in some seeds and present in others; a seed always draws the same."""
    swarms = [NetworkSwarm.draw(random.Random(seed)) for seed in range(200)]

    assert swarms[7] == NetworkSwarm.draw(random.Random(7))
    assert len({swarm.line() for swarm in swarms}) == 200
    for name in ("late_share", "loss_bad", "duplicate_share", "straggle_share", "bandwidth_bytes_per_s", "clogs_per_s",
                 "black_hole_share", "knock_loss_share", "partitions_per_s", "resets_per_s", "silent_crash_share"):  # fmt: skip
        present = sum(getattr(swarm, name) > 0 for swarm in swarms)
        assert 20 < present < 180, name
    assert {swarm.partition_mode for swarm in swarms} == set(PARTITION_MODES)


def test_a_swarm_prints_as_one_line_of_what_is_not_calm() -> None:
    """For the report of a seed."""
    swarm = NetworkSwarm(duplicate_share=0.25, partition_mode="bridge")

    assert swarm.line() == "duplicate_share=0.25 partition_mode=bridge"


@settings(max_examples=60, deadline=None)
@given(host_counts, seeds)
def test_a_schedule_of_a_swarm_is_in_order_and_ends_healed(count: int, seed: int) -> None:
    """Whatever was cut or clogged in it; a calm swarm only makes sure of that."""
    hosts, swarm = hosts_of(count), NetworkSwarm.draw(random.Random(seed))
    steps = swarm.schedule(hosts, random.Random(seed), duration_s=30.0)
    everything = split(*[[host] for host in hosts])

    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    assert steps[-2:] == (Step(30.0, "heal", everything), Step(30.0, "unclog", everything))
    assert NetworkSwarm.calm().schedule(hosts, random.Random(seed), duration_s=30.0) == steps[-2:]
    assert steps == swarm.schedule(hosts[::-1], random.Random(seed), duration_s=30.0)


def test_schedules_hold_every_kind_of_step_at_the_rate_of_their_swarm() -> None:
    """About one partition per two seconds, over all seeds."""
    swarm = NetworkSwarm(
        partition_mode="halves", partition_s_mean=1.0, partitions_per_s=0.5, resets_per_s=0.2, swizzles_per_s=0.1,
        flaps_per_s=0.1,
    )  # fmt: skip
    counts = Counter(
        step.action for seed in range(20) for step in swarm.schedule(HOSTS, random.Random(seed), duration_s=20.0)
    )

    assert 40 < counts["reset"] < 130
    assert counts["cut"] > 200 and counts["clog"] > 100


def test_each_direction_draws_its_own_delay() -> None:
    """Routes are not symmetric; and the order in which wires are first used does not matter."""

    def delays(order: list[tuple[str, str]]) -> list[float]:
        network = SimNetwork(random.Random(1), NetworkSwarm(delay_s_min=0.01, delay_s_max=0.1))
        for link in order:
            network.wire(*link)
        return [network.wire(*link).conditions.delay_s_min for link in sorted(order)]

    there, back = delays([("a", "b"), ("b", "a")])

    assert there != back
    assert delays([("b", "a"), ("a", "b")]) == [there, back]
