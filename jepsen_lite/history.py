"""The history of one run, in Jepsen's words: what each process asked for and what it was told. Every judge reads this.

    index  process  type    f    key  value
        0        0  invoke  put  k    a         ┐ a pair: the put ended well, somewhere between 0 and 2
        1        1  invoke  get  k              │ ┐
        2        0  ok      put  k    a         ┘ │
        3        1  info    get  k                ┘ unknown: process 1 is retired and `new_process` takes its place

`fail` means that it certainly did not happen (`KVStoreError.definite`), `info` that it may have, or may yet, for ever. An
operation that never completes is `info` too. On disk a history is JSON, one operation a line; what is not set is left out.

Invariants
  1. `index` counts from 0; time never runs backwards; a process has at most one operation under way, and none after `info`.
  2. A written value or added element is globally unique, so "reads from" is never ambiguous.
  3. `shown` of a put or delete are the values which its context stands for: those of the read that gave the context, or the
     one value of the put that gave it. It says what the *client* saw and never what the context's bytes say.
Source: Jepsen's history format and Knossos' rules for crashed processes. ONLY APPEND to the enums: they are the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

__all__ = ["ContextKind", "F", "History", "HistoryError", "Kind", "Op", "OpType", "Pair", "text_of"]


class HistoryError(ValueError):
    """This is not a history: it breaks an invariant of the format, so no judgement about it means anything."""


class OpType(StrEnum):
    """How far an operation has come."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class F(StrEnum):
    """What was asked for."""

    GET = "get"
    PUT = "put"
    DELETE = "delete"
    FINAL = "final"
    """A read of the key from all its replicas after the run, when every fault is healed."""
    ADD = "add"
    """Adds an element to a grow-only set that is kept as the union of siblings."""
    READ = "read"
    """Reads such a set; `values` are the elements with their multiplicity."""


class Kind(StrEnum):
    """The conflict rule of the object."""

    REGISTER = "register"
    LWW = "lww"
    SET = "set"


class ContextKind(StrEnum):
    """Where the context of a put or delete came from."""

    BLIND = "blind"
    """None was given. A blind delete reads for itself, and nobody knows what."""
    FRESH = "fresh"
    """From a read just before."""
    STALE = "stale"
    """From an older read, after which others (or the client itself) may have written."""
    FOREIGN = "foreign"
    """Handed over by another client, with the values that client was shown."""
    OWN = "own"
    """From the reply to the client's own put: it stands for that put's value."""
    MISSING = "missing"
    """An unusable one (a put that left siblings returns it): must be refused."""
    OTHER_KEY = "other_key"
    """One of another key: must be refused."""


