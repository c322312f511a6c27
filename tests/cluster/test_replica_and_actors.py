"""The replica and its actors: amnesia, unreadable records, and what is acknowledged when."""

from __future__ import annotations

import asyncio
import random

import pytest

from cluster.actors import Actors
from cluster.replica import Replica
from cluster.store import Store
from kvstore.causality.actor import MintReason, make_actor
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update
from kvstore.causality.hlc import HybridLogicalClock, hlc_from_ms
from kvstore.errors import Corruption, DiskFull
from kvstore.ids import ActorId, HlcTimestamp, NodeId, ObjectType, OperationId, PartitionId, StorageKey
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_EPOCHS_RETIRE
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from kvstore.storage.record import decode_record, encode_record
from tests.support.cluster import Cluster, in_cluster, name_of_key, on_loop

KEY = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
US, THEM = NodeId(b"us......"), NodeId(b"them....")
P0 = PartitionId(0)
NOW_MS = 1_700_000_000_000
NAME = name_of_key("city")


class Bench:
    """A replica on a disk, without a cluster."""

    def __init__(self, disk: MemoryDisk, *, boot_id: str = "boot 1", start: int = 1) -> None:
        self.disk = disk
        self.engine = MemoryEngine.open(disk, boot_id=boot_id)
        self.store = Store(self.engine, lambda problem: None)
        self.rng = random.Random(start)
        self.actors = Actors(self.engine, self.store, US, self.rng)
        self.actors.load()
        self.clock = HybridLogicalClock()
        self.healed: list[StorageKey] = []
        self.replica = Replica(self.store, self.actors, self.clock, lambda: NOW_MS, self.healed.append)
        self.told: list[object] = []

    def merge(self, state: DVVSet) -> bool:
        changed = self.replica.stage_merge(P0, KEY, encode_record(KEY, state), self.told.append)
        self.store.commit_staged()
        return changed


def write(state: DVVSet, actor: ActorId, value: bytes, *, hlc: int = 1) -> DVVSet:
    """Return the state after a blind write by an actor."""
    counter = state.vector.get(actor, 0) + 1
    operation = OperationId(value.ljust(16, b"."))
    return update(state, {}, Sibling(actor, counter, HlcTimestamp(hlc), HlcTimestamp(0), operation, value), b"12345678")


def other_actor(number: int = 1) -> ActorId:
    return make_actor(THEM, P0, random.Random(number))


def test_an_incoming_vector_that_names_us_above_our_record_ends_our_epoch() -> None:
    """Rule 1: somebody holds dots of ours that we do not know, so the next one must be of a new epoch."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        ours = bench.actors.current(P0)
        bench.merge(write(EMPTY, other_actor(), b"theirs"))
        assert bench.actors.current(P0) == ours
        bench.merge(write(write(EMPTY, ours, b"a"), ours, b"b"))
        assert bench.actors.current(P0) != ours
        stored = bench.engine.get(Family.META, b"actor/" + bytes(4))
        assert stored == bench.actors.current(P0) + MintReason.SEEN_AHEAD.encode()

    on_loop(main)


def test_the_new_epoch_outlives_a_refused_batch_and_a_kill() -> None:
    """Amnesia was noticed while the disk was full: after a kill the old epoch must not come back."""

    async def main() -> None:
        disk = MemoryDisk()
        bench = Bench(disk)
        ours = bench.actors.current(P0)
        bench.store.commit_staged()
        disk.capacity_bytes = 1
        bench.merge(write(EMPTY, ours, b"a"))
        assert isinstance(bench.told[0], DiskFull)
        minted = bench.actors.current(P0)
        bench.store.commit_staged()
        disk.crash()
        assert minted != ours and Bench(disk).actors.maybe_current(P0) == minted

    on_loop(main)


@pytest.mark.parametrize(("boot_id", "clean", "continues"), [
    ("boot 1", False, True), ("boot 2", False, False), ("boot 2", True, True), ("", False, False),
])  # fmt: skip
def test_which_stops_keep_the_epoch(boot_id: str, clean: bool, continues: bool) -> None:
    """A kill does (the page cache survives), a clean stop does, a power loss does not."""

    async def main() -> None:
        disk = MemoryDisk()
        bench = Bench(disk)
        actor = bench.actors.current(P0)
        bench.store.commit_staged()
        if clean:
            await bench.engine.close(clean=True)
        else:
            disk.crash()
        assert (Bench(disk, boot_id=boot_id, start=2).actors.current(P0) == actor) is continues

    on_loop(main)


@pytest.mark.parametrize("case", ["power loss", "copy"])
def test_a_process_that_dies_before_it_retired_the_epochs_does_not_hide_that_it_had_to(case: str) -> None:
    """The evidence is overwritten at open; the marker keeps it until the epochs are gone."""

    async def main() -> None:
        disk = MemoryDisk()
        bench = Bench(disk)
        actor = bench.actors.current(P0)
        await bench.store.put_meta(b"m", b"v")
        bench.store.commit_staged()
        await bench.engine.sync()
        disk.crash(lambda count: 0)
        if case == "copy":
            disk = disk.copy()
        boot_id = "boot 1" if case == "copy" else "boot 2"

        MemoryEngine.open(disk, boot_id=boot_id)
        disk.crash()
        reopened = Bench(disk, boot_id=boot_id, start=2)

        assert reopened.engine.report.history_may_be_missing
        assert reopened.actors.maybe_current(P0) is None
        assert reopened.actors.current(P0) != actor
        reopened.store.commit_staged()
        assert reopened.engine.get(Family.META, META_EPOCHS_RETIRE) is None
        minted = reopened.actors.current(P0)
        disk.crash()
        again = Bench(disk, boot_id=boot_id, start=3)
        assert not again.engine.report.history_may_be_missing and again.actors.current(P0) == minted

    on_loop(main)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_power_loss_while_the_epochs_are_retired_never_revives_one(kept: int) -> None:
    """Whatever prefix of (delete, unmark, mint) survives, the old epoch is not continued."""

    async def main() -> None:
        disk = MemoryDisk()
        bench = Bench(disk)
        actor = bench.actors.current(P0)
        bench.store.commit_staged()
        await bench.engine.sync()
        disk.crash(lambda count: 0)
        second = Bench(disk, boot_id="boot 2", start=2)
        second.actors.current(P0)
        second.store.commit_staged()
        disk.crash(lambda count: min(kept, count))
        assert Bench(disk, boot_id="boot 2", start=3).actors.current(P0) != actor

    on_loop(main)


def test_a_duplicate_write_changes_nothing_and_an_older_state_neither() -> None:
    """The join is what we hold already."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        one = write(EMPTY, other_actor(), b"1")
        two = write(one, other_actor(), b"2")
        assert bench.merge(two)
        assert not bench.merge(two) and not bench.merge(one)
        assert bench.told == [None]

    on_loop(main)


