"""What the running kernel remembers of a store, outside of its disk: the proof that a kill lost nothing.

    process      applies ──────────────► sequence 117        dies with SIGKILL
    witness      "run 9f3a, sequence 117"                    dies with the kernel (a file on tmpfs)
    disk         run 9f3a, sequence 117                      survives both, and may be put back to an earlier moment

An unclean start may continue its actor epochs only if disk and witness agree: the same kernel, the same run, and the disk
recovered everything that run ever applied. So a rolled-back volume, a page cache dropped by a failing or unmounted disk, and
a failed sync whose mark could not be written are all seen. No witness proves nothing: then epochs retire.

Invariants
  1. `applied` is told after the engine has a batch and before anybody hears of it: what others may have seen is covered.
     (What was *synced* would not do: peers are sent a write while its own sync still runs.)
  2. A run's token is random and durable in the store before its witness begins, so two histories never look like one.
  3. Whatever fails here makes the statement weaker, never stronger; opening a store never fails for want of a witness.
Source: correctness 1 and 3; ADR 0004.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

__all__ = ["MemoryWitness", "Statement", "Witness"]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a witness says. `store`: the node id in hex; `run`: the token of the last start; `refused`: see `Witness`."""

    boot_id: str
    store: str
    run: bytes
    sequence: int
    is_suspect: bool = False
    refused: bytes = b""

    def is_of(self, *, boot_id: str, store: str) -> bool:
        """Whether it speaks of this store under this kernel; anything else is worth nothing."""
        return boot_id != "" and (self.boot_id, self.store) == (boot_id, store)

    def contradiction(self, *, run: bytes | None, sequence: int) -> str:
        """Return how the store, as it was recovered, is not what this kernel last saw of it; empty if it is."""
        if run != self.run:
            return "the store is not as its last run left it (rolled back, restored, or that run died while it opened)"
        if sequence < self.sequence:
            return f"the store went back from change {self.sequence} to {sequence} of its last run"
        return ""


class Witness(Protocol):
    """One store's place in the memory of the kernel. Nothing here raises or waits."""

    def recall(self) -> Statement | None:
        """Return what was left by the last run, None if there is nothing readable."""

    def begin(self, statement: Statement) -> str:
        """Begin a run, replacing what was there. Returns why there will be no witness, empty if there is one."""

    def applied(self, sequence: int) -> None:
        """Remember that the store reached this sequence number. Called at every batch: 0.15 us in the file."""

    def accuse(self) -> None:
        """Remember that a write to disk failed: the store must not open again under this kernel."""

    def refuse(self, refused: bytes) -> bool:
        """Remember why this directory must not be started (empty: it may again); False if there is no witness."""

    def end(self) -> None:
        """Forget a run that stopped cleanly, unless there is a refusal to remember."""


class MemoryWitness:
    """The twin: the memory of a simulated machine. `forget` is its power loss."""

    def __init__(self) -> None:
        self.is_missing = False
        """No run directory: nothing is remembered, and what was is not found."""
        self._statement: Statement | None = None
        self._has_begun = False

    def forget(self) -> None:
        """Lose everything, as the kernel does when it restarts."""
        self._statement, self._has_begun = None, False

    def recall(self) -> Statement | None:
        self._has_begun = False
        return None if self.is_missing else self._statement

    def begin(self, statement: Statement) -> str:
        if self.is_missing:
            return "the simulated machine has no run directory"
        self._statement, self._has_begun = statement, True
        return ""

    def applied(self, sequence: int) -> None:
        if self._statement is not None and self._has_begun:
            self._statement = replace(self._statement, sequence=sequence)

    def accuse(self) -> None:
        if self._statement is not None and not self.is_missing:
            self._statement = replace(self._statement, is_suspect=True)

    def refuse(self, refused: bytes) -> bool:
        if self._statement is None or not self._has_begun:
            return False
        self._statement = replace(self._statement, refused=refused)
        return True

    def end(self) -> None:
        if self._statement is not None and not self._statement.refused:
            self._statement = None
