"""`Cluster` on simulated disks: what a test does to a machine's disk is in `cluster.disk(i)`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cluster.node import Node, NodeOptions
from cluster.record_cache import RECORD_CACHE_BYTES
from jepsen_lite.sim.disk import SimDisk, SimEngine
from kvstore.env import Env
from kvstore.errors import KVStoreError
from tests.support.cluster import CALM, Calm, Cluster, Host

__all__ = ["DiskCluster", "in_disk_cluster"]

T = TypeVar("T")


class DiskCluster(Cluster):
    """A cluster whose hosts have `SimDisk`s. A node that ends itself is in `fatal` and its host is still to be `bury`-ed."""

    def __init__(self, seed: int = 1, *, nodes: int = 3, options: Calm = CALM, n: int = 3) -> None:
        super().__init__(seed, nodes=nodes, options=options, n=n)
        self.record_cache_bytes = RECORD_CACHE_BYTES
        for host in self.hosts:
            self._give_disk(host)

    def _give_disk(self, host: Host) -> None:
        host.disk = SimDisk(host.name, self.rng(f"disk {host.name}"), now=self.loop.time)

    def disk(self, index: int) -> SimDisk:
        """Return the disk of a host."""
        disk = self.hosts[index].disk
        assert isinstance(disk, SimDisk)
        return disk

    def disks(self) -> dict[str, SimDisk]:
        """Return all disks by the name of their host."""
        return {host.name: self.disk(index) for index, host in enumerate(self.hosts)}

    def engine(self, index: int) -> SimEngine:
        """Return the engine of a running node."""
        engine = self.hosts[index].engine
        assert isinstance(engine, SimEngine)
        return engine

    def add_host(self) -> Host:
        host = super().add_host()
        self._give_disk(host)
        return host

    async def start(self, host: Host, *, join: tuple[str, ...] | None = None, listen: str | None = None) -> Node:
        assert host.node is None and isinstance(host.disk, SimDisk)
        host.starts += 1
        engine = host.disk.open(
            boot_id=f"{host.name} boot {host.boots}", sync_delay_s=lambda: self.options.sync_s + delay_s()
        )
        delay_s = host.disk.sync_delay_s
        self._witness(host.name, engine)
        if join is None:
            join = () if host is self.hosts[0] or host.starts > 1 else (self.hosts[0].address,)
        env = Env(
            transport=self.network.transport(host.name), engine=engine, clock=host.clock,
            random=self.rng(f"node {host.name} {host.starts}"),
        )  # fmt: skip
        options = NodeOptions(
            listen=listen or host.address, join=join, partition_bits=self.options.partition_bits, n=self._n,
            join_timeout_s=self.join_timeout_s, record_cache_bytes=self.record_cache_bytes,
        )  # fmt: skip
        node = host.node = Node(env, options)
        host.engine, host.disk.on_harm = engine, node.store.forget_kept
        node.fatal.add_done_callback(lambda fatal: self._node_died(host, fatal))
        try:
            await node.start()
        except KVStoreError:
            await self.bury(self.hosts.index(host))
            raise
        return node

    async def bury(self, index: int) -> None:
        """End the process of a node that failed to start or ended itself."""
        host = self.hosts[index]
        node, host.node = host.node, None
        self.network.crash(host.name)
        self.disk(index).kill()
        if node is not None and hasattr(node, "peers"):  # else it failed before it was built
            await node.crash()

    async def kill(self, *indexes: int) -> None:
        nodes = [self.hosts[index].node for index in indexes]
        for index in indexes:
            self.network.crash(self.hosts[index].name)
            self.disk(index).kill()
            self.hosts[index].node = None
        for node in nodes:
            if node is not None and node.identity is not None:
                await node.crash()


def in_disk_cluster(
    main: Callable[[DiskCluster], Coroutine[Any, Any, T]], *, nodes: int = 3, seed: int = 1, n: int = 3,
    expects_death: bool = False, until_s: float = 600.0,
) -> T:  # fmt: skip
    """Run `main` against a fresh, started cluster; no dot may ever be bound to two values."""
    cluster = DiskCluster(seed, nodes=nodes, n=n)
    cluster.expects_death = expects_death

    async def body() -> T:
        await cluster.start_all()
        result = await main(cluster)
        for index, host in enumerate(cluster.hosts):
            if host.node is not None and host.node.fatal.done():
                await cluster.bury(index)
        await cluster.stop_all()
        return result

    result = cluster.loop.run(body(), until_s=until_s)
    assert cluster.dots_bound_twice == []
    return result
