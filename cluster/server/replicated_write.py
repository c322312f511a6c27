"""One replicated write at its owner: merged, applied, acknowledged when durable; tried again while the engine stalls.

    stage ─► applied ─(early: APPLIED)─► durable ─► OK
       ▲        └─ the engine would stall ─► again in STALL_RETRY_S, until the deadline: then nobody waits for an answer

A coordinator that is refused counts a failed owner, and two of them are a failed put. A stall is over in a second or two
(`correctness`, "Facts about the libraries"), so the owner waits it out instead.
"""

from __future__ import annotations

import asyncio

from cluster.replica import Replica
from cluster.requests import Reply, fail
from kvstore.chaos import Chaos, Probe
from kvstore.errors import InternalError, KVStoreError, Overloaded
from kvstore.ids import PartitionId, StorageKey
from kvstore.messages import Status

__all__ = ["ReplicatedWrite"]

STALL_RETRY_S = 0.05
_OK, _APPLIED = int(Status.OK), int(Status.APPLIED)


class ReplicatedWrite:
    """Answers once (with `early`: APPLIED first). Bounded in number by what one link may have in flight."""

    __slots__ = ("_chaos", "_deadline", "_early", "_key", "_loop", "_partition", "_record", "_replica", "_reply")

    def __init__(
        self, replica: Replica, partition: PartitionId, key: StorageKey, record: bytes, deadline: float, reply: Reply, *,
        early: bool, chaos: Chaos,
    ) -> None:  # fmt: skip
        self._replica, self._partition, self._key, self._record = replica, partition, key, record
        self._deadline, self._reply, self._early, self._chaos = deadline, reply, early, chaos
        self._loop = asyncio.get_running_loop()

    def stage(self) -> None:
        """Merge the record into what is held. Raises Corruption or StorageError; nothing was staged then."""
        if not self._replica.stage_merge(self._partition, self._key, self._record, self._applied):
            if self._early:
                self._reply(_APPLIED, b"")
            self._replica.store.when_key_durable(self._key, self._acknowledge)

    def _applied(self, problem: Exception | None) -> None:
        if problem is None:
            if self._early:
                self._reply(_APPLIED, b"")
            self._replica.store.when_durable(self._acknowledge)
        elif isinstance(problem, Overloaded) and self._loop.time() + STALL_RETRY_S < self._deadline:
            self._chaos.hit(Probe.REPLICATE_WAITED_FOR_STALL)
            self._loop.call_later(STALL_RETRY_S, self._stage_again)
        else:
            self._fail(problem)

    def _stage_again(self) -> None:
        try:
            self.stage()
        except KVStoreError as error:
            self._fail(error)
        else:
            self._replica.store.commit_staged()

    def _fail(self, problem: Exception) -> None:
        fail(self._reply, problem if isinstance(problem, KVStoreError) else InternalError(f"apply failed: {problem!r}"))

    def _acknowledge(self) -> None:
        self._reply(_OK, b"")
