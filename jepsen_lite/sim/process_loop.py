"""Who may run when: the part of the virtual loop that knows processes, their queues and CPUs, and how they end.

    call_soon, call_at ─► owner? ─┬─ harness     ready [a, b, c]
                                  └─ process p   queue [d, e] ─► list of CPUs (when free, sequence, p)

loop.py says how the run goes on from there. The rules are in its docstring, and in processes.py.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from array import array
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heapify, heappush
from typing import Any, TypeVar, TypeVarTuple

from jepsen_lite.sim.handles import ProcessFuture, ProcessHandle, ProcessTimer
from jepsen_lite.sim.processes import (
    PROCESS,
    PointHook,
    Process,
    ProcessDied,
    ProcessKilled,
    TaskRecord,
    forgive,
    lay_to_rest,
)
from jepsen_lite.sim.sealed_loop import SealedLoop

__all__ = ["ProcessLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CHARGE_S_DEFAULT = 10e-6
"""A callback of the hot path costs about this much on the development machine (design, section 7)."""
BURIALS_PER_COLLECTION = 16
"""A dead node is a few thousand objects in cycles; a collection costs some 30 ms (and so at known moments only)."""


class ProcessLoop(SealedLoop):
    """Takes callbacks and timers, and hands out CPU time; `VirtualLoop` runs it."""

    def __init__(self, rng: random.Random, *, charge_s: float = CHARGE_S_DEFAULT) -> None:
        """`rng` decides the order of timers that fall on the same instant; `charge_s` is what a callback costs."""
        self._rng = rng
        self._charge_s = self._harness_charge_s = charge_s
        self._now_s = 0.0
        self._limit_s = float("inf")
        self._ready: deque[ProcessHandle | ProcessTimer] = deque()
        self._timers: list[tuple[float, int, int, ProcessTimer]] = []
        self._timers_made = 0
        self._cpus: list[tuple[float, int, Process]] = []
        self._cpus_listed = 0
        self._tasks: list[TaskRecord] = []
        self._tasks_made = 0
        self._tasks_prune_at = 1_024
        self._processes: list[Process] = []
        self.outside = Context()
        """The context of the harness, for what twins do on behalf of a process."""
        self._current: Process | None = None
        self._graves: list[Process] = []
        self._burials = 0
        self._is_muted = False
        self._is_shut = False
        """Whether callbacks are refused at all: closed, or muted because a dead process unwinds."""
        self._running = self._stopping = self._closed = self._is_collecting = False
        self._hash = hashlib.blake2b(digest_size=16)
        self._noted = array("d")
        self._notes_flushed = 0
        self.on_point: PointHook | None = None
        """Asked at every point a process reaches whether it dies there."""
        self.failures: list[dict[str, Any]] = []

    # --- time and callbacks -------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = ProcessHandle(callback, args, self, context)
        if self._is_shut and not self._wakes_a_living(handle):
            return self._refuse(handle)
        process = handle.process
        if process is None:
            self._ready.append(handle)
        else:
            process.queue.append(handle)
            if not process.is_listed:
                self._list(process)
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
        handle = ProcessTimer(when, callback, args, self, context)
        if self._is_shut:
            self._refuse(handle)
            return handle
        self._timers_made += 1
        heappush(self._timers, (when, self._rng.getrandbits(32), self._timers_made, handle))
        return handle

    def _wakes_a_living(self, handle: ProcessHandle) -> bool:
        """Whether it is the harness's own task that wakes up, because what it did for a dead process was cancelled: without
        that one wake-up it would wait for ever."""
        is_task = isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)
        return handle.process is None and is_task and not self._closed

    def _refuse(self, handle: asyncio.Handle) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle.cancel()
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by asyncio; cancelled timers are skipped when they come up."""

    def create_future(self) -> asyncio.Future[Any]:
        future = ProcessFuture(loop=self)
        future.process = PROCESS.get()
        return future

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
        if context is None:
            context = copy_context()
        process = context.get(PROCESS)
        self._tasks_made += 1
        label = name or f"sim-{self._tasks_made}"
        full_name = label if process is None else f"{process!r}:{label}"
        task = asyncio.Task(coro, loop=self, name=full_name, context=context, **options)
        self._tasks.append((task, process, context))
        if len(self._tasks) >= self._tasks_prune_at:
            self._prune_tasks()
        return task

    def _prune_tasks(self) -> None:
        """Forget tasks that ended, but not those whose error nobody saw yet: see `forgive`."""
        self._tasks = [record for record in self._tasks if not record[0].done() or _is_unseen(record[0])]
        self._tasks_prune_at = 1_024 + 2 * len(self._tasks)

    def pending_tasks(self, process: Process | None = None) -> list[asyncio.Task[Any]]:
        """Return unfinished tasks, of all or of one process, in order of creation (`asyncio.all_tasks` has none)."""
        return [task for task, owner, _ in self._tasks if not task.done() and process in (None, owner)]

    def _list(self, process: Process) -> None:
        """Something waits for the CPU of a process: note when it will be free."""
        if not process.is_paused and not process.is_dead:
            process.is_listed = True
            self._cpus_listed += 1
            free_at_s = process.free_at_s
            now = self._now_s
            heappush(self._cpus, (free_at_s if free_at_s > now else now, self._cpus_listed, process))

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    # --- processes ----------------------------------------------------------------------------------------------------

    @property
    def current(self) -> Process | None:
        """Return the process whose callback runs now; None is the harness."""
        return self._current

    def spawn(self, name: str) -> Process:
        """Make the next life of a host. It does nothing until something is started in it."""
        self._harness_charge_s = 0.0
        life = 1 + sum(process.name == name for process in self._processes)
        process = Process(name, life=life, number=len(self._processes) + 1, charge_s=self._charge_s)
        self._processes.append(process)
        return process

    def call_in(self, process: Process, callback: Callable[[*Ts], object], *args: *Ts) -> asyncio.Handle:
        """Let a process run a callback as soon as its CPU is free: how twins hand over a message."""
        return self.call_soon(callback, *args, context=process.context)

    def create_task_in(self, process: Process, coro: Any, *, name: str | None = None) -> asyncio.Task[Any]:
        """Start a task of a process. If the process is killed the task never ends: to wait for it use `run_in`."""
        return self.create_task(coro, name=name, context=process.context.copy())

    async def run_in(self, process: Process, work: Coroutine[Any, Any, T]) -> T:
        """Run work in a process, for the harness, and return its result. Raises `ProcessDied` if it is killed first."""
        outcome: asyncio.Future[T] = self.create_future()
        task = self.create_task_in(process, work)
        task.add_done_callback(lambda task: _copy_outcome(task, outcome), context=self.outside)
        process.on_death.append(lambda: _say_died(process, outcome))
        if process.is_dead:
            _say_died(process, outcome)
        try:
            return await outcome
        except asyncio.CancelledError:
            task.cancel()
            raise

    def as_harness(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a twin on behalf of the harness: what it schedules costs the process nothing and survives it."""
        return call(*args) if PROCESS.get() is None else self.outside.run(call, *args)

    def slow_down(self, process: Process, factor: float) -> None:
        """Let each callback of a process take `factor` times as long (1 is normal)."""
        process.charge_s = self._charge_s * factor

    def stall(self, process: Process, duration_s: float) -> None:
        """Keep the CPU of a process busy, as a long computation would: nothing of it runs, and the kernel does not stop."""
        process.free_at_s = max(process.free_at_s, self._now_s) + duration_s

    def pause(self, process: Process) -> None:
        """Stop a process (SIGSTOP): what arrives or falls due waits in its queue."""
        process.is_paused = True

    def resume(self, process: Process) -> None:
        """Let a process go on, with what waited first; what it does not know is how long it was away."""
        process.is_paused = False
        if process.queue and not process.is_listed:
            self._list(process)

    def kill_after(self, process: Process, events: int | None) -> None:
        """Kill a process just before its `events`-th callback from now; None: not any more."""
        assert events is None or events > 0, "a process dies before a callback, and 1 is the next one"
        process.dies_at_event = None if events is None else process.events + events

    def check_alive(self) -> None:
        """Raise `ProcessKilled` if the running process is dead and only unwinds."""
        if self._is_muted and self._current is not None:
            raise ProcessKilled(f"{self._current!r} is dead and acts no more")

    def point(self, name: str) -> None:
        """Say, in a twin, that the running process has come to a point where it may die.

        Raises `ProcessKilled` if it does, or if it is dead and only unwinds.
        """
        process = self._current
        if process is None:
            return
        if not process.is_dead and self.on_point is not None and self.on_point(process, name):
            self.kill(process)
        if process.is_dead:
            raise ProcessKilled(f"{process!r} was killed at {name!r}")

    def kill(self, process: Process) -> None:
        """Kill a process (SIGKILL), from anywhere, also from inside. Calls `on_death` as the harness, then it is over.

        Idempotent. If it is running now, it can do nothing any more but unwind.
        """
        if process.is_dead:
            return
        process.is_dead = True
        unrun, process.queue = process.queue, deque(maxlen=0)
        for handle in unrun:
            forgive(handle._args or ())
        running, self._current = self._current, None
        for told in process.on_death:
            self.as_harness(told)
        process.on_death.clear()
        self._current = running
        self._graves.append(process)
        if running is process:
            self._is_muted = self._is_shut = True

    def _bury(self) -> None:
        """Release what killed processes held. Their `finally` blocks run, muted: nothing they schedule is taken."""
        dead, self._graves = self._graves, []
        self._is_muted = self._is_shut = True
        for record in self._tasks:  # grows, if the dying start more
            if record[1] in dead:
                self._current = record[1]
                lay_to_rest(record)
        self._current = None
        self._tasks = [record for record in self._tasks if record[1] not in dead]
        self._prune_tasks()  # the result of one that ended may hold the dead as well
        self._timers[:] = [timer for timer in self._timers if timer[3].process not in dead]
        heapify(self._timers)
        self._burials += len(dead)
        if self._burials >= BURIALS_PER_COLLECTION:
            self._burials = 0
            self._collect()
        self._is_muted, self._is_shut = False, self._closed

    def _collect(self) -> None:
        """Collect at a moment of our choice; whose garbage it is does not depend on who runs."""
        self._is_collecting = True
        gc.collect()
        self._is_collecting = False


def _is_unseen(task: asyncio.Task[Any]) -> bool:
    return bool(task._log_traceback)  # whether asyncio would complain about its error


def _copy_outcome(task: asyncio.Task[T], outcome: asyncio.Future[T]) -> None:
    if outcome.done():
        forgive([task])
    elif task.cancelled():
        outcome.cancel()
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


def _say_died(process: Process, outcome: asyncio.Future[Any]) -> None:
    if not outcome.done():
        outcome.set_exception(ProcessDied(f"{process!r} was killed"))
