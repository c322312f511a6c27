"""Operations as checkers of any system see them: asked, answered or not, in the order of real time.

    index   0       1       2      3
            ├── write 1 ────┤             Call(invoked=0, returned=2)
                    ├── read → 1 ──┤      Call(invoked=1, returned=3)
                    ├── cas [1, 2] ···    Call(invoked=…, returned=None): may take effect at any time from now on, or never

Operations that certainly failed are no calls: they never took effect. Times do not matter, only the order of indexes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = ["Call", "Operation", "Process", "Value", "shown"]

Value: TypeAlias = "int | str | tuple[Value, ...] | None"
"""What JSON holds, made hashable. No floats and no booleans: 1, 1.0 and True are equal in Python, and not in a history."""
Process: TypeAlias = int | str


class Operation(NamedTuple):
    """What was asked, and what was answered; `result` is None if nothing was, or nobody knows what.

    Two that are equal do the same. `process` is set only if it matters who asked (a lock); see `Model.understand`.
    """

    f: str
    value: Value = None
    result: Value = None
    process: Process | None = None

    def __str__(self) -> str:
        words = [self.f] if self.value is None else [self.f, shown(self.value)]
        words += [] if self.result is None else ["→", shown(self.result)]
        words += [] if self.process is None else [f"by {self.process}"]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Call:
    """One operation that took effect or may have. `ended` is the index of the line that ended it, also of an `info`."""

    operation: Operation
    invoked: int
    returned: int | None
    ended: int | None = None

    @property
    def indexes(self) -> tuple[int, ...]:
        """Return its one or two indexes in the history, as evidence."""
        end = self.returned if self.returned is not None else self.ended
        return (self.invoked,) if end is None else (self.invoked, end)

    def __str__(self) -> str:
        return f"{self.operation} [{', '.join(map(str, self.indexes))}{', unknown' if self.returned is None else ''}]"


def shown(value: Value) -> str:
    """Return a value for people: JSON in ASCII, so that nothing in a history can move a terminal's cursor."""
    return json.dumps(value)
