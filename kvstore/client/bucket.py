"""A bucket as its users see it: typed get, put, delete and update of plain objects (`register` or `lww`).

    r = await users.get("ada")
    await users.put("ada", User("Ada"), context=r.context)     replaces exactly what r saw
    await users.put("ada", User("Ada"))                        blind: stays beside what is there (lww: overwrites)

A bucket object holds no state of the cluster and is not changed by use: `with_options` gives a copy. What every request of it
has in common (the prefix of its objects' names, the body of a default get) is computed once, before its first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kvstore.causality.context import encode_context
from kvstore.client.batch import AsyncBatch, Item, ManyResults, get_many
from kvstore.client.consistency import Consistency, check_count
from kvstore.client.datatypes import Codec, Key, key_bytes
from kvstore.client.deadline import deadline_scope
from kvstore.client.failures import UpdateUnresolved
from kvstore.client.options import (
    REQUEST_OPTIONS,
    Duration,
    Options,
    RequestKeywords,
    duration_s,
    ttl_ms_of,
    with_given,
)
from kvstore.client.requests import Sender
from kvstore.client.results import OMITTED, GetResult, Omitted, PutResult, Resolver, put_result, usable
from kvstore.client.runtime import BucketRuntime
from kvstore.errors import InvalidArgument, KVStoreError
from kvstore.ids import ObjectType
from kvstore.limits import KEY_SIZE_BYTES_MAX
from kvstore.messages import Verb, encode_body, get_reply_fields
from kvstore.storage.keyspace import object_name, storage_key

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["IN_FLIGHT_DEFAULT", "UPDATE_ATTEMPTS_MAX", "AsyncBucket", "object_type_of"]

T = TypeVar("T")
WriteCounts = tuple[int | None, int | None, int | None]
"""(w, dw, pw)"""
IN_FLIGHT_DEFAULT = 256
UPDATE_ATTEMPTS_MAX = 10
"""Collisions one `update` rides out; each one means that somebody else got through."""
_UPDATE_PAUSE_S = 0.01


def object_type_of(value: ObjectType | str) -> ObjectType:
    """Return an object type from itself or its name; `InvalidArgument` otherwise."""
    if isinstance(value, ObjectType):
        return value
    name = value.upper() if isinstance(value, str) else ""
    if name not in ObjectType.__members__:
        known = ", ".join(each.lower() for each in ObjectType.__members__)
        raise InvalidArgument(f"unknown object type {value!r}; known: {known}")
    return ObjectType[name]


class AsyncBucket(Generic[T]):
    """One bucket through one client or session; made by its `bucket`."""

    __slots__ = (
        "_codec", "_get_body", "_object_type", "_options", "_prefix", "_requests", "_resolver", "_runtime",
        "_write_defaults", "name",
    )  # fmt: skip

    def __init__(
        self, runtime: BucketRuntime, name: str, *, codec: Codec[T], resolver: Resolver[T] | None,
        object_type: ObjectType | None, options: Options,
    ) -> None:  # fmt: skip
        self.name = name
        self._runtime, self._codec, self._resolver, self._options = runtime, codec, resolver, options
        self._object_type = object_type
        self._requests: Sender | None = None
        self._prefix = b""
        self._get_body = self._get_request(None, None, None)
        self._write_defaults = (
            _first(options.w, options.consistency),
            _first(options.dw, options.consistency),
            options.pw,
        )

    @property
    def options(self) -> Options:
        """The defaults of this bucket object's requests."""
        return self._options

    def with_options(self, **options: Unpack[RequestKeywords]) -> AsyncBucket[T]:
        """Return a bucket that differs in these options: consistency, r, w, dw, pr, pw, timeout, ttl."""
        return AsyncBucket(
            self._runtime, self.name, codec=self._codec, resolver=self._resolver, object_type=self._object_type,
            options=with_given(self._options, options, REQUEST_OPTIONS),
        )  # fmt: skip

    # --- one object -------------------------------------------------------------------------------------------------

    async def get(
        self, key: Key, *, consistency: Consistency | None = None, r: int | None = None, pr: int | None = None,
        timeout: Duration | None = None,
    ) -> GetResult[T]:  # fmt: skip
        """Read an object. Not found is an empty result; concurrent values are siblings in it."""
        if consistency is None and r is None and pr is None:
            request = self._get_body
        else:
            request = self._get_request(consistency, r, pr)
        requests = self._requests or await self._prepare()
        name = self._name(key)
        timeout_s = self._options.timeout_s if timeout is None else duration_s("timeout", timeout)
        deadline = requests.deadline(timeout_s)
        try:
            body = await requests.begin(Verb.GET, name, request, deadline)
        except KVStoreError as error:
            body = await requests.again(error, Verb.GET, name, request, deadline)
        fields = get_reply_fields(body)
        # Never written is a state one can have seen, too: without a context of its own, the put that follows would be
        # taken for one that lost its context.
        context = fields[0] or encode_context(storage_key(name)[:8], 0, b"")
        return GetResult(fields, self._codec, self._resolver, context)

    async def put(
        self, key: Key, value: T, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """Write a value. With a context it replaces exactly what that read saw; without one it is blind.

        Raises: InvalidContext for None and for a context of another key; ClientError and UnavailableError (nothing
        was written); IndeterminateError (it may have been, now or later).
        """
        packed = self._codec.encode(value)
        known = None if context is OMITTED else usable(context)
        ttl_ms = self._options.ttl_ms if ttl is None else ttl_ms_of("ttl", ttl)
        counts = self._write_counts(consistency, w, dw, pw)
        timeout_s = self._options.timeout_s if timeout is None else duration_s("timeout", timeout)
        requests = self._requests or await self._prepare()
        name, request = self._name(key), encode_body((self._runtime.operation_id(), packed, known, ttl_ms, *counts))
        deadline = requests.deadline(timeout_s)
        try:
            body = await requests.begin(Verb.PUT, name, request, deadline)
        except KVStoreError as error:
            body = await requests.again(error, Verb.PUT, name, request, deadline)
        return put_result(body)

    async def delete(
        self, key: Key, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """Delete exactly what `context` saw; without one, read first and delete exactly that. One deadline for both."""
        timeout_s = self._options.timeout_s if timeout is None else duration_s("timeout", timeout)
        counts = self._write_counts(consistency, w, dw, pw)
        if context is OMITTED:
            return await self._read_and_delete(key, counts, timeout_s)
        return await self._write(Verb.DELETE, key, (usable(context), *counts), timeout_s)

    async def update(
        self, key: Key, fn: Callable[[T | None], T], *, attempts_max: int = UPDATE_ATTEMPTS_MAX,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """Read, resolve, apply `fn` (None if there is no value), write; again while concurrent values remain.

        On success exactly one value is left, and it has seen all others. When writers collide, `fn` is applied again, on
        a value that may already show its effect: it should be such that twice does no harm (add to a set, set a field).
        Raises Siblings if there are several values and no resolver (nothing was written), UpdateUnresolved if the
        value was written but others remain beside it.
        """
        if attempts_max < 1:
            raise InvalidArgument("attempts_max must be at least 1", attempts_max=attempts_max)
        timeout_s = self._options.timeout_s if timeout is None else duration_s("timeout", timeout)
        with deadline_scope(self._runtime.start().deadline(timeout_s)):
            return await self._update(key, fn, attempts_max)

    async def _update(self, key: Key, fn: Callable[[T | None], T], attempts_max: int) -> PutResult:
        written: PutResult | None = None
        for attempt in range(attempts_max):
            try:
                seen = await self.get(key)
                written = await self.put(key, fn(seen.get(None)), context=seen.context)
            except KVStoreError as error:
                if written is None or not error.definite:
                    raise
                raise _unresolved(written, attempt) from error
            if written.siblings <= 1 and not written.superseded:
                return written
            await asyncio.sleep(self._runtime.jitter() * _UPDATE_PAUSE_S * 2 ** min(attempt, 6))
        assert written is not None, "the loop runs at least once"
        raise _unresolved(written, attempts_max)

    # --- many objects -----------------------------------------------------------------------------------------------

    def batch(self, *, max_in_flight: int = IN_FLIGHT_DEFAULT) -> AsyncBatch[T]:
        """Return an `async with` block whose puts and deletes run side by side, each with an outcome of its own."""
        return AsyncBatch(self, max_in_flight=max_in_flight)

    async def get_many(self, keys: Iterable[Key], *, max_in_flight: int = IN_FLIGHT_DEFAULT) -> ManyResults[T]:
        """Read many objects side by side. `result[key]` is that key's result, or raises that key's error."""
        return await get_many(self, keys, max_in_flight=max_in_flight)

    # --- how requests are made --------------------------------------------------------------------------------------

    async def _prepare(self) -> Sender:
        """Learn what the bucket's objects are called; that needs the topology once, for the bucket's default type."""
        requests = self._runtime.start()
        object_type = self._object_type
        if object_type is None:
            object_type = (await self._runtime.bucket_properties(self.name)).default_type
        self._prefix = object_name(self.name, object_type, b"k")[:-3]
        self._requests = requests
        return requests

    def _name(self, key: Key) -> bytes:
        raw = key_bytes(key)
        if not raw or len(raw) > KEY_SIZE_BYTES_MAX or 0 in raw:
            return self._prefix + object_name(b"-", ObjectType.REGISTER, raw)[3:]  # checks, and escapes zero bytes
        return self._prefix + raw + b"\x00\x00"

    def _get_request(self, consistency: Consistency | None, r: int | None, pr: int | None) -> bytes:
        options = self._options
        r = _first(_count("r", r), _count("consistency", consistency), options.r, options.consistency)
        pr = _first(_count("pr", pr), options.pr)
        return b"" if r is None and pr is None else encode_body((r, pr))

    def _write_counts(
        self, consistency: Consistency | None, w: int | None, dw: int | None, pw: int | None
    ) -> WriteCounts:
        if consistency is None and w is None and dw is None and pw is None:
            return self._write_defaults
        here = _count("consistency", consistency)
        w_default, dw_default, pw_default = self._write_defaults
        return (
            _first(_count("w", w), here, w_default),
            _first(_count("dw", dw), here, dw_default),
            _first(_count("pw", pw), pw_default),
        )

    async def _write(self, verb: Verb, key: Key, fields: tuple[Any, ...], timeout_s: float) -> PutResult:
        """Carry out a write whose body is an operation id and `fields`."""
        requests = self._requests or await self._prepare()
        name, request = self._name(key), encode_body((self._runtime.operation_id(), *fields))
        return put_result(await requests.perform(verb, name, request, requests.deadline(timeout_s)))

    async def _read_and_delete(self, key: Key, counts: WriteCounts, timeout_s: float) -> PutResult:
        with deadline_scope(self._runtime.start().deadline(timeout_s)):
            seen = await self.get(key)
            if not seen.found:
                return PutResult(0, 0, seen.n, 0, 0, 0, False, seen.context)
            return await self._write(Verb.DELETE, key, (seen.context, *counts), timeout_s)

    def _put_item(self, key: Key, value: T, *, context: bytes | Omitted | None, ttl: Duration | None = None) -> Item:
        """Return a put of a batch, checked and encoded."""
        known = None if context is OMITTED else usable(context)
        return Item(
            key, self._codec.encode(value), known, self._options.ttl_ms if ttl is None else ttl_ms_of("ttl", ttl)
        )

    async def _perform_item(self, item: Item) -> PutResult:
        """Carry out an item of a batch."""
        key, value, context, ttl_ms = item
        timeout_s, counts = self._options.timeout_s, self._write_defaults
        if value is not None:
            return await self._write(Verb.PUT, key, (value, context, ttl_ms, *counts), timeout_s)
        if context is None:
            return await self._read_and_delete(key, counts, timeout_s)
        return await self._write(Verb.DELETE, key, (context, *counts), timeout_s)

    def _for_thread(self) -> AsyncBucket[T]:
        """Return a bucket that another thread may encode values with while this one is in use."""
        codec: Codec[T] = self._codec.copy()
        return AsyncBucket(
            self._runtime, self.name, codec=codec, resolver=self._resolver, object_type=self._object_type,
            options=self._options,
        )  # fmt: skip


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _count(name: str, value: int | None) -> int | None:
    return None if value is None else check_count(name, value)


def _unresolved(written: PutResult, attempts: int) -> UpdateUnresolved:
    message = "the value was written, but concurrent values remain beside it"
    return UpdateUnresolved(message, siblings=written.siblings, attempts=attempts, acked=written.acked)
