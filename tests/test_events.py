"""The strict reader of foreign histories: what it takes, what it refuses and in which line, and what that costs."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_lite.events import LINE_BYTES_MAX, EventPair, HistoryError, read_events
from jepsen_lite.history import OpType
from tests.support.cost import assert_cheap_refusal

INVOKE = {"process": 0, "type": "invoke", "f": "read"}


def read(*lines: dict[str, Any] | str | bytes) -> Any:
    raw = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    return read_events(io.BytesIO(b"\n".join(raw)))


def test_a_history_is_read_as_it_was_written() -> None:
    """Blank lines and comments count as lines; keys are text; lists become tuples; the nemesis is no process."""
    log = read(
        "# from etcd", "",
        {"index": 0, "process": "a", "type": "invoke", "f": "cas", "key": 7, "value": [1, [None, "x"]], "time_ns": 5},
        {"process": "nemesis", "type": "info", "f": "start-partition", "note": "half", "time_ns": 6},
        {"index": 2, "process": "a", "type": "fail", "f": "cas", "key": 7, "error": "no", "node": "n1", "time_ns": 6},
        {**INVOKE, "process": 3},
    )  # fmt: skip

    cas, nemesis, failed, _ = log.ops
    assert (cas.line, cas.key, cas.value, cas.time_ns) == (3, "7", (1, (None, "x")), 5)
    assert (failed.type, failed.error) == (OpType.FAIL, "no")
    assert list(log.nemesis) == [nemesis]
    assert log.pairs == [EventPair(0, 2), EventPair(3, None)]
    assert [log.outcome(pair) for pair in log.pairs] == [OpType.FAIL, OpType.INFO]


def test_the_empty_history_is_one() -> None:
    """Nothing was asked."""
    assert read("").pairs == []


REFUSED = [
    ("no JSON", "{", "Expecting property name"),
    ("not UTF-8", b"\xff{}", "codec can't decode"),
    ("no object", "[1]", "is no JSON object"),
    ("no process", {"type": "ok", "f": "read"}, "has no process"),
    ("no type", {"process": 0, "f": "read"}, "has no type"),
    ("no f", {"process": 0, "type": "ok"}, "has no f"),
    ("an unknown type", {**INVOKE, "type": "okay"}, "type is none of invoke, ok, fail, info"),
    ("a type that is a list", {**INVOKE, "type": []}, "type is none of"),
    ("a misspelt field", {**INVOKE, "vaule": 1}, 'unknown field "vaule"'),
    ("a field twice", '{"process":0,"process":1,"type":"invoke","f":"read"}', "has a field twice"),
    ("a float", {**INVOKE, "value": 1.5}, "numbers are whole"),
    ("infinity", '{"process":0,"type":"invoke","f":"read","value":Infinity}', "numbers are whole"),
    ("a boolean", {**INVOKE, "value": True}, "value is not null"),
    ("a boolean as process", {**INVOKE, "process": True}, "process is no text"),
    ("an object as value", {**INVOKE, "value": {}}, "value is not null"),
    ("lists in lists", '{"process":0,"type":"invoke","f":"read","value":' + "[" * 20 + "]" * 20 + "}", "at most 8 deep"),
    ("half a surrogate pair", '{"process":0,"type":"invoke","f":"read","key":"\\ud800"}', "half a surrogate"),
    ("an endless number", '{"process":0,"type":"invoke","f":"read","value":' + "1" * 5000 + "}", "Exceeds the limit"),
    ("a wrong index", {**INVOKE, "index": 4}, "index is 4 where 1 should come"),
    ("an index that is true", {**INVOKE, "index": True}, "index is True where"),
    ("time runs backwards", {**INVOKE, "time_ns": -1}, "time_ns runs backwards"),
    ("time is text", {**INVOKE, "time_ns": "1"}, "time_ns is no whole number"),
    ("a busy process", {**INVOKE, "process": 9}, "still has the operation of line 1 under way"),
    ("nothing to end", {**INVOKE, "type": "ok"}, "has nothing under way"),
    ("the end of another operation", {**INVOKE, "process": 9, "type": "ok", "f": "write"}, "those of the invocation at line 1"),
    ("the end of another key", {**INVOKE, "process": 9, "type": "ok", "key": "x"}, "differ from those of"),
    ("a nemesis that invokes", {**INVOKE, "process": "nemesis"}, "the nemesis' events are of type info"),
    ("values that are no list", {**INVOKE, "values": "ab"}, "values is no list"),
    ("attempts that are text", {**INVOKE, "attempts": "2"}, "attempts is no whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_history_is_refused_with_its_line(line: Any, why: str) -> None:
    """A typing error must not become a verdict."""
    with pytest.raises(HistoryError) as refused:
        read({**INVOKE, "process": 9, "time_ns": 0}, line)

    assert str(refused.value).startswith("line 2: ") and why in str(refused.value)


def test_a_process_whose_operation_is_unknown_asks_nothing_more() -> None:
    """Its operation may still be under way: a process that goes on would make "at most one" a lie."""
    with pytest.raises(HistoryError, match=r"line 3: process 0 ended with info at line 2: use another number"):
        read(INVOKE, {**INVOKE, "type": "info"}, INVOKE)


@pytest.mark.parametrize(
    "text", [b"[" * (LINE_BYTES_MAX - 1), b" " * (LINE_BYTES_MAX + 1), b'{"a":' * 200_000, b"\x00" * 4 * LINE_BYTES_MAX],
    ids=["nested lists", "a long line", "nested objects", "zeros without an end"],
)  # fmt: skip
def test_hostile_lines_cost_little(text: bytes) -> None:
    """Neither the stack nor memory: a line is never held beyond its limit."""
    assert_cheap_refusal(lambda: read(text), HistoryError, peak_bytes_max=16 << 20, cpu_s_max=2.0)


_PIECES = st.sampled_from(
    [b'{"process":0', b',"type":"invoke"', b',"f":"read"', b',"value":', b"[", b"}", b"1", b'"x"', b"\n"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=8) | _PIECES, max_size=30))
def test_whatever_the_bytes_are_they_are_a_history_or_a_history_error(pieces: list[bytes]) -> None:
    """Nothing else is ever raised."""
    try:
        read_events(io.BytesIO(b"".join(pieces)))
    except HistoryError as refused:
        message = str(refused)
    else:
        message = "line 0"
    assert message.startswith("line ")
