"""What a client sees of a healthy three-node cluster: values, siblings, contexts, consistency and expiry."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.causality.context import decode_context, encode_context
from kvstore.causality.hlc import LOGICAL_BITS, hlc_from_ms
from kvstore.causality.version_vector import encode_vector
from kvstore.errors import (
    ClockSkew,
    DecodeError,
    InsufficientNodes,
    InvalidArgument,
    InvalidContext,
    KVStoreError,
    NoSuchBucket,
    Overloaded,
    TooManySiblings,
    ValueTooLarge,
)
from kvstore.ids import ObjectType
from kvstore.limits import SIBLINGS_COUNT_MAX, VALUE_SIZE_BYTES_MAX
from kvstore.messages import CONSISTENCY_ALL, CONSISTENCY_QUORUM
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import Cluster, in_cluster, name_of_key

NAME = name_of_key("city")


def test_a_put_is_read_from_every_node() -> None:
    """One value, acknowledged by a durable majority, and all three nodes answer it."""

    async def main(cluster: Cluster) -> None:
        reply = await cluster.client(0).put(NAME, b"Bern")

        assert (reply.needed, reply.n, reply.siblings, reply.superseded) == (2, 3, 1, False)
        assert reply.acked >= 2 and reply.durable >= 2 and reply.primaries_acked >= 2
        for index in range(3):
            answer = await cluster.client(index).get(NAME)
            assert [s.value for s in answer.siblings] == [b"Bern"]
            assert (answer.replied, answer.n, answer.primaries_replied) == (2, 3, 2)
            assert answer.siblings[0].expires_ms == 0

    in_cluster(main)


def test_what_was_never_written_is_not_found_with_an_unusable_context() -> None:
    """No siblings, and nothing that a later write could replace."""

    async def main(cluster: Cluster) -> None:
        answer = await cluster.client(1).get(NAME)
        assert (answer.siblings, answer.context) == ([], b"")

    in_cluster(main)


def test_the_context_of_a_put_replaces_exactly_that_value() -> None:
    """A chain of writes by one client stays one value, through whichever node each goes."""

    async def main(cluster: Cluster) -> None:
        context = None
        for turn in range(6):
            context = (await cluster.client(turn % 3).put(NAME, b"%d" % turn, context)).context

        assert await cluster.client(0).values(NAME, r=3) == [b"5"]

    in_cluster(main)


def test_two_blind_puts_are_siblings_and_a_context_of_both_resolves_them() -> None:
    """The put that leaves siblings returns no usable context; reading gives one that covers both."""

    async def main(cluster: Cluster) -> None:
        await cluster.client(0).put(NAME, b"red")
        second = await cluster.client(1).put(NAME, b"blue")
        assert (second.siblings, second.context) == (2, b"")

        answer = await cluster.client(2).get(NAME)
        assert sorted(s.value for s in answer.siblings) == [b"blue", b"red"]
        resolved = await cluster.client(2).put(NAME, b"violet", answer.context)

        assert resolved.siblings == 1
        assert await cluster.client(0).values(NAME, r=3) == [b"violet"]

    in_cluster(main)


def test_delete_removes_what_its_context_covers_and_a_concurrent_write_survives() -> None:
    """A tombstone replaces only what the deleter saw."""

    async def main(cluster: Cluster) -> None:
        seen = await cluster.client(0).put(NAME, b"old")
        await cluster.client(1).put(NAME, b"concurrent")
        await cluster.client(2).delete(NAME, seen.context)
        assert await cluster.client(0).values(NAME, r=3) == [b"concurrent"]

        answer = await cluster.client(0).get(NAME, r=3)
        await cluster.client(0).delete(NAME, answer.context)
        gone = await cluster.client(1).get(NAME, r=3)
        assert gone.siblings == [] and gone.context != b""

        await cluster.client(1).put(NAME, b"again", gone.context)
        assert await cluster.client(2).values(NAME, r=3) == [b"again"]

    in_cluster(main)


def test_101_interleaved_stale_writes_leave_two_siblings() -> None:
    """Two clients that each only know their own last write: two values live, however long they go on."""

    async def main(cluster: Cluster) -> None:
        start = await cluster.client(0).put(NAME, b"start")
        clients = [cluster.client(0), cluster.client(1)]
        seen = [start.context, start.context]
        for turn in range(101):
            who = turn % 2
            await clients[who].put(NAME, b"%d of %d" % (turn, who), seen[who])
            state = cluster.record(who, NAME)
            assert state is not None
            mine = next(s for s in state.siblings if s.value == b"%d of %d" % (turn, who))
            # What this client knows is its own write on top of what it knew before: not the other's.
            before, _ = decode_context(seen[who], storage_key(NAME)[:8])
            seen[who] = encode_context(
                storage_key(NAME)[:8], mine.hlc, encode_vector({**before, mine.actor: mine.counter})
            )
        for index in range(3):
            assert await cluster.client(index).values(NAME, r=3) == [b"100 of 0", b"99 of 1"]

    in_cluster(main)


@pytest.mark.parametrize("which", ["foreign", "unusable", "broken"])
def test_an_impossible_context_is_refused_and_nothing_changes(which: str) -> None:
    """Another key's context, the empty one of a put with siblings, and noise are `InvalidContext`."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        foreign = (await client.put(name_of_key("other"), b"x")).context
        await client.put(NAME, b"kept")
        context = {"foreign": foreign, "unusable": b"", "broken": foreign[:20]}[which]

        with pytest.raises(InvalidContext) as refused:
            await client.put(NAME, b"lost", context)
        with pytest.raises(InvalidContext):
            await client.delete(NAME, context)

        assert refused.value.definite
        assert await client.values(NAME, r=3) == [b"kept"]

    in_cluster(main)


