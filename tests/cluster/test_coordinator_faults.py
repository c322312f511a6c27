"""What a client is told when owners are dead, cut off, slow, full or rotten: definite or not, and with which numbers."""

from __future__ import annotations

import asyncio

import pytest

from cluster.store import Store
from kvstore.causality.dvvset import DVVSet
from kvstore.errors import (
    Corruption,
    DiskFull,
    IndeterminateError,
    KVStoreError,
    NotReady,
    Overloaded,
    ReadError,
    Unavailable,
)
from kvstore.ids import ObjectType, OperationId
from kvstore.limits import INFLIGHT_PER_NODE_MAX
from kvstore.messages import PutReply
from kvstore.storage.keyspace import storage_key
from kvstore.storage.record import encode_record
from tests.support.cluster import CALM, Cluster, in_cluster, name_of_key

NAME = name_of_key("city")


def writes(cluster: Cluster) -> list[int]:
    """Return how many records each node has written so far."""
    return [cluster.node(index).store.committed_writes for index in range(len(cluster.hosts))]


def test_with_one_node_dead_quorums_go_on_and_all_is_refused() -> None:
    """Two of three are a majority; w=3 is refused before anything is applied."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"1")
        await cluster.kill(2)
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 2)
        seen = await client.get(NAME)
        await client.put(NAME, b"2", seen.context)
        for refused in (client.put(NAME, b"lost", w=3), client.put(NAME, b"lost", pw=3), client.get(NAME, r=3)):
            with pytest.raises(Unavailable) as error:
                await refused
            assert error.value.definite and (error.value.needed, error.value.alive) == (3, 2)
        assert await client.values(NAME) == [b"2"]

    in_cluster(main)


def test_with_two_nodes_dead_writes_are_definitely_refused_and_r1_reads_go_on() -> None:
    """`Unavailable` means not tried: the record did not change."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"1", w=3)
        await cluster.kill(1)
        await cluster.kill(2)
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 1)
        with pytest.raises(Unavailable) as error:
            await client.put(NAME, b"lost")
        assert error.value.definite and (error.value.needed, error.value.alive) == (2, 1)
        assert cluster.held_values(0, NAME) == [b"1"]
        assert await client.values(NAME, r=1) == [b"1"]
        assert (await client.put(NAME, b"alone", w=1)).acked == 1

    in_cluster(main)


def test_a_cut_during_a_write_is_indefinite_and_tells_how_many_acknowledged() -> None:
    """It is applied here, so it may survive: never a definite error."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        cluster.cut_off(0)
        with pytest.raises(IndeterminateError) as error:
            await client.put(NAME, b"maybe", timeout_s=10)
        assert error.value.maybe_applied and (error.value.acked, error.value.needed) == (1, 2)
        assert cluster.held_values(0, NAME) == [b"maybe"]

    in_cluster(main)


def test_a_connection_lost_during_a_write_is_indefinite() -> None:
    """A peer that resets may have applied it."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        cluster.delays[("n1", "n0")] = cluster.delays[("n2", "n0")] = 1.0
        writing = asyncio.ensure_future(client.put(NAME, b"maybe"))
        await asyncio.sleep(0.05)
        cluster.network.reset("n0", "n1")
        cluster.network.reset("n0", "n2")
        with pytest.raises(IndeterminateError) as error:
            await writing
        assert error.value.acked == 1
        assert cluster.held_values(1, NAME) == [b"maybe"]

    in_cluster(main)


