"""What a simulated node writes, as the harness sees it: every disk operation is traced, and every dot in it is witnessed.

    Node ──► ProcessEngine ──► WitnessedEngine ──► SimEngine ──► SimDisk (see disk.py)
                                   │ apply: into the trace; every dot ──► DotWitness, shared by all nodes

The witness sees every record any node ever applied, also those that a later power loss takes away, so it catches a dot
minted twice even if the two values never meet (`design` section 4: "no dot is ever bound to two values"). A batch that was
refused definitely was never written. Of one in doubt those records count that are there now, or at the next start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from cluster.membership.keeper import META_TOPOLOGY
from jepsen_lite.checkers.dots import Dot, DotWitness
from jepsen_lite.sim.disk import SimDisk
from jepsen_lite.sim.trace import Trace
from kvstore.causality.version_vector import VersionVector
from kvstore.errors import KVStoreError
from kvstore.ids import StorageKey
from kvstore.storage.engine import Engine, Family, OpenReport, Put
from kvstore.storage.identity import META_NODE_ID
from kvstore.storage.record import check_record, decode_record

__all__ = ["CHECKSUM_SIZE_BYTES", "WitnessedEngine"]

CHECKSUM_SIZE_BYTES = 8


class WitnessedEngine:
    """Passes everything on to `inner`."""

    def __init__(
        self, inner: Engine, *, node: str, trace: Trace, witness: DotWitness, disk: SimDisk,
        due_from_heal: Callable[[bytes], VersionVector | None] = lambda key: None,
        on_topology: Callable[[bytes], None] | None = None,
    ) -> None:  # fmt: skip
        """`due_from_heal`: what the record that replaces an unreadable one must have seen at least, if that is known.
        `on_topology` is told every topology that the node stores."""
        self._due_from_heal, self._on_topology = due_from_heal, on_topology
        self._doubted: dict[bytes, dict[Dot, bytes]] = {}
        """Of each key, the dots of writes of unknown outcome that are not there (now), and their operations."""
        self._ended: dict[bytes, None] = {}
        """Actors of this node that mint no more: its history may be missing."""
        self._inner, self._node, self._trace, self._witness, self._disk = inner, node, trace, witness, disk
        self.is_lying = False
        """A sync then returns and has made nothing durable: the harness must notice."""

    @property
    def report(self) -> OpenReport:
        return self._inner.report

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._inner.get(family, key)

    def apply(self, puts: Sequence[Put]) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for family, key, value in puts:
            digest.update(b"%s %d %d %s" % (family.encode(), len(key), -1 if value is None else len(value), key))
            digest.update(value or b"")
        self._trace.record("apply", self._node, len(puts), digest.digest())
        minted = self._minted_by_ended(puts) if self._ended else []
        before = {
            key: self._disk.peek(key) for family, key, value in puts if family is Family.DATA and value is not None
        }
        try:
            self._inner.apply(puts)
        except KVStoreError as error:
            self._trace.record("not applied", self._node, error.code)
            self._see([put for put in puts if self._disk.peek(put[1]) == put[2]])
            if not error.definite:
                self._doubt(puts)
            raise
        self._see(puts)
        self._see_replaced(before, puts)
        for key, dot in minted:
            self._witness.see_ended_actor(self._node, key, dot)

    def see_all(self) -> None:
        """Witness what is there at a start: the log may have brought back what was in doubt."""
        node_id = self._disk.meta(META_NODE_ID)
        if self.report.history_may_be_missing and node_id:
            self._ended = self._witness.actors_of(node_id)
        for key, record in self._disk.records().items():
            if _is_record(key, record):
                self._witness.see_record(self._node, key, record)

    def _see(self, puts: Sequence[Put]) -> None:
        for family, key, value in puts:
            if family is Family.DATA and value is not None:
                self._witness.see_record(self._node, key, value)
            elif self._on_topology is not None and family is Family.META and key == META_TOPOLOGY and value is not None:
                self._on_topology(value)

    def _see_replaced(self, before: dict[bytes, bytes | None], puts: Sequence[Put]) -> None:
        for family, key, value in puts:
            if family is Family.DATA and value is not None and _is_record(key, value):
                old = before[key]
                if old is not None and not _is_record(key, old):
                    self._see_healed(key, value, puts)
                elif old is not None and old != value:
                    self._witness.see_replaced(self._node, key, old, value)
                if key in self._doubted:
                    self._see_doubted(key, value)
                before[key] = value

    def _see_healed(self, key: bytes, record: bytes, puts: Sequence[Put]) -> None:
        """What was unreadable (or another key's, by a misdirected write) may have held dots of ours that nobody else has."""
        due = self._due_from_heal(key)
        if due is not None:
            self._witness.see_covers(self._node, key, due, record)
        if not any(family is Family.META and value is not None for family, _, value in puts):
            self._witness.see_epoch_kept(self._node, key)

    def _minted_by_ended(self, puts: Sequence[Put]) -> list[tuple[bytes, Dot]]:
        """Return the dots that nobody has seen before, of actors that should not mint any more."""
        return [
            (key, dot)
            for family, key, value in puts
            if family is Family.DATA and value is not None and _is_record(key, value)
            for s in decode_record(StorageKey(key), value).siblings
            if s.actor in self._ended and (dot := Dot(s.actor, s.counter)) not in self._witness.bindings(key)
        ]

    def _doubt(self, puts: Sequence[Put]) -> None:
        """The next start may bring these back: until then none of their dots may be given to another write."""
        for family, key, value in puts:
            if family is Family.DATA and value is not None and self._disk.peek(key) != value:
                dots = self._doubted.setdefault(key, {})
                dots.update(
                    {Dot(s.actor, s.counter): s.operation_id for s in decode_record(StorageKey(key), value).siblings}
                )

    def _see_doubted(self, key: bytes, record: bytes) -> None:
        for s in decode_record(StorageKey(key), record).siblings:
            dot = Dot(s.actor, s.counter)
            if self._doubted[key].get(dot, s.operation_id) != s.operation_id:
                self._witness.see_minted_again(self._node, key, dot)

    def delete_range(self, family: Family, lower: bytes, upper: bytes) -> None:
        self._trace.record("delete", self._node, family.value, lower, upper)
        self._inner.delete_range(family, lower, upper)

    def scan(self, family: Family, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._inner.scan(family, lower, upper)

    async def sync(self) -> None:
        if not self.is_lying:
            await self._inner.sync()
        self._trace.record("synced", self._node)

    def remember_refusal(self, refused: bytes) -> bool:
        return self._inner.remember_refusal(refused)

    def keys_estimate(self) -> int:
        return self._inner.keys_estimate()

    def size_bytes(self) -> int:
        return self._inner.size_bytes()

    async def close(self, *, clean: bool) -> None:
        await self._inner.close(clean=clean)


def _is_record(key: bytes, record: bytes) -> bool:
    return len(record) > CHECKSUM_SIZE_BYTES and check_record(StorageKey(key), record)
