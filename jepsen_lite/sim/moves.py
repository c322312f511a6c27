"""What became of every move of a run (ring/move.py), and what struck while it was under way.

    the founder's disk ◄── topology ── put into force       each document is seen here: a move begins, flips, ends, is cancelled
    a crash, a cut ──► while one is under way?  ──► counted

Looks only: it costs no virtual time and nothing of it is in the trace. A move is known by (began, joiner), so a document that a
power loss took back and that is made again counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from kvstore.ids import NodeId, StorageKey
from kvstore.ring.token import partition_of
from kvstore.ring.topology import MemberState, Move, MovePhase, Topology
from kvstore.ring.topology_codec import decode

__all__ = ["MoveLog", "Outcome"]


class Outcome(Enum):
    """How far a move has come."""

    COPYING = "copying"
    SETTLING = "settling"
    ENDED = "ended"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class _Seen:
    move: Move
    outcome: Outcome = Outcome.COPYING
    is_ended_under_faults: bool = False


class MoveLog:
    """`see` is told every topology that the founder stores; `count` every fault."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, NodeId], _Seen] = {}
        self._current: _Seen | None = None
        self._met: dict[str, int] = {}
        self._epoch = self._began_after = 0
        self._topology: Topology | None = None
        self.on_owners: Callable[[Topology], None] = lambda topology: None
        """Told when owners change, and when the guests of a move are dismissed."""
        self.is_under_faults = False
        """Whether the nemesis is at work: what ends later ended because everything was healed."""

    def begin(self) -> None:
        """Forget what formed the cluster, also what of it is under way."""
        self._seen, self._current, self._met, self._began_after = {}, None, {}, self._epoch

    @property
    def current(self) -> Move | None:
        """The move under way, by the newest document that the founder stored."""
        return self._current.move if self._current is not None else None

    def is_member(self, node_id: bytes | None) -> bool:
        """Whether it was a full member when the founder stored a topology last."""
        member = self._topology.maybe_member(NodeId(node_id)) if self._topology is not None and node_id else None
        return member is not None and member.state is MemberState.NORMAL

    def is_owner(self, node_id: bytes, key: bytes) -> bool:
        """Whether it owned the key then; guests do not."""
        topology = self._topology
        return topology is not None and node_id in topology.owners_of(
            partition_of(StorageKey(key), topology.partition_bits)
        )

    def see(self, document: bytes) -> None:
        """Hear of the topology that the founder stores now."""
        topology, before = decode(document), self._current
        self._epoch, self._topology = topology.epoch, topology
        move = topology.move if topology.move is not None and topology.move.began > self._began_after else None
        if before is not None and (move is None or move.joiner != before.move.joiner):
            is_done = before.outcome is Outcome.SETTLING
            before.outcome = Outcome.ENDED if is_done else Outcome.CANCELLED
            before.is_ended_under_faults = is_done and self.is_under_faults
            if is_done:
                self.on_owners(topology)
        self._current = None if move is None else self._seen.setdefault((move.began, move.joiner), _Seen(move))
        if self._current is not None and move is not None:
            self._current.move, was = move, self._current.outcome
            self._current.outcome = Outcome.COPYING if move.phase is MovePhase.COPYING else Outcome.SETTLING
            if was is Outcome.COPYING and self._current.outcome is Outcome.SETTLING:
                self.on_owners(topology)

    def count(self, fault: str) -> None:
        """Count a fault if it meets a move."""
        if self._current is not None:
            self._met[fault] = self._met.get(fault, 0) + 1

    def counts(self) -> dict[str, int]:
        """Return what became of the moves since `begin`, and how many faults of each kind met one."""
        moves = list(self._seen.values())
        # A joiner that replaces somebody says so until the end; nobody is both.
        of_kind = {
            "joins": [m for m in moves if m.move.replaces is None],
            "replaces": [m for m in moves if m.move.replaces is not None],
        }
        told = {f"{kind}_begun": len(those) for kind, those in of_kind.items()}
        told |= {f"{kind}_ended": _count(those, Outcome.ENDED) for kind, those in of_kind.items()}
        told["ended_under_faults"] = sum(m.is_ended_under_faults for m in moves)
        told["cancelled"] = _count(moves, Outcome.CANCELLED)
        told["left_under_way"] = _count(moves, Outcome.COPYING) + _count(moves, Outcome.SETTLING)
        return told | {f"met_{fault}": count for fault, count in sorted(self._met.items())}


def _count(moves: list[_Seen], outcome: Outcome) -> int:
    return sum(each.outcome is outcome for each in moves)
