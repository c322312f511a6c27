"""A swarm is drawn from the seed alone, each part from a stream of its own, and says in five lines what it is."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import fields

import pytest

from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.swarm import ProcessSwarm, Swarm, derived_rng

SEEDS = 300
PARTS = ("network", "disk", "clock", "process")


def test_a_swarm_is_a_function_of_the_seed() -> None:
    """Two draws are equal; other seeds give others."""
    drawn = [Swarm.draw(seed) for seed in range(20)]

    assert [Swarm.draw(seed) for seed in range(20)] == drawn
    assert len({swarm.lines() for swarm in drawn}) == 20


def test_it_does_not_depend_on_the_process() -> None:
    """Another interpreter with another hash seed draws the same."""
    script = "from jepsen_lite.sim.swarm import Swarm\nprint(*Swarm.draw(81723).lines(), sep='\\n')"

    told = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for hash_seed in ("1", "4242")
    ]  # fmt: skip

    assert told == ["\n".join(Swarm.draw(81723).lines()) + "\n"] * 2


def test_components_draw_from_streams_of_their_own() -> None:
    """The stream of a component depends on the seed and its name, and on nothing else. Old seeds stay what they were."""
    assert derived_rng(1, "network").random() == derived_rng(1, "network").random()
    assert len({derived_rng(seed, name).random() for seed in (1, 2) for name in ("network", "timers")}) == 4
    assert derived_rng(7, "timers").getrandbits(32) == 0x6A30FAED


def test_the_parts_are_drawn_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that draws more than before, as one with a new fault does, changes none of the others."""
    before = [Swarm.draw(seed) for seed in range(50)]
    draw = NetworkSwarm.draw

    def draw_more(rng: random.Random) -> NetworkSwarm:
        rng.random()
        return draw(rng)

    monkeypatch.setattr(NetworkSwarm, "draw", draw_more)
    after = [Swarm.draw(seed) for seed in range(50)]

    assert [swarm.network for swarm in after] != [swarm.network for swarm in before]
    for name in (field.name for field in fields(Swarm) if field.name != "network"):
        assert [getattr(swarm, name) for swarm in after] == [getattr(swarm, name) for swarm in before]


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_calm_in_some_seeds_and_not_in_most(part: str) -> None:
    """A fault that is always there hides what only shows without it."""
    calm = getattr(Swarm(), part)

    count = sum(getattr(Swarm.draw(seed), part) == calm for seed in range(SEEDS))

    assert SEEDS / 25 < count < SEEDS / 4


@pytest.mark.parametrize("fault", [field.name for field in fields(ProcessSwarm) if field.name.endswith("_share")])
def test_each_share_is_absent_in_some_seeds_and_present_in_others(fault: str) -> None:
    """Presence and absence are both drawn."""
    present = sum(getattr(Swarm.draw(seed).process, fault) > 0 for seed in range(SEEDS))

    assert SEEDS / 10 < present < 9 * SEEDS / 10


def test_with_moves_every_seed_has_a_join_under_faults_and_lost_disks_take_their_place_again() -> None:
    """Network, disk faults and clocks are those of the seed without moves."""
    for seed in range(50):
        plain, moves = Swarm.draw(seed), Swarm.draw_with_moves(seed)
        assert moves == Swarm.draw_with_moves(seed)
        assert moves.late_joins >= 1 and moves.is_late_under_faults
        assert moves.process.replaced_share == 1.0 and moves.process.strikes_per_move > 0
        assert (moves.network, moves.disk, moves.clock) == (plain.network, plain.disk, plain.clock)
        assert not plain.has_moves


def test_lines_say_everything_and_calm_if_nothing() -> None:
    """A line for the cluster and one for each part; what differs from calm is named with its value."""
    lines = Swarm().lines()

    assert [line.split()[0] for line in lines] == ["cluster", "network", "disk", "clock", "process"]
    assert (lines[1], lines[4]) == ("network calm", "process calm")
    assert lines[0].startswith("cluster nodes=3 late=0 n=3 partitions=8 cache=0 ")
    assert Swarm(process=ProcessSwarm(power_share=0.5)).lines()[4] == "process power_share=0.5"
    assert all("faults=none" in line for line in lines[2:4])
