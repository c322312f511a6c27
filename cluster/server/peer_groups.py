"""The groups of one frame from a peer: its writes merged and its reads answered, what is out of the ordinary named.

    REPLICATE_GROUP  each write staged ─commit─► applied ─sync─► answered: the positions of those not taken
    FETCH_GROUP      answered at once: records, nil for those that have to be asked alone

See kvstore/groups.py for why nothing here says why a write was not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from cluster.placement import Slot
from cluster.replica import Replica
from cluster.requests import ReplyTo
from kvstore.chaos import Chaos, Probe
from kvstore.errors import InternalError, KVStoreError, Overloaded, error_to_wire
from kvstore.groups import encode_records, encode_refused
from kvstore.ids import StorageKey
from kvstore.limits import GROUP_SIZE_BYTES_MAX
from kvstore.messages import Status

__all__ = ["PeerGroups"]

_OK, _ERROR = int(Status.OK), int(Status.ERROR)
Check = Callable[[bytes, int], Slot]
"""(storage key, placement version): the slot, or raises why the peer's operation may not be done here."""


class PeerGroups:
    """`committed` is called once, after the frame's writes were applied."""

    __slots__ = ("_chaos", "_groups", "_problem", "_replica", "_reply")

    def __init__(self, replica: Replica, reply: ReplyTo, chaos: Chaos) -> None:
        self._replica, self._reply, self._chaos = replica, reply, chaos
        self._groups: dict[int, tuple[int, list[int]]] = {}
        """Operation id: how many writes the group has, and the positions of those refused."""
        self._problem: Exception | None = None

    def replicate(self, operation_id: int, writes: Iterable[tuple[int, StorageKey, bytes]], check: Check) -> None:
        """Merge the writes of one group; they are answered after `committed`."""
        stage_merge, applied = self._replica.stage_merge, self._applied
        refused: list[int] = []
        index = -1
        for index, (version, key, record) in enumerate(writes):
            try:
                stage_merge(check(key, version).partition, key, record, applied)
            except KVStoreError:
                refused.append(index)  # asked again alone, which has words for it
        self._groups[operation_id] = (index + 1, refused)

    def fetch(self, operation_id: int, reads: Iterable[tuple[int, StorageKey]], check: Check) -> None:
        """Answer the reads of one group."""
        replica, is_durable = self._replica, self._replica.store.is_durable
        records: list[bytes | None] = []
        left_bytes = GROUP_SIZE_BYTES_MAX
        for version, key in reads:
            record: bytes | None
            try:
                check(key, version)
                record = replica.read(key)
            except KVStoreError:
                record = None  # asked again alone, as above
            if record is not None:
                left_bytes -= len(record)
                if left_bytes < 0 or not is_durable(key):
                    record = None
            if record is None:
                self._chaos.hit(Probe.GROUP_READ_LEFT_OUT)
            records.append(record)
        self._reply(operation_id, _OK, encode_records(records))

    def committed(self) -> None:
        """The frame's writes are applied, or refused: answer the groups once they are durable."""
        for operation_id, (count, refused) in self._groups.items():
            if self._problem is None:
                body = encode_refused(refused)
                self._replica.store.when_durable(partial(self._reply, operation_id, _OK, body))
            elif isinstance(self._problem, Overloaded):
                self._chaos.hit(Probe.GROUP_STALLED)
                # The engine stalls. Asked again alone, each is tried again here until its deadline.
                self._reply(operation_id, _OK, encode_refused(list(range(count))))
            else:
                self._chaos.hit(Probe.GROUP_IN_DOUBT)
                problem = self._problem
                error = problem if isinstance(problem, KVStoreError) else InternalError(f"apply failed: {problem!r}")
                self._reply(operation_id, _ERROR, error_to_wire(error))

    def _applied(self, problem: Exception | None) -> None:
        self._problem = problem or self._problem
