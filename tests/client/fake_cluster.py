"""A cluster of puppets for the client's tests: real links, sessions and frames in memory, one shared store, faults by script.

    with a script     node.script.append(refuse(Overloaded(...)))      the next client operation there is answered with it
    without           the operation is applied to the one store all nodes share, as if replication were instant

All nodes see one store, so what these tests check is the client: routing, retries, contexts; never replication.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from jepsen_lite.sim.loop import VirtualLoop
from kvstore.causality.context import decode_context, encode_context
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update, update_lww
from kvstore.causality.version_vector import encode_vector
from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError, error_to_wire
from kvstore.ids import ActorId, ClusterId, HlcTimestamp, NodeId, ObjectType, OperationId
from kvstore.messages import (
    Status,
    Verb,
    decode_body,
    decode_delete,
    decode_put,
    encode_body,
    encode_get_reply,
)
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.topology import Member, Topology, found, with_bucket
from kvstore.ring.topology_codec import encode
from kvstore.storage.keyspace import storage_key
from kvstore.transport.frames import Hello
from kvstore.transport.memory import MemoryListener, MemoryNetwork
from kvstore.transport.session import Request, Session

T = TypeVar("T")
Act = Callable[["FakeNode", Session, Request], None]
"""What a node does with one operation instead of carrying it out."""
WALL_MS = 1_700_000_000_000
CLUSTER_ID = ClusterId(b"c" * 16)


class FakeClock:
    """Wall time that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now_ns = WALL_MS * 1_000_000

    def wall_ns(self) -> int:
        return self.now_ns


def refuse(error: KVStoreError) -> Act:
    """Answer with an error, without applying."""
    return lambda node, session, request: session.reply(request[0], Status.ERROR, error_to_wire(error))


def apply_then_fail(error: KVStoreError) -> Act:
    """Apply, and answer with an error all the same: what an indefinite error can mean."""

    def act(node: FakeNode, session: Session, request: Request) -> None:
        node.cluster.carry_out(node, request)
        session.reply(request[0], Status.ERROR, error_to_wire(error))

    return act


def apply_then_hang_up(node: FakeNode, session: Session, request: Request) -> None:
    """Apply, and break the connection instead of answering."""
    node.cluster.carry_out(node, request)
    session.close(ConnectionResetError("scripted"))


def stay_silent(node: FakeNode, session: Session, request: Request) -> None:
    """Never answer."""


@dataclass
class FakeNode:
    """One node: a `Service`. `seen` are the client operations that reached it; `extra_epoch` announces a newer topology."""

    cluster: FakeCluster
    node_id: NodeId
    address: str
    script: deque[Act] = field(default_factory=deque)
    seen: list[Request] = field(default_factory=list)
    topology: Topology | None = None
    listener: MemoryListener | None = None
    mute: bool = False

    def topology_epoch(self) -> int:
        return self.known.epoch

    @property
    def known(self) -> Topology:
        return self.topology or self.cluster.topology

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    def admit(self, session: Session, hello: Hello) -> None:
        session.welcome(Hello(cluster_id=CLUSTER_ID, node_id=self.node_id, topology_epoch=self.known.epoch))

    def handle(self, session: Session, requests: Sequence[Request]) -> None:
        for request in requests:
            if self.mute:
                continue
            if request[1] in (Verb.PUT, Verb.GET, Verb.DELETE):
                self.seen.append(request)
                if self.script:
                    self.script.popleft()(self, session, request)
                    continue
            self._answer(session, request)

    def _answer(self, session: Session, request: Request) -> None:
        try:
            session.reply(request[0], Status.OK, self.cluster.carry_out(self, request))
        except KVStoreError as error:
            session.reply_error(request[0], error)

    def closed(self, session: Session) -> None:
        pass


