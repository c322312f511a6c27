"""How many clients one node welcomes at a time: above it they are sent away for a while, and members still get in."""

from __future__ import annotations

import pytest

from cluster.server import admission
from kvstore.errors import Overloaded, Unavailable
from tests.support.cluster import Cluster, in_cluster, name_of_key

CLIENTS_MAX = 70
"""More than Admission looks through at first."""


def test_clients_above_the_bound_are_sent_away_and_members_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member joins while the node is full, and a client that left makes room for another one."""
    monkeypatch.setattr(admission, "CLIENT_SESSIONS_COUNT_MAX", CLIENTS_MAX)

    async def main(cluster: Cluster) -> None:
        name = name_of_key("k")
        clients = [cluster.client(0) for _ in range(CLIENTS_MAX)]
        for client in clients:
            await client.link.wait_up(5.0)
        one_more = cluster.client(0)
        with pytest.raises((Unavailable, Overloaded)):
            await one_more.link.wait_up(2.0)
        assert "too many clients" in str(one_more.link.last_error)
        await clients[0].put(name, b"served")

        await cluster.start(cluster.add_host())
        await cluster.whole()

        await clients[0].link.close()
        await one_more.link.wait_up(20.0)
        assert await one_more.values(name) == [b"served"]
        for client in [*clients[1:], one_more]:
            await client.link.close()

    in_cluster(main, nodes=1)


def test_clients_that_left_are_forgotten() -> None:
    """Three hundred that came and went one after the other: what is kept does not grow with them."""

    async def main(cluster: Cluster) -> None:
        for _ in range(300):
            client = cluster.client(0)
            await client.link.wait_up(5.0)
            await client.link.close()

        assert len(cluster.node(0).admission._clients) <= 2 * admission.CLIENTS_LOOKED_THROUGH_MIN

    in_cluster(main, nodes=1)
