"""What a session sends and keeps, against puppets: bodies, bounds, older nodes, other clusters; the threads' client, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvstore.causality.context import decode_history, encode_context, is_history
from kvstore.client import session_state
from kvstore.client.client import AsyncClient
from kvstore.client.failures import InvalidSession, SessionFull
from kvstore.errors import ClusterMismatch, DecodeError, InternalError, SessionNotSatisfied, Unavailable
from kvstore.ids import ClusterId
from kvstore.messages import Verb, decode_delete, decode_get, decode_put, encode_body
from kvstore.storage.keyspace import storage_key
from kvstore.transport.session import Request, Session
from tests.client.fake_cluster import FakeCluster, FakeNode, refuse, with_cluster


def bodies(cluster: FakeCluster) -> list[bytes]:
    """Return what the nodes were asked since they were last asked so, and forget it."""
    asked = [request[5] for request in cluster.seen]
    for node in cluster.nodes:
        node.seen.clear()
    return asked


def test_without_a_session_nothing_is_sent_but_what_always_was() -> None:
    """Nor in one, for an object that it has not seen."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        await session.put("k", 1)
        bodies(cluster)
        for each in (kv, session):
            await each.get("unseen")
            await each.get("unseen", r=2, pr=1)
        await kv.get("k")
        await kv.put("k", 2)

        *reads, put = bodies(cluster)
        assert reads == [b"", encode_body((2, 1)), b"", encode_body((2, 1)), b""]
        assert len(put) == len(encode_body((bytes(16), encode_body(2), None, 0, None, None, None)))
        assert not decode_put(put).tells_history

    with_cluster(main)


def test_a_read_asks_for_what_the_session_has_seen() -> None:
    """With the counts that it was given; the history grows with every reply."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        await session.put("k", 1)
        await kv.put("k", 2)
        bodies(cluster)
        await session.get("k", r=1)
        await session.get("k")
        await session.bucket("default", r=3).get("k")

        one, two, three = [decode_get(body) for body in bodies(cluster)]
        assert [(each.r, each.pr) for each in (one, two, three)] == [(1, None), (None, None), (3, None)]
        (name,) = cluster.store
        vectors = [decode_history(each.history or b"", storage_key(name)[:8]) for each in (one, two, three)]
        assert list(vectors[0].values()) == [1] and vectors[1] == vectors[2] == cluster.store[name].vector

    with_cluster(main)


def test_a_write_that_left_siblings_gives_no_context_away() -> None:
    """The node tells what it has seen; the caller gets what a caller without a session gets."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        first = await session.put("k", 1)
        second = await session.put("k", 2)
        third = await session.delete("k", context=first.context)
        asked = bodies(cluster)

        assert (first.siblings, second.siblings, second.context) == (1, 2, None)
        assert first.context is not None and not is_history(first.context) and third.acked
        assert [decode_put(body).tells_history for body in asked[:2]] == [True, True]
        assert decode_delete(asked[2]).tells_history
        await session.get("k")
        (read,) = bodies(cluster)
        assert (
            sum(decode_history(decode_get(read).history or b"", storage_key(next(iter(cluster.store)))[:8]).values())
            == 3
        )

    with_cluster(main)


def test_an_older_node_refuses_and_nothing_is_promised_in_silence() -> None:
    """It takes two fields and seven: a definite error, and a write that was not made."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        for node in cluster.nodes:
            node.script.append(refuse(DecodeError("not the body of PUT")))
        with pytest.raises(DecodeError):
            await session.put("k", 1)
        assert cluster.store == {}

    with_cluster(main)


def test_a_node_that_does_not_say_what_a_write_has_seen_is_not_believed() -> None:
    """The write was made, so the error is indefinite."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        def forgetful(node: FakeNode, session: Session, request: Request) -> None:
            session.reply(request[0], 0, encode_body([3, 2, 3, 3, 2, 2, False, b""]))

        for node in cluster.nodes:
            node.script.append(forgetful)
        with pytest.raises(InternalError) as raised:
            await kv.session().put("k", 1)
        assert not raised.value.definite

    with_cluster(main)


