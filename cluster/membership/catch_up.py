"""Catching up: a peer told of a newer topology epoch, so its document is asked for and adopted.

    any reply, a HELLO ─► link.remote_epoch ─► soon ─► TOPOLOGY ─► keeper.adopt_document
                                                │                        │
                                                └── again, a little later, from whoever is still ahead

One at a time in the background: what is ahead of us is usually the same document at every peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.membership.keeper import Keeper
from cluster.placement import Peers, Placement
from cluster.tasks import Tasks
from kvstore.errors import KVStoreError
from kvstore.ids import NodeId
from kvstore.messages import Verb
from kvstore.transport.link import Link

__all__ = ["CatchUp"]

CALL_TIMEOUT_S = 1.0
AGAIN_S = 0.2


class CatchUp:
    """`again` is told of a link whose peer is still ahead, AGAIN_S later, and decides anew."""

    def __init__(
        self, *, keeper: Keeper, placement: Placement, peers: Peers, tasks: Tasks, again: Callable[[Link], None]
    ) -> None:
        self._keeper, self._placement, self._peers = keeper, placement, peers
        self._tasks, self._again = tasks, again
        self._loop = asyncio.get_running_loop()
        self._is_under_way = False

    def with_member(self, node_id: NodeId) -> None:
        """Begin to catch up with a member if it can be reached."""
        link = self._peers.link(node_id)
        if link is not None and link.is_up:
            self.soon(link)

    def soon(self, link: Link) -> None:
        """Begin to catch up in the background, unless that is under way."""
        if not self._is_under_way:
            self._is_under_way = True
            self._tasks.spawn("catching up with the topology", self.now(link))

    async def now(self, link: Link) -> None:
        """Ask a peer for its topology and adopt it; a failure is the link's last error."""
        try:
            document = await link.call(Verb.TOPOLOGY, 0, self._loop.time() + CALL_TIMEOUT_S, b"", b"")
            await self._keeper.adopt_document(document)
        except KVStoreError as error:
            link.last_error = f"catching up: {error}"
        finally:
            self._is_under_way = False
        # A link tells of an epoch once: what we failed to get, or what came up meanwhile, has to be asked for again.
        for _, behind in self._peers.all():
            if behind.is_up and behind.remote_epoch > self._placement.epoch:
                self._loop.call_later(AGAIN_S, self._again, behind)
