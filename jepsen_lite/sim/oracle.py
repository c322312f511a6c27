"""Black-box judge of registers: no acknowledged value is gone unless a client that had been shown it replaced it.

    put A ──ok──►   read shows {A}   put B (with its context) ──?──►   at the end:  {B} fine   {A} fine   {} A is LOST

It looks only at values that clients wrote and were shown, never at contexts, dots or clocks of the store: an oracle that
trusted those passed 60,000 walks that lost data (`correctness` rule 29). Every written value is unique.

Invariants
  1. A put that failed definitely replaces nothing, and must never be seen. One of unknown outcome may do both, or neither.
  2. A value is accounted for if it is there at the end, or if a put whose client had been shown it is accounted for.
     So a chain of replacements must end in a value that is really there.
  3. What a read has shown counts like what was acknowledged: a read shows only what is durable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["History", "Outcome", "PutRecord"]


class Outcome:
    """How a put ended, in the words of Jepsen: certainly, certainly not, or unknown for ever."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(slots=True)
class PutRecord:
    """One put of a client. `shown` are the values its context came from; `ended_at_s` is None while unknown."""

    key: str
    value: bytes
    shown: tuple[bytes, ...]
    invoked_at_s: float
    outcome: str = Outcome.INFO
    ended_at_s: float | None = None


class History:
    """What the clients of one run wrote and were shown, in the order in which it happened."""

    def __init__(self) -> None:
        self.puts: dict[bytes, PutRecord] = {}
        self._shown: dict[bytes, str] = {}

    def invoke(self, key: str, value: bytes, shown: Iterable[bytes], at_s: float) -> PutRecord:
        """Add a put that is about to be sent; its outcome is unknown until `end`."""
        assert value not in self.puts, "values are unique: reads-from would be ambiguous"
        record = self.puts[value] = PutRecord(key, value, tuple(shown), at_s)
        return record

    def end(self, record: PutRecord, outcome: str, at_s: float) -> None:
        """Say how a put ended."""
        record.outcome, record.ended_at_s = outcome, at_s

    def show(self, key: str, values: Iterable[bytes]) -> None:
        """Add that a read of `key` showed these values to a client."""
        for value in values:
            self._shown.setdefault(value, key)

    def acknowledged_count(self) -> int:
        """Return how many puts were acknowledged."""
        return sum(record.outcome == Outcome.OK for record in self.puts.values())

    def lost(self, final: Mapping[str, Collection[bytes]], keys: Iterable[str]) -> list[str]:
        """Return, for the register keys `keys`, every acknowledged or shown value that `final` does not account for."""
        accounted = self._accounted(final)
        wanted = frozenset(keys)
        return [
            f"{record.key}: {value!r} ({record.outcome}) is gone and nothing that replaced it is there"
            for value, record in self.puts.items()
            if record.key in wanted
            and (record.outcome == Outcome.OK or value in self._shown)
            and not accounted.get(value, False)
        ]

    def _accounted(self, final: Mapping[str, Collection[bytes]]) -> dict[bytes, bool]:
        """Walk back in time: a put can only have been shown what was invoked before it."""
        accounted: dict[bytes, bool] = {}
        for value, record in reversed(self.puts.items()):
            is_accounted = accounted.get(value, False) or value in final[record.key]
            accounted[value] = is_accounted
            if is_accounted and record.outcome != Outcome.FAIL:
                for replaced in record.shown:
                    accounted[replaced] = True
        return accounted

    def phantoms(self, final: Mapping[str, Collection[bytes]]) -> list[str]:
        """Return every value seen that was never put to its key, or whose put failed definitely."""
        seen = [(value, key) for value, key in self._shown.items()]
        seen += [(value, key) for key, values in final.items() for value in values]
        found = []
        for value, key in dict.fromkeys(seen):
            record = self.puts.get(value)
            if record is None or record.key != key:
                found.append(f"{key}: {value!r} was seen and never put there")
            elif record.outcome == Outcome.FAIL:
                found.append(f"{key}: {value!r} was seen although its put failed definitely")
        return found

    def overtaken(self, final: Mapping[str, Collection[bytes]], keys: Iterable[str], *, margin_s: float) -> list[str]:
        """Return, for the lww keys `keys`, every final value older than an acknowledged put, or missing.

        A put that was invoked more than `margin_s` (twice the clock skew) after another was acknowledged must win.
        """
        wanted = frozenset(keys)
        found = []
        for record in self.puts.values():
            if record.key in wanted and record.outcome == Outcome.OK and record.value not in final[record.key]:
                winners = [self.puts[value] for value in final[record.key] if value in self.puts]
                if not winners or any(_certainly_before(winner, record, margin_s) for winner in winners):
                    found.append(f"{record.key}: {record.value!r} lost to an older or missing value")
        return found


def _certainly_before(first: PutRecord, second: PutRecord, margin_s: float) -> bool:
    ended = first.ended_at_s if first.outcome == Outcome.OK else None
    return ended is not None and ended + margin_s < second.invoked_at_s
