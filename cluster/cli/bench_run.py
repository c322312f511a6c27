"""The load of `kvctl bench`: workers as coroutines awaiting client operations, and what they measured.

    closed loop   each of [concurrency] workers issues its next operation when the last was answered
    open loop     operation i is due at start + i / rate; the next free worker issues it (bench_core, invariant 1)

What the generator itself costs per operation is two clock readings, one array append and the choice of a key: it must
not be what is measured. Latencies are kept raw (8 bytes each) and become histograms afterwards.

Put policies, because a register keeps what a put did not know of as siblings:
    fresh     every put is of a key that was never written
    blind     no context: right for lww; on a register siblings pile up
    context   passes the context of the last reply for the key that this generator saw; reads the key if it has none
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.cli.bench_core import Kind, Mix, key_chooser, key_of, latency_ns, start_delay_s
from cluster.cli.workers import run_workers
from kvstore.client.results import GetResult
from kvstore.errors import KVStoreError

if TYPE_CHECKING:
    from kvstore.client.bucket import AsyncBucket
    from kvstore.client.results import PutResult

__all__ = ["BenchPlan", "Measured", "Runner"]

ERROR_PAUSE_S = 0.01
"""A worker whose operation failed waits this long at least, so that a dead cluster is not asked in a tight loop."""
PRELOAD_CONCURRENCY = 256


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to run. Either `duration_s` or `operations_max` bounds it; `rate_per_s` None is a closed loop."""

    mix: Mix
    distribution: str
    keys_count: int
    value: bytes
    policy: str
    concurrency: int
    rate_per_s: float | None
    duration_s: float | None
    operations_max: int | None
    seed: int
    fresh_offset: int
    """Added to the numbers of inserted keys, so that a second run inserts others: fresh has to mean fresh."""

    def key(self, index: int) -> bytes:
        """Return key number `index`; those from `keys_count` on are inserted by this run."""
        return key_of(index if index < self.keys_count else index + self.fresh_offset)


@dataclass(slots=True)
class Measured:
    """What one phase measured: raw latencies by kind in ns, errors by code."""

    latencies_ns: dict[Kind, array[int]] = field(default_factory=lambda: {kind: array("q") for kind in Kind})
    errors: Counter[str] = field(default_factory=Counter)
    not_found: int = 0
    elapsed_s: float = 0.0

    @property
    def operations(self) -> int:
        """Operations that succeeded."""
        return sum(len(each) for each in self.latencies_ns.values())


