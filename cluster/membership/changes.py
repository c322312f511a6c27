"""Changes of the topology, made by the founding node only and one at a time.

    join     every member reachable and nearly empty
               ─► T+1 transfer begins ─► all adopt ─► old owners send ─► T+2 transfer ends ─► all adopt
               └─ anything fails ──► T+2 cancelled: owners as before, new placement version
    bucket   one more document

While a transfer is under way no node serves clients, and it begins to send only when *every* member has durably adopted the new
placement, so no acknowledgement of the old one can be missed (`correctness` rule 14, in its simplest form). A founder that dies
in the middle resumes at its next start. Agreement without a founder comes later.
"""

from __future__ import annotations

import asyncio

from cluster.membership.keeper import Keeper
from cluster.membership.transfer import JOIN_RECORDS_MAX, send_all
from cluster.placement import Peers, Placement
from cluster.plan import plan
from cluster.store import Store
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import JoinRefused, KVStoreError, NotReady, Unavailable
from kvstore.ids import NodeId
from kvstore.messages import Verb
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.topology import (
    Member,
    Topology,
    begin_transfer,
    cancel_transfer,
    finish_transfer,
    with_address,
    with_bucket,
)
from kvstore.ring.topology_codec import encode
from kvstore.storage.engine import Engine

__all__ = ["Changes"]

PUSH_TIMEOUT_S = 5.0


class Changes:
    """Used on the founder; on other nodes `founder_link` says where to send a change."""

    def __init__(
        self, *, engine: Engine, store: Store, keeper: Keeper, placement: Placement, peers: Peers, node_id: NodeId,
        transfer_timeout_s: float, chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._engine, self._store, self._keeper = engine, store, keeper
        self._placement, self._peers, self._node_id = placement, peers, node_id
        self._transfer_timeout_s, self._chaos = transfer_timeout_s, chaos
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()

    def topology(self) -> Topology:
        """Return the topology in use; NotReady if there is none."""
        if self._placement.topology is None:
            raise NotReady("the node has no topology yet", retry_after_s=0.2)
        return self._placement.topology

    @property
    def is_founder(self) -> bool:
        """Whether this node makes the changes."""
        return self.topology().founder == self._node_id

    async def create_bucket(self, properties: BucketProperties) -> Topology:
        """Add a bucket, durable here and told to every member that can be reached. Idempotent."""
        async with self._one_at_a_time:
            topology = with_bucket(self.topology(), properties)
            await self._keeper.adopt(topology)
            await self._push(topology, everyone=False)
            return topology

    async def admit(self, joiner: Member) -> Topology:
        """Make `joiner` an owner of its share. A member again is a no-op (or a new address). JoinRefused: nothing changed."""
        async with self._one_at_a_time:
            current = self.topology()
            if current.transfer is not None:
                current = await self._cancel(current)
            known = current.maybe_member(joiner.node_id)
            if known is not None:
                return await self._readdress(current, known, joiner.address)
            await self._check_members(current)
            moved = plan(
                members=[*current.members, joiner], current_owners=current.owners,
                partition_bits=current.partition_bits, n=current.n,
            )  # fmt: skip
            return await self._run_transfer(begin_transfer(current, joiner, moved.owners))

    async def resume(self) -> None:
        """After a start: undo a transfer that this founder did not finish. The joiner may join again."""
        async with self._one_at_a_time:
            if self.topology().transfer is not None:
                await self._cancel(self.topology())

    async def _readdress(self, current: Topology, known: Member, address: str) -> Topology:
        if known.address != address:
            current = with_address(current, known.node_id, address)
            await self._keeper.adopt(current)
            await self._push(current, everyone=False)
        return current

    async def _check_members(self, current: Topology) -> None:
        counts = [self._engine.keys_estimate()]
        for member in current.members:
            if member.node_id == self._node_id:
                continue
            link = self._peers.link(member.node_id)
            if link is None or not link.is_up:
                why = link.last_error if link is not None else "no link"
                raise JoinRefused(f"member {member.address} must be reachable while a node joins: {why}")
            body = await link.call(Verb.TRANSFER, 0, self._loop.time() + PUSH_TIMEOUT_S, b"", b"count")
            counts.append(int.from_bytes(body, "big"))
        if max(counts) > JOIN_RECORDS_MAX:
            raise JoinRefused(
                "the cluster holds too much data: this version lets nodes join only while there is little "
                "(start all nodes first, then load)", records=max(counts), records_max=JOIN_RECORDS_MAX,
            )  # fmt: skip

    async def _run_transfer(self, began: Topology) -> Topology:
        await self._keeper.adopt(began)
        try:
            await self._push(began, everyone=True)
            await self._send(began)
            await self._store.durable()
            finished = finish_transfer(began)
        except KVStoreError as error:
            await self._cancel(began)
            raise JoinRefused(f"the join was cancelled: {error.message}") from error
        await self._keeper.adopt(finished)
        await self._push(finished, everyone=False)
        return finished

    async def _send(self, began: Topology) -> None:
        deadline = self._loop.time() + self._transfer_timeout_s
        joiner = began.transfer.joiner if began.transfer is not None else None
        calls = []
        for member in began.members:
            link = self._peers.link(member.node_id)
            if link is not None and member.node_id != joiner:
                calls.append(link.call(Verb.TRANSFER, 0, deadline, b"", b"send"))
        await asyncio.gather(send_all(self._engine, self._store, self._placement, deadline=deadline), *calls)

    async def _cancel(self, began: Topology) -> Topology:
        self._chaos.hit(Probe.TRANSFER_CANCELLED)
        cancelled = cancel_transfer(began)
        await self._keeper.adopt(cancelled)
        await self._push(cancelled, everyone=False)
        return cancelled

    async def _push(self, topology: Topology, *, everyone: bool) -> None:
        """Have the other members adopt a document durably; with `everyone`, raise Unavailable unless all of them did."""
        document = encode(topology)
        others = [m for m in topology.members if m.node_id != self._node_id]
        outcomes = await asyncio.gather(*[self._push_to(m, document, wait=everyone) for m in others])
        failed = [error for error in outcomes if error is not None]
        if everyone and failed:
            raise Unavailable(f"a member did not adopt the new topology: {failed[0].message}")

    async def _push_to(self, member: Member, document: bytes, *, wait: bool) -> KVStoreError | None:
        link = self._peers.link(member.node_id)
        if link is None:
            return Unavailable(f"no link to {member.address}")
        if not wait and self._chaos.fires(Point.PUSH_SKIPPED):
            return None
        try:
            if wait:
                await link.wait_up(PUSH_TIMEOUT_S)
            await link.call(Verb.TOPOLOGY_ADOPT, 0, self._loop.time() + PUSH_TIMEOUT_S, b"", document)
        except KVStoreError as error:
            return error
        return None
