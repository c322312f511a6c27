"""A node: everything of one process wired together, its start, its stop, and what it says of itself.

    open identity ─► listen ─► stored topology │ join │ found ─► meet the peers ─► serving ─► drain ─► clean stop

All of the world comes in through `Env`; the same class runs on gRPC and RocksDB and in the simulation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.actors import Actors
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.mutation import Mutations
from cluster.coordinator.planning import Planner
from cluster.coordinator.reads import Reads
from cluster.counters import Counters
from cluster.membership.catch_up import CatchUp
from cluster.membership.changes import Changes
from cluster.membership.entry import Entry
from cluster.membership.keeper import Keeper
from cluster.membership.receiver import Receiver
from cluster.membership.source import Source
from cluster.placement import Peers, Placement
from cluster.read_repair import ReadRepair
from cluster.record_cache import RECORD_CACHE_BYTES
from cluster.replica import Replica
from cluster.server.administration import Administration
from cluster.server.admission import Admission
from cluster.server.directory_check import check_directory, refuse_directory
from cluster.server.frame_service import FrameService
from cluster.status import node_status
from cluster.store import Store
from cluster.tasks import Tasks
from kvstore.causality.hlc import HybridLogicalClock
from kvstore.chaos import Point
from kvstore.env import Connection, Env, Listener
from kvstore.errors import KVStoreError, NotReady, StaleIdentity
from kvstore.ids import NodeId, StorageKey
from kvstore.storage.identity import NodeIdentity, PeerBoots, open_identity
from kvstore.transport.link import Link
from kvstore.transport.session import Session

__all__ = ["Node", "NodeOptions"]

log = logging.getLogger("kvnode")

MEET_PEERS_S = 1.0
"""How long a start waits for the other members before it serves, so that it does not answer from an old topology."""
DOUBLE_WAIT_S = 8.0
"""Longer than a link needs to find that a peer is gone (suspect_beats, dead_beats), so that our own last run is not a double."""
RATE_WINDOW_S = 1.0
DRAIN_S_MAX = 5.0
LAST_REPLIES_S = 0.05
"""Lets the last replies leave before the connections end; what a client does not get it must call indefinite."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What a node is told at its start. `advertise` None: what it listens on. `join`: addresses of any members.
    `replaced`: the beginning of the id of the dead member whose place to take.
    `moved`: the data directory was copied as a whole while the node was stopped, and the original will not start again."""

    listen: str
    advertise: str | None = None
    join: tuple[str, ...] = ()
    replaced: str = ""
    zone: str = "default"
    weight: int = 1
    cluster_name: str = "dev"
    n: int = 3
    partition_bits: int = 8
    max_clock_skew_ms: int = 2_000
    join_timeout_s: float = 30.0
    record_cache_bytes: int = RECORD_CACHE_BYTES
    moved: bool = False


class Node:
    """`fatal` gets an exception when the process must end at once: nothing more is acknowledged from then on."""

    def __init__(self, env: Env, options: NodeOptions) -> None:
        self._env, self._options = env, options
        self._loop = asyncio.get_running_loop()
        self.fatal: asyncio.Future[None] = self._loop.create_future()
        self.fatal.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.counters = Counters()
        self.tasks = Tasks()
        cache_bytes = env.chaos.pick(Point.RECORD_CACHE_TINY, options.record_cache_bytes, 0, 10_000)
        self.store = Store(env.engine, self._die, cache_bytes=cache_bytes, chaos=env.chaos)
        self.clock = HybridLogicalClock(max_skew_ms=options.max_clock_skew_ms)
        self.listener: Listener | None = None
        self.identity: NodeIdentity | None = None
        self._started_at = self._loop.time()
        self.is_ready = False
        self._ending: asyncio.Task[None] | None = None
        self._rate_sample = (0.0, 0, 0.0)
        self._was_up: dict[str, bool] = {}

    # --- start ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open, listen, join or found, and serve. Raises a KVStoreError if the node cannot be part of its cluster."""
        await check_directory(self._env.engine, moved=self._options.moved)
        self._tell_how_the_store_was_found()
        self.identity = await open_identity(self._env.engine, self._env.random)
        self._build(self.identity)
        stored = self.keeper.load()  # before anybody says HELLO: whose start is noted depends on it
        self.listener = await self._env.transport.serve(self._options.listen, self._accept)
        await self.listener.set_serving(False)
        await self.entry.enter(stored)
        await self._meet_peers()
        if self._ending is not None:  # some peer refused us meanwhile
            await self._ending
            self.fatal.result()
        self.is_ready = self.service.is_open = True
        self.tasks.spawn("telling the cluster our address", self.entry.tell_address())
        self.tasks.spawn("settling a move", self.receiver.settle())
        if self.changes.is_founder:
            self.tasks.spawn("watching joiners", self.changes.watch())
        await self.listener.set_serving(True)

    def _tell_how_the_store_was_found(self) -> None:
        report = self._env.engine.report
        if report.history_may_be_missing:
            log.warning(
                "unclean start: history may be missing (%s), so every actor epoch ends", report.doubt or "a copy"
            )
        elif report.doubt:
            log.warning("a kill of this node will end its actor epochs: %s", report.doubt)

    @property
    def node_id(self) -> NodeId:
        """This node's id; known once it started."""
        assert self.identity is not None, "the node has not started"
        return self.identity.node_id

    @property
    def started_for_s(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._started_at

    @property
    def address(self) -> str:
        """The `host:port` that other nodes and clients are told."""
        if self._options.advertise is not None:
            return self._options.advertise
        return self.listener.address if self.listener is not None else self._options.listen

    def _build(self, identity: NodeIdentity) -> None:
        env, store, node_id, chaos = self._env, self.store, identity.node_id, self._env.chaos
        self.actors = Actors(env.engine, store, node_id, env.random, chaos=chaos)
        self.actors.load()
        self.peers = Peers(node_id, self._open_link, self._retire_link)
        self.placement = Placement(node_id, self.peers, chaos=chaos)
        boots = PeerBoots(env.engine)
        self.admission = Admission(
            identity=identity, boots=boots, store=store, placement=self.placement, peers=self.peers,
            address=lambda: self.address, chaos=chaos,
        )  # fmt: skip
        self.keeper = Keeper(
            engine=env.engine, store=store, actors=self.actors, boots=boots, placement=self.placement, node_id=node_id,
            on_adopted=self._adopted, chaos=chaos,
        )  # fmt: skip
        self.changes = Changes(
            keeper=self.keeper, placement=self.placement, peers=self.peers, node_id=node_id,
            join_timeout_s=self._options.join_timeout_s, chaos=chaos,
        )  # fmt: skip
        self.catch_up = CatchUp(
            keeper=self.keeper, placement=self.placement, peers=self.peers, tasks=self.tasks, again=self._link_changed
        )
        self._build_request_path()
        self.entry = Entry(
            options=self._options, node_id=node_id, address=lambda: self.address, rng=env.random, keeper=self.keeper,
            placement=self.placement, receiver=self.receiver, changes=self.changes, peers=self.peers, open_link=self._open_link,
        )  # fmt: skip

    def _build_request_path(self) -> None:
        chaos = self._env.chaos
        repair = ReadRepair(self.placement, self.counters, chaos=chaos)
        self.replica = Replica(self.store, self.actors, self.clock, self._wall_ms, repair.heal, chaos=chaos)
        repair.attach(self.replica)
        self.store.on_doubt = self._doubt
        planner, counters, wall_ms = Planner(self.placement, self.counters, chaos=chaos), self.counters, self._wall_ms
        self.reads = Reads(
            planner=planner, replica=self.replica, wall_ms=wall_ms, counters=counters, repair=repair.repair, chaos=chaos
        )
        mutations = Mutations(
            replica=self.replica, actors=self.actors, clock=self.clock, wall_ms=wall_ms, counters=counters, chaos=chaos
        )
        self.coordinator = Coordinator(
            planner=planner, reads=self.reads, mutations=mutations, store=self.store, counters=counters, chaos=chaos
        )
        administration = Administration(
            source=Source(
                engine=self._env.engine, replica=self.replica, placement=self.placement, is_alone=repair.is_alone, chaos=chaos,
            ),
            keeper=self.keeper,
            changes=self.changes, peers=self.peers, tasks=self.tasks, status=self.status,
        )  # fmt: skip
        assert self.identity is not None, "it was opened before"
        self.receiver = Receiver(
            engine=self._env.engine, replica=self.replica, placement=self.placement, peers=self.peers,
            node_id=self.identity.node_id, chaos=chaos,
        )  # fmt: skip
        self.service = FrameService(
            placement=self.placement, coordinator=self.coordinator, replica=self.replica, admit=self.admission.admit,
            administration=administration.handle, catch_up=self.catch_up.with_member, chaos=chaos,
        )  # fmt: skip

    def _doubt(self, records: Mapping[bytes, bytes]) -> None:
        for key, record in records.items():
            if self.placement.topology is not None:
                self.replica.doubt(self.placement.slot(key).partition, StorageKey(key), record)

    def _adopted(self) -> None:
        topology = self.placement.topology
        assert topology is not None, "it was just adopted"
        log.info("topology epoch %d: %d members%s", topology.epoch, len(topology.members),
                 ", one is joining" if topology.move is not None else "")  # fmt: skip

    def _wall_ms(self) -> int:
        return self._env.clock.wall_ns() // 1_000_000

    def _accept(self, connection: Connection) -> Session:
        return Session(connection, self.service, chaos=self._env.chaos)

    async def _meet_peers(self) -> None:
        links = [link for _, link in self.peers.all()]
        if links:
            log.info("waiting up to %.0f s for %d peers", MEET_PEERS_S, len(links))
        await asyncio.gather(*[link.wait_up(MEET_PEERS_S) for link in links], return_exceptions=True)
        await self._outlast_a_double(links)
        if self.fatal.done():
            self.fatal.result()
        for link in links:
            if isinstance(link.refused, StaleIdentity):
                await self._end_as_stale(link.refused)
                raise link.refused
            if link.is_up and link.remote_epoch > self.placement.epoch:
                await self.catch_up.now(link)

    async def _outlast_a_double(self, links: list[Link]) -> None:
        """While peers say that a node with our identity is connected from elsewhere, wait; it may be our own last run."""
        give_up_at = self._loop.time() + DOUBLE_WAIT_S
        while doubles := [link.refusal for link in links if isinstance(link.refusal, NotReady)]:
            if self._loop.time() >= give_up_at:
                raise StaleIdentity(f"this data directory is in use elsewhere, or is a copy: {doubles[0].message}")
            await asyncio.sleep(MEET_PEERS_S / 4)

    def _end_as_stale(self, refused: StaleIdentity) -> asyncio.Task[None]:
        """Stop serving at once, and begin to end; the first reason counts, however many peers have one."""
        self.is_ready = self.service.is_open = False
        if self._ending is None:
            self._ending = self.tasks.spawn("ending as a stale identity", self._refuse_and_die(refused))
        return self._ending

    async def _refuse_and_die(self, refused: StaleIdentity) -> None:
        if self.listener is not None:  # peers that did not refuse us must not count on what we would store from now on
            self.tasks.spawn("closing the door as a stale identity", self.listener.close())
        try:
            await refuse_directory(self._env.engine, refused)
        finally:  # the mark may have failed, or a signal may have interrupted it: it ends as stale in any case
            self._die(refused)

    # --- links ----------------------------------------------------------------------------------------------------------

    def _open_link(self, address: str) -> Link:
        link = Link(
            transport=self._env.transport, address=address, hello=self.admission.hello, rng=self._env.random,
            on_event=self._link_changed, chaos=self._env.chaos,
        )  # fmt: skip
        link.start()
        return link

    def _retire_link(self, link: Link) -> None:
        self.tasks.spawn(f"closing the link to {link.address}", link.close())

    def _link_changed(self, link: Link) -> None:
        if isinstance(link.refused, StaleIdentity):
            self._end_as_stale(link.refused)
            return
        if link.is_up != self._was_up.get(link.address, False):
            self._was_up[link.address] = link.is_up
            log.info("peer %s is %s", link.address, "up" if link.is_up else f"down: {link.last_error}")
        if not link.is_up or link.remote is None:
            self.reads.peer_is_down()
            return
        try:
            self.admission.check(link.remote)
        except KVStoreError as error:
            link.drop(error)
            return
        if link.remote_epoch > self.placement.epoch and self.placement.topology is not None:
            self.catch_up.soon(link)

    # --- end ------------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Refuse new requests, finish those under way, sync, mark a clean stop. The node is unusable afterwards."""
        self.is_ready = False
        if self.identity is not None and self.listener is not None:
            self.service.is_open = False
            await self.listener.set_serving(False)
            give_up_at = self._loop.time() + DRAIN_S_MAX
            while self.coordinator.in_flight and self._loop.time() < give_up_at:  # noqa: ASYNC110  # once in a life
                await asyncio.sleep(0.01)
            await asyncio.sleep(LAST_REPLIES_S)
            await self._disconnect()
        is_durable = not self.fatal.done() and await self._is_durable_soon()
        await self._env.engine.close(clean=is_durable)

    async def _is_durable_soon(self) -> bool:
        """Sync the last writes; on a full disk that may not end, and then the stop is not a clean one."""
        try:
            await asyncio.wait_for(self.store.durable(), DRAIN_S_MAX)
        except TimeoutError:
            await self.store.abandon()
            return False
        return True

    async def crash(self) -> None:
        """End at once without a word to anybody, as a killed process does (for the simulation; the engine is left open)."""
        self.is_ready = False
        if not self.fatal.done():
            self.fatal.cancel()
        await self._disconnect()
        await self.store.abandon()

    async def _disconnect(self) -> None:
        await asyncio.gather(*[link.close() for link in self.peers.forget_all()])
        await self.tasks.close()
        if self.listener is not None:
            await self.listener.close()

    def _die(self, problem: Exception) -> None:
        self.is_ready = False
        if not self.fatal.done():
            self.fatal.set_exception(problem)

    def recent_ops_per_s(self, operations: int) -> float:
        """Return the rate since the last time somebody asked, over at least RATE_WINDOW_S."""
        now = self.started_for_s
        since, before, rate = self._rate_sample
        if now - since >= RATE_WINDOW_S:
            rate = (operations - before) / (now - since)
            self._rate_sample = (now, operations, rate)
        return rate

    def status(self) -> dict[str, Any]:
        """Return what `kvctl status` shows of this node; the shape is `status.node_status`'s."""
        return node_status(self)
