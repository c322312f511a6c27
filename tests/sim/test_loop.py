"""The simulator's own ground: virtual time, its order rules, its clock and its trace."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from jepsen_lite.sim.clock import EPOCH_NS, SimClock
from jepsen_lite.sim.loop import Deadlock, SimulationError, TimeLimit, UnseenFailures, VirtualLoop
from jepsen_lite.sim.trace import Trace


def make_loop(seed: int = 1, charge_s: float = 0.0) -> VirtualLoop:
    return VirtualLoop(random.Random(seed), charge_s=charge_s)


def run(main: Coroutine[Any, Any, Any], *, seed: int = 1, charge_s: float = 0.0, until_s: float = 1e6) -> Any:
    return make_loop(seed, charge_s).run(main, until_s=until_s)


def test_an_hour_of_sleep_takes_no_real_time() -> None:
    """When nothing is ready the loop jumps to the next timer instead of waiting for it."""

    async def main() -> float:
        await asyncio.sleep(3_600)
        return asyncio.get_running_loop().time()

    started = time.perf_counter()
    ended_at_s = run(main())

    assert ended_at_s == 3_600.0
    assert time.perf_counter() - started < 5


def test_timeouts_and_queues_of_asyncio_work() -> None:
    """The standard tools measure virtual time."""

    async def main() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[int] = asyncio.Queue()
        loop.call_later(7, queue.put_nowait, 42)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.get()
        timed_out_at_s = loop.time()
        return timed_out_at_s, await asyncio.wait_for(queue.get(), 5)

    assert run(main()) == (5.0, 42)


def test_call_soon_is_first_in_first_out_for_every_seed() -> None:
    """Drivers rely on it, as on the real loop."""

    async def main() -> list[int]:
        order: list[int] = []
        for number in range(20):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.sleep(1)
        return order

    for seed in range(5):
        assert run(main(), seed=seed) == list(range(20))


def _timers_of_one_instant() -> Coroutine[Any, Any, list[int]]:
    async def main() -> list[int]:
        order: list[int] = []
        for number in range(10):
            asyncio.get_running_loop().call_at(5.0, order.append, number)
        asyncio.get_running_loop().call_at(4.0, order.append, 100)
        await asyncio.sleep(6)
        return order

    return main()


def test_timers_of_one_instant_are_shuffled_by_the_seed_alone() -> None:
    """Nobody may rely on their order, and one seed always gives the same."""
    orders = [run(_timers_of_one_instant(), seed=seed) for seed in (1, 1, 2)]

    assert orders[0] == orders[1] != orders[2]
    assert all(order[0] == 100 and sorted(order[1:]) == list(range(10)) for order in orders)


def test_cancelled_timers_do_not_run_and_do_not_move_time() -> None:
    """A cancelled timer at the head of the heap is not jumped to."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(50, pytest.fail).cancel()
        await asyncio.sleep(1)
        loop.call_later(50, pytest.fail).cancel()
        await asyncio.sleep(100)
        return loop.time()

    assert run(main()) == 101.0


def test_callbacks_cost_virtual_cpu() -> None:
    """With a charge a busy loop delays its timers, so that overload is visible."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        late: list[float] = []
        loop.call_later(0.001, lambda: late.append(loop.time()))
        for _ in range(1_000):
            loop.call_soon(lambda: None)
        await asyncio.sleep(1)
        return late[0]

    assert run(main(), charge_s=0.0) == 0.001
    assert run(main(), charge_s=10e-6) > 0.01


def test_deadlock_names_the_waiting_tasks() -> None:
    """No timer and nothing ready: the run ends at once and says who waits where."""

    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        await asyncio.create_task(stuck(), name="worker")

    with pytest.raises(Deadlock, match=r"worker at test_loop\.py:\d+ stuck"):
        run(main())


def test_a_run_that_does_not_end_meets_its_limit() -> None:
    """Timers alone are not progress."""

    async def main() -> None:
        def tick() -> None:
            asyncio.get_running_loop().call_later(1, tick)

        tick()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeLimit, match="10 virtual s"):
        run(main(), until_s=10)


def test_leftover_tasks_are_cancelled_in_order_of_creation() -> None:
    """Their `finally` blocks run, also with awaits inside; tests need no clean-up of their own."""
    ended: list[int] = []

    async def leftover(number: int) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(0.1)
            ended.append(number)

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(leftover(number)) for number in range(5)]
        await asyncio.sleep(1)
        return tasks

    tasks = run(main())

    assert sorted(ended) == list(range(5))
    assert all(task.cancelled() for task in tasks)


def test_a_task_that_survives_cancellation_fails_the_run() -> None:
    """Cancellation must end a task; one that swallows it and waits on would hang a real shutdown."""

    async def immortal() -> None:
        while True:
            try:
                await asyncio.sleep(1_000_000)
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        keep.append(asyncio.create_task(immortal()))
        await asyncio.sleep(1)

    keep: list[asyncio.Task[None]] = []
    with pytest.raises(UnseenFailures, match="survive"):
        run(main())


def _callback_fails() -> None:
    raise ZeroDivisionError("unseen")


async def _task_fails() -> None:
    _callback_fails()


async def _fail_in_callback() -> None:
    asyncio.get_running_loop().call_soon(_callback_fails)
    await asyncio.sleep(1)


async def _fail_in_forgotten_task() -> None:
    task = asyncio.create_task(_task_fails())
    await asyncio.sleep(1)
    assert task.done()


async def _fail_while_cancelled() -> None:
    async def fragile() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            _callback_fails()

    task = asyncio.create_task(fragile())
    await asyncio.sleep(1)
    assert not task.done()


@pytest.mark.parametrize("main", [_fail_in_callback, _fail_in_forgotten_task, _fail_while_cancelled])
def test_failures_nobody_saw_fail_the_run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A callback or task that fails unseen fails the whole run, even though `main` returned."""
    with pytest.raises(UnseenFailures, match="unseen"):
        run(main())


