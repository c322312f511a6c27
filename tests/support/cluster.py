"""In-process clusters in virtual time for tests: product nodes on the twins of `Env`, a client, and hands for every fault.

    in_cluster(main, nodes=3)      build, start, run `main(cluster)`, and check that no dot was bound to two values

Delays are constant here unless a test asks for others: a test states its faults itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.node import Node, NodeOptions
from jepsen_lite.sim.clock import SimClock
from jepsen_lite.sim.loop import VirtualLoop
from kvstore.causality.dvvset import DVVSet
from kvstore.env import Env
from kvstore.errors import KVStoreError
from kvstore.ids import ObjectType, PartitionId, StorageKey
from kvstore.messages import (
    GetReply,
    PutReply,
    Verb,
    decode_get_reply,
    decode_put_reply,
    encode_body,
)
from kvstore.ring.token import partition_of
from kvstore.ring.topology_codec import decode
from kvstore.storage.engine import Family, Put
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.memory import MemoryDisk, MemoryEngine
from kvstore.storage.record import decode_record
from kvstore.transport.frames import Hello
from kvstore.transport.link import Link
from kvstore.transport.memory import MemoryNetwork

__all__ = ["CALM", "Calm", "Client", "Cluster", "Host", "in_cluster", "name_of_key", "on_loop"]

T = TypeVar("T")
ALL_KEYS = (b"", b"\xff" * 16)


def name_of_key(key: bytes | str, *, bucket: str = "default", kind: ObjectType = ObjectType.REGISTER) -> bytes:
    """Return the object name of a test key."""
    return object_name(bucket, kind, key.encode() if isinstance(key, str) else key)


class Client:
    """A client's link to one node, one method for each verb; errors are raised as on the wire."""

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self._cluster = cluster
        self.link = Link(
            transport=cluster.network.transport("client"), address=host.address, hello=Hello,
            rng=cluster.rng(f"client of {host.name} {host.starts}"),
        )  # fmt: skip
        self.link.start()

    async def call(self, verb: Verb, name: bytes, body: bytes, timeout_s: float = 5.0) -> bytes:
        """Send one operation and wait for its OK body."""
        await self.link.wait_up(5.0)
        return await self.link.call(verb, 0, asyncio.get_running_loop().time() + timeout_s, name, body)

    async def put(
        self, name: bytes, value: bytes, context: bytes | None = None, *, operation: int | None = None, ttl_ms: int = 0,
        w: int | None = None, dw: int | None = None, pw: int | None = None, timeout_s: float = 5.0,
    ) -> PutReply:  # fmt: skip
        """PUT; a new operation id unless one is given."""
        body = encode_body([self._cluster.operation_id(operation), value, context, ttl_ms, w, dw, pw])
        return decode_put_reply(await self.call(Verb.PUT, name, body, timeout_s))

    async def delete(self, name: bytes, context: bytes, *, w: int | None = None) -> PutReply:
        """DELETE what `context` covers."""
        body = encode_body([self._cluster.operation_id(None), context, w, None, None])
        return decode_put_reply(await self.call(Verb.DELETE, name, body))

    async def get(
        self, name: bytes, *, r: int | None = None, pr: int | None = None, timeout_s: float = 5.0
    ) -> GetReply:
        """GET."""
        return decode_get_reply(await self.call(Verb.GET, name, encode_body([r, pr]), timeout_s))

    async def values(self, name: bytes, *, r: int | None = None) -> list[bytes]:
        """Return the live values, sorted."""
        return sorted(sibling.value for sibling in (await self.get(name, r=r)).siblings)

    async def create_bucket(self, name: str, **counts: int | None) -> int:
        """BUCKET_CREATE; returns the topology epoch that has it."""
        fields = [counts.get(count) for count in ("r", "w", "dw", "pr", "pw")]
        body = encode_body([name, int(ObjectType.REGISTER), *fields, counts.get("ttl_ms") or 0])
        return decode(await self.call(Verb.BUCKET_CREATE, b"", body, 15.0)).epoch


@dataclass(frozen=True, slots=True)
class Calm:
    """Constant times of the world, in seconds."""

    delay_s: float = 0.001
    sync_s: float = 0.002
    partition_bits: int = 3


CALM = Calm()