WRITES = frozenset({F.PUT, F.DELETE, F.ADD})
READS = frozenset({F.GET, F.FINAL, F.READ})
REFUSED = frozenset({ContextKind.MISSING, ContextKind.OTHER_KEY})
"""Contexts with which no write may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One line of a history. What a field means depends on `type`: see each."""

    index: int
    process: int
    type: OpType
    f: F
    key: str
    time_ns: int
    kind: Kind = Kind.REGISTER
    value: str | None = None
    """The value of a put, the element of an add."""
    values: tuple[str, ...] | None = None
    """Completed reads: the siblings (or elements) that were shown, in the order of the reply."""
    shown: tuple[str, ...] = ()
    """Put and delete: the values that the given context stands for."""
    context_kind: ContextKind = ContextKind.BLIND
    context: bytes | None = None
    """Invoked writes: as given. Completed reads and writes: as returned."""
    r: int | None = None
    """Reads: how many replicas were asked to answer."""
    w: int | None = None
    """Writes: how many replicas had to acknowledge, if the client said so."""
    replied: int | None = None
    """Completed operations: how many replicas answered, or acknowledged."""
    attempts: int | None = None
    """Completed writes: how often the client sent it, if it knows."""
    operation_id: str | None = None
    """Writes: the id that the store binds to the dot (hex), if the recorder knows it."""
    replica: str | None = None
    """Reads that were answered by one replica alone: which."""
    error: str | None = None
    """Completed with fail or info: the code of the error."""
    session: int | None = None
    """The session that it belongs to, if it is in one. Sessions move: its operations may be of several processes."""

    def to_json(self) -> str:
        """Return one line of JSON; fields at their default are left out."""
        plain: dict[str, Any] = {}
        for name, default in _FIELDS:
            value = getattr(self, name)
            if value != default:
                plain[name] = value.hex() if isinstance(value, bytes) else value
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Op:
        """Read a line that `to_json` wrote; `HistoryError` if it is anything else."""
        try:
            plain = json.loads(line)
            for name, of in _OF_JSON.items():
                if plain.get(name) is not None:
                    plain[name] = of(plain[name])
            op = cls(**plain)
            if not (type(op.index) is type(op.process) is type(op.time_ns) is int and type(op.key) is str):
                raise TypeError("index, process and time_ns are numbers, the key is text")
            return op
        except (ValueError, TypeError, AttributeError) as problem:
            raise HistoryError(f"not an operation: {line.strip()[:200]!r}: {problem}") from None

    def __str__(self) -> str:
        """The operation as people read it: index, time, process, what, with what, and how it went."""
        words = [
            f"{self.index:>6} {self.time_ns / 1e9:>9.4f}s  p{self.process:<3} {self.type:<6} {self.f:<6} {self.key}"
        ]
        words += [self.value] if self.value is not None else []
        words += ["→ {" + " ".join(self.values) + "}"] if self.values is not None else []
        if self.type is OpType.INVOKE and self.f in (F.PUT, F.DELETE):
            words += [f"[{self.context_kind}: {' '.join(self.shown)}]"]
        words += [self.error] if self.error is not None else []
        return " ".join(words)


