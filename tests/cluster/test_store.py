"""The store: what is staged, applied, durable and acknowledged, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import pytest

from cluster.store import Store
from kvstore.errors import Corruption, DiskFull, StorageError, SyncFailed
from kvstore.ids import StorageKey
from kvstore.storage.engine import Family, Put
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from tests.support.cluster import on_loop

KEY, OTHER = StorageKey(b"k" * 12), StorageKey(b"o" * 12)
SYNC_S = 0.010


class Bench:
    """A store on a disk, with a log of what it told whom."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.engine = MemoryEngine.open(self.disk, sync_delay_s=lambda: SYNC_S)
        self.fatal: list[Exception] = []
        self.store = Store(self.engine, self.fatal.append)
        self.told: list[object] = []

    def after(self, problem: Exception | None) -> None:
        self.told.append(problem)

    def note(self, what: object) -> Callable[[], None]:
        return lambda: self.told.append(what)

    def put(self, key: StorageKey = KEY, record: bytes = b"record") -> None:
        self.store.stage(key, record, self.after)
        self.store.commit_staged()


def run(main: Callable[[Bench], Coroutine[object, object, None]]) -> None:
    """Run `main` with a bench of its own on a virtual loop."""

    async def body() -> None:
        await main(Bench())

    on_loop(body)


def test_what_is_staged_is_applied_as_one_batch() -> None:
    """A frame of writes costs one engine call, META included, and every `after` is told."""

    async def main(bench: Bench) -> None:
        before = bench.disk.unsynced_count
        bench.store.stage(KEY, b"1", bench.after)
        bench.store.stage_meta(b"m", b"2")
        bench.store.stage(OTHER, b"3", bench.after)
        assert bench.told == []
        bench.store.commit_staged()
        assert bench.told == [None, None]
        assert bench.disk.unsynced_count == before + 1
        assert bench.engine.get(Family.META, b"m") == b"2"
        bench.store.commit_staged()
        assert bench.disk.unsynced_count == before + 1

    run(main)


def test_a_read_of_a_staged_key_commits_it_first() -> None:
    """So what a read shows is applied at least, and `when_key_durable` knows that it is not on disk yet."""

    async def main(bench: Bench) -> None:
        bench.store.stage(KEY, b"staged", bench.after)
        assert bench.store.read(OTHER) is None and bench.told == []
        assert bench.store.read(KEY) == b"staged" and bench.told == [None]
        bench.store.when_key_durable(KEY, bench.note("shown"))
        assert bench.told == [None]
        await asyncio.sleep(2 * SYNC_S)
        assert bench.told == [None, "shown"]

    run(main)


def test_a_refused_batch_tells_every_writer_and_shows_nothing() -> None:
    """Disk full: each `after` gets the error, the key keeps its old record, and nobody waits for it."""

    async def main(bench: Bench) -> None:
        bench.disk.capacity_bytes = 1
        bench.store.stage(KEY, b"1", bench.after)
        bench.store.stage(OTHER, b"2", bench.after)
        bench.store.commit_staged()
        assert [type(problem) for problem in bench.told] == [DiskFull, DiskFull]
        assert bench.store.read(KEY) is None
        bench.store.when_key_durable(KEY, bench.note("at once"))
        assert bench.told[-1] == "at once"

    run(main)


def test_meta_of_a_refused_batch_is_not_lost_with_it() -> None:
    """A minted actor must be on disk before its dots, also if the write that minted it was refused."""

    async def main(bench: Bench) -> None:
        bench.disk.capacity_bytes = 1
        bench.store.stage_meta(b"actor/0001", b"epoch")
        bench.store.stage(KEY, b"1", bench.after)
        bench.store.commit_staged()
        assert bench.engine.get(Family.META, b"actor/0001") is None
        bench.store.commit_staged()
        assert bench.engine.get(Family.META, b"actor/0001") == b"epoch"

    run(main)


def test_nothing_is_acknowledged_before_the_sync_that_covers_it() -> None:
    """The callback runs when the sync ends, not when the batch was applied."""

    async def main(bench: Bench) -> None:
        bench.put()
        bench.store.when_durable(bench.note("durable"))
        await asyncio.sleep(SYNC_S * 0.9)
        assert bench.told == [None] and bench.disk.unsynced_count > 0
        await asyncio.sleep(SYNC_S * 0.2)
        assert bench.told == [None, "durable"] and bench.disk.unsynced_count == 0

    run(main)


