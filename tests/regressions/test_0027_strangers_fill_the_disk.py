"""A node's disk filled with notes that were never deleted: each connection that said HELLO with a new node id left one.

What a peer presented at its start was noted durably, and before it was known whether it was a peer (`correctness` rule 3 needs
that of members only). Found by reading.
"""

from __future__ import annotations

import pytest

from kvstore.errors import StaleIdentity
from kvstore.limits import STRANGERS_COUNT_MAX
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_PEER_BOOT
from kvstore.transport.frames import Hello
from tests.support.cluster import Cluster, in_cluster


def _noted(cluster: Cluster, index: int) -> list[bytes]:
    """Whose starts a host would still know of after a power loss."""
    keys = cluster.hosts[index].disk.copy()._durable[Family.META]
    return sorted(key.removeprefix(META_PEER_BOOT) for key in keys if key.startswith(META_PEER_BOOT))


def test_a_stranger_leaves_nothing_on_the_disk_and_little_in_memory() -> None:
    """Whoever speaks once under each of very many names; the members are noted as before."""

    async def main(cluster: Cluster) -> None:
        node = cluster.node(0)
        members = sorted(cluster.node(index).node_id for index in (1, 2))
        for number in range(STRANGERS_COUNT_MAX + 100):
            node.admission.check(Hello(node_id=number.to_bytes(8, "big"), boot_number=1, boot_nonce=1))
        await node.store.durable()

        assert _noted(cluster, 0) == members
        assert len(node.admission._boots._strangers) <= STRANGERS_COUNT_MAX

    in_cluster(main)


def test_a_stranger_that_joins_is_noted_with_the_topology_that_names_it() -> None:
    """Its first HELLO, to ask for the join, was a stranger's. No second one is needed."""

    async def main(cluster: Cluster) -> None:
        admission, joiner = cluster.node(1).admission, cluster.add_host()
        asked: list[bytes] = []
        check = admission.check
        admission.check = lambda hello: (asked.append(hello.node_id), check(hello))[1]  # type: ignore[method-assign]
        node = await cluster.start(joiner, join=(cluster.hosts[1].address,))
        identity = node.identity
        assert identity is not None
        assert node.node_id in asked
        for index in (0, 1):
            assert node.node_id in _noted(cluster, index)

        await cluster.kill(2)
        await cluster.power_loss(0, 1)
        for index in (0, 1):
            await cluster.restart(index)
            with pytest.raises(StaleIdentity):
                cluster.node(index).admission.check(
                    Hello(
                        node_id=identity.node_id, boot_number=identity.boot_number, boot_nonce=identity.boot_nonce + 1
                    )
                )

    in_cluster(main, nodes=2)
