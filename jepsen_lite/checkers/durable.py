"""White-box judge, online: what a client is told is on as many disks as it was told, and no later read is without it.

    client ◄── put ok, durable=2 ──   at that moment: the synced records of 2 owners cover the put's dot        else UNSYNCED
    client ◄── get {A} ───────────    at that moment: the synced record of some owner covers A's dot            else UNSYNCED
    put ok, durable=2 ·· get ok, 2 of 3 replied:      the read's context covers that put's dot (2 + 2 > 3)      else MISSED

A power loss need not happen: an acknowledgement that comes before its sync is seen as such, in every run.

Invariants
  1. A write is known by the dots under which nodes applied it; any of them counts. A write without a known dot (a delete, an
     lww put that lost on arrival) is not judged here.
  2. A copy that was damaged within the fault budget and is not healed yet (`Copy.is_excused`) counts as if it were whole. Reads
     of an object of which any copy ever was damaged are not held to quorums.
  3. Quorums are judged by the acknowledgements that are durable, so that power losses between write and read do not matter.
Source: `correctness` 5, 11, 13, "a reply that shows a version not yet synced waits"; `reliability` 4.15. Complexity: O(nodes) for
each answered operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jepsen_lite.checkers.dots import Dot, DotWitness, key_of
from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from kvstore.causality.context import decode_context
from kvstore.causality.version_vector import VersionVector, merge_vectors
from kvstore.errors import InvalidContext
from kvstore.ids import ActorId

__all__ = ["Copy", "DurableJudge", "Floor"]

OWNERS_MIN = 2
"""Of three: then every quorum of two meets one. Of two owners, both."""
Floor = Mapping[int, VersionVector]
"""What had been acknowledged of an object when a read began: durable copies -> the join of the dots."""


class Copy(NamedTuple):
    """What one host holds of an object on its disk, synced; an empty vector if nothing."""

    host: str
    vector: VersionVector
    is_excused: bool = False


class DurableJudge:
    """`copies` looks at all hosts now; `was_harmed` says whether any copy of the object was ever damaged on purpose."""

    def __init__(
        self, witness: DotWitness, copies: Callable[[bytes], Sequence[Copy]], was_harmed: Callable[[bytes], bool]
    ) -> None:
        self._witness, self._copies, self._was_harmed = witness, copies, was_harmed
        self._floors: dict[bytes, dict[int, VersionVector]] = {}
        self.violations: list[Violation] = []
        self.writes = self.values = self.reads = self.moves = 0
        """What was judged: acknowledged writes, shown values, reads held to quorums, objects at a change of their owners."""

    def acknowledged(self, object_id: bytes, name: str, durable: int, index: int, *, guests: int = 0) -> None:
        """A client is told now that the value `name` is on `durable` disks. `index`: its invocation.

        While owners change, up to `guests` of these disks may be of nodes that no read asks: only the others hold a read to it,
        and such a node may have been dismissed, and have dropped its copy, while the answer was on its way.
        """
        dots = self._witness.dots_of(object_id, name)
        if not dots:
            return
        self.writes += 1
        copies = self._copies(object_id)
        holders = [copy.host for copy in copies if copy.is_excused or _covers_any(copy.vector, dots)]
        if len(holders) < durable - guests:
            message = f"{name} was acknowledged with durable={durable}, and is synced on {' '.join(holders) or 'no disk'} only"
            self._add(Broken.UNSYNCED, object_id, message, index)
        elif len(dots) == 1:
            floors = self._floors.setdefault(object_id, {})
            owners = durable - guests
            floors[owners] = merge_vectors(floors.get(owners, {}), {ActorId(dots[0].actor): dots[0].counter})

    def floor(self, object_id: bytes) -> Floor:
        """Return what a read that begins now has to see; give it to `shown`."""
        return dict(self._floors.get(object_id, {}))

    def shown(self, object_id: bytes, names: Iterable[str], index: int) -> None:
        """A client is shown these values now."""
        wanted = {name: dots for name in names if (dots := self._witness.dots_of(object_id, name))}
        copies = self._copies(object_id) if wanted else ()
        self.values += len(wanted)
        for name, dots in wanted.items():
            if not any(copy.is_excused or _covers_any(copy.vector, dots) for copy in copies):
                self._add(Broken.UNSYNCED, object_id, f"{name} is shown and synced on no disk", index)

    def answered(self, object_id: bytes, context: bytes, floor: Floor, *, replied: int, n: int, index: int) -> None:
        """A read that `replied` of `n` replicas answered has ended; `floor` is from its beginning."""
        due = [vector for durable, vector in floor.items() if durable + replied > n]
        if not due or self._was_harmed(object_id):
            return
        self.reads += 1
        try:
            seen, _ = decode_context(context, object_id[:8])
        except InvalidContext:
            seen = {}
        for vector in due:
            missed = [Dot(actor, counter) for actor, counter in vector.items() if seen.get(actor, 0) < counter]
            if missed:
                message = f"a read of {replied} of {n} has not seen {' '.join(map(self._name(object_id), missed))}"
                self._add(Broken.MISSED, object_id, message, index)

    def _name(self, object_id: bytes) -> Callable[[Dot], str]:
        bindings = self._witness.bindings(object_id)
        return lambda dot: (bindings[dot].value if dot in bindings else None) or str(dot)

    def moved(self, owners: Callable[[bytes], Sequence[str]]) -> None:
        """Owners change now, or guests are dismissed: whoever owns an object then must hold what was acknowledged of it.

        Two owners of it suffice for every later quorum; what was acknowledged with less, or was damaged, is not judged.
        """
        for object_id, floors in self._floors.items():
            due = merge_all(vector for durable, vector in floors.items() if durable >= OWNERS_MIN)
            if not due or self._was_harmed(object_id):
                continue
            self.moves += 1
            names, copies = owners(object_id), {copy.host: copy for copy in self._copies(object_id)}
            for dot in (Dot(actor, counter) for actor, counter in due.items()):
                holders = [
                    n for n in names if n in copies and (copies[n].is_excused or _covers_any(copies[n].vector, [dot]))
                ]
                if len(holders) < min(OWNERS_MIN, len(names)):
                    message = f"{self._name(object_id)(dot)} was acknowledged, and of its new owners {' '.join(names)} it is on "
                    self._add(Broken.MISSED, object_id, message + (" ".join(holders) or "none"), -1)

    def verdict(self) -> Verdict:
        """Return what was found so far."""
        figures = {"writes": float(self.writes), "values": float(self.values), "reads": float(self.reads)}
        figures["moves"] = float(self.moves)
        return Verdict("durable", tuple(self.violations), figures=figures)

    def _add(self, broken: Broken, object_id: bytes, message: str, index: int) -> None:
        self.violations.append(Violation(broken, key_of(object_id), message, (index,)))


def merge_all(vectors: Iterable[VersionVector]) -> VersionVector:
    """Return the join of vectors."""
    joined: VersionVector = {}
    for vector in vectors:
        joined = merge_vectors(joined, vector)
    return joined


def _covers_any(vector: VersionVector, dots: Iterable[Dot]) -> bool:
    return any(vector.get(ActorId(dot.actor), 0) >= dot.counter for dot in dots)
