"""The faults of the network in memory, and its determinism: what a simulation may rely on.

Everything it shares with the real transport is in tests/contract/test_transport.py. All of it runs on virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from jepsen_lite.sim.loop import VirtualLoop
from kvstore.errors import ConfigError, Unavailable
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX
from kvstore.transport.memory import DelayPolicy, MemoryListener, MemoryNetwork
from tests.support.transports import Recorder, Side, echo


class Duo:
    """A network, a connection from host `a` to host `b` in it, and both recorders."""

    def __init__(self, network: MemoryNetwork, listener: MemoryListener, a: Recorder, b: Recorder) -> None:
        self.network, self.listener, self.a, self.b = network, listener, a, b


def simulate(
    scenario: Callable[[Duo], Awaitable[None]], *, network: MemoryNetwork | None = None, seed: int = 1
) -> float:
    """Run a scenario on virtual time (no charge for callbacks, so times are exact); return when it ended."""

    async def main() -> float:
        duo = await connected(network or MemoryNetwork(lambda source, target: 0.010))
        await scenario(duo)
        return loop.time()

    loop = VirtualLoop(random.Random(seed), charge_s=0.0)
    return loop.run(main(), until_s=1_000)


async def connected(network: MemoryNetwork) -> Duo:
    ends, starts = Side(), Side()
    listener = await network.transport("b").serve("b:7000", ends)
    await network.transport("a").connect("b:7000", starts, timeout_s=60)
    return Duo(network, listener, starts.recorders[0], ends.recorders[0])


async def settle(seconds: float = 10.0) -> None:
    """Let virtual time pass: whatever was under way has arrived, or never will."""
    await asyncio.sleep(seconds)


def sometimes_late(rng: random.Random) -> DelayPolicy:
    return lambda source, target: rng.choice([0.0, rng.random()])


# Order and time


def test_frames_keep_their_order_whatever_the_delays() -> None:
    """With random delays a later frame waits for the earlier one; for eight seeds, both ways."""
    for seed in range(8):
        rng = random.Random(seed)

        async def scenario(duo: Duo) -> None:
            for number in range(100):
                duo.a.connection.send(b"%d" % number)
                duo.b.connection.send(b"%d" % number)
            await duo.a.until_frames(100)
            await duo.b.until_frames(100)
            assert duo.a.frames == duo.b.frames == [b"%d" % number for number in range(100)]

        simulate(scenario, network=MemoryNetwork(sometimes_late(rng)), seed=seed)


def test_connecting_and_asking_take_the_delays_of_the_policy() -> None:
    """There and back for the connection (20 ms), there for the frame (10 ms)."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"ping")
        await duo.b.until_frames(1)

    assert simulate(scenario) == pytest.approx(0.030)


def test_the_trace_sees_each_frame_as_it_is_handed_over() -> None:
    """Source host, target host, bytes."""
    trace: list[tuple[str, str, bytes]] = []

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"ping")
        await duo.b.until_frames(1)
        duo.b.connection.send(b"pong")
        await duo.a.until_frames(1)

    simulate(scenario, network=MemoryNetwork(on_frame=lambda *seen: trace.append(seen)))

    assert trace == [("a", "b", b"ping"), ("b", "a", b"pong")]


def test_the_same_seed_gives_the_same_trace() -> None:
    """Three connections with random delays: a run is a function of its seed, down to the time of each frame."""

    def run(seed: int) -> list[tuple[float, str, str, bytes]]:
        rng, trace = random.Random(seed), []
        loop = VirtualLoop(random.Random(seed))
        network = MemoryNetwork(lambda s, t: rng.random(), lambda s, t, frame: trace.append((loop.time(), s, t, frame)))

        async def main() -> None:
            await network.transport("b").serve("b:7000", Side(echo))
            starts = Side()
            for host in ("a", "c", "d"):
                await network.transport(host).connect("b:7000", starts, timeout_s=60)
            for number in range(20):
                for recorder in starts.recorders:
                    recorder.connection.send(b"%d" % number)
            await settle()

        loop.run(main(), until_s=100)
        return trace

    assert run(5) == run(5)
    assert run(5) != run(6)
    assert len(run(5)) == 2 * 3 * 20


