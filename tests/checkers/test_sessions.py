"""Sessions: each of these stories is told by one session for each process, unless it says otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jepsen_lite.checkers.sessions import check_sessions
from jepsen_lite.checkers.verdict import Broken
from jepsen_lite.history import F, History, Op
from kvstore.causality.context import encode_context, encode_history
from kvstore.causality.version_vector import encode_vector
from kvstore.ids import ActorId
from tests.checkers.scripts import tell

GOOD = [
    ("own write read", "0 put k A ok; 0 get k -> A"),
    ("own write read beside another", "0 put k A ok; 0 get k -> A B; 1 put k B ok"),
    ("own write replaced by another who saw it", "0 put k A ok; 1 get k -> A; 1 put k B [A] ok; 0 get k -> B"),
    ("replaced by a write of unknown outcome", "0 put k A ok; 1 get k -> A; 1 put k B [A] info; 0 get k -> B"),
    ("replaced by a write still under way", "0 put k A ok; 1 put k B [A] ...; 0 get k -> B; 1 ok"),
    ("deleted by another who saw it", "0 put k A ok; 1 delete k [A] ok; 0 get k -> "),
    ("a blind delete may have seen anything", "0 put k A ok; 1 delete k ok; 0 get k -> "),
    ("own write of unknown outcome", "0 put k A info; 0 get k -> "),
    ("own write that failed", "0 put k A fail; 0 get k -> "),
    ("a read that failed shows nothing", "0 put k A ok; 0 get k fail; 0 get k -> A"),
    ("another session may be behind", "0 put k A ok; 0 put k B [A] ok; 1 get k -> A; 0 get k -> B"),
    ("other objects are other stories", "0 put k A ok; 0 get l -> "),
    ("own delete", "0 put k A ok; 0 delete k [A] ok; 0 get k -> "),
    ("own delete leaves what it had not seen", "0 put k A ok; 1 put k B ok; 0 delete k [A] ok; 0 get k -> B"),
    ("own delete of unknown outcome", "0 put k A ok; 0 delete k [A] info; 0 get k -> A"),
    ("a late retry brings it back", "0 put k A ok x2; 0 put k B [A] ok; 0 get k -> A B"),
    ("final reads are nobody's", "0 put k A ok; final k -> "),
    ("lww: an older value may win by its clock", "0 put w A ok; 0 get w -> B; 1 put w B ok"),
]
BAD = [
    ("own write missing", "0 put k A ok; 0 get k -> ", Broken.UNSEEN),
    ("own write missing beside another's", "1 put k B ok; 0 put k A ok; 0 get k -> B", Broken.UNSEEN),
    ("replaced too late", "0 put k A ok; 0 get k -> ; 1 put k B [A] ok", Broken.UNSEEN),
    ("replaced by a write that failed", "0 put k A ok; 1 put k B [A] fail; 0 get k -> ", Broken.UNSEEN),
    ("a read goes back", "1 put k A ok; 0 get k -> A; 0 get k -> ", Broken.UNSEEN),
    ("one of two siblings is gone", "1 put k A ok; 2 put k B ok; 0 get k -> A B; 0 get k -> A", Broken.UNSEEN),
    ("what own write replaced", "0 put k A ok; 0 put k B [A] ok; 0 get k -> A B", Broken.SEEN_AGAIN),
    ("what own write replaced, and not the write", "0 put k A ok; 0 put k B [A] ok; 0 get k -> A", Broken.SEEN_AGAIN),
    ("what own delete took", "0 put k A ok; 0 delete k [A] ok; 0 get k -> A", Broken.SEEN_AGAIN),
    ("what somebody deleted, after it was seen gone",
     "1 put k A ok; 0 get k -> A; 1 delete k [A] ok; 0 get k -> ; 0 get k -> A", Broken.SEEN_AGAIN),
    ("what the value that was shown had replaced",
     "1 put k A ok; 1 put k B [A] ok; 0 get k -> B; 0 get k -> A", Broken.SEEN_AGAIN),
    ("the same, two writes further", "1 put k A ok; 1 put k B [A] ok; 1 put k C [B] ok; 0 get k -> C; 0 get k -> A C",
     Broken.SEEN_AGAIN),
    ("after a failed read", "0 put k A ok; 0 get k fail; 0 get k -> ", Broken.UNSEEN),
    ("lww: what own write had seen and replaced", "0 put w A ok; 0 put w B [A] ok; 0 get w -> A", Broken.SEEN_AGAIN),
]  # fmt: skip


def in_sessions(script: str) -> History:
    """Return the history of a script, every process of which but the final reader is a session of its own."""
    return History.of(replace(op, session=None if op.f is F.FINAL else op.process) for op in tell(script).ops)


@pytest.mark.parametrize("script", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_promise_that_was_kept_is_no_violation(script: str) -> None:
    """Including everything that looks like a broken one and is not."""
    assert [str(violation) for violation in check_sessions(in_sessions(script)).violations] == []


@pytest.mark.parametrize(("script", "broken"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_broken_promise_is_found_with_its_evidence(script: str, broken: Broken) -> None:
    """And is nobody's concern who is not in a session."""
    verdict = check_sessions(in_sessions(script))
    assert broken in [violation.broken for violation in verdict.violations]
    assert all(violation.evidence for violation in verdict.violations)

    assert check_sessions(tell(script)).violations == ()


def test_what_a_witness_saw_at_two_dots_may_come_back() -> None:
    """Whatever the client knows of its attempts."""
    history = in_sessions("0 put k A ok x1; 0 put k B [A] ok; 0 get k -> A B")
    assert check_sessions(history).violations
    assert check_sessions(history, written_twice=["A"]).violations == ()


def test_a_session_that_moved_is_one_story() -> None:
    """Two processes, one after the other."""
    history = History.of(replace(op, session=7) for op in tell("0 put k A ok; 1 get k -> ").ops)
    (violation,) = check_sessions(history).violations
    assert violation.broken is Broken.UNSEEN and "session 7" in violation.message


ACTOR = ActorId(b"a" * 20)


@pytest.mark.parametrize(("first", "second", "is_good"), [(1, 1, True), (1, 2, True), (2, 1, False), (1, 0, False)])
def test_a_context_never_goes_back(first: int, second: int, is_good: bool) -> None:
    """White box: the values say nothing here. A write's answer may be one that only reads take."""

    def with_context(op: Op) -> Op:
        at = {1: first, 3: second}.get(op.index)
        if at is None:
            return op
        vector = encode_vector({ACTOR: at} if at else {})
        return replace(
            op, context=encode_history(b"k" * 8, vector) if op.index == 1 else encode_context(b"k" * 8, 5, vector)
        )

    for script in ("0 get k -> ; 0 get k -> ", "0 delete k [] ok; 0 get k -> "):
        history = History.of(with_context(op) for op in in_sessions(script).ops)
        assert (check_sessions(history).violations == ()) == is_good


def test_the_figures_tell_whether_there_was_anything_to_judge() -> None:
    """None at all without sessions; reads that were refused are counted."""
    assert check_sessions(tell("0 get k -> ")).figures == {}
    ops = list(in_sessions("0 put k A ok; 0 get k -> A; 0 get k fail").ops)
    ops[-1] = replace(ops[-1], error="session_not_satisfied")
    assert check_sessions(History.of(ops)).figures == {"reads": 1.0, "asking": 0.0, "not_satisfied": 1.0}
