"""A user lost the whole cluster's availability by restarting its nodes on other ports: nobody found the founder again.

Only the founder writes addresses into the topology, and members looked for it where it had been. Now a member that says Hello
from another address is followed at once, and every node asks until the topology has its address.
"""

from __future__ import annotations

from tests.support.cluster import Cluster, in_cluster, name_of_key


def test_a_cluster_comes_back_after_its_founder_and_another_moved() -> None:
    """One node kept its address; through it the others find each other, and the topology learns both moves."""

    async def main(cluster: Cluster) -> None:
        name = name_of_key("k")
        await cluster.client(0).put(name, b"before", w=3)
        for index in (0, 1, 2):
            await cluster.stop(index)

        await cluster.start(cluster.hosts[2])
        await cluster.start(cluster.hosts[1], listen="n1:7412")
        await cluster.start(cluster.hosts[0], listen="n0:7402")

        def known() -> bool:
            topologies = [cluster.node(index).placement.topology for index in (0, 1, 2)]
            wanted = {"n0:7402", "n1:7412", "n2:7400"}
            return all(t is not None and {m.address for m in t.members} == wanted for t in topologies)

        await cluster.until(known)
        await cluster.whole()
        assert await cluster.client(2).values(name, r=3) == [b"before"]
        await cluster.client(2).put(name, b"after", w=3)

    in_cluster(main)
