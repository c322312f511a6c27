"""The asyncio client: connects to any node of a cluster, learns the ring, and gives out buckets.

    async with AsyncClient.from_url("kv://10.0.0.1:7400,10.0.0.2:7400/?timeout=500ms") as kv:
        users = kv.bucket("users", type=User)
        await users.put("ada", User("Ada"))
        await kv.put("k", 1)                      # bucket "default"

`Client` (sync.py) is a thin face on this class; whatever is public here exists there, a test compares them.

A client may be made outside a loop; it belongs to the one that uses it first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from kvstore.chaos import CALM, Chaos
from kvstore.client.bucket import UPDATE_ATTEMPTS_MAX, AsyncBucket, object_type_of
from kvstore.client.consistency import Consistency, check_count
from kvstore.client.datatypes import Codec, Key
from kvstore.client.deadline import deadline_scope
from kvstore.client.options import (
    CLIENT_OPTIONS,
    REQUEST_OPTIONS,
    ClientKeywords,
    Duration,
    Options,
    RequestKeywords,
    duration_s,
    from_environment,
    ttl_ms_of,
    with_given,
)
from kvstore.client.results import OMITTED, GetResult, Omitted, PutResult, Resolver
from kvstore.client.runtime import BucketRuntime, Runtime
from kvstore.client.session import AsyncSession, SessionRuntime
from kvstore.client.session_state import SessionState
from kvstore.client.url import parse_address, parse_seeds, parse_url
from kvstore.env import Clock, Transport
from kvstore.errors import InvalidArgument
from kvstore.ids import ObjectType
from kvstore.messages import Verb, encode_body
from kvstore.ring.buckets import DEFAULT_BUCKET_NAME, BucketProperties
from kvstore.ring.topology import Topology

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """A client of one cluster. `transport`, `clock` and `rng` are the machine's own unless given."""

    def __init__(
        self, seeds: str | Iterable[str], *, transport: Transport | None = None, clock: Clock | None = None,
        rng: random.Random | None = None, chaos: Chaos = CALM, **options: Unpack[ClientKeywords],
    ) -> None:  # fmt: skip
        """`seeds`: addresses of any nodes, as a list or text with commas. For options see `kvstore.client.options`.

        `chaos` is for simulations (see `kvstore.chaos`).
        """
        self.seeds = parse_seeds(seeds)
        self.options = with_given(Options(), cast(Mapping[str, object], options), CLIENT_OPTIONS)
        self._runtime = Runtime(self.seeds, self.options, transport=transport, clock=clock, rng=rng, chaos=chaos)
        self._default: AsyncBucket[Any] = self.bucket(DEFAULT_BUCKET_NAME)

    @classmethod
    def from_url(
        cls, url: str, *, transport: Transport | None = None, clock: Clock | None = None, rng: random.Random | None = None,
        environ: Mapping[str, str] | None = None, **options: Unpack[ClientKeywords],
    ) -> Self:  # fmt: skip
        """Make a client from `kv://host:port,host:port/?option=value`. A keyword wins over the URL, that over KVSTORE_*."""
        seeds, in_url = parse_url(url)
        if environ is None:
            from kvstore.system import system_environment

            environ = system_environment()
        found = from_environment(environ)
        merged = cast(ClientKeywords, {**found, **in_url, **options})
        return cls(seeds, transport=transport, clock=clock, rng=rng, **merged)

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:  # boundary: `async with` does not call __aexit__ then, and links would stay open
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self, *, timeout: Duration | None = None) -> None:
        """Wait until a node is connected and the topology is known. Operations do it by themselves; this says it early.

        Raises Unavailable if no node answers in time, or the refusal of all of them.
        """
        await self._runtime.topology(self._deadline(timeout))

    async def close(self) -> None:
        """Close all connections. What is under way fails with `CoordinatorLost`. Idempotent."""
        await self._runtime.close()

    # --- objects ----------------------------------------------------------------------------------------------------

    @overload
    def bucket(
        self, name: str, *, type: type[T], resolver: Resolver[T] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> AsyncBucket[T]: ...  # fmt: skip

    @overload
    def bucket(
        self, name: str, *, type: None = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> AsyncBucket[Any]: ...  # fmt: skip

    def bucket(
        self, name: str, *, type: Any = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> AsyncBucket[Any]:  # fmt: skip
        """Return a bucket; asks nobody yet. `type`: values are checked and converted (see `client.datatypes`).

        `resolver` makes one value of siblings on `.value`. `object_type` other than the bucket's default names other
        objects: a register and an lww object of one key are two objects.
        """
        return self._bucket(self._runtime, name, type=type, resolver=resolver, object_type=object_type, **options)

    def session(self, token: bytes | None = None) -> AsyncSession:
        """Begin a session, or go on with the one of a `token`: its reads show what it has written and read before.

        Raises InvalidSession if the bytes are no token. One of another cluster is `ClusterMismatch` at the first operation.
        """
        state = SessionState() if token is None else SessionState.decode(token)
        return AsyncSession(state, partial(self._bucket, SessionRuntime(self._runtime, state)), DEFAULT_BUCKET_NAME)

    def _bucket(
        self, runtime: BucketRuntime, name: str, *, type: Any = None, resolver: Resolver[Any] | None = None,
        object_type: ObjectType | str | None = None, **options: Unpack[RequestKeywords],
    ) -> AsyncBucket[Any]:  # fmt: skip
        return AsyncBucket(
            runtime, name, codec=Codec(type), resolver=resolver,
            object_type=None if object_type is None else object_type_of(object_type),
            options=with_given(self.options, cast(Mapping[str, object], options), REQUEST_OPTIONS),
        )  # fmt: skip

    async def get(
        self, key: Key, *, consistency: Consistency | None = None, r: int | None = None, pr: int | None = None,
        timeout: Duration | None = None,
    ) -> GetResult[Any]:  # fmt: skip
        """`AsyncBucket.get` in the bucket "default"."""
        return await self._default.get(key, consistency=consistency, r=r, pr=pr, timeout=timeout)

    async def put(
        self, key: Key, value: Any, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """`AsyncBucket.put` in the bucket "default"."""
        return await self._default.put(
            key, value, context=context, consistency=consistency, w=w, dw=dw, pw=pw, ttl=ttl, timeout=timeout
        )

    async def delete(
        self, key: Key, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """`AsyncBucket.delete` in the bucket "default"."""
        return await self._default.delete(
            key, context=context, consistency=consistency, w=w, dw=dw, pw=pw, timeout=timeout
        )

    async def update(
        self, key: Key, fn: Callable[[Any], Any], *, attempts_max: int = UPDATE_ATTEMPTS_MAX,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """`AsyncBucket.update` in the bucket "default"."""
        return await self._default.update(key, fn, attempts_max=attempts_max, timeout=timeout)

    def timeout(self, timeout: Duration) -> AbstractContextManager[None]:
        """Bound all operations inside `with kv.timeout(0.2):` together. Nested ones only shrink; retries are paid from it."""
        return deadline_scope(asyncio.get_running_loop().time() + duration_s("timeout", timeout))

    # --- the cluster ------------------------------------------------------------------------------------------------

    async def topology(self, *, timeout: Duration | None = None) -> Topology:
        """Fetch the newest topology a node will give."""
        return await self._runtime.topology(self._deadline(timeout), newest=True)

    async def buckets(self, *, timeout: Duration | None = None) -> tuple[BucketProperties, ...]:
        """Return the properties of all buckets, by name."""
        return (await self.topology(timeout=timeout)).buckets

    async def create_bucket(
        self, name: str, *, default_type: ObjectType | str = ObjectType.REGISTER, r: int | None = None,
        w: int | None = None, dw: int | None = None, pr: int | None = None, pw: int | None = None,
        ttl: Duration | None = None, timeout: Duration | None = None,
    ) -> BucketProperties:  # fmt: skip
        """Create a bucket; its properties never change. The same one again is no error, another one is InvalidArgument."""
        counts = {"r": r, "w": w, "dw": dw, "pr": pr, "pw": pw}
        r, w, dw, pr, pw = (None if each is None else check_count(count, each) for count, each in counts.items())
        ttl_ms = 0 if ttl is None else ttl_ms_of("ttl", ttl)
        wanted = BucketProperties(name, object_type_of(default_type), r, w, dw, pr, pw, ttl_ms)  # checks the rest
        deadline = self._deadline(timeout)
        await self._runtime.topology(deadline)
        body = encode_body([name, int(wanted.default_type), r, w, dw, pr, pw, ttl_ms])
        await self._runtime.start().router.call_any(Verb.BUCKET_CREATE, body, deadline)
        return await self._runtime.wait_bucket(name, deadline)

    async def call_node(
        self, node: str | bytes, verb: int, key: bytes = b"", body: bytes = b"", *, timeout: Duration | None = None
    ) -> bytes:
        """Send one operation to one node, given by address, node id or the start of its hex form; for tools. No retries."""
        deadline = self._deadline(timeout)
        address = await self._address_of(node, deadline)
        link = await self._runtime.start().router.link_to(address, deadline)
        return await link.call(verb, 0, deadline, key, body)

    def _deadline(self, timeout: Duration | None) -> float:
        timeout_s = self.options.timeout_s if timeout is None else duration_s("timeout", timeout)
        return self._runtime.start().deadline(timeout_s)

    async def _address_of(self, node: str | bytes, deadline: float) -> str:
        if isinstance(node, str) and ":" in node:
            return parse_address(node)
        start = node.hex() if isinstance(node, bytes) else node.lower()
        members = (await self._runtime.topology(deadline)).members
        found = [member.address for member in members if member.node_id.hex().startswith(start)]
        if len(found) != 1 or not start:
            raise InvalidArgument(f"{start!r} names {len(found)} nodes; give an address or more of the node id")
        return found[0]
