"""Write-quorum accumulator: decides when a put may be acknowledged, or can no longer be.

Pure: no clock, no I/O. Every replica asked ends in exactly one `add_durable` or `add_failure`; `add_applied` may come before,
from a replica that was asked to answer twice.

Invariants
  1. durable <= applied <= asked, and settled replicas + outstanding == asked.
  2. The outcome never leaves MET, and never leaves IMPOSSIBLE.
Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.5. Differs: durable (dw) and primary (pw) acks are counted apart.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Outcome", "WriteCore"]


class Outcome(Enum):
    """Where a quorum stands."""

    PENDING = 0
    MET = 1
    IMPOSSIBLE = 2


class WriteCore:
    """Counts for one put that asked `asked` replicas."""

    __slots__ = ("applied", "asked", "durable", "dw", "outcome", "outstanding", "primaries", "pw", "w")

    def __init__(self, *, asked: int, w: int, dw: int, pw: int) -> None:
        self.asked = self.outstanding = asked
        self.w, self.dw, self.pw = w, dw, pw
        self.applied = self.durable = self.primaries = 0
        self.outcome = Outcome.PENDING

    def copy(self) -> WriteCore:
        """Return a core that stands where this one does, and goes its own way from here."""
        core = WriteCore(asked=self.asked, w=self.w, dw=self.dw, pw=self.pw)
        core.outstanding, core.applied, core.durable = self.outstanding, self.applied, self.durable
        core.primaries, core.outcome = self.primaries, self.outcome
        return core

    def add_applied(self, *, primary: bool) -> bool:
        """Count a replica that has applied the write but not synced it. Returns whether the outcome became MET now."""
        self.applied += 1
        self.primaries += primary
        return self._judge()

    def add_durable(self, *, primary: bool, counted: bool) -> bool:
        """Count a replica that has the write on disk; `counted` if `add_applied` saw it before."""
        self.outstanding -= 1
        self.durable += 1
        if not counted:
            self.applied += 1
            self.primaries += primary
        return self._judge()

    def add_failure(self) -> bool:
        """Count a replica that will not acknowledge. Returns whether the outcome changed now."""
        self.outstanding -= 1
        return self._judge()

    def _judge(self) -> bool:
        if self.outcome is not Outcome.PENDING:
            return False
        if self.applied >= self.w and self.durable >= self.dw and self.primaries >= self.pw:
            self.outcome = Outcome.MET
        elif self.durable + self.outstanding < max(self.w, self.dw, self.pw):
            # Every replica that is not outstanding is durable or failed, so this bounds all three counts.
            self.outcome = Outcome.IMPOSSIBLE
        else:
            return False
        return True
