"""Processes of a simulated world: who a callback, timer or task belongs to, and what becomes of those who are killed.

    host n1:  life 1 ──killed──┐   life 2 ──────────► each life is one `Process`: name, life, its own CPU, its own queue
    harness:  no process at all: it costs nothing, is never paused, and outlives everybody

Ownership travels in a context variable: whatever a process schedules inherits its context, and so its owner.

Invariants
  1. Of a dead process no callback runs, and what it schedules, should a piece of it still unwind, goes nowhere.
  2. A kill leaves nothing to be told later: its tasks make no noise when they are collected, and failures that only the
     dead could have seen are forgiven.
Source: `reliability` faults P1, P4 to P6; FoundationDB's `ProcessInfo` (SIGMOD 2021, section 4).
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar
from typing import Any

__all__ = [
    "PROCESS", "PointHook", "Process", "ProcessDied", "ProcessKilled", "TaskRecord", "forgive", "lay_to_rest",
]  # fmt: skip

CLOSE_ATTEMPTS_MAX = 100
"""A coroutine that awaits in its `finally` blocks must be closed once for each of those awaits."""


class ProcessKilled(BaseException):
    """Unwinds what a process is doing at the moment it dies. No `Exception`, so that no handler of errors takes it for one."""


class ProcessDied(Exception):
    """Tells the harness that the process it waited for was killed."""


class Process:
    """One life of one host. Made by `VirtualLoop.spawn`, which also is the only one that writes to it."""

    __slots__ = (
        "charge_s", "context", "dies_at_event", "events", "free_at_s", "is_dead", "is_listed", "is_paused", "life", "name",
        "number", "on_death", "queue",
    )  # fmt: skip

    def __init__(self, name: str, *, life: int, number: int, charge_s: float) -> None:
        self.name, self.life, self.number = name, life, number
        self.charge_s = charge_s
        """Virtual CPU time of each callback; larger when starved."""
        self.free_at_s = 0.0
        self.queue: deque[Any] = deque()
        """Callbacks that wait for the CPU, first in, first out."""
        self.is_listed = False
        """Whether the loop has a date for it: an entry in the list of CPUs that become free."""
        self.is_paused = self.is_dead = False
        self.events = 0
        """Callbacks run so far: the clock by which crash points are set."""
        self.dies_at_event: int | None = None
        self.on_death: list[Callable[[], None]] = []
        self.context = Context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return f"{self.name}.{self.life}"


PROCESS: ContextVar[Process | None] = ContextVar("simulated_process", default=None)
"""The owner of what is scheduled from here; None is the harness."""
PointHook = Callable[[Process, str], bool]
"""(process, name of the point it reached) -> whether it dies there."""
TaskRecord = tuple[asyncio.Task[Any], Process | None, Context]


def forgive(arguments: Iterable[object]) -> None:
    """Mark the errors of finished futures as seen: those who would have looked are dead."""
    for argument in arguments:
        if isinstance(argument, asyncio.Future) and argument.done() and not argument.cancelled():
            argument.exception()


def lay_to_rest(record: TaskRecord) -> None:
    """Release a task of a dead process. The loop must be muted: `finally` blocks run, and must not act."""
    task, _, context = record
    if task.done():
        forgive([task])
        return
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio does for what it abandons on purpose
    forgive([task._fut_waiter])  # type: ignore[attr-defined]  # what it waited for may have failed just now
    work = task.get_coro()
    if inspect.iscoroutine(work):
        _close(work, context)


def _close(work: Coroutine[Any, Any, Any], context: Context) -> None:
    if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        _close_arguments(work, context)
    for _ in range(CLOSE_ATTEMPTS_MAX):
        try:
            context.run(work.close)
            return
        except RuntimeError:
            continue  # it awaited while it was closed: it is now suspended there (or it raised this, and is closed)
        except (Exception, ProcessKilled):  # boundary: the last words of a dead process interest nobody
            return


def _close_arguments(work: Coroutine[Any, Any, Any], context: Context) -> None:
    """A coroutine that never began still holds those it was given, which would complain that nobody awaited them."""
    frame = getattr(work, "cr_frame", None)
    for held in list(frame.f_locals.values()) if frame is not None else []:
        if inspect.iscoroutine(held):
            _close(held, context)
