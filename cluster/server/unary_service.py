"""Hands the operations of typed unary calls to the node as frames of one, so that nothing about them is decided twice.

    UnaryServices (adapter) ──► UnaryService ──► FrameService.handle ──► coordinator, administration
                                                                           (is_open, deadlines, limits, overload: theirs)

Admission is that of a client's session: it may name a cluster, and is then refused by any other. Works from the moment the node
listens; before that nobody can call. Real processes only: a simulated node has no gRPC, and frames reach all that is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from kvstore.errors import DecodeError, KVStoreError, error_to_wire
from kvstore.ids import CLUSTER_ID_SIZE_BYTES
from kvstore.messages import Status, Verb
from kvstore.ring.topology import Topology
from kvstore.transport.frames import Hello
from kvstore.transport.session import Session
from kvstore.transport.unary_messages import Operation

if TYPE_CHECKING:
    from cluster.node import Node

__all__ = ["UnaryService"]

_ALONE = 1
"""Number of the only operation in its frame."""
_CLIENT_VERBS = frozenset({Verb.PUT, Verb.GET, Verb.DELETE, Verb.BUCKET_CREATE})


class UnaryService:
    """A `UnaryHandler`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def ask(self, operation: Operation, remaining_s: float, reply: Callable[[int, bytes], None]) -> None:
        """Begin one operation of a client; it is answered once, errors included."""
        verb, name, body, _ = operation
        assert verb in _CLIENT_VERBS, "peers and their verbs come in frames, from sessions that were admitted"
        requests = [(_ALONE, int(verb), 0, int(remaining_s * 1000), name, body)]
        # The part of a session that the frame service needs to answer an operation; the rest of one is about its connection.
        self._node.service.handle(cast(Session, _Caller(reply)), requests)

    def topology(self) -> Topology:
        """Return the topology in use; `NotReady` if there is none."""
        return self._node.changes.topology()

    def check_cluster(self, cluster_id: bytes) -> None:
        """Raise `ClusterMismatch` unless this is a node of that cluster."""
        if len(cluster_id) != CLUSTER_ID_SIZE_BYTES:
            raise DecodeError("a cluster id has 16 bytes", size_bytes=len(cluster_id))
        self._node.admission.check(Hello(cluster_id=cluster_id))


class _Caller:
    """Who made one call, as a session to the frame service."""

    __slots__ = ("_reply",)
    hello = None
    is_open = True
    late_s = 0.0

    def __init__(self, reply: Callable[[int, bytes], None]) -> None:
        self._reply = reply

    def reply(self, operation_id: int, status: int, body: bytes) -> None:
        self._reply(status, body)

    def reply_error(self, operation_id: int, error: KVStoreError) -> None:
        self._reply(int(Status.ERROR), error_to_wire(error))
