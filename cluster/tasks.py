"""Supervised tasks: the few things of a node that take more than one step, none of which may fail unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from cluster.requests import Reply, fail
from kvstore.errors import KVStoreError
from kvstore.messages import Status

__all__ = ["Tasks"]


class Tasks:
    """Owns its tasks until they end; a failure nobody asked for goes to the loop's exception handler."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: dict[asyncio.Task[Any], str] = {}

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in the background."""
        task = self._loop.create_task(work)
        self._running[task] = name
        task.add_done_callback(self._ended)
        return task

    def answer(self, name: str, work: Coroutine[Any, Any, bytes], reply: Reply) -> None:
        """Run `work` and reply with what it returns, or with its error."""
        self.spawn(name, _answered(work, reply))

    async def close(self) -> None:
        """Cancel what still runs, and wait until it ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        name = self._running.pop(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"{name} failed", "exception": problem, "task": task})


async def _answered(work: Coroutine[Any, Any, bytes], reply: Reply) -> None:
    try:
        reply(Status.OK, await work)
    except KVStoreError as error:
        fail(reply, error)
