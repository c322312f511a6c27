"""Loading through failures: what counts as loaded, what is tried again, and what a resumed load will look at."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterable
from typing import Any, cast

import pytest

from cluster.cli.load import Loader, LoadOptions
from cluster.cli.load_core import LoadProgress
from cluster.cli.load_source import read_records
from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError, NoSuchBucket, Timeout, Unavailable, ValueTooLarge


class StubRead:
    """What the loader uses of a read."""

    def __init__(self, values: list[Any]) -> None:
        self.siblings = [StubSibling(value) for value in values]
        self.context = b"seen %d" % len(values)


class StubSibling:
    """What the loader uses of a sibling."""

    def __init__(self, value: Any) -> None:
        self.value = value


class StubStore:
    """A bucket in memory that raises what a test scripts, and lets other tasks run at every call."""

    def __init__(self, *, put_errors: dict[str, list[KVStoreError]] | None = None) -> None:
        self.values: dict[str, list[Any]] = {}
        self.puts: list[tuple[str, bytes | None]] = []
        self.in_flight_max = 0
        self.enough = asyncio.Event()
        self._in_flight = 0
        self._put_errors = put_errors or {}

    def bucket(self, name: str) -> StubStore:
        return self

    def with_options(self, **_: Any) -> StubStore:
        return self

    async def get(self, key: str) -> StubRead:
        await asyncio.sleep(0)
        return StubRead(self.values.get(key, []))

    async def put(self, key: str, value: Any, context: bytes | None = None) -> None:
        self._in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        await asyncio.sleep(0)
        self._in_flight -= 1
        self.puts.append((key, context))
        if len(self.puts) >= 60:
            self.enough.set()
        errors = self._put_errors.get(key)
        if errors:
            error = errors.pop(0)
            if not error.definite:
                self.values[key] = [value]  # it was applied although nobody could say so
            raise error
        self.values[key] = [value]


def lines(count: int) -> bytes:
    """A JSON lines file with keys k0, k1, …"""
    return b"".join(b'{"id": "k%d", "n": %d}\n' % (number, number) for number in range(count))


async def load(store: StubStore, raw: bytes, *, failures: io.StringIO | None = None, **options: Any) -> Loader:
    """Run a load of `raw` to its end."""
    records = read_records(io.BytesIO(raw), "jsonl", "id")
    settings = LoadOptions("id", **{"concurrency": 8, "patience_s": 0.2, **options})
    loader = Loader(cast(AsyncClient, store), records, settings, LoadProgress(0, 0), failures)
    await loader.run()
    return loader


async def test_every_record_is_put_with_what_was_read_as_context() -> None:
    """A load replaces what is there; it never makes siblings by itself."""
    store = StubStore()

    loader = await load(store, lines(50))

    assert (loader.counts.written, loader.counts.failed) == (50, 0)
    assert store.values["k7"] == [{"id": "k7", "n": 7}]
    assert {context for _, context in store.puts} == {b"seen 0"}
    assert loader.progress.offset == len(lines(50))
    assert store.in_flight_max <= 8


async def test_loading_again_changes_nothing() -> None:
    """What is there already is left alone, so a resumed load costs reads only."""
    store = StubStore()
    await load(store, lines(20))
    store.puts.clear()

    loader = await load(store, lines(20))

    assert (loader.counts.written, loader.counts.unchanged, store.puts) == (0, 20, [])


async def test_siblings_are_replaced() -> None:
    """The file decides: concurrent values that it finds are resolved to the record."""
    store = StubStore()
    store.values["k0"] = ["x", "y"]

    await load(store, lines(1))

    assert store.puts == [("k0", b"seen 2")]


async def test_blind_does_not_read_until_a_put_was_indefinite() -> None:
    """After "maybe applied" a second blind put could be a sibling of the first: the record is read anew."""
    store = StubStore(put_errors={"k0": [Timeout("late")]})

    loader = await load(store, lines(2), blind=True)

    assert [context for key, context in store.puts if key == "k1"] == [None]
    assert [context for key, context in store.puts if key == "k0"] == [None]
    assert (loader.counts.written, loader.counts.unchanged) == (1, 1)


async def test_a_failure_that_passes_is_ridden_out() -> None:
    """Unavailable owners come back: the record is tried again with pauses."""
    store = StubStore(put_errors={"k1": [Unavailable("down"), Unavailable("down")]})

    loader = await load(store, lines(3), patience_s=10.0)

    assert (loader.counts.written, loader.counts.failed, loader.counts.retries) == (3, 0, 2)


async def test_an_outage_that_stays_fails_the_record_and_holds_the_offset() -> None:
    """A resumed load starts at the record, not after it."""
    store = StubStore(put_errors={"k1": [Unavailable("down")] * 100})

    loader = await load(store, lines(4), patience_s=0.01)

    assert loader.counts.reasons == {"unavailable": 1}
    assert loader.progress.is_held
    assert loader.progress.offset <= len(lines(1))


async def test_a_record_wrong_in_itself_fails_once_and_is_told() -> None:
    """Trying it again would not help, so it does not hold the load back; the failures file has it."""
    store = StubStore(put_errors={"k1": [ValueTooLarge("too big")]})
    failures = io.StringIO()

    loader = await load(store, lines(3) + b"nonsense\n", failures=failures)

    assert loader.counts.reasons == {"value_too_large": 1, "bad_record": 1}
    assert not loader.progress.is_held
    assert sorted(json.loads(line)["line"] for line in failures.getvalue().splitlines()) == [2, 4]


async def test_a_missing_bucket_ends_the_load_at_once() -> None:
    """Every other record would fail with the same message."""
    store = StubStore(put_errors={"k0": [NoSuchBucket("bucket 'b' does not exist")]})

    with pytest.raises(NoSuchBucket):
        await load(store, lines(1_000))

    assert len(store.puts) < 100


def keys_of(puts: Iterable[tuple[str, bytes | None]]) -> set[str]:
    """The keys that were put."""
    return {key for key, _ in puts}


async def test_an_interrupted_load_and_its_resumption_cover_every_record() -> None:
    """Cancelled at any moment, the offset is such that going on from it misses nothing."""
    raw, store = lines(200), StubStore()
    records = read_records(io.BytesIO(raw), "jsonl", "id")
    loader = Loader(cast(AsyncClient, store), records, LoadOptions("id", concurrency=8), LoadProgress(0, 0))
    running = asyncio.create_task(loader.run())
    await store.enough.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    rest = read_records(io.BytesIO(raw), "jsonl", "id", offset=loader.progress.offset, line=loader.progress.line)
    progress = LoadProgress(loader.progress.offset, loader.progress.line)
    await Loader(cast(AsyncClient, store), rest, LoadOptions("id"), progress).run()

    assert 0 < loader.progress.offset < len(raw)
    assert len(store.values) == 200
    assert keys_of(store.puts) == set(store.values)
    assert progress.offset == len(raw)
