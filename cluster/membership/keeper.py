"""The keeper: this node's durable copy of the topology, and the only place where a newer one is taken into use.

Durable in META under `topology`. A document is adopted if it is of our cluster and newer; it is on disk before anything is
planned with it. Partitions that are no longer ours are deleted, and their actor epochs end, once the transfer that took them
away is finished.
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
from kvstore.ring.topology import Topology
from kvstore.ring.topology_codec import decode, encode
from kvstore.storage.engine import Engine, Family

__all__ = ["Keeper"]

META_TOPOLOGY = b"topology"
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

    def load(self) -> Topology | None:
        """Return the topology this node stored, if any; it is not in use yet.

        If this node is not a full member of it, its join was never seen to finish: ask the cluster before serving.
        """
        document = self._engine.get(Family.META, META_TOPOLOGY)
        return decode(document) if document is not None else None

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
        await self._store.put_meta(META_TOPOLOGY, document if document is not None else encode(topology))
        self._drop(current, topology)
        self.use(topology)
        return True

    def _drop(self, before: Topology | None, after: Topology) -> None:
        """Delete what nobody relies on us for: all of it when we begin to join, lost partitions when a transfer ended."""
        if after.transfer is not None:
            if after.transfer.joiner == self._node_id:
                self._store.delete_range(*_ALL_KEYS)
            return
        if before is None:
            return
        held = before.transfer.from_owners if before.transfer is not None else before.owners
        for number in range(after.partitions_count):
            partition = PartitionId(number)
            was_ours = self._node_id in held[partition] or self._node_id in before.owners[partition]
            if was_ours and self._node_id not in after.owners[partition]:
                self._store.delete_range(*partition_range(partition, after.partition_bits))
                self._actors.forget(partition)
                self._chaos.hit(Probe.PARTITIONS_GIVEN_UP)
        self._store.commit_staged()
