"""The simulated network, fault by fault, on a raw pair of connections: what each one does, and what none may do.

What it shares with the real transport is in tests/contract/test_transport.py; the real Link on it in test_network_links.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest

from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.net_stream import TcpTimes
from jepsen_lite.sim.net_wire import COUNTERS, WireConditions
from jepsen_lite.sim.network import SimNetwork
from kvstore.errors import DecodeError, Unavailable
from kvstore.limits import CHUNK_SIZE_BYTES_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.frames import FrameKind, Hello, decode_frame, encode_frame, hello_fields
from tests.support.transports import Recorder, Side, echo

EXACT = WireConditions(delay_s_min=0.010, jitter_s_mean=0.0)
TIMES = TcpTimes()
GIVES_UP_S = 15.8
"""The retries of a stream: 0.2, 0.4, 0.8, 1.6 and four times 3.2 s."""
Event = tuple[str, str, str, bytes]


class Duo:
    """A network in which everything takes exactly 10 ms, and a connection from host `a` to host `b` in it."""

    def __init__(self, seed: int, times: TcpTimes) -> None:
        self.events: list[Event] = []
        self.network = SimNetwork(random.Random(seed), on_event=lambda *event: self.events.append(event), times=times)
        self.ends, self.starts = Side(), Side()
        for source, target in (("a", "b"), ("b", "a")):
            self.network.change(source, target, EXACT)

    async def connect(self) -> Duo:
        await self.network.transport("b").serve("b:7000", self.ends)
        await self.network.transport("a").connect("b:7000", self.starts, timeout_s=60)
        return self

    @property
    def a(self) -> Recorder:
        return self.starts.recorders[0]

    @property
    def b(self) -> Recorder:
        return self.ends.recorders[0]

    def set(self, source: str, target: str, **changes: float | bool | None) -> None:
        conditions = replace(EXACT, **changes)  # type: ignore[arg-type]  # each test names a field and its type
        self.network.change(source, target, conditions)

    def kinds(self, kind: str) -> list[bytes]:
        return [event[3] for event in self.events if event[0] == kind]

    def __getitem__(self, counter: str) -> int:
        return self.network.counts[counter]


def simulate(scenario: Callable[[Duo], Awaitable[None]], *, seed: int = 1, times: TcpTimes = TIMES) -> Duo:
    """Run a scenario on virtual time; callbacks cost nothing, so times are exact."""
    duo: list[Duo] = []

    async def main() -> None:
        duo.append(await Duo(seed, times).connect())
        await scenario(duo[0])

    VirtualLoop(random.Random(seed), charge_s=0.0).run(main(), until_s=10_000)
    return duo[0]


def now_s() -> float:
    return asyncio.get_running_loop().time()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def request(operation_id: int, body: bytes = b"", verb: Verb = Verb.PUT) -> bytes:
    return encode_frame([FrameKind.REQUESTS, 0, operation_id, int(verb), 0, 1_000, b"key", body])


async def arrivals(recorder: Recorder, count: int) -> list[float]:
    """Return when each of the next frames came."""
    times_s = []
    for number in range(count):
        await recorder.until_frames(number + 1)
        times_s.append(now_s())
    return times_s


def closing_times(duo: Duo) -> dict[str, float]:
    """Return a dict that will hold when each of the two ends was told its end."""
    closed_s: dict[str, float] = {}

    def note(name: str, closed: Callable[[Exception | None], None], error: Exception | None) -> None:
        closed_s[name] = now_s()
        closed(error)

    for name, end in (("a", duo.a), ("b", duo.b)):
        end.connection_closed = partial(note, name, end.connection_closed)  # type: ignore[method-assign]  # a spy
    return closed_s


# --- delay


def test_each_direction_has_its_own_delay() -> None:
    """10 ms there, 500 ms back."""

    async def scenario(duo: Duo) -> None:
        duo.set("b", "a", delay_s_min=0.5)
        sent_s = now_s()
        duo.a.connection.send(b"ping")
        await duo.b.until_frames(1)
        assert now_s() - sent_s == pytest.approx(0.010)
        duo.b.connection.send(b"pong")
        await duo.a.until_frames(1)
        assert now_s() - sent_s == pytest.approx(0.510)

    simulate(scenario)


def test_jitter_and_long_tail_keep_the_order() -> None:
    """A late frame holds up those behind it; delays vary, and some are far above the base."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", jitter_s_mean=0.02, late_share=0.1, late_s_max=3.0)
        for frame in numbered(200):
            duo.a.connection.send(frame)
            await asyncio.sleep(0.05)
        assert await duo.b.until_frames(200) == numbered(200)

    duo = simulate(scenario)

    assert 5 < duo["late"] < 50