def test_the_error_of_main_is_raised_with_the_unseen_ones_as_notes() -> None:
    """What main raised comes first; what failed beside it is not lost."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(_callback_fails)
        await asyncio.sleep(1)
        raise KeyError("main")

    with pytest.raises(KeyError) as caught:
        run(main())

    assert "unseen" in caught.value.__notes__[0]


async def _use_thread() -> None:
    await asyncio.to_thread(time.time)


async def _use_socket() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _use_server() -> None:
    await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)


async def _use_subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


async def _use_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(15, print)


@pytest.mark.parametrize("main", [_use_thread, _use_socket, _use_server, _use_subprocess, _use_signal])
def test_the_world_outside_is_refused(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Threads, sockets, subprocesses and signals would make a run depend on the machine."""
    with pytest.raises(SimulationError, match="in a simulation"):
        run(main())


def test_the_loop_serves_asyncio_runner() -> None:
    """`asyncio.Runner` can drive it, so code that brings its own runner can be simulated."""

    async def main() -> float:
        await asyncio.sleep(30)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(main()) == 30.0


def test_abandoned_async_generators_are_closed() -> None:
    """Their `finally` runs when the last reference goes, not whenever a collector passes by."""
    closed: list[bool] = []

    async def numbers() -> Any:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def main() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1)
        assert closed == [True]

    run(main())


def test_a_wall_clock_steps_and_drifts_while_the_loop_time_does_not() -> None:
    """A step is a jump; a change of rate is continuous and changes only the speed."""

    async def main() -> list[int]:
        clock = SimClock(asyncio.get_running_loop(), offset_ns=5)
        seen = [clock.wall_ns()]
        await asyncio.sleep(1)
        clock.step(-2_000_000_000)
        seen.append(clock.wall_ns())
        clock.set_rate(1.5)
        seen.append(clock.wall_ns())
        await asyncio.sleep(2)
        return [wall_ns - EPOCH_NS for wall_ns in [*seen, clock.wall_ns()]]

    assert run(main()) == [5, 5 - 1_000_000_000, 5 - 1_000_000_000, 5 + 2_000_000_000]


def test_a_trace_hashes_time_kind_and_fields_without_ambiguity() -> None:
    """Events that differ in anything, even in where one field ends, give different digests."""
    events: list[tuple[int | str | bytes | None, ...]] = [
        ("ab",), ("a", "b"), (b"ab",), (1,), ("1",), (None,), (11,), (1, 1), (),
    ]  # fmt: skip
    digests = []
    for fields in [*events, events[0]]:
        trace = Trace(make_loop())
        trace.record("kind", *fields)
        digests.append(trace.hexdigest())

    assert len(set(digests[:-1])) == len(events)
    assert digests[0] == digests[-1]


def test_a_trace_keeps_its_last_events_for_people() -> None:
    """The tail explains a failure; the count says how much came before it."""
    trace = Trace(make_loop(), keep=2)
    for number in range(5):
        trace.record("tick", number, b"\x01\x02")

    assert trace.count == 5
    assert trace.tail().split() == ["0.000000", "tick", "3", "0102", "0.000000", "tick", "4", "0102"]


def test_a_trace_refuses_what_could_differ_between_runs() -> None:
    """The text of a float, a set or an object is no stable identity."""
    with pytest.raises(TypeError, match="object"):
        Trace(make_loop()).record("kind", object())  # type: ignore[arg-type]  # this is what is refused
