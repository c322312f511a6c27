"""What one node reports of itself and of the cluster as it sees it: the body of STATUS, a msgpack map with a schema number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore import __version__
from kvstore.ring.topology import Topology

if TYPE_CHECKING:
    from cluster.node import Node

__all__ = ["SCHEMA", "node_status"]

SCHEMA = 1


def node_status(node: Node) -> dict[str, Any]:
    """Return scalars, and maps of them, only. Times are in seconds, sizes in bytes, latencies in milliseconds."""
    engine, coordinator, identity = node.store.engine, node.coordinator, node.identity
    assert identity is not None, "a node that answers has started"
    topology = node.placement.topology
    counters = node.counters.as_dict()
    return {
        "schema": SCHEMA, "node_id": identity.node_id.hex(), "address": node.address, "version": __version__,
        "boot_number": identity.boot_number, "ready": node.is_ready, "uptime_s": node.started_for_s,
        "keys_estimate": engine.keys_estimate(), "size_bytes": engine.size_bytes(), "counters": counters,
        "errors_by_code": dict(node.counters.errors_by_code),
        "in_flight": coordinator.in_flight, "commits": node.store.commits, "committed_writes": node.store.committed_writes,
        "received_records": node.receiver.records, "received_bytes": node.receiver.bytes,
        "actors_minted": node.actors.minted, "timestamps_refused": node.replica.timestamps_refused,
        "ops_per_s": node.recent_ops_per_s(counters["puts"] + counters["gets"] + counters["deletes"]),
        "latency_ms": {
            "put_p50": coordinator.put_latencies.quantile_ms(0.5), "put_p99": coordinator.put_latencies.quantile_ms(0.99),
            "get_p50": node.reads.latencies.quantile_ms(0.5), "get_p99": node.reads.latencies.quantile_ms(0.99),
        },
        "peers": {i.hex(): {"up": link.is_up, "why": link.last_error} for i, link in node.peers.all()},
        **(_topology_status(topology) if topology is not None else {}),
    }  # fmt: skip


def _topology_status(topology: Topology) -> dict[str, Any]:
    owned: dict[bytes, int] = {}
    first: dict[bytes, int] = {}
    for owners in topology.owners:
        first[owners[0]] = first.get(owners[0], 0) + 1
        for owner in owners:
            owned[owner] = owned.get(owner, 0) + 1
    return {
        "cluster": topology.cluster_name, "cluster_id": topology.cluster_id.hex(), "epoch": topology.epoch,
        "n": topology.n, "partition_bits": topology.partition_bits, "founder": topology.founder.hex(),
        "moving": topology.move is not None,
        "under_replicated": any(len(owners) < topology.n for owners in topology.owners),
        "members": [
            {
                "node_id": m.node_id.hex(), "address": m.address, "zone": m.zone, "weight": m.weight,
                "state": m.state.name.lower(), "partitions": owned.get(m.node_id, 0), "first": first.get(m.node_id, 0),
            }
            for m in topology.members
        ],
    }  # fmt: skip
