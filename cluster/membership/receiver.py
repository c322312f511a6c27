"""The joiner's side of a move: copy what it is to own, say so, and after the flip copy what the leaving owners took meanwhile.

    COPYING    every partition to come, from its giver (or from every owner: move.sources_of), page by page ─► COPIED
               (of more than one source the first sends records, the others digests of theirs)
    ─── the founder flips; this node is a full member and serves ───
    SETTLING   FENCED: everybody has adopted the flip ─► digests of what leaves, differing records ─► SETTLED ─► guests delete

What the founder acknowledges is in a topology by then. A cursor for each (partition, source) is on disk after the records
before it, so a joiner that dies goes on where it was; it belongs to one move (the epoch at which that began) and one phase.

Records are merged, so pages, writes and repeated pages may come in any order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from cluster.membership.keeper import META_CURSOR
from cluster.placement import Peers, Placement
from cluster.replica import Replica
from kvstore.chaos import CALM, Chaos, Probe
from kvstore.errors import DecodeError, InternalError, JoinRefused, KVStoreError, Unavailable
from kvstore.ids import NodeId, PartitionId, StorageKey
from kvstore.messages import Verb, decode_body, encode_body
from kvstore.pages import decode_page, digest_of, encode_scan
from kvstore.ring.move import sources_of
from kvstore.ring.token import partition_of
from kvstore.ring.topology import MemberState, Move, MovePhase, Topology
from kvstore.storage.engine import Engine, Family
from kvstore.transport.link import Link

__all__ = ["Receiver", "Step"]

log = logging.getLogger("kvnode")

AT_ONCE = 4
"""Partitions that are copied at a time: enough to wait for disks and network of several holders, and little beside the load."""
PAGE_TIMEOUT_S, TELL_TIMEOUT_S = 10.0, 15.0
RETRY_S = 0.5


class Step(IntEnum):
    """What a joiner tells the founder with MOVED, and what holds once that answered."""

    COPIED = 1
    """The joiner holds what the giver of each partition held; the flip was made."""
    FENCED = 2
    """Every living member has adopted the flip."""
    SETTLED = 3
    """The joiner holds what the leaving ones held; they are dismissed."""


class _Part(NamedTuple):
    """A partition to scan at one or more holders."""

    partition: PartitionId
    version: int
    sources: tuple[NodeId, ...]


class Receiver:
    """`records`, `bytes` count what was received in this life, pages and fetched records alike."""

    def __init__(
        self, *, engine: Engine, replica: Replica, placement: Placement, peers: Peers, node_id: NodeId, chaos: Chaos = CALM
    ) -> None:  # fmt: skip
        self._engine, self._replica, self._placement = engine, replica, placement
        self._peers, self._node_id, self._chaos = peers, node_id, chaos
        self._loop = asyncio.get_running_loop()
        self.records = self.bytes = 0
        self.parts_done = self.parts_count = 0

    async def join(self) -> None:
        """Copy until this node is a full member. Raises JoinRefused if the cluster gave it up."""
        while (move := self._copying()) is not None:
            try:
                await self._scan_all(move)
                await self._tell(move, Step.COPIED)
            except KVStoreError as error:
                self._chaos.hit(Probe.COPY_WAITED)
                log.info("copying waits: %s", error)
            if self._copying() is not None:
                await asyncio.sleep(RETRY_S)

    async def settle(self) -> None:
        """Copy what the leaving ones have taken since, until they are dismissed."""
        while (move := self._settling()) is not None:
            try:
                await self._tell(move, Step.FENCED)
                await self._scan_all(move)
                await self._tell(move, Step.SETTLED)
                self._forget_cursors()
            except KVStoreError as error:
                log.info("settling waits: %s", error)
            if self._settling() is not None:
                await asyncio.sleep(RETRY_S)

    def _topology(self) -> Topology:
        assert self._placement.topology is not None, "a joiner has adopted the topology that names it"
        return self._placement.topology

    def _copying(self) -> Move | None:
        """Return the move as long as this node is not a full member."""
        topology = self._topology()
        member = topology.maybe_member(self._node_id)
        if member is None:
            raise JoinRefused("the cluster gave this join up; start again to join from the beginning")
        return topology.move if member.state is MemberState.JOINING else None

    def _settling(self) -> Move | None:
        move = self._topology().move
        return move if move is not None and move.joiner == self._node_id and move.phase is MovePhase.SETTLING else None

    async def _tell(self, move: Move, step: Step) -> None:
        link = self._link(self._topology().founder)
        body = encode_body([move.began, int(step)])
        await link.call(Verb.MOVED, 0, self._loop.time() + TELL_TIMEOUT_S, b"", body)

    def _link(self, node_id: NodeId) -> Link:
        link = self._peers.link(node_id)
        if link is None or not link.is_up:
            raise Unavailable("a holder cannot be reached", node_id=node_id.hex())
        return link

    # --- scanning -----------------------------------------------------------------------------------------------------

    async def _scan_all(self, move: Move) -> None:
        """Scan every part, AT_ONCE at a time; the first problem ends it when those under way are over."""
        parts = list(self._parts())
        self.parts_count, self.parts_done = len(parts), 0
        left, problems = iter(parts), list[KVStoreError]()

        async def work() -> None:
            for part in left:
                if problems:
                    return
                try:
                    for source in part.sources:
                        has_it_all = move.phase is MovePhase.COPYING and source == part.sources[0]
                        await self._scan(move, part, source, is_digest=not has_it_all)
                except KVStoreError as error:
                    problems.append(error)
                self.parts_done += 1
                if self.parts_done % max(1, self.parts_count // 10) == 0:
                    log.info("%s: %d of %d partitions, %d records so far", move.phase.name.lower(), self.parts_done,
                             self.parts_count, self.records)  # fmt: skip

        await asyncio.gather(*[work() for _ in range(AT_ONCE)])
        if problems:
            raise problems[0]

    def _parts(self) -> Iterator[_Part]:
        topology = self._topology()
        for number, version in enumerate(topology.placement_versions):
            partition = PartitionId(number)
            wanted, instead = sources_of(topology, partition)
            if any(not self._is_up(node) for node in wanted) and instead and all(map(self._is_up, instead)):
                wanted = instead
            if wanted:
                yield _Part(partition, version, wanted)

    def _is_up(self, node_id: NodeId) -> bool:
        link = self._peers.link(node_id)
        return link is not None and link.is_up

    async def _scan(self, move: Move, part: _Part, source: NodeId, *, is_digest: bool) -> None:
        name = META_CURSOR + part.partition.to_bytes(4, "big") + source
        after = self._cursor(move, name)
        while after is not None:
            link = self._link(source)
            body = encode_scan((part.partition, part.version, after, is_digest))
            page = await link.call(Verb.SCAN, 0, self._loop.time() + PAGE_TIMEOUT_S, b"", body)
            items, is_last = decode_page(page, after=after)
            self.bytes += len(page)
            if is_digest:
                await self._take_differences(link, part, items)
            else:
                self._merge(part.partition, items)
            after = None if is_last else items[-1][0]
            await self._save_cursor(move, name, after)

    def _cursor(self, move: Move, name: bytes) -> bytes | None:
        """Return the key after which to go on: empty at the beginning, None at the end."""
        saved = self._engine.get(Family.META, name)
        if saved is None:
            return b""
        began, phase, after = decode_body(saved, fields_max=3)
        if (began, phase) != (move.began, int(move.phase)):
            return b""
        self._chaos.hit(Probe.COPY_RESUMED)
        return after  # type: ignore[no-any-return]  # what `_save_cursor` wrote

    async def _save_cursor(self, move: Move, name: bytes, after: bytes | None) -> None:
        store = self._replica.store
        await store.durable()  # the records before the cursor
        await store.put_meta(name, encode_body([move.began, int(move.phase), after]))

    def _forget_cursors(self) -> None:
        store = self._replica.store
        for name, _ in list(self._engine.scan(Family.META, META_CURSOR, META_CURSOR + b"\xff")):
            store.stage_meta(name, None)
        store.commit_staged()

    # --- taking -------------------------------------------------------------------------------------------------------

    async def _take_differences(self, link: Link, part: _Part, items: list[tuple[bytes, bytes]]) -> None:
        for key, digest in items:
            if digest_of(self._replica.read(StorageKey(key))) != digest:
                self._chaos.hit(Probe.SETTLED_A_DIFFERENCE)
                record = await link.call(Verb.FETCH, part.version, self._loop.time() + PAGE_TIMEOUT_S, key, b"")
                self.bytes += len(record)
                if record:
                    self._merge(part.partition, [(key, record)])

    def _merge(self, partition: PartitionId, items: list[tuple[bytes, bytes]]) -> None:
        """Merge and apply records. Raises what the store or a record is to blame for; then nothing or a part was applied."""
        bits = self._topology().partition_bits
        problems: list[Exception] = []

        def applied(problem: Exception | None) -> None:
            if problem is not None:
                problems.append(problem)

        for key, record in items:
            if partition_of(StorageKey(key), bits) != partition:
                raise DecodeError("a page holds a record of another partition", key=key.hex())
            self._replica.stage_merge(partition, StorageKey(key), record, applied)
        self._replica.store.commit_staged()
        self.records += len(items)
        if problems:
            problem = problems[0]
            raise problem if isinstance(problem, KVStoreError) else InternalError(f"apply failed: {problem!r}")
