"""What a simulated node writes, as the harness sees it: every disk operation is traced, and every dot in it is witnessed.

    Node ──► ProcessEngine ──► WitnessedEngine ──► SimEngine ──► SimDisk (see disk.py)
                                   │ apply: into the trace; every dot ──► DotWitness, shared by all nodes

The witness sees every record any node ever applied, also those that a later power loss takes away, so it catches a dot
minted twice even if the two values never meet (`design` section 4: "no dot is ever bound to two values"). A batch that was
refused definitely was never written. Of one in doubt those records count that are there now, or at the next start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from jepsen_lite.checkers.dots import DotWitness
from jepsen_lite.sim.disk import SimDisk
from jepsen_lite.sim.trace import Trace
from kvstore.errors import KVStoreError
from kvstore.ids import StorageKey
from kvstore.storage.engine import Engine, Family, OpenReport, Put
from kvstore.storage.record import check_record

__all__ = ["CHECKSUM_SIZE_BYTES", "WitnessedEngine"]

CHECKSUM_SIZE_BYTES = 8


class WitnessedEngine:
    """Passes everything on to `inner`."""

    def __init__(
        self, inner: Engine, *, node: str, trace: Trace, witness: DotWitness, disk: SimDisk
    ) -> None:  # fmt: skip
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
        try:
            self._inner.apply(puts)
        except KVStoreError as error:
            self._trace.record("not applied", self._node, error.code)
            self._see([put for put in puts if self._disk.peek(put[1]) == put[2]])
            raise
        self._see(puts)

    def see_all(self) -> None:
        """Witness what is there at a start: the log may have brought back what was in doubt."""
        for key, record in self._disk.records().items():
            if len(record) > CHECKSUM_SIZE_BYTES and check_record(StorageKey(key), record):
                self._witness.see_record(self._node, key, record)

    def _see(self, puts: Sequence[Put]) -> None:
        for family, key, value in puts:
            if family is Family.DATA and value is not None:
                self._witness.see_record(self._node, key, value)

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
