"""A truthful store is found good; each lie of a store is found by the judge that is there for it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import cast

import pytest

from jepsen_lite.checkers.dots import DotWitness
from jepsen_lite.checkers.durable import DurableJudge
from jepsen_lite.checkers.sent_once import check_sent_once
from jepsen_lite.checkers.verdict import Broken
from jepsen_lite.history import ContextKind, F, History, Kind, OpType
from jepsen_lite.judges import Evidence, broken, check_lww_clocks, final_reads, judge, unjudged
from jepsen_lite.recorder import Counts, Target
from jepsen_lite.sim.clock import SimClock, must_win
from jepsen_lite.workloads.catalogue import draw, work
from jepsen_lite.workloads.finals import last_writes
from kvstore.errors import ReadQuorumUnsatisfied, Timeout
from kvstore.ids import StorageKey
from tests.workloads.fake_world import FakeWorld, Lies

K, OTHER, SET, LWW = (
    Target(Kind.REGISTER, "k"), Target(Kind.REGISTER, "other"), Target(Kind.SET, "s"), Target(Kind.LWW, "w"),
)  # fmt: skip


def run(lies: Lies, *, late: Lies | None = None, doubles_requests: bool = False) -> Evidence:
    """Let two clients put, add, delete and read, always with the same steps, and judge nothing yet."""
    world = FakeWorld(doubles_requests=doubles_requests)
    world.lies = lies

    async def main() -> Evidence:
        a, b = world.recorder("a"), world.recorder("b")
        await a.put(K, ContextKind.BLIND)
        await b.put(K, ContextKind.FRESH)
        await a.add(SET, ContextKind.FRESH)
        await b.put(LWW, ContextKind.BLIND)
        await a.add(SET, ContextKind.FRESH)
        await a.put(OTHER, ContextKind.BLIND, counts=Counts(w=2))
        await b.get(K)
        await a.put(K, ContextKind.OTHER_KEY)
        await a.delete(OTHER, ContextKind.FRESH)
        await b.put(K, ContextKind.BLIND)
        finals = await final_reads(world, a, list(world.board.touched), settle_s=0.1, bound_s=1.0)
        return Evidence(
            history=world.history, witness=world.witness, finals=finals, board=world.board, clocks=world.clocks
        )

    return world.run(main())


def found(evidence: Evidence) -> dict[str, list[Broken]]:
    """Return what each judge found broken."""
    verdicts = judge(evidence)
    return {each.checker: [violation.broken for violation in each.violations] for each in verdicts if each.violations}


def test_a_truthful_store_breaks_no_promise_and_everything_is_judged() -> None:
    """Every judge had something to judge, and says so in figures."""
    evidence = run(Lies())
    verdicts = judge(evidence)

    assert broken(verdicts, evidence.history) == [] and unjudged(verdicts) == []
    figures = {each.checker: each.figures for each in verdicts}
    assert figures["refused"]["refused"] == 1 and figures["lww_clocks"]["compared"] == 1
    assert figures["set_full"]["stable"] == 2 and figures["convergence"]["keys"] == 4
    assert figures["dots"]["dots"] >= 7 and figures["staleness"]["reads"] > 0


LIES = [
    ("an acknowledged put that is not kept", Lies(forgets_put=8), "causality", Broken.LOST),
    ("the same, white box", Lies(forgets_put=8), "dot_causality", Broken.LOST),
    ("an element that is not kept", Lies(forgets_put=5), "set_full", Broken.LOST),
    ("an lww put that is not kept", Lies(forgets_put=4), "lww", Broken.LOST),
    ("a value from nowhere", Lies(invents=True), "phantoms", Broken.PHANTOM),
    ("a context of another key taken", Lies(takes_any_context=True), "refused", Broken.CONTEXT_ACCEPTED),
    ("a dot for two values", Lies(mints_dot_again=True), "dots", Broken.DOT_REUSED),
    ("a delete that is acknowledged and lost", Lies(forgets_put=7), "resurrection", Broken.RESURRECTED),
    ("a delete that is not done", Lies(keeps_deleted=True), "resurrection", Broken.RESURRECTED),
    ("fewer acknowledgements than asked for", Lies(acknowledges_alone=True), "counts", Broken.LOST),
    ("a replica that learns nothing", Lies(lags=True), "convergence", Broken.DIVERGED),
]  # fmt: skip


@pytest.mark.parametrize(("lies", "checker", "what"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_a_lying_store_is_found_out(lies: Lies, checker: str, what: Broken) -> None:
    """By the judge of that promise, with lines to read."""
    evidence = run(lies)

    assert what in found(evidence).get(checker, [])
    assert any(line.startswith(f"{checker}: {what}") for line in broken(judge(evidence), evidence.history))


def test_an_unusable_context_that_took_effect_is_found_although_its_outcome_is_unknown() -> None:
    """A refused context is refused in every copy: that it was applied needs no acknowledgement to be wrong."""
    world = FakeWorld()
    world.lies = Lies(takes_any_context=True)

    async def main() -> Evidence:
        recorder = world.recorder("a")
        await recorder.put(OTHER, ContextKind.BLIND)
        world.fail_next(Timeout("no answer"), applied=True)
        await recorder.put(K, ContextKind.OTHER_KEY)
        finals = await final_reads(world, recorder, list(world.board.touched), settle_s=0.0, bound_s=1.0)
        return Evidence(history=world.history, witness=world.witness, finals=finals, board=world.board)

    assert Broken.CONTEXT_ACCEPTED in found(world.run(main()))["refused"]


def test_an_object_that_cannot_be_read_from_all_replicas_after_the_heal_is_a_violation() -> None:
    """A run in which the end was never seen must not pass for a good one."""
    world = FakeWorld()

    async def main() -> Evidence:
        recorder = world.recorder("a")
        await recorder.put(K, ContextKind.BLIND)
        for _ in range(100):
            world.fail_next(ReadQuorumUnsatisfied("2 of 3"))
        finals = await final_reads(world, recorder, list(world.board.touched), settle_s=0.0, bound_s=1.0)
        return Evidence(history=world.history, witness=world.witness, finals=finals, board=world.board)

    evidence = world.run(main())

    assert found(evidence)["convergence"] == [Broken.UNSETTLED]
    assert "causality: k" in unjudged(judge(evidence))


# --- lww and the clocks ---------------------------------------------------------------------------------------------


class _Hand:
    """A loop that is set by hand: clocks ask it for nothing but the time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


