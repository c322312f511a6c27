"""The keeper: this node's durable copy of the topology, and the only place where a newer one is taken into use.

Durable in META under `topology`. A document is adopted if it is of our cluster and newer; it is on disk before anything is
planned with it. Partitions that we neither own nor hold as a guest are deleted, and their actor epochs end. A joiner begins a
move with nothing: what it held is deleted, durably, before the topology that names it is adopted (`correctness` 15).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.actors import Actors
from cluster.placement import Placement
from cluster.store import Store
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import ClusterMismatch
from kvstore.ids import NodeId, PartitionId
from kvstore.ring.token import partition_range
from kvstore.ring.topology import MovePhase, Topology
from kvstore.ring.topology_codec import decode, encode
from kvstore.storage.engine import Engine, Family

__all__ = ["META_CURSOR", "META_TOPOLOGY", "Keeper"]

META_TOPOLOGY = b"topology"
META_CURSOR = b"move/"
"""How far a joiner has come: one for each partition and source, see receiver.py."""
_ALL_KEYS = (b"", b"\xff" * 16)


class Keeper:
    """`on_adopted` runs after every change of the topology in use."""

    def __init__(
        self, *, engine: Engine, store: Store, actors: Actors, placement: Placement, node_id: NodeId,
        on_adopted: Callable[[], None], chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._engine, self._store, self._actors, self._placement = engine, store, actors, placement
        self._node_id, self._on_adopted, self._chaos = node_id, on_adopted, chaos
        self._one_at_a_time = asyncio.Lock()
        self._stored: Topology | None = None
        """What the disk had at the start."""

    def load(self) -> Topology | None:
        """Return the topology this node stored, if any; it is not in use yet.

        If this node is not a full member of it, its join was never seen to finish: ask the cluster before serving.
        """
        document = self._engine.get(Family.META, META_TOPOLOGY)
        self._stored = decode(document) if document is not None else None
        return self._stored

    def use(self, topology: Topology) -> None:
        """Take a topology into use that is on disk already."""
        self._placement.adopt(topology)
        self._on_adopted()

    async def adopt_document(self, document: bytes) -> bool:
        """Adopt an encoded topology from a peer. Returns False if it is not newer. DecodeError, ClusterMismatch: refused."""
        return await self.adopt(decode(document), document)

    async def adopt(self, topology: Topology, document: bytes | None = None) -> bool:
        """Make a newer topology durable, then take it into use. Returns False if it is not newer.

        One at a time: else an older one could overwrite on disk a newer one that was already called durable.
        """
        async with self._one_at_a_time:
            if delay_s := self._chaos.pick(Point.ADOPT_LATE, 0.0, 0.01, 0.2):
                await asyncio.sleep(delay_s)
            return await self._adopt(topology, document)

    async def _adopt(self, topology: Topology, document: bytes | None) -> bool:
        current = self._placement.topology
        if current is not None and current.cluster_id != topology.cluster_id:
            raise ClusterMismatch("the topology is another cluster's", ours=current.cluster_id.hex())
        if current is not None and topology.epoch <= current.epoch:
            self._chaos.hit(Probe.TOPOLOGY_NOT_NEWER)
            return False
        before = current or self._stored
        self._begin_empty(before, topology)
        await self._store.put_meta(META_TOPOLOGY, document if document is not None else encode(topology))
        if before is not None:
            self._drop(before, topology)
        self.use(topology)
        return True

    def _begin_empty(self, before: Topology | None, after: Topology) -> None:
        move = after.move
        if move is None or move.joiner != self._node_id or move.phase is not MovePhase.COPYING:
            return
        if before is None or before.move is None or before.move.began != move.began:
            self._store.delete_range(*_ALL_KEYS)

    def _drop(self, before: Topology, after: Topology) -> None:
        """Delete what nobody relies on us for any more."""
        for number in range(after.partitions_count):
            partition = PartitionId(number)
            if self._node_id in before.holders_of(partition) and self._node_id not in after.holders_of(partition):
                self._store.delete_range(*partition_range(partition, after.partition_bits))
                self._actors.forget(partition)
                self._chaos.hit(Probe.PARTITIONS_GIVEN_UP)
        self._store.commit_staged()
