"""Simulated processes: each has its own CPU, can be paused and starved, and when it is killed that is the end of it."""

from __future__ import annotations

import asyncio
import random
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from jepsen_lite.sim.loop import Deadlock, SimulationError, UnseenFailures, VirtualLoop
from jepsen_lite.sim.processes import PROCESS, Process, ProcessDied, ProcessKilled

MS = 0.001


def run(story: Callable[[VirtualLoop], Coroutine[Any, Any, Any]], *, seed: int = 1, charge_s: float = MS) -> Any:
    """Run a story in which a callback costs a millisecond; warnings are errors, because the dead must be silent."""
    loop = VirtualLoop(random.Random(seed), charge_s=charge_s)
    loop.spawn("bystander")  # from now on the harness is free
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return loop.run(story(loop), until_s=1_000)


def at(loop: VirtualLoop) -> float:
    return round(loop.time(), 6)


def call_later_in(loop: VirtualLoop, process: Process, delay_s: float, call: Callable[..., object], *args: Any) -> None:
    """Set a timer of a process."""
    loop.call_later(delay_s, partial(call, *args), context=process.context)


# --- ownership


def test_what_a_process_schedules_is_its_own() -> None:
    """Tasks, timers and callbacks inherit the process of whoever made them; the harness is none."""

    async def story(loop: VirtualLoop) -> None:
        owners: list[Process | None] = []

        async def child() -> None:
            owners.append(loop.current)
            loop.call_soon(lambda: owners.append(loop.current))
            loop.call_later(1, lambda: owners.append(PROCESS.get()))

        async def parent() -> None:
            await asyncio.create_task(child())

        process = loop.spawn("n1")
        await loop.run_in(process, parent())
        await asyncio.sleep(2)

        assert owners == [process, process, process]
        assert loop.current is None and PROCESS.get() is None

    run(story)


def test_a_future_wakes_its_waiter_in_the_waiters_process() -> None:
    """Whoever completes it: else a message would be handled by the sender."""

    async def story(loop: VirtualLoop) -> None:
        n1, n2 = loop.spawn("n1"), loop.spawn("n2")
        message: asyncio.Future[str] = loop.create_future()

        async def receive() -> tuple[str, Process | None]:
            return await message, loop.current

        received = loop.create_task(loop.run_in(n1, receive()))
        loop.call_in(n2, message.set_result, "hello")

        assert await received == ("hello", n1)

    run(story)


def test_lives_of_a_host_are_numbered() -> None:
    """A task tells which life of which host it belongs to."""

    async def story(loop: VirtualLoop) -> None:
        first, other, second = loop.spawn("n1"), loop.spawn("n2"), loop.spawn("n1")

        assert [repr(each) for each in (first, other, second)] == ["n1.1", "n2.1", "n1.2"]
        task = loop.create_task_in(second, asyncio.sleep(1), name="worker")
        assert task.get_name() == "n1.2:worker"
        assert loop.pending_tasks(second) == [task] and loop.pending_tasks(first) == []

    run(story)


# --- CPU


def test_a_busy_process_delays_itself_and_nobody_else() -> None:
    """A hundred callbacks of 1 ms on n1: its timer is late, that of n2 is not, and the harness pays nothing."""

    async def story(loop: VirtualLoop) -> None:
        late: dict[str, float] = {}

        def note(name: str) -> None:
            late[name] = at(loop)

        n1, n2 = loop.spawn("n1"), loop.spawn("n2")
        for name, process in (("n1", n1), ("n2", n2)):
            call_later_in(loop, process, 0.01, partial(note, name))
        loop.call_later(0.01, note, "harness")
        for _ in range(100):
            loop.call_in(n1, lambda: None)
        for _ in range(100):
            loop.call_soon(lambda: None)
        await asyncio.sleep(1)

        assert late == {"n1": 0.1, "n2": 0.01, "harness": 0.01}

    run(story)