# --- loss


def test_a_lost_frame_comes_again_and_holds_up_those_behind_it() -> None:
    """RTO 0.2 s, doubling: with everything lost for a second the retries are at 0.2, 0.6 and 1.4 s."""

    async def scenario(duo: Duo) -> None:
        started_s = now_s()
        duo.set("a", "b", loss_good=1.0)
        duo.a.connection.send(b"lost")
        asyncio.get_running_loop().call_later(1.0, duo.set, "a", "b")
        await asyncio.sleep(1.2)
        duo.a.connection.send(b"behind")
        await duo.b.until_frames(2)

        assert duo.b.frames == [b"lost", b"behind"]
        assert now_s() - started_s == pytest.approx(1.4 + 0.010)

    assert simulate(scenario)["lost"] == 3


def test_loss_comes_in_bursts() -> None:
    """Gilbert-Elliott: no loss in the good state, all of it in the bad one; the share of time in it decides the rest."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", loss_bad=1.0, bad_enter=0.02, bad_leave=0.5)
        for frame in numbered(500):
            duo.a.connection.send(frame)
            await asyncio.sleep(0.01)
        await asyncio.sleep(200)
        assert duo.b.frames == numbered(500)

    assert 5 < simulate(scenario)["lost"] < 80


def test_too_many_losses_in_a_row_break_the_connection_and_each_end_learns_for_itself() -> None:
    """The sender after its retries, and says nothing; the other by its silence. The frame is gone."""

    async def scenario(duo: Duo) -> None:
        started_s, closed_s = now_s(), closing_times(duo)
        duo.set("a", "b", loss_good=1.0)
        duo.a.connection.send(b"never")
        await asyncio.sleep(200)
        assert duo.b.frames == []
        assert closed_s["a"] - started_s == pytest.approx(GIVES_UP_S)
        assert closed_s["b"] - started_s > 0.8 * 105

    duo = simulate(scenario, times=TcpTimes(keepalive_s=100))

    assert duo["broken_losses"] == 1
    assert duo.kinds("drop") == [b"never"]


# --- cut and heal


def test_a_cut_is_silent_and_after_the_heal_what_waited_arrives() -> None:
    """Both ends stay open; the retries go on and the next one after the heal brings everything, in order."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut("a", "b")
        for frame in numbered(10):
            duo.a.connection.send(frame)
            duo.b.connection.send(frame)
        await asyncio.sleep(5)
        assert (duo.a.frames, duo.b.frames, duo.a.closings, duo.b.closings) == ([], [], [], [])
        assert duo.a.connection.backlog_bytes == 10

        duo.network.heal("a", "b")
        await duo.a.until_frames(10)
        await duo.b.until_frames(10)
        assert duo.a.frames == duo.b.frames == numbered(10)

    duo = simulate(scenario)

    assert (duo["cuts"], duo["heals"]) == (2, 2)
    assert duo["met_cut"] > 2


def test_what_is_under_way_when_the_cut_comes_is_sent_again() -> None:
    """Unlike MemoryNetwork, which swallows it for ever."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"under way")
        await asyncio.sleep(0.005)
        duo.network.cut("a", "b")
        await asyncio.sleep(0.1)
        duo.network.heal_all()
        assert await duo.b.until_frames(1) == [b"under way"]

    simulate(scenario)


def test_what_met_the_cut_stays_before_what_was_lost_behind_it() -> None:
    """The second frame was lost first; the first one must be sent again before it."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"first")
        duo.set("a", "b", loss_good=1.0)
        duo.a.connection.send(b"second")
        await asyncio.sleep(0.005)
        duo.network.cut("a", "b")
        await asyncio.sleep(0.1)
        duo.set("a", "b")
        duo.network.heal_all()
        assert await duo.b.until_frames(2) == [b"first", b"second"]

    simulate(scenario)