def _two_puts(rng: random.Random) -> tuple[History, list[SimClock]]:
    """Two acknowledged puts, some time apart, under three clocks that step, and a final read that shows the first."""
    hand, history = _Hand(), History()
    clocks = [
        SimClock(cast(asyncio.AbstractEventLoop, hand), offset_ns=rng.randrange(-(10**8), 10**8)) for _ in range(3)
    ]
    times_ns = sorted(rng.randrange(10**9) for _ in range(4))
    for number, (from_ns, to_ns) in enumerate([times_ns[:2], times_ns[2:]]):
        hand.now_s = from_ns / 1e9
        op = history.invoke(number, F.PUT, "w", time_ns=from_ns, kind=Kind.LWW, value=f"v{number}")
        if rng.random() < 0.5:
            hand.now_s = (from_ns + to_ns) / 2e9
            rng.choice(clocks).step(rng.randrange(-(10**9), 10**9))
        history.complete(op, OpType.OK, time_ns=to_ns)
    op = history.invoke(9, F.FINAL, "w", time_ns=2 * 10**9, kind=Kind.LWW)
    history.complete(op, OpType.OK, time_ns=2 * 10**9, values=["v0"])
    return history, clocks


def test_lww_is_judged_by_what_the_clocks_really_showed() -> None:
    """Exactly where `must_win` says that the second put must win, its loss is a violation."""
    rng, outcomes = random.Random(7), []
    for _ in range(300):
        history, clocks = _two_puts(rng)
        first, second = (pair for pair in history.pairs() if pair.invocation.f is F.PUT)
        assert first.completion is not None and second.completion is not None
        wanted = must_win(
            clocks, first_ended_s=first.completion.time_ns / 1e9, second_from_s=second.invocation.time_ns / 1e9,
            second_to_s=second.completion.time_ns / 1e9,
        )  # fmt: skip

        verdict = check_lww_clocks(history, clocks, DotWitness())

        assert [each.broken for each in verdict.violations] == [Broken.OVERTAKEN] * wanted
        outcomes.append(wanted)
    assert 30 < sum(outcomes) < 270, "both outcomes must occur"


# --- whole workloads on the fake ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mix", "registers", "lww", "set", "deletes", "churn", "hot", "large"])
def test_no_workload_finds_fault_with_a_truthful_store(name: str) -> None:
    """The judges know of nothing that a workload does and a good store cannot keep up with."""
    for seed in range(3):
        world = FakeWorld()

        async def main(world: FakeWorld = world, seed: int = seed) -> Evidence:
            workload = draw(name, random.Random(seed))
            recorders = [world.recorder(f"c{number}") for number in range(3)]
            tasks = [
                world.loop.create_task(work(workload, recorder, random.Random(f"{seed} {recorder.name}"), 6.0))
                for recorder in recorders
            ]
            for task in tasks:
                await task
            finals = await final_reads(world, recorders[0], list(world.board.touched), settle_s=0.1)
            return Evidence(
                history=world.history, witness=world.witness, finals=finals, board=world.board, clocks=world.clocks
            )

        evidence = world.run(main())
        assert broken(judge(evidence), evidence.history) == [], f"seed {seed}"
        assert len(evidence.history) > 20