def test_callbacks_of_a_process_run_first_in_first_out() -> None:
    """Also those that wait while it is busy, and timers that come due meanwhile come after them."""

    async def story(loop: VirtualLoop) -> None:
        order: list[object] = []
        process = loop.spawn("n1")
        for number in range(5):
            loop.call_in(process, order.append, number)
        call_later_in(loop, process, 2.5 * MS, order.append, "timer")
        loop.call_later(2 * MS, loop.call_in, process, order.append, "message")
        await asyncio.sleep(1)

        assert order == [0, 1, 2, 3, 4, "message", "timer"]

    run(story)


def test_a_starved_process_needs_so_many_times_as_long() -> None:
    """P6: the others keep their speed."""

    async def story(loop: VirtualLoop) -> None:
        done: dict[Process, float] = {}

        def note(process: Process) -> None:
            done[process] = at(loop)

        fast, slow = loop.spawn("fast"), loop.spawn("slow")
        loop.slow_down(slow, 20)
        for process in (fast, slow):
            for _ in range(10):
                loop.call_in(process, lambda: None)
            loop.call_in(process, note, process)
        await asyncio.sleep(1)

        assert done == {fast: 0.01, slow: 0.2}

    run(story)


def test_a_stall_keeps_one_cpu_busy() -> None:
    """As a compaction on the event loop would; it can also begin while callbacks wait."""

    async def story(loop: VirtualLoop) -> None:
        seen: list[float] = []
        process = loop.spawn("n1")
        loop.call_in(process, lambda: loop.stall(process, 0.5))
        loop.call_in(process, lambda: seen.append(at(loop)))
        await asyncio.sleep(1)
        loop.call_in(process, lambda: None)
        loop.call_in(process, lambda: seen.append(at(loop)))
        await asyncio.sleep(0)
        loop.stall(process, 0.25)
        await asyncio.sleep(1)

        assert seen == [0.501, 1.251]

    run(story)


def test_cancelled_callbacks_cost_nothing() -> None:
    """As on the real loop, which skips them."""

    async def story(loop: VirtualLoop) -> float:
        process = loop.spawn("n1")
        for _ in range(50):
            loop.call_in(process, lambda: None).cancel()
        seen: list[float] = []
        loop.call_in(process, lambda: seen.append(at(loop)))
        await asyncio.sleep(1)
        return seen[0]

    assert run(story) == 0.0


def test_a_harness_that_polls_without_letting_time_pass_is_told_so() -> None:
    """Its callbacks are free, so `sleep(0)` would never let anybody else go on."""

    async def story(loop: VirtualLoop) -> None:
        loop.spawn("n1")
        while True:  # noqa: ASYNC110  # this is what is refused
            await asyncio.sleep(0)

    with pytest.raises(SimulationError, match="polls"):
        run(story)


# --- pause


def test_a_paused_process_does_nothing_and_then_everything_in_order() -> None:
    """P4: messages queue, timers fall due, time goes on for the others; what it does afterwards is stale."""

    async def story(loop: VirtualLoop) -> None:
        told: list[tuple[str, float]] = []
        n1, n2 = loop.spawn("n1"), loop.spawn("n2")

        def tell(what: str) -> None:
            told.append((what, at(loop)))

        for delay_s, what in ((3.0, "second timer"), (1.0, "first timer"), (9.0, "later timer")):
            call_later_in(loop, n1, delay_s, tell, what)
        loop.pause(n1)
        loop.call_in(n1, tell, "message")
        loop.call_later(2, loop.call_in, n1, tell, "late message")
        call_later_in(loop, n2, 4, tell, "n2")
        await asyncio.sleep(5)
        assert told == [("n2", 4.0)]

        loop.resume(n1)
        await asyncio.sleep(5)
        assert told[1:] == [
            ("message", 5.0), ("first timer", 5.001), ("late message", 5.002), ("second timer", 5.003), ("later timer", 9.0),
        ]  # fmt: skip

    run(story)


