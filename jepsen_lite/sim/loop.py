"""Event loop on virtual time that knows processes: runs asyncio code as a function of its seed, faster than the clock.

    harness:    ready [a, b, c]        first in, first out; costs nothing
    process p:  queue [d, e]           first in, first out; each callback takes p's CPU for `charge_s`, so e waits for d
    timers:     (when, seeded tie-break, sequence, handle)
    CPUs:       (when free, sequence, process)
    nothing to run now?  jump to the earliest timer or CPU.  Neither?  That is a deadlock, and says who waits.

Invariants
  1. Time never goes back, and moves only by a jump. While one callback runs it stands still.
  2. `call_soon` is strictly first in, first out within a process (drivers rely on it); timers of one instant come in
     seeded order (nobody may rely on it: the real loop promises none).
  3. Nothing here blocks, and nothing leaves the thread: see sealed_loop.py.
  4. A run fails if any callback or task failed unseen, even if `main` returned normally; unless its process was killed.
  5. Of a killed process nothing runs any more and nothing acts any more: see processes.py.

A loop in which no process was ever spawned is one process as a whole: every callback moves time by the charge.
Source: FoundationDB's Flow simulator (SIGMOD 2021, section 4); `correctness` rule 31. Debug mode stays off, because it
would make callbacks compare real durations.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from heapq import heappop, heapreplace
from typing import Any, TypeVar

from jepsen_lite.sim.handles import ProcessFuture, ProcessHandle, ProcessTimer
from jepsen_lite.sim.process_loop import ProcessLoop
from jepsen_lite.sim.processes import Process, ProcessKilled
from jepsen_lite.sim.sealed_loop import SimulationError

__all__ = ["Deadlock", "SimulationError", "TimeLimit", "UnseenFailures", "VirtualLoop"]

T = TypeVar("T")

CLEANUP_S_MAX = 60.0
"""Virtual time that cancelled tasks get for their `finally` blocks before they count as stuck."""
ROUNDS_AT_AN_INSTANT_MAX = 200_000
"""Rounds in which time stood still: more than any work of an instant takes, so somebody polls and can never see a change."""
DIGEST_NUMBERS_MAX = 8_192
"""Numbers noted before they are hashed: 64 KiB at once cost less than many small updates."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set, yet the main task has not finished: nobody can ever continue."""


class TimeLimit(SimulationError):
    """The main task had not finished at `until_s`."""


class UnseenFailures(SimulationError):
    """Callbacks or tasks failed and nobody looked; the first one is the cause."""


