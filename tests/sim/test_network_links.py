"""The real Link and Session on the simulated network: every fault costs some answers, none of them costs the link.

And determinism: a run, with all faults at once, is a function of its seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.net_partitions import PARTITION_MODES, flapping, partition, swizzle_clog
from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.network import SimNetwork
from jepsen_lite.sim.trace import Trace
from kvstore.errors import CoordinatorLost, NotFound, Overloaded, Timeout, Unavailable, error_from_wire
from kvstore.messages import Status, Verb
from kvstore.transport.frames import Hello
from kvstore.transport.link import Link, LinkOptions
from kvstore.transport.session import Session
from tests.transport.peers import ADDRESS, ScriptedService, run

OPTIONS = LinkOptions(heartbeat_s=0.1, connect_timeout_s=1.0)
DEAD_S = OPTIONS.heartbeat_s * (OPTIONS.dead_beats + 1)
RECONNECT_S_MAX = OPTIONS.connect_timeout_s + OPTIONS.backoff_s_max + 0.1
"""After a heal: an attempt that hangs until its timeout, then the longest backoff, then an attempt that succeeds."""
CHILD_TIMEOUT_S = 60
Replies = list[tuple[int, bytes]]


class Fixture:
    """A calm network, one peer, and a link to it."""

    def __init__(self, seed: int, swarm: NetworkSwarm | None = None) -> None:
        self.events: list[tuple[str, str, str, bytes]] = []
        self.network = SimNetwork(random.Random(seed), swarm, lambda *event: self.events.append(event))
        self.service = ScriptedService()
        self.link = Link(
            transport=self.network.transport("us"), address=ADDRESS, hello=lambda: Hello(node_id=b"client-1"),
            rng=random.Random(seed), options=OPTIONS,
        )  # fmt: skip

    async def serve(self) -> None:
        await self.network.transport("peer").serve(ADDRESS, lambda connection: Session(connection, self.service))

    async def up(self) -> None:
        await self.serve()
        self.link.start()
        await self.link.wait_up(60)

    def ask(self, key: bytes, *, body: bytes = b"", timeout_s: float = 5.0) -> Replies:
        replies: Replies = []
        deadline = asyncio.get_running_loop().time() + timeout_s
        self.link.ask(Verb.GET, 1, deadline, key, body, lambda status, reply: replies.append((status, reply)))
        return replies

    async def call(self, body: bytes = b"") -> bytes:
        deadline = asyncio.get_running_loop().time() + 5.0
        return await self.link.call(Verb.GET, 1, deadline, b"echo", body)

    def change(self, **changes: Any) -> None:
        """Change the conditions of both directions."""
        for link in (("us", "peer"), ("peer", "us")):
            self.network.change(*link, replace(self.network.wire(*link).conditions, **changes))


def links(test: Callable[[Fixture], Coroutine[Any, Any, None]], *, seed: int = 1) -> Fixture:
    """Run a test with a new fixture on virtual time, and close its link."""
    made: list[Fixture] = []

    async def main() -> None:
        made.append(Fixture(seed))
        try:
            await test(made[0])
        finally:
            await made[0].link.close()
        assert made[0].link.waiting_count == 0

    run(main, seed=seed)
    return made[0]


def error_of(replies: Replies) -> type[Exception]:
    ((status, body),) = replies
    assert status == Status.ERROR
    return type(error_from_wire(body))


# --- cuts


@pytest.mark.parametrize("cut_s", [0.05, 0.5, 3.0, 30.0])
def test_a_link_is_up_again_soon_after_a_heal(cut_s: float) -> None:
    """However long the cut was: within one timeout, one backoff and one handshake."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.network.cut("us", "peer")
        waiting = f.ask(b"echo", timeout_s=60)
        await asyncio.sleep(cut_s)
        f.network.heal("us", "peer")
        await f.link.wait_up(RECONNECT_S_MAX)
        await asyncio.sleep(RECONNECT_S_MAX)

        assert await f.call(b"again") == b"again"
        assert len(waiting) == 1

    links(test)


@pytest.mark.parametrize("cut", [("us", "peer"), ("peer", "us")])
def test_a_link_is_not_up_during_a_one_way_cut(cut: tuple[str, str]) -> None:
    """Whatever direction works: what cannot be answered must not be asked. Afterwards it is up again."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.network.cut_one_way(*cut)
        await asyncio.sleep(OPTIONS.heartbeat_s * (OPTIONS.suspect_beats + 2))
        for _ in range(100):
            assert not f.link.is_up
            await asyncio.sleep(0.1)
        f.network.heal_all()
        await f.link.wait_up(RECONNECT_S_MAX)

    links(test)


def test_a_flapping_wire_does_not_stop_the_link_for_long() -> None:
    """Cut and healed every 100 ms for ten seconds: some questions pass meanwhile, all do afterwards."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.network.play(flapping((("peer", "us"), ("us", "peer")), period_s=0.2, duration_s=10.0))
        answered: list[Replies] = []
        for _ in range(100):
            await asyncio.sleep(0.1)
            if f.link.is_up:
                answered.append(f.ask(b"echo", timeout_s=1.0))
        await asyncio.sleep(RECONNECT_S_MAX)
        assert any(replies[0][0] == Status.OK for replies in answered)
        assert await f.call(b"x") == b"x"

    links(test)