@pytest.mark.parametrize("cut", [("a", "b"), ("b", "a")])
def test_a_one_way_cut_lets_the_other_way_pass_and_breaks_both_ends_in_the_end(cut: tuple[str, str]) -> None:
    """One direction works; each end notices by its own timer that the other one does not."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut_one_way(*cut)
        sender, receiver = (duo.b, duo.a) if cut == ("a", "b") else (duo.a, duo.b)
        sender.connection.send(b"passes")
        await receiver.until_frames(1)
        receiver.connection.send(b"does not")
        times_s = []
        for end in (receiver, sender):
            await end.until_closed()
            times_s.append(now_s())

        assert sender.frames == []
        assert max(times_s) < 2 * (TIMES.keepalive_s + TIMES.silence_s)

    simulate(scenario)


def test_an_idle_connection_that_is_cut_ends_at_each_side_by_its_own_keepalive() -> None:
    """Nobody sends anything: a ping after 10 s, the end 5 s later, each end a little sooner or later than the other."""

    async def scenario(duo: Duo) -> None:
        closed_s = closing_times(duo)
        duo.network.cut("a", "b")
        await asyncio.sleep(60)

        assert sorted(closed_s) == ["a", "b"]
        assert all(0.8 * 15 <= at_s <= 1.2 * 15 + 0.1 for at_s in closed_s.values())
        assert closed_s["a"] != closed_s["b"]

    assert simulate(scenario)["broken_silence"] == 2


def test_an_idle_connection_lives_for_ever_without_a_fault() -> None:
    """The pings are answered."""

    async def scenario(duo: Duo) -> None:
        await asyncio.sleep(3_600)
        duo.a.connection.send(b"still there?")
        assert await duo.b.until_frames(1) == [b"still there?"]

    simulate(scenario)


def test_connecting_through_a_cut_hangs_until_its_timeout_or_the_heal() -> None:
    """Whatever direction is cut."""

    async def scenario(duo: Duo) -> None:
        transport = duo.network.transport("a")
        for link in (("a", "b"), ("b", "a")):
            duo.network.cut_one_way(*link)
            started_s = now_s()
            with pytest.raises(Unavailable) as caught:
                await transport.connect("b:7000", Side(), timeout_s=3)
            assert now_s() - started_s == pytest.approx(3)
            assert caught.value.details == {"timeout_s": 3}
            duo.network.heal_all()
        duo.network.cut("a", "b")
        asyncio.get_running_loop().call_later(1, duo.network.heal_all)
        await transport.connect("b:7000", Side(), timeout_s=3)
        await asyncio.sleep(60)
        assert duo.network.connections_count("a") == duo.network.connections_count("b") == 2

    simulate(scenario)


# --- bandwidth and clogs


def test_bandwidth_delays_by_size_and_is_shared_by_the_connections_of_a_wire() -> None:
    """At 1,000 bytes a second four frames of 500 bytes take half a second each, on two connections as on one."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", bandwidth_bytes_per_s=1_000.0)
        second = await duo.network.transport("a").connect("b:7000", duo.starts, timeout_s=5)
        started_s = now_s()
        for _ in range(2):
            duo.a.connection.send(b"x" * 500)
            second.send(b"y" * 500)
        await duo.b.until_frames(2)
        assert now_s() - started_s == pytest.approx(1.5 + 0.010)
        await duo.ends.recorders[1].until_frames(2)
        assert now_s() - started_s == pytest.approx(2.0 + 0.010)

    simulate(scenario)