# --- what is seen of nodes, and of how often a write was sent --------------------------------------------------------


def test_nodes_that_wait_for_ever_or_cannot_be_written_to_are_found() -> None:
    """Work that is left over, an object that nobody can write to."""
    good = run(Lies())
    bad = replace(good, left_waiting={"n1": 3}, unwritten=(K,))

    assert "nodes" not in found(good)
    assert found(bad)["nodes"] == [Broken.LEFT_WAITING, Broken.UNSETTLED]


@pytest.mark.parametrize(("attempts", "broken"), [(1, [Broken.MINTED_TWICE]), (2, []), (None, [])])
def test_a_write_that_was_sent_once_has_one_dot(attempts: int | None, broken: list[Broken]) -> None:
    """Two coordinators may each take a write that was sent twice, or that may have been."""
    history = History()
    op = history.invoke(0, F.PUT, "k", time_ns=0, value="v")
    history.complete(op, OpType.OK, time_ns=1, attempts=attempts)

    assert [each.broken for each in check_sent_once(history, ["v"]).violations] == broken
    assert check_sent_once(history, []).is_ok


@pytest.mark.parametrize(("elsewhere", "attempts"), [(0, 1), (1, None)])
def test_a_write_during_which_nobody_retried_was_sent_once(elsewhere: int, attempts: int | None) -> None:
    """Whose retry it was is not asked."""
    world, count = FakeWorld(), 5

    async def main() -> None:
        nonlocal count
        recorder = world.recorder("a")
        world.board.retries_worked = lambda: count
        task = world.loop.create_task(recorder.put(K, ContextKind.BLIND))
        await asyncio.sleep(0)
        count += elsewhere
        await task

    world.run(main())

    assert world.history.ops[-1].attempts == attempts


def test_the_disks_are_looked_at_when_clients_are_answered() -> None:
    """The fake's writes are on no disk, and it says that they are on three."""
    world = FakeWorld()
    world.board.durable = DurableJudge(world.witness, lambda key: [], lambda key: False)

    async def main() -> Evidence:
        recorder = world.recorder("a")
        await recorder.put(K, ContextKind.BLIND)
        await recorder.add(SET, ContextKind.BLIND)
        await recorder.delete(K, ContextKind.BLIND)
        finals = await final_reads(world, recorder, [], settle_s=0.0, bound_s=1.0)
        return Evidence(history=world.history, witness=world.witness, finals=finals, board=world.board)

    evidence = world.run(main())

    assert found(evidence)["durable"] == [Broken.UNSYNCED] * 2
    assert evidence.board.durable is not None and evidence.board.durable.writes == 2


def test_values_put_together_are_writes_of_their_own() -> None:
    """Each by a process of its own, all under way at once."""
    world = FakeWorld()

    async def main() -> None:
        recorder = world.recorder("a")
        world.fail_next(Timeout("no answer"), applied=True)
        await recorder.put_together(K, 3)
        assert await recorder.put(K, ContextKind.BLIND) is OpType.OK

    world.run(main())

    ops = world.history.ops
    assert [op.type for op in ops[:3]] == [OpType.INVOKE] * 3 and len({op.process for op in ops[:3]}) == 3
    assert sorted(op.type for op in ops[3:6]) == [OpType.INFO, OpType.OK, OpType.OK]
    assert ops[-1].process == 0


@pytest.mark.parametrize(("fails", "unwritten"), [(0, 0), (2, 0), (3, 1)])
def test_what_is_healed_takes_writes_again(fails: int, unwritten: int) -> None:
    """A link that is just coming back is no reason to complain, three refusals are."""
    world = FakeWorld()

    async def main() -> list[Target]:
        for _ in range(fails):
            world.fail_next(Timeout("no answer"))
        return await last_writes(world, world.recorder("a"), is_large=True)

    assert len(world.run(main())) == unwritten
    assert max(len(value) for value in _written(world)) > 1_000_000


def test_an_object_whose_owners_are_gone_for_good_need_not_be_writable() -> None:
    """Two of three disks that failed for good leave no quorum, and nobody promised one."""
    world = FakeWorld()
    world.owners = lambda storage_key: ["n0"]  # type: ignore[method-assign, assignment]

    async def main() -> list[Target]:
        return await last_writes(world, world.recorder("a"), is_large=False)

    assert world.run(main()) == [] and len(world.history) == 0


def _written(world: FakeWorld) -> list[bytes]:
    return [s.value or b"" for record in world._records for s in world.state(StorageKey(record)).siblings]
