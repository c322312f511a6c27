"""`kvctl status | ring | topology`: look at a cluster, whatever is left of it.

Every member is asked directly and at once; one that does not answer is a line in the table, not an error.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgpack

from cluster.cli.session import UNHEALTHY, Session
from kvstore.errors import DecodeError, KVStoreError
from kvstore.flat import check_whole

if TYPE_CHECKING:
    from cluster.cli.cluster_view import ClusterView, Presence
    from kvstore.client.client import AsyncClient
    from kvstore.ring.topology import Topology

__all__ = ["look", "ring", "status", "topology"]

STATUS_TIMEOUT_S = 1.0
"""A member that cannot say how it is within this long is shown as down."""


async def look(client: AsyncClient) -> ClusterView:
    """Return the cluster as seen from here."""
    from cluster.cli.cluster_view import ClusterView

    topology = await client.topology()
    presences = await asyncio.gather(*(_ask(client, member.address) for member in topology.members))
    members = [member.node_id for member in topology.members]
    return ClusterView(topology, dict(zip(members, presences, strict=True)))


async def _ask(client: AsyncClient, address: str) -> Presence:
    from cluster.cli.cluster_view import Presence
    from kvstore.messages import Verb

    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            body = await client.call_node(address, Verb.STATUS, b"", b"")
        return Presence(_decode_status(body))
    except TimeoutError:
        return Presence(None, f"no answer in {STATUS_TIMEOUT_S:g} s")
    except KVStoreError as error:
        return Presence(None, error.message)


def _decode_status(body: bytes) -> dict[str, Any]:
    try:
        check_whole(body)
        status = msgpack.unpackb(body, max_array_len=65_536, max_map_len=4_096, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as problem:
        raise DecodeError(f"unreadable status: {problem}") from None
    if not isinstance(status, dict):
        raise DecodeError("a status must be a map")
    return status


@click.command()
@click.pass_obj
def status(session: Session) -> None:
    """Show every node, its share and its load. Exit code 9: some keys cannot be read or written now."""

    async def work(client: AsyncClient) -> int:
        view = await look(client)
        session.show(view.document(), view.text())
        return 0 if view.is_healthy else UNHEALTHY

    session.run(work)


@click.command()
@click.option("--key", help="Only the partition of this key.")
@click.option("--bucket", default="default", show_default=True, help="Namespace of the key.")
@click.pass_obj
def ring(session: Session, key: str | None, bucket: str) -> None:
    """Show who owns a key (or every partition), and whether it can be read and written now."""
    from kvstore.ids import PartitionId

    async def work(client: AsyncClient) -> int:
        view = await look(client)
        if key is not None:
            partition = _partition_of(view.topology, bucket, key)
            session.show({"key": key, "bucket": bucket, **view.ring_document(partition)}, view.ring_line(partition))
            return 0 if view.margin(partition) >= 0 else UNHEALTHY
        partitions = [PartitionId(number) for number in range(view.topology.partitions_count)]
        session.show(
            {"partitions": [view.ring_document(each) for each in partitions]},
            "\n".join(view.ring_line(each) for each in partitions),
        )
        return 0 if view.is_healthy else UNHEALTHY

    session.run(work)


def _partition_of(topology: Topology, bucket: str, key: str) -> Any:
    from kvstore.ring.token import partition_of
    from kvstore.storage.keyspace import object_name, storage_key

    name = object_name(bucket, topology.bucket(bucket).default_type, key.encode("utf-8"))
    return partition_of(storage_key(name), topology.partition_bits)


@click.command()
@click.pass_obj
def topology(session: Session) -> None:
    """Print the topology document as JSON: members, owners of every partition, buckets."""

    async def work(client: AsyncClient) -> int:
        document = _topology_document(await client.topology())
        import json

        from cluster.cli.session import SCHEMA

        print(json.dumps({"schema": SCHEMA, **document}, indent=None if session.is_json else 2))
        return 0

    session.run(work)


def _topology_document(topology: Topology) -> dict[str, Any]:
    return {
        "cluster_id": topology.cluster_id.hex(), "cluster_name": topology.cluster_name,
        "topology_epoch": topology.epoch, "n": topology.n, "partition_bits": topology.partition_bits,
        "founder": topology.founder.hex(),
        "members": [
            {"node_id": each.node_id.hex(), "address": each.address, "zone": each.zone, "weight": each.weight,
             "state": each.state.name.lower()}
            for each in topology.members
        ],
        "owners": [[owner.hex() for owner in owners] for owners in topology.owners],
        "placement_versions": list(topology.placement_versions),
        "buckets": [bucket_document(each) for each in topology.buckets],
        "removed": [each.hex() for each in topology.removed],
        "joining": topology.move.joiner.hex() if topology.move is not None else None,
    }  # fmt: skip


def bucket_document(bucket: Any) -> dict[str, Any]:
    """Return a bucket's properties for JSON."""
    return {
        "name": bucket.name, "type": bucket.default_type.name.lower(), "r": bucket.r, "w": bucket.w, "dw": bucket.dw,
        "pr": bucket.pr, "pw": bucket.pw, "ttl_ms": bucket.ttl_ms,
        "allowed_types": [each.name.lower() for each in bucket.allowed_types],
    }  # fmt: skip