def test_a_clog_holds_everything_and_then_releases_it_in_a_burst() -> None:
    """Also what was under way; no loss, no retry, and all at the same instant (fault N14)."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.send(b"0")
        duo.network.clog_links([("a", "b")], for_s=4.0)
        for frame in numbered(50)[1:]:
            await asyncio.sleep(0.01)
            duo.a.connection.send(frame)
        await asyncio.sleep(3)
        assert duo.b.frames == []

        times_s = await arrivals(duo.b, 50)
        assert duo.b.frames == numbered(50)
        assert times_s[-1] - times_s[0] <= 0.010 + 1e-9

    duo = simulate(scenario)

    assert (duo["clogged"], duo["lost"], duo["met_cut"]) == (1, 0, 0)


def test_a_clog_without_an_end_is_ended_by_unclog() -> None:
    """Long before the keepalive would break the connection."""

    async def scenario(duo: Duo) -> None:
        duo.network.clog_links([("a", "b")])
        duo.a.connection.send(b"held")
        await asyncio.sleep(2)
        assert duo.b.frames == []
        duo.network.unclog_links([("a", "b")])
        await asyncio.sleep(0.011)
        assert duo.b.frames == [b"held"]

    simulate(scenario)


def test_wires_clog_by_themselves_if_told_to() -> None:
    """A rate per second in which something is sent, and a mean time; nothing is lost."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", clogs_per_s=1.0, clog_s_mean=0.3)
        for frame in numbered(300):
            duo.a.connection.send(frame)
            await asyncio.sleep(0.1)
        assert await duo.b.until_frames(300) == numbered(300)

    assert 5 <= simulate(scenario)["clogged"] <= 60


def test_a_queue_above_its_bound_breaks_the_connection() -> None:
    """The sender has more under way than a connection may hold."""

    async def scenario(duo: Duo) -> None:
        duo.network.clog_links([("a", "b")])
        duo.a.connection.send(b"x" * 600)
        duo.a.connection.send(b"y" * 600)
        assert duo.a.closings == []  # never from inside `send`
        assert "queue" in str(await duo.a.until_closed())

    assert simulate(scenario, times=TcpTimes(queue_bytes_max=1_000))["broken_queue"] == 1


# --- duplication


def test_a_request_is_delivered_twice_at_once_or_later_and_nothing_else_is() -> None:
    """HELLO, replies and frames that are none of ours come once; each request once or twice, copies byte by byte."""
    requests = [request(number) for number in range(100)]
    reply = encode_frame([FrameKind.REPLIES, 1, 7, int(Status.OK), b""])
    once = [encode_frame(hello_fields(Hello())), reply, b"not a frame of ours"]

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", duplicate_share=0.5)
        for frame in once * 20 + requests:
            duo.a.connection.send(frame)
        await asyncio.sleep(5)
        assert [frame for frame in duo.b.frames if frame in once] == once * 20
        assert list(dict.fromkeys(frame for frame in duo.b.frames if frame not in once)) == requests
        assert duo.a.connection.backlog_bytes == 0

    duo = simulate(scenario)

    copies = len(duo.b.frames) - 160
    assert 30 < copies == duo["duplicated"] + duo["duplicated_late"] < 70
    assert duo["duplicated"] > 5 < duo["duplicated_late"]
    assert len(duo.kinds("dup")) == copies


def test_a_body_in_chunks_is_never_doubled() -> None:
    """A second last chunk would be a body without its beginning, which no sender can produce."""
    part = request(1, bytes(CHUNK_SIZE_BYTES_MAX), Verb.PART)

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", duplicate_share=1.0)
        for frame in (part, request(1, b"last"), request(2)):
            duo.a.connection.send(frame)
        await asyncio.sleep(5)
        assert sorted(duo.b.frames) == sorted([part, request(1, b"last"), request(2), request(2)])

    simulate(scenario)


def test_a_late_copy_dies_with_its_connection() -> None:
    """Nothing follows an orderly end."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", duplicate_share=1.0)
        for number in range(20):
            duo.a.connection.send(request(number))
        duo.a.connection.close()
        await asyncio.sleep(5)
        assert duo.b.closings == [None]

    duo = simulate(scenario)

    assert duo["duplicated"] > 5
    assert (duo["duplicated_late"], duo.kinds("drop")) == (0, [])


# --- old frames after a reconnect


def test_frames_of_an_old_connection_arrive_after_frames_of_the_new_one() -> None:
    """The client gave up and connected again; what it had sent before was only late, and the server still takes it."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", straggle_share=1.0, straggle_s_max=5.0)
        order: list[bytes] = []
        for frame in numbered(3):
            duo.a.connection.send(frame)
        duo.a.connection.close(Unavailable("given up"))
        fresh = await duo.network.transport("a").connect("b:7000", duo.starts, timeout_s=5)
        fresh.send(b"new")
        for recorder in duo.ends.recorders:
            recorder._on_frame = lambda recorder, frame: order.append(frame)
        await asyncio.sleep(6)
        assert order == [b"new", *numbered(3)]
        assert duo.b.closings == []  # nobody told the server; it finds out when it answers
        duo.b.connection.send(b"answer")
        assert isinstance(await duo.b.until_closed(), ConnectionResetError)

    assert simulate(scenario)["straggled"] == 1