def test_a_context_from_a_clock_too_far_ahead_is_refused() -> None:
    """It would drag every later timestamp with it."""

    async def main(cluster: Cluster) -> None:
        ahead = hlc_from_ms(cluster.hosts[0].clock.wall_ns() // 1_000_000 + 3_600_000)
        context = encode_context(storage_key(NAME)[:8], ahead, b"")
        with pytest.raises(ClockSkew) as refused:
            await cluster.client(0).put(NAME, b"x", context)
        assert refused.value.definite
        assert await cluster.client(0).values(NAME) == []

    in_cluster(main)


def test_a_coordinator_with_a_slow_clock_mints_later_than_the_context() -> None:
    """Cause and effect keep their order in HLC although the second node's wall clock is behind."""

    async def main(cluster: Cluster) -> None:
        cluster.hosts[1].clock.step(-1_000_000_000)
        first = await cluster.client(0).put(NAME, b"1")
        before = (await cluster.client(0).get(NAME)).context
        await cluster.client(1).put(NAME, b"2", first.context)
        after = (await cluster.client(0).get(NAME, r=3)).context
        token = storage_key(NAME)[:8]
        assert decode_context(after, token)[1] > decode_context(before, token)[1]

    in_cluster(main)


def test_lww_keeps_the_newest_and_tells_a_loser() -> None:
    """A write from a clock behind loses, is told so, and one value is left everywhere."""
    lww = name_of_key("score", kind=ObjectType.LWW)

    async def main(cluster: Cluster) -> None:
        await cluster.client(0).put(lww, b"1")
        await cluster.client(1).put(lww, b"2")
        assert await cluster.client(2).values(lww, r=3) == [b"2"]
        cluster.hosts[0].clock.step(1_500_000_000)
        ahead = await cluster.client(0).put(lww, b"ahead", w=3)
        assert not ahead.superseded
        state = cluster.record(1, lww)
        assert state is not None and len(state.siblings) == 1

    in_cluster(main)


def test_a_value_expires_by_rule_at_its_time() -> None:
    """Before its ttl it is read with its time; afterwards it is not found, on every node."""

    async def main(cluster: Cluster) -> None:
        now_ms = cluster.hosts[0].clock.wall_ns() // 1_000_000
        await cluster.client(0).put(NAME, b"soon gone", ttl_ms=1_000)
        (sibling,) = (await cluster.client(1).get(NAME)).siblings
        assert 1_000 <= sibling.expires_ms - now_ms <= 1_100
        await asyncio.sleep(1.1)
        for index in range(3):
            assert await cluster.client(index).values(NAME, r=3) == []

    in_cluster(main)


def test_a_bucket_gives_its_ttl_and_counts() -> None:
    """Bucket properties apply where the request says nothing, and a tombstone gets no ttl."""
    name = name_of_key("k", bucket="sessions")

    async def main(cluster: Cluster) -> None:
        await cluster.client(2).create_bucket("sessions", ttl_ms=500, w=3, dw=3, r=1)
        reply = await cluster.client(1).put(name, b"v")
        assert (reply.needed, reply.acked, reply.durable) == (3, 3, 3)
        answer = await cluster.client(0).get(name)
        assert answer.replied == 1 and answer.siblings[0].expires_ms > 0
        assert (await cluster.client(1).put(name, b"w", answer.context, w=1, dw=0)).needed == 1
        await asyncio.sleep(0.6)
        assert await cluster.client(0).values(name) == []

    in_cluster(main)


def test_a_bucket_that_was_never_created_is_refused_with_the_command() -> None:
    """A typing error does not open a namespace."""

    async def main(cluster: Cluster) -> None:
        with pytest.raises(NoSuchBucket, match="kvctl bucket create nope"):
            await cluster.client(0).put(name_of_key("k", bucket="nope"), b"v")

    in_cluster(main)


@pytest.mark.parametrize(("w", "dw", "pw", "acked_min", "durable_min"), [
    (3, 3, 3, 3, 3), (3, 0, 0, 3, 0), (1, 0, 0, 1, 0), (1, 3, 0, 3, 3), (2, 1, 3, 3, 1), (0, 0, 0, 1, 0),
    (CONSISTENCY_ALL, CONSISTENCY_QUORUM, 0, 3, 2), (None, None, CONSISTENCY_ALL, 3, 2),
])  # fmt: skip
def test_explicit_write_counts_are_what_the_ack_reports(
    w: int | None, dw: int | None, pw: int, acked_min: int, durable_min: int
) -> None:
    """An acknowledgement never comes before what was asked for."""

    async def main(cluster: Cluster) -> None:
        reply = await cluster.client(0).put(NAME, b"v", w=w, dw=dw, pw=pw)
        assert reply.acked >= acked_min and reply.durable >= durable_min

    in_cluster(main)


@pytest.mark.parametrize(("r", "pr", "replied"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (1, 3, 3), (CONSISTENCY_ALL, 0, 3)])
def test_explicit_read_counts_decide_how_many_are_asked(r: int, pr: int, replied: int) -> None:
    """Exactly max(r, pr) replicas answer a healthy read."""

    async def main(cluster: Cluster) -> None:
        await cluster.client(0).put(NAME, b"v", w=3)
        answer = await cluster.client(1).get(NAME, r=r, pr=pr)
        assert (answer.replied, answer.primaries_replied) == (replied, replied)

    in_cluster(main)


@pytest.mark.parametrize(("nodes", "quorum"), [(1, 1), (2, 2)])
def test_defaults_are_clamped_to_the_owners_and_explicit_counts_are_not(nodes: int, quorum: int) -> None:
    """A young cluster works by default; asking it for more than it has is refused before anything happens."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(nodes - 1)
        reply = await client.put(NAME, b"v")
        assert (reply.acked, reply.needed) == (quorum, quorum)
        for w, dw, pw in ((3, None, None), (None, 3, None), (None, None, 3), (CONSISTENCY_ALL, None, None)):
            with pytest.raises(InsufficientNodes) as refused:
                await client.put(NAME, b"lost", w=w, dw=dw, pw=pw)
            assert refused.value.definite and refused.value.alive == nodes
        for counts in ({"r": 3}, {"pr": CONSISTENCY_ALL}):
            with pytest.raises(InsufficientNodes):
                await client.get(NAME, **counts)
        assert await client.values(NAME) == [b"v"]

    in_cluster(main, nodes=nodes)


def test_a_retried_operation_is_one_value_at_the_same_and_at_another_node() -> None:
    """A client that did not hear the answer may ask anybody again."""

    async def main(cluster: Cluster) -> None:
        await cluster.client(0).put(NAME, b"once", operation=7_000)
        for index in (0, 1, 2):
            again = await cluster.client(index).put(NAME, b"once", operation=7_000, w=3)
            assert (again.siblings, again.acked) == (1, 3)
        assert await cluster.client(0).values(NAME, r=3) == [b"once"]
        state = cluster.record(0, NAME)
        assert state is not None and sum(state.vector.values()) == 1

    in_cluster(main)


def test_one_operation_at_two_separated_coordinators_becomes_one_value() -> None:
    """Both mint a dot; when the states meet the smallest dot survives."""

    async def main(cluster: Cluster) -> None:
        cluster.network.cut("n0", "n1")
        cluster.network.cut("n1", "n2")
        one = cluster.client(0).put(NAME, b"once", operation=7_000, w=1, dw=1)
        other = cluster.client(1).put(NAME, b"once", operation=7_000, w=1, dw=1)
        await asyncio.gather(one, other)
        cluster.network.heal_all()
        for pair in (("n0", "n1"), ("n1", "n2")):
            cluster.network.reset(*pair)
        await asyncio.sleep(2)
        assert await cluster.client(2).values(NAME, r=3) == [b"once"]

    in_cluster(main)


def test_an_operation_id_reused_for_another_value_is_refused() -> None:
    """Definite: the second value was not written."""

    async def main(cluster: Cluster) -> None:
        await cluster.client(0).put(NAME, b"once", operation=7_000, w=3)
        for index in (0, 1):
            with pytest.raises(InvalidArgument) as refused:
                await cluster.client(index).put(NAME, b"twice", operation=7_000)
            assert refused.value.definite
        assert await cluster.client(0).values(NAME, r=3) == [b"once"]

    in_cluster(main)


def test_limits_of_client_input_are_definite_refusals() -> None:
    """Too large a value, too many siblings, a name or body that is none."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        with pytest.raises(ValueTooLarge):
            await client.put(NAME, bytes(VALUE_SIZE_BYTES_MAX + 17))
        with pytest.raises(DecodeError):
            await client.put(b"\x01nothing", b"v")
        for number in range(SIBLINGS_COUNT_MAX):
            await client.put(NAME, b"%d" % number)
        with pytest.raises(TooManySiblings) as refused:
            await client.put(NAME, b"one too many")
        assert (refused.value.siblings, refused.value.limit) == (SIBLINGS_COUNT_MAX, SIBLINGS_COUNT_MAX)
        answer = await client.get(NAME)
        assert len(answer.siblings) == SIBLINGS_COUNT_MAX
        assert (await client.put(NAME, b"resolved", answer.context)).siblings == 1

    in_cluster(main)


def test_an_expired_deadline_is_definite() -> None:
    """The time was over before the operation was begun: it is safe to ask again."""

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        await client.link.wait_up(5)
        errors: list[KVStoreError] = []
        node = cluster.node(0)
        frame = node.coordinator.begin(_collect(errors))
        node.coordinator.put(frame, 1, NAME, b"", cluster.loop.time())
        assert isinstance(errors[0], Overloaded) and errors[0].definite

    in_cluster(main)


def _collect(errors: list[KVStoreError]):  # type: ignore[no-untyped-def]
    from kvstore.errors import error_from_wire

    return lambda _, status, body: errors.append(error_from_wire(body))


def test_an_expiry_is_an_absolute_hlc_time() -> None:
    """Every replica holds the same expiry, so all of them expire it together."""

    async def main(cluster: Cluster) -> None:
        await cluster.client(0).put(NAME, b"v", ttl_ms=60_000, w=3)
        states = [cluster.record(index, NAME) for index in range(3)]
        assert states[0] is not None and states[0] == states[1] == states[2]
        (sibling,) = states[0].siblings
        assert sibling.expires - sibling.hlc == 60_000 << LOGICAL_BITS

    in_cluster(main)