def test_suspected_owners_make_writes_definite_again() -> None:
    """Once the silence was noticed nothing is applied any more; after the heal everything works."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"1", w=3)
        cluster.cut_off(0)
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 1)
        with pytest.raises(Unavailable):
            await client.put(NAME, b"lost")
        cluster.network.heal_all()
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 3)
        seen = await client.get(NAME)
        assert [s.value for s in seen.siblings] == [b"1"]
        assert (await client.put(NAME, b"2", seen.context, w=3)).acked == 3

    in_cluster(main)


@pytest.mark.parametrize("peer", ["n1", "n2"])
def test_a_read_asks_the_third_owner_when_one_is_slow(peer: str) -> None:
    """The answer comes after about 100 ms instead of at the deadline."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        cluster.delays[(peer, "n0")] = 3.0
        for _ in range(4):
            started = cluster.loop.time()
            assert await client.values(NAME) == [b"v"]
            assert cluster.loop.time() - started < 0.2

    in_cluster(main)


@pytest.mark.parametrize("peer", [1, 2])
def test_a_read_passes_over_an_owner_that_just_died(peer: int) -> None:
    """Killed a moment ago: its links may not know yet."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        await cluster.kill(peer)
        for _ in range(4):
            assert await client.values(NAME) == [b"v"]

    in_cluster(main)


def test_a_read_passes_over_a_corrupt_replica_and_it_is_healed() -> None:
    """The rotten record is not "not found": others answer, and once all of them were read it is replaced."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        for index in (0, 1):
            cluster.corrupt(index, NAME)
            for _ in range(2):
                assert await client.values(NAME) == [b"v"]
            await cluster.until(lambda index=index: cluster.node(index).counters.healed == 1)  # type: ignore[misc]
            assert cluster.held_values(index, NAME) == [b"v"]

    in_cluster(main)


def test_a_node_that_cannot_read_its_record_passes_the_put_on() -> None:
    """What cannot read its local record does not coordinate (and does not lose what it held)."""

    async def main(cluster: Cluster) -> None:
        await cluster.client(1).put(NAME, b"v", w=3)
        cluster.network.cut("n0", "n2")
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 2)
        cluster.corrupt(0, NAME)
        seen = await cluster.client(1).get(NAME)
        reply = await cluster.client(0).put(NAME, b"w", seen.context)
        assert (reply.acked, reply.siblings) == (2, 1)
        assert cluster.held_values(1, NAME) == [b"w"]
        with pytest.raises(Corruption):
            cluster.record(0, NAME)

    in_cluster(main)


def test_with_every_replica_corrupt_a_read_fails_and_is_never_not_found() -> None:
    """There is nobody to heal from, so everybody keeps saying that the record is unreadable."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        for index in range(3):
            cluster.corrupt(index, NAME)
        for index in range(3):
            for r in (1, 2, 3):
                with pytest.raises(ReadError) as error:
                    await cluster.client(index).get(NAME, r=r)
                assert error.value.definite
        with pytest.raises(KVStoreError) as refused:
            await client.put(NAME, b"w")
        assert refused.value.definite
        for index in range(3):
            with pytest.raises(Corruption):
                cluster.record(index, NAME)

    in_cluster(main)


def test_replication_never_overwrites_an_unreadable_record() -> None:
    """A write that two others acknowledge leaves it alone until all others were read."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        cluster.network.cut("n1", "n2")
        await cluster.until(lambda: cluster.node(2).placement.slots()[0].reachable() == 2)
        cluster.corrupt(2, NAME)
        seen = await client.get(NAME)
        assert (await client.put(NAME, b"w", seen.context)).acked == 2
        with pytest.raises(Corruption):
            cluster.record(2, NAME)
        cluster.network.heal_all()
        cluster.network.reset("n1", "n2")
        await cluster.until(lambda: cluster.node(2).placement.slots()[0].reachable() == 3)
        await cluster.client(2).get(NAME)
        await cluster.until(lambda: cluster.node(2).counters.healed == 1)
        assert cluster.held_values(2, NAME) == [b"w"]

    in_cluster(main)


def test_a_read_repairs_the_stale_replicas_it_contacted_and_only_them() -> None:
    """After one read at r=3 all three hold the value."""

    async def main(cluster: Cluster) -> None:
        await cluster.kill(2)
        await cluster.client(0).put(NAME, b"v")
        await cluster.restart(2)
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 3)
        assert cluster.held_values(2, NAME) == []
        assert await cluster.client(0).values(NAME, r=3) == [b"v"]
        await cluster.until(lambda: cluster.held_values(2, NAME) == [b"v"])
        assert cluster.record(2, NAME) == cluster.record(0, NAME)

    in_cluster(main)


