"""The history: what it refuses, how it pairs, and that it is the same after a trip through JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepsen_lite.history import ContextKind, F, History, HistoryError, Kind, Op, OpType, text_of
from tests.checkers.scripts import tell

CORPUS = Path(__file__).parent / "corpus"


def test_pairs_come_in_the_order_of_invocation_and_an_open_operation_is_unknown() -> None:
    """Completions come in any order; what never completes may still take effect."""
    history = tell("0 put k A ...; 1 put k B ...; 1 ok; 2 put k C ...; 0 fail")

    assert [(pair.invocation.value, pair.outcome) for pair in history.pairs()] == [
        ("A", OpType.FAIL), ("B", OpType.OK), ("C", OpType.INFO),
    ]  # fmt: skip
    assert [pair.may_have_happened for pair in history.pairs()] == [False, True, True]
    assert [pair.ended_ns is None for pair in history.pairs()] == [False, False, True]
    assert history.count(F.PUT, OpType.INFO) == 1


def test_info_retires_the_process_and_a_new_number_was_never_used() -> None:
    """A process that got no answer may still be writing: it must not be mistaken for a sequential client."""
    history = History()
    process = history.new_process()
    op = history.invoke(process, F.PUT, "k", time_ns=1, value="A")
    history.complete(op, OpType.INFO, time_ns=2, error="timeout")

    assert history.new_process() == process + 1
    with pytest.raises(HistoryError, match="retired"):
        history.invoke(process, F.GET, "k", time_ns=3)


def _op(index: int = 0, kind: OpType = OpType.INVOKE, **changes: object) -> Op:
    plain = {"index": index, "process": 0, "type": kind, "f": F.PUT, "key": "k", "time_ns": 5, "value": "A"}
    return Op(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([_op(index=1)], "index 1 comes where 0"),
        ([_op(), _op(1, process=1, value="B", time_ns=4)], "backwards"),
        ([_op(), _op(1, value="B")], "busy"),
        ([_op(kind=OpType.OK)], "completes nothing"),
        ([_op(), _op(1, OpType.OK, f=F.GET, value=None)], "completes nothing"),
        ([_op(), _op(1, OpType.OK, key="other")], "completes nothing"),
        ([_op(), _op(1, process=1)], "written twice"),
        ([_op(value=None)], "wrong number of values"),
        ([_op(f=F.GET)], "wrong number of values"),
        ([_op(f=F.GET, value=None), _op(1, OpType.OK, f=F.GET, value=None)], "without values"),
    ],
)
def test_what_is_no_history_is_refused_and_leaves_the_history_as_it_was(ops: list[Op], why: str) -> None:
    """A judgement about something that is no history would mean nothing."""
    history = History.of(ops[:-1])

    with pytest.raises(HistoryError, match=why):
        history.append(ops[-1])

    assert len(history) == len(ops) - 1


def test_json_lines_bring_every_field_back() -> None:
    """So that histories of real processes, and the corpus, are files."""
    history = History()
    get = history.invoke(0, F.GET, "k\u00e9y", time_ns=1, kind=Kind.LWW, r=2, replica="n1")
    history.complete(get, OpType.OK, time_ns=2, values=["A", "B"], context=b"\x00\xff", replied=2)
    put = history.invoke(0, F.PUT, "k", time_ns=3, value="C", shown=["A"], context_kind=ContextKind.STALE,
                         context=b"\x01", operation_id="ab")  # fmt: skip
    history.complete(put, OpType.INFO, time_ns=9, attempts=2, error="timeout")
    get = history.invoke(1, F.GET, "k", time_ns=9)
    history.complete(get, OpType.OK, time_ns=9, values=[])

    text = history.to_json_lines()

    assert History.from_json_lines(text).ops == history.ops
    assert History.from_json_lines("# a comment\n\n" + text).to_json_lines() == text
    assert text.splitlines()[4] == '{"index":4,"process":1,"type":"invoke","f":"get","key":"k","time_ns":9}'
    assert text.splitlines()[5] == '{"index":5,"process":1,"type":"ok","f":"get","key":"k","time_ns":9,"values":[]}'


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"index":0}', '{"index":0,"process":0,"type":"never","f":"get","key":"k","time_ns":1}',
     '{"index":"0","process":0,"type":"invoke","f":"get","key":"k","time_ns":1}',
     '{"index":0,"process":0,"type":"invoke","f":"get","key":"k","time_ns":1,"colour":"red"}',
     '{"index":0,"process":0,"type":"invoke","f":"put","key":"k","time_ns":1,"value":"A","context":"xy"}'],
)  # fmt: skip
def test_a_line_that_is_no_operation_is_a_typed_error(line: str) -> None:
    """A file may come from anywhere."""
    with pytest.raises(HistoryError, match="not an operation"):
        History.from_json_lines(line)


def test_the_corpus_on_disk_is_in_the_format_as_it_is_written() -> None:
    """These files were written once: whoever changes the format must still read them, byte for byte."""
    files = sorted(CORPUS.glob("*.jsonl"))

    assert files
    for file in files:
        text = "".join(line for line in file.read_text().splitlines(keepends=True) if not line.startswith("#"))
        assert History.from_json_lines(text).to_json_lines() == text, file.name


def test_values_that_are_no_text_are_escaped_the_same_way_every_time() -> None:
    """The store holds bytes, the history text."""
    assert text_of(b"c1:7") == "c1:7"
    assert text_of(b"\xff\x00") == "\\xff\x00"
