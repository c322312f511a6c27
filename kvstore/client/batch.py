"""Many operations side by side, each with an outcome of its own: never "all or mystery".

    async with users.batch() as b:
        for key, user in items:
            b.put(key, user)            encodes at once (later changes of `user` do not matter), runs in the background
            if b.is_full: await b.flush()
    b.ok, b.failed                      in the order of completion

    put ──► pending ──► at most max_in_flight workers, each performs one item after the other ──► ok | failed

A batch is not a transaction: items are independent, run in any order, and two items of one key race each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

from kvstore.client.datatypes import Key
from kvstore.client.options import Duration
from kvstore.client.results import OMITTED, GetResult, Omitted, PutResult, usable
from kvstore.errors import ClientError, InvalidArgument, KVStoreError, Overloaded, Unavailable

if TYPE_CHECKING:
    from kvstore.client.bucket import AsyncBucket

__all__ = [
    "IN_FLIGHT_MAX", "PENDING_MAX", "AsyncBatch", "Failed", "Item", "ManyResults", "Written", "get_many",
]  # fmt: skip

T = TypeVar("T")
IN_FLIGHT_MAX = 4_096
"""As many as one node coordinates at once (limits.INFLIGHT_PER_NODE_MAX): more would only be refused."""
PENDING_MAX = 65_536
"""Items that wait for a worker. They hold encoded values, so a batch that is filled faster must `flush` in between."""


class Item(NamedTuple):
    """One put or delete, encoded. `value` None deletes; `context` None is a blind put, or a delete that reads first."""

    key: Key
    value: bytes | None
    context: bytes | None
    ttl_ms: int


class Written(NamedTuple):
    """An item that was acknowledged."""

    key: Key
    result: PutResult


class Failed(NamedTuple):
    """An item that was not; `error.definite` says whether it may have been applied all the same."""

    key: Key
    error: KVStoreError


class AsyncBatch(Generic[T]):
    """See the module docstring. Leaving the block by an exception gives up what has not begun, and lists it in `failed`."""

    def __init__(self, bucket: AsyncBucket[T], *, max_in_flight: int) -> None:
        self._bucket = bucket
        self._max_in_flight = check_in_flight(max_in_flight)
        self._pending: deque[Item] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._busy = 0
        self.ok: list[Written] = []
        self.failed: list[Failed] = []

    @property
    def pending_max(self) -> int:
        """Items that may wait for a worker at once."""
        return PENDING_MAX

    @property
    def is_full(self) -> bool:
        """Whether the next item would be refused with `Overloaded`; `flush` makes room."""
        return len(self._pending) >= PENDING_MAX

    def put(
        self, key: Key, value: T, *, context: bytes | Omitted | None = OMITTED, ttl: Duration | None = None
    ) -> None:
        """Queue a put. A value that cannot be written becomes a failed item; Overloaded is raised if the batch is full."""
        item = self._put_item(key, value, context=context, ttl=ttl)
        if item is not None:
            self._add(item)

    def delete(self, key: Key, *, context: bytes | Omitted | None = OMITTED) -> None:
        """Queue a delete; without a context it reads first and deletes exactly that."""
        item = self._delete_item(key, context=context)
        if item is not None:
            self._add(item)

    def _put_item(self, key: Key, value: T, *, context: bytes | Omitted | None, ttl: Duration | None) -> Item | None:
        try:
            return self._bucket._put_item(key, value, context=context, ttl=ttl)
        except ClientError as error:
            self.failed.append(Failed(key, error))
            return None

    def _delete_item(self, key: Key, *, context: bytes | Omitted | None) -> Item | None:
        try:
            return Item(key, None, None if context is OMITTED else usable(context), 0)
        except ClientError as error:
            self.failed.append(Failed(key, error))
            return None

    def _add(self, item: Item) -> None:
        if self.is_full:
            raise Overloaded("the batch is full: await its flush()", pending=len(self._pending), limit=PENDING_MAX)
        self._pending.append(item)
        if self._busy < self._max_in_flight:
            self._busy += 1
            self._workers.append(asyncio.get_running_loop().create_task(self._work()))

    async def flush(self) -> None:
        """Wait until every item so far has its outcome."""
        while self._workers:
            workers, self._workers = self._workers, []
            await asyncio.gather(*workers)

    async def _work(self) -> None:
        try:
            while self._pending:
                item = self._pending.popleft()
                try:
                    self.ok.append(Written(item.key, await self._bucket._perform_item(item)))
                except KVStoreError as error:
                    self.failed.append(Failed(item.key, error))
        finally:
            self._busy -= 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is not None:
            self._give_up()
        await self.flush()

    def _give_up(self) -> None:
        error = Unavailable("the batch was left by an exception before this item was sent")
        self.failed += [Failed(item.key, error) for item in self._pending]
        self._pending.clear()


class ManyResults(dict[Key, GetResult[T]]):
    """Results by key, as the keys were given. `results[key]` raises the key's error if its read failed; `failed` lists them."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[Failed] = []

    def __missing__(self, key: Key) -> GetResult[T]:
        for failed in self.failed:
            if failed.key == key:
                raise failed.error
        raise KeyError(key)


async def get_many(bucket: AsyncBucket[T], keys: Iterable[Key], *, max_in_flight: int) -> ManyResults[T]:
    """Read keys side by side, at most `max_in_flight` at a time; each key once."""
    distinct = list(dict.fromkeys(keys))
    todo = deque(distinct)
    found: dict[Key, GetResult[T]] = {}
    failed: dict[Key, KVStoreError] = {}

    async def work() -> None:
        while todo:
            key = todo.popleft()
            try:
                found[key] = await bucket.get(key)
            except KVStoreError as error:
                failed[key] = error

    workers: list[Any] = [work() for _ in range(min(check_in_flight(max_in_flight), len(distinct)))]
    await asyncio.gather(*workers)
    results: ManyResults[T] = ManyResults()
    results.update((key, found[key]) for key in distinct if key in found)
    results.failed = [Failed(key, failed[key]) for key in distinct if key in failed]
    return results


def check_in_flight(max_in_flight: int) -> int:
    """Return the bound, or raise `InvalidArgument` if it is out of range."""
    if type(max_in_flight) is not int or not 1 <= max_in_flight <= IN_FLIGHT_MAX:
        raise InvalidArgument(f"max_in_flight must be 1 to {IN_FLIGHT_MAX}", max_in_flight=max_in_flight)
    return max_in_flight