def test_a_coordinator_that_is_stale_itself_is_repaired_too() -> None:
    """The local replica is one of those contacted."""

    async def main(cluster: Cluster) -> None:
        await cluster.kill(2)
        await cluster.client(0).put(NAME, b"v")
        await cluster.restart(2)
        assert await cluster.client(2).values(NAME, r=2) == [b"v"]
        await cluster.until(lambda: cluster.held_values(2, NAME) == [b"v"])

    in_cluster(main)


def test_healthy_reads_write_nothing() -> None:
    """No repair, no merge, no sync."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        for number in range(10):
            await client.put(name_of_key(f"k{number}"), b"v", w=3)
        before, commits = writes(cluster), [cluster.node(i).store.commits for i in range(3)]
        for number in range(10):
            for index in range(3):
                await cluster.client(index).get(name_of_key(f"k{number}"), r=3)
                await cluster.client(index).get(name_of_key(f"nothing{number}"), r=3)
        await asyncio.sleep(1)
        assert writes(cluster) == before
        assert [cluster.node(i).store.commits for i in range(3)] == commits

    in_cluster(main)


def test_disk_full_is_definite_and_reads_go_on() -> None:
    """The coordinator's own disk: nothing was applied anywhere; with space the same put works."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        cluster.hosts[0].disk.capacity_bytes = 1
        with pytest.raises(DiskFull) as error:
            await client.put(name_of_key("more"), b"lost")
        assert error.value.definite
        assert await client.values(NAME) == [b"v"]
        assert await cluster.client(1).values(name_of_key("more"), r=3) == []
        cluster.hosts[0].disk.capacity_bytes = None
        assert (await client.put(name_of_key("more"), b"kept", w=3)).acked == 3

    in_cluster(main)


def test_full_replicas_make_a_write_indefinite_because_the_coordinator_applied_it() -> None:
    """Doubt means indefinite, with the numbers."""

    async def main(cluster: Cluster) -> None:
        cluster.hosts[1].disk.capacity_bytes = cluster.hosts[2].disk.capacity_bytes = 1
        with pytest.raises(IndeterminateError) as error:
            await cluster.client(0).put(NAME, b"maybe")
        assert (error.value.acked, error.value.needed) == (1, 2)

    in_cluster(main)


def test_overload_is_a_fast_definite_refusal_and_nothing_grows() -> None:
    """At the bound one more operation is refused before it is applied; when the others end there is room again."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        cluster.delays[("n1", "n0")] = cluster.delays[("n2", "n0")] = 2.0
        asked = INFLIGHT_PER_NODE_MAX + 500
        outcomes = await asyncio.gather(
            *[client.put(name_of_key(f"k{number}"), b"v", timeout_s=20) for number in range(asked)],
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
        assert len(refused) == 500 and all(error.definite and error.retry_after_s > 0 for error in refused)
        assert sum(isinstance(outcome, PutReply) for outcome in outcomes) == INFLIGHT_PER_NODE_MAX
        assert cluster.node(0).coordinator.in_flight == 0
        assert cluster.node(0).counters.overloaded == 500

    in_cluster(main)


def test_nothing_is_left_in_flight_after_failures() -> None:
    """Every way an operation can end gives its place back."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"v", w=3)
        cluster.cut_off(0)
        for operation in (client.put(NAME, b"w", timeout_s=0.3), client.get(NAME, r=3, timeout_s=0.3)):
            with pytest.raises(KVStoreError):
                await operation
        await cluster.until(lambda: cluster.node(0).coordinator.in_flight == 0)

    in_cluster(main)


