"""What a seed draws, in one line; and that each workload does what its name says."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from jepsen_lite.history import REFUSED, ContextKind, F, Kind
from jepsen_lite.recorder import Board, Counts, Target
from jepsen_lite.workloads.catalogue import DEFAULT_NAME, WORKLOADS, draw, open_recorder, work, workload_line
from jepsen_lite.workloads.pace import BURST_PERIOD_S, WEAK, Pace, Workload
from tests.workloads.fake_world import FakeWorld

SEEDS = range(40)


def play(name: str, seed: int, *, seconds: float = 10.0) -> FakeWorld:
    """Run two clients of a workload on the fake store."""
    world = FakeWorld()

    async def client(workload: Workload, name: str) -> None:
        recorder = open_recorder(world, world.history, world.board, name, workload)
        await work(workload, recorder, random.Random(f"{seed} {name}"), seconds)

    async def main() -> None:
        workload = draw(name, random.Random(seed))
        for task in [world.loop.create_task(client(workload, each)) for each in ("c0", "c1")]:
            await task

    world.run(main())
    return world


def test_the_default_is_the_mix_and_every_name_can_be_drawn() -> None:
    """What `list` prints is what `run` takes."""
    assert WORKLOADS[0][0] == DEFAULT_NAME == "mix"
    for name, says in WORKLOADS:
        workload = draw(name, random.Random(1))
        assert (workload.NAME, workload.says) == (name, says)
        assert workload_line(workload).startswith(f"workload {name} ") and "\n" not in workload_line(workload)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    """The message helps."""
    with pytest.raises(ValueError, match=r"no workload 'mixx'; there are mix, registers"):
        draw("mixx", random.Random(1))


def test_one_seed_is_one_pace_and_seeds_differ() -> None:
    """Drawn from the stream it is given and from nothing else."""
    lines = [workload_line(draw("mix", random.Random(seed))) for seed in SEEDS]

    assert lines == [workload_line(draw("mix", random.Random(seed))) for seed in SEEDS]
    assert len(dict.fromkeys(lines)) == len(lines)


def test_the_parts_of_a_mix_never_share_an_object() -> None:
    """A set is stored as a register, so the storage keys count, not only kind and key."""
    for seed in SEEDS:
        keys = [target.storage_key for target in draw("mix", random.Random(seed)).objects]
        assert len(dict.fromkeys(keys)) == len(keys)


def test_all_kinds_of_operations_and_contexts_occur_in_the_mix() -> None:
    """Over a few seeds, each several times."""
    asked: Counter[str] = Counter()
    for seed in range(8):
        for pair in play("mix", seed).history.pairs():
            asked[f"{pair.invocation.kind} {pair.invocation.f}"] += 1
            if pair.invocation.f in (F.PUT, F.DELETE):
                asked[pair.invocation.context_kind] += 1

    wanted = [
        *ContextKind,
        "register get",
        "register delete",
        "lww put",
        "lww get",
        "lww delete",
        "set add",
        "set read",
    ]
    assert [each for each in wanted if asked[each] < 3] == []


def test_a_blind_delete_hits_one_object_only() -> None:
    """It excuses the absence of everything that was put before it, so it must not weaken the others."""
    for seed in range(4):
        blind = [
            pair.invocation.key for pair in play("deletes", seed).history.pairs()
            if pair.invocation.f is F.DELETE and pair.invocation.context_kind is ContextKind.BLIND
        ]  # fmt: skip
        assert set(blind) <= {"doomcareless"}


def test_churn_leaves_its_keys_behind() -> None:
    """Many keys, each with few operations."""
    world = play("churn", 5)
    counts = Counter(pair.invocation.key for pair in world.history.pairs())

    assert len(counts) > 10 and max(counts.values()) <= 30


def test_large_values_are_large() -> None:
    """100 KB to 1 MiB, and several of them make a record that needs chunks."""
    sizes: list[int] = []
    for seed in range(2):
        world = play("large", seed, seconds=20.0)
        sizes += [len(record) for target in world.board.touched for record in world.states(target.storage_key).values()]

    assert max(sizes) > 1024 * 1024


def test_only_weak_objects_are_written_with_one_copy() -> None:
    """A write with dw=1 takes the fault budget of its key away, so few keys have any."""
    pace = Pace(has_weak=True)
    objects = [Target(Kind.REGISTER, f"r{number}") for number in range(3)]
    rng = random.Random(1)

    assert [pace.counts_for(target, objects, rng) for target in objects] == [Counts(), Counts(), WEAK]
    assert pace.counts_for(objects[0], objects[:1], rng) == Counts()
    for seed in SEEDS:
        drawn = Pace.draw(random.Random(seed))
        assert all(counts.dw is None or counts.dw >= 2 for counts in drawn.counts)
        assert all(counts.w is None or counts.w >= 2 or counts.dw == 2 for counts in drawn.counts)


def test_bursts_are_of_all_clients_together() -> None:
    """Outside of a burst every client waits for the next one."""
    pace, rng = Pace(burst_s=0.5), random.Random(1)

    for now_s in (0.6, 1.0, 2.9):
        assert now_s + pace.pause_s(now_s, rng) == pytest.approx(BURST_PERIOD_S, abs=0.021)
    assert pace.pause_s(BURST_PERIOD_S + 0.2, rng) <= 0.02


def test_a_replica_forgets_only_if_the_world_offers_it() -> None:
    """The callable is the world's; it gets the storage key."""
    told: list[bytes] = []

    async def forget(storage_key: bytes) -> None:
        told.append(storage_key)

    world = FakeWorld()

    async def main() -> list[Target]:
        workload = draw("registers", random.Random(3), forget=forget)
        recorder = open_recorder(world, world.history, Board(), "c0", workload)
        await work(workload, recorder, random.Random(3), 60.0)
        return list(workload.objects)

    objects = world.run(main())

    assert told and set(told) <= {target.storage_key for target in objects}


def test_refused_contexts_never_succeed_on_a_truthful_store() -> None:
    """They are there to be refused."""
    for seed in range(3):
        for pair in play("registers", seed).history.pairs():
            assert not (pair.is_ok and pair.invocation.context_kind in REFUSED)