class FakeCluster:
    """Nodes n0:1, n1:1, ... with one store; partition p is owned by the nodes p, p+1, p+2 (modulo their number)."""

    def __init__(self, nodes_count: int = 3, *, partition_bits: int = 2) -> None:
        self.network = MemoryNetwork()
        self.store: dict[bytes, DVVSet] = {}
        self.nodes: list[FakeNode] = []
        self.clock = FakeClock()
        self.hlc = WALL_MS << 16
        for _ in range(nodes_count):
            self.add_node()
        first = Member(self.nodes[0].node_id, self.nodes[0].address)
        self.topology = self.placed(found(CLUSTER_ID, "test", first, partition_bits))

    def add_node(self) -> FakeNode:
        index = len(self.nodes)
        node = FakeNode(self, NodeId(bytes([0xA0 + index]) * 8), f"n{index}:1")
        self.nodes.append(node)
        return node

    def placed(self, topology: Topology, *, shift: int = 0) -> Topology:
        """Return the next epoch of a topology in which all nodes are members and owners are spread."""
        ids = [node.node_id for node in self.nodes]
        owners = tuple(
            tuple(ids[(partition + shift + i) % len(ids)] for i in range(min(3, len(ids))))
            for partition in range(topology.partitions_count)
        )
        return replace(
            topology, epoch=topology.epoch + 1, owners=owners,
            members=tuple(Member(node.node_id, node.address) for node in self.nodes),
            placement_versions=tuple(version + 1 for version in topology.placement_versions),
        )  # fmt: skip

    async def serve(self) -> None:
        for node in self.nodes:
            await self.start_node(node)

    async def start_node(self, node: FakeNode) -> None:
        transport = self.network.transport(node.host)
        node.listener = await transport.serve(node.address, lambda connection: Session(connection, node))

    def client(self, **options: Any) -> AsyncClient:
        """Return a client that knows the first node only."""
        return AsyncClient(
            [self.nodes[0].address], transport=self.network.transport("client"), clock=self.clock,
            rng=random.Random(7), **options,
        )  # fmt: skip

    @property
    def seen(self) -> list[Request]:
        return [request for node in self.nodes for request in node.seen]

    def create(self, properties: BucketProperties) -> None:
        self.topology = with_bucket(self.topology, properties)

    # --- the store --------------------------------------------------------------------------------------------------

    def carry_out(self, node: FakeNode, request: Request) -> bytes:
        _, verb, _, _, key, body = request
        if verb == Verb.TOPOLOGY:
            return encode(node.known)
        if verb == Verb.BUCKET_CREATE:
            name, kind, r, w, dw, pr, pw, ttl_ms = decode_body(body)
            self.create(BucketProperties(name, ObjectType(kind), r, w, dw, pr, pw, ttl_ms))
            return b""
        if verb == Verb.GET:
            return self._get(key)
        if verb == Verb.PUT:
            put = decode_put(body)
            return self._write(node, key, put.operation_id, put.value, put.context, put.ttl_ms)
        if verb == Verb.DELETE:
            delete = decode_delete(body)
            return self._write(node, key, delete.operation_id, None, delete.context, 0)
        return b"pong"

    def _get(self, name: bytes) -> bytes:
        state = self.store.get(name, EMPTY)
        flat: list[Any] = []
        for sibling in state.siblings:
            if sibling.value is not None:
                flat += [sibling.actor, sibling.counter, sibling.hlc, sibling.expires >> 16, sibling.value]
        return encode_get_reply(self._context(name, state) if state.vector else b"", 2, 3, 2, flat)

    def _context(self, name: bytes, state: DVVSet) -> bytes:
        return encode_context(storage_key(name)[:8], self.hlc, encode_vector(state.vector))

    def _write(
        self, node: FakeNode, name: bytes, operation_id: bytes, value: bytes | None, context: bytes | None, ttl_ms: int
    ) -> bytes:
        state = self.store.get(name, EMPTY)
        vector = {} if context is None else decode_context(context, storage_key(name)[:8])[0]
        superseded = False
        if not any(known.operation_id == operation_id for known in state.operations):
            self.hlc += 1 << 16
            actor = ActorId(node.node_id + b"\0" * 12)
            counter = max(state.vector.get(actor, 0), vector.get(actor, 0)) + 1
            expires = HlcTimestamp(self.hlc + (ttl_ms << 16) if ttl_ms else 0)
            new = Sibling(actor, counter, HlcTimestamp(self.hlc), expires, OperationId(operation_id), value)
            if name[0] == ObjectType.LWW:
                state, superseded = update_lww(state, new, b"")
            else:
                state = update(state, vector, new, b"")
            self.store[name] = state
        live = sum(sibling.value is not None for sibling in state.siblings)
        following = b"" if live > 1 else self._context(name, state)
        return encode_body([3, 2, 3, 3, 2, live, superseded, following])


def simulate(main: Callable[[], Coroutine[Any, Any, T]], *, until_s: float = 120.0) -> T:
    """Run `main()` in virtual time."""
    return VirtualLoop(random.Random(1)).run(main(), until_s=until_s)


def with_cluster(
    main: Callable[[FakeCluster, AsyncClient], Coroutine[Any, Any, T]], *, nodes_count: int = 3, **options: Any
) -> T:
    """Run `main(cluster, kv)` in virtual time against a serving cluster, with a connected client that is closed after."""

    async def run() -> T:
        cluster = FakeCluster(nodes_count)
        await cluster.serve()
        async with cluster.client(**options) as kv:
            await kv.get("warm up the links of the first partition")
            await asyncio.sleep(1.0)
            for node in cluster.nodes:
                node.seen.clear()
            return await main(cluster, kv)

    return simulate(run)