# Cuts


def test_a_cut_is_silent() -> None:
    """Both connections stay open, nothing arrives, and the backlog counts what was swallowed."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut("a", "b")
        duo.a.connection.send(b"12345")
        await settle()

        assert duo.b.frames == []
        assert duo.a.closings == duo.b.closings == []
        assert duo.a.connection.backlog_bytes == 5

    simulate(scenario)


def test_a_cut_swallows_what_is_under_way() -> None:
    """The frame was sent before the cut and would have arrived during it."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"under way")
        await settle(0.005)
        duo.network.cut("a", "b")
        await settle()
        assert duo.b.frames == []

    simulate(scenario)


def test_after_a_swallowed_frame_no_later_one_arrives() -> None:
    """A stream has no gaps: the direction stays silent after the heal; a new connection works."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut("a", "b")
        duo.a.connection.send(b"lost")
        duo.network.heal("a", "b")
        duo.a.connection.send(b"must not be the first")
        starts = Side()
        fresh = await duo.network.transport("a").connect("b:7000", starts, timeout_s=1)
        fresh.send(b"new connection")
        await settle()

        assert duo.b.frames == []
        assert duo.a.closings == []

    simulate(scenario)


def test_a_cut_that_swallowed_nothing_leaves_no_trace() -> None:
    """An idle connection survives a cut and a heal."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut("a", "b")
        await settle()
        duo.network.heal_all()
        duo.a.connection.send(b"still good")
        assert await duo.b.until_frames(1) == [b"still good"]

    simulate(scenario)


def test_a_one_way_cut_is_half_open() -> None:
    """Requests arrive, answers do not."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut_one_way("b", "a")
        duo.a.connection.send(b"request")
        await duo.b.until_frames(1)
        duo.b.connection.send(b"answer")
        await settle()
        assert duo.a.frames == []

    simulate(scenario)


def test_a_policy_may_swallow_single_connections() -> None:
    """None from the policy is a cut for that direction of that connection only."""
    swallow = False

    async def scenario(duo: Duo) -> None:
        nonlocal swallow
        swallow = True
        duo.a.connection.send(b"lost")
        swallow = False
        duo.a.connection.send(b"behind it")
        duo.b.connection.send(b"the other way")
        await settle()
        assert (duo.a.frames, duo.b.frames) == ([b"the other way"], [])

    simulate(scenario, network=MemoryNetwork(lambda source, target: None if swallow else 0.01))


def test_a_connection_that_is_answered_too_late_is_given_up_on_both_sides() -> None:
    """The client raises at its timeout and never calls `accept`; the server had accepted and is told the end."""
    network = MemoryNetwork(lambda source, target: 1.0 if (source, target) == ("a", "b") else 5.0)

    async def main() -> None:
        ends, starts = Side(), Side()
        await network.transport("b").serve("b:7000", ends)
        with pytest.raises(Unavailable) as caught:
            await network.transport("a").connect("b:7000", starts, timeout_s=3)
        await settle()

        assert caught.value.details == {"timeout_s": 3}
        assert starts.recorders == []
        assert isinstance(ends.recorders[0].closings[0], ConnectionResetError)
        assert network.connections_count("a") == network.connections_count("b") == 0

    VirtualLoop(random.Random(1)).run(main(), until_s=100)


# Ends


def test_an_orderly_close_delivers_what_was_under_way() -> None:
    """The end travels behind the frames. (The real one may lose them; `close(error)` here does.)"""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"last words")
        duo.a.connection.close()
        await settle()
        assert (duo.b.frames, duo.b.closings) == ([b"last words"], [None])

    simulate(scenario)


def test_a_close_with_an_error_loses_what_was_under_way() -> None:
    """So that callers meet this possibility."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"last words")
        duo.a.connection.close(ValueError("enough"))
        await settle()
        assert duo.b.frames == []
        assert isinstance(duo.b.closings[0], ConnectionResetError)

    simulate(scenario)


