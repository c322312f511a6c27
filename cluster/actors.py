"""This node's actors: the current one of each partition, minted in the write batch that precedes its first dot.

Durable in META under `actor/` + partition (4 bytes): epoch bytes then the reason in words. A mint retires every earlier epoch
of the partition. If a power loss takes the mint away it also took every dot that followed it here, and the open report then
says that history may be missing (until `load` acted on it), so `load` retires everything before the first dot.
See causality/actor.py, ADR 0001.
"""

from __future__ import annotations

import random

from cluster.store import Store
from kvstore.causality.actor import MintReason, make_actor
from kvstore.causality.version_vector import decode_vector
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.ids import ACTOR_SIZE_BYTES, ActorId, NodeId, PartitionId
from kvstore.storage.engine import Engine, Family
from kvstore.storage.identity import META_EPOCHS_RETIRE

__all__ = ["Actors"]

_PREFIX, _PREFIX_END = b"actor/", b"actor0"


class Actors:
    """Mints and remembers; the store's staged batch makes a mint durable no later than the dot that uses it."""

    def __init__(
        self, engine: Engine, store: Store, node_id: NodeId, rng: random.Random, *, chaos: Chaos = CALM
    ) -> None:
        self._engine, self._store, self._node_id, self._rng, self._chaos = engine, store, node_id, rng, chaos
        self._current: dict[PartitionId, ActorId] = {}
        self.minted = 0

    def load(self) -> None:
        """Read the current actors, or retire them all if the store's history may be missing."""
        if self._engine.report.history_may_be_missing or self._chaos.fires(Point.ACTORS_RETIRED):
            self._chaos.hit(Probe.ACTORS_RETIRED_AT_START)
            self._engine.delete_range(Family.META, _PREFIX, _PREFIX_END)
            # After it in the log, so that a crash between the two retires them again.
            self._engine.apply([(Family.META, META_EPOCHS_RETIRE, None)])
            return
        for key, value in self._engine.scan(Family.META, _PREFIX, _PREFIX_END):
            partition = PartitionId(int.from_bytes(key[len(_PREFIX) :], "big"))
            self._current[partition] = ActorId(value[:ACTOR_SIZE_BYTES])

    def maybe_current(self, partition: PartitionId) -> ActorId | None:
        """Return the actor that would mint the next dot, if there is one yet."""
        return self._current.get(partition)

    def current(self, partition: PartitionId) -> ActorId:
        """Return the actor for the next dot, minting the partition's first one if need be."""
        actor = self._current.get(partition)
        return actor if actor is not None else self.mint(partition, MintReason.FIRST)

    def mint(self, partition: PartitionId, reason: MintReason) -> ActorId:
        """Begin a new epoch, staged in the current batch: it is durable before any dot of it can be."""
        actor = make_actor(self._node_id, partition, self._rng)
        self._current[partition] = actor
        self._store.stage_meta(_PREFIX + partition.to_bytes(4, "big"), actor + reason.encode())
        self.minted += 1
        if reason is MintReason.SEEN_AHEAD:
            self._chaos.hit(Probe.ACTOR_MINTED_SEEN_AHEAD)
        elif reason is MintReason.RECORD_UNREADABLE:
            self._chaos.hit(Probe.ACTOR_MINTED_UNREADABLE)
        return actor

    def end_if_ahead(self, partition: PartitionId, ours: bytes, in_doubt: bytes) -> None:
        """End the epoch if the encoded vector `in_doubt` holds a dot of ours that the vector `ours` of our own record does not.

        The engine says that it does not know whether that record was written. If its log brings it back after a power loss,
        and the next dot of the same name reached other nodes meanwhile, one dot would stand for two values.
        """
        actor = self._current.get(partition)
        if actor is not None and decode_vector(in_doubt).get(actor, 0) > decode_vector(ours).get(actor, 0):
            self.mint(partition, MintReason.IN_DOUBT)

    def forget(self, partition: PartitionId) -> None:
        """End this node's stint in a partition: its next dot there will be of a new epoch."""
        if self._current.pop(partition, None) is not None:
            self._store.stage_meta(_PREFIX + partition.to_bytes(4, "big"), None)