class Runner:
    """Runs a plan over one or more clients' buckets (workers are dealt round-robin)."""

    def __init__(self, plan: BenchPlan, buckets: list[AsyncBucket[Any]]) -> None:
        self._plan = plan
        self._buckets = buckets
        self._rng = random.Random(plan.seed)
        self._inserted = itertools.count(plan.keys_count)
        self._newest = plan.keys_count
        self._contexts: dict[bytes, bytes] = {}
        self._choose_key = key_chooser(plan.distribution, plan.keys_count, lambda: self._newest, self._rng)
        self._choose_kind = plan.mix.chooser(self._rng)

    async def preload(self, on_progress: Callable[[int], None]) -> int:
        """Put every key that is not there yet; returns how many were put. Keys that are there are left alone."""
        keys = iter(range(self._plan.keys_count))
        put_count = 0

        async def worker(bucket: AsyncBucket[Any]) -> None:
            nonlocal put_count
            for index in keys:
                key = key_of(index)
                if not (await bucket.get(key)).found:
                    result = await bucket.put(key, self._plan.value)
                    put_count += 1
                    self._remember(key, result.context)
                on_progress(index)

        await run_workers(worker(self._buckets[i % len(self._buckets)]) for i in range(PRELOAD_CONCURRENCY))
        return put_count

    async def phase(self, duration_s: float | None, operations_max: int | None) -> Measured:
        """Run the mix until `duration_s` or `operations_max` and return what was measured."""
        measured = Measured()
        start_ns = time.perf_counter_ns()
        worker = self._closed_worker if self._plan.rate_per_s is None else self._open_worker
        schedule = _Schedule(start_ns, self._plan.rate_per_s, duration_s, operations_max)
        buckets = self._buckets
        await run_workers(
            worker(self._actions(buckets[i % len(buckets)]), schedule, measured) for i in range(self._plan.concurrency)
        )
        measured.elapsed_s = (time.perf_counter_ns() - start_ns) * 1e-9
        return measured

    async def _closed_worker(self, actions: _Actions, schedule: _Schedule, measured: Measured) -> None:
        clock, latencies, choose_kind = time.perf_counter_ns, measured.latencies_ns, self._choose_kind
        end_ns, remaining = schedule.end_ns, schedule.remaining
        begun_ns = clock()
        while begun_ns < end_ns and remaining.take():
            kind = choose_kind()
            try:
                answer = await actions[kind]()
            except KVStoreError as error:
                measured.errors[error.code] += 1
                await asyncio.sleep(ERROR_PAUSE_S)
                begun_ns = clock()
                continue
            now_ns = clock()
            latencies[kind].append(now_ns - begun_ns)
            begun_ns = now_ns
            if type(answer) is GetResult and not answer.found:
                measured.not_found += 1
            del answer  # else each of 1,024 workers holds its last one while it waits, in memory gone cold (0.3 us)

    async def _open_worker(self, actions: _Actions, schedule: _Schedule, measured: Measured) -> None:
        clock, latencies, choose_kind = time.perf_counter_ns, measured.latencies_ns, self._choose_kind
        while (intended_ns := schedule.next_start_ns()) is not None:
            delay_s = start_delay_s(intended_ns, clock())
            if delay_s:
                await asyncio.sleep(delay_s)
            kind, issued_ns = choose_kind(), clock()
            try:
                answer = await actions[kind]()
            except KVStoreError as error:
                measured.errors[error.code] += 1
                continue
            latencies[kind].append(latency_ns(intended_ns, issued_ns, clock()))
            if type(answer) is GetResult and not answer.found:
                measured.not_found += 1

    def _actions(self, bucket: AsyncBucket[Any]) -> _Actions:
        """Return what begins one operation of each kind. Plain functions where the bucket's own coroutine will do: each coroutine
        around it costs the generator 0.4 us an operation."""
        choose, get, put = self._choose_key, bucket.get, bucket.put
        value, key_at = self._plan.value, self._plan.key

        def read() -> Awaitable[GetResult[Any]]:
            return get(key_at(choose()))

        async def insert() -> None:
            index = next(self._inserted)
            await put(key_at(index), value)
            self._newest = max(self._newest, index + 1)

        def blind() -> Awaitable[PutResult]:
            return put(key_at(choose()), value)

        async def with_context() -> None:
            key = key_at(choose())
            # Popped: a second worker on the same key meanwhile must not use the same context (it would be a sibling).
            context = self._contexts.pop(key, None) or (await get(key)).context
            result = await (put(key, value, context=context) if context else put(key, value))
            self._remember(key, result.context)

        async def read_modify_write() -> None:
            key = key_at(choose())
            context = (await get(key)).context
            await (put(key, value, context=context) if context else put(key, value))

        update = {"fresh": insert, "blind": blind, "context": with_context}[self._plan.policy]
        return (read, update, insert, read_modify_write)

    def _remember(self, key: bytes, context: bytes | None) -> None:
        if context:
            self._contexts[key] = context


_Actions = tuple[Callable[[], Awaitable[Any]], ...]
"""By `Kind`: begins an operation; awaiting it gives the answer, if it was a plain read or write."""


class _Remaining:
    """Counts down operations, or never ends."""

    __slots__ = ("_left",)

    def __init__(self, operations_max: int | None) -> None:
        self._left = operations_max if operations_max is not None else 1 << 62

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


class _Schedule:
    """When a phase ends and, in an open loop, when each operation is due."""

    def __init__(
        self, start_ns: int, rate_per_s: float | None, duration_s: float | None, operations_max: int | None
    ) -> None:
        self.end_ns = start_ns + round(duration_s * 1e9) if duration_s is not None else 1 << 62
        self.remaining = _Remaining(operations_max)
        self._start_ns = start_ns
        self._interval_ns = 1e9 / rate_per_s if rate_per_s is not None else 0.0
        self._issued = 0

    def next_start_ns(self) -> int | None:
        """Return when the next operation is due; None when the phase is over."""
        due_ns = self._start_ns + round(self._issued * self._interval_ns)
        if due_ns >= self.end_ns or not self.remaining.take():
            return None
        self._issued += 1
        return due_ns