_REQUIRED = object()
_FIELDS = tuple(
    (each.name, _REQUIRED if each.name in {"index", "process", "type", "f", "key", "time_ns"} else each.default)
    for each in fields(Op)
)
_OF_JSON: dict[str, Any] = {
    "type": OpType,
    "f": F,
    "kind": Kind,
    "context_kind": ContextKind,
    "values": tuple,
    "shown": tuple,
    "context": bytes.fromhex,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """An invocation and how it ended; `completion` None means that it was still under way at the end, which is `info`."""

    invocation: Op
    completion: Op | None

    @property
    def outcome(self) -> OpType:
        """OK, FAIL or INFO."""
        return OpType.INFO if self.completion is None else self.completion.type

    @property
    def is_ok(self) -> bool:
        """Whether it was acknowledged."""
        return self.completion is not None and self.completion.type is OpType.OK

    @property
    def may_have_happened(self) -> bool:
        """Whether it was acknowledged or its outcome is unknown."""
        return self.completion is None or self.completion.type is not OpType.FAIL

    @property
    def ended_ns(self) -> int | None:
        """When it was acknowledged or refused; None if it may still take effect."""
        if self.completion is None or self.completion.type is OpType.INFO:
            return None
        return self.completion.time_ns

    @property
    def values(self) -> tuple[str, ...]:
        """What a read showed; empty unless it was answered."""
        return (self.completion.values or ()) if self.completion is not None and self.is_ok else ()

    @property
    def indexes(self) -> tuple[int, ...]:
        """Return the indexes of its one or two operations, as evidence."""
        first = self.invocation.index
        return (first,) if self.completion is None else (first, self.completion.index)


class History:
    """Grows only. Record with `invoke` and `complete`; read with `ops` and `pairs`."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._completions: dict[int, Op] = {}
        self._under_way: dict[int, Op] = {}
        self._retired: set[int] = set()
        self._writes: dict[str, int] = {}
        self._process_next = 0

    def __len__(self) -> int:
        return len(self.ops)

    def new_process(self) -> int:
        """Return the number of a process that was never used: for a new client, or in place of a retired one."""
        self._process_next += 1
        return self._process_next - 1

    def invoke(
        self, process: int, f: F, key: str, *, time_ns: int, kind: Kind = Kind.REGISTER, value: str | None = None,
        shown: Iterable[str] = (), context_kind: ContextKind = ContextKind.BLIND, context: bytes | None = None,
        r: int | None = None, w: int | None = None, operation_id: str | None = None, replica: str | None = None,
        session: int | None = None,
    ) -> Op:  # fmt: skip
        """Add an operation that is about to be sent; pass what it returns to `complete`."""
        return self.append(Op(
            index=len(self.ops), process=process, type=OpType.INVOKE, f=f, key=key, time_ns=time_ns, kind=kind, value=value,
            shown=tuple(shown), context_kind=context_kind, context=context, r=r, w=w, operation_id=operation_id, replica=replica,
            session=session,
        ))  # fmt: skip

    def complete(
        self, invocation: Op, outcome: OpType, *, time_ns: int, values: Iterable[str] | None = None,
        context: bytes | None = None, replied: int | None = None, attempts: int | None = None, error: str | None = None,
    ) -> Op:  # fmt: skip
        """Add how an operation ended. After INFO the process is retired: go on with `new_process`."""
        return self.append(replace(
            invocation, index=len(self.ops), type=outcome, time_ns=time_ns, shown=(), context_kind=ContextKind.BLIND,
            values=None if values is None else tuple(values), context=context, replied=replied, attempts=attempts, error=error,
        ))  # fmt: skip

    def append(self, op: Op) -> Op:
        """Add an operation as it stands; `HistoryError`, and nothing is added, if it cannot come next."""
        if op.index != len(self.ops):
            raise HistoryError(f"index {op.index} comes where {len(self.ops)} should")
        if self.ops and op.time_ns < self.ops[-1].time_ns:
            raise HistoryError(f"time runs backwards at index {op.index}")
        if op.type is OpType.INVOKE:
            self._begin(op)
        else:
            self._end(op)
        self.ops.append(op)
        return op

    def _begin(self, op: Op) -> None:
        if op.process in self._retired or op.process in self._under_way:
            raise HistoryError(f"process {op.process} is retired or busy at index {op.index}")
        if (op.value is None) == (op.f in (F.PUT, F.ADD)):
            raise HistoryError(f"{op.f} at index {op.index} has the wrong number of values")
        if op.value is not None:
            first = self._writes.setdefault(op.value, op.index)
            if first != op.index:
                raise HistoryError(
                    f"{op.value!r} is written twice, at index {first} and {op.index}: reads-from is ambiguous"
                )
        self._under_way[op.process] = op
        self._process_next = max(self._process_next, op.process + 1)

    def _end(self, op: Op) -> None:
        began = self._under_way.get(op.process)
        if began is None or (began.f, began.key, began.kind) != (op.f, op.key, op.kind):
            raise HistoryError(f"index {op.index} completes nothing that process {op.process} began")
        if op.type is OpType.OK and op.f in READS and op.values is None:
            raise HistoryError(f"the read at index {op.index} was answered without values")
        del self._under_way[op.process]
        self._completions[began.index] = op
        if op.type is OpType.INFO:
            self._retired.add(op.process)

    def pairs(self) -> Iterator[Pair]:
        """Yield every invocation with its completion, in the order in which they were invoked."""
        completions = self._completions
        for op in self.ops:
            if op.type is OpType.INVOKE:
                yield Pair(op, completions.get(op.index))

    def count(self, f: F, outcome: OpType) -> int:
        """Return how many operations of this kind ended so; those still under way are INFO."""
        return sum(pair.invocation.f is f and pair.outcome is outcome for pair in self.pairs())

    def to_json_lines(self) -> str:
        """Return the whole history as text; `from_json_lines` reads it back, equal."""
        return "".join(op.to_json() + "\n" for op in self.ops)

    @classmethod
    def of(cls, ops: Iterable[Op]) -> History:
        """Return the history of these operations; `HistoryError` if they are none."""
        history = cls()
        for op in ops:
            history.append(op)
        return history

    @classmethod
    def from_json_lines(cls, text: str | Iterable[str]) -> History:
        """Read a history; blank lines and lines that begin with `#` are skipped."""
        lines: Sequence[str] | Iterable[str] = text.split("\n") if isinstance(text, str) else text
        return cls.of(Op.from_json(line) for line in lines if line.strip() and not line.lstrip().startswith("#"))


def text_of(value: bytes) -> str:
    """Return a value as a history holds it: UTF-8, with the bytes that are none escaped."""
    return value.decode("utf-8", "backslashreplace")
