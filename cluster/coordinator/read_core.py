"""Read-quorum accumulator: decides when a get may answer, what it answers, and whom to repair.

    r answers ──cover the session's history?──yes─► enough
                    └──no─► is_behind: the others have to be asked

Pure: no clock, no I/O. Feed replies with `add_result` and failures with `add_failure`; once `enough`, `merged` is the join of
everything seen so far; `stale` says which of the replicas that answered do not hold exactly that.

Invariants
  1. `enough` never goes from True back to False; later replies only add repairs.
  2. Equal bytes are equal states (records are canonical), so agreement decodes nothing, whatever r is.
  3. A failure is never counted as "not found".
  4. Once `enough`, the join of the answers has seen all of `history`: a join's vector has the largest counter of each actor, so
     `lacking` is what no single answer has shown, actor by actor.
Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.5; riak_kv_get_core (facts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from kvstore.causality.dvvset import DVVSet
from kvstore.causality.version_vector import VersionVector
from kvstore.ids import StorageKey
from kvstore.storage.record import decode_record, encode_record, vector_of

__all__ = ["ReadCore"]

Replica = TypeVar("Replica")
Merge = Callable[[DVVSet, DVVSet], DVVSet]


class ReadCore(Generic[Replica]):
    """Counts and records of one get."""

    __slots__ = ("_agreed", "_differ", "enough", "failed", "lacking", "pr", "primaries", "r", "results")

    def __init__(self, r: int, pr: int, history: VersionVector | None = None) -> None:
        self.r, self.pr, self.lacking = r, pr, history or None
        """What of a session's history no answer has seen yet; None if there is nothing."""
        self.results: list[tuple[Replica, bytes]] = []
        self.primaries = self.failed = 0
        self.enough = r <= 0 and pr <= 0 and self.lacking is None
        """Whether r replicas, pr of them primaries, have answered, and together have seen the session's history."""
        self._agreed = b""
        self._differ = False

    def add_result(self, replica: Replica, record: bytes, primary: bool = True) -> None:
        """Count an answer; `record` empty means the replica is sure that it holds nothing.

        Raises Corruption in a session: the record cannot be decoded, and was not counted.
        """
        if self.lacking is not None and record:
            self._take_off(vector_of(record))
        self.results.append((replica, record))
        if primary:
            self.primaries += 1
        if record != self._agreed:
            if not self._agreed:
                self._agreed = record
            elif record:
                self._differ = True
        if len(self.results) >= self.r and self.primaries >= self.pr and self.lacking is None:
            self.enough = True

    @property
    def is_behind(self) -> bool:
        """Whether enough replicas have answered, but have not seen the session's history."""
        return self.lacking is not None and len(self.results) >= self.r and self.primaries >= self.pr

    def _take_off(self, vector: VersionVector) -> None:
        lacking = self.lacking or {}
        self.lacking = {actor: c for actor, c in lacking.items() if vector.get(actor, 0) < c} or None

    def add_failure(self) -> None:
        """Count a replica that could not answer."""
        self.failed += 1

    def has(self, record: bytes) -> bool:
        """Whether a replica has answered with exactly this record before."""
        return record == self._agreed or any(record == held for _, held in self.results)

    def merged(self, key: StorageKey, merge: Merge) -> bytes:
        """Return the record of the join of all answers, empty if none holds anything. Raises Corruption."""
        if not self._differ:
            return self._agreed
        state: DVVSet | None = None
        for record in dict.fromkeys(held for _, held in self.results if held):
            theirs = decode_record(key, record)
            state = theirs if state is None else merge(state, theirs)
        assert state is not None, "answers that differ are not empty"
        return encode_record(key, state)

    def stale(self, record: bytes) -> list[Replica]:
        """Return the replicas that answered with anything but `record`, in the order in which they answered."""
        return [replica for replica, held in self.results if held != record]
