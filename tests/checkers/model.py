"""A tiny store that is correct by construction, and the histories its clients record: every checker must pass them.

    a replica of an object = the set of dots it ever heard of;      an event = (value, everything its client had seen)
    live in a register     = known and seen by no known event;      in lww: the newest known event;      in a set: all

Writes apply at one replica, spread by `sync`, and end in every way there is: acknowledged now or later, refused, or of unknown
outcome and applied at once, late, never, on a disk that lost it, or at two coordinators (a retry). Contexts are fresh, stale, of
another client, from the client's own put, or none. Steps are plain tuples, so that Hypothesis can shrink a run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

from jepsen_lite.checkers.dot_causality import Joined, Observed
from jepsen_lite.checkers.dots import Binding, Dot, DotWitness
from jepsen_lite.history import ContextKind, F, History, Kind, Op, OpType
from kvstore.causality.context import encode_context
from kvstore.causality.version_vector import encode_vector
from kvstore.ids import ActorId, ObjectType
from kvstore.storage.keyspace import object_name, storage_key

__all__ = ["Model", "Step", "random_steps", "run", "steps"]

REPLICAS, CLIENTS = 3, 4
OBJECTS = (("k0", Kind.REGISTER), ("k1", Kind.REGISTER), ("w0", Kind.LWW), ("s0", Kind.SET))
CONTEXTS = (ContextKind.BLIND, ContextKind.FRESH, ContextKind.STALE, ContextKind.FOREIGN)
FATES = ("ok", "ok", "ok", "open", "retried", "fail", "applied", "late", "never", "evaporated")
"""The last four end in `info`; `open` is acknowledged only when its client begins something else."""

Step = tuple[str, int, int, int, int, int]
"""(action, client, object, replica or reach of a read, kind of context, fate)"""

_STEP = st.tuples(
    st.sampled_from(["write", "write", "write", "delete", "read", "sync", "late"]),
    st.integers(0, CLIENTS - 1),
    st.sampled_from([0, 0, 0, 1, 2, 2, 3]),
    st.integers(0, REPLICAS - 1),
    st.integers(0, len(CONTEXTS) - 1),
    st.integers(0, len(FATES) - 1),
)
steps = st.lists(_STEP, max_size=40)
"""For properties of correct runs: shrinks well."""


def random_steps(seed: int, length: int = 50) -> list[Step]:
    """Return a long run at once: to corrupt one, most of its objects must have a past, and Hypothesis draws slowly."""
    rng = random.Random(seed)
    actions = ("write", "write", "write", "delete", "read", "sync", "late")
    return [
        (rng.choice(actions), rng.randrange(CLIENTS), rng.choice((0, 0, 0, 1, 2, 2, 3)), rng.randrange(REPLICAS),
         rng.randrange(len(CONTEXTS)), rng.randrange(len(FATES)))
        for _ in range(length)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One write: what, when, and every dot its client had seen."""

    binding: Binding
    seen: frozenset[Dot]


@dataclass(slots=True)
class Object:
    """One object on all replicas."""

    key: str
    kind: Kind
    known: list[frozenset[Dot]] = field(default_factory=lambda: [frozenset()] * REPLICAS)
    events: dict[Dot, Event] = field(default_factory=dict)

    @property
    def storage_key(self) -> bytes:
        kind = ObjectType.LWW if self.kind is Kind.LWW else ObjectType.REGISTER
        return storage_key(object_name("default", kind, self.key.encode()))

    def live(self, known: frozenset[Dot]) -> dict[Dot, Binding]:
        """Return the siblings, tombstones too; of the dots of one operation only the smallest."""
        if self.kind is Kind.LWW and known:
            newest = max(known, key=lambda dot: (self.events[dot].binding.hlc, dot))
            return {newest: self.events[newest].binding}
        seen = (
            frozenset[Dot]() if self.kind is Kind.SET else frozenset[Dot]().union(*(self.events[d].seen for d in known))
        )
        found: dict[bytes, Dot] = {}
        for dot in sorted(known - seen):
            found.setdefault(self.events[dot].binding.operation_id, dot)
        return {dot: self.events[dot].binding for dot in found.values()}

    def context(self, seen: frozenset[Dot]) -> bytes:
        """Return the context that covers these dots."""
        vector: dict[ActorId, int] = {}
        for actor, counter in sorted(seen):
            vector[ActorId(actor)] = counter
        return encode_context(self.storage_key[:8], 0, encode_vector(vector))


