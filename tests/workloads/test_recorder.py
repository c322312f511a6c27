"""The recorder writes down what a client really asked and was told; an unknown outcome ends its process."""

from __future__ import annotations

import pytest

from jepsen_lite.history import ContextKind, F, Kind, Op, OpType
from jepsen_lite.recorder import Counts, Recorder, Target, set_elements
from jepsen_lite.sim.processes import ProcessDied
from kvstore.errors import ReadQuorumUnsatisfied, Timeout, TooManySiblings
from tests.workloads.fake_world import FakeWorld, Lies

K, OTHER = Target(Kind.REGISTER, "k"), Target(Kind.REGISTER, "other")
SET = Target(Kind.SET, "s")


def last_invoked(world: FakeWorld) -> Op:
    """Return the invocation of the last operation."""
    return [pair.invocation for pair in world.history.pairs()][-1]


def test_every_written_value_is_unique_and_names_its_process() -> None:
    """`process:counter`, so that "reads from" is never ambiguous."""
    world = FakeWorld()

    async def main() -> None:
        a, b = world.recorder("a"), world.recorder("b")
        for recorder in (a, b, a):
            assert await recorder.put(K, ContextKind.BLIND) is OpType.OK

    world.run(main())

    assert [op.value for op in world.history.ops if op.type is OpType.INVOKE] == ["0:1", "1:1", "0:2"]


async def _prepare(world: FakeWorld) -> tuple[Recorder, Recorder]:
    """`a` has read k empty, then after its own put, and `b` has put beside it and read both."""
    a, b = world.recorder("a"), world.recorder("b")
    await a.get(K)
    await a.put(K, ContextKind.FRESH)
    await a.get(OTHER)
    await b.put(K, ContextKind.BLIND)
    await b.get(K)
    return a, b


CONTEXTS = [
    (ContextKind.BLIND, ContextKind.BLIND, (), OpType.OK),
    (ContextKind.FRESH, ContextKind.FRESH, ("0:1", "1:1"), OpType.OK),
    (ContextKind.STALE, ContextKind.STALE, (), OpType.OK),
    (ContextKind.OWN, ContextKind.OWN, ("0:1",), OpType.OK),
    (ContextKind.FOREIGN, ContextKind.FOREIGN, ("0:1", "1:1"), OpType.OK),
    (ContextKind.MISSING, ContextKind.MISSING, (), OpType.FAIL),
    (ContextKind.OTHER_KEY, ContextKind.OTHER_KEY, (), OpType.FAIL),
]


@pytest.mark.parametrize(("how", "recorded", "shown", "outcome"), CONTEXTS, ids=[str(row[0]) for row in CONTEXTS])
def test_each_kind_of_context_is_recorded_with_what_its_client_was_shown(
    how: ContextKind, recorded: ContextKind, shown: tuple[str, ...], outcome: OpType
) -> None:
    """What stands in the history is what the receiver of the context saw, and the bytes that were sent."""
    world = FakeWorld()

    async def main() -> OpType | None:
        a, _ = await _prepare(world)
        return await a.put(K, how)

    assert world.run(main()) is outcome
    op = last_invoked(world)
    assert (op.context_kind, op.shown) == (recorded, shown)
    sent = world.asked[-1][2]
    is_sent = outcome is OpType.OK and how is not ContextKind.BLIND
    assert op.context == (sent if is_sent else op.context)
    assert (op.context is None) == (how in (ContextKind.BLIND, ContextKind.MISSING))


def test_a_context_that_one_does_not_have_yet_is_replaced_by_a_fresh_one() -> None:
    """No own, stale or foreign context of the object: the recorder reads, and says so."""
    world = FakeWorld()

    async def main() -> None:
        recorder = world.recorder("a")
        for how in (ContextKind.FOREIGN, ContextKind.OWN, ContextKind.STALE):
            await recorder.put(Target(Kind.REGISTER, how), how)

    world.run(main())

    writes = [pair.invocation for pair in world.history.pairs() if pair.invocation.f is F.PUT]
    assert [op.context_kind for op in writes] == [ContextKind.FRESH] * 3


def test_a_context_of_another_key_needs_another_key() -> None:
    """Nothing is recorded when there is none."""
    world = FakeWorld()

    async def main() -> OpType | None:
        return await world.recorder("a").put(K, ContextKind.OTHER_KEY)

    assert world.run(main()) is None
    assert len(world.history) == 0


def test_an_unknown_outcome_retires_the_process_and_its_client() -> None:
    """Another number, another client of another name, and no context of the life before."""
    world = FakeWorld()

    async def main() -> None:
        recorder = world.recorder("a")
        await recorder.get(K)
        world.fail_next(Timeout("no answer"), applied=True)
        assert await recorder.put(K, ContextKind.STALE) is OpType.INFO
        assert recorder.process == 1 and recorder.known(K) is None
        await recorder.put(K, ContextKind.BLIND)

    world.run(main())

    assert [(client.name, client.is_closed) for client in world.clients] == [("a.1", True), ("a.2", False)]
    assert [op.process for op in world.history.ops if op.type is OpType.INVOKE] == [0, 0, 1]
    assert world.history.ops[3].error == "timeout"


