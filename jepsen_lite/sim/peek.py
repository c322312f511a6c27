"""What the judges look up inside a world: synced copies, retries, and what nodes have under way.

Nothing here changes anything, or costs virtual time.
"""

from __future__ import annotations

from jepsen_lite.checkers.durable import Copy
from jepsen_lite.sim.world import World
from kvstore.causality.version_vector import VersionVector, decode_vector
from kvstore.chaos import Probe
from kvstore.ids import StorageKey
from kvstore.storage.record import check_record, view_record

__all__ = ["copies", "left_waiting", "retries_worked"]

_CHECKSUM_SIZE_BYTES = 8


def copies(world: World, key: bytes) -> list[Copy]:
    """Return what each host has of an object on its disk, synced."""
    damaged = world.atlas.damaged.get(key, ())
    return [
        Copy(host.name, _vector(key, host.disk.peek_durable(key)), host.name in damaged or host.disk.is_retired)
        for host in world.hosts
    ]


def retries_worked(world: World) -> int:
    """Return how many operations of any client were answered after their first attempt had failed."""
    return world.buggify.probes[Probe.CLIENT_RETRY_WORKED]


def left_waiting(world: World) -> dict[str, int]:
    """Return the nodes that count operations as under way, and how many."""
    counts = {host.name: host.node.coordinator.in_flight for host in world.running() if host.node is not None}
    return {name: count for name, count in counts.items() if count}


def _vector(key: bytes, record: bytes | None) -> VersionVector:
    if record is None or len(record) <= _CHECKSUM_SIZE_BYTES or not check_record(StorageKey(key), record):
        return {}
    return decode_vector(view_record(record).encoded_vector)