def test_a_read_that_times_out_is_definite() -> None:
    """Reads change nothing."""

    async def main(cluster: Cluster) -> None:
        node = cluster.node(0)
        cluster.cut_off(0)
        answers: list[bytes] = []
        frame = node.coordinator.begin(lambda _, status, body: answers.append(body))
        node.coordinator.get(frame, 1, NAME, b"", cluster.loop.time() + 0.3)
        node.coordinator.ask(frame)
        await cluster.until(lambda: bool(answers))
        assert b"read_timeout" in answers[0]

    in_cluster(main)


def test_large_records_travel_in_chunks() -> None:
    """64 siblings of 200 KB: replicated, read at r=3, and read-repaired."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.put(NAME, b"00" + bytes(200_000), w=3)
        state = cluster.record(0, NAME)
        assert state is not None
        (first,) = state.siblings
        blob = bytes(200_000)
        more = [first._replace(counter=n + 1, value=b"%02d" % n + blob, operation_id=OperationId(b"%016d" % n))
                for n in range(1, 64)]  # fmt: skip
        key = storage_key(NAME)
        grown = encode_record(key, DVVSet({first.actor: 64}, (first, *more), state.operations))
        cluster.node(0).store.stage(key, grown, lambda problem: None)
        cluster.node(0).store.commit_staged()
        answer = await client.get(NAME, r=3, timeout_s=30)
        assert [s.value[:2] for s in answer.siblings] == [b"%02d" % number for number in range(64)]
        await cluster.until(lambda: len(cluster.held_values(1, NAME)) == len(cluster.held_values(2, NAME)) == 64)
        assert (await client.put(NAME, b"resolved", answer.context, w=3, timeout_s=30)).siblings == 1

    in_cluster(main)


def test_lww_tells_a_writer_that_it_was_superseded() -> None:
    """A write from a clock an hour ahead owns the key: later writers lose, and are told."""
    lww = name_of_key("score", kind=ObjectType.LWW)

    async def main(cluster: Cluster) -> None:
        cluster.hosts[0].clock.step(3_600_000_000_000)
        assert not (await cluster.client(0).put(lww, b"from the future", w=3)).superseded
        loser = await cluster.client(1).put(lww, b"now", w=3)
        assert loser.superseded and loser.siblings == 1
        assert cluster.node(1).counters.superseded == 1
        for index in range(3):
            assert await cluster.client(index).values(lww, r=3) == [b"from the future"]

    in_cluster(main)


def test_a_failed_sync_acknowledges_nothing_and_ends_the_node() -> None:
    """The client gets no OK from it; the others go on."""

    async def main(cluster: Cluster) -> None:
        cluster.expects_death = True
        client = cluster.client(0)
        await client.put(NAME, b"1", w=3)
        cluster.hosts[0].disk.fail_sync_after(0)
        with pytest.raises(KVStoreError) as error:
            await client.put(name_of_key("k"), b"2", w=3, dw=3, timeout_s=1)
        assert not error.value.definite
        await cluster.until(lambda: "n0" in cluster.fatal)
        node = cluster.node(0)
        assert isinstance(node.store, Store) and not node.is_ready
        await node.stop()
        cluster.hosts[0].node = None
        assert await cluster.client(1).values(NAME) == [b"1"]

    in_cluster(main)


def test_a_draining_node_refuses_new_requests_and_finishes_what_is_under_way() -> None:
    """SIGTERM loses nothing that was promised."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        cluster.delays[("n1", "n0")] = cluster.delays[("n2", "n0")] = 0.5
        writing = asyncio.ensure_future(client.put(NAME, b"v"))
        await asyncio.sleep(0.05)
        node = cluster.node(0)
        stopping = asyncio.ensure_future(node.stop())
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await client.put(NAME, b"late")
        assert (await writing).acked == 2
        await stopping
        cluster.hosts[0].node = None
        await cluster.restart(0)
        assert cluster.hosts[0].engine is not None and cluster.hosts[0].engine.report.clean

    in_cluster(main, options=CALM)
