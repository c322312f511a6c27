"""What a bucket promises: contexts replace exactly what was seen, siblings stay visible, updates leave one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from kvstore import AsyncClient, Consistency, errors, resolvers
from kvstore.client.failures import UpdateUnresolved
from kvstore.client.results import Sibling
from kvstore.ids import ObjectType
from kvstore.messages import Verb, decode_get, decode_put
from kvstore.ring.buckets import BucketProperties
from kvstore.storage.keyspace import parse_name
from kvstore.transport.session import Request, Session
from tests.client.fake_cluster import FakeCluster, FakeNode, apply_then_fail, refuse, with_cluster


@dataclasses.dataclass
class User:
    name: str
    age: int = 0


def test_a_put_with_the_context_of_a_read_replaces_what_was_read() -> None:
    """Also the siblings, all of them."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put("k", "red")
        assert (await kv.put("k", "blue")).siblings == 2
        seen = await kv.get("k")

        written = await kv.put("k", "green", context=seen.context)

        assert [each.value for each in seen.siblings] == ["red", "blue"]
        assert written.siblings == 1
        assert (await kv.get("k")).value == "green"
        assert (await kv.put("k", "black", context=written.context)).siblings == 1

    with_cluster(main)


def test_the_context_of_not_found_can_be_written_with() -> None:
    """Read, then write, is the same code for a key that was never written; a concurrent writer is then a sibling."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        seen = await kv.get("new")
        await kv.put("new", 1)

        written = await kv.put("new", 2, context=seen.context)

        assert not seen.found
        assert written.siblings == 2

    with_cluster(main)


def test_an_unusable_or_foreign_context_is_refused() -> None:
    """None is not "no context"; and a context is good for its own key only."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        first = await kv.put("k", 1)
        second = await kv.put("k", 2)
        assert second.context is None

        with pytest.raises(errors.InvalidContext):
            await kv.put("k", 3, context=second.context)
        with pytest.raises(errors.InvalidContext):
            await kv.delete("k", context=second.context)
        with pytest.raises(errors.InvalidContext):
            await kv.put("other", 3, context=first.context)

    with_cluster(main)


def test_a_delete_without_context_deletes_exactly_what_it_reads() -> None:
    """One read, one write; and nothing is written where nothing is."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put("k", 1)
        await kv.put("k", 2)

        deleted = await kv.delete("k")
        again = await kv.delete("k")

        assert deleted.siblings == 0
        assert not (await kv.get("k")).found
        assert (again.acked, again.needed) == (0, 0)
        assert [request[1] for request in cluster.seen].count(Verb.DELETE) == 1

    with_cluster(main)


def test_a_delete_with_an_old_context_leaves_what_it_did_not_see() -> None:
    """The concurrent value survives."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put("k", "old")
        seen = await kv.get("k")
        await kv.put("k", "unseen")

        await kv.delete("k", context=seen.context)

        assert (await kv.get("k")).value == "unseen"

    with_cluster(main)


def test_update_reads_resolves_applies_and_writes() -> None:
    """None stands for no value; siblings that were there are resolved and replaced."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        carts = kv.bucket("default", resolver=resolvers.union_lists)

        await carts.update("k", lambda cart: [*(cart or []), "apple"])
        await carts.put("k", ["milk"])
        await carts.update("k", lambda cart: [*(cart or []), "bread"])

        seen = await carts.get("k")
        assert len(seen.siblings) == 1
        assert seen.value == ["apple", "milk", "bread"]

    with_cluster(main)


def write_before(value: Any, key: str = "k") -> Any:
    """A concurrent writer gets in before the operation it is scripted for."""

    def act(node: FakeNode, session: Session, request: Request) -> None:
        codec_value = {"red": b"\xa3red", "blue": b"\xa4blue"}[value]
        node.cluster._write(node, request[4], node.cluster.hlc.to_bytes(16, "big"), codec_value, None, 0)
        node._answer(session, request)

    return act


def test_an_update_that_collides_goes_on_until_one_value_is_left() -> None:
    """It reads again, resolves what it and the other wrote, and writes once more."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        colours = kv.bucket("default", resolver=lambda siblings: "+".join(sorted(s.value for s in siblings)))
        await colours.get("k")
        for node in cluster.nodes:
            node.script.extend([FakeNode._answer, write_before("red")])  # a read, then a collision

        written = await colours.update("k", lambda colour: colour or "blue")

        assert written.siblings == 1
        assert (await colours.get("k")).value == "blue+red"

    with_cluster(main)


