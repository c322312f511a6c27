"""What `kvctl status` and `kvctl ring` say, computed from one topology and the answers of its members.

    topology ─┐
              ├─► ClusterView ─► health, rows, owners of a partition
    answers  ─┘   (a member without an answer is down, as seen from here)

Pure. Invariants
  1. "can lose k more nodes" is the smallest margin over all partitions: owners that answered, minus the quorum of
     reads and writes, which counts dead owners too.
  2. Unhealthy means that some partition cannot reach that quorum now; a node that is down alone is not unhealthy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvstore.ids import NodeId, PartitionId, short_id
from kvstore.ring.topology import Member, MemberState, Topology

__all__ = ["ClusterView", "Presence", "human_bytes", "human_count", "human_seconds", "table"]

WHY_LENGTH_MAX = 80


@dataclass(frozen=True, slots=True)
class Presence:
    """One member as seen from here: its STATUS document, or why there is none."""

    status: Mapping[str, Any] | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One look at a cluster. `presences` has an entry for every member."""

    topology: Topology
    presences: Mapping[NodeId, Presence]

    def state(self, node_id: NodeId) -> str:
        """Return Up/Down/Suspect and Normal/Joining as two letters. Suspect: we and its peers do not agree."""
        member = self.topology.member(node_id)
        letter = "J" if member.state is MemberState.JOINING else "N"
        reachable = self.presences[node_id].status is not None
        seen_up = self._peers_say(node_id, is_up=True)
        seen_down = self._peers_say(node_id, is_up=False)
        if reachable:
            return ("S" if seen_down and not seen_up else "U") + letter
        return ("S" if seen_up and not seen_down else "D") + letter

    def _peers_say(self, node_id: NodeId, *, is_up: bool) -> bool:
        for other, presence in self.presences.items():
            if other != node_id and presence.status is not None:
                opinion = presence.status.get("peers", {}).get(node_id.hex())
                if opinion is not None and bool(opinion["up"]) == is_up:
                    return True
        return False

    def why(self, node_id: NodeId) -> str:
        """Return why a member is not up: what a peer says, whose link has tried for longer than we did, or what we saw."""
        if self.presences[node_id].status is not None:
            return ""
        for other, presence in self.presences.items():
            if other != node_id and presence.status is not None:
                opinion = presence.status.get("peers", {}).get(node_id.hex())
                if opinion is not None and not opinion["up"] and opinion["why"]:
                    return f"{opinion['why']}"[:WHY_LENGTH_MAX]
        return self.presences[node_id].why

    def margin(self, partition: PartitionId) -> int:
        """Return how many more owners the partition can lose and still read and write by quorum; negative: it cannot."""
        return self.owners_up(partition) - self.topology.quorum(partition)

    def owners_up(self, partition: PartitionId) -> int:
        """Return how many owners of the partition answered."""
        return sum(self.presences[owner].status is not None for owner in self.topology.owners_of(partition))

    @property
    def worst_margin(self) -> int:
        """The smallest margin over all partitions."""
        return min(self.margin(PartitionId(number)) for number in range(self.topology.partitions_count))

    @property
    def is_healthy(self) -> bool:
        """Invariant 2."""
        return self.worst_margin >= 0

    @property
    def is_under_replicated(self) -> bool:
        """True if some partition has fewer owners than N, because there are fewer members."""
        return any(len(owners) < self.topology.n for owners in self.topology.owners)

    def health(self) -> str:
        """Return the health as one phrase."""
        worst = self.worst_margin
        if worst < 0:
            lost = sum(self.margin(PartitionId(number)) < 0 for number in range(self.topology.partitions_count))
            return f"UNHEALTHY: {lost} of {self.topology.partitions_count} partitions have no quorum"
        down = sum(presence.status is None for presence in self.presences.values())
        word = "degraded" if down else "healthy"
        rest = f"{word}: can lose {worst} more node{'' if worst == 1 else 's'}"
        if self.topology.move is not None:
            rest += f", {short_id(self.topology.move.joiner)} is joining"
        return f"{rest}, {down} down" if down else rest

    def keys_estimate(self) -> int:
        """Return about how many keys the cluster holds, scaled up for the copies of members that did not answer."""
        held, copies, owned = 0, 0, self._partitions_held()
        for node_id, presence in self.presences.items():
            if presence.status is not None:
                held += int(presence.status.get("keys_estimate", 0))
                copies += owned[node_id]
        return round(held * self.topology.partitions_count / copies) if copies else 0

    def _partitions_held(self) -> dict[NodeId, int]:
        held = {member.node_id: 0 for member in self.topology.members}
        for owners in self.topology.owners:
            for owner in owners:
                held[owner] += 1
        return held

    def first_owned(self, node_id: NodeId) -> int:
        """Return of how many partitions the node is the first owner (it usually coordinates them)."""
        return sum(owners[0] == node_id for owners in self.topology.owners)

    def headline(self) -> str:
        """Return the first line of `kvctl status`."""
        topology = self.topology
        quorum = topology.quorum(PartitionId(0))
        siblings = max((self._counter(each, "siblings_max") for each in self.presences.values()), default=0)
        line = (
            f"Cluster {topology.cluster_name}   {self.health()}   epoch {topology.epoch}   N={topology.n} R={quorum} W={quorum}"
            f"   keys ~{human_count(self.keys_estimate())}   siblings at most {siblings}"
        )
        copies = min(len(owners) for owners in topology.owners)
        return f"{line}   under-replicated: {copies} of {topology.n} copies" if self.is_under_replicated else line

    def _counter(self, presence: Presence, name: str) -> int:
        return int(presence.status.get("counters", {}).get(name, 0)) if presence.status is not None else 0

    def row(self, member: Member) -> list[str]:
        """Return the cells of a member's line in `kvctl status`."""
        first = self.first_owned(member.node_id)
        head = [self.state(member.node_id), short_id(member.node_id), member.address, member.zone or "-", str(first)]
        head.append(f"{100 * first / self.topology.partitions_count:.1f}%")
        presence = self.presences[member.node_id]
        status = presence.status
        if status is None:
            return [*head, "-", "-", "-", "-", "-", f"down: {self.why(member.node_id)}"]
        latency = status.get("latency_ms", {})
        p99 = f"{_milliseconds(latency.get('put_p99'))}/{_milliseconds(latency.get('get_p99'))}"
        hedges = f"{self._counter(presence, 'hedges_won')}/{self._counter(presence, 'hedges')}"
        return [
            *head, human_bytes(int(status.get("size_bytes", 0))), human_count(round(status.get("ops_per_s", 0))), p99,
            hedges, str(self._counter(presence, "errors")), human_seconds(float(status.get("uptime_s", 0))),
        ]  # fmt: skip

    def text(self) -> str:
        """Return the whole of `kvctl status`."""
        names = [
            "--",
            "NODE",
            "ADDRESS",
            "ZONE",
            "PART",
            "OWNS",
            "LOAD",
            "OPS/S",
            "P99 PUT/GET ms",
            "HEDGES WON",
            "ERRORS",
        ]
        legend = "Status=Up/Down/Suspect  |/ State=Normal/Joining   (seen from here)"
        rows = [self.row(member) for member in self.topology.members]
        return "\n".join([self.headline(), legend, table([[*names, "UPTIME"], *rows])])

    def document(self) -> dict[str, Any]:
        """Return the JSON document of `kvctl status`."""
        topology = self.topology
        return {
            "cluster": topology.cluster_name, "cluster_id": topology.cluster_id.hex(), "topology_epoch": topology.epoch,
            "n": topology.n, "partitions": topology.partitions_count, "healthy": self.is_healthy,
            "can_lose_nodes": max(0, self.worst_margin), "health": self.health(),
            "under_replicated": self.is_under_replicated, "keys_estimate": self.keys_estimate(),
            "nodes": [self._node_document(member) for member in topology.members],
        }  # fmt: skip

    def _node_document(self, member: Member) -> dict[str, Any]:
        presence = self.presences[member.node_id]
        return {
            "node_id": member.node_id.hex(), "address": member.address, "zone": member.zone,
            "state": self.state(member.node_id), "first": self.first_owned(member.node_id), "why": self.why(member.node_id),
            "status": dict(presence.status) if presence.status is not None else None,
        }  # fmt: skip

    def ring_document(self, partition: PartitionId) -> dict[str, Any]:
        """Return what `kvctl ring` says about one partition."""
        quorum, up = self.topology.quorum(partition), self.owners_up(partition)
        owners = self.topology.owners_of(partition)
        return {
            "partition": partition, "n": self.topology.n, "r": quorum, "w": quorum,
            "owners": [
                {"node_id": owner.hex(), "address": self.topology.member(owner).address, "state": self.state(owner)}
                for owner in owners
            ],
            "writable": up >= quorum, "readable": up >= quorum,
        }  # fmt: skip

    def ring_line(self, partition: PartitionId) -> str:
        """Return one line of `kvctl ring`."""
        said = self.ring_document(partition)
        owners = " ".join(f"{each['node_id'][:4]}({each['state']})" for each in said["owners"])
        able = "writable, readable" if said["writable"] else "NOT writable, NOT readable by quorum"
        return f"partition {partition}  {owners}  N={said['n']} R={said['r']} W={said['w']}: {able}"


def table(rows: list[list[str]]) -> str:
    """Align cells in columns two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def human_bytes(size_bytes: int) -> str:
    """Return `1.6 GB`."""
    if size_bytes < 10_000:
        return f"{human_count(size_bytes)} B"
    return f"{human_count(size_bytes)}B"


def human_count(count: int) -> str:
    """Return `812`, `4 812`, `48 k`, `1.20 M`."""
    if count < 10_000:
        return f"{count:,}".replace(",", " ")
    for limit, unit in ((10**6, "k"), (10**9, "M"), (10**12, "G")):
        if count < limit:
            scaled = count / (limit / 1_000)
            return (
                f"{scaled:.2f} {unit}"
                if scaled < 10
                else f"{scaled:.1f} {unit}"
                if scaled < 100
                else f"{scaled:.0f} {unit}"
            )
    return f"{count / 1e12:.2f} T"


def human_seconds(seconds: float) -> str:
    """Return `38 s`, `12 min`, `5 h`, `3 d`."""
    for limit, unit_s, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _milliseconds(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"
