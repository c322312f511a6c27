"""What the loop hands out: callbacks, timers and futures that know which process they belong to.

Built field by field, because asyncio's own constructors ask for the debug mode each time (0.1 us of 0.5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from jepsen_lite.sim.processes import PROCESS, Process

__all__ = ["ProcessFuture", "ProcessHandle", "ProcessTimer"]


class ProcessHandle(asyncio.Handle):
    """A handle that knows its owner."""

    __slots__ = ("process",)
    _callback: Callable[..., object]
    _context: Context
    _repr = _source_traceback = None

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        if context is None:
            context = copy_context()
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self.process = context.get(PROCESS)


class ProcessTimer(asyncio.TimerHandle):
    """A timer that knows its owner."""

    __slots__ = ("process",)
    _callback: Callable[..., object]
    _context: Context
    _repr = _source_traceback = None

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:  # fmt: skip
        if context is None:
            context = copy_context()
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = self._scheduled = False
        self._when = when
        self.process = context.get(PROCESS)


class ProcessFuture(asyncio.Future[Any]):
    """A future that knows its owner, so that an error which only the dead could have looked at is told apart."""

    __slots__ = ("process",)
    process: Process | None
