"""Sessions in a cluster: replicas that are behind answer first, and a session's read shows what it has seen all the same.

Each test has a replica that missed a write. Without a session the old answer is seen there, which proves that it would be.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Protocol

import pytest

from kvstore.causality.context import encode_history
from kvstore.client.bucket import AsyncBucket
from kvstore.client.client import AsyncClient
from kvstore.client.session import AsyncSession
from kvstore.errors import DecodeError, InvalidContext, SessionNotSatisfied
from kvstore.ids import ObjectType
from kvstore.limits import CONTEXT_SIZE_BYTES_MAX
from kvstore.messages import Verb, encode_body
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import Cluster, in_cluster, name_of_key

BEHIND = 2
"""The host that misses writes."""


class Main(Protocol):
    def __call__(self, cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> Coroutine[Any, Any, None]: ...


def with_two_clients(main: Main, *, nodes: int = 3, n: int = 3) -> None:
    """Run `main(cluster, fresh, stale)`: one client reaches only the first node, the other only the one that is behind."""

    async def body(cluster: Cluster) -> None:
        await cluster.whole()
        fresh, stale = only_at(cluster, 0), only_at(cluster, BEHIND)
        await main(cluster, fresh, stale)
        await fresh.close()
        await stale.close()

    in_cluster(body, nodes=nodes, n=n)


def only_at(cluster: Cluster, index: int, **options: Any) -> AsyncClient:
    """Return a client that reaches one node and no other."""
    name = f"client of n{index}"
    for host in cluster.hosts:
        if host is not cluster.hosts[index]:
            cluster.network.cut(name, host.name)
    host = cluster.hosts[index]
    transport = cluster.network.transport(name)
    return AsyncClient([host.address], transport=transport, clock=host.clock, rng=cluster.rng(name), **options)


async def behind(cluster: Cluster, missed: Coroutine[Any, Any, Any]) -> None:
    """Carry out what the replica that is behind does not learn of; afterwards all nodes reach each other again."""
    cluster.cut_off(BEHIND)
    await missed
    await asyncio.sleep(20.0)
    cluster.network.heal_all()
    for index in (0, BEHIND):
        name = f"client of n{index}"
        for host in cluster.hosts:
            if host is not cluster.hosts[index]:
                cluster.network.cut(name, host.name)
    await cluster.whole()


def values(result: Any) -> list[Any]:
    return sorted(sibling.value for sibling in result.siblings)


@pytest.mark.parametrize("kind", list(ObjectType))
def test_a_session_reads_what_it_wrote_where_the_write_has_not_come(kind: ObjectType) -> None:
    """r=1 at a replica that missed the put: nothing without a session, the value in it."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        session = fresh.session()
        await behind(cluster, session.bucket("default", object_type=kind).put("k", 1))
        plain = stale.bucket("default", object_type=kind, r=1)
        moved = stale.session(session.token).bucket("default", object_type=kind, r=1)

        assert not (await plain.get("k")).found
        assert (await moved.get("k")).value == 1

    with_two_clients(main)


def test_reads_never_go_back() -> None:
    """What one read of the session has shown, the next one shows too, though another client wrote it."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        old = await fresh.put("k", "old", w=3)
        await behind(cluster, fresh.put("k", "new", context=old.context))
        session = fresh.session()
        assert (await session.get("k", r=1)).value == "new"

        assert (await stale.get("k", r=1)).value == "old"
        assert (await stale.session(session.token).get("k", r=1)).value == "new"

    with_two_clients(main)


def test_what_a_session_deleted_stays_deleted() -> None:
    """The replica that is asked first has the value and not the tombstone."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        session = fresh.session()
        put = await session.put("k", 1, w=3)
        await behind(cluster, session.delete("k", context=put.context))

        assert (await stale.get("k", r=1)).value == 1
        assert not (await stale.session(session.token).get("k", r=1)).found

    with_two_clients(main)


def test_a_delete_somebody_else_made_is_seen_once_it_was_read() -> None:
    """A read that found a tombstone is a read that has seen something."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        put = await fresh.put("k", 1, w=3)
        await behind(cluster, fresh.delete("k", context=put.context))
        session = fresh.session()
        assert not (await session.get("k", r=1)).found

        assert (await stale.get("k", r=1)).found
        assert not (await stale.session(session.token).get("k", r=1)).found

    with_two_clients(main)


def test_a_put_that_leaves_siblings_is_seen_too() -> None:
    """Its reply has no context to write with, and yet the session knows what to ask for."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        session = fresh.session()
        await fresh.put("k", "red", w=3)

        async def blind() -> None:
            put = await session.put("k", "blue")
            assert put.context is None and put.siblings == 2

        await behind(cluster, blind())
        assert values(await stale.get("k", r=1)) == ["red"]
        assert values(await stale.session(session.token).get("k", r=1)) == ["blue", "red"]

    with_two_clients(main)


