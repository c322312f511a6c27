"""A user could not add a node to a cluster with data: one member 50 ms away from the newcomer, and every join was refused.

The founder said "send" as soon as all members had the new topology; a member whose own link to the joiner was still connecting
refused, and that cancelled the join. Now whoever sends waits for its links first. Found by buggify (`admission_refused`,
`reconnect_late`).
"""

from __future__ import annotations

from tests.support.cluster import Cluster, in_cluster, name_of_key

NAMES = [name_of_key(f"city {number}") for number in range(20)]


def test_a_join_waits_until_every_member_reaches_the_joiner() -> None:
    """One member is far from the joiner and everybody else is near; nothing is broken, so the join succeeds."""

    async def main(cluster: Cluster) -> list[list[bytes]]:
        client = cluster.client(0)
        for name in NAMES:
            await client.put(name, b"v")
        joiner = cluster.add_host()
        cluster.delays["n1", joiner.name] = 0.05

        await cluster.start(joiner)

        await cluster.whole()
        await client.link.close()
        return [list(filter(None, cluster.held_values(2, name))) for name in NAMES]

    assert in_cluster(main, nodes=2) == [[b"v"]] * len(NAMES)