def test_equal_vectors_with_different_siblings_are_merged() -> None:
    """Rule 6: never skipped, whichever arrives first."""

    async def main() -> None:
        actor, other = other_actor(1), other_actor(2)
        both = write(write(EMPTY, actor, b"1"), other, b"2")
        only_one = DVVSet(both.vector, both.siblings[:1], both.operations)
        for first, second in ((both, only_one), (only_one, both)):
            bench = Bench(MemoryDisk())
            bench.merge(first)
            bench.merge(second)
            record = bench.engine.get(Family.DATA, KEY)
            assert record is not None and decode_record(KEY, record).siblings == both.siblings[:1]

    on_loop(main)


def test_an_unreadable_local_record_is_an_error_and_is_not_overwritten() -> None:
    """Neither read as absent nor replaced by replication; every access asks for a heal."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        state = write(EMPTY, other_actor(), b"1")
        bench.merge(state)
        bench.disk.corrupt(Family.DATA, KEY)
        bench.store.forget_kept()
        for access in (lambda: bench.replica.read(KEY), lambda: bench.merge(write(state, other_actor(), b"2"))):
            with pytest.raises(Corruption):
                access()
        assert bench.healed == [KEY, KEY]
        with pytest.raises(Corruption):
            bench.engine.get(Family.DATA, KEY)

    on_loop(main)


def test_a_record_whose_bytes_rotted_below_the_engine_is_noticed() -> None:
    """Our own checksum, not only the engine's."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        record = encode_record(KEY, write(EMPTY, other_actor(), b"1"))
        bench.engine.apply([(Family.DATA, KEY, record[:-1] + b"?")])
        with pytest.raises(Corruption):
            bench.replica.read(KEY)
        with pytest.raises(Corruption):
            bench.replica.state(KEY)
        assert bench.healed == [KEY, KEY]

    on_loop(main)


def test_an_incoming_record_of_another_key_is_refused() -> None:
    """The checksum covers the place."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        elsewhere = storage_key(object_name("default", ObjectType.REGISTER, b"other"))
        with pytest.raises(Corruption):
            bench.replica.stage_merge(
                P0, elsewhere, encode_record(KEY, write(EMPTY, other_actor(), b"1")), bench.told.append
            )
        assert bench.engine.get(Family.DATA, elsewhere) is None

    on_loop(main)


def test_a_healed_record_begins_a_new_epoch() -> None:
    """What the unreadable one alone held is unknown, dots of ours among it."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        actor = bench.actors.current(P0)
        state = write(EMPTY, actor, b"1")
        bench.merge(state)
        bench.disk.corrupt(Family.DATA, KEY)
        bench.store.forget_kept()
        bench.replica.stage_healed(P0, KEY, encode_record(KEY, state), bench.told.append)
        bench.store.commit_staged()
        assert bench.replica.state(KEY) == state and bench.actors.current(P0) != actor

    on_loop(main)


