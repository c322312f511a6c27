"""Batches: many operations side by side, an outcome for each, and bounds on everything."""

from __future__ import annotations

import asyncio

import pytest

from kvstore import AsyncClient, errors
from kvstore.client import batch as batch_module
from kvstore.messages import Verb
from kvstore.transport.session import Request, Session
from tests.client.fake_cluster import FakeCluster, FakeNode, refuse, with_cluster


def test_every_item_has_its_outcome() -> None:
    """A refused item does not cost the others; values that cannot be written are items too."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        for node in cluster.nodes:
            node.script.append(refuse(errors.TooManySiblings("no", siblings=64)))

        async with kv.bucket("default").batch(max_in_flight=4) as b:
            for i in range(50):
                b.put(f"k{i}", i)
            b.put("bad", object())
            b.delete("bad context", context=None)

        codes = sorted(failed.error.code for failed in b.failed)
        assert codes[0] == "invalid_argument"
        assert codes[1] == "invalid_context"
        assert set(codes[2:]) == {"too_many_siblings"}
        assert len(b.ok) + len(b.failed) == 52
        assert all(written.result.acked == 3 for written in b.ok)

    with_cluster(main)


def test_a_value_is_encoded_when_it_is_put() -> None:
    """What the caller does with it afterwards does not matter."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        value = {"n": 0}
        async with kv.bucket("default").batch() as b:
            for i in range(3):
                value["n"] = i
                b.put(f"k{i}", value)

        assert [(await kv.get(f"k{i}")).value for i in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]

    with_cluster(main)


def test_no_more_than_max_in_flight_run_at_once() -> None:
    """For batches and get_many alike."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        under_way = most = 0

        def slow(node: FakeNode, session: Session, request: Request) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            asyncio.get_running_loop().call_later(0.1, done, node, session, request)

        def done(node: FakeNode, session: Session, request: Request) -> None:
            nonlocal under_way
            under_way -= 1
            node._answer(session, request)

        for node in cluster.nodes:
            node.script.extend([slow] * 100)
        async with kv.bucket("default").batch(max_in_flight=5) as b:
            for i in range(30):
                b.put(f"k{i}", i)
        many = await kv.bucket("default").get_many([f"k{i}" for i in range(30)], max_in_flight=5)

        assert most == 5
        assert len(many) == 30

    with_cluster(main)


def test_deletes_read_first_or_use_their_context() -> None:
    """As outside a batch."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        first = await kv.put("a", 1)
        await kv.put("b", 1)
        for node in cluster.nodes:
            node.seen.clear()

        async with kv.bucket("default").batch() as b:
            b.delete("a", context=first.context)
            b.delete("b")

        assert sorted(request[1] for request in cluster.seen) == [Verb.GET, Verb.DELETE, Verb.DELETE]
        assert not (await kv.get("a")).found
        assert not (await kv.get("b")).found

    with_cluster(main)


def test_a_full_batch_refuses_until_it_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded: it holds encoded values."""
    monkeypatch.setattr(batch_module, "PENDING_MAX", 3)

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        async with kv.bucket("default").batch() as b:
            for i in range(3):
                b.put(f"k{i}", i)
            assert b.is_full
            with pytest.raises(errors.Overloaded):
                b.put("one more", 1)
            await b.flush()
            b.put("one more", 1)

        assert len(b.ok) == 4

    with_cluster(main)


def test_leaving_by_an_exception_gives_up_what_has_not_begun() -> None:
    """Those items are listed as definitely not applied; the exception goes on."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        with pytest.raises(ZeroDivisionError):
            async with kv.bucket("default").batch() as b:
                b.put("k", 1)
                raise ZeroDivisionError

        assert b.ok == []
        assert [(failed.key, failed.error.definite) for failed in b.failed] == [("k", True)]
        assert cluster.seen == []

    with_cluster(main)


def test_get_many_keeps_the_order_and_raises_a_failed_keys_error_on_access() -> None:
    """Never "all or mystery"."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put("a", 1)

        many = await kv.bucket("default").get_many(["b", "a", "", "b"])

        assert list(many) == ["b", "a"]
        assert (many["a"].value, many["b"].found) == (1, False)
        assert [failed.key for failed in many.failed] == [""]
        with pytest.raises(errors.InvalidArgument):
            _ = many[""]
        with pytest.raises(KeyError):
            _ = many["never asked"]
        assert len(await kv.bucket("default").get_many([])) == 0

    with_cluster(main)


@pytest.mark.parametrize("max_in_flight", [0, -1, 5000, True, 1.5])
def test_the_bound_is_bounded(max_in_flight: int) -> None:
    """More than a node takes at once would only be refused."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        with pytest.raises(errors.InvalidArgument):
            kv.bucket("default").batch(max_in_flight=max_in_flight)
        with pytest.raises(errors.InvalidArgument):
            await kv.bucket("default").get_many(["a"], max_in_flight=max_in_flight)

    with_cluster(main)
