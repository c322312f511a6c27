"""Read-quorum accumulator: decides when a get may answer, what it answers, and whom to repair.

Pure: no clock, no I/O. Feed replies with `add_result` and failures with `add_failure`; once `enough`, `merged` is the join of
everything seen so far; `stale` says which of the replicas that answered do not hold exactly that.

Invariants
  1. `enough` never goes from True back to False; later replies only add repairs.
  2. Equal bytes are equal states (records are canonical), so agreement costs one decode, whatever r is.
  3. A failure is never counted as "not found".
Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.5; riak_kv_get_core (facts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from kvstore.causality.dvvset import EMPTY, DVVSet

__all__ = ["ReadCore"]

Replica = TypeVar("Replica")


class ReadCore(Generic[Replica]):
    """Counts and records of one get. `decode` verifies and decodes, `merge` joins, `encode` makes canonical bytes."""

    __slots__ = ("_decode", "_encode", "_merge", "_record", "failed", "pr", "primaries", "r", "results", "state")

    def __init__(
        self, *, r: int, pr: int, decode: Callable[[bytes], DVVSet], merge: Callable[[DVVSet, DVVSet], DVVSet],
        encode: Callable[[DVVSet], bytes],
    ) -> None:  # fmt: skip
        self.r, self.pr = r, pr
        self._decode, self._merge, self._encode = decode, merge, encode
        self.results: list[tuple[Replica, bytes]] = []
        self.primaries = self.failed = 0
        self.state: DVVSet | None = None
        self._record = b""

    @property
    def enough(self) -> bool:
        """Whether r replicas, pr of them primaries, have answered."""
        return len(self.results) >= self.r and self.primaries >= self.pr

    def add_result(self, replica: Replica, record: bytes, *, primary: bool = True) -> None:
        """Count an answer; `record` empty means the replica is sure that it holds nothing."""
        self.results.append((replica, record))
        self.primaries += primary

    def add_failure(self) -> None:
        """Count a replica that could not answer."""
        self.failed += 1

    def agreed(self) -> bytes | None:
        """Return the record that every answer which holds one holds (empty if none does), or None if they differ."""
        agreed = b""
        for _, record in self.results:
            if record and record != agreed:
                if agreed:
                    return None
                agreed = record
        return agreed

    def merged(self) -> tuple[DVVSet, bytes]:
        """Return the join of all answers and its record (empty if there is none). Raises what `decode` raises."""
        distinct = [record for _, record in self.results if record]
        if not distinct:
            return EMPTY, b""
        first = distinct[0]
        others = [record for record in distinct[1:] if record != first]
        state = self._decode(first)
        if not others:
            return state, first
        for record in others:
            state = self._merge(state, self._decode(record))
        return state, self._encode(state)

    def stale(self, record: bytes) -> list[Replica]:
        """Return the replicas that answered with anything but `record`, in the order in which they answered."""
        return [replica for replica, held in self.results if held != record]
