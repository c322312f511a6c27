"""Event loop on virtual time: runs asyncio code as a function of its seed, thousands of times faster than the clock.

    ready:  [a, b, c]        run first in, first out; each callback may cost `charge_s` of virtual CPU
    timers: (when, seeded tie-break, sequence, handle)
    nothing ready?  jump `now` to the earliest timer.  No timer either?  That is a deadlock, and says who waits.

Invariants
  1. Time never goes back, and moves only by a jump to a timer or by the charge for a callback that was run.
  2. `call_soon` is strictly first in, first out (drivers rely on it); timers of one instant come in seeded order
     (nobody may rely on it: the real loop promises none).
  3. Nothing here blocks, and nothing leaves the thread: executors, sockets, signals and subprocesses raise.
  4. A run fails if any callback or task failed unseen, even if `main` returned normally.

The charge is for the whole world, as if all nodes shared one core: overload shows, but one node's stall delays all.
Source: FoundationDB's Flow simulator (SIGMOD 2021, section 4); `correctness` rule 31. Debug mode stays off, because it
would make callbacks compare real durations.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

__all__ = ["Deadlock", "SimulationError", "TimeLimit", "UnseenFailures", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CHARGE_S_DEFAULT = 10e-6
"""A callback of the hot path costs about this much on the development machine (design, section 7)."""
CLEANUP_S_MAX = 60.0
"""Virtual time that cancelled tasks get for their `finally` blocks before they count as stuck."""


class SimulationError(Exception):
    """The simulated program did something a simulation cannot allow."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set, yet the main task has not finished: nobody can ever continue."""


class TimeLimit(SimulationError):
    """The main task had not finished at `until_s`."""


class UnseenFailures(SimulationError):
    """Callbacks or tasks failed and nobody looked; the first one is the cause."""


def _refused(what: str) -> Any:
    """Return a method that refuses. (Any, because these stand in for three dozen signatures.)"""

    def refuse(*_args: object, **_options: object) -> NoReturn:
        raise SimulationError(f"no {what} in a simulation: go through the Env, whose simulated twin has none")

    return refuse


