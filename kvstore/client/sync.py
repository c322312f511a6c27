"""The client for threads: the same names and parameters as `AsyncClient`, nothing to await, safe from many threads at once.

    thread ─┐
    thread ─┼─ call ──► one loop thread, all clients of the process ──► AsyncClient ──► the same frames, coalesced
    thread ─┘            (uvloop if it is there)

Each method hands one coroutine to the loop and waits; nothing is decided here. The thread is shared because gRPC delivers the
events of every loop through the one that used it first: with a loop of its own for each client, closing the first client
would leave the others deaf. The last `close` ends and joins the thread.

Do not call a client from its own loop thread (inside a function given to `update`): that is refused, it would wait for itself.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from kvstore.chaos import CALM, Chaos
from kvstore.client.batch import AsyncBatch, Failed, ManyResults, Written
from kvstore.client.bucket import IN_FLIGHT_DEFAULT, UPDATE_ATTEMPTS_MAX, AsyncBucket
from kvstore.client.client import AsyncClient
from kvstore.client.consistency import Consistency
from kvstore.client.datatypes import Key
from kvstore.client.deadline import deadline_scope
from kvstore.client.failures import ClientClosed, ClientForked
from kvstore.client.options import ClientKeywords, Duration, Options, RequestKeywords, duration_s
from kvstore.client.results import OMITTED, GetResult, Omitted, PutResult, Resolver
from kvstore.client.session import AsyncSession
from kvstore.env import Clock, Transport
from kvstore.errors import ClientError
from kvstore.ids import ObjectType
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.topology import Topology

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["Batch", "Bucket", "Client", "Session"]

T = TypeVar("T")
CLOSE_WAIT_S = 1.0
"""For the calls of other threads to end after a close."""


class _LoopThread:
    """The event loop of this process's synchronous clients, and the thread that runs it while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._users_count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return self._thread is threading.current_thread()

    def acquire(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; `release` it once."""
        # Before the lock: another thread of the parent may have held it at the fork, and it is never released here.
        if self._thread is not None and self._pid != os.getpid():
            raise ClientForked("start the child afresh (spawn) to open a client in it: gRPC does not survive a fork")
        with self._lock:
            if self._loop is None:
                self._loop, self._pid = _new_event_loop(), os.getpid()
                self._thread = threading.Thread(target=self._loop.run_forever, name="kvstore-client", daemon=True)
                self._thread.start()
            self._users_count += 1
            return self._loop

    def release(self) -> None:
        """Give the loop back; the last user ends it and waits for its thread."""
        with self._lock:
            self._users_count -= 1
            if self._users_count or self._loop is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None


_LOOP_THREAD = _LoopThread()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Runner:
    """Runs coroutines of one client on the loop thread. `_calls` are those that a thread is waiting for."""

    def __init__(self) -> None:
        self._loop = _LOOP_THREAD.acquire()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._calls: dict[Future[Any], None] = {}

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `call()` on the loop in a copy of this thread's context (so deadlines hold) and wait for it."""
        self._check()
        with self._lock:
            self._check_open()
            future = asyncio.run_coroutine_threadsafe(call(), self._loop)
            self._calls[future] = None
        try:
            return future.result()
        except BaseException:  # boundary: an interrupt of this thread must not leave the operation running
            future.cancel()
            raise
        finally:
            with self._lock:
                self._calls.pop(future, None)

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Run a plain function on the loop, without waiting."""
        self._check()
        with self._lock:
            self._check_open()
            self._loop.call_soon_threadsafe(call, *args)

    def end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `close()`, see off the calls of other threads, and give the loop back. Idempotent."""
        if os.getpid() != self._pid:  # in a forked child there is nothing to close: all of it stayed behind
            return
        self._check()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(close(), self._loop).result()
            self._see_off()
        finally:
            _LOOP_THREAD.release()

    def _see_off(self) -> None:
        """A closed client fails what is under way by itself; what is still pausing then is cancelled. Without this a
        thread could wait for a loop that has stopped."""
        for last in (False, True):
            with self._lock:
                calls = list(self._calls)
            for call in calls if last else []:
                call.cancel()
            wait(calls, timeout=CLOSE_WAIT_S)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ClientForked("this client belongs to the parent process; open another one in the child")
        if _LOOP_THREAD.is_current():
            raise ClientError("a client cannot be called from a function that runs on its own loop thread")

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed")


class Bucket(Generic[T]):
    """`AsyncBucket` without awaiting."""

    __slots__ = ("_bucket", "_runner")

    def __init__(self, bucket: AsyncBucket[T], runner: _Runner) -> None:
        self._bucket, self._runner = bucket, runner

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self._bucket.name

    @property
    def options(self) -> Options:
        """The defaults of this bucket object's requests."""
        return self._bucket.options

    def with_options(self, **options: Unpack[RequestKeywords]) -> Bucket[T]:
        """See `AsyncBucket.with_options`."""
        return Bucket(self._bucket.with_options(**options), self._runner)

    def get(
        self, key: Key, *, consistency: Consistency | None = None, r: int | None = None, pr: int | None = None,
        timeout: Duration | None = None,
    ) -> GetResult[T]:  # fmt: skip
        """See `AsyncBucket.get`."""
        return self._runner.run(lambda: self._bucket.get(key, consistency=consistency, r=r, pr=pr, timeout=timeout))

    def put(
        self, key: Key, value: T, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """See `AsyncBucket.put`."""
        return self._runner.run(lambda: self._bucket.put(
            key, value, context=context, consistency=consistency, w=w, dw=dw, pw=pw, ttl=ttl, timeout=timeout,
        ))  # fmt: skip

    def delete(
        self, key: Key, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """See `AsyncBucket.delete`."""
        return self._runner.run(lambda: self._bucket.delete(
            key, context=context, consistency=consistency, w=w, dw=dw, pw=pw, timeout=timeout,
        ))  # fmt: skip

    def update(
        self, key: Key, fn: Callable[[T | None], T], *, attempts_max: int = UPDATE_ATTEMPTS_MAX,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """See `AsyncBucket.update`. `fn` and the resolver run on the loop thread: keep them short, call no client there."""
        return self._runner.run(lambda: self._bucket.update(key, fn, attempts_max=attempts_max, timeout=timeout))

    def batch(self, *, max_in_flight: int = IN_FLIGHT_DEFAULT) -> Batch[T]:
        """See `AsyncBucket.batch`; the block is a plain `with`."""
        return Batch(self._bucket, self._runner, max_in_flight=max_in_flight)

    def get_many(self, keys: Iterable[Key], *, max_in_flight: int = IN_FLIGHT_DEFAULT) -> ManyResults[T]:
        """See `AsyncBucket.get_many`."""
        return self._runner.run(lambda: self._bucket.get_many(list(keys), max_in_flight=max_in_flight))


class Batch(Generic[T]):
    """`AsyncBatch` for one thread. Values are encoded in `put`, in the calling thread, so they may change afterwards."""

    def __init__(self, bucket: AsyncBucket[T], runner: _Runner, *, max_in_flight: int) -> None:
        self._runner = runner
        self._batch: AsyncBatch[T] = AsyncBatch(bucket._for_thread(), max_in_flight=max_in_flight)
        self._posted = 0

    @property
    def ok(self) -> list[Written]:
        """See `AsyncBatch.ok`; complete after `flush` or the block."""
        return self._batch.ok

    @property
    def failed(self) -> list[Failed]:
        """See `AsyncBatch.failed`; complete after `flush` or the block."""
        return self._batch.failed

    @property
    def is_full(self) -> bool:
        """Whether the next put waits for the ones before."""
        return self._posted >= self._batch.pending_max

    def put(
        self, key: Key, value: T, *, context: bytes | Omitted | None = OMITTED, ttl: Duration | None = None
    ) -> None:
        """See `AsyncBatch.put`; waits instead of raising when the batch is full."""
        self._post(self._batch._put_item(key, value, context=context, ttl=ttl))

    def delete(self, key: Key, *, context: bytes | Omitted | None = OMITTED) -> None:
        """See `AsyncBatch.delete`; waits instead of raising when the batch is full."""
        self._post(self._batch._delete_item(key, context=context))

    def flush(self) -> None:
        """Wait until every item so far has its outcome."""
        self._runner.run(self._batch.flush)
        self._posted = 0

    def _post(self, item: Any) -> None:
        if item is None:
            return
        if self.is_full:
            self.flush()
        self._runner.post(self._batch._add, item)
        self._posted += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(lambda: self._batch.__aexit__(kind, problem, trace))


class _Verbs:
    """The verbs of `AsyncBucket`, in the bucket "default"."""

    _default: Bucket[Any]

    def get(
        self, key: Key, *, consistency: Consistency | None = None, r: int | None = None, pr: int | None = None,
        timeout: Duration | None = None,
    ) -> GetResult[Any]:  # fmt: skip
        """See `AsyncBucket.get`."""
        return self._default.get(key, consistency=consistency, r=r, pr=pr, timeout=timeout)

    def put(
        self, key: Key, value: Any, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """See `AsyncBucket.put`."""
        return self._default.put(
            key, value, context=context, consistency=consistency, w=w, dw=dw, pw=pw, ttl=ttl, timeout=timeout
        )

    def delete(
        self, key: Key, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """See `AsyncBucket.delete`."""
        return self._default.delete(key, context=context, consistency=consistency, w=w, dw=dw, pw=pw, timeout=timeout)

    def update(
        self, key: Key, fn: Callable[[Any], Any], *, attempts_max: int = UPDATE_ATTEMPTS_MAX,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """See `AsyncBucket.update`."""
        return self._default.update(key, fn, attempts_max=attempts_max, timeout=timeout)


class Session(_Verbs):
    """`AsyncSession` without awaiting; the block is a plain `with`."""

    def __init__(self, session: AsyncSession, runner: _Runner) -> None:
        self._session, self._runner = session, runner
        self._default: Bucket[Any] = Bucket(session._default, runner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing has to be given back."""

    @property
    def token(self) -> bytes:
        """See `AsyncSession.token`."""

        async def on_loop() -> bytes:  # where what was seen is noted
            return self._session.token

        return self._runner.run(on_loop)

    @overload
    def bucket(
        self, name: str, *, type: type[T], resolver: Resolver[T] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> Bucket[T]: ...  # fmt: skip

    @overload
    def bucket(
        self, name: str, *, type: None = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> Bucket[Any]: ...  # fmt: skip

    def bucket(
        self, name: str, *, type: Any = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> Bucket[Any]:  # fmt: skip
        """See `AsyncSession.bucket`."""
        bucket = self._session.bucket(name, type=type, resolver=resolver, object_type=object_type, **options)
        return Bucket(bucket, self._runner)


class Client(_Verbs):
    """`AsyncClient` without awaiting. Open it with `with`, or `close` it."""

    def __init__(
        self, seeds: str | Iterable[str], *, transport: Transport | None = None, clock: Clock | None = None,
        rng: random.Random | None = None, chaos: Chaos = CALM, **options: Unpack[ClientKeywords],
    ) -> None:  # fmt: skip
        """See `AsyncClient`."""
        self._start(AsyncClient(seeds, transport=transport, clock=clock, rng=rng, chaos=chaos, **options))

    @classmethod
    def from_url(
        cls, url: str, *, transport: Transport | None = None, clock: Clock | None = None, rng: random.Random | None = None,
        environ: Mapping[str, str] | None = None, **options: Unpack[ClientKeywords],
    ) -> Self:  # fmt: skip
        """See `AsyncClient.from_url`."""
        client = cls.__new__(cls)
        client._start(AsyncClient.from_url(url, transport=transport, clock=clock, rng=rng, environ=environ, **options))
        return client

    def _start(self, client: AsyncClient) -> None:
        self._client = client
        self._runner = _Runner()
        self._default: Bucket[Any] = Bucket(client._default, self._runner)

    @property
    def seeds(self) -> tuple[str, ...]:
        """The addresses it was given."""
        return self._client.seeds

    @property
    def options(self) -> Options:
        """The defaults of its buckets' requests."""
        return self._client.options

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:  # boundary: `with` does not call __exit__ then, and the loop thread would stay
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self, *, timeout: Duration | None = None) -> None:
        """See `AsyncClient.connect`."""
        self._runner.run(lambda: self._client.connect(timeout=timeout))

    def close(self) -> None:
        """See `AsyncClient.close`. In a forked child it does nothing."""
        self._runner.end(self._client.close)

    @overload
    def bucket(
        self, name: str, *, type: type[T], resolver: Resolver[T] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> Bucket[T]: ...  # fmt: skip

    @overload
    def bucket(
        self, name: str, *, type: None = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> Bucket[Any]: ...  # fmt: skip

    def bucket(
        self, name: str, *, type: Any = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> Bucket[Any]:  # fmt: skip
        """See `AsyncClient.bucket`."""
        bucket = self._client.bucket(name, type=type, resolver=resolver, object_type=object_type, **options)
        return Bucket(bucket, self._runner)

    def session(self, token: bytes | None = None) -> Session:
        """See `AsyncClient.session`."""
        return Session(self._client.session(token), self._runner)

    def timeout(self, timeout: Duration) -> AbstractContextManager[None]:
        """See `AsyncClient.timeout`; bounds what this thread asks for inside the block."""
        return deadline_scope(time.monotonic() + duration_s("timeout", timeout))

    def topology(self, *, timeout: Duration | None = None) -> Topology:
        """See `AsyncClient.topology`."""
        return self._runner.run(lambda: self._client.topology(timeout=timeout))

    def buckets(self, *, timeout: Duration | None = None) -> tuple[BucketProperties, ...]:
        """See `AsyncClient.buckets`."""
        return self._runner.run(lambda: self._client.buckets(timeout=timeout))

    def create_bucket(
        self, name: str, *, default_type: ObjectType | str = ObjectType.REGISTER, r: int | None = None,
        w: int | None = None, dw: int | None = None, pr: int | None = None, pw: int | None = None,
        ttl: Duration | None = None, timeout: Duration | None = None,
    ) -> BucketProperties:  # fmt: skip
        """See `AsyncClient.create_bucket`."""
        return self._runner.run(lambda: self._client.create_bucket(
            name, default_type=default_type, r=r, w=w, dw=dw, pr=pr, pw=pw, ttl=ttl, timeout=timeout,
        ))  # fmt: skip

    def call_node(
        self, node: str | bytes, verb: int, key: bytes = b"", body: bytes = b"", *, timeout: Duration | None = None
    ) -> bytes:
        """See `AsyncClient.call_node`."""
        return self._runner.run(lambda: self._client.call_node(node, verb, key, body, timeout=timeout))
