"""What a simulated node writes, as the harness sees it: every write is traced, and every dot in it is witnessed.

    Node ──► WitnessedEngine ──► SimEngine ──► SimDisk (see disk.py)
                 │ apply: into the trace; each sibling (object, actor, counter) ──► DotWitness, shared by all nodes

The witness sees every record any node ever applied, also those that a later power loss takes away, so it catches a dot
minted twice even if the two values never meet (`design` section 4: "no dot is ever bound to two values").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from jepsen_lite.sim.trace import Trace
from kvstore.errors import Corruption
from kvstore.ids import StorageKey
from kvstore.storage.engine import Engine, Family, OpenReport, Put
from kvstore.storage.record import decode_record

__all__ = ["DotWitness", "WitnessedEngine"]


class DotWitness:
    """Remembers what every dot was bound to, and every time it was bound to something else."""

    def __init__(self) -> None:
        self._bound: dict[tuple[bytes, bytes, int], tuple[bytes, bytes | None]] = {}
        self._records_seen: set[tuple[bytes, bytes]] = set()
        self.duplicates: list[str] = []

    @property
    def count(self) -> int:
        """Return how many dots were seen."""
        return len(self._bound)

    def see(self, node: str, key: bytes, record: bytes) -> None:
        """Check the dots of one record that `node` is about to apply."""
        if (key, record) in self._records_seen:
            return
        self._records_seen.add((key, record))
        try:
            state = decode_record(StorageKey(key), record)
        except Corruption as problem:
            self.duplicates.append(f"{node} wrote an unreadable record of {key!r}: {problem}")
            return
        for sibling in state.siblings:
            meaning = (sibling.operation_id, sibling.value)
            first = self._bound.setdefault((key, sibling.actor, sibling.counter), meaning)
            if first != meaning:
                dot = f"{sibling.actor.hex()}:{sibling.counter} of {key[8:]!r}"
                self.duplicates.append(f"{node} holds {sibling.value!r} at dot {dot}, which was {first[1]!r}")


class WitnessedEngine:
    """Passes everything on to `inner`."""

    def __init__(self, inner: Engine, *, node: str, trace: Trace, witness: DotWitness) -> None:
        self._inner, self._node, self._trace, self._witness = inner, node, trace, witness
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
            if family is Family.DATA and value is not None:
                self._witness.see(self._node, key, value)
        self._trace.record("apply", self._node, len(puts), digest.digest())
        self._inner.apply(puts)

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