class VirtualLoop(asyncio.AbstractEventLoop):
    """One simulated run: make it, call `run` once, throw it away."""

    def __init__(self, rng: random.Random, *, charge_s: float = CHARGE_S_DEFAULT) -> None:
        """`rng` decides the order of timers that fall on the same instant; `charge_s` is added per callback run."""
        self._rng = rng
        self._charge_s = charge_s
        self._now_s = 0.0
        self._limit_s = float("inf")
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._tasks_made = 0
        self._tasks_prune_at = 1_024
        self._running = False
        self._stopping = False
        self._closed = False
        self.callbacks_run = 0
        self.failures: list[dict[str, Any]] = []

    # Time and callbacks.

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """The same as `call_soon`: there is only one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_open()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._rng.getrandbits(32), self._timers_made, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by asyncio; cancelled timers are skipped when they come up."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Create a task; unnamed ones are numbered per loop (asyncio's own counter outlives a run)."""
        self._check_open()
        self._tasks_made += 1
        task = asyncio.Task(coro, loop=self, name=name or f"sim-{self._tasks_made}", context=context, **options)
        self._tasks.append(task)
        if len(self._tasks) >= self._tasks_prune_at:
            self._tasks = self.pending_tasks()
            self._tasks_prune_at = 1_024 + 2 * len(self._tasks)
        return task

    def pending_tasks(self) -> list[asyncio.Task[Any]]:
        """Return unfinished tasks in the order of their creation (`asyncio.all_tasks` is an unordered set)."""
        return [task for task in self._tasks if not task.done()]

    # Running.

    def run(self, main: Coroutine[Any, Any, T], *, until_s: float) -> T:
        """Run `main` to its end, cancel what it left behind, close the loop, and return the result.

        Raises what `main` raised; `Deadlock` or `TimeLimit` with the list of waiting tasks; `UnseenFailures` if a
        callback or an abandoned task failed. The cyclic collector rests meanwhile: it would run finalisers at
        moments that depend on everything the process did before.
        """
        self._limit_s = until_s
        with _collector_at_rest():
            try:
                result = self.run_until_complete(main)
                self._cancel_leftovers()
            except BaseException as error:
                self._cancel_leftovers()
                for failure in self.failures:
                    error.add_note(f"also failed: {_describe(failure)}")
                raise
            finally:
                self.close()
        self._raise_failures()
        return result

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        main: asyncio.Future[T] = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]  # as in asyncio
        main.add_done_callback(self._stop_when_done)
        try:
            self.run_forever()
        finally:
            main.remove_done_callback(self._stop_when_done)
        if not main.done():
            raise RuntimeError("the loop was stopped before the future was done")
        return main.result()

    def _stop_when_done(self, _future: asyncio.Future[Any]) -> None:
        self.stop()

    def run_forever(self) -> None:
        self._check_open()
        if self._running:
            raise RuntimeError("the loop is running already")
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        self._running = True
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._run_once()
        finally:
            asyncio._set_running_loop(None)
            self._running = self._stopping = False
            sys.set_asyncgen_hooks(*hooks)

    def _run_once(self) -> None:
        """Run what is ready now; callbacks that these add wait for the next round, as in asyncio."""
        while self._timers and self._timers[0][3].cancelled():
            heapq.heappop(self._timers)
        if not self._ready:
            self._jump()
        if self._now_s > self._limit_s:
            raise TimeLimit(f"not done at {self._limit_s} virtual s; waiting: {self._waiting()}")
        while self._timers and self._timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(self._timers)[3])
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled():
                self._now_s += self._charge_s
                self.callbacks_run += 1
                handle._run()

    def _jump(self) -> None:
        if not self._timers:
            raise Deadlock(f"nobody can continue at {self._now_s:.6f} virtual s; waiting: {self._waiting()}")
        self._now_s = max(self._now_s, self._timers[0][0])

    def _waiting(self) -> str:
        return ", ".join(f"{task.get_name()} at {_position(task)}" for task in self.pending_tasks()) or "no task"

    def _cancel_leftovers(self) -> None:
        """Cancel pending tasks in order of creation until none is left; one that cannot end is a failure."""
        self._limit_s = self._now_s + CLEANUP_S_MAX
        while leftovers := self.pending_tasks():
            for task in leftovers:
                task.cancel()
            try:
                self.run_until_complete(_wait_done(self, leftovers))
            except (Deadlock, TimeLimit) as stuck:
                self.failures.append({"message": "tasks survive their cancellation", "exception": stuck})
                return

    def _raise_failures(self) -> None:
        if self.failures:
            listing = "\n".join(_describe(failure) for failure in self.failures)
            raise UnseenFailures(listing) from self.failures[0].get("exception")

    # State.

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._running:
            raise RuntimeError("cannot close a running loop")
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        if enabled:
            raise SimulationError("asyncio debug mode measures real time: not in a simulation")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember a failure nobody awaited; `run` raises it at the end."""
        self.failures.append({**context, "time_s": self._now_s})

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: abandoned generators are closed as soon as their last reference goes."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is no executor."""

    # What a simulation cannot have.

    run_in_executor = set_default_executor = _refused("threads")
    add_signal_handler = remove_signal_handler = _refused("signals")
    subprocess_exec = subprocess_shell = _refused("subprocesses")
    connect_read_pipe = connect_write_pipe = _refused("pipes")
    getaddrinfo = getnameinfo = create_connection = create_server = _refused("sockets")
    create_unix_connection = create_unix_server = create_datagram_endpoint = start_tls = _refused("sockets")
    connect_accepted_socket = sendfile = add_reader = remove_reader = add_writer = remove_writer = _refused("sockets")
    sock_recv = sock_recv_into = sock_recvfrom = sock_recvfrom_into = _refused("sockets")
    sock_sendall = sock_sendto = sock_connect = sock_accept = sock_sendfile = _refused("sockets")
    set_task_factory = get_task_factory = _refused("task factories")
    set_exception_handler = get_exception_handler = _refused("exception handlers")


async def _wait_done(loop: VirtualLoop, tasks: list[asyncio.Task[Any]]) -> None:
    """Wait until all tasks are done, whatever their outcome; failures are reported in order of creation."""
    for task in tasks:
        if not task.done():
            done = loop.create_future()
            task.add_done_callback(done.set_result)
            await done
        if not task.cancelled() and (error := task.exception()) is not None:
            loop.call_exception_handler({"message": f"{task.get_name()} failed when cancelled", "exception": error})


def _position(task: asyncio.Task[Any]) -> str:
    """Return `file:line function` of the innermost coroutine the task is suspended in."""
    awaited: Any = task.get_coro()
    where = repr(awaited)
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        where = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        awaited = awaited.cr_await
    return where


def _describe(failure: dict[str, Any]) -> str:
    at = f"{failure['time_s']:.6f}s " if "time_s" in failure else ""
    return f"{at}{failure.get('message')}: {failure.get('exception')!r}"


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Switch the cyclic collector off for the block, then collect, so that unretrieved errors are reported inside."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if was_enabled:
            gc.enable()
