"""The asking side of a connection: every question gets exactly one final answer, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kvstore.env import Connection
from kvstore.errors import (
    ClusterMismatch,
    CoordinatorLost,
    KVStoreError,
    NotFound,
    NotReady,
    Overloaded,
    Timeout,
    Unavailable,
    error_from_wire,
)
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX, INFLIGHT_PER_LINK_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.frames import Hello
from kvstore.transport.link import Link, LinkOptions
from kvstore.transport.memory import MemoryNetwork
from tests.transport.peers import ADDRESS, HELLO, ScriptedService, run, serve

OPTIONS = LinkOptions(heartbeat_s=0.1, connect_timeout_s=1.0)


class Fixture:
    """A network with one peer and a link to it."""

    def __init__(self) -> None:
        self.delay_s = 0.001
        self.network = MemoryNetwork(lambda source, target: self.delay_s)
        self.service = ScriptedService()
        self.events: list[tuple[bool, int]] = []
        self.link = Link(
            transport=self.network.transport("us"), address=ADDRESS, hello=lambda: Hello(node_id=b"client-1"),
            rng=random.Random(5), on_event=self._event, options=OPTIONS,
        )  # fmt: skip

    def _event(self, link: Link) -> None:
        self.events.append((link.is_up, link.remote_epoch))

    async def up(self) -> None:
        """Serve, start the link and wait until it is up."""
        await serve(self.network, self.service)
        self.link.start()
        await self.link.wait_up(5)

    def ask(self, key: bytes, *, body: bytes = b"", timeout_s: float = 5.0) -> list[tuple[int, bytes]]:
        """Ask, and return the list to which the replies will be added."""
        replies: list[tuple[int, bytes]] = []
        is_asking = True

        def on_reply(status: int, reply: bytes) -> None:
            assert not is_asking, "on_reply was called from inside ask"
            replies.append((status, reply))

        self.link.ask(Verb.GET, 1, now_s() + timeout_s, key, body, on_reply)
        is_asking = False
        return replies

    async def call(self, key: bytes, body: bytes = b"", timeout_s: float = 5.0) -> bytes:
        return await self.link.call(Verb.GET, 1, now_s() + timeout_s, key, body)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def error_of(reply: tuple[int, bytes]) -> type[KVStoreError]:
    assert reply[0] == Status.ERROR
    return type(error_from_wire(reply[1]))


def links(test: Callable[[Fixture], Coroutine[Any, Any, None]], *, seed: int = 1) -> None:
    """Run a test with a new fixture on virtual time, and close its link."""

    async def main() -> None:
        fixture = Fixture()
        try:
            await test(fixture)
        finally:
            await fixture.link.close()
        assert fixture.link.waiting_count == 0

    run(main, seed=seed)


# --- asking and being answered


def test_a_question_is_answered() -> None:
    """The plain case, by callback and by `call`."""

    async def test(f: Fixture) -> None:
        await f.up()

        replies = f.ask(b"echo", body=b"one")

        assert await f.call(b"echo", b"two") == b"two"
        assert replies == [(Status.OK, b"one")]
        assert [r[1:4] for r in f.service.handled] == [(Verb.GET, 1, 5000)] * 2
        assert f.link.remote == HELLO

    links(test)


def test_an_error_reply_is_raised_as_what_it_was() -> None:
    """With its numbers."""

    async def test(f: Fixture) -> None:
        await f.up()

        with pytest.raises(NotFound) as caught:
            await f.call(b"error")

        assert caught.value.key == "k"

    links(test)


def test_applied_comes_before_the_final_reply() -> None:
    """It is not final: the deadline still stands until the second one; `call` waits for that."""

    async def test(f: Fixture) -> None:
        await f.up()

        replies = f.ask(b"applied", body=b"b")
        assert await f.call(b"applied", b"b") == b"b"
        only = f.ask(b"applied only", timeout_s=0.1)
        await asyncio.sleep(0.2)

        assert replies == [(Status.APPLIED, b""), (Status.OK, b"b")]
        assert only[0] == (Status.APPLIED, b"")
        assert [error_of(reply) for reply in only[1:]] == [Timeout]

    links(test)


def test_large_bodies_travel_both_ways() -> None:
    """In chunks, and whole at both ends."""

    async def test(f: Fixture) -> None:
        await f.up()
        body = random.Random(1).randbytes(3 * 1024 * 1024 + 17)

        assert await f.call(b"echo", body) == body

    links(test)


def test_a_deadline_is_answered_with_timeout_and_the_late_reply_ignored() -> None:
    """Within one sweep after the deadline, once."""

    async def test(f: Fixture) -> None:
        await f.up()

        replies = f.ask(b"late 0.5", timeout_s=0.1)
        await asyncio.sleep(0.1 + OPTIONS.sweep_s + 0.001)
        assert [error_of(reply) for reply in replies] == [Timeout]
        await asyncio.sleep(1)

        assert len(replies) == 1
        assert f.link.is_up

    links(test)


def test_a_second_reply_to_the_same_question_is_ignored() -> None:
    """A bug of the other side must not become two answers here."""

    async def test(f: Fixture) -> None:
        await f.up()

        replies = f.ask(b"double", body=b"b")
        await asyncio.sleep(0.1)

        assert replies == [(Status.OK, b"b")]

    links(test)


def test_a_lost_connection_answers_what_waits_as_indefinite() -> None:
    """The peer may have done it."""

    async def test(f: Fixture) -> None:
        await f.up()
        sent, unsent = f.ask(b"silent"), []
        await asyncio.sleep(0.01)

        unsent = f.ask(b"silent")
        f.network.reset("us", "peer")
        await asyncio.sleep(0.01)

        assert [error_of(reply) for reply in sent + unsent] == [CoordinatorLost, CoordinatorLost]
        assert not error_from_wire(sent[0][1]).definite

    links(test)


def test_a_deadline_that_is_no_number_leaves_nothing_behind() -> None:
    """What `ask` raised leads to no reply."""

    async def test(f: Fixture) -> None:
        await f.up()

        with pytest.raises(OverflowError):
            f.ask(b"echo", timeout_s=float("inf"))

        assert f.link.waiting_count == 0

    links(test)


def test_a_frame_that_cannot_be_read_ends_the_connection() -> None:
    """The asking side trusts its peer no more than the other way round."""

    async def test(f: Fixture) -> None:
        await f.up()
        replies = f.ask(b"silent")
        await asyncio.sleep(0.01)

        f.service.sessions[0]._connection.send(b"garbage")
        await asyncio.sleep(0.01)

        assert [error_of(reply) for reply in replies] == [CoordinatorLost]
        assert not f.link.is_up

    links(test)


@pytest.mark.parametrize("seed", range(6))
def test_every_question_gets_exactly_one_final_answer(seed: int) -> None:
    """Random questions, deadlines, delays, resets, cuts and a last close: one final answer each, sent at most once."""

    async def test(f: Fixture) -> None:
        rng = random.Random(seed)
        await f.up()
        asked: list[list[tuple[int, bytes]]] = []
        keys = [b"echo", b"silent", b"late 0.05", b"late 0.4", b"applied", b"applied only", b"error", b"double"]
        for number in range(400):
            try:
                replies = f.ask(rng.choice(keys), body=b"%d" % number, timeout_s=rng.choice([0.0, 0.05, 0.3, 3.0]))
                asked.append(replies)
            except Unavailable:
                await asyncio.sleep(0.02)
            await trouble(f, rng)
        f.network.heal_all()
        await f.link.close()
        await asyncio.sleep(10)

        assert len(asked) > 100
        for replies in asked:
            assert [status for status, _ in replies if status != Status.APPLIED] == [replies[-1][0]]
        bodies = [request[5] for request in f.service.handled]
        assert len(bodies) == len(set(bodies))

    links(test, seed=seed)


async def trouble(f: Fixture, rng: random.Random) -> None:
    """Let some time pass, sometimes with a fault of the network."""
    chance = rng.random()
    if chance < 0.02:
        f.network.reset("us", "peer")
    elif chance < 0.03:
        f.network.cut("us", "peer")
    elif chance < 0.10:
        f.network.heal_all()
    elif chance < 0.15:
        f.delay_s = rng.choice([0.0, 0.001, 0.06])
    elif chance < 0.5:
        await asyncio.sleep(rng.uniform(0, 0.05))


# --- refused before sending


def test_a_link_that_is_not_up_refuses() -> None:
    """Definite: nothing was sent, and trying elsewhere is safe."""

    async def test(f: Fixture) -> None:
        with pytest.raises(Unavailable):
            f.ask(b"echo")
        f.link.start()
        with pytest.raises(Unavailable, match="refused"):
            await f.link.wait_up(0.5)
        with pytest.raises(Unavailable) as caught:
            await f.call(b"echo")

        assert caught.value.definite

    links(test)


def test_too_many_waiting_questions_are_refused() -> None:
    """With a typed error that says when to come back; what was accepted still gets its answer."""

    async def test(f: Fixture) -> None:
        await f.up()
        asked = [f.ask(b"silent", timeout_s=0.5) for _ in range(INFLIGHT_PER_LINK_MAX)]

        with pytest.raises(Overloaded) as caught:
            f.ask(b"echo")

        assert caught.value.retry_after_s > 0
        assert f.link.waiting_count == INFLIGHT_PER_LINK_MAX
        await asyncio.sleep(1)
        assert all(len(replies) == 1 for replies in asked)
        assert await f.call(b"echo", b"again") == b"again"

    links(test)


def test_a_peer_that_takes_nothing_makes_the_link_refuse() -> None:
    """The backlog is bounded by one body above its limit."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.network.cut_one_way("us", "peer")
        f.delay_s = 3_600
        body = bytes(1024 * 1024)

        with pytest.raises(Overloaded):
            for _ in range(2 + CONNECTION_BACKLOG_BYTES_MAX // len(body)):
                f.ask(b"silent", body=body)

    links(test)


# --- staying connected, and honest about it


def test_silence_makes_a_link_suspect_and_a_word_makes_it_up_again() -> None:
    """On the same connection: the peer was slow, not gone."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.delay_s = 0.4  # each way: an answer takes eight heartbeats, fewer than `dead_beats`
        replies = f.ask(b"echo", body=b"slow")
        await asyncio.sleep(OPTIONS.heartbeat_s * (OPTIONS.suspect_beats + 2))

        assert not f.link.is_up
        with pytest.raises(Unavailable, match="suspect"):
            f.ask(b"echo")
        assert replies == []
        f.delay_s = 0.001
        await f.link.wait_up(2)

        assert await f.call(b"echo", b"fast") == b"fast"
        assert replies == [(Status.OK, b"slow")]
        assert [is_up for is_up, _ in f.events] == [True, False, True]
        assert len(f.service.sessions) == 1

    links(test)


def test_an_idle_link_stays_up() -> None:
    """Heartbeats are answered, so silence of the users is not silence of the peer."""

    async def test(f: Fixture) -> None:
        await f.up()

        await asyncio.sleep(60)

        assert f.events == [(True, 3)]
        assert len(f.service.sessions) == 1

    links(test)


def test_a_peer_silent_for_too_long_is_given_up_and_connected_anew() -> None:
    """What waited is answered as indefinite; after the network heals the link comes back by itself."""

    async def test(f: Fixture) -> None:
        await f.up()
        replies = f.ask(b"silent", timeout_s=3_600)
        await asyncio.sleep(0.01)
        f.network.cut("us", "peer")

        await asyncio.sleep(OPTIONS.heartbeat_s * (OPTIONS.dead_beats + 3))
        assert [error_of(reply) for reply in replies] == [CoordinatorLost]
        f.network.heal_all()
        await f.link.wait_up(OPTIONS.connect_timeout_s + OPTIONS.backoff_s_max + 0.1)

        assert await f.call(b"echo", b"back") == b"back"
        assert len(f.service.sessions) == 2

    links(test)


def test_a_stall_of_our_own_loop_makes_nobody_suspect() -> None:
    """Silence counts in heartbeats that ran: after a minute without looking, the peer gets its chance to speak."""

    async def test(f: Fixture) -> None:
        await f.up()
        for _ in range(20):
            stall(60.0)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)

        assert f.events == [(True, 3)]
        assert len(f.service.sessions) == 1

    links(test)


def stall(duration_s: float) -> None:
    """Let virtual time pass inside this very callback, as a blocked loop does (the loop has no public call for it)."""
    loop: Any = asyncio.get_running_loop()
    loop._now_s += duration_s


def test_a_lost_connection_is_replaced_at_once() -> None:
    """Without waiting for the next heartbeat; only the backoff lies between."""

    async def test(f: Fixture) -> None:
        await f.up()
        await asyncio.sleep(1)
        f.network.reset("us", "peer")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not f.link.is_up

        await f.link.wait_up(2 * OPTIONS.backoff_s_min + 0.02)

        assert await f.call(b"echo", b"b") == b"b"

    links(test)


class CountingTransport:
    """Refuses every connection, and remembers when it was asked."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    async def connect(self, address: str, accept: Any, *, timeout_s: float) -> Connection:
        self.times_s.append(now_s())
        raise Unavailable(f"cannot connect to {address}")

    async def serve(self, address: str, accept: Any) -> Any:
        raise NotImplementedError


def test_attempts_to_connect_back_off_with_jitter() -> None:
    """Doubling ceilings up to the maximum, so that a restarted node is not met by all its peers in one moment."""

    async def main() -> None:
        times: list[list[float]] = []
        for seed in (1, 2):
            transport = CountingTransport()
            link = Link(transport=transport, address=ADDRESS, hello=Hello, rng=random.Random(seed), options=OPTIONS)
            started_s = now_s()
            link.start()
            await asyncio.sleep(60)
            await link.close()
            times.append([t - started_s for t in transport.times_s])
        pauses = [b - a for a, b in zip(times[0], times[0][1:], strict=False)]

        assert 60 <= len(times[0]) <= 240
        assert all(OPTIONS.backoff_s_min <= pause <= OPTIONS.backoff_s_max + 0.001 for pause in pauses)
        assert pauses[0] <= 2 * OPTIONS.backoff_s_min + 0.001
        assert max(pauses) > OPTIONS.backoff_s_max / 2
        assert times[0] != times[1]

    run(main)


def test_a_final_refusal_is_final() -> None:
    """The peer said why, over a network whose `close` loses what is under way; the link asks no second time."""

    async def test(f: Fixture) -> None:
        f.service.refusal = ClusterMismatch("another cluster")
        await serve(f.network, f.service)
        f.link.start()

        with pytest.raises(ClusterMismatch):
            await f.link.wait_up(5)
        await asyncio.sleep(60)

        assert type(f.link.refused) is ClusterMismatch
        assert len(f.service.sessions) == 1
        with pytest.raises(Unavailable, match="another cluster"):
            f.ask(b"echo")

    links(test)


def test_a_retryable_refusal_is_tried_again() -> None:
    """A node that is still starting says so."""

    async def test(f: Fixture) -> None:
        f.service.refusal = NotReady("starting")
        await serve(f.network, f.service)
        f.link.start()
        with pytest.raises(Unavailable, match="starting"):
            await f.link.wait_up(1)

        f.service.refusal = None
        await f.link.wait_up(2)

        assert f.link.refused is None

    links(test)


def test_a_peer_that_does_not_greet_is_left() -> None:
    """After `connect_timeout_s`, and tried again."""

    async def test(f: Fixture) -> None:
        f.service.is_mute = True
        await serve(f.network, f.service)
        f.link.start()
        with pytest.raises(Unavailable, match="did not greet"):
            await f.link.wait_up(OPTIONS.connect_timeout_s + 2 * OPTIONS.heartbeat_s)

        f.service.is_mute = False
        await f.link.wait_up(3)

        assert f.service.closed_count >= 1

    links(test)


def test_replies_tell_the_newest_topology_epoch() -> None:
    """It rides on every frame, so that a node behind learns of it from any answer."""

    async def test(f: Fixture) -> None:
        await f.up()
        assert f.link.remote_epoch == 3

        f.service.epoch = 9
        await f.call(b"echo")
        f.service.epoch = 8  # an older frame may arrive through another path, never here; the newest stays
        await f.call(b"echo")

        assert f.link.remote_epoch == 9
        assert f.events == [(True, 3), (True, 9)]

    links(test)


# --- the end


def test_close_answers_everything_and_is_idempotent() -> None:
    """As indefinite; afterwards the link refuses, and says that it is closed."""

    async def test(f: Fixture) -> None:
        await f.up()
        asked = [f.ask(b"silent", timeout_s=3_600) for _ in range(10)]
        waiting = asyncio.get_running_loop().create_task(f.call(b"silent", timeout_s=3_600))
        await asyncio.sleep(0.01)

        await f.link.close()
        await f.link.close()

        assert [error_of(reply) for replies in asked for reply in replies] == [CoordinatorLost] * 10
        with pytest.raises(CoordinatorLost):
            await waiting
        with pytest.raises(Unavailable, match="closed"):
            f.ask(b"echo")
        with pytest.raises(Unavailable, match="closed"):
            await f.link.wait_up(5)
        assert f.network.connections_count("us") == 0

    links(test)


def test_a_link_that_was_never_started_can_be_closed() -> None:
    """Whoever makes links in a loop and fails half way may close them all."""

    async def test(f: Fixture) -> None:
        await f.link.close()

        with pytest.raises(Unavailable):
            await f.link.wait_up(1)

    links(test)


def test_close_during_a_connection_attempt_leaves_no_connection() -> None:
    """Neither before nor after the peer accepted."""

    async def test(f: Fixture) -> None:
        await serve(f.network, f.service)
        f.delay_s = 0.05
        f.link.start()
        await asyncio.sleep(0.07)

        await f.link.close()
        await asyncio.sleep(1)

        assert f.network.connections_count("us") == 0

    links(test)


def test_a_caller_that_gives_up_disturbs_nobody() -> None:
    """Cancelling `call` drops its answer; the operation itself may have happened."""

    async def test(f: Fixture) -> None:
        await f.up()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(f.call(b"late 0.2"), 0.1)
        await asyncio.sleep(0.5)

        assert [request[4] for request in f.service.handled] == [b"late 0.2"]
        assert await f.call(b"echo", b"b") == b"b"

    links(test)