def test_an_update_without_a_resolver_stops_at_siblings() -> None:
    """Nothing was written: definite. It does not choose one."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put("k", 1)
        await kv.put("k", 2)

        with pytest.raises(errors.Siblings) as caught:
            await kv.update("k", lambda value: 3)

        assert caught.value.definite
        assert len((await kv.get("k")).siblings) == 2

    with_cluster(main)


def test_an_update_that_wrote_is_never_reported_as_definitely_failed() -> None:
    """Its value stands beside another one, which it cannot resolve."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.get("k")
        for node in cluster.nodes:
            node.script.extend([FakeNode._answer, write_before("red")])

        with pytest.raises(UpdateUnresolved) as caught:
            await kv.update("k", lambda value: "blue")

        assert caught.value.maybe_applied
        assert caught.value.details["siblings"] == 2
        assert isinstance(caught.value.__cause__, errors.Siblings)

    with_cluster(main)


def test_an_update_gives_up_after_its_attempts() -> None:
    """Everybody else keeps getting in between."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        bucket = kv.bucket("default", resolver=resolvers.last_write_wins)
        await bucket.get("k")
        for node in cluster.nodes:
            node.script.extend([FakeNode._answer, write_before("red")] * 20)

        with pytest.raises(UpdateUnresolved) as caught:
            await bucket.update("k", lambda value: "blue", attempts_max=3)
        assert caught.value.details["attempts"] == 3
        with pytest.raises(errors.InvalidArgument):
            await bucket.update("k", lambda value: "blue", attempts_max=0)

    with_cluster(main)


def test_a_typed_bucket_gives_values_of_its_type() -> None:
    """And refuses others before sending."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        users = kv.bucket("default", type=User)
        await users.put("ada", User("Ada", 36))
        await kv.put("bob", {"name": 1})

        assert (await users.get("ada")).value == User("Ada", 36)
        assert (await kv.get("ada")).value == {"name": "Ada", "age": 36}
        with pytest.raises(errors.DecodeError):
            await users.get("bob")
        seen = len(cluster.seen)
        with pytest.raises(errors.InvalidArgument):
            await users.put("ada", "Ada")  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(errors.ValueTooLarge):
            await kv.put("big", b"x" * 2_000_000)
        with pytest.raises(errors.ValueTooLarge):
            await kv.put("k" * 1025, 1)
        with pytest.raises(errors.InvalidArgument):
            await kv.get("")
        assert len(cluster.seen) == seen

    with_cluster(main)


@pytest.mark.parametrize("key", ["a", b"a\x00b", "ä", b"\x00", b"\x00" * 500, "k" * 1024])
def test_every_key_reaches_its_own_object(key: str | bytes) -> None:
    """The name on the wire is the one the keyspace defines, zero bytes included."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put(key, 1)

        name = parse_name(cluster.seen[-1][4])
        assert name == ("default", ObjectType.REGISTER, key if isinstance(key, bytes) else key.encode())

    with_cluster(main)


def test_a_bucket_uses_its_default_type_and_another_one_on_request() -> None:
    """The type is part of the object's name: the two are different objects."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        created = await kv.create_bucket("sess", default_type="lww", ttl=timedelta(hours=1), w=Consistency.ALL)
        await kv.bucket("sess").put("k", 1)
        await kv.bucket("sess", object_type="register").put("k", 2)

        assert created == BucketProperties("sess", ObjectType.LWW, w=102, ttl_ms=3_600_000)
        assert [bucket.name for bucket in await kv.buckets()] == ["default", "sess"]
        assert [parse_name(request[4]).object_type for request in cluster.seen] == [ObjectType.LWW, ObjectType.REGISTER]
        with pytest.raises(errors.InvalidArgument, match="known: register, lww"):
            kv.bucket("sess", object_type="stack")

    with_cluster(main)