def test_a_write_during_a_running_sync_waits_for_the_next() -> None:
    """The running one may have begun before it."""

    async def main(bench: Bench) -> None:
        bench.put()
        bench.store.when_durable(bench.note("first"))
        await asyncio.sleep(SYNC_S / 2)
        bench.put(OTHER)
        bench.store.when_durable(bench.note("second"))
        await asyncio.sleep(SYNC_S * 0.7)
        assert bench.told == [None, None, "first"]
        await asyncio.sleep(SYNC_S)
        assert bench.told == [None, None, "first", "second"] and bench.store.commits == 2

    run(main)


def test_many_writes_share_a_sync() -> None:
    """Group commit: all that was applied before the sync began is acknowledged by it."""

    async def main(bench: Bench) -> None:
        for number in range(50):
            bench.put(StorageKey(b"%012d" % number))
            bench.store.when_durable(bench.note(number))
        await asyncio.sleep(2 * SYNC_S)
        assert bench.told[50:] == list(range(50)) and bench.store.commits == 1

    run(main)


def test_a_dirty_key_is_shown_after_its_own_sync_and_a_clean_one_at_once() -> None:
    """Waiting depends on the key: in the running sync, in the next one, or on disk already."""

    async def main(bench: Bench) -> None:
        bench.put()
        bench.store.when_durable(bench.note("write"))
        bench.store.when_key_durable(OTHER, bench.note("clean"))
        assert bench.told == [None, "clean"]
        await asyncio.sleep(SYNC_S / 2)
        bench.store.when_key_durable(KEY, bench.note("in the running sync"))
        bench.put(KEY, b"newer")
        bench.store.when_key_durable(KEY, bench.note("in the next sync"))
        await asyncio.sleep(SYNC_S * 0.7)
        assert bench.told[2:] == [None, "write", "in the running sync"]
        await asyncio.sleep(SYNC_S)
        bench.store.when_key_durable(KEY, bench.note("at once"))
        assert bench.told[-2:] == ["in the next sync", "at once"]

    run(main)


def test_after_a_failed_sync_nothing_is_acknowledged_and_fatal_is_told_once() -> None:
    """Neither what waited, nor what comes later, however often it is asked."""

    async def main(bench: Bench) -> None:
        bench.disk.fail_sync_after(0)
        bench.put()
        bench.store.when_durable(bench.note("never"))
        waiting = asyncio.ensure_future(bench.store.durable())
        await asyncio.sleep(2 * SYNC_S)
        bench.store.when_durable(bench.note("never"))
        bench.store.when_key_durable(KEY, bench.note("never"))
        bench.put(OTHER)
        await asyncio.sleep(5 * SYNC_S)

        assert [type(problem) for problem in bench.fatal] == [SyncFailed]
        assert "never" not in bench.told and isinstance(bench.told[-1], SyncFailed)
        with pytest.raises(SyncFailed):
            await waiting
        with pytest.raises(SyncFailed):
            await bench.store.durable()

    run(main)


def test_a_callback_that_fails_is_fatal_not_silent() -> None:
    """A bug in an acknowledgement must not leave the others waiting unseen."""

    async def main(bench: Bench) -> None:
        def broken() -> None:
            raise ZeroDivisionError

        bench.put()
        bench.store.when_durable(broken)
        await asyncio.sleep(2 * SYNC_S)
        assert [type(problem) for problem in bench.fatal] == [ZeroDivisionError]

    run(main)


def test_an_unknown_apply_failure_leaves_the_key_dirty() -> None:
    """It may have been applied: what a read shows of it waits for a sync like any other write."""

    async def main(bench: Bench) -> None:
        apply = bench.engine.apply

        def half(puts: Sequence[Put]) -> None:
            apply(puts)
            raise StorageError("no idea")

        bench.engine.apply = half  # type: ignore[method-assign]
        bench.put()
        bench.engine.apply = apply  # type: ignore[method-assign]
        assert isinstance(bench.told[0], StorageError) and not bench.told[0].definite
        bench.store.when_key_durable(KEY, bench.note("shown"))
        assert bench.told[-1] != "shown"
        await asyncio.sleep(2 * SYNC_S)
        assert bench.told[-1] == "shown"

    run(main)


def test_a_corrupt_record_is_an_error_not_absent() -> None:
    """`read` passes Corruption on."""

    async def main(bench: Bench) -> None:
        bench.put()
        bench.disk.corrupt(Family.DATA, KEY)
        with pytest.raises(Corruption):
            bench.store.read(KEY)

    run(main)


def test_an_abandoned_commit_acknowledges_nothing() -> None:
    """A killed process says nothing."""

    async def main(bench: Bench) -> None:
        bench.put()
        bench.store.when_durable(bench.note("never"))
        await asyncio.sleep(SYNC_S / 2)
        await bench.store.abandon()
        await asyncio.sleep(2 * SYNC_S)
        assert "never" not in bench.told and bench.fatal == []

    run(main)