def test_reset_ends_both_sides_at_once_with_an_error() -> None:
    """Even across a cut, and only between the two hosts."""

    async def scenario(duo: Duo) -> None:
        starts = Side()
        await duo.network.transport("c").connect("b:7000", starts, timeout_s=1)
        duo.network.cut("a", "b")
        duo.a.connection.send(b"lost")
        duo.network.reset("b", "a")
        await settle(0.0)

        assert [type(error) for error in duo.a.closings + duo.b.closings] == [ConnectionResetError] * 2
        assert starts.recorders[0].closings == []

    simulate(scenario)


def test_a_crash_is_silent_on_its_host_and_a_reset_elsewhere() -> None:
    """The dead process hears nothing more; what it sent still arrives, and then the other side is told."""

    async def scenario(duo: Duo) -> None:
        duo.b.connection.send(b"sent just before")
        duo.network.crash("b")
        duo.a.connection.send(b"too late")
        await settle()

        assert (duo.b.frames, duo.b.closings) == ([], [])
        assert duo.a.frames == [b"sent just before"]
        assert isinstance(duo.a.closings[0], ConnectionResetError)
        with pytest.raises(Unavailable):
            await duo.network.transport("a").connect("b:7000", Side(), timeout_s=1)

    simulate(scenario)


def test_a_crashed_host_may_serve_its_address_again() -> None:
    """As a restarted process does; its old connections stay dead."""

    async def scenario(duo: Duo) -> None:
        duo.network.crash("b")
        ends, starts = Side(echo), Side()
        await duo.network.transport("b").serve("b:7000", ends)
        fresh = await duo.network.transport("a").connect("b:7000", starts, timeout_s=1)
        fresh.send(b"hello again")

        assert await starts.recorders[0].until_frames(1) == [b"hello again"]

    simulate(scenario)


def test_a_crash_behind_a_cut_is_noticed_when_something_is_sent_after_the_heal() -> None:
    """Until then the connection is half-open, for ever if nobody speaks; the restarted machine answers with a reset."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut("a", "b")
        duo.network.crash("b")
        duo.network.heal("a", "b")
        await settle()
        silent_until_now = not duo.a.closings
        duo.a.connection.send(b"anybody there?")
        await settle()

        assert silent_until_now
        assert isinstance(duo.a.closings[0], ConnectionResetError)

    simulate(scenario)


def test_a_close_behind_a_cut_is_noticed_in_the_same_way() -> None:
    """Word of the end was swallowed, so the next frame is answered with a reset."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut_one_way("b", "a")
        duo.b.connection.close()
        duo.network.heal("a", "b")
        duo.a.connection.send(b"anybody there?")
        await settle()
        assert isinstance(duo.a.closings[0], ConnectionResetError)

    simulate(scenario)


# The rest


def test_a_host_serves_only_its_own_addresses() -> None:
    """A typing mistake in a scenario, found at once."""

    async def scenario(duo: Duo) -> None:
        with pytest.raises(ConfigError, match="not an address of a"):
            await duo.network.transport("a").serve("b:7001", Side())

    simulate(scenario)


def test_closed_connections_are_forgotten() -> None:
    """A long simulation opens many thousands."""

    async def scenario(duo: Duo) -> None:
        for _ in range(100):
            connection = await duo.network.transport("a").connect("b:7000", Side(), timeout_s=1)
            connection.close()
        await settle()
        assert duo.network.connections_count("a") == duo.network.connections_count("b") == 1

    simulate(scenario)


def test_a_paused_end_takes_frames_again_when_its_own_were_taken() -> None:
    """The accepting side holds back requests while its answers are under way, then goes on by itself."""
    answer = b"x" * (CONNECTION_BACKLOG_BYTES_MAX // 4)

    async def main() -> None:
        network = MemoryNetwork(lambda source, target: 1.0)
        ends, starts = Side(lambda recorder, frame: recorder.connection.send(answer)), Side()
        await network.transport("b").serve("b:7000", ends)
        connection = await network.transport("a").connect("b:7000", starts, timeout_s=10)
        for _ in range(12):
            connection.send(b"request")

        await settle(1.5)
        assert len(ends.recorders[0].frames) == 5  # four fill the bound, the fifth passes it
        await starts.recorders[0].until_frames(12)
        assert len(ends.recorders[0].frames) == 12

    VirtualLoop(random.Random(1), charge_s=0.0).run(main(), until_s=100)
