"""The client for threads: the same face as the asyncio one, one loop thread for all, safe to share, honest after a fork."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvstore import AsyncClient, Client, errors, resolvers
from kvstore.client import batch as batch_module
from kvstore.client import sync
from kvstore.client.batch import AsyncBatch
from kvstore.client.bucket import AsyncBucket
from kvstore.client.failures import ClientClosed, ClientForked
from kvstore.client.session import AsyncSession
from kvstore.env import Accept, Connection
from kvstore.messages import Verb, decode_get
from tests.client.fake_cluster import FakeCluster, apply_then_hang_up, stay_silent


class SelfStarting:
    """A transport whose cluster begins to serve, on the client's own loop, when the client first connects."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self._inner = self.cluster.network.transport("client")
        self._is_serving = False

    async def connect(self, address: str, accept: Accept, *, timeout_s: float) -> Connection:
        if not self._is_serving:
            self._is_serving = True
            await self.cluster.serve()
        return await self._inner.connect(address, accept, timeout_s=timeout_s)

    async def serve(self, address: str, accept: Accept) -> Any:
        raise NotImplementedError


def open_client(transport: SelfStarting | None = None, **options: Any) -> Client:
    transport = transport or SelfStarting()
    return Client(["n0:1"], transport=transport, clock=transport.cluster.clock, rng=random.Random(3), **options)


@pytest.fixture
def kv() -> Iterator[Client]:
    with open_client() as client:
        yield client


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kvstore-client"]


PAIRS = [(AsyncClient, Client), (AsyncBucket, sync.Bucket), (AsyncBatch, sync.Batch), (AsyncSession, sync.Session)]


@pytest.mark.parametrize(("source", "face"), PAIRS, ids=lambda kind: kind.__name__)
def test_the_faces_have_the_same_methods_with_the_same_parameters(source: type, face: type) -> None:
    """Names, kinds, defaults and annotations; what differs is only that nothing is awaited."""
    public = {name for name in vars(source) if not name.startswith("_")} - {"pending_max"}

    assert {name for name in dir(face) if not name.startswith("_")} >= public - {
        "name",
        "ok",
        "failed",
        "options",
        "seeds",
    }
    for name in sorted(public):
        ours, theirs = getattr(face, name), getattr(source, name)
        if callable(theirs):
            assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters, name
            assert not inspect.iscoroutinefunction(ours), name


@pytest.mark.parametrize("name", ["__init__", "from_url"])
def test_both_clients_are_made_alike(name: str) -> None:
    """The same arguments make either."""
    ours, theirs = getattr(Client, name), getattr(AsyncClient, name)

    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters


def test_everything_works_without_awaiting(kv: Client) -> None:
    """The same names, plain results."""
    seen = kv.get("k")
    first = kv.put("k", {"n": 1.5}, context=seen.context)
    kv.update("k", lambda value: {"n": value["n"] + 1})
    kv.create_bucket("carts")
    carts = kv.bucket("carts", type=list[str], resolver=resolvers.union_lists).with_options(timeout=1.0)
    carts.put("ada", ["milk"])
    carts.put("ada", ["bread"])

    assert first.acked == 3
    assert kv.get("k").value == {"n": 2.5}
    assert carts.get("ada").value == ["milk", "bread"]
    assert [bucket.name for bucket in kv.buckets()] == ["carts", "default"]
    assert len(kv.topology().members) == 3
    assert kv.call_node("n1:1", Verb.PING) == b"pong"
    assert kv.delete("k").siblings == 0
    with pytest.raises(errors.InvalidContext):
        kv.put("k", 1, context=None)


def test_a_session_moves_from_one_client_to_another() -> None:
    """The token is bytes; the block is a plain `with`; buckets, batches and reads of the session know what it has seen."""
    transport = SelfStarting()
    with open_client(transport) as kv, kv.session() as session:
        session.put("k", 1)
        session.bucket("default", type=int).put("n", 2)
        token = session.token
        # Another stream of random numbers: two clients of one stream would use the same operation ids.
        with Client(["n0:1"], transport=transport, clock=transport.cluster.clock, rng=random.Random(4)) as other:
            moved = other.session(token)
            assert (moved.get("k").value, moved.bucket("default", type=int).get("n").value) == (1, 2)
            moved.update("k", lambda value: value + 1)
            moved.delete("n")
            later = moved.token
            assert session.token == token, "the first one has not seen what the other did"
            assert later != token
            assert not kv.session(moved.token).get("n").found
    histories = [decode_get(request[5]).history for request in transport.cluster.seen if request[1] == Verb.GET]
    assert all(histories)


