"""A continuous load that notices every acknowledged write a read does not show: for campaigns that change the cluster under it.

    worker ──get key──► must show exactly the last acknowledged value ──put with that context──► remembered ──► next key

Every key has one worker, so that "exactly the last put" is well defined. A key whose put failed is not judged from then on: the
put may or may not have happened.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kvstore.chaos import Point, Probe
from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from tests.campaigns.harness import Findings, say

__all__ = ["RetryCount", "StrictLoad"]

T = TypeVar("T")
LINES_SHOWN_MAX = 10


class RetryCount:
    """A calm `Chaos` for a client: disturbs nothing, and counts the operations that succeeded only at a later attempt."""

    is_calm = True

    def __init__(self) -> None:
        self.count = 0

    def fires(self, point: Point) -> bool:
        """Never."""
        return False

    def pick(self, point: Point, default: T, *others: T) -> T:
        """Return the default."""
        return default

    def hit(self, probe: Probe) -> None:
        """Count what was worth retrying."""
        self.count += probe is Probe.CLIENT_RETRY_WORKED


@dataclass(slots=True)
class StrictLoad:
    """`last` is what every key holds at the beginning, and then what was last acknowledged."""

    client: AsyncClient
    rng: random.Random
    last: dict[str, bytes] = field(default_factory=dict)
    workers: int = 32
    puts: int = 0
    reads: int = 0
    missed: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    """Of the errors."""
    doubtful: set[str] = field(default_factory=set)
    longest_s: float = 0.0
    """The longest that a get or a put took since somebody last set this to 0."""
    is_over: bool = False

    async def run(self) -> None:
        """Work until `is_over`."""
        keys = list(self.last)
        workers = min(self.workers, len(keys))
        await asyncio.gather(*(self._work(keys[number::workers]) for number in range(workers)))

    async def _work(self, keys: Sequence[str]) -> None:
        number = 0
        while not self.is_over:
            key, number = self.rng.choice(keys), number + 1
            try:
                await self._step(key, b"%s again %d" % (key.encode(), number))
            except KVStoreError as error:
                self.errors[error.code] = self.errors.get(error.code, 0) + 1
                self.messages.append(f"{key}: {error.code}: {error}")
                self.doubtful.add(key)

    async def _step(self, key: str, value: bytes) -> None:
        shown = await self._timed(self.client.get(key))
        self.reads += 1
        values = [sibling.value for sibling in shown.siblings]
        if key not in self.doubtful and values != [self.last[key]]:
            self.missed.append(f"{key}: {values} where {self.last[key]!r} was acknowledged")
        await self._timed(self.client.put(key, value, context=shown.context))
        self.last[key] = value
        self.puts += 1

    async def _timed(self, operation: Awaitable[T]) -> T:
        started_s = time.monotonic()
        try:
            return await operation
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - started_s)

    def judge(self, findings: Findings, *, tolerates_errors: bool) -> None:
        """Tell what was seen, and require that nothing was missed."""
        say(
            f"meanwhile {self.puts:,} puts and {self.reads:,} strict reads: {len(self.missed)} missed; errors {self.errors}"
        )
        for line in [*self.missed[:LINES_SHOWN_MAX], *self.messages[:LINES_SHOWN_MAX]]:
            say(f"  {line}")
        findings.require(not self.missed, f"{len(self.missed)} strict reads missed an acknowledged write")
        findings.require(tolerates_errors or not self.errors, f"clients met errors: {self.errors}")
        findings.note(puts=self.puts, reads=self.reads, missed=len(self.missed), errors=self.errors)