def test_what_a_given_up_connection_has_under_way_is_not_sent_again() -> None:
    """It met a cut, and nobody is left to retry."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", straggle_share=1.0, straggle_s_max=1.0)
        duo.a.connection.send(b"old")
        duo.a.connection.close(Unavailable("given up"))
        duo.network.cut("a", "b")
        await asyncio.sleep(2)
        duo.network.heal_all()
        await asyncio.sleep(5)
        assert duo.b.frames == []

    assert simulate(scenario).kinds("drop") == [b"old"]


def test_without_straggling_a_reset_may_overtake_what_is_under_way() -> None:
    """What arrives is a prefix: here nothing, because the reset was faster."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", delay_s_min=1.0)
        duo.a.connection.send(b"slow")
        duo.set("a", "b", delay_s_min=0.01)
        duo.a.connection.close(ValueError("enough"))
        assert isinstance(await duo.b.until_closed(), ConnectionResetError)
        await asyncio.sleep(5)
        assert duo.b.frames == []

    assert simulate(scenario).kinds("drop") == [b"slow"]


# --- ends


def test_word_of_an_end_may_meet_a_cut_and_is_not_repeated() -> None:
    """The other end learns when it says something after the heal."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.close(ValueError("enough"))
        await asyncio.sleep(0.005)
        duo.network.cut("a", "b")
        await asyncio.sleep(1)
        duo.network.heal_all()
        await asyncio.sleep(1)
        assert duo.b.closings == []
        duo.b.connection.send(b"anybody there?")
        assert isinstance(await duo.b.until_closed(), ConnectionResetError)

    simulate(scenario)


def test_an_orderly_end_is_repeated_unless_its_machine_dies() -> None:
    """It waits behind the frames like one of them; a dead machine repeats nothing, not even after it is back."""

    async def scenario(duo: Duo, *, dies: bool) -> None:
        duo.network.cut("a", "b")
        duo.b.connection.send(b"last words")
        duo.b.connection.close()
        await asyncio.sleep(1)
        if dies:
            duo.network.crash("b", silent=True)
            duo.network.revive("b")
        duo.network.heal_all()
        await asyncio.sleep(5)
        assert (duo.a.frames, duo.a.closings) == (([], []) if dies else ([b"last words"], [None]))

    for dies in (False, True):
        assert simulate(partial(scenario, dies=dies)).network._flushing == {}


def test_a_reset_from_between_reaches_the_two_ends_at_different_times() -> None:
    """Only connections between these hosts."""

    async def scenario(duo: Duo) -> None:
        await duo.network.transport("c").connect("b:7000", duo.starts, timeout_s=5)
        duo.network.reset("b", "a")
        errors = [await duo.a.until_closed(), await duo.b.until_closed()]
        assert [type(error) for error in errors] == [ConnectionResetError] * 2
        assert duo.starts.recorders[1].closings == []

    assert simulate(scenario)["broken_reset"] in (1, 2)  # the first end may tell the second before its own reset


def test_the_crash_of_a_process_is_a_reset_elsewhere_after_a_delay() -> None:
    """Whether its kernel flushes first or not is drawn; its handlers are never called again, its listener is gone."""

    async def scenario(duo: Duo) -> None:
        duo.b.connection.send(b"sent just before")
        duo.network.crash("b")
        crashed_s = now_s()
        assert isinstance(await duo.a.until_closed(), ConnectionResetError)
        assert now_s() - crashed_s == pytest.approx(0.010)
        assert duo.b.closings == []
        with pytest.raises(Unavailable, match="refused"):
            await duo.network.transport("a").connect("b:7000", Side(), timeout_s=1)

    received = [simulate(scenario, seed=seed).a.frames for seed in range(20)]

    assert sorted({len(frames) for frames in received}) == [0, 1]


def test_a_process_that_crashes_while_a_connection_ends_hears_nothing_of_it() -> None:
    """Word of the end was already on its way to the handler."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.close(ValueError("enough"))
        duo.network.crash("a")
        await asyncio.sleep(1)
        assert duo.a.closings == []
        assert isinstance(duo.b.closings[0], ConnectionResetError)

    simulate(scenario)