def test_a_batch_and_get_many(kv: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full batch makes its thread wait instead of raising; values are encoded in the caller's thread."""
    monkeypatch.setattr(batch_module, "PENDING_MAX", 10)
    bucket, value = kv.bucket("default"), {"n": 0}

    with bucket.batch(max_in_flight=4) as b:
        for i in range(35):
            value["n"] = i
            b.put(f"k{i}", value)
        b.put("bad", object())
        b.delete("k0")
    many = bucket.get_many([f"k{i}" for i in range(35)])

    assert len(b.ok) == 36
    assert [failed.key for failed in b.failed] == ["bad"]
    assert many["k34"].value == {"n": 34}


def test_many_threads_share_one_client(kv: Client) -> None:
    """Each gets its own answers, and no operation id is minted twice."""

    def work(i: int) -> list[Any]:
        return [kv.put(f"t{i}", i), kv.get(f"t{i}").value, kv.bucket("default").get(f"t{i}").value][1:]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == [[i, i] for i in range(200)]


def test_all_clients_share_one_thread_and_the_last_close_joins_it() -> None:
    """gRPC delivers every loop's events through the first loop that used it, so one loop must outlive them all."""
    with open_client() as first:
        with open_client() as second:
            assert len(loop_threads()) == 1
            first.close()
            assert second.put("k", 1).acked == 3
        assert loop_threads() == []
    with open_client() as third:
        assert not third.get("k").found
    assert loop_threads() == []


def test_a_closed_client_says_so() -> None:
    """Closing twice is fine; buckets and batches of it are closed with it."""
    kv = open_client()
    bucket, batch = kv.bucket("default"), kv.bucket("default").batch()
    kv.close()
    kv.close()

    for call in (lambda: kv.get("k"), lambda: bucket.put("k", 1), lambda: batch.put("k", 1)):
        with pytest.raises(ClientClosed):
            call()


def test_closing_ends_the_calls_of_other_threads() -> None:
    """None of them waits for a loop that has stopped."""
    transport = SelfStarting()
    kv = open_client(transport, timeout=60.0, attempt_timeout=60.0)
    kv.get("k")
    arrived = threading.Event()
    for node in transport.cluster.nodes:
        node.script.append(lambda *_: arrived.set())
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(kv.put, "k", 1)
        assert arrived.wait(10)

        kv.close()

        with pytest.raises(errors.CoordinatorLost):
            put.result(10)
    assert loop_threads() == []


def test_a_client_that_cannot_connect_leaves_no_thread() -> None:
    """`with` raises, and cleans up first."""
    transport = SelfStarting()
    transport._is_serving = True  # nobody will start the cluster

    with pytest.raises(errors.Unavailable), open_client(transport, timeout=0.05):
        pass

    assert loop_threads() == []


def test_deadlines_hold_across_the_thread_border() -> None:
    """`with kv.timeout(...)` bounds what this thread asks for, and no other thread's operations."""
    transport = SelfStarting()
    with open_client(transport) as kv:
        kv.get("k")
        for node in transport.cluster.nodes:
            node.script.extend([stay_silent] * 9)
        with kv.timeout(0.05), pytest.raises(errors.ReadTimeout):
            kv.get("k")
        for node in transport.cluster.nodes:
            node.script.clear()
        with kv.timeout(0.001), ThreadPoolExecutor(1) as pool:
            assert not pool.submit(kv.get, "k").result().found


def test_a_call_from_the_loop_thread_is_refused() -> None:
    """It would wait for itself for ever."""
    with open_client() as kv, pytest.raises(errors.ClientError, match="own loop thread"):
        kv.update("k", lambda value: kv.get("k").value)


def test_retries_work_as_in_the_asyncio_client() -> None:
    """It is the same code; one example that it is."""
    transport = SelfStarting()
    with open_client(transport) as kv:
        kv.get("k")
        transport.cluster.nodes[0].script.append(apply_then_hang_up)

        assert kv.put("k", 1).siblings == 1


def _in_child(check: Callable[[], None], status: Any) -> None:
    try:
        check()
    except AssertionError as error:
        status.send(repr(error))
    else:
        status.send("ok")
    os._exit(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads is what is tested
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_can_leave() -> None:
    """Using the parent's client raises; closing it does nothing; the parent goes on as before."""
    with open_client() as kv:
        kv.put("k", 1)

        def check() -> None:
            for call in (lambda: kv.get("k"), lambda: open_client()):
                try:
                    call()
                except ClientForked:
                    continue
                raise AssertionError("a forked child used the parent's client")
            kv.close()

        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(check, theirs))
        child.start()

        assert ours.poll(10)
        assert ours.recv() == "ok"
        child.join(10)
        assert kv.get("k").value == 1
