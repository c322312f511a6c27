"""One client process of a run: performs operations with every kind of context, and writes down what it asked and was told.

    workload ─ put(k, FOREIGN) ─► Recorder ─► AsyncBucket ─► cluster
                                     │ └─ Board: what the other recorders know newest, which objects were touched
                                     ▼
                                  History: invoke, then ok | fail | info        Trace        FaultAtlas: acknowledged copies

Which context a write is made with: contexts.py. MISSING and OTHER_KEY must be refused.

Invariants
  1. Every written value is unique: `process:counter`. A process has one operation under way.
  2. An indefinite error retires the process: another number, and nothing remembered. Every `client_lasts`-th one retires its
     client as well (the next is `name.life`, so that no stream of random numbers, and with it no operation id, ever repeats).
  3. `shown` is what the client that got the context was shown by it, never what the context's bytes say.
  4. A read that failed is `fail`, whatever failed: it changed nothing.
  5. In a run whose network doubles requests (`NetworkSwarm.doubles_requests`) a definite failure is `info`: the first copy
     may be refused, as its asker is told, and a late second one be accepted. A context that can never be accepted is the
     exception: every copy of it is refused.

A grow-only set is a register whose siblings are united: an add writes everything its context had shown, and one element more.
Source: Jepsen's clients; `reliability` 3b and 3.6; kv679_eqc's contexts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from jepsen_lite.checkers.verdict import Broken, Violation
from jepsen_lite.history import REFUSED, ContextKind, F, History, Kind, Op, OpType, text_of
from jepsen_lite.sim.processes import ProcessDied
from jepsen_lite.workloads.board import BUCKET, DEFAULT, Board, Counts, Known, RecordingWorld, Target
from jepsen_lite.workloads.contexts import Contexts, Given
from jepsen_lite.workloads.payload import payload, shown_as, stored_name
from kvstore.client.bucket import AsyncBucket
from kvstore.client.consistency import Consistency
from kvstore.client.results import OMITTED, GetResult, PutResult
from kvstore.errors import InvalidContext, KVStoreError
from kvstore.ids import ObjectType

__all__ = ["BUCKET", "Board", "Counts", "Known", "Recorder", "RecordingWorld", "Target", "set_elements"]

T = TypeVar("T")
PATIENCE_S: Final = 30.0
"""Beyond its own deadline a client must have answered. It has not only if its process is dead, paused or starved."""


class Recorder:
    """A client called `name`. Operations return how they ended, or None if there was no context to do them with."""

    def __init__(
        self, world: RecordingWorld, history: History, board: Board, name: str, *, timeout_s: float = 1.5,
        attempt_timeout_s: float = 0.4, client_lasts: int = 1,
    ) -> None:  # fmt: skip
        self.name, self.board, self.ops = name, board, 0
        self._world, self._history = world, history
        self._timeout_s, self._attempt_timeout_s = timeout_s, attempt_timeout_s
        self._client_lasts, self._retired, self._lives = client_lasts, 0, 0
        self._outcome = OpType.OK
        """How the last operation ended that was not answered."""
        self._contexts = Contexts(board, name)
        self._open_client()
        self._begin_life()

    def _begin_life(self) -> None:
        self._process, self._written = self._history.new_process(), 0
        self._contexts.forget()

    def _open_client(self) -> None:
        self._lives += 1
        self._client = self._world.open_client(
            f"{self.name}.{self._lives}", timeout=self._timeout_s, attempt_timeout=self._attempt_timeout_s
        )
        self._buckets: dict[ObjectType, AsyncBucket[bytes]] = {
            kind: self._client.bucket(BUCKET, type=bytes, object_type=kind)
            for kind in (ObjectType.REGISTER, ObjectType.LWW)
        }

    @property
    def process(self) -> int:
        """The number of the process that it is now."""
        return self._process

    def now_s(self) -> float:
        """Return the time of the run."""
        return self._world.loop.time()

    def known(self, target: Target) -> Known | None:
        """Return the newest context it has of the object."""
        return self._contexts.newest(target)

    async def close(self) -> None:
        """End the client. The recorder is of no use afterwards."""
        await self._world.close_client(self._client)

    # --- operations -------------------------------------------------------------------------------------------------

    async def get(self, target: Target, *, counts: Counts = DEFAULT, timeout_s: float | None = None) -> OpType:
        """Read an object (a set: its elements) and keep the context."""
        f = F.READ if target.kind is Kind.SET else F.GET
        return await self._read(f, target, r=counts.r, timeout_s=timeout_s)

    async def final(self, target: Target, *, replicas: int | None = None, timeout_s: float | None = None) -> OpType:
        """Read an object from all its replicas, after the run; from `replicas` of them if the others are gone for good."""
        return await self._read(F.FINAL, target, r=replicas or Consistency.ALL, timeout_s=timeout_s)

    async def put(
        self, target: Target, how: ContextKind, *, size_bytes: int = 0, counts: Counts = DEFAULT, timeout_s: float | None = None,
    ) -> OpType | None:  # fmt: skip
        """Write a new value with a context of that kind; where there is none of it yet, with a fresh one."""
        given = await self._give(target, how)
        if given is None:
            return None
        value = self._unique()
        raw = payload(value, size_bytes)
        return await self._write(F.PUT, target, given, value, (value,), raw, counts, timeout_s, lambda: self._bucket(target).put(
            target.key, raw, context=given.sent, w=counts.w, dw=counts.dw, pw=counts.pw, timeout=timeout_s,
        ))  # fmt: skip

    async def put_together(self, target: Target, count: int) -> None:
        """Write `count` new values blindly at the same moment, as so many processes of one client: they share a frame."""
        tasks = [asyncio.create_task(self._put_beside(target)) for _ in range(count)]
        for task in tasks:
            await task

    async def get_together(self, asked: Sequence[Target]) -> None:
        """Read these objects at the same moment, as so many processes of one client, which keep nothing."""
        tasks = [asyncio.create_task(self._get_beside(target)) for target in asked]
        for task in tasks:
            await task

    async def _get_beside(self, target: Target) -> None:
        op = self._invoke(F.GET, target, process=self._history.new_process())
        try:
            async with asyncio.timeout(PATIENCE_S + self._timeout_s):
                result = await self._bucket(target).get(target.key)
        except KVStoreError as error:
            self._complete(op, OpType.FAIL, error=error.code)
        except (TimeoutError, ProcessDied) as error:
            self._complete(op, OpType.FAIL, error=type(error).__name__)
        else:
            values = _values_of(target, result)
            self._complete(op, OpType.OK, values=values, context=bytes(result.context), replied=result.replied)

    async def _put_beside(self, target: Target) -> None:
        """A process with one write in its life, so that its outcome does not matter to this one."""
        process = self._history.new_process()
        value = f"{process}:1"
        op = self._invoke(F.PUT, target, process=process, value=value)
        try:
            async with asyncio.timeout(PATIENCE_S + self._timeout_s):
                result = await self._bucket(target).put(target.key, value.encode(), context=OMITTED)
        except KVStoreError as error:
            self._complete(op, self._judge(op, error), error=error.code)
        except (TimeoutError, ProcessDied) as error:
            self._complete(op, OpType.INFO, error=type(error).__name__)
        else:
            self._answered(op, target, value.encode(), DEFAULT, result)

    async def delete(
        self, target: Target, how: ContextKind, *, counts: Counts = DEFAULT, timeout_s: float | None = None
    ) -> OpType | None:
        """Delete what the context has seen. BLIND lets the client read for itself, and nobody knows what it saw."""
        given = await self._give(target, how)
        if given is None:
            return None
        return await self._write(F.DELETE, target, given, None, (), b"", counts, timeout_s, lambda: self._bucket(target).delete(
            target.key, context=given.sent, w=counts.w, dw=counts.dw, pw=counts.pw, timeout=timeout_s,
        ))  # fmt: skip

    async def add(self, target: Target, how: ContextKind, *, counts: Counts = DEFAULT) -> OpType | None:
        """Add a new element to a set: write what the context has shown, and the element."""
        given = await self._give(target, how)
        if given is None:
            return None
        element = self._unique()
        together = (*dict.fromkeys(given.shown), element)
        raw = " ".join(together).encode()
        return await self._write(F.ADD, target, given, element, together, raw, counts, None, lambda: self._bucket(target).put(
            target.key, raw, context=given.sent, w=counts.w, dw=counts.dw, pw=counts.pw,
        ))  # fmt: skip

    # --- asking and writing down ------------------------------------------------------------------------------------

    async def _give(self, target: Target, how: ContextKind) -> Given | None:
        given = self._contexts.unread(target, how)
        if given is not None or how is ContextKind.OTHER_KEY:
            return given
        if await self.get(target) is not OpType.OK:
            return None
        fresh = self._contexts.newest(target)
        assert fresh is not None, "a get that was answered gave one"
        return Given(ContextKind.FRESH, fresh.context, fresh.shown)

    def _unique(self) -> str:
        self._written += 1
        return f"{self._process}:{self._written}"

    def _bucket(self, target: Target) -> AsyncBucket[bytes]:
        return self._buckets[target.object_type]

    async def _read(self, f: F, target: Target, *, r: int | None, timeout_s: float | None) -> OpType:
        op = self._invoke(f, target, r=None if r is None else int(r))
        judge, key = self.board.durable, target.storage_key
        floor = {} if judge is None else judge.floor(key)
        result = await self._ask(op, lambda: self._bucket(target).get(target.key, r=r, timeout=timeout_s), timeout_s)
        if result is None:
            return self._outcome
        values = _values_of(target, result)
        self._complete(op, OpType.OK, values=values, context=bytes(result.context), replied=result.replied)
        if judge is not None:
            judge.shown(key, [stored_name(sibling.value) for sibling in result.siblings], op.index)
            judge.answered(key, bytes(result.context), floor, replied=result.replied, n=result.n, index=op.index)
        self._contexts.remember(target, Known(bytes(result.context), tuple(dict.fromkeys(values))))
        return OpType.OK

    async def _write(
        self, f: F, target: Target, given: Given, value: str | None, stands_for: tuple[str, ...], raw: bytes, counts: Counts,
        timeout_s: float | None, call: Callable[[], Awaitable[PutResult]],
    ) -> OpType:  # fmt: skip
        op = self._invoke(
            f, target, value=value, shown=given.shown, context_kind=given.kind, context=given.recorded, w=counts.w,
        )  # fmt: skip
        retries = self.board.retries_worked
        retries_before = retries() if retries is not None else 0
        result = await self._ask(op, call, timeout_s)
        if result is None:
            return self._outcome
        attempts = 1 if retries is not None and retries() == retries_before else None
        self._answered(op, target, raw, counts, result, attempts=attempts)
        if result.context is not None:
            self._contexts.remember(target, Known(bytes(result.context), stands_for, is_own=True))
        return OpType.OK

    def _answered(
        self, op: Op, target: Target, raw: bytes, counts: Counts, result: PutResult, *, attempts: int | None = None
    ) -> None:
        context = result.context and bytes(result.context)
        self._complete(op, OpType.OK, replied=result.acked, context=context, attempts=attempts)
        if not result.acked:
            return  # a delete that found nothing, and asked nobody to write
        self._world.atlas.acknowledged(target.storage_key, result.durable)
        self._check_counts(op, counts, result)
        if self.board.durable is not None and raw and not result.superseded:
            guests = max(0, result.needed - (result.n // 2 + 1 if counts.w is None else counts.w))
            name = stored_name(raw)
            self.board.durable.acknowledged(target.storage_key, name, result.durable, op.index, guests=guests)

    async def _ask(self, op: Op, call: Callable[[], Awaitable[T]], timeout_s: float | None) -> T | None:
        """Return the answer; None if there is none, which is then written down, and `_outcome` says how it ended."""
        try:
            async with asyncio.timeout(PATIENCE_S + (self._timeout_s if timeout_s is None else timeout_s)):
                return await call()
        except KVStoreError as error:
            await self._fail(op, self._judge(op, error), error.code, attempts=error.details.get("attempts"))
        except TimeoutError:
            self.board.overdue += 1
            await self._fail(op, OpType.INFO, "overdue")
        except ProcessDied:
            await self._fail(op, OpType.INFO, "process_died")
        return None

    def _judge(self, op: Op, error: KVStoreError) -> OpType:
        """Return FAIL for what certainly did not and will not happen (invariants 4 and 5)."""
        if op.f in (F.GET, F.READ, F.FINAL):
            return OpType.FAIL
        if isinstance(error, InvalidContext) and op.context_kind in REFUSED:
            return OpType.FAIL
        return OpType.FAIL if error.definite and not self._world.swarm.network.doubles_requests else OpType.INFO

    async def _fail(self, op: Op, outcome: OpType, error: str, *, attempts: int | None = None) -> None:
        self._outcome = outcome
        self._complete(op, outcome, error=error, attempts=attempts)
        if outcome is OpType.INFO:
            self._retired += 1
            if self._retired % self._client_lasts == 0:
                await self._world.close_client(self._client)
                self._open_client()
            self._begin_life()

    def _invoke(self, f: F, target: Target, *, process: int | None = None, **fields: Any) -> Op:
        self.ops += 1
        self.board.touched.setdefault(target)
        process = self._process if process is None else process
        self._world.trace.record("invoke", self.name, process, f, target.key, fields.get("value"))
        return self._history.invoke(
            process, f, target.key, time_ns=self._now_ns(), kind=target.kind, **fields
        )  # fmt: skip

    def _complete(self, op: Op, outcome: OpType, **fields: Any) -> None:
        shown = " ".join(fields.get("values") or ())
        self._world.trace.record("complete", self.name, op.process, outcome, op.key, fields.get("error"), shown)
        self._history.complete(op, outcome, time_ns=self._now_ns(), **fields)

    def _check_counts(self, op: Op, counts: Counts, result: PutResult) -> None:
        """The default is a quorum of all n, because all of a run's clusters are large enough for that."""
        quorum = result.n // 2 + 1
        wanted_w = quorum if counts.w is None else counts.w
        wanted_dw = min(quorum, wanted_w) if counts.dw is None else counts.dw
        for name, count, wanted in (
            ("w", result.acked, wanted_w), ("dw", result.durable, wanted_dw), ("pw", result.primaries_acked, counts.pw or 0),
        ):  # fmt: skip
            if count < wanted:
                message = f"{op.value or 'a delete'} was acknowledged with {name}={count} where {wanted} was asked for"
                self.board.short.append(Violation(Broken.LOST, op.key, message, (op.index,)))

    def _now_ns(self) -> int:
        return round(self._world.loop.time() * 1e9)


def set_elements(siblings: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Unite the siblings of a set. What one sibling names twice stays there twice: that is wrong, and a judge says so."""
    united: Counter[str] = Counter()
    for elements in siblings:
        united |= Counter(elements)
    return tuple(united.elements())


def _values_of(target: Target, result: GetResult[bytes]) -> tuple[str, ...]:
    values = [sibling.value for sibling in result.siblings]
    if target.kind is Kind.SET:
        return set_elements([text_of(value).split() for value in values])
    return tuple(shown_as(value) for value in values)