def test_a_clogged_wire_makes_the_peer_suspect_until_the_burst() -> None:
    """Nothing was lost, so the same connection goes on."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.network.clog_links([("peer", "us")], for_s=0.8)
        replies = f.ask(b"echo", body=b"held")
        await asyncio.sleep(0.7)
        assert (f.link.is_up, replies) == (False, [])
        await asyncio.sleep(0.4)
        assert (f.link.is_up, replies) == (True, [(Status.OK, b"held")])
        assert len(f.service.sessions) == 1

    links(test)


# --- ends


def test_a_half_open_connection_is_noticed_by_heartbeats_and_replaced_when_the_machine_is_back() -> None:
    """Long before the keepalive: what waits is answered as indefinite."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.network.crash("peer", silent=True)
        replies = f.ask(b"echo", timeout_s=60)
        await asyncio.sleep(DEAD_S + 0.1)
        assert not f.link.is_up
        assert error_of(replies) is CoordinatorLost
        await asyncio.sleep(20)
        await f.serve()
        await f.link.wait_up(RECONNECT_S_MAX)

    links(test)


def test_frames_of_the_old_connection_that_arrive_after_the_new_one_change_nothing_here() -> None:
    """The peer handles them late; its answers belong to nobody. Each question still has one answer."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.change(straggle_share=1.0, straggle_s_max=3.0)
        old = f.ask(b"echo", body=b"old")
        await asyncio.sleep(0)
        f.link._coalescer.flush()  # type: ignore[union-attr]  # on the wire now, not a few turns of the loop later
        f.link.drop(Unavailable("the test lost patience"))
        await f.link.wait_up(5)
        new = f.ask(b"echo", body=b"new")
        await asyncio.sleep(10)

        assert [asked[5] for asked in f.service.handled] == [b"new", b"old"]
        assert error_of(old) is CoordinatorLost
        assert new == [(Status.OK, b"new")]

    assert links(test).network.counts["straggled"] == 1


def test_a_wire_that_refuses_knocks_keeps_the_link_down_until_it_takes_them() -> None:
    """After a reset; while the connection stood the fault was invisible."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.change(loses_knocks=True)
        assert await f.call(b"x") == b"x"
        f.network.reset("us", "peer")
        await asyncio.sleep(10)
        assert not f.link.is_up
        f.change(loses_knocks=False)
        await f.link.wait_up(RECONNECT_S_MAX)

    links(test)


# --- frames


def test_a_doubled_request_is_handled_twice_and_answered_once() -> None:
    """At once or later: the asker sees one answer, the service must be idempotent."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.change(duplicate_share=0.5)
        asked = []
        for number in range(200):
            asked.append(f.ask(b"echo", body=b"%d" % number))
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)

        assert asked == [[(Status.OK, b"%d" % number)] for number in range(200)]
        assert 250 < len(f.service.handled) < 350

    links(test)


def test_large_bodies_survive_doubling() -> None:
    """Chunks are never doubled, so a body is whole or not there."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.change(duplicate_share=1.0)
        body = random.Random(1).randbytes(3 * 1024 * 1024 + 17)
        assert await f.call(body) == body
        await asyncio.sleep(2)
        assert {asked[5] == body for asked in f.service.handled} == {True}

    links(test)