def test_a_client_that_never_answers_is_given_up() -> None:
    """Its process may be dead: the outcome is unknown, and the board counts it."""
    world = FakeWorld()

    async def main() -> OpType | None:
        recorder = world.recorder("a")
        world.fail_next(None)
        return await recorder.put(K, ContextKind.BLIND)

    assert world.run(main()) is OpType.INFO
    assert world.board.overdue == 1 and world.history.ops[-1].error == "overdue"


@pytest.mark.parametrize("what", ["get", "put"])
def test_a_client_whose_process_was_killed_begins_another_life(what: str) -> None:
    """Nobody knows what became of the operation, a read like a write."""
    world = FakeWorld()

    async def main() -> OpType | None:
        recorder = world.recorder("a")
        world.fail_next(ProcessDied("killed"))
        return await (recorder.get(K) if what == "get" else recorder.put(K, ContextKind.BLIND))

    assert world.run(main()) is OpType.INFO
    assert world.history.ops[-1].error == "process_died" and len(world.clients) == 2


def test_a_delete_stands_for_nothing_and_a_put_for_its_value() -> None:
    """What their own contexts replace: see the history's invariant 3."""
    world = FakeWorld()

    async def main() -> None:
        recorder = world.recorder("a")
        await recorder.put(K, ContextKind.FRESH)
        await recorder.delete(K, ContextKind.OWN)
        await recorder.put(K, ContextKind.OWN)

    world.run(main())

    writes = [pair.invocation for pair in world.history.pairs() if pair.invocation.f in (F.PUT, F.DELETE)]
    assert [(op.f, op.shown) for op in writes] == [(F.PUT, ()), (F.DELETE, ("0:1",)), (F.PUT, ())]
    assert writes[2].context_kind is ContextKind.OWN


@pytest.mark.parametrize(("doubles", "outcome"), [(False, OpType.FAIL), (True, OpType.INFO)])
def test_a_refusal_is_no_proof_where_requests_are_doubled(doubles: bool, outcome: OpType) -> None:
    """The second copy of a refused write may be accepted when it comes."""
    world = FakeWorld(doubles_requests=doubles)

    async def main() -> list[OpType | None]:
        recorder = world.recorder("a")
        await recorder.get(OTHER)
        world.fail_next(TooManySiblings("64"))
        refused = await recorder.put(K, ContextKind.BLIND)
        never = await recorder.put(K, ContextKind.MISSING)
        world.fail_next(ReadQuorumUnsatisfied("1 of 2"))
        return [refused, never, await recorder.get(K)]

    assert world.run(main()) == [outcome, OpType.FAIL, OpType.FAIL]


def test_the_atlas_hears_how_many_copies_were_acknowledged() -> None:
    """And nothing of what failed."""
    world = FakeWorld()

    async def main() -> None:
        recorder = world.recorder("a")
        await recorder.put(K, ContextKind.BLIND)
        world.fail_next(Timeout("no answer"))
        await recorder.put(OTHER, ContextKind.BLIND)

    world.run(main())

    assert world.told == [(K.storage_key, 3)]


def test_fewer_acknowledgements_than_asked_for_are_noted() -> None:
    """A reply that says w=1 to a request for w=3 breaks a promise by itself."""
    world = FakeWorld()
    world.lies = Lies(acknowledges_alone=True)

    async def main() -> None:
        await world.recorder("a").put(K, ContextKind.BLIND, counts=Counts(w=3, dw=1))

    world.run(main())

    assert [str(each) for each in world.board.short] == ["lost: k: 0:1 was acknowledged with w=1 where 3 was asked for"]


def test_an_add_writes_what_its_context_had_shown_and_one_element_more() -> None:
    """Blind adds leave siblings; the next one with a context unites them."""
    world = FakeWorld()

    async def main() -> None:
        a, b = world.recorder("a"), world.recorder("b")
        await a.add(SET, ContextKind.BLIND)
        await b.add(SET, ContextKind.BLIND)
        await b.add(SET, ContextKind.FRESH)
        await a.add(SET, ContextKind.FOREIGN)
        await a.get(SET)

    world.run(main())

    reads = [op.values for op in world.history.ops if op.f is F.READ and op.type is OpType.OK]
    assert reads == [("0:1", "1:1"), ("0:1", "1:1", "1:2", "0:2")]
    assert all(op.kind is Kind.SET for op in world.history.ops)


def test_an_element_in_two_siblings_is_there_once_and_twice_in_one_is_twice() -> None:
    """Siblings share elements rightly; within one nothing may repeat."""
    assert set_elements([["a", "b"], ["b", "c"]]) == ("a", "b", "c")
    assert set_elements([["a", "a"], ["a"]]) == ("a", "a")


def test_large_values_are_known_by_their_names() -> None:
    """The history stays small."""
    world = FakeWorld()

    async def main() -> None:
        recorder = world.recorder("a")
        await recorder.put(K, ContextKind.BLIND, size_bytes=200_000)
        await recorder.get(K)

    world.run(main())

    assert world.history.ops[-1].values == ("0:1",)