def test_a_knock_that_outlives_a_restart_is_answered_by_the_new_process() -> None:
    """Its connection is as good as any: the new process hears of its end."""

    async def scenario(duo: Duo) -> None:
        duo.network.cut("a", "b")
        connecting = asyncio.create_task(duo.network.transport("a").connect("b:7000", Side(), timeout_s=5))
        await asyncio.sleep(0.1)
        duo.network.crash("b")
        ends = Side()
        await duo.network.transport("b").serve("b:7000", ends)
        duo.network.heal_all()
        connection = await connecting
        connection.close()
        assert await ends.recorders[0].until_closed() is None

    simulate(scenario)


def test_the_silent_crash_of_a_machine_is_noticed_by_nobody_until_their_own_timers() -> None:
    """Half-open: no reset, no refusal, connecting hangs. An idle end learns by keepalive (fault N11)."""

    async def scenario(duo: Duo) -> None:
        duo.network.crash("b", silent=True)
        crashed_s = now_s()
        with pytest.raises(Unavailable) as caught:
            await duo.network.transport("a").connect("b:7000", Side(), timeout_s=3)
        assert caught.value.details == {"timeout_s": 3}
        assert duo.a.closings == []
        await duo.a.until_closed()
        assert now_s() - crashed_s > 0.8 * (TIMES.keepalive_s + TIMES.silence_s)
        assert duo.b.closings == []

    assert simulate(scenario)["crashed_silently"] == 1


def test_a_machine_that_is_back_answers_old_connections_with_a_reset() -> None:
    """The retry of what was sent meanwhile finds a machine that knows no such connection."""

    async def scenario(duo: Duo) -> None:
        duo.network.crash("b", silent=True)
        duo.a.connection.send(b"anybody there?")
        await asyncio.sleep(2)
        assert duo.a.closings == []
        ends = Side(echo)
        await duo.network.transport("b").serve("b:7000", ends)
        assert isinstance(await duo.a.until_closed(), ConnectionResetError)
        await duo.network.transport("a").connect("b:7000", duo.starts, timeout_s=1)
        assert duo.b.frames == ends.recorders[0].frames == []

    assert simulate(scenario)["answered_reset"] == 1


def test_nothing_of_a_crashed_process_reaches_the_network() -> None:
    """Its tasks still run until somebody cancels them: their transport refuses, their connections are closed."""

    async def scenario(duo: Duo) -> None:
        old, connecting = duo.network.transport("a"), Side()
        task = asyncio.create_task(old.connect("b:7000", connecting, timeout_s=5))
        await asyncio.sleep(0)
        duo.network.crash("a")
        duo.a.connection.send(b"from the grave")
        with pytest.raises(Unavailable, match="crashed"):
            await old.connect("b:7000", Side(), timeout_s=1)
        with pytest.raises(Unavailable, match="crashed"):
            await old.serve("a:7000", Side())
        with pytest.raises(Unavailable):
            await task
        await asyncio.sleep(1)
        assert (duo.b.frames, connecting.recorders) == ([], [])

    simulate(scenario)


# --- gray failures and corruption


