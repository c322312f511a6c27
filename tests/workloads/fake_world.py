"""A world whose cluster is one dictionary: three replicas that always agree, made of real records, and lies on demand.

    world = FakeWorld()                    a truthful store
    world.lies = Lies(forgets_put=3)       acknowledges its third put and keeps nothing
    world.fail_next(Timeout("..."))        the next operation ends so; `applied=True`: after it took effect

It mints real dots into real records and gives real contexts, so that white-box judges have something to look at.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeVar

from jepsen_lite.checkers.dots import DotWitness
from jepsen_lite.history import History
from jepsen_lite.recorder import Board, Recorder
from jepsen_lite.sim.clock import SimClock
from jepsen_lite.sim.loop import VirtualLoop
from kvstore.causality.context import decode_context, encode_context
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update, update_lww
from kvstore.causality.version_vector import encode_vector
from kvstore.client.datatypes import Codec
from kvstore.client.results import OMITTED, Context, PutResult, usable
from kvstore.ids import ActorId, HlcTimestamp, ObjectType, OperationId, StorageKey
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import decode_record, encode_record, value_hash

__all__ = ["FakeClient", "FakeWorld", "Lies"]

T = TypeVar("T")
OWNERS = ("n0", "n1", "n2")
DELAY_S = 0.001
CODEC: Final[Codec[bytes]] = Codec(bytes)


@dataclass(slots=True)
class Lies:
    """What the store does wrong. Numbers count its writes from 1; 0 is never."""

    forgets_put: int = 0
    """This one is acknowledged, and nothing of it is kept."""
    takes_any_context: bool = False
    """A context of another key is taken for one that has seen nothing."""
    invents: bool = False
    """Reads show a value that nobody wrote."""
    mints_dot_again: bool = False
    """All puts get the same dot."""
    acknowledges_alone: bool = False
    """Writes are acknowledged by one replica, whatever they ask for."""
    lags: bool = False
    """One replica never learns of anything."""
    keeps_deleted: bool = False
    """A delete is acknowledged and not done."""


class FakeClient:
    """Stands for an AsyncClient and its buckets, which it is both at once."""

    def __init__(self, world: FakeWorld, name: str, options: dict[str, Any]) -> None:
        self.world, self.name, self.options, self.is_closed = world, name, options, False
        self.object_type = ObjectType.REGISTER

    def bucket(self, name: str, *, type: Any, object_type: ObjectType) -> FakeClient:
        """Return a bucket of this client."""
        bucket = FakeClient(self.world, self.name, self.options)
        bucket.object_type = object_type
        return bucket

    async def get(self, key: str, **counts: Any) -> Any:
        """Read."""
        stored = self._stored(key)
        await self.world.step("get", key, None)
        state = self.world.state(stored)
        values = [CODEC.decode(s.value) for s in state.siblings if s.value is not None]
        values += [b"invented"] if self.world.lies.invents else []
        context = encode_context(
            stored[:8], max([s.hlc for s in state.siblings], default=0), encode_vector(state.vector)
        )
        return SimpleNamespace(
            siblings=[SimpleNamespace(value=value) for value in values], context=Context(context), replied=2
        )

    async def put(self, key: str, value: bytes, **options: Any) -> PutResult:
        """Write."""
        return await self._write(key, value, options)

    async def delete(self, key: str, **options: Any) -> PutResult:
        """Delete; without a context everything there is."""
        stored = self._stored(key)
        if options["context"] is OMITTED:
            vector = encode_vector(self.world.state(stored).vector)
            options["context"] = encode_context(stored[:8], 0, vector)
        if self.world.lies.keeps_deleted:
            return self._result(stored)
        return await self._write(key, None, options)

    async def _write(self, key: str, value: bytes | None, options: dict[str, Any]) -> PutResult:
        world, stored = self.world, self._stored(key)
        context = options["context"]
        vector = {}
        if context is not OMITTED:
            usable(context)
            vector = {} if world.lies.takes_any_context else decode_context(context, stored[:8])[0]
        packed = None if value is None else CODEC.encode(value)
        await world.step("put", key, context, apply=lambda: world.apply(stored, vector, packed, self.object_type))
        return self._result(stored)

    def _result(self, stored: StorageKey) -> PutResult:
        state, acked = self.world.state(stored), 1 if self.world.lies.acknowledges_alone else 3
        live = sum(s.value is not None for s in state.siblings)
        context = (
            Context(encode_context(stored[:8], 0, encode_vector(state.vector))) if len(state.siblings) == 1 else None
        )
        return PutResult(acked, 2, 3, acked, acked, live, False, context)

    def _stored(self, key: str) -> StorageKey:
        return storage_key(object_name("default", self.object_type, key.encode()))


class FakeWorld:
    """Implements what recorders and final reads want of a world, on virtual time."""

    def __init__(self, *, doubles_requests: bool = False) -> None:
        self.lies = Lies()
        self.loop = VirtualLoop(random.Random(0))
        self.clocks = [SimClock(self.loop) for _ in OWNERS]
        self.traced: list[tuple[Any, ...]] = []
        self.told: list[tuple[bytes, int]] = []
        self.trace = SimpleNamespace(record=lambda kind, *fields: self.traced.append((kind, *fields)))
        self.atlas = SimpleNamespace(acknowledged=lambda key, dw: self.told.append((key, dw)))
        self.swarm = SimpleNamespace(network=SimpleNamespace(doubles_requests=doubles_requests))
        self.witness, self.history, self.board = DotWitness(), History(), Board()
        self.clients: list[FakeClient] = []
        self.asked: list[tuple[str, str, Any]] = []
        self._records: dict[bytes, bytes] = {}
        self._failing: deque[tuple[Exception | None, bool]] = deque()
        self._writes = 0

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a test's body."""
        return self.loop.run(main, until_s=1_000.0)

    def recorder(self, name: str) -> Recorder:
        """Return a recorder; call it in the body."""
        return Recorder(self, self.history, self.board, name)

    def fail_next(self, error: Exception | None, *, applied: bool = False) -> None:
        """Let the next operation end with this error, or (None) never answer."""
        self._failing.append((error, applied))

    def open_client(self, name: str, **options: Any) -> Any:
        """Return a client of this name."""
        self.clients.append(FakeClient(self, name, options))
        return self.clients[-1]

    async def close_client(self, client: Any) -> None:
        """Note that it was closed."""
        client.is_closed = True

    def owners(self, stored: bytes) -> list[str]:
        """Return all three."""
        return list(OWNERS)

    def states(self, stored: bytes) -> dict[str, bytes]:
        """Return what each owner holds."""
        record = self._records.get(stored, b"")
        return {owner: b"" if self.lies.lags and owner == "n2" else record for owner in OWNERS}

    # --- for the client ---------------------------------------------------------------------------------------------

    async def step(self, what: str, key: str, context: Any, *, apply: Any = None) -> None:
        """Let time pass, and do what was asked, or fail as the script says."""
        self.asked.append((what, key, context))
        waiting = self.loop.create_future()
        self.loop.call_later(DELAY_S, waiting.set_result, None)
        await waiting
        error, is_applied = self._failing.popleft() if self._failing else (None, True)
        if apply is not None and is_applied:
            apply()
        if error is not None:
            raise error
        if not is_applied:
            await self.loop.create_future()

    def state(self, stored: StorageKey) -> DVVSet:
        """Return what is there."""
        record = self._records.get(stored)
        return decode_record(stored, record) if record else EMPTY

    def apply(self, stored: StorageKey, vector: Any, value: bytes | None, object_type: ObjectType) -> None:
        """Write, unless this is the one to be forgotten."""
        self._writes += 1
        state, operation_id = self.state(stored), OperationId(self._writes.to_bytes(16, "big"))
        actor = ActorId(b"one actor of twenty!"[:20])
        counter = 1 if self.lies.mints_dot_again else max(state.vector.get(actor, 0), vector.get(actor, 0)) + 1
        before = EMPTY if self.lies.mints_dot_again else state
        wall_ms = self.clocks[0].wall_ns() // 1_000_000
        new = Sibling(actor, counter, HlcTimestamp(wall_ms << 16 | self._writes), HlcTimestamp(0), operation_id, value)
        digest = value_hash(value, 0)
        if object_type is ObjectType.LWW:
            after, _ = update_lww(before, new, digest)
        else:
            after = update(before, {} if self.lies.mints_dot_again else vector, new, digest)
        record = encode_record(stored, after)
        self.witness.see_record("n0", stored, record)
        if self._writes != self.lies.forgets_put:
            self._records[stored] = record
