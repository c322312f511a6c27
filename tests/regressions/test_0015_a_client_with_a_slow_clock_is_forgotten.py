"""A user found one put six times beside itself: retries of a client whose clock was behind were never recognised.

A record remembers the last sixteen operations, and "last" went by the operation's id, which begins with the *client's* time. One
that was behind fell out at once. Now the time is the node's (HLC), and a value that is still there is recognised in any case.
Found by `jepsen-lite`, seed 4: clients with stepped clocks, replicas that stalled.
"""

from __future__ import annotations

import pytest

from kvstore.ids import ObjectType
from tests.support.cluster import Cluster, in_cluster, name_of_key

OLD_ID = 1
"""Sorts before all ids that the other client uses."""


@pytest.mark.parametrize("through", [0, 1, 2])
def test_a_retry_is_one_value_whatever_time_its_client_believes_in(through: int) -> None:
    """Sixteen newer operations are remembered; then an old id is put, and again, at the same and at another coordinator."""
    name = name_of_key("k")

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        context = None
        for number in range(20):
            context = (await client.put(name, b"%d" % number, context, operation=100 + number, w=3)).context
        await client.put(name, b"mine", operation=OLD_ID, w=3)
        await cluster.client(through).put(name, b"mine", operation=OLD_ID, w=3)
        assert await client.values(name, r=3) == [b"19", b"mine"]

    in_cluster(main)


def test_a_retry_does_not_undo_what_replaced_it() -> None:
    """lww: the put, another client's put over it, and the first one again: the second one stays."""
    name = name_of_key("k", kind=ObjectType.LWW)

    async def main(cluster: Cluster) -> None:
        client = cluster.client(0)
        for number in range(20):
            await client.put(name, b"%d" % number, operation=100 + number, w=3)
        await client.put(name, b"mine", operation=OLD_ID, w=3)
        await client.put(name, b"theirs", operation=200, w=3)
        await client.put(name, b"mine", operation=OLD_ID, w=3)
        assert await client.values(name, r=3) == [b"theirs"]

    in_cluster(main)
