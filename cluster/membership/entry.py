"""The entry: how a start gets into its cluster, and how the cluster learns where this start listens.

a full member of the stored topology ──► uses it; --join, or another address: asks the cluster as well
a stored topology, but no full member ─► asks the others in it
--join ────────────────────────────────► asks these
neither ───────────────────────────────► founds a cluster
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.membership.changes import Changes
from cluster.membership.joining import ask_to_join, join_cluster
from cluster.membership.keeper import Keeper
from cluster.membership.receiver import Receiver
from cluster.placement import Peers, Placement
from kvstore.errors import ClusterMismatch, ConfigError, KVStoreError
from kvstore.ids import ClusterId, NodeId
from kvstore.ring.topology import Member, MemberState, Topology, found
from kvstore.ring.topology_codec import decode
from kvstore.transport.link import Link

if TYPE_CHECKING:
    from cluster.node import NodeOptions

__all__ = ["Entry"]

log = logging.getLogger("kvnode")

TELL_EVERY_S = 1.0
"""Also how long one member may take to hear our address."""


class Entry:
    """`enter` once at the start; `tell_address` beside serving."""

    def __init__(
        self, *, options: NodeOptions, node_id: NodeId, address: Callable[[], str], rng: random.Random, keeper: Keeper,
        placement: Placement, receiver: Receiver, changes: Changes, peers: Peers, open_link: Callable[[str], Link],
    ) -> None:  # fmt: skip
        self._options, self._node_id, self._address, self._rng = options, node_id, address, rng
        self._keeper, self._placement, self._receiver = keeper, placement, receiver
        self._changes, self._peers, self._open_link = changes, peers, open_link

    async def enter(self, stored: Topology | None) -> None:
        """Return with a topology in use in which this node is a full member. Raises what refuses that."""
        options = self._options
        member = stored.maybe_member(self._node_id) if stored is not None else None
        if stored is not None and member is not None and member.state is MemberState.NORMAL:
            self._keeper.use(stored)
            if member.address == self._address() and not options.join:
                return
        seeds = list(options.join)
        if not seeds and stored is not None:
            seeds = [m.address for m in stored.members if m.node_id != self._node_id]
        if seeds:
            await self._join(seeds, stored)
        elif self._placement.topology is None:
            await self._found()

    async def _join(self, seeds: list[str], stored: Topology | None) -> None:
        is_member = self._placement.topology is not None
        ours = Member(self._node_id, self._address(), self._options.zone, self._options.weight)
        if ours.address in seeds:
            raise ConfigError("a node cannot join itself", address=ours.address)
        try:
            document = await join_cluster(
                ours, seeds, self._open_link, timeout_s=self._options.join_timeout_s, replaced=self._options.replaced
            )
        except KVStoreError as error:
            if is_member and error.retryable:
                return  # a member already: the others will be met when they are back
            raise
        if stored is not None and decode(document).cluster_id != stored.cluster_id:
            raise ClusterMismatch("this data directory is part of another cluster", cluster=stored.cluster_name)
        await self._keeper.adopt_document(document)
        await self._receiver.join()

    async def _found(self) -> None:
        options = self._options
        cluster_id = ClusterId(self._rng.randbytes(16))
        member = Member(self._node_id, self._address(), options.zone, options.weight)
        await self._keeper.adopt(found(cluster_id, options.cluster_name, member, options.partition_bits, options.n))

    async def tell_address(self) -> None:
        """Until the topology has our address, ask for that: this start may listen elsewhere than the one before."""
        while (topology := self._placement.topology) is not None:
            member = topology.maybe_member(self._node_id)
            if member is None or member.address == self._address():
                return
            ours = Member(self._node_id, self._address(), member.zone, member.weight)
            try:
                if self._changes.is_founder:
                    await self._changes.admit(ours)
                elif (link := next((link for _, link in self._peers.all() if link.is_up), None)) is not None:
                    await self._keeper.adopt_document(await ask_to_join(ours, link, timeout_s=TELL_EVERY_S))
            except KVStoreError as error:
                log.info("the cluster does not know our new address yet: %s", error)
            await asyncio.sleep(TELL_EVERY_S)