def test_a_bucket_that_was_never_created_is_refused_with_the_command_that_creates_it() -> None:
    """After a look at the newest topology: somebody may have created it since."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        with pytest.raises(errors.NoSuchBucket, match="kvctl bucket create nope"):
            await kv.bucket("nope").get("k")

        cluster.create(BucketProperties("nope"))

        assert not (await kv.bucket("nope").get("k")).found

    with_cluster(main)


def test_counts_come_from_the_call_then_the_bucket_object_then_the_cluster() -> None:
    """`consistency` sets r of a read, and w and dw of a write; an explicit count beside it wins."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        fast = kv.bucket("default").with_options(consistency=Consistency.ONE, pw=1, ttl=60)
        await kv.get("k")
        await fast.get("k")
        await fast.get("k", r=2, pr=1)
        await fast.get("k", consistency=Consistency.ALL)
        await kv.put("k", 1)
        await fast.put("k", 1)
        await fast.put("k", 1, w=3, dw=2, pw=2, ttl=timedelta(seconds=1))
        await fast.put("k", 1, consistency=Consistency.QUORUM, dw=0)

        reads = [tuple(decode_get(request[5]))[:2] for request in cluster.seen if request[1] == Verb.GET]
        puts = [decode_put(request[5]) for request in cluster.seen if request[1] == Verb.PUT]
        assert reads == [(None, None), (1, None), (2, 1), (102, None)]
        assert [(put.w, put.dw, put.pw, put.ttl_ms) for put in puts] == [
            (None, None, None, 0), (1, 1, 1, 60_000), (3, 2, 2, 1_000), (101, 0, 1, 60_000),
        ]  # fmt: skip

    with_cluster(main)


def test_with_options_leaves_the_original_as_it_was() -> None:
    """Copies share nothing that can change."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        bucket = kv.bucket("default", r=1)

        copy = bucket.with_options(timeout=0.05)

        assert (bucket.options.timeout_s, bucket.options.r) == (5.0, 1)
        assert (copy.options.timeout_s, copy.options.r) == (0.05, 1)

    with_cluster(main)


def test_a_retried_put_is_one_write() -> None:
    """All attempts carry the same operation id, whichever node they meet."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        for node in cluster.nodes:
            node.script.append(apply_then_fail(errors.WriteQuorumUnsatisfied("x", acked=1, needed=2)))
        cluster.nodes[0].script.append(refuse(errors.Overloaded("x", retry_after_s=0.1)))

        written = await kv.put("k", 1)

        puts = [decode_put(request[5]) for request in cluster.seen]
        assert written.siblings == 1
        assert len(puts) >= 4
        assert len({put.operation_id for put in puts}) == 1
        assert len((await kv.get("k")).siblings) == 1

    with_cluster(main)


def test_a_resolver_may_be_any_function_of_the_siblings() -> None:
    """It gets values with their dots and times."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        def longest(siblings: Sequence[Sibling[str]]) -> str:
            return max(siblings, key=lambda sibling: (len(sibling.value), sibling.value)).value

        names = kv.bucket("default", type=str, resolver=longest)
        await names.put("k", "Ada")
        await names.put("k", "Ada Lovelace")

        assert (await names.get("k")).value == "Ada Lovelace"

    with_cluster(main)


def test_a_value_with_a_ttl_says_when_it_expires() -> None:
    """In UTC, as the coordinator decided."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        await kv.put("k", 1, ttl=timedelta(minutes=1))

        (sibling,) = (await kv.get("k")).siblings
        assert sibling.expires_at is not None
        assert sibling.expires_at - sibling.written_at == timedelta(minutes=1)
        for ttl in (0, -1, timedelta(days=500_000)):
            with pytest.raises(errors.InvalidArgument):
                await kv.put("k", 1, ttl=ttl)

    with_cluster(main)
