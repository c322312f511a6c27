"""The giving side of a move: pages of a partition, for the joiner only, under the placement that makes it a guest or an owner.

A record that is unreadable here is healed before the page goes on. If nobody else holds anything of it there is nothing to
give: it is left out, and the log says so.

A write planned with an older placement is refused here from the moment that placement is adopted, so a scan that begins
afterwards sees everything that was acknowledged under it (`correctness` 14, 15).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from cluster.placement import Placement
from cluster.replica import Replica
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import Corruption, InvalidArgument, NotReady, StalePlacement, WrongOwner
from kvstore.ids import NodeId, PartitionId, StorageKey
from kvstore.limits import SCAN_BYTES_MAX, SCAN_RECORDS_MAX
from kvstore.pages import decode_scan, digest_of, encode_page
from kvstore.ring.token import partition_range
from kvstore.storage.engine import Engine, Family
from kvstore.storage.record import check_record

__all__ = ["Source"]

log = logging.getLogger("kvnode")

BEHIND_RETRY_S = 0.1


class Source:
    """Answers SCAN."""

    def __init__(
        self, *, engine: Engine, replica: Replica, placement: Placement, is_alone: Callable[[StorageKey], bool],
        chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        """`is_alone`: whether an unreadable record is known to be held by no other owner."""
        self._engine, self._replica, self._placement, self._chaos = engine, replica, placement, chaos
        self._is_alone = is_alone

    def page(self, sender: NodeId, body: bytes) -> bytes:
        """Return one page. Raises StalePlacement, NotReady (we are behind), WrongOwner, or Corruption: a heal was asked for."""
        partition, version, after, is_digest = decode_scan(body)
        self._check(sender, partition, version)
        self._replica.store.commit_staged()
        lower, upper = partition_range(PartitionId(partition), self._bits())
        items: list[tuple[bytes, bytes]] = []
        size_bytes, is_last = 0, True
        records_max = self._chaos.pick(Point.PAGE_TINY, SCAN_RECORDS_MAX, 1, 2, 5)
        for key, record in self._scan(after + b"\0" if after else lower, upper):
            if len(items) >= records_max or size_bytes >= SCAN_BYTES_MAX:
                is_last = False
                break
            if not self._is_readable(StorageKey(key), record):
                continue
            items.append((key, digest_of(record) if is_digest else record))
            size_bytes += len(key) + len(items[-1][1])
        return encode_page((items, is_last))

    def _scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Scan, also past a record that the engine cannot read if it knows whose that is and nobody else holds it."""
        while True:
            try:
                yield from self._engine.scan(Family.DATA, lower, upper)
            except Corruption as error:
                key = error.details.get("key")
                if not isinstance(key, bytes):
                    raise
                self._leave_out(StorageKey(key), error)
                lower = key + b"\0"
            else:
                return

    def _check(self, sender: NodeId, partition: int, version: int) -> None:
        topology = self._placement.topology
        if topology is None or topology.move is None or topology.move.joiner != sender:
            raise NotReady("this node does not know of your move", retry_after_s=BEHIND_RETRY_S)
        if not 0 <= partition < topology.partitions_count:
            raise InvalidArgument("there is no such partition", partition=partition)
        slot = self._placement.slots()[partition]
        if version < slot.version:
            raise StalePlacement(
                "planned with an older placement", topology_epoch=topology.epoch, placement_version=slot.version
            )
        if version > slot.version:
            raise NotReady("the node is behind with the topology", retry_after_s=BEHIND_RETRY_S)
        if not slot.is_holder:
            raise WrongOwner("the node does not hold the partition", topology_epoch=topology.epoch)

    def _is_readable(self, key: StorageKey, record: bytes) -> bool:
        """Whether it is; else it is left out, or Corruption is raised: a heal was asked for, and a later scan gets by."""
        if check_record(key, record):
            return True
        self._leave_out(key, Corruption("a record to be copied is unreadable", key=key.hex()))
        return False

    def _leave_out(self, key: StorageKey, error: Corruption) -> None:
        if not self._is_alone(key):
            self._replica.read(key)  # raises, and asks for a heal; unless it was healed since the scan began
            raise error
        self._chaos.hit(Probe.UNREADABLE_LEFT_OUT)
        log.error("an unreadable record that no other owner holds is not copied: key %s", key.hex())

    def _bits(self) -> int:
        topology = self._placement.topology
        assert topology is not None, "it was checked before"
        return topology.partition_bits