class Host:
    """One machine: its disk and clock survive its node."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name, self.address = name, f"{name}:7400"
        self.clock = SimClock(loop)
        self.disk = MemoryDisk()
        self.engine: MemoryEngine | None = None
        self.node: Node | None = None
        self.starts = 0
        self.boots = 1


class Cluster:
    """A world whose nodes a test starts, breaks and looks into one by one.

    It has no randomness of its own and shares nothing with jepsen_lite's World but the loop and the twins, so that a change
    of the simulation's faults does not change what these tests mean.
    """

    def __init__(self, seed: int = 1, *, nodes: int = 3, options: Calm = CALM, n: int = 3) -> None:
        self.seed, self.options, self._n = seed, options, n
        self.loop = VirtualLoop(self.rng("timers"))
        self.hosts = [Host(f"n{number}", self.loop) for number in range(nodes)]
        self.network = MemoryNetwork(self._delay_s)
        self._operations = 0
        self._bound: dict[tuple[bytes, bytes, int], bytes | None] = {}
        self.dots_bound_twice: list[str] = []
        self.fatal: dict[str, BaseException] = {}
        """Nodes that ended themselves, with why."""
        self.expects_death = False
        self.delays: dict[tuple[str, str], float] = {}
        self.join_timeout_s = 30.0

    def rng(self, name: str) -> random.Random:
        """Return the random stream of this name."""
        return random.Random(f"{self.seed}/{name}")

    def _delay_s(self, source: str, target: str) -> float:
        return self.delays.get((source, target), self.options.delay_s)

    # Hosts.

    async def start_all(self) -> None:
        """Found a cluster on the first host, and let the others join it one after the other."""
        for host in self.hosts:
            await self.start(host)
        await self.until(lambda: all(h.node.placement.is_settled for h in self.hosts if h.node is not None))

    async def start(
        self, host: Host, *, join: tuple[str, ...] | None = None, listen: str | None = None, replaced: str = ""
    ) -> Node:
        """Start the node of a host on the disk it has. By default a new one joins the first host's cluster."""
        assert host.node is None, f"{host.name} is running"
        host.starts += 1
        engine = MemoryEngine.open(host.disk, boot_id=f"boot {host.boots}", sync_delay_s=lambda: self.options.sync_s)
        self._witness(host.name, engine)
        if join is None:
            join = () if host is self.hosts[0] or host.starts > 1 else (self.hosts[0].address,)
        env = Env(
            transport=self.network.transport(host.name), engine=engine, clock=host.clock,
            random=self.rng(f"node {host.name} {host.starts}"),
        )  # fmt: skip
        options = NodeOptions(
            listen=listen or host.address, join=join, partition_bits=self.options.partition_bits, n=self._n,
            join_timeout_s=self.join_timeout_s, replaced=replaced,
        )  # fmt: skip
        host.engine, host.node = engine, Node(env, options)
        host.node.fatal.add_done_callback(lambda fatal: self._node_died(host, fatal))
        try:
            await host.node.start()
        except KVStoreError:
            await self._end(host)
            raise
        return host.node

    async def _end(self, host: Host) -> None:
        """A start that failed ends its process."""
        node, host.node = host.node, None
        if node is not None:
            self.network.crash(host.name)
            host.disk.crash()
            if node.identity is not None:
                await node.crash()

    def _witness(self, name: str, engine: MemoryEngine) -> None:
        apply = engine.apply

        def witnessed(puts: Sequence[Put]) -> None:
            apply(puts)
            for family, key, record in puts:
                if family is Family.DATA and record is not None:
                    self._see(name, StorageKey(key), record)

        engine.apply = witnessed  # type: ignore[method-assign]

    def _see(self, name: str, key: StorageKey, record: bytes) -> None:
        for sibling in decode_record(key, record).siblings:
            if self._bound.setdefault((key, sibling.actor, sibling.counter), sibling.value) != sibling.value:
                self.dots_bound_twice.append(
                    f"{name}: {sibling.actor.hex()}:{sibling.counter} is also {sibling.value!r}"
                )

    def _node_died(self, host: Host, fatal: asyncio.Future[None]) -> None:
        if fatal.cancelled() or (why := fatal.exception()) is None or host.node is None:
            return
        self.fatal[host.name] = why
        if not self.expects_death:
            self.loop.call_exception_handler({"message": f"{host.name} died", "exception": why})

    async def stop_all(self) -> None:
        """Stop every running node in an orderly way."""
        for host in self.hosts:
            node, host.node = host.node, None
            if node is not None:
                await node.stop()

    async def stop(self, index: int) -> None:
        """Stop one node in an orderly way."""
        node, self.hosts[index].node = self.node(index), None
        await node.stop()

    def add_host(self) -> Host:
        """Return one more host; its node is not started."""
        self.hosts.append(Host(f"n{len(self.hosts)}", self.loop))
        return self.hosts[-1]

    def node(self, index: int) -> Node:
        """Return the running node of a host."""
        node = self.hosts[index].node
        assert node is not None, f"n{index} is down"
        return node

    def client(self, index: int) -> Client:
        """Return a new client of one node."""
        return Client(self, self.hosts[index])

    async def kill(self, *indexes: int) -> None:
        """SIGKILL several nodes in one moment: what was applied stays."""
        await self._crash(indexes, lambda count: count)

    async def power_loss(self, *indexes: int) -> None:
        """Take the power of several hosts in one moment, with every batch that was not synced."""
        await self._crash(indexes, lambda count: 0)
        for index in indexes:
            self.hosts[index].boots += 1

    async def _crash(self, indexes: Sequence[int], keep: Callable[[int], int]) -> None:
        nodes = []
        for index in indexes:
            host = self.hosts[index]
            if host.node is not None:
                nodes.append(host.node)
            self.network.crash(host.name)
            host.disk.crash(keep)
            host.node = None
        for node in nodes:
            if node.identity is not None:
                await node.crash()

    async def restart(self, index: int) -> Node:
        """Start a host's node again on its disk."""
        return await self.start(self.hosts[index])

    def cut_off(self, index: int) -> None:
        """Cut a node from all other nodes; its clients still reach it."""
        for other in self.hosts:
            if other is not self.hosts[index]:
                self.network.cut(self.hosts[index].name, other.name)

    # Looking inside.

    def operation_id(self, number: int | None) -> bytes:
        """Return the 16 bytes of an operation; None is a new one."""
        if number is None:
            self._operations += 1
            number = self._operations
        return b"%08d" % number + bytes(8)

    def record(self, index: int, name: bytes) -> DVVSet | None:
        """Return what one node holds of an object, None for nothing."""
        engine = self.hosts[index].engine
        assert engine is not None
        key = storage_key(name)
        record = engine.get(Family.DATA, key)
        return decode_record(key, record) if record is not None else None

    def held_values(self, index: int, name: bytes) -> list[bytes | None]:
        """Return the sibling values one node holds, sorted (a tombstone is None and comes first)."""
        state = self.record(index, name)
        values = [sibling.value for sibling in state.siblings] if state is not None else []
        return sorted(values, key=lambda value: (value is not None, value))

    def corrupt(self, index: int, name: bytes) -> None:
        """Make one node's record unreadable."""
        self.hosts[index].disk.corrupt(Family.DATA, storage_key(name))
        self.node(index).store.forget_kept()

    def owners(self, name: bytes, *, via: int = 0) -> list[int]:
        """Return the indexes of the hosts that own an object, in preference order."""
        topology = self.node(via).placement.topology
        assert topology is not None
        indexes = {host.node.node_id: i for i, host in enumerate(self.hosts) if host.node is not None}
        return [indexes[owner] for owner in topology.owners_of(self.partition(name)) if owner in indexes]

    def partition(self, name: bytes) -> PartitionId:
        """Return the partition of an object."""
        return PartitionId(partition_of(storage_key(name), self.options.partition_bits))

    async def whole(self) -> None:
        """Wait until every running node reaches every other one."""
        running = [host.node for host in self.hosts if host.node is not None]
        await self.until(lambda: all(link.is_up for node in running for _, link in node.peers.all()))

    async def until(self, condition: Callable[[], bool], *, timeout_s: float = 30.0, every_s: float = 0.005) -> None:
        """Wait in virtual time until `condition` holds."""
        give_up_at = self.loop.time() + timeout_s
        while not condition():
            assert self.loop.time() < give_up_at, "the condition was not met in time"
            await asyncio.sleep(every_s)


def in_cluster(
    main: Callable[[Cluster], Coroutine[Any, Any, T]], *, nodes: int = 3, seed: int = 1, options: Calm = CALM,
    n: int = 3, is_started: bool = True, until_s: float = 600.0,
) -> T:  # fmt: skip
    """Run `main` against a fresh cluster and return its result; no dot may ever be bound to two values."""
    cluster = Cluster(seed, nodes=nodes, options=options, n=n)

    async def body() -> T:
        if is_started:
            await cluster.start_all()
        result = await main(cluster)
        await cluster.stop_all()
        return result

    result = cluster.loop.run(body(), until_s=until_s)
    assert cluster.dots_bound_twice == []
    return result


def on_loop(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 1) -> T:
    """Run a coroutine on a virtual loop of its own."""
    return VirtualLoop(random.Random(seed)).run(main(), until_s=600.0)
