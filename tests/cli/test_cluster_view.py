"""What status and ring say about clusters in every state."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cli.cluster_view import ClusterView, Presence, human_bytes, human_count, human_seconds, table
from kvstore.ids import ClusterId, NodeId, PartitionId
from kvstore.ring.topology import Member, Topology

IDS = [NodeId(bytes([letter]) * 8) for letter in b"abc"]
DOWN = Presence(None, "no answer in 1 s")


def up(**status: Any) -> Presence:
    """A member that answered."""
    base = {
        "keys_estimate": 100,
        "size_bytes": 2_000_000,
        "ops_per_s": 5,
        "uptime_s": 61,
        "counters": {"siblings_max": 1, "hedges": 40, "hedges_won": 31},
    }
    return Presence({**base, "latency_ms": {"put_p99": 6.04, "get_p99": None}, "peers": {}, **status})


def topology(count: int = 3, n: int = 3) -> Topology:
    """Four partitions; every member owns all of them, in rotating order."""
    ids = IDS[:count]
    owners = tuple(tuple(ids[(first + i) % count] for i in range(min(n, count))) for first in range(4))
    return Topology(
        cluster_id=ClusterId(b"c" * 16), cluster_name="dev", epoch=7, partition_bits=2, n=n, founder=IDS[0],
        members=tuple(Member(each, f"127.0.0.1:740{i}") for i, each in enumerate(ids)), owners=owners,
        placement_versions=(1,) * 4,
    )  # fmt: skip


def view(*presences: Presence, n: int = 3) -> ClusterView:
    """A cluster of as many members as there are presences."""
    return ClusterView(topology(len(presences), n), dict(zip(IDS, presences, strict=False)))


@pytest.mark.parametrize(
    ("presences", "health", "is_healthy"),
    [
        ([up(), up(), up()], "healthy: can lose 1 more node", True),
        ([up(), DOWN, up()], "degraded: can lose 0 more nodes, 1 down", True),
        ([up(), DOWN, DOWN], "UNHEALTHY: 4 of 4 partitions have no quorum", False),
        ([up()], "healthy: can lose 0 more nodes", True),
    ],
)
def test_health_is_whether_every_partition_has_its_quorum(
    presences: list[Presence], health: str, is_healthy: bool
) -> None:
    """One node down of three is worth a word, not an alarm; no quorum is exit code 9."""
    seen = view(*presences)

    assert (seen.health(), seen.is_healthy) == (health, is_healthy)


def test_a_cluster_with_fewer_members_than_copies_says_so() -> None:
    """It runs with what there is, and the first line tells."""
    assert "under-replicated: 2 of 3 copies" in view(up(), up()).headline()
    assert "under-replicated" not in view(up(), up(), up()).headline()


def test_a_member_is_suspect_when_we_and_its_peers_disagree() -> None:
    """We reach it and nobody else does, or the other way round: that is a broken network, not a dead node."""
    b_is_down = {"peers": {IDS[1].hex(): {"up": False, "why": "connection refused"}}}
    b_is_up = {"peers": {IDS[1].hex(): {"up": True, "why": ""}}}

    assert view(up(**b_is_down), up(), up(**b_is_down)).state(IDS[1]) == "SN"
    assert view(up(**b_is_up), DOWN, up(**b_is_up)).state(IDS[1]) == "SN"
    assert view(up(**b_is_down), DOWN, up(**b_is_down)).state(IDS[1]) == "DN"
    assert view(up(**b_is_up), up(), up(**b_is_down)).state(IDS[1]) == "UN"


def test_the_reason_of_a_peer_is_better_than_our_own_timeout() -> None:
    """Its link has tried for longer than we did."""
    b_is_down = {"peers": {IDS[1].hex(): {"up": False, "why": "connection refused"}}}

    assert view(up(**b_is_down), DOWN, up()).row(topology().members[1])[-1] == "down: connection refused"
    assert view(up(), DOWN, up()).row(topology().members[1])[-1] == "down: no answer in 1 s"


def test_keys_are_counted_once_whatever_the_copies_and_the_dead() -> None:
    """Each of three nodes holds every key: 100 keys, also when one of them does not answer."""
    assert view(up(), up(), up()).keys_estimate() == 100
    assert view(up(), DOWN, up()).keys_estimate() == 100
    assert view(DOWN, DOWN, DOWN).keys_estimate() == 0


def test_ring_line_names_owners_in_order_and_what_can_be_done() -> None:
    """The form of docs/commands.md."""
    assert view(up(), DOWN, up()).ring_line(PartitionId(1)) == (
        "partition 1  6262(DN) 6363(UN) 6161(UN)  N=3 R=2 W=2: writable, readable"
    )
    assert view(up(), DOWN, DOWN).ring_line(PartitionId(0)).endswith("NOT writable, NOT readable by quorum")


def test_status_has_a_row_for_every_member_with_its_share() -> None:
    """First ownership of four partitions by three members: 2, 1, 1."""
    lines = view(up(), up(), DOWN).text().splitlines()

    assert len(lines) == 6
    assert lines[3].split()[:6] == ["UN", "6161", "127.0.0.1:7400", "-", "2", "50.0%"]
    assert lines[3].split()[-5:] == ["6.0/-", "31/40", "0", "61", "s"]


def test_documents_are_json_shaped() -> None:
    """What -o json prints names everything that the table shows."""
    document = view(up(), DOWN, up()).document()

    assert document["can_lose_nodes"] == 0
    assert [each["state"] for each in document["nodes"]] == ["UN", "DN", "UN"]
    assert document["nodes"][1]["status"] is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (812, "812"), (4_812, "4 812"), (48_300, "48.3 k"), (1_204_000, "1.20 M"), (123_456_789, "123 M")],
)
def test_counts_for_people(count: int, text: str) -> None:
    """Three digits are enough to compare."""
    assert human_count(count) == text


def test_sizes_and_times_for_people() -> None:
    """With their unit."""
    assert [human_bytes(each) for each in (7_311, 27_300_000, 1_600_000_000)] == ["7 311 B", "27.3 MB", "1.60 GB"]
    assert [human_seconds(each) for each in (38, 720, 18_000, 300_000)] == ["38 s", "12 min", "5 h", "3 d"]


def test_tables_align() -> None:
    """Columns start under their headings, without trailing blanks."""
    assert table([["A", "LONG"], ["abc", "x"]]) == "A    LONG\nabc  x"
