"""Random histories of one object, run at once on the real states and on a model too dumb to be wrong.

    model of a replica = the set of dots it ever heard of; everything else is recomputed from the log of all puts:
    a value is live  <=>  its dot is known, and no known put was made by a client that had seen it

`World.step` runs one step on both; `World.check` compares them. `World.snapshots` are reachable states for laws.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

from kvstore.causality.actor import make_actor, next_dot_counter
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, join, sync, update
from kvstore.causality.version_vector import VersionVector
from kvstore.ids import ActorId, HlcTimestamp, NodeId, OperationId, PartitionId, StorageKey
from kvstore.storage.record import value_hash

__all__ = ["CLIENTS", "KEY", "REPLICAS", "Dot", "World", "actor_of", "history", "operation_id", "put", "worlds"]

REPLICAS, CLIENTS = 3, 3
KEY = StorageKey(b"\x00\x00\x00\x00\x00\x00\x00\x07\x01key")
Dot = tuple[ActorId, int]
Step = tuple[str, int, int, str]
"""(put | sync | read | restart, replica, client or other replica, kind of context or of restart)"""

_STEPS = st.one_of(
    st.tuples(
        st.just("put"),
        st.integers(0, REPLICAS - 1),
        st.integers(0, CLIENTS - 1),
        st.sampled_from(["fresh", "stale", "another client's", "none", "delete"]),
    ),
    st.tuples(st.just("sync"), st.integers(0, REPLICAS - 1), st.integers(0, REPLICAS - 1), st.just("")),
    st.tuples(st.just("read"), st.integers(0, REPLICAS - 1), st.integers(0, CLIENTS - 1), st.just("")),
    st.tuples(
        st.just("restart"),
        st.integers(0, REPLICAS - 1),
        st.just(0),
        st.sampled_from(["plain", "new epoch", "lost disk, new epoch"]),
    ),
)
history = st.lists(_STEPS, max_size=30)


def actor_of(node: int, epoch_seed: int = 0) -> ActorId:
    """Return an actor of node number `node`; another seed gives another epoch."""
    return make_actor(NodeId(bytes([node] * 8)), PartitionId(7), random.Random(f"{node} {epoch_seed}"))


def operation_id(number: int) -> OperationId:
    """Return the id of the client's operation number `number`: later numbers are later in time."""
    return OperationId(number.to_bytes(8, "big") + b"client-1")


def put(
    state: DVVSet, context: VersionVector, actor: ActorId, number: int, value: bytes | None = b"v", *, hlc: int = 0
) -> DVVSet:
    """Return the state after the put number `number` at a coordinator that mints with `actor`."""
    counter = max(next_dot_counter(actor, state.vector), next_dot_counter(actor, context))
    new = Sibling(actor, counter, HlcTimestamp(hlc or number), HlcTimestamp(0), operation_id(number), value)
    return update(state, context, new, value_hash(value, 0))


@dataclass
class Event:
    """One put: what it wrote, and every dot its client had seen."""

    value: bytes | None
    seen: frozenset[Dot]


def dots_under(vector: VersionVector) -> frozenset[Dot]:
    """Return, one by one, the dots that a vector stands for."""
    return frozenset((actor, n) for actor, counter in vector.items() for n in range(1, counter + 1))


@dataclass
class World:
    """Replicas and clients of one object: real states beside the model's."""

    states: list[DVVSet] = field(default_factory=lambda: [EMPTY] * REPLICAS)
    known: list[frozenset[Dot]] = field(default_factory=lambda: [frozenset()] * REPLICAS)
    actors: list[ActorId] = field(default_factory=lambda: [actor_of(i) for i in range(REPLICAS)])
    contexts: list[VersionVector] = field(default_factory=lambda: [{} for _ in range(CLIENTS)])
    events: dict[Dot, Event] = field(default_factory=dict)
    snapshots: list[DVVSet] = field(default_factory=lambda: [EMPTY])
    puts_count: int = 0
    epochs_count: int = 0

    def step(self, step: Step) -> None:
        """Run one step on the states and on the model."""
        action, replica, other, kind = step
        if action == "put":
            self._put(replica, other, kind)
        elif action == "sync":
            self.states[other] = sync(self.states[other], self.states[replica])
            self.known[other] |= self.known[replica]
        elif action == "read":
            self.contexts[other] = join(self.states[replica])
        else:
            self._restart(replica, kind)
        self.snapshots.append(self.states[other if action == "sync" else replica])

    def _put(self, replica: int, client: int, kind: str) -> None:
        if kind in ("fresh", "delete"):
            self.contexts[client] = join(self.states[replica])
        whose = (client + 1) % CLIENTS if kind == "another client's" else client
        context: VersionVector = {} if kind == "none" else dict(self.contexts[whose])
        self.puts_count += 1
        value = None if kind == "delete" else b"value %d" % self.puts_count
        actor = self.actors[replica]
        after = put(self.states[replica], context, actor, self.puts_count, value)
        dot = (actor, after.vector[actor])
        assert dot not in self.events, "a dot is bound to two values"
        self.events[dot] = Event(value, dots_under(context))
        self.known[replica] |= {dot} | dots_under(context)
        self.states[replica] = after

    def _restart(self, replica: int, kind: str) -> None:
        if kind != "plain":
            self.epochs_count += 1
            self.actors[replica] = actor_of(replica, self.epochs_count)
        if kind == "lost disk, new epoch":
            self.states[replica], self.known[replica] = EMPTY, frozenset()

    def live(self, replica: int) -> dict[Dot, bytes | None]:
        """Return the values that the model says are live at a replica."""
        known = self.known[replica]
        replaced = frozenset[Dot]().union(*(self.events[dot].seen for dot in known))
        return {dot: self.events[dot].value for dot in known - replaced}

    def check(self) -> None:
        """Assert that every replica's state says what the model says."""
        for state, known, live in zip(self.states, self.known, map(self.live, range(REPLICAS)), strict=True):
            assert dots_under(state.vector) == known
            assert {(s.actor, s.counter): s.value for s in state.siblings} == live
            assert [s[:2] for s in state.siblings] == sorted(live)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw the world after a random history."""
    world = World()
    for step in draw(history):
        world.step(step)
    return world