class VirtualLoop(ProcessLoop):
    """One simulated run: make it, call `run` once, throw it away."""

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T], *, until_s: float) -> T:
        """Run `main` to its end, cancel what it left behind, close the loop, and return the result.

        Raises what `main` raised; `Deadlock` or `TimeLimit` with the list of waiting tasks; `UnseenFailures` if a
        callback or an abandoned task failed. The cyclic collector rests meanwhile: it would run finalisers at
        moments that depend on everything the process did before.
        """
        self._limit_s = until_s
        with _collector_at_rest(self._collect):
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
            self._turn()
        finally:
            asyncio._set_running_loop(None)
            self._running = self._stopping = False
            self._current = None
            sys.set_asyncgen_hooks(*hooks)

    def _turn(self) -> None:
        """Until stopped: run what the harness has ready; else go to the earliest event, a timer or a CPU that is free.

        One function and local names, because it is the price of every event: in methods of ten lines each a callback
        of a process cost 0.7 us more, of 2.3 (Python 3.11, two shared cores).
        """
        ready, timers, cpus, note = self._ready, self._timers, self._cpus, self._noted.append
        rounds = 0
        while not self._stopping:
            rounds += 1
            if rounds > ROUNDS_AT_AN_INSTANT_MAX:
                raise SimulationError(f"somebody polls at {self._now_s:.6f} s and lets no time pass; {self._waiting()}")
            if self._graves:
                self._bury()
            now = self._now_s
            if ready:
                while timers and timers[0][0] <= now:
                    self._fall_due()
                self._run_harness()
                if self._now_s > now:
                    self._check_limit()
                    rounds = 0
                continue
            if not cpus or (timers and timers[0][0] <= cpus[0][0]):
                if self._go_to_timer():
                    rounds = 0
                continue
            if cpus[0][0] > now:
                now = self._now_s = cpus[0][0]
                rounds = 0
                if now > self._limit_s:
                    self._check_limit()
            process = cpus[0][2]
            queue = process.queue
            while queue and queue[0]._cancelled:
                queue.popleft()
            if not queue or process.is_paused or process.free_at_s > now or process.events + 1 == process.dies_at_event:
                self._run_nothing(process)
                continue
            handle = queue.popleft()
            process.free_at_s = free_at_s = now + process.charge_s
            process.events += 1
            if queue:
                self._cpus_listed = listed = self._cpus_listed + 1
                heapreplace(cpus, (free_at_s, listed, process))
            else:
                heappop(cpus)
                process.is_listed = False
            note(now)
            note(process.number)
            self._current = process
            try:
                handle._context.run(handle._callback, *handle._args)
            except BaseException as error:  # boundary: as in asyncio's own handle, which costs a call more
                self._callback_failed(handle, error)
            self._current = None
            if self._is_muted:
                self._is_muted, self._is_shut = False, self._closed

    def _fall_due(self) -> None:
        when, _, number, handle = heappop(self._timers)
        if handle._cancelled:
            return
        self._noted.append(when)
        self._noted.append(number)
        process = handle.process
        if process is None:
            self._ready.append(handle)
        else:
            process.queue.append(handle)
            if not process.is_listed:
                self._list(process)

    def _run_harness(self) -> None:
        """Run what is ready; callbacks that these add wait for the next round, as in asyncio."""
        ready, note, charge_s = self._ready, self._noted.append, self._harness_charge_s
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                self._now_s += charge_s
                note(self._now_s)
                note(0)
                try:
                    handle._context.run(handle._callback, *handle._args)
                except BaseException as error:  # boundary: as in asyncio's own handle
                    self._callback_failed(handle, error)

    def _callback_failed(self, handle: ProcessHandle | ProcessTimer, error: BaseException) -> None:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise error
        self.call_exception_handler({"message": f"Exception in callback {handle!r}", "exception": error})

    def _run_nothing(self, process: Process) -> None:
        """The process whose CPU is free has nothing to run, or may not, or dies now."""
        cpus = self._cpus
        listed = cpus[0][1]
        if not process.queue or process.is_paused:  # also if it is dead: its queue keeps nothing
            heappop(cpus)
            process.is_listed = False
        elif process.free_at_s > self._now_s:  # it was stalled since it was listed
            heapreplace(cpus, (process.free_at_s, listed, process))
        else:
            process.events += 1
            self.kill(process)

    def _go_to_timer(self) -> bool:
        """Let the earliest timer fall due; returns whether time moved. It does not for one that was cancelled."""
        if not self._timers:
            raise Deadlock(f"nobody can continue at {self._now_s:.6f} virtual s; {self._waiting()}")
        when_s, _, _, handle = self._timers[0]
        if handle._cancelled:
            heappop(self._timers)
            return False
        if len(self._noted) >= DIGEST_NUMBERS_MAX:
            self._flush_notes()
        before_s = self._now_s
        if when_s > before_s:
            self._now_s = when_s
            self._check_limit()
        self._fall_due()
        return self._now_s > before_s

    def _check_limit(self) -> None:
        if self._now_s > self._limit_s:
            raise TimeLimit(f"not done at {self._limit_s} virtual s; {self._waiting()}")

    def _waiting(self) -> str:
        tasks = ", ".join(f"{task.get_name()} at {_position(task)}" for task in self.pending_tasks()) or "no task"
        paused = ", ".join(repr(process) for process in self._processes if process.is_paused and not process.is_dead)
        return f"waiting: {tasks}" + (f"; paused: {paused}" if paused else "")

    def _cancel_leftovers(self) -> None:
        """Cancel pending tasks in order of creation until none is left; one that cannot end is a failure."""
        self._limit_s = self._now_s + CLEANUP_S_MAX
        for process in self._processes:
            if process.is_paused:
                self.kill(process)
        if self._graves:
            self._bury()
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

    # --- identity -----------------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """Return a hash of everything that ran so far: (time, sequence) of timers, (time, process) of callbacks."""
        self._flush_notes()
        return self._hash.digest()

    @property
    def callbacks_run(self) -> int:
        """Return how many callbacks and timers ran or fell due so far."""
        return (self._notes_flushed + len(self._noted)) // 2

    def _flush_notes(self) -> None:
        self._notes_flushed += len(self._noted)
        self._hash.update(self._noted.tobytes())
        del self._noted[:]

    # --- state --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._running:
            raise RuntimeError("cannot close a running loop")
        self._closed = self._is_shut = True
        self._ready.clear()
        self._timers.clear()
        self._cpus.clear()
        self._tasks.clear()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember a failure nobody awaited; `run` raises it at the end. What only the dead could have seen is nothing."""
        process = self._owner_of(context)
        if not (process is not None and process.is_dead) and not isinstance(context.get("exception"), ProcessKilled):
            self.failures.append({**context, "time_s": self._now_s, "process": process})

    def _owner_of(self, context: dict[str, Any]) -> Process | None:
        if self._current is not None and not self._is_collecting:
            return self._current
        failed = context.get("task") or context.get("future")
        if isinstance(failed, ProcessFuture):
            return failed.process
        return next((owner for task, owner, _ in self._tasks if task is failed), None)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._is_shut:
            self.create_task(generator.aclose())


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
    who = f"{failure['process']!r} " if failure.get("process") is not None else ""
    task = failure.get("task") or failure.get("future")
    where = f" in {task.get_name()}" if isinstance(task, asyncio.Task) else ""
    return f"{at}{who}{failure.get('message')}{where}: {failure.get('exception')!r}"


@contextmanager
def _collector_at_rest(collect: Callable[[], None]) -> Iterator[None]:
    """Switch the cyclic collector off for the block, then collect, so that unretrieved errors are reported inside."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        collect()
        if was_enabled:
            gc.enable()
