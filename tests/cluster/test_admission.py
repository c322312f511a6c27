"""Who may open a session, and that a start is remembered on disk before it is answered."""

from __future__ import annotations

import pytest

from kvstore.errors import ClusterMismatch, NotReady, StaleIdentity
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_PEER_BOOT
from kvstore.transport.frames import Hello
from tests.support.cluster import Cluster, in_cluster


def test_a_clients_hello_needs_no_name_but_not_a_wrong_one() -> None:
    """It may name no cluster or ours."""

    async def main(cluster: Cluster) -> None:
        admission, topology = cluster.node(0).admission, cluster.node(0).placement.topology
        assert topology is not None
        admission.check(Hello())
        admission.check(Hello(cluster_id=topology.cluster_id))
        with pytest.raises(ClusterMismatch):
            admission.check(Hello(cluster_id=bytes(16)))

    in_cluster(main, nodes=1)


def test_a_start_seen_before_is_refused_and_a_later_one_accepted() -> None:
    """Equal number with another nonce, or a smaller number: a clone or a rollback."""

    async def main(cluster: Cluster) -> None:
        admission, peer = cluster.node(0).admission, b"12345678"
        admission.check(Hello(node_id=peer, boot_number=5, boot_nonce=1))
        admission.check(Hello(node_id=peer, boot_number=5, boot_nonce=1))
        for number, nonce in ((5, 2), (4, 1)):
            with pytest.raises(StaleIdentity):
                admission.check(Hello(node_id=peer, boot_number=number, boot_nonce=nonce))
        admission.check(Hello(node_id=peer, boot_number=6, boot_nonce=3))

    in_cluster(main, nodes=1)


def test_our_own_identity_from_somebody_else_is_a_copy() -> None:
    """The peer runs on our data directory."""

    async def main(cluster: Cluster) -> None:
        node = cluster.node(0)
        with pytest.raises(StaleIdentity):
            node.admission.check(Hello(node_id=node.node_id, boot_number=9, boot_nonce=9))

    in_cluster(main, nodes=1)


def test_a_second_process_with_the_identity_of_a_connected_member_has_to_wait() -> None:
    """It may be a member that moved, or a clone: while the other is connected nobody can tell."""

    async def main(cluster: Cluster) -> None:
        peer = cluster.node(1).node_id
        clone = Hello(node_id=peer, boot_number=99, boot_nonce=99, address="elsewhere:1")
        with pytest.raises(NotReady):
            cluster.node(0).admission.check(clone)
        await cluster.kill(1)
        await cluster.until(lambda: not cluster.node(0).peers.all()[0][1].is_up)
        cluster.node(0).admission.check(clone)

    in_cluster(main, nodes=2)


def test_every_start_a_node_has_answered_is_on_its_disk() -> None:
    """Also one that its own link learned of first: after a power loss a clone must still be refused."""

    async def main(cluster: Cluster) -> None:
        for turn in range(3):
            await cluster.kill(1)
            await cluster.restart(1)
            identity = cluster.node(1).identity
            assert identity is not None
            await cluster.until(lambda: cluster.node(1).peers.all()[0][1].is_up)
            copy = cluster.hosts[0].disk.copy()
            known = copy._durable[Family.META][META_PEER_BOOT + identity.node_id]
            assert int.from_bytes(known[:8], "big") == identity.boot_number == turn + 2

    in_cluster(main, nodes=2)