def test_a_peers_timestamp_far_ahead_is_stored_counted_and_does_not_move_our_clock() -> None:
    """Rule 9."""

    async def main() -> None:
        bench = Bench(MemoryDisk())
        bench.merge(write(EMPTY, other_actor(), b"1", hlc=hlc_from_ms(NOW_MS + 3_600_000)))
        assert bench.replica.timestamps_refused == 1
        assert bench.clock.tick(NOW_MS) == hlc_from_ms(NOW_MS)
        assert bench.replica.state(KEY).siblings[0].value == b"1"

    on_loop(main)


def test_kills_do_not_grow_vectors() -> None:
    """Ten kills of the coordinator of one hot key: one actor, contiguous dots."""

    async def main(cluster: Cluster) -> None:
        context = None
        for turn in range(10):
            context = (await cluster.client(0).put(NAME, b"%d" % turn, context)).context
            await cluster.kill(0)
            await cluster.restart(0)
            await cluster.whole()
        state = cluster.record(1, NAME)
        assert state is not None and list(state.vector.values()) == [10]

    in_cluster(main)


def test_a_power_loss_begins_a_new_epoch_and_no_dot_is_used_twice() -> None:
    """The coordinator lost its newest writes; what it writes next must not reuse their dots."""

    async def main(cluster: Cluster) -> None:
        first = await cluster.client(0).put(NAME, b"1", w=3)
        second = await cluster.client(0).put(NAME, b"2", first.context, w=2, dw=1)
        await cluster.power_loss(0)
        await cluster.restart(0)
        await cluster.whole()
        third = await cluster.client(0).put(NAME, b"3", second.context, w=3)
        assert third.siblings == 1
        state = cluster.record(0, NAME)
        assert state is not None and len(state.vector) == 2
        assert await cluster.client(2).values(NAME, r=3) == [b"3"]

    in_cluster(main)


def test_a_context_that_names_a_lost_dot_of_ours_begins_a_new_epoch() -> None:
    """A restored client context is evidence of amnesia as good as a peer's vector."""

    async def main(cluster: Cluster) -> None:
        reply = await cluster.client(0).put(NAME, b"1", w=3)
        ahead = reply.context[:-8] + (9).to_bytes(8, "big")
        actor = cluster.node(0).actors.maybe_current(cluster.partition(NAME))
        again = await cluster.client(0).put(NAME, b"2", ahead, w=3)
        assert again.siblings == 1
        assert cluster.node(0).actors.maybe_current(cluster.partition(NAME)) != actor
        assert await cluster.client(1).values(NAME, r=3) == [b"2"]

    in_cluster(main)


def test_nothing_acknowledged_is_lost_when_all_three_lose_power_at_once() -> None:
    """Every unsynced batch of every node is gone; every acknowledged value is there."""

    async def main(cluster: Cluster) -> None:
        acknowledged: dict[int, bytes] = {}

        async def writer(worker: int) -> None:
            client = cluster.client(worker % 3)
            for number in range(worker, 10_000, 12):
                await client.put(name_of_key(f"k{number}"), b"%d" % number)
                acknowledged[number] = b"%d" % number

        workers = [asyncio.ensure_future(writer(worker)) for worker in range(12)]
        await asyncio.sleep(0.3)
        for worker in workers:
            worker.cancel()
        await cluster.power_loss(0, 1, 2)
        await asyncio.gather(*workers, return_exceptions=True)
        for index in range(3):
            await cluster.restart(index)
        await cluster.whole()
        assert len(acknowledged) > 100
        for number, value in acknowledged.items():
            assert await cluster.client(number % 3).values(name_of_key(f"k{number}")) == [value]

    in_cluster(main)


@pytest.mark.parametrize("seed", range(6))
def test_hot_keys_under_power_loss_keep_every_acknowledged_value_or_its_successor(seed: int) -> None:
    """Chains of writes with power lost in the middle: the last acknowledged value of a chain, or a later one, is there."""

    async def main(cluster: Cluster) -> None:
        rng = cluster.rng("plan")
        last: dict[int, int] = {}
        for burst in range(4):
            tasks = [asyncio.ensure_future(_chain(cluster, key, burst, last)) for key in range(4)]
            await asyncio.sleep(rng.uniform(0.01, 0.06))
            victims = sorted(rng.sample(range(3), rng.choice([1, 1, 3])))
            await cluster.power_loss(*victims)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for index in victims:
                await cluster.restart(index)
            await cluster.whole()
        for key, number in last.items():
            values = [int(value) for value in await cluster.client(key % 3).values(name_of_key(f"hot{key}"), r=3)]
            assert max(values) >= number, (key, number, values)

    in_cluster(main, seed=seed)


async def _chain(cluster: Cluster, key: int, burst: int, last: dict[int, int]) -> None:
    client, name = cluster.client((key + burst) % 3), name_of_key(f"hot{key}")
    context = (await client.get(name)).context or None
    for step in range(1_000):
        number = burst * 1_000 + step
        reply = await client.put(name, b"%d" % number, context)
        last[key] = number
        context = reply.context or (await client.get(name)).context