def test_a_black_hole_for_large_frames_costs_those_questions_and_not_the_link() -> None:
    """Heartbeats wait behind the large frame, so the link is replaced; small questions work again."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.change(frame_bytes_max=1_400)
        large = f.ask(b"echo", body=bytes(2_000), timeout_s=60)
        await asyncio.sleep(DEAD_S + RECONNECT_S_MAX)
        assert error_of(large) is CoordinatorLost
        assert await f.call(b"small") == b"small"

    links(test)


def test_loss_delays_answers_and_loses_none() -> None:
    """A tenth of all packets, in bursts: each question is answered, or its connection broke."""

    async def test(f: Fixture) -> None:
        await f.up()
        f.change(loss_good=0.01, loss_bad=0.9, bad_enter=0.03, bad_leave=0.3)
        asked = []
        for _ in range(200):
            await asyncio.sleep(0.05)
            if f.link.is_up:
                asked.append(f.ask(b"echo", timeout_s=60))
        await asyncio.sleep(60)
        assert all(len(replies) == 1 for replies in asked)
        assert sum(replies[0][0] == Status.OK for replies in asked) > 50

    assert links(test).network.counts["lost"] > 20


def test_a_damaged_reply_costs_the_connection_and_the_link_comes_back() -> None:
    """Decoder or checksum, both end in CoordinatorLost for what waits."""

    async def test(f: Fixture) -> None:
        await f.up()
        wire = f.network.wire("peer", "us")
        f.network.change("peer", "us", replace(wire.conditions, corrupt_share=1.0))
        replies = f.ask(b"echo", body=b"some value")
        await asyncio.sleep(0.05)
        assert error_of(replies) is CoordinatorLost
        f.network.calm()
        await f.link.wait_up(RECONNECT_S_MAX)
        assert f.link.refused is None

    for seed in range(10):
        links(test, seed=seed)


def test_a_damaged_request_costs_the_connection() -> None:
    """And no more: a link that took the refusal for final stayed down for ever after one flipped bit."""

    async def test(f: Fixture) -> None:
        await f.up()
        wire = f.network.wire("us", "peer")
        f.network.change("us", "peer", replace(wire.conditions, corrupt_share=1.0))
        replies = f.ask(b"echo", body=b"some value")
        await asyncio.sleep(0.05)
        assert error_of(replies) is CoordinatorLost
        assert f.service.handled == []
        f.network.change("us", "peer", replace(wire.conditions, corrupt_share=0.0))
        await f.link.wait_up(10)
        assert f.link.refused is None

    for seed in range(10):
        links(test, seed=seed)


# --- everything at once


async def storm(f: Fixture, rng: random.Random, duration_s: float) -> list[Replies]:
    """Ask all kinds of questions while the network does what its swarm and the nemesis want; return what was answered."""
    loop = asyncio.get_running_loop()
    keys = [b"echo", b"silent", b"late 0.05", b"late 0.4", b"applied", b"applied only", b"error", b"double"]
    asked: list[Replies] = []
    ends_at_s = loop.time() + duration_s
    while loop.time() < ends_at_s:
        body = rng.choice([b"", b"x" * 3_000]) + b"%d" % len(asked)
        try:
            asked.append(f.ask(rng.choice(keys), body=body, timeout_s=rng.choice([0.0, 0.05, 0.3, 3.0, 20.0])))
        except (Unavailable, Overloaded):
            await asyncio.sleep(0.05)
        await asyncio.sleep(rng.expovariate(50))
        if rng.random() < 0.01:
            await nemesis(f, rng)
    return asked


async def nemesis(f: Fixture, rng: random.Random) -> None:
    hosts = ["us", "peer", "other"]
    match rng.randrange(6):
        case 0:
            f.network.reset("us", "peer")
        case 1 | 2:
            f.network.cut_links(partition(rng.choice(PARTITION_MODES), hosts, rng))
        case 3:
            f.network.heal_all()
        case 4:
            f.network.play(swizzle_clog(hosts, rng, duration_s=rng.uniform(0.1, 4.0), pairs_count=2))
        case 5:
            f.network.crash("peer", silent=rng.random() < 0.5)
            await asyncio.sleep(rng.uniform(0, 2))
            await f.serve()


async def run_storm(f: Fixture, seed: int, duration_s: float) -> list[Replies]:
    await f.serve()
    f.link.start()
    asked = await storm(f, random.Random(seed), duration_s)
    f.network.calm()
    await f.link.wait_up(RECONNECT_S_MAX + 20)
    await asyncio.sleep(21)
    return asked


@pytest.mark.parametrize("seed", range(12))
def test_every_question_gets_exactly_one_final_answer_in_every_storm(seed: int) -> None:
    """A drawn swarm and random nemesis; in the end the network is calm, and the link is up and works."""

    async def main() -> None:
        f = Fixture(seed, NetworkSwarm.draw(random.Random(seed)))
        asked = await run_storm(f, seed, 20.0)
        assert await f.call(b"calm") == b"calm"
        await f.link.close()

        for replies in asked:
            assert [status for status, _ in replies if status != Status.APPLIED] == [replies[-1][0]]
            if replies[-1][0] == Status.ERROR:
                assert isinstance(error_from_wire(replies[-1][1]), (CoordinatorLost, Timeout, NotFound))
        assert len(asked) > 30
        assert f.link.waiting_count == 0

    run(main, seed=seed)


def trace_of(seed: int) -> str:
    """Run a storm in which every fault is possible; return the hash of everything the network did, and when."""
    loop = VirtualLoop(random.Random(seed))
    trace = Trace(loop)

    async def main() -> None:
        f = Fixture(seed, NetworkSwarm.draw(random.Random(seed)))
        f.network.trace = lambda kind, source, target, data: trace.record(kind, source, target, data)
        await run_storm(f, seed, 10.0)
        trace.record("counts", *[f"{name}={count}" for name, count in f.network.counts.items()])
        await f.link.close()

    loop.run(main(), until_s=1_000)
    return f"{trace.count} {trace.hexdigest()}"


def test_a_seed_gives_the_same_trace_in_another_process_with_other_hashes() -> None:
    """Neither set order nor addresses nor earlier runs of the process matter."""
    program = "from tests.sim.test_network_links import trace_of; print([trace_of(seed) for seed in (3, 4)])"
    children = [
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=True,
        ).stdout.strip()
        for hash_seed in ("1", "4242")
    ]  # fmt: skip

    here = [trace_of(seed) for seed in (3, 4)]

    assert children == [str(here), str(here)]
    assert here[0] != here[1]