def test_a_session_that_cannot_be_satisfied_is_tried_elsewhere_and_then_said() -> None:
    """Reads are retried; the error keeps the replicas' numbers."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        await session.put("k", 1)
        bodies(cluster)
        error = SessionNotSatisfied("behind", replied=2, n=3, lacking=1)
        for node in cluster.nodes:
            node.script.append(refuse(error))
        assert (await session.get("k")).value == 1
        assert len(set(bodies(cluster))) == 1, "every attempt asks for the same"

        for node in cluster.nodes:
            node.script.extend([refuse(error)] * 10)
        with pytest.raises(SessionNotSatisfied) as raised:
            await session.get("k", timeout=1.0)
        assert (raised.value.replied, raised.value.n, raised.value.lacking) == (2, 3, 1) and raised.value.attempts > 2

    with_cluster(main)


def test_a_full_session_refuses_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and writes of new objects; the old ones go on."""
    monkeypatch.setattr(session_state, "SESSION_OBJECTS_COUNT_MAX", 2)

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        await session.put("a", 1)
        await session.get("b")
        bodies(cluster)
        for refused in (session.put("c", 1), session.get("c"), session.delete("c")):
            with pytest.raises(SessionFull):
                await refused
        assert bodies(cluster) == []
        assert (await session.get("a")).value == 1

    with_cluster(main)


def test_a_token_of_another_cluster_is_refused_before_anything_is_sent() -> None:
    """Also by a client that has not connected yet when the session begins."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        await session.put("k", 1)
        token = session.token
        bodies(cluster)
        other = FakeCluster()
        other.topology = replace(other.topology, cluster_id=ClusterId(b"d" * 16))
        await other.serve()
        stranger = other.client()
        async with stranger.session(token) as moved:
            for refused in (moved.get("k"), moved.put("k", 2), moved.bucket("default", object_type="lww").get("k")):
                with pytest.raises(ClusterMismatch):
                    await refused
        await stranger.close()
        assert bodies(other) == [] and other.store == {}

    with_cluster(main)


def test_a_session_of_a_client_that_reaches_nobody_ends_with_its_deadline() -> None:
    """It has to know the cluster before it may ask."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        lonely = AsyncClient(
            ["nowhere:1"], transport=cluster.network.transport("client"), clock=cluster.clock, timeout=0.5
        )
        with pytest.raises(Unavailable):
            await lonely.session().bucket("default", object_type="register").put("k", 1)
        await lonely.close()

    with_cluster(main)


def test_what_is_no_token_is_refused_at_once() -> None:
    """By `session` itself; a context is no token either."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        for token in (b"", b"nonsense" * 9, encode_context(bytes(8), 0, b"")):
            with pytest.raises(InvalidSession):
                kv.session(token)

    with_cluster(main)


def test_an_object_read_together_by_two_sessions_is_two_stories() -> None:
    """Sessions of one client share nothing; `update` in a session notes its read and its write."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        one, two = kv.session(), kv.session()
        await one.update("k", lambda value: (value or 0) + 1)
        bodies(cluster)
        await two.get("k")
        await one.get("k")
        fresh, knowing = bodies(cluster)
        assert fresh == b"" and decode_get(knowing).history

    with_cluster(main)


def test_the_verbs_stay_what_they_were() -> None:
    """A session is a field of a body: nothing that routes or forwards has to know of it."""

    async def main(cluster: FakeCluster, kv: AsyncClient) -> None:
        session = kv.session()
        await session.put("k", 1)
        await session.get("k")
        await session.delete("k")
        assert [request[1] for request in cluster.seen] == [Verb.PUT, Verb.GET, Verb.GET, Verb.DELETE]

    with_cluster(main)
