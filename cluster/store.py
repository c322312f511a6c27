"""The node's store: staged writes, group commit, and which keys are not on disk yet.

    stage ─► commit_staged (one atomic batch, visible) ─► sync (one at a time) ─► everything applied before it is acknowledged

Handling a frame stages its writes and commits them together, so a frame costs one engine call. A read of a staged key commits
first: what is only staged may yet be refused, so it is neither shown nor acknowledged.

Invariants
  1. A callback of `when_durable` runs only after a sync that began after everything it relies on was applied.
  2. A version that is not yet durable is never shown: readers go through `when_key_durable`.
  3. After one failed sync nothing is acknowledged any more: no callback runs, and `on_fatal` is told once.
  4. META of a refused batch (a minted actor) is not lost with it: it stays staged for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from cluster.record_cache import RECORD_CACHE_BYTES, RecordCache
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import StorageError, SyncFailed, UnavailableError
from kvstore.ids import StorageKey
from kvstore.storage.engine import Engine, Family, Put

__all__ = ["Applied", "Store"]

NO_SPACE_RETRY_S = 0.25
_PROBE = b"probe"
_DATA = Family.DATA
Applied = Callable[[Exception | None], None]
"""Called once a staged write was applied (None) or refused (the error; nothing was applied unless it is indefinite)."""


class Store:
    """Wraps one open engine. All methods run on the event loop."""

    def __init__(
        self, engine: Engine, on_fatal: Callable[[Exception], None], *, cache_bytes: int = RECORD_CACHE_BYTES,
        chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self.engine, self._on_fatal, self._chaos, self._is_calm = engine, on_fatal, chaos, chaos.is_calm
        self._cache = RecordCache(cache_bytes, chaos=chaos)
        self.on_doubt: Callable[[Mapping[bytes, bytes]], None] = _nobody_doubts
        """Told the records of a batch of which the engine does not know whether it was written."""
        self._loop = asyncio.get_running_loop()
        self._staged: list[Put] = []
        self._staged_records: dict[bytes, bytes] = {}
        self._after: list[Applied] = []
        self._dirty: dict[bytes, bytes] = {}
        self._syncing: dict[bytes, bytes] = {}
        self._waiters: list[Callable[[], None]] = []
        self._syncing_waiters: list[Callable[[], None]] = []
        self._committing: asyncio.Task[None] | None = None
        self._durables: dict[asyncio.Future[None], None] = {}
        self._failure: Exception | None = None
        self.commits = self.committed_writes = 0

    def read(self, key: StorageKey) -> bytes | None:
        """Return the newest record of a key; commits first if it is staged. Raises Corruption or StorageError."""
        if key in self._staged_records:
            self.commit_staged()
        return self.engine.get(_DATA, key)

    def maybe_cached(self, key: StorageKey) -> bytes | None:
        """Return the newest record of a key if it is at hand, verified before; else None: `read` it, verify and `keep` it."""
        if key in self._staged_records:
            self.commit_staged()
        return self._cache.get(key)

    def keep(self, key: StorageKey, record: bytes) -> None:
        """Remember a record that `read` returned and that was verified since."""
        self._cache.put(key, record)

    def forget_kept(self) -> None:
        """Read everything from the engine from now on, as after a restart (whoever damages a disk wants to see it)."""
        self._cache.clear()

    def delete_range(self, lower: bytes, upper: bytes) -> None:
        """Delete the records from `lower` up to `upper`, at once and visibly."""
        self._cache.clear()
        self.engine.delete_range(_DATA, lower, upper)

    def stage(self, key: StorageKey, record: bytes, after: Applied | None) -> None:
        """Add a record to the batch that the next `commit_staged` applies. `after` None: another write of the batch tells."""
        self._staged.append((_DATA, key, record))
        self._staged_records[key] = record
        if after is not None:
            self._after.append(after)

    def stage_meta(self, key: bytes, value: bytes | None) -> None:
        """Add a write of META to the same batch."""
        self._staged.append((Family.META, key, value))

    def commit_staged(self) -> None:
        """Apply what is staged as one atomic batch and tell every `after`; nothing to do is fine."""
        if not self._staged:
            return
        staged, after, records = self._staged, self._after, self._staged_records
        self._staged, self._after, self._staged_records = [], [], {}
        problem: UnavailableError | StorageError | None = None
        try:
            self.engine.apply(staged)
        except (UnavailableError, StorageError) as error:
            problem = error
            self._chaos.hit(Probe.BATCH_REFUSED if error.definite else Probe.BATCH_IN_DOUBT)
            if error.definite:
                self._staged = [put for put in staged if put[0] is Family.META]
        if problem is None:
            self._dirty.update(records)
            self.committed_writes += len(staged)
            self._cache.update(records)
        elif not problem.definite:
            self._dirty.update(records)
            self._cache.drop(records)
            self.on_doubt(records)
            self.sync_soon()  # whether the log still works is for a sync to say, and nobody else may ask for one
        for call in after:
            call(problem)

    def when_durable(self, call: Callable[[], None]) -> None:
        """Run `call` once everything applied so far is on disk."""
        self._waiters.append(call)
        if self._committing is None and self._failure is None:
            self._committing = self._loop.create_task(self._commit())
            self._committing.add_done_callback(self._commit_ended)

    def is_durable(self, key: bytes) -> bool:
        """Whether the version of `key` that a read shows now is on disk."""
        return key not in self._dirty and key not in self._syncing

    def when_key_durable(self, key: bytes, call: Callable[[], None]) -> None:
        """Run `call` once the version of `key` that a read shows now is on disk: mostly at once."""
        if key in self._dirty:
            self.when_durable(call)
        elif key in self._syncing:
            self._chaos.hit(Probe.READ_WAITED_FOR_SYNC)
            self._syncing_waiters.append(call)
        else:
            call()

    def sync_soon(self) -> None:
        """Make durable what was applied, although nobody waits for it."""
        self.when_durable(_nothing)

    async def durable(self) -> None:
        """Wait until everything applied so far is on disk, or raise what made a sync fail."""
        if self._failure is not None:
            raise self._failure
        done: asyncio.Future[None] = self._loop.create_future()
        self._durables[done] = None
        done.add_done_callback(lambda future: self._durables.pop(future))

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        self.when_durable(settle)
        await done

    async def put_meta(self, key: bytes, value: bytes | None) -> None:
        """Write one META entry and wait until it is on disk."""
        self.engine.apply([(Family.META, key, value)])
        await self.durable()

    async def abandon(self) -> None:
        """Give up the commit under way; nothing is acknowledged any more."""
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)

    async def _commit(self) -> None:
        while self._waiters or self._dirty:
            if not self._is_calm and (delay_s := self._chaos.pick(Point.COMMIT_LATE, 0.0, 0.002, 0.02)):
                await asyncio.sleep(delay_s)
            self._syncing, self._dirty = self._dirty, {}
            self._syncing_waiters, self._waiters = self._waiters, []
            try:
                await self.engine.sync()
            except SyncFailed:
                raise
            except StorageError:
                await self._wait_for_space()
                continue
            self.commits += 1
            waiters, self._syncing_waiters, self._syncing = self._syncing_waiters, [], {}
            for call in waiters:
                call()

    async def _wait_for_space(self) -> None:
        """The log had no room: nothing failed for good, so nothing is acknowledged and the same group is synced again later."""
        self._chaos.hit(Probe.NO_SPACE_WAITED)
        self._dirty, self._syncing = {**self._syncing, **self._dirty}, {}
        self._waiters, self._syncing_waiters = self._syncing_waiters + self._waiters, []
        await asyncio.sleep(NO_SPACE_RETRY_S)
        with contextlib.suppress(StorageError, UnavailableError):
            self.engine.apply([(Family.META, _PROBE, b"")])  # the engine takes syncs again once a write got through

    def _commit_ended(self, task: asyncio.Task[None]) -> None:
        self._committing = None
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._chaos.hit(Probe.SYNC_FAILED)
            self._failure = problem if isinstance(problem, Exception) else RuntimeError(repr(problem))
            for waiting in list(self._durables):
                if not waiting.done():
                    waiting.set_exception(self._failure)
            self._on_fatal(self._failure)
        elif self._waiters and not task.cancelled():
            self.when_durable(lambda: None)


def _nobody_doubts(records: Mapping[bytes, bytes]) -> None:
    """Before the node is built."""


def _nothing() -> None:
    """Nobody waits for this sync."""
