"""Histories of any system written as text, for the strict reader: what it makes of them is what a user's file would become.

    0 write 1                invoked and acknowledged, nothing in between
    0 write 1 ...            invoked only; `0 ok`, `0 fail`, `0 info` in a later step completes it
    0 write 1 info           unknown outcome; `0 write 1 fail` certainly failed
    0 cas 1 2                a cas that succeeded
    1 read -> 1              an answered read; `1 read -> nil`; `1 read ...` and later `1 -> 1`
    1 read -> [1 2]          a list
    0 write 1 @y             of the key y
    nemesis start-partition
    #500                     the time is 500 ms from here on; otherwise each event takes 1 ms

Steps stand on lines of their own or are separated by `;`.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

from jepsen_lite.events import EventLog, read_events

__all__ = ["events", "lines_of"]


def lines_of(text: str) -> str:
    """Return the JSON lines of a script."""
    lines: list[dict[str, Any]] = []
    under_way: dict[str, dict[str, Any]] = {}
    now_ms = 0
    for step in (part.strip() for part in re.split(r"[;\n]", text)):
        if not step:
            continue
        if step.startswith("#"):
            now_ms = int(step[1:])
            continue
        process, _, rest = step.partition(" ")
        now_ms += 1
        base = {"process": int(process) if process.isdigit() else process, "time_ns": now_ms * 1_000_000}
        if process == "nemesis":
            lines.append({**base, "type": "info", "f": rest})
            continue
        if not re.match(r"(ok|fail|info|->)\b|->", rest):
            rest, key = (rest, None) if "@" not in rest else _without_key(rest)
            asked, how = _asked(rest)
            began = {"f": asked[0], "value": _value(asked[1:])} | ({"key": key} if key else {})
            under_way[process] = began
            lines.append({**base, "type": "invoke", **began})
            if how == "...":
                continue
            rest, now_ms = how, now_ms + 1
        ends = {**base, **under_way.pop(process), "time_ns": now_ms * 1_000_000}
        if rest.startswith("->"):
            lines.append({**ends, "type": "ok", "value": _answer(rest[2:].strip())})
        else:
            lines.append({**ends, "type": rest})
    return "".join(json.dumps(line) + "\n" for line in lines)


def events(text: str) -> EventLog:
    """Return the history that a script tells, as read from its JSON lines."""
    return read_events(io.BytesIO(lines_of(text).encode()))


def _without_key(text: str) -> tuple[str, str]:
    found = re.search(r" @(\w+)", text)
    assert found is not None
    return text.replace(found[0], ""), found[1]


def _asked(text: str) -> tuple[list[str], str]:
    before, arrow, answer = text.partition(" -> ")
    if arrow:
        return before.split(), f"-> {answer}"
    words = text.split()
    return (words[:-1], words[-1]) if words[-1] in ("ok", "fail", "info", "...") else (words, "ok")


def _value(words: list[str]) -> Any:
    values = [_scalar(word) for word in words]
    return None if not values else values[0] if len(values) == 1 else values


def _answer(text: str) -> Any:
    return [_scalar(word) for word in text[1:-1].split()] if text.startswith("[") else _scalar(text)


def _scalar(word: str) -> Any:
    return None if word == "nil" else int(word) if re.fullmatch(r"-?\d+", word) else word
