"""A user read two values where one had replaced the other: the first attempt of a put came back after its retry was replaced.

While a fourth node took its share, an attempt was cut off by the change of owners; its retry through another node was
acknowledged, read and replaced; then the node that had the first attempt handed on what it held. The value was remembered as
replaced, but at the dot of the retry, and the first attempt had another one. Now who replaces a value at one dot replaces it
at all of them.
Found by `python -m tests.campaigns.grow`: one or two keys of 200,000, in every fourth run.
"""

from __future__ import annotations

import pytest

from kvstore.errors import IndeterminateError
from tests.support.cluster import Cluster, in_cluster, name_of_key


@pytest.mark.parametrize("cut_off", [0, 1, 2])
@pytest.mark.parametrize("overwriter", [0, 1, 2])
def test_an_attempt_that_was_cut_off_does_not_come_back_after_its_retry_was_replaced(
    cut_off: int, overwriter: int
) -> None:
    """One node takes a put that nobody else hears of, the next one its retry; whoever overwrites it, all three agree at last."""
    name = name_of_key("k")

    async def main(cluster: Cluster) -> None:
        for index in range(3):
            await cluster.client(index).link.wait_up(5)
        cluster.cut_off(cut_off)
        with pytest.raises(IndeterminateError):
            await cluster.client(cut_off).put(name, b"old", operation=77, timeout_s=10)
        acknowledged = await cluster.client((cut_off + 1) % 3).put(name, b"old", operation=77)
        if overwriter == cut_off:
            cluster.network.heal_all()
            await cluster.whole()
        await cluster.client(overwriter).put(name, b"new", acknowledged.context)
        cluster.network.heal_all()
        await cluster.whole()
        assert await cluster.client(cut_off).values(name, r=3) == [b"new"]
        await cluster.until(lambda: all(cluster.held_values(index, name) == [b"new"] for index in range(3)))

    in_cluster(main)
