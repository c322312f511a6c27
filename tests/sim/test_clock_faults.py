"""Clocks that step, strobe, drift and jump: what they show, what the plan says, and what lww order may still be held to."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from jepsen_lite.sim.clock import SimClock, error_bounds_ns, max_skew_ns, must_win
from jepsen_lite.sim.clock_faults import ClockEvent, ClockFault, ClockFaults, ClockSwarm, plan
from jepsen_lite.sim.fault_log import FaultLog
from jepsen_lite.sim.loop import VirtualLoop
from kvstore.causality.hlc import MAX_CLOCK_SKEW_MS

T = TypeVar("T")
MS, S = 1_000_000, 1_000_000_000


def run(main: Coroutine[Any, Any, T]) -> T:
    return VirtualLoop(random.Random(1), charge_s=0.0).run(main, until_s=10_000)


def clocks(count: int) -> list[SimClock]:
    return [SimClock(asyncio.get_running_loop()) for _ in range(count)]


def test_a_clock_remembers_how_wrong_it_was() -> None:
    """Before and after a step are told apart; a drift grows linearly; set right is exact."""

    async def main() -> None:
        [clock] = clocks(1)
        await asyncio.sleep(1)
        clock.step(5 * S)
        await asyncio.sleep(1)
        clock.set_rate(2.0)
        await asyncio.sleep(1)
        clock.set_right()
        await asyncio.sleep(1)

        assert clock.errors_at(1.0) == (0, 5 * S)
        assert clock.errors_at(2.5)[1] == 5 * S + S // 2
        assert clock.errors_at(3.0) == (6 * S, 0)
        assert (clock.error_ns(), clock.rate) == (0, 1.0)

    run(main())


def test_the_greatest_skew_is_found_between_changes_and_not_across_a_step() -> None:
    """Two drifting clocks are furthest apart just before one is set right; one clock alone has no skew."""

    async def main() -> None:
        fast, slow = clocks(2)
        fast.set_rate(1.5)
        slow.set_rate(0.5)
        await asyncio.sleep(4)
        fast.set_right()
        await asyncio.sleep(4)

        assert max_skew_ns([fast, slow], 0, 8) == 4 * S
        assert max_skew_ns([fast, slow], 5, 6) == 3 * S
        assert max_skew_ns([fast], 0, 8) == 0
        assert error_bounds_ns([fast, slow], 0, 8) == (-4 * S, 2 * S)

    run(main())


def test_lww_order_is_owed_only_if_no_clock_can_have_reversed_it() -> None:
    """A clock that once was ahead leaves timestamps behind that later writes need not beat, even after it was set right."""

    async def main() -> None:
        good, bad = nodes = clocks(2)
        await asyncio.sleep(1)
        assert must_win(nodes, first_ended_s=0.5, second_from_s=0.6, second_to_s=0.7)
        assert not must_win(nodes, first_ended_s=0.5, second_from_s=0.4, second_to_s=0.7), "they were concurrent"
        bad.step(10 * S)
        await asyncio.sleep(1)
        bad.set_right()
        await asyncio.sleep(20)

        assert must_win(nodes, first_ended_s=0.5, second_from_s=3, second_to_s=4), "nothing had been wrong by then"
        assert not must_win(nodes, first_ended_s=1.5, second_from_s=3, second_to_s=4), "the first may be of 11.5 s"
        assert must_win(nodes, first_ended_s=1.5, second_from_s=12.1, second_to_s=13)
        assert must_win([good], first_ended_s=1.5, second_from_s=3, second_to_s=4)

    run(main())


def test_a_plan_is_a_function_of_its_seed_and_stays_in_its_time() -> None:
    """Sorted, bounded steps, hosts of both kinds, and a far jump is beyond the bound and taken back."""
    kinds = tuple((kind, 1.0) for kind in ClockFault if kind is not ClockFault.SET_RIGHT)
    swarm = ClockSwarm(pause_s=0.2, weights=kinds, step_ns_max=300 * S, lasts_s_max=2.0, client_share=0.3)

    def made(seed: int) -> list[ClockEvent]:
        return plan(swarm, random.Random(seed), nodes=["n0", "n1"], clients=["c0"], from_s=1.0, to_s=60.0)

    events = made(1)

    assert events == made(1) != made(2)
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    assert all(1.0 <= event.at_s < 60.0 for event in events)
    assert {event.host for event in events} == {"n0", "n1", "c0"}
    steps = [abs(event.step_ns) for event in events if event.kind is ClockFault.STEP]
    assert min(steps) >= MS and 60 * S < max(steps) <= 300 * S
    far = [event for event in events if event.kind is ClockFault.FAR_JUMP]
    assert far and all(event.step_ns > MAX_CLOCK_SKEW_MS * MS for event in far)
    assert any(event.kind is ClockFault.SET_RIGHT for event in events)
    assert {0.5 <= event.rate <= 2.0 for event in events if event.kind is ClockFault.DRIFT} == {True}


@pytest.mark.parametrize("kind", [ClockFault.STROBE, ClockFault.FAR_JUMP])
def test_applied_events_count_and_show_on_the_clock(kind: ClockFault) -> None:
    """A strobe goes forth and back and ends where it began; a far jump is set right; the trace hears of each."""

    async def main() -> None:
        clock, seen = clocks(1)[0], []
        swarm = ClockSwarm(pause_s=5.0, weights=((kind, 1.0),), step_ns_max=S, lasts_s_max=0.5, strobe_pause_s=0.001)
        events = plan(swarm, random.Random(3), nodes=["n0"], from_s=0, to_s=100)
        log = FaultLog(ClockFault, lambda *fields: seen.append(fields))

        await ClockFaults({"n0": clock}, events, log).run()

        assert abs(clock.error_ns()) < 1_000, "but for rounding"
        assert max_skew_ns([clock, clocks(1)[0]], 0, 100) > 0
        assert log.counts[kind] == len([event for event in events if event.kind is kind]) > 0
        assert len(seen) == len(events) == sum(log.counts.values())
        assert list(log.counts) == list(ClockFault)

    run(main())


def test_calm_is_calm_and_swarms_differ() -> None:
    """Each fault is absent in about half of the seeds; the line says everything."""
    drawn = [ClockSwarm.draw(random.Random(seed)) for seed in range(40)]

    assert plan(ClockSwarm.calm(), random.Random(1), nodes=["n0"], from_s=0, to_s=1e9) == []
    for kind in list(ClockFault)[:-1]:
        assert 8 <= sum(dict(swarm.weights)[kind] == 0 for swarm in drawn) <= 32
    assert len({swarm.line() for swarm in drawn}) == 40
    assert ClockSwarm.calm().line().endswith("faults=none") and "\n" not in drawn[0].line()


CHILD = """
import random
from jepsen_lite.sim.clock_faults import ClockSwarm, plan
for seed in range(20):
    rng = random.Random(seed)
    swarm = ClockSwarm.draw(rng)
    print(swarm.line(), *plan(swarm, rng, nodes=["n0", "n1"], clients=["c0"], from_s=0, to_s=30))
"""


def test_plans_are_the_same_in_another_process_with_other_hashes() -> None:
    """What a seed does to its clocks must not depend on hash seeds."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", CHILD], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for seed in ("1", "4242")
    }  # fmt: skip

    assert len(outputs) == 1 and len(outputs.pop()) > 1_000
