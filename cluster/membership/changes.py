"""Changes of the topology, made by the founding node only and one at a time.

    join     every member reachable ─► COPYING ─► joiner: COPIED ─► all have adopted ─► SETTLING
               │                         └─ the joiner, or a member, is silent for join_timeout_s ─► cancelled
               └─ replaces a dead member: every other one reachable
             joiner: FENCED ─► all have adopted ─ SETTLED ─► no move
    bucket   one more document

Nothing waits here: the joiner drives (receiver.py), and each thing it tells lets the founder make the next document, if every
living member has durably adopted the one before (ring/move.py says why). So a founder that dies goes on when it is back.
Agreement without a founder comes later.
"""

from __future__ import annotations

import asyncio
import logging

from cluster.membership.keeper import Keeper
from cluster.membership.receiver import Step
from cluster.placement import Peers, Placement
from cluster.plan import plan
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import (
    InvalidArgument,
    JoinRefused,
    KVStoreError,
    NotReady,
    StorageError,
    Unavailable,
    UnavailableError,
)
from kvstore.ids import NodeId
from kvstore.messages import Verb
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.move import begin_move, cancel_move, finish_move, flip_move, places_for
from kvstore.ring.topology import Member, Move, MovePhase, Owners, Topology, with_address, with_bucket
from kvstore.ring.topology_codec import encode

__all__ = ["Changes"]

log = logging.getLogger("kvnode")

PUSH_TIMEOUT_S = 5.0
BUSY_RETRY_S = 0.5
WATCH_S = 1.0