def test_a_process_can_be_paused_while_callbacks_wait_for_its_cpu() -> None:
    """It stops between two callbacks, wherever it is."""

    async def story(loop: VirtualLoop) -> None:
        ran: list[int] = []
        process = loop.spawn("n1")
        for number in range(10):
            loop.call_in(process, ran.append, number)
        await asyncio.sleep(3.5 * MS)
        loop.pause(process)
        await asyncio.sleep(1)
        assert ran == [0, 1, 2, 3]
        loop.pause(process)
        loop.resume(process)
        loop.resume(process)
        await asyncio.sleep(1)
        assert ran == list(range(10))

    run(story)


# --- kill


class Witness:
    """Counts what a process does, and holds everything that makes noise when it is abandoned."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.steps = loop, 0
        self.acts: list[str] = []
        self.lock = asyncio.Lock()
        self.doomed = loop.create_future()

    async def work(self) -> None:
        """Tasks that wait, failed ones nobody looked at yet, `finally` blocks that act and await."""
        loop = self.loop
        self.failing = asyncio.create_task(self.fail())
        self.doomed.set_exception(KeyError("nobody looks"))
        tasks = [asyncio.create_task(self.hold(number)) for number in range(3)]
        try:
            async with asyncio.timeout(100):
                while True:
                    self.steps += 1
                    await asyncio.sleep(MS)
        finally:
            loop.call_soon(self.acts.append, "callback")
            loop.call_later(0, self.acts.append, "timer")
            asyncio.create_task(self.hold(9))  # noqa: RUF006  # it must leave no trace
            await asyncio.gather(*tasks)
            await asyncio.sleep(0)

    async def hold(self, number: int) -> None:
        async with self.lock:
            try:
                await self.loop.create_future()
            except asyncio.CancelledError:
                self.acts.append("cancelled")
                raise
            finally:
                self.loop.call_soon(self.acts.append, "hold")
                await self.lock.acquire()

    async def fail(self) -> None:
        await asyncio.sleep(2 * MS)
        raise KeyError("seen by nobody")


def test_of_a_killed_process_nothing_runs_any_more_and_nothing_acts() -> None:
    """P1: callbacks, timers, tasks and their `finally` blocks; and nothing of it makes a noise when it is collected."""

    async def story(loop: VirtualLoop) -> None:
        process = loop.spawn("n1")
        witness = process.context.run(Witness, loop)
        loop.create_task_in(process, witness.work())
        loop.create_task_in(process, asyncio.sleep(5))
        await asyncio.sleep(1.5 * MS)
        events, steps = process.events, witness.steps
        assert steps > 0
        loop.call_in(process, witness.acts.append, "queued")

        loop.kill(process)
        loop.call_in(process, witness.acts.append, "after")
        loop.create_task_in(process, witness.hold(7))
        await asyncio.sleep(1_0)

        assert (process.events, witness.steps, witness.acts) == (events, steps, [])
        assert loop.pending_tasks(process) == []

    run(story, charge_s=10e-6)


def test_a_kill_at_any_moment_is_silent() -> None:
    """Whatever was half done: a task failed and its parent not told, a coroutine made and not begun, a lock changing hands."""

    async def story(loop: VirtualLoop, events: int) -> None:
        process = loop.spawn("n1")
        witness = process.context.run(Witness, loop)
        loop.create_task_in(process, _parent(loop))
        loop.create_task_in(process, witness.work())
        loop.kill_after(process, events)
        await asyncio.sleep(0.5)
        assert process.is_dead and process.events == events
        assert witness.acts == []

    for events in range(1, 60):
        run(partial(story, events=events), charge_s=10e-6)


async def _parent(loop: VirtualLoop) -> None:
    """Children that fail, wait, and are wrapped in others; all errors are seen, if it lives."""

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("for the parent")

    async def wrapper(inner: Coroutine[Any, Any, None]) -> None:
        await inner

    for _ in range(3):
        child = asyncio.create_task(wrapper(fails()))
        await asyncio.sleep(0)
        await asyncio.gather(child, asyncio.create_task(fails()), return_exceptions=True)
        with pytest.raises(ValueError, match="for the parent"):
            await asyncio.wait_for(fails(), 1)


def test_a_process_dies_just_before_the_chosen_callback() -> None:
    """Crash points are counted in callbacks from now on: 1 is the next one."""

    async def story(loop: VirtualLoop) -> None:
        ran: list[int] = []
        process = loop.spawn("n1")
        loop.call_in(process, ran.append, -1)
        await asyncio.sleep(1)
        loop.kill_after(process, 3)
        for number in range(10):
            loop.call_in(process, ran.append, number)
        await asyncio.sleep(1)
        assert ran == [-1, 0, 1]

    run(story)


def test_a_process_that_kills_itself_does_not_continue() -> None:
    """At a named point: the callback unwinds, its `except Exception` sees nothing, its `finally` can do nothing."""

    async def story(loop: VirtualLoop) -> None:
        process, asked = loop.spawn("n1"), []
        acts: list[str] = []

        def dies_at(who: Process, name: str) -> bool:
            asked.append((who, name))
            return name == "about to sync"

        async def work() -> None:
            loop.point("applied")
            acts.append("before")
            try:
                loop.point("about to sync")
                acts.append("after")
            except Exception:  # noqa: BLE001  # as product code does at its task boundaries
                acts.append("handled")
            finally:
                loop.call_soon(acts.append, "finally")
                loop.point("in finally")
                acts.append("finally")

        loop.on_point = dies_at
        loop.point("of the harness")
        with pytest.raises(ProcessDied, match=r"n1\.1 was killed"):
            await loop.run_in(process, work())
        await asyncio.sleep(1)

        assert acts == ["before"]
        assert asked == [(process, "applied"), (process, "about to sync")]

    run(story)


def test_one_process_can_be_killed_at_a_point_of_another() -> None:
    """A nemesis that waits for a frame to leave may kill its receiver; the sender goes on."""

    async def story(loop: VirtualLoop) -> None:
        n1, n2 = loop.spawn("n1"), loop.spawn("n2")
        witness = n2.context.run(Witness, loop)
        loop.create_task_in(n2, witness.work())

        def kill_other(_who: Process, _name: str) -> bool:
            loop.kill(n2)
            return False

        async def work() -> str:
            await asyncio.sleep(5 * MS)
            loop.point("frame sent")
            await asyncio.sleep(1)
            return "went on"

        loop.on_point = kill_other
        assert await loop.run_in(n1, work()) == "went on"
        assert n2.is_dead and witness.acts == []

    run(story)


def test_the_harness_is_told_of_a_death_at_once() -> None:
    """The world cuts off the network and the disk before anything else happens; killing twice is once."""

    async def story(loop: VirtualLoop) -> None:
        process, told = loop.spawn("n1"), []
        process.on_death.append(lambda: told.append((loop.current, PROCESS.get())))
        loop.call_in(process, loop.kill, process)
        await asyncio.sleep(1)
        loop.kill(process)

        assert told == [(None, None)]

    run(story)


def test_a_killed_process_can_be_paused_starved_and_resumed_without_effect() -> None:
    """A nemesis may not know yet."""

    async def story(loop: VirtualLoop) -> None:
        process = loop.spawn("n1")
        acts: list[int] = []
        loop.call_in(process, acts.append, 1)
        loop.pause(process)
        loop.kill(process)
        loop.slow_down(process, 2)
        loop.resume(process)
        loop.call_in(process, acts.append, 2)
        await asyncio.sleep(1)
        assert acts == []

    run(story)


def test_finally_blocks_of_the_dead_see_their_own_context() -> None:
    """A context variable can only be reset where it was set; else disposal itself would fail."""
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def story(loop: VirtualLoop) -> None:
        reset: list[int] = []

        async def work() -> None:
            token = variable.set(7)
            try:
                await loop.create_future()
            finally:
                variable.reset(token)
                reset.append(variable.get())

        process = loop.spawn("n1")
        loop.create_task_in(process, work())
        await asyncio.sleep(1)
        loop.kill(process)
        await asyncio.sleep(1)
        assert reset == [0]

    run(story)


def test_the_memory_of_the_dead_is_released_during_the_run() -> None:
    """A long run kills thousands of nodes; the collector runs at deaths, so at known moments."""

    class Ballast:
        """What a node holds, in a cycle."""

        def __init__(self) -> None:
            self.me = self

    async def story(loop: VirtualLoop) -> None:
        async def work() -> None:
            ballast = Ballast()
            held.append(weakref.ref(ballast))
            timer = loop.call_later(1e6, print, ballast)
            await asyncio.sleep(1e6)
            timer.cancel()

        for _ in range(100):
            process = loop.spawn("n1")
            loop.create_task_in(process, work())
            await asyncio.sleep(1)
            loop.kill(process)
        await asyncio.sleep(1)
        assert sum(each() is not None for each in held) < 20

    held: list[weakref.ref[Ballast]] = []
    run(story)


# --- what a run says


def test_failures_of_the_living_name_their_process_and_those_of_the_dead_do_not_count() -> None:
    """What a killed process would still have reported, nobody would have read."""

    async def fail(loop: VirtualLoop) -> None:
        kept = asyncio.create_task(Witness(loop).fail())
        await loop.create_future()
        await kept

    async def story(loop: VirtualLoop, kills: bool) -> None:
        process = loop.spawn("n7")
        loop.create_task_in(process, fail(loop))
        await asyncio.sleep(MS)
        if kills:
            loop.kill(process)
        await asyncio.sleep(1)

    with pytest.raises(UnseenFailures, match=r"n7\.1"):
        run(partial(story, kills=False), charge_s=0.0)
    run(partial(story, kills=True), charge_s=0.0)


def test_a_callback_that_fails_names_its_process() -> None:
    """Also if it is no task."""

    async def story(loop: VirtualLoop) -> None:
        loop.call_in(loop.spawn("n7"), lambda: 1 // 0)
        await asyncio.sleep(1)

    with pytest.raises(UnseenFailures, match=r"n7\.1 Exception in callback"):
        run(story)


def test_a_deadlock_names_the_process_of_each_task_and_who_is_paused() -> None:
    """Whoever forgot to resume a process finds it there."""

    async def story(loop: VirtualLoop) -> None:
        process = loop.spawn("n7")
        loop.pause(process)
        await loop.run_in(process, asyncio.sleep(1))

    with pytest.raises(Deadlock, match=r"n7\.1:sim-2 at .*; paused: n7\.1"):
        run(story)


def test_leftovers_of_a_paused_process_do_not_hang_the_end() -> None:
    """They cannot be cancelled: whoever is paused at the end is killed."""

    async def story(loop: VirtualLoop) -> None:
        process = loop.spawn("n1")
        loop.create_task_in(process, Witness(loop).hold(1))
        await asyncio.sleep(1)
        loop.pause(process)

    run(story)


def test_a_cancelled_wait_for_a_process_cancels_the_work() -> None:
    """The harness gives up, and so does what it had started."""

    async def story(loop: VirtualLoop) -> None:
        process = loop.spawn("n1")
        waiting = loop.create_task(loop.run_in(process, asyncio.sleep(100)))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.sleep(1)
        assert waiting.cancelled() and loop.pending_tasks(process) == []
        with pytest.raises(ProcessDied):
            loop.kill(process)
            await loop.run_in(process, asyncio.sleep(100))

    run(story)


def _digest(seed: int, delay_s: float, names: tuple[str, str] = ("n1", "n2")) -> bytes:
    async def story(loop: VirtualLoop) -> bytes:
        for name in names:
            process = loop.spawn(name)
            for number in range(50):
                call_later_in(loop, process, 0.001 * number, lambda: loop.call_soon(lambda: None))
        loop.call_later(delay_s, lambda: None)
        await asyncio.sleep(1)
        return loop.digest()

    digest: bytes = run(story, seed=seed, charge_s=10e-6)
    return digest


def test_the_digest_is_that_of_every_timer_and_callback() -> None:
    """Same seed, same digest; another order of one instant's timers, or one timer elsewhere, and it is another."""
    digests = [_digest(1, 0.5), _digest(1, 0.5), _digest(2, 0.5), _digest(1, 0.6)]

    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_killed_is_no_exception() -> None:
    """`except Exception` is a task boundary in product code and must not take a death for an error."""
    assert not issubclass(ProcessKilled, Exception)