def test_a_delete_that_leaves_siblings_is_seen_too() -> None:
    """The deleted value is gone in the session, and the other one is there."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        session = fresh.session()
        red = await session.put("k", "red", w=3)
        await fresh.put("k", "blue", w=3)
        await behind(cluster, session.delete("k", context=red.context))

        assert values(await stale.get("k", r=1)) == ["blue", "red"]
        assert values(await stale.session(session.token).get("k", r=1)) == ["blue"]

    with_two_clients(main)


def test_an_lww_put_that_lost_is_known_to_have_lost() -> None:
    """The session then reads the winner, and never what was there before both."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        bucket = fresh.bucket("default", object_type=ObjectType.LWW)
        session = fresh.session()
        mine = session.bucket("default", object_type=ObjectType.LWW)
        await bucket.put("k", "before", w=3)

        async def overtaken() -> None:
            cluster.hosts[1].clock.step(10_000_000_000)  # beyond what another node's clock would follow
            ahead = only_at(cluster, 1)
            await ahead.bucket("default", object_type=ObjectType.LWW).put("k", "winner")
            await ahead.close()
            put = await mine.put("k", "mine")
            assert put.superseded and put.context is None

        await behind(cluster, overtaken())
        theirs = stale.bucket("default", object_type=ObjectType.LWW, r=1)
        moved = stale.session(session.token).bucket("default", object_type=ObjectType.LWW, r=1)
        assert (await theirs.get("k")).value == "before"
        assert (await moved.get("k")).value == "winner"

    with_two_clients(main)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_many_reads_of_one_frame_each_show_what_they_have_to(r: int) -> None:
    """Some could be answered as a group and some could not, plain ones among them; every one is judged by itself."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        keys = [f"k{number}" for number in range(24)]
        session = fresh.session()
        for key in keys[::2]:
            await session.put(key, "everywhere", w=3)

        async def missed() -> None:
            await asyncio.gather(*(session.put(key, "missed") for key in keys[1::2]))

        await behind(cluster, missed())
        moved = stale.session(session.token)
        asked = [*(moved.get(key, r=r) for key in keys), *(stale.get(key, r=r) for key in keys)]
        got = [result.get(None) for result in await asyncio.gather(*asked)]

        assert got[: len(keys)] == ["everywhere", "missed"] * (len(keys) // 2)
        assert (None in got[len(keys) :]) == (r == 1), (
            "with two replicas of three somebody has heard of a quorum's write"
        )

    with_two_clients(main)


def test_two_replicas_that_are_behind_are_not_enough() -> None:
    """r=2, and both that answer agree on what is old: the third one is asked."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        keys = [f"k{number}" for number in range(12)]
        await asyncio.gather(*(fresh.put(key, "old", w=3) for key in keys))
        session = fresh.session()

        async def alone() -> None:
            cluster.network.cut("n0", "n1")
            contexts = [(await session.get(key, r=1)).context for key in keys]
            await asyncio.gather(
                *(session.put(key, "new", context=c, w=1, dw=1) for key, c in zip(keys, contexts, strict=True))
            )

        await behind(cluster, alone())
        moved = stale.session(session.token)
        plain = [(await stale.get(key, r=2)).value for key in keys[:6]]
        seen = [(await moved.get(key, r=2)).value for key in keys]

        assert "old" in plain and seen == ["new"] * len(keys)

    with_two_clients(main)


def test_a_hedge_that_answers_first_with_less_does_not_answer() -> None:
    """The owner that knows is slow; the spare one is quick and behind."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        keys = [f"k{number}" for number in range(8)]
        session = fresh.session()

        async def alone() -> None:
            cluster.network.cut("n0", "n1")
            await asyncio.gather(*(session.put(key, 1, w=1, dw=1) for key in keys))

        await behind(cluster, alone())
        cluster.delays = {("n0", f"n{BEHIND}"): 0.5}
        moved = stale.session(session.token)
        for key in keys[:4]:
            assert not (await stale.get(key, r=1)).found
        hedged = cluster.node(BEHIND).counters.hedges
        assert [(await moved.get(key, r=2)).value for key in keys] == [1] * len(keys)
        await asyncio.gather(*(moved.get(key, r=2) for key in keys))
        assert cluster.node(BEHIND).counters.hedges > hedged

    with_two_clients(main)


def test_a_read_that_is_forwarded_takes_its_history_along() -> None:
    """The node that the client reaches owns nothing of the key, and hands the get to an owner that is behind."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        keys = [f"k{number}" for number in range(40)]
        forwarded = [key for key in keys if sorted(cluster.owners(name_of_key(key))) == [0, 1, BEHIND]]
        assert forwarded
        session = fresh.session()

        async def missed() -> None:
            await asyncio.gather(*(session.put(key, 1) for key in forwarded))

        await behind(cluster, missed())
        cluster.network.cut("n3", "n0")
        cluster.network.cut("n3", "n1")
        await asyncio.sleep(20.0)
        outsider = only_at(cluster, 3)
        before = cluster.node(3).counters.forwarded
        moved = outsider.session(session.token)

        assert not any([(await outsider.get(key, r=1)).found for key in forwarded])
        assert [(await moved.get(key, r=1)).value for key in forwarded] == [1] * len(forwarded)
        assert cluster.node(3).counters.forwarded > before
        await outsider.close()

    with_two_clients(main, nodes=4)