@dataclass(frozen=True, slots=True)
class Memory:
    """What a client remembers of an object: a context, as the dots it covers, and the values it stands for."""

    seen: frozenset[Dot]
    shown: tuple[str, ...]
    kind: ContextKind = ContextKind.STALE


class Model:
    """The whole store, its clients and what was recorded."""

    def __init__(self) -> None:
        self.history, self.witness = History(), DotWitness()
        self.objects = [Object(key, kind) for key, kind in OBJECTS]
        self.processes = [self.history.new_process() for _ in range(CLIENTS)]
        self.memories: dict[tuple[int, str], Memory] = {}
        self.open: dict[int, Op] = {}
        self.late: list[tuple[Object, int, Op, frozenset[Dot]]] = []
        self.now_ns = 0
        self.counter = 0

    def step(self, step: Step) -> None:
        """Run one step."""
        action, client, which, replica, context, fate = step
        thing = self.objects[which]
        if action == "sync":
            other = (replica + 1 + fate % 2) % REPLICAS
            thing.known[other] |= thing.known[replica]
        elif action == "late" and self.late:
            target, at, op, seen = self.late.pop(0)
            self._apply(target, at, op, seen)
        elif action == "read":
            self._read(client, thing, range(replica, replica + 1 + fate % 2))
        elif action in ("write", "delete"):
            self._write(client, thing, replica, CONTEXTS[context], FATES[fate], is_delete=action == "delete")

    def finish(self) -> list[Observed]:
        """Heal everything, read every object from all replicas, and return what the world saw."""
        for client in list(self.open):
            self._close(client)
        self.late.clear()
        self.healed_ns = self._tick()
        for thing in self.objects:
            everything = frozenset[Dot]().union(*thing.known)
            thing.known = [everything] * REPLICAS
            self._read(0, thing, range(1))
            self._read(1, thing, range(REPLICAS), f=F.FINAL)
        return [self._observed(thing) for thing in self.objects if thing.kind is not Kind.SET]

    # --- what clients do --------------------------------------------------------------------------------------------

    def _read(self, client: int, thing: Object, replicas: range, f: F = F.GET) -> Memory:
        self._close(client)
        f = F.READ if f is F.GET and thing.kind is Kind.SET else f
        op = self.history.invoke(self.processes[client], f, thing.key, time_ns=self._tick(), kind=thing.kind)
        known = frozenset[Dot]().union(*(thing.known[replica % REPLICAS] for replica in replicas))
        live = thing.live(known)
        shown = tuple(live[dot].value or "" for dot in sorted(live) if live[dot].value is not None)
        self.history.complete(op, OpType.OK, time_ns=self._tick(), values=shown)
        memory = self.memories[client, thing.key] = Memory(known, shown)
        return memory

    def _write(
        self, client: int, thing: Object, replica: int, kind: ContextKind, fate: str, *, is_delete: bool
    ) -> None:
        self._close(client)
        if thing.kind is Kind.SET:
            kind, is_delete = ContextKind.BLIND, False
        elif is_delete and kind is ContextKind.BLIND:
            kind = ContextKind.FRESH
        memory, kind = self._remembered(client, thing, replica, kind)
        f = F.DELETE if is_delete else F.ADD if thing.kind is Kind.SET else F.PUT
        self.counter += 1
        op = self.history.invoke(
            self.processes[client], f, thing.key, time_ns=self._tick(), kind=thing.kind,
            value=None if is_delete else f"v{self.counter}", shown=memory.shown, context_kind=kind,
            context=None if kind is ContextKind.BLIND else thing.context(memory.seen),
            operation_id=self.counter.to_bytes(16, "big").hex(),
        )  # fmt: skip
        self._meet(client, thing, replica, op, memory.seen, fate)

    def _remembered(self, client: int, thing: Object, replica: int, kind: ContextKind) -> tuple[Memory, ContextKind]:
        if kind is ContextKind.FRESH:
            return self._read(client, thing, range(replica, replica + 1)), kind
        whose = client if kind is ContextKind.STALE else (client + 1) % CLIENTS
        memory = self.memories.get((whose, thing.key))
        if kind is ContextKind.BLIND or memory is None:
            return Memory(frozenset(), ()), ContextKind.BLIND if kind is ContextKind.BLIND else ContextKind.STALE
        return memory, memory.kind if kind is ContextKind.STALE else kind

    def _meet(self, client: int, thing: Object, replica: int, op: Op, seen: frozenset[Dot], fate: str) -> None:
        """Let a write have its fate."""
        if fate in ("ok", "open", "retried", "applied"):
            self._apply(thing, replica, op, seen)
        if fate == "retried":
            self._apply(thing, (replica + 1) % REPLICAS, op, seen)
        elif fate == "evaporated":
            self._bind(thing, Dot(b"lost%016d" % self.counter, 1), op)
        elif fate == "late":
            self.late.append((thing, replica, op, seen))
        if fate == "open":
            self.open[client] = op
        elif fate in ("ok", "retried"):
            attempts = 2 if fate == "retried" else 1
            self.history.complete(op, OpType.OK, time_ns=self._tick(), attempts=attempts)
            self._remember_own(client, thing, replica, op)
        else:
            how = OpType.FAIL if fate == "fail" else OpType.INFO
            self.history.complete(op, how, time_ns=self._tick(), error=fate)
            if how is OpType.INFO:
                self.processes[client] = self.history.new_process()

    def _remember_own(self, client: int, thing: Object, replica: int, op: Op) -> None:
        """A put that left no sibling returns a context, which stands for its value."""
        live = list(thing.live(thing.known[replica]).values())
        if thing.kind is Kind.REGISTER and len(live) == 1 and live[0].operation_id.hex() == op.operation_id:
            shown = (op.value,) if op.value is not None else ()
            self.memories[client, thing.key] = Memory(thing.known[replica], shown, ContextKind.OWN)

    def _close(self, client: int) -> None:
        op = self.open.pop(client, None)
        if op is not None:
            self.history.complete(op, OpType.OK, time_ns=self._tick(), attempts=1)

    # --- what replicas do -------------------------------------------------------------------------------------------

    def _apply(self, thing: Object, replica: int, op: Op, seen: frozenset[Dot]) -> None:
        actor = bytes([replica + 1] * 20)
        dot = Dot(actor, 1 + sum(known.actor == actor for known in thing.known[replica] | seen))
        thing.events[dot] = Event(self._bind(thing, dot, op), seen)
        thing.known[replica] |= seen | {dot}

    def _bind(self, thing: Object, dot: Dot, op: Op) -> Binding:
        binding = Binding(bytes.fromhex(op.operation_id or ""), op.value, self._tick())
        assert self.witness.see("model", thing.storage_key, dot, binding) is None
        return binding

    def _observed(self, thing: Object) -> Observed:
        vector: dict[ActorId, int] = {}
        for actor, counter in sorted(thing.known[0]):
            vector[ActorId(actor)] = counter
        final = Joined(vector, thing.live(thing.known[0]))
        return Observed(thing.key, thing.storage_key[:8], self.witness.bindings(thing.storage_key), final, thing.kind)

    def _tick(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns


def run(taken: list[Step]) -> tuple[Model, list[Observed]]:
    """Return a whole run: the model with its history and witness, and what the world saw at the end."""
    model = Model()
    for step in taken:
        model.step(step)
    return model, model.finish()
