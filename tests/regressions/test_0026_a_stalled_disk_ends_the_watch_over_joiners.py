"""A user could never add a node again: the founder's disk had stalled once, just as a join was to be cancelled.

The task that cancels joins ended with the refusal, unseen; the next joiner that died held up every change until the founder was
restarted. Found by `jepsen-lite run --moves`, seed 22.
"""

from __future__ import annotations

import asyncio

from kvstore.errors import Overloaded
from tests.support.cluster import Cluster, in_cluster


def test_a_join_that_could_not_be_cancelled_is_cancelled_later() -> None:
    """The first attempt is refused by the disk; the watch goes on, and the second one succeeds."""

    async def main(cluster: Cluster) -> None:
        task = asyncio.ensure_future(cluster.start(cluster.add_host()))
        await cluster.until(lambda: cluster.node(0).placement.topology.move is not None)  # type: ignore[union-attr]
        await cluster.kill(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        keeper = cluster.node(0).keeper
        adopt, refused = keeper.adopt, list[int]()

        async def stalls(*given: object) -> bool:
            if not refused:
                refused.append(1)
                raise Overloaded("the engine would stall; nothing was written", retry_after_s=0.1)
            return await adopt(*given)  # type: ignore[arg-type]

        keeper.adopt = stalls  # type: ignore[method-assign,assignment]
        await cluster.until(lambda: cluster.node(0).placement.is_settled, timeout_s=90)
        assert refused

    in_cluster(main)
