"""Histories written as text, one step a line, so that a corpus can be read at a glance.

    0 put k A ok                  process 0 puts A blind; invoked and acknowledged, nothing in between
    0 put k B [A] ok              with a context that had shown A (kind fresh); [] is a context that had shown nothing
    0 put k B [A] stale ok        with the kind of the context named
    0 put k B own[A] ok           the same, kind first
    0 delete k [A B] info         unknown outcome: process 0 is retired
    0 put k C [B] ...             invoked only; `0 ok`, `0 fail` or `0 info` in a later line completes it
    0 put k C [B] ok x2           sent twice (attempts)
    1 get k -> A B                an answered read; `1 get k -> ` showed nothing; `1 get k fail`
    final k -> A B                a read of all replicas, by a process of its own
    0 add s 7 ok    1 read s -> 1 2 7
    @500                          time stands at 500 ms from here on; otherwise each operation takes 1 ms

Keys that begin with `w` are lww, with `s` sets, others registers.
"""

from __future__ import annotations

import re

from jepsen_lite.history import ContextKind, F, History, Kind, Op, OpType

__all__ = ["tell"]

_LINE = re.compile(
    r"(?:(?P<process>\d+) )?(?P<f>put|delete|get|final|add|read) (?P<key>\w+)(?: (?P<value>\w+))??"
    r"(?: (?P<before>[a-z_]+)?\[(?P<shown>[^]]*)\])?(?: (?P<kind>blind|fresh|stale|foreign|own|missing|other_key))?"
    r"(?: (?P<outcome>ok|fail|info|\.\.\.|->.*))(?: x(?P<attempts>\d+))?"
)
_LATER = re.compile(r"(?P<process>\d+) (?P<outcome>ok|fail|info|->.*)(?: x(?P<attempts>\d+))?")
_KINDS = {"w": Kind.LWW, "s": Kind.SET}


class _Script:
    def __init__(self) -> None:
        self.history = History()
        self.now_ms = 0
        self.under_way: dict[int, Op] = {}
        self.stand_ins: dict[int, int] = {}
        self.process_next = 100

    def step(self, line: str) -> None:
        if line.startswith("@"):
            self.now_ms = int(line[1:])
        elif later := _LATER.fullmatch(line):
            self.end(int(later["process"]), later["outcome"], later["attempts"])
        else:
            whole = _LINE.fullmatch(line)
            assert whole is not None, f"not a step: {line!r}"
            self.begin(whole)

    def begin(self, line: re.Match[str]) -> None:
        name = int(line["process"]) if line["process"] else 99
        f, shown, key = F(line["f"]), (line["shown"] or "").split(), line["key"]
        kind = ContextKind(line["before"] or line["kind"] or ("fresh" if line["shown"] is not None else "blind"))
        self.under_way[name] = self.history.invoke(
            self.stand_ins.get(name, name), f, key, time_ns=self.tick(), kind=_KINDS.get(key[0], Kind.REGISTER),
            value=line["value"], shown=shown, context_kind=kind,
        )  # fmt: skip
        if line["outcome"] != "...":
            self.end(name, line["outcome"], line["attempts"])

    def end(self, name: int, outcome: str, attempts: str | None) -> None:
        values = outcome[2:].split() if outcome.startswith("->") else None
        how = OpType.OK if values is not None else OpType(outcome)
        op = self.under_way.pop(name)
        self.history.complete(
            op, how, time_ns=self.tick(), values=values, attempts=int(attempts) if attempts else None,
            error=None if how is OpType.OK else "timeout" if how is OpType.INFO else "overloaded",
        )  # fmt: skip
        if how is OpType.INFO:
            self.stand_ins[name] = self.process_next = self.process_next + 1

    def tick(self) -> int:
        self.now_ms += 1
        return self.now_ms * 1_000_000


def tell(text: str) -> History:
    """Return the history that a script tells. Steps stand on lines of their own or are separated by `;`."""
    script = _Script()
    for line in re.split(r"[;\n]", text):
        if line.strip():
            script.step(line.strip())
    return script.history
