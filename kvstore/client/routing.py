"""Routing: which node gets an operation, over which link, and how the client learns that the ring has changed.

    seeds ──link──► any node ──TOPOLOGY──► routes: partition → (placement version, links to its owners in primary order)
                        ▲                                                │
                        └── refresh: newer epoch on a reply, WrongOwner, link lost ◄──┘

An operation goes to the first owner whose link is up; if none is, to any node whose link is, which forwards it once. Attempt k
of an operation starts k places further on, so that a retry meets another node. Links are opened when a partition first needs
them, and kept; until they are up, their partitions' operations travel through the nodes that are.

Invariants
  1. `send` sends once or raises before anything was sent.
  2. The installed topology's epoch only grows, and its cluster never changes.
  3. At most one refresh runs; it ends by itself, and its failure is kept in `refresh_error`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from kvstore.chaos import CALM, Chaos, Point
from kvstore.client.failures import ClientClosed
from kvstore.env import Transport
from kvstore.errors import ClusterMismatch, KVStoreError, Unavailable, UnavailableError
from kvstore.ids import PartitionId
from kvstore.messages import Verb
from kvstore.ring.token import TOKEN_SIZE_BYTES
from kvstore.ring.topology import Topology
from kvstore.ring.topology_codec import decode
from kvstore.transport.frames import Hello
from kvstore.transport.link import Link, LinkOptions

__all__ = ["Route", "Router"]

TOKEN_BITS = 8 * TOKEN_SIZE_BYTES
REFRESH_TIMEOUT_S = 1.0
"""For one node to send the topology; another one is asked then."""
REFRESH_ROUNDS_MAX = 5
"""A node that announced a newer epoch may need a moment to have it; after that its next reply starts anew."""
POLL_S = 0.05
"""While no node can be reached: a link tells when it comes up, but not that it was finally refused."""
RETIRED_WAIT_S_MAX = 5.0
"""How long the link of a node that left may finish what it was asked."""


class Route(NamedTuple):
    """Where the operations of one partition go."""

    placement_version: int
    links: tuple[Link, ...]


class Router:
    """The links and the topology of one client. Made on the event loop it works on."""

    def __init__(
        self, seeds: Sequence[str], transport: Transport, rng: random.Random, link_options: LinkOptions, *,
        chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self.loop = asyncio.get_running_loop()
        self.seeds = tuple(seeds)
        self.closed = False
        self.topology: Topology | None = None
        self.refresh_error: KVStoreError | None = None
        self._transport, self._rng, self._link_options, self._chaos = transport, rng, link_options, chaos
        self._links: dict[str, Link] = {}
        self._token_shift = TOKEN_BITS  # one partition until the topology says how many
        self._routes: list[Route | None] = [None]
        self._refreshing: asyncio.Task[None] | None = None
        self._retiring: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    # --- operations -------------------------------------------------------------------------------------------------

    def send(self, verb: int, name: bytes, body: bytes, deadline: float, attempt: int = 0) -> asyncio.Future[bytes]:
        """Send an operation on the object `name`; the future gives the OK body or raises the error of the reply.

        Raises Unavailable or Overloaded (nothing was sent), or ClientClosed.
        """
        partition = xxh3_64_intdigest(name) >> self._token_shift  # `token.partition_of`, without the bytes
        version, links = self._routes[partition] or self._open_route(PartitionId(partition))
        if not attempt:
            for link in links:
                if link.is_up:
                    return link.request(verb, version, deadline, name, body)
        return self._turn(links, attempt).request(verb, version, deadline, name, body)

    def _turn(self, owners: tuple[Link, ...], attempt: int) -> Link:
        """Return the link for an attempt: owners in order, then the others; each attempt starts one further on."""
        ring = [*owners, *[link for link in self._links.values() if link not in owners]]
        start = attempt % len(ring)
        for link in ring[start:] + ring[:start]:
            if link.is_up:
                return link
        raise self._unreachable()

    def _open_route(self, partition: PartitionId) -> Route:
        if self.closed:
            raise ClientClosed("the client is closed")
        topology = self.topology
        if topology is None:
            raise Unavailable("the topology is not known yet")
        owners = topology.owners_of(partition)
        links = [self._link(topology.member(node_id).address) for node_id in owners]
        if not self._chaos.is_calm:
            links = self._led_astray(topology, links)
        route = self._routes[partition] = Route(topology.placement_versions[partition], tuple(links))
        return route

    def _led_astray(self, topology: Topology, owners: list[Link]) -> list[Link]:
        if self._chaos.fires(Point.ROUTE_ROTATED):
            owners = owners[1:] + owners[:1]
        if self._chaos.fires(Point.ROUTE_ASTRAY):
            members = [self._link(member.address) for member in topology.members]
            return [*[link for link in members if link not in owners][:1], *owners]
        return owners

    def _unreachable(self) -> KVStoreError:
        refusals = [link.refused for link in self._links.values()]
        if refusals and all(refusals) and refusals[0] is not None:
            return refusals[0]
        reasons = "; ".join(f"{link.address}: {link.last_error}" for link in self._links.values())
        if self.refresh_error is not None:
            reasons += f"; topology: {self.refresh_error.message}"
        return Unavailable(f"no node can be reached ({reasons})", alive=0, needed=1)

    async def call_any(self, verb: int, body: bytes, deadline: float) -> bytes:
        """Ask any node that is up; the next one if it refused definitely. Nothing is tried again after doubt."""
        problem = self._unreachable()
        for link in [link for link in self._links.values() if link.is_up]:
            try:
                return await link.call(verb, 0, deadline, b"", body)
            except UnavailableError as error:
                problem = error
        raise problem

    # --- readiness --------------------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether an operation could be sent now."""
        return self.topology is not None and any(link.is_up for link in self._links.values())

    async def wait_usable(self, deadline: float) -> None:
        """Wait until an operation can be sent. Raises Unavailable at the deadline, or a refusal that is final."""
        for seed in self.seeds:
            self._link(seed)
        while not self.is_usable:
            if self.closed:
                raise ClientClosed("the client was closed")
            if self.topology is None and any(link.is_up for link in self._links.values()):
                await self._discover(deadline)
            else:
                await self._wait_change(deadline)

    async def _discover(self, deadline: float) -> None:
        """Fetch the first topology; a node that is not ready yet is asked again."""
        try:
            await self.refresh(deadline)
        except KVStoreError as error:
            if not error.retryable or self.loop.time() + POLL_S >= deadline:
                raise
            await asyncio.sleep(POLL_S)

    async def link_to(self, address: str, deadline: float) -> Link:
        """Return the link to an address, opening it if need be, once it is up."""
        link = self._link(address)
        await link.wait_up(deadline - self.loop.time())
        return link

    def _link(self, address: str) -> Link:
        if self.closed:
            raise ClientClosed("the client is closed")
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(
                transport=self._transport, address=address, hello=self._hello, rng=self._rng, on_event=self._link_event,
                options=self._link_options, chaos=self._chaos,
            )  # fmt: skip
            link.start()
        return link

    def _hello(self) -> Hello:
        topology = self.topology
        return Hello() if topology is None else Hello(cluster_id=topology.cluster_id, topology_epoch=topology.epoch)

    def _link_event(self, link: Link) -> None:
        if self.closed or self._links.get(link.address) is not link:
            return
        self._wake()
        topology = self.topology
        if topology is not None and (
            not link.is_up or link.remote_epoch > topology.epoch or self._chaos.fires(Point.REFRESH_NEEDLESS)
        ):
            self._start_refresh()

    async def _wait_change(self, deadline: float) -> None:
        unreachable = self._unreachable()
        if self.loop.time() >= deadline or not unreachable.retryable:
            raise unreachable
        timer = self.loop.call_at(min(deadline, self.loop.time() + POLL_S), self._wake)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # --- topology ---------------------------------------------------------------------------------------------------

    async def refresh(self, deadline: float) -> None:
        """Fetch the topology now, or wait for the fetch under way. Raises why it failed, or Unavailable at the deadline."""
        task = self._start_refresh()
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(task)
        except TimeoutError:
            raise Unavailable("the deadline passed before a node sent the topology") from None
        except asyncio.CancelledError:
            if self.closed and task.cancelled():  # not the caller was cancelled, but what it waited for
                raise ClientClosed("the client was closed") from None
            raise

    def _start_refresh(self) -> asyncio.Task[None]:
        if self.closed:
            raise ClientClosed("the client is closed")
        if self._refreshing is None:
            self._refreshing = self.loop.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    async def _refresh(self) -> None:
        for attempt in range(REFRESH_ROUNDS_MAX):
            await self._fetch()
            newest = max((link.remote_epoch for link in self._links.values() if link.is_up), default=0)
            if self.topology is None or newest <= self.topology.epoch:
                return
            await asyncio.sleep(self._rng.uniform(0.01, 0.05) * 2**attempt)

    async def _fetch(self) -> None:
        """Ask nodes for the topology, those that know of the newest one first, until one has sent it."""
        up = [link for link in self._links.values() if link.is_up]
        problem = self._unreachable()
        for link in sorted(up, key=_newest_first):
            try:
                deadline = self.loop.time() + REFRESH_TIMEOUT_S
                self._install(decode(await link.call(Verb.TOPOLOGY, 0, deadline, b"", b"")))
                return
            except KVStoreError as error:
                problem = error
        raise problem

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        self.refresh_error = None
        problem = None if task.cancelled() else task.exception()
        if isinstance(problem, KVStoreError):
            self.refresh_error = problem  # whoever waits raises it; for others the old topology still serves
        elif problem is not None:
            self.loop.call_exception_handler({"message": "topology refresh failed", "exception": problem})
        self._wake()

    def _install(self, topology: Topology) -> None:
        ours = self.topology
        if ours is not None and topology.cluster_id != ours.cluster_id:
            raise ClusterMismatch("a node of another cluster answers at a known address")
        if ours is not None and topology.epoch <= ours.epoch:
            if self._chaos.fires(Point.ROUTES_FORGOTTEN):
                self._routes = [None] * ours.partitions_count
            return
        self.topology, self._token_shift = topology, TOKEN_BITS - topology.partition_bits
        self._routes = [None] * topology.partitions_count
        self._retire([*self.seeds, *[member.address for member in topology.members]])
        self._wake()

    def _retire(self, wanted: Sequence[str]) -> None:
        """Close the links of nodes that left, once they have answered what they were asked."""
        self._retiring = [task for task in self._retiring if not task.done()]
        for address in [address for address in self._links if address not in wanted]:
            self._retiring.append(self.loop.create_task(self._close_idle(self._links.pop(address))))

    async def _close_idle(self, link: Link) -> None:
        give_up_at = self.loop.time() + RETIRED_WAIT_S_MAX
        while link.waiting_count and self.loop.time() < give_up_at:  # noqa: ASYNC110  # a link has no event for "idle"
            await asyncio.sleep(POLL_S)
        await link.close()

    # --- end --------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close every link; what still waits for an answer gets `CoordinatorLost`. Idempotent."""
        self.closed = True
        self._token_shift, self._routes = TOKEN_BITS, [None]
        tasks = [*self._retiring, *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()
        self._wake()


def _newest_first(link: Link) -> int:
    return -link.remote_epoch