def test_frames_above_the_path_mtu_never_arrive_and_block_those_behind_them() -> None:
    """Small ones did; the retries of the large one end the connection (fault G1)."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", frame_bytes_max=1_400)
        duo.a.connection.send(b"small")
        duo.a.connection.send(b"x" * 1_401)
        duo.a.connection.send(b"behind")
        await asyncio.sleep(GIVES_UP_S + 1)
        assert "losses" in str(duo.a.closings[0])
        assert (duo.b.frames, duo.b.closings) == ([b"small"], [])  # who gives up retrying says nothing

    assert simulate(scenario, times=TcpTimes(keepalive_s=100))["black_hole"] == TIMES.losses_max + 1


def test_a_wire_may_refuse_knocks_and_carry_everything_else() -> None:
    """Existing connections work, and so do new ones the other way round."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", loses_knocks=True)
        with pytest.raises(Unavailable):
            await duo.network.transport("a").connect("b:7000", Side(), timeout_s=2)
        duo.a.connection.send(b"works")
        await duo.b.until_frames(1)
        await duo.network.transport("a").serve("a:7000", Side())
        await duo.network.transport("b").connect("a:7000", Side(), timeout_s=1)

    assert simulate(scenario)["knock_lost"] > 1


def test_a_flipped_bit_reaches_the_decoder_only_if_the_decoder_can_see_it() -> None:
    """The others are what checksums are for: the connection breaks and the frame is gone. Off unless asked for."""
    whole = request(1, b"some value")

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", corrupt_share=1.0)
        duo.a.connection.send(whole)
        await asyncio.sleep(1)
        if duo.b.frames:
            with pytest.raises(DecodeError):
                decode_frame(duo.b.frames[0])
        else:
            assert "checksum" in str(duo.b.closings[0])

    worlds = [simulate(scenario, seed=seed) for seed in range(40)]

    assert sum(duo["corrupted"] for duo in worlds) > 2 < sum(duo["corruption_caught"] for duo in worlds)
    assert all(duo["corrupted"] + duo["corruption_caught"] == 1 for duo in worlds)
    assert WireConditions().corrupt_share == 0


# --- books


def test_every_frame_is_traced_as_delivered_or_dropped_exactly_once() -> None:
    """Whatever ended its connection."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", loss_good=0.3, late_share=0.3)
        for frame in numbered(50):
            duo.a.connection.send(frame)
        await asyncio.sleep(1.5)
        duo.a.connection.close(ValueError("enough"))
        await asyncio.sleep(60)

    duo = simulate(scenario)

    assert sorted(duo.kinds("frame") + duo.kinds("drop")) == sorted(numbered(50))
    assert (duo["frames_delivered"], duo["frames_dropped"]) == (len(duo.kinds("frame")), len(duo.kinds("drop")))
    assert duo["frames_delivered"] > 0 < duo["frames_dropped"]


def test_opened_and_ended_connections_are_traced_at_both_ends() -> None:
    """With the number of the connection, and the reason of the end."""

    async def scenario(duo: Duo) -> None:
        duo.a.connection.close(ValueError("enough"))
        await asyncio.sleep(1)

    duo = simulate(scenario)

    assert [event[:3] for event in duo.events if event[0] in ("open", "end")] == [
        ("open", "b", "a"), ("open", "a", "b"), ("end", "a", "b"), ("end", "b", "a"),
    ]  # fmt: skip
    assert duo.kinds("end")[0] == b"1 enough"


def test_counters_are_complete_and_ordered() -> None:
    """A report shows also what was never hit."""

    async def scenario(duo: Duo) -> None:
        assert tuple(duo.network.counts) == COUNTERS

    simulate(scenario)


def test_a_calmed_network_injects_nothing_more() -> None:
    """For the liveness phase: cuts, clogs and conditions end, for old wires and new ones."""

    async def scenario(duo: Duo) -> None:
        duo.set("a", "b", loss_good=1.0, loses_knocks=True)
        duo.network.cut("a", "b")
        duo.network.clog_links([("b", "a")])
        duo.network.calm()
        duo.a.connection.send(b"works")
        await duo.b.until_frames(1)
        await duo.network.transport("c").connect("b:7000", Side(), timeout_s=1)

    simulate(scenario)


def test_closed_connections_are_forgotten() -> None:
    """A long simulation opens many thousands."""

    async def scenario(duo: Duo) -> None:
        for _ in range(100):
            connection = await duo.network.transport("a").connect("b:7000", Side(), timeout_s=1)
            connection.close()
        await asyncio.sleep(10)
        assert duo.network.connections_count("a") == duo.network.connections_count("b") == 1
        assert duo.network._flushing == {}

    simulate(scenario)
