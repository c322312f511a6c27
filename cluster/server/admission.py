"""Admission: who may open a session here, and what this node says of itself.

A client (no node id) is welcome if it names our cluster or none, while fewer than CLIENT_SESSIONS_COUNT_MAX are connected.
A node must present a start that was not seen before (`correctness` rule 3): what we learn of a member is durable before we
answer, so that a clone is refused also after a power loss. Of a stranger we learn nothing durable until it is a member.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.placement import Peers, Placement
from cluster.store import Store
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import ClusterMismatch, KVStoreError, NotReady, Overloaded, StaleIdentity, StorageError
from kvstore.ids import NodeId
from kvstore.limits import CLIENT_SESSIONS_COUNT_MAX
from kvstore.storage.identity import BootCheck, NodeIdentity, PeerBoots
from kvstore.transport.frames import Hello
from kvstore.transport.session import Session

__all__ = ["Admission"]


CLIENTS_LOOKED_THROUGH_MIN = 64
FULL_S = 1.0
"""When a client may ask again if CLIENT_SESSIONS_COUNT_MAX are connected."""
DISK_TROUBLE_S = 0.5
"""When a peer may ask again if our disk could not tell whether to admit it."""


class Admission:
    """Checks Hellos in both directions."""

    def __init__(
        self, *, identity: NodeIdentity, boots: PeerBoots, store: Store, placement: Placement, peers: Peers,
        address: Callable[[], str], chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self._identity, self._boots, self._store = identity, boots, store
        self._placement, self._peers, self._address, self._chaos = placement, peers, address, chaos
        self._clients: dict[Session, None] = {}
        """Those welcomed; who left since is taken out only when it has grown, so that a session costs nothing at its end."""
        self._clients_look_at = CLIENTS_LOOKED_THROUGH_MIN

    def hello(self) -> Hello:
        """Return what this node says of itself now."""
        topology = self._placement.topology
        return Hello(
            cluster_id=topology.cluster_id if topology is not None else b"", node_id=self._identity.node_id,
            boot_number=self._identity.boot_number, boot_nonce=self._identity.boot_nonce,
            topology_epoch=self._placement.epoch, address=self._address(),
        )  # fmt: skip

    def admit(self, session: Session, hello: Hello) -> None:
        """Welcome or refuse a session."""
        if self._chaos.fires(Point.ADMISSION_REFUSED):
            # Not NotReady, which a node that starts takes for another run of itself.
            session.refuse(Overloaded("the node admits nobody right now", retry_after_s=DISK_TROUBLE_S))
            return
        try:
            self.check(hello)
        except StorageError as error:
            self._chaos.hit(Probe.ADMISSION_IN_DISK_TROUBLE)
            # Our trouble, not the peer's: a refusal that is final would part the two until one of them restarts.
            session.refuse(
                Overloaded(f"the node cannot look up your last start: {error}", retry_after_s=DISK_TROUBLE_S)
            )
            return
        except KVStoreError as error:
            session.refuse(error)
            return
        if not hello.node_id:
            self._admit_client(session)
            return
        self._placement.learn_address(NodeId(hello.node_id), hello.address)
        # Also if its start is known already: our own link may have learned of it a moment ago, and that is not synced.
        self._store.when_durable(lambda: session.welcome(self.hello()))

    def _admit_client(self, session: Session) -> None:
        """Welcome a client while there is room; connections above the bound are left to members."""
        if len(self._clients) >= self._clients_look_at:
            self._clients = {each: None for each in self._clients if each.is_open}
            self._clients_look_at = min(2 * len(self._clients) + CLIENTS_LOOKED_THROUGH_MIN, CLIENT_SESSIONS_COUNT_MAX)
        if len(self._clients) >= CLIENT_SESSIONS_COUNT_MAX:
            session.refuse(
                Overloaded("too many clients are connected", retry_after_s=FULL_S, limit=CLIENT_SESSIONS_COUNT_MAX)
            )
            return
        session.welcome(self.hello())
        self._clients[session] = None

    def check(self, hello: Hello) -> BootCheck:
        """Raise the reason why the peer may not be talked to; NEW means that its start was noted, but not synced."""
        topology = self._placement.topology
        if topology is not None and hello.cluster_id and hello.cluster_id != topology.cluster_id:
            name = topology.cluster_name
            raise ClusterMismatch(f"this node belongs to another cluster, {name!r}", ours=topology.cluster_id.hex())
        if not hello.node_id:
            return BootCheck.SAME
        if hello.node_id == self._identity.node_id:
            if (hello.boot_number, hello.boot_nonce) != (self._identity.boot_number, self._identity.boot_nonce):
                self._chaos.hit(Probe.CLONE_REFUSED)
                raise StaleIdentity("the peer presents this node's own identity: its data directory is a copy")
            return BootCheck.SAME
        if topology is not None and hello.node_id in topology.removed:
            raise StaleIdentity("the node was removed from the cluster", node_id=hello.node_id.hex())
        self._check_not_running(hello)
        try:
            return self._boots.check(NodeId(hello.node_id), hello.boot_number, hello.boot_nonce)
        except StaleIdentity:
            self._chaos.hit(Probe.ROLLED_BACK_REFUSED)
            raise

    def _check_not_running(self, hello: Hello) -> None:
        link = self._peers.link(NodeId(hello.node_id))
        if link is None or not link.is_up or link.remote is None or link.remote.boot_nonce == hello.boot_nonce:
            return
        if link.remote.address != hello.address:
            self._chaos.hit(Probe.DOUBLE_REFUSED)
            raise NotReady(f"a node with this identity is connected from {link.remote.address}", retry_after_s=1.0)