class Changes:
    """Used on the founder; on other nodes `topology().founder` says where to send a change."""

    def __init__(
        self, *, keeper: Keeper, placement: Placement, peers: Peers, node_id: NodeId, join_timeout_s: float,
        chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._keeper, self._placement, self._peers, self._node_id = keeper, placement, peers, node_id
        self._join_timeout_s, self._chaos = join_timeout_s, chaos
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
            return await self._make(with_bucket(self.topology(), properties))

    # --- joining ------------------------------------------------------------------------------------------------------

    async def admit(self, joiner: Member, replaced: str = "") -> Topology:
        """Begin to make `joiner` an owner: of its share, or of all that the member `replaced` (the beginning of its id) owned.

        A member again is a no-op, or a new address; a joiner again goes on. JoinRefused, NotReady: nothing changed.
        """
        async with self._one_at_a_time:
            current = self.topology()
            known = current.maybe_member(joiner.node_id)
            if known is not None:
                return await self._readdress(current, known, joiner.address)
            if current.move is not None:
                raise NotReady("another node is joining", retry_after_s=BUSY_RETRY_S)
            replaces = self._dead_member(current, replaced) if replaced else None
            self._check_reachable(current, besides=replaces)
            owners = self._owners_with(current, joiner, replaces)
            return await self._make(begin_move(current, joiner, owners, replaces=replaces))

    def _owners_with(self, current: Topology, joiner: Member, replaces: NodeId | None) -> Owners:
        if replaces is not None:
            return tuple(tuple(joiner.node_id if n == replaces else n for n in each) for each in current.owners)
        planned = plan(
            members=[*current.members, joiner], current_owners=current.owners, partition_bits=current.partition_bits,
            n=current.n,
        )  # fmt: skip
        return places_for(joiner.node_id, current.owners, planned.owners)

    async def _readdress(self, current: Topology, known: Member, address: str) -> Topology:
        if known.address == address:
            return current
        return await self._make(with_address(current, known.node_id, address))

    def _dead_member(self, current: Topology, called: str) -> NodeId:
        meant = [m.node_id for m in current.members if m.node_id.hex().startswith(called.lower())]
        if len(meant) != 1:
            raise JoinRefused(f"{len(meant)} members have an id that begins with {called!r}", members=len(meant))
        if meant[0] == self._node_id:
            raise JoinRefused("the founding node cannot be replaced in this version: it makes the changes")
        link = self._peers.link(meant[0])
        if link is not None and link.is_up:
            raise JoinRefused(f"member {link.address} is alive: stop it before another node takes its place")
        return meant[0]

    def _check_reachable(self, current: Topology, *, besides: NodeId | None) -> None:
        for member in current.members:
            if member.node_id in (self._node_id, besides):
                continue
            link = self._peers.link(member.node_id)
            if link is None or not link.is_up:
                why = link.last_error if link is not None else "no link"
                raise JoinRefused(
                    f"member {member.address} must be reachable while a node joins: {why}; if it is gone for good, let the new "
                    f"node take its place: kvnode --replace {member.node_id.hex()}"
                )  # fmt: skip

    # --- the joiner's progress ----------------------------------------------------------------------------------------

    async def moved(self, joiner: NodeId, began: int, step: int) -> None:
        """Hear how far a joiner is; returns when what its `Step` says holds. Telling again is harmless.

        Raises Unavailable (a member cannot be reached: tell again), or InvalidArgument (there is no such move any more).
        """
        async with self._one_at_a_time:
            topology = self.topology()
            move = topology.move
            if move is None or (move.joiner, move.began) != (joiner, began):
                raise InvalidArgument("there is no such move", began=began)
            if step == Step.COPIED and move.phase is MovePhase.COPYING:
                await self._push(topology, besides=move.replaces, everyone=True)
                await self._make(flip_move(topology))
            elif step == Step.FENCED and move.phase is MovePhase.SETTLING:
                await self._push(topology, everyone=True)
            elif step == Step.SETTLED and move.phase is MovePhase.SETTLING:
                await self._make(finish_move(topology))
            elif step not in set(Step):
                raise InvalidArgument("unknown step of a move", step=step)

    async def watch(self) -> None:
        """For ever, on the founder: give a move up while it is COPYING and somebody whom it needs has been silent for too long.

        Else a member that died for good then could not even be replaced: there is one move at a time.
        """
        silent_since: float | None = None
        while True:
            await asyncio.sleep(WATCH_S)
            move = self._maybe_copying()
            if move is None or self._are_up(move):
                silent_since = None
            elif silent_since is None:
                silent_since = self._loop.time()
            elif self._loop.time() - silent_since >= self._join_timeout_s:
                try:
                    await self._cancel(move)
                except (StorageError, UnavailableError) as error:  # our disk is full, or stalls: this task must go on
                    log.warning("a join cannot be cancelled yet: %s", error)
                else:
                    silent_since = None

    def _are_up(self, move: Move) -> bool:
        others = [m.node_id for m in self.topology().members if m.node_id not in (self._node_id, move.replaces)]
        links = [self._peers.link(node_id) for node_id in others]
        return all(link is not None and link.is_up for link in links)

    def _maybe_copying(self) -> Move | None:
        move = self._placement.topology.move if self._placement.topology is not None else None
        return move if move is not None and move.phase is MovePhase.COPYING else None

    async def _cancel(self, given_up: Move) -> None:
        async with self._one_at_a_time:
            move = self._maybe_copying()
            if move is not None and move.began == given_up.began:
                self._chaos.hit(Probe.MOVE_CANCELLED)
                log.warning("the join of node %s is cancelled: it, or a member, has been silent for %.0f s", move.joiner.hex(),
                            self._join_timeout_s)  # fmt: skip
                await self._make(cancel_move(self.topology()))

    # --- telling ------------------------------------------------------------------------------------------------------

    async def _make(self, topology: Topology) -> Topology:
        """Put a new document into force: durable here, then told to everybody who can be reached."""
        await self._keeper.adopt(topology)
        await self._push(topology)
        return topology

    async def _push(self, topology: Topology, *, besides: NodeId | None = None, everyone: bool = False) -> None:
        """Have the other members adopt a document durably; with `everyone`, raise Unavailable unless all of them did."""
        document = encode(topology)
        others = [m for m in topology.members if m.node_id not in (self._node_id, besides)]
        outcomes = await asyncio.gather(*[self._push_to(m, document, is_needed=everyone) for m in others])
        failed = [error for error in outcomes if error is not None]
        if everyone and failed:
            raise Unavailable(f"a member did not adopt the new topology: {failed[0].message}")

    async def _push_to(self, member: Member, document: bytes, *, is_needed: bool) -> KVStoreError | None:
        link = self._peers.link(member.node_id)
        if link is None:
            return Unavailable(f"no link to {member.address}")
        if not is_needed and self._chaos.fires(Point.PUSH_SKIPPED):
            return None
        try:
            if is_needed:
                await link.wait_up(PUSH_TIMEOUT_S)
            await link.call(Verb.TOPOLOGY_ADOPT, 0, self._loop.time() + PUSH_TIMEOUT_S, b"", document)
        except KVStoreError as error:
            return error
        return None
