"""Read-quorum accumulator: decides when a get may answer, what it answers, and whom to repair.

Pure: no clock, no I/O. Feed replies with `add_result` and failures with `add_failure`; once `enough`, `merged` is the join of
everything seen so far; `stale` says which of the replicas that answered do not hold exactly that.

Invariants
  1. `enough` never goes from True back to False; later replies only add repairs.
  2. Equal bytes are equal states (records are canonical), so agreement decodes nothing, whatever r is.
  3. A failure is never counted as "not found".
Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.5; riak_kv_get_core (facts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from kvstore.causality.dvvset import DVVSet
from kvstore.ids import StorageKey
from kvstore.storage.record import decode_record, encode_record

__all__ = ["ReadCore"]

Replica = TypeVar("Replica")
Merge = Callable[[DVVSet, DVVSet], DVVSet]


class ReadCore(Generic[Replica]):
    """Counts and records of one get."""

    __slots__ = ("_agreed", "_differ", "enough", "failed", "pr", "primaries", "r", "results")

    def __init__(self, r: int, pr: int) -> None:
        self.r, self.pr = r, pr
        self.results: list[tuple[Replica, bytes]] = []
        self.primaries = self.failed = 0
        self.enough = r <= 0 and pr <= 0
        """Whether r replicas, pr of them primaries, have answered."""
        self._agreed = b""
        self._differ = False

    def add_result(self, replica: Replica, record: bytes, primary: bool = True) -> None:
        """Count an answer; `record` empty means the replica is sure that it holds nothing."""
        self.results.append((replica, record))
        if primary:
            self.primaries += 1
        if record != self._agreed:
            if not self._agreed:
                self._agreed = record
            elif record:
                self._differ = True
        if len(self.results) >= self.r and self.primaries >= self.pr:
            self.enough = True

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