def test_a_retry_asks_for_the_same() -> None:
    """The first coordinator cannot satisfy the session, the second one can."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        keys = [f"k{number}" for number in range(12)]
        session = fresh.session()
        cluster.cut_off(BEHIND)
        await asyncio.gather(*(session.put(key, 1) for key in keys))
        await asyncio.sleep(20.0)
        everywhere = AsyncClient(
            [host.address for host in cluster.hosts], transport=cluster.network.transport("anywhere"),
            clock=cluster.hosts[0].clock, rng=random.Random(5),
        )  # fmt: skip
        async with everywhere:
            await everywhere.topology()
            await asyncio.sleep(1.0)
            moved = everywhere.session(session.token)
            plain = [(await everywhere.get(key, r=1)).get(None) for key in keys]
            seen = [(await moved.get(key, r=1)).value for key in keys]

        assert None in plain and seen == [1] * len(keys)

    with_two_clients(main)


def test_what_nobody_has_is_an_error_with_its_numbers_and_not_a_wait_for_ever() -> None:
    """The only copy is on a node that is gone. Other objects, and reads without the session, are as they were."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        await fresh.put("other", 1, w=3)
        session = fresh.session()

        async def alone() -> None:
            await session.get("other")
            cluster.network.cut("n0", "n1")
            await session.put("k", 1, w=1, dw=1)

        await behind(cluster, alone())
        await cluster.kill(0)
        await asyncio.sleep(20.0)
        moved = stale.session(session.token)
        started = cluster.loop.time()
        with pytest.raises(SessionNotSatisfied) as raised:
            await moved.get("k", r=1, timeout=2.0)

        error = raised.value
        assert cluster.loop.time() - started <= 2.0
        assert error.definite and error.retryable
        assert (error.replied, error.n, error.lacking) == (2, 3, 1) and error.attempts > 1
        assert not (await stale.get("k")).found
        assert (await moved.get("other")).value == 1

        await cluster.restart(0)
        await cluster.whole()
        assert (await moved.get("k", r=1)).value == 1, "satisfied as soon as somebody has it"

    with_two_clients(main)


def test_what_expired_is_gone_and_asks_for_nothing_more() -> None:
    """The record is there and its value is not shown; a replica that never had it is not enough."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        old = await fresh.put("k", "old", w=3)
        session = fresh.session()
        await behind(cluster, session.put("k", "new", context=old.context, ttl=timedelta(seconds=5)))

        assert (await stale.get("k", r=1)).value == "old"
        assert not (await stale.session(session.token).get("k", r=1)).found

    with_two_clients(main)


def test_an_unreadable_local_record_is_not_what_the_session_has_seen() -> None:
    """The coordinator's copy fails its checksum: the answer comes from those that can read theirs."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        session = fresh.session()
        await session.put("k", 1, w=3)
        cluster.corrupt(BEHIND, name_of_key("k"))

        assert (await stale.session(session.token).get("k", r=1)).value == 1

    with_two_clients(main)


def test_batches_updates_and_many_reads_belong_to_the_session() -> None:
    """Everything a bucket can do goes through the same door."""

    async def main(cluster: Cluster, fresh: AsyncClient, stale: AsyncClient) -> None:
        session = fresh.session()
        bucket: AsyncBucket[int] = session.bucket("default", type=int)

        async def missed() -> None:
            async with bucket.batch() as batch:
                for number in range(8):
                    batch.put(f"k{number}", number)
            await bucket.update("k7", lambda value: (value or 0) + 100)

        await behind(cluster, missed())
        moved: AsyncSession = stale.session(session.token)
        many = await moved.bucket("default", type=int, r=1).get_many([f"k{number}" for number in range(8)])
        assert [many[f"k{number}"].value for number in range(8)] == [0, 1, 2, 3, 4, 5, 6, 107]
        update = await moved.update("k0", lambda value: value + 1)
        assert update.siblings == 1 and (await fresh.get("k0")).value == 1

    with_two_clients(main)


def test_a_history_from_a_stranger_is_refused() -> None:
    """Of another key, of another format, too long, no bytes: typed, and the node goes on."""

    async def main(cluster: Cluster) -> None:
        client, name = cluster.client(0), name_of_key("k")
        token = storage_key(name)[:8]
        for history, error in (
            (encode_history(b"another.", b""), InvalidContext), (encode_history(token, b"x" * 27), InvalidContext),
            (b"\x03" + bytes(16), InvalidContext), (b"", InvalidContext), (b"short", InvalidContext),
            (bytes(CONTEXT_SIZE_BYTES_MAX + 1), DecodeError), ("text", DecodeError), (7, DecodeError),
        ):  # fmt: skip
            with pytest.raises(error):
                await client.call(Verb.GET, name, encode_body((None, None, history)))
        invented = encode_history(token, b"n" * 20 + bytes(7) + b"\1")
        with pytest.raises(SessionNotSatisfied):
            await client.call(Verb.GET, name, encode_body((None, None, invented)))
        await client.call(Verb.GET, name, encode_body((None, None, encode_history(token, b""))))
        assert cluster.node(0).coordinator.in_flight == 0

    in_cluster(main)
