"""A session: reads in it show at least what its earlier reads have shown and its writes have written, whichever replica answers.

    async with kv.session() as s:
        await s.put("k", 1)
        (await s.get("k", consistency=C.ONE)).value == 1        also if the one replica asked has not heard of it yet
        token = s.token                                         kv.session(token): the same promises, elsewhere

    bucket ─► SessionRequests ─┬─ get: the least history it has to show ─► coordinator asks owners until they cover it
                               └─ put, delete: tell what you have seen ─► noted, with what every get has shown

Promised for each object by itself: read-your-writes and monotonic reads, counted from when the earlier operation was answered.
What failed was not answered: a put of unknown outcome promises nothing. A read that no reachable owner can satisfy raises
`SessionNotSatisfied`. Leaving the block ends nothing: a session is only what it remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from kvstore.causality.context import UNUSABLE, is_history
from kvstore.client.bucket import UPDATE_ATTEMPTS_MAX, AsyncBucket
from kvstore.client.consistency import Consistency
from kvstore.client.datatypes import Key
from kvstore.client.options import Duration, RequestKeywords
from kvstore.client.requests import Requests
from kvstore.client.results import OMITTED, GetResult, Omitted, PutResult, Resolver
from kvstore.client.runtime import Runtime
from kvstore.client.session_state import SessionState
from kvstore.errors import InternalError, KVStoreError
from kvstore.ids import ObjectType, OperationId
from kvstore.messages import (
    Verb,
    asking_history,
    decode_put_reply,
    encode_body,
    get_reply_fields,
    in_session,
)
from kvstore.ring.buckets import BucketProperties
from kvstore.storage.keyspace import storage_key

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["AsyncSession", "SessionRuntime"]

T = TypeVar("T")
MakeBucket = Callable[..., AsyncBucket[Any]]


class SessionRequests:
    """Sends the operations of a session (see `requests.Sender`): says what a get has to show, and notes what replies show."""

    __slots__ = ("_requests", "_state")

    def __init__(self, requests: Requests, state: SessionState) -> None:
        self._requests, self._state = requests, state

    def deadline(self, timeout_s: float) -> float:
        """See `Requests.deadline`."""
        return self._requests.deadline(timeout_s)

    async def perform(self, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Return the OK body, as `Requests.perform` does; also raises SessionFull and ClusterMismatch: nothing was sent."""
        await self._bind(deadline)
        name_hash = storage_key(name)[:8]
        self._state.admit(name_hash)
        if verb is Verb.GET:
            history = self._state.history(name_hash)
            answer = await self._requests.perform(verb, name, in_session(body, history) if history else body, deadline)
            self._state.note(name_hash, get_reply_fields(answer)[0])
            return answer
        return self._noted(name_hash, await self._requests.perform(verb, name, asking_history(body), deadline))

    async def begin(self, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Do all that there is to do, retries included: nothing is left for `again`."""
        return await self.perform(verb, name, body, deadline)

    async def again(self, error: KVStoreError, verb: Verb, name: bytes, body: bytes, deadline: float) -> bytes:
        """Raise the error: `begin` has tried everything."""
        raise error

    async def _bind(self, deadline: float) -> None:
        router = self._requests.router
        if router.topology is None:
            await router.wait_usable(deadline)
        assert router.topology is not None, "wait_usable returns only with a topology"
        self._state.bind(router.topology.cluster_id)

    def _noted(self, name_hash: bytes, answer: bytes) -> bytes:
        """Note what a write has seen, and return its reply as it would be without a session."""
        reply = decode_put_reply(answer)
        if not reply.context:
            raise InternalError("the write was acknowledged, but the node did not say what it has seen")
        self._state.note(name_hash, reply.context)
        return encode_body(reply._replace(context=UNUSABLE)) if is_history(reply.context) else answer


class SessionRuntime:
    """What the buckets of one session share (see `runtime.BucketRuntime`)."""

    __slots__ = ("_requests", "_runtime", "state")

    def __init__(self, runtime: Runtime, state: SessionState) -> None:
        self._runtime, self.state = runtime, state
        self._requests: SessionRequests | None = None

    def start(self) -> SessionRequests:
        """Return what sends operations."""
        requests = self._runtime.start()
        if self._requests is None:
            self._requests = SessionRequests(requests, self.state)
        return self._requests

    async def bucket_properties(self, name: str) -> BucketProperties:
        """See `Runtime.bucket_properties`."""
        return await self._runtime.bucket_properties(name)

    def operation_id(self) -> OperationId:
        """See `Runtime.operation_id`."""
        return self._runtime.operation_id()

    def jitter(self) -> float:
        """See `Runtime.jitter`."""
        return self._runtime.jitter()


class AsyncSession:
    """Made by `AsyncClient.session`; belongs to that client and ends with it. Its buckets share what it has seen."""

    def __init__(self, state: SessionState, make_bucket: MakeBucket, default_bucket: str) -> None:
        self._state, self._make_bucket = state, make_bucket
        self._default: AsyncBucket[Any] = make_bucket(default_bucket)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing has to be given back."""

    @property
    def token(self) -> bytes:
        """What the session has seen so far, for `session(token)` of any client of this cluster. Raises SessionFull."""
        return self._state.encode()

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
        """`AsyncClient.bucket`, in this session: batches, `get_many` and `update` are, too."""
        return self._make_bucket(name, type=type, resolver=resolver, object_type=object_type, **options)

    async def get(
        self, key: Key, *, consistency: Consistency | None = None, r: int | None = None, pr: int | None = None,
        timeout: Duration | None = None,
    ) -> GetResult[Any]:  # fmt: skip
        """`AsyncBucket.get` in the bucket "default"; also raises SessionNotSatisfied and SessionFull."""
        return await self._default.get(key, consistency=consistency, r=r, pr=pr, timeout=timeout)

    async def put(
        self, key: Key, value: Any, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """`AsyncBucket.put` in the bucket "default"; also raises SessionFull (nothing was sent)."""
        return await self._default.put(
            key, value, context=context, consistency=consistency, w=w, dw=dw, pw=pw, ttl=ttl, timeout=timeout
        )

    async def delete(
        self, key: Key, *, context: bytes | Omitted | None = OMITTED, consistency: Consistency | None = None,
        w: int | None = None, dw: int | None = None, pw: int | None = None, timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """`AsyncBucket.delete` in the bucket "default"; also raises SessionFull (nothing was sent)."""
        return await self._default.delete(
            key, context=context, consistency=consistency, w=w, dw=dw, pw=pw, timeout=timeout
        )

    async def update(
        self, key: Key, fn: Callable[[Any], Any], *, attempts_max: int = UPDATE_ATTEMPTS_MAX,
        timeout: Duration | None = None,
    ) -> PutResult:  # fmt: skip
        """`AsyncBucket.update` in the bucket "default"."""
        return await self._default.update(key, fn, attempts_max=attempts_max, timeout=timeout)
