"""Bounded concurrency for the commands: a fixed number of workers over many items, which all end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["run_all", "run_workers"]

Item = TypeVar("Item")


async def run_workers(workers: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Run workers to their end; the first failure cancels the others and is raised."""
    tasks = [asyncio.ensure_future(each) for each in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_all(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Run `work` over all items, at most `concurrency` at once; the first unexpected error ends all."""
    iterator = iter(items)

    async def worker() -> None:
        for item in iterator:
            await work(item)

    await run_workers([worker() for _ in range(concurrency)])
