"""What one run of the harness came to, read from its exit code, its line of JSON and its traceback.

    exit 0, a line of JSON without violations               passed
    a line of JSON with violations                          killed, by the judges that are named in it
    an exception: assertion, deadlock, unseen failure …     killed, by that; `run` reports it as a violation, too
    NameError, ImportError, usage, no line at all …         broken: the mutant or the harness is no test of anything

A mutant that does not even run is not counted as killed: killing it proves nothing.
Pure: no process, no file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Outcome", "RunReport", "read_run"]

BROKEN = frozenset({
    "NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError",
})  # fmt: skip
BY_EXCEPTION = {"Deadlock": "deadlock", "TimeLimit": "time limit", "UnseenFailures": "unseen failure"}
DETAIL_LENGTH_MAX = 300
JUDGE_LENGTH_MAX = 40
_NO_PROGRAM = re.compile(rf"\b({'|'.join(sorted(BROKEN))})[:(]")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line \d+')
_PRODUCT = re.compile(r"/(kvstore|cluster)/")


class Outcome(Enum):
    """How a run, or all runs of a mutant, ended."""

    PASSED = "passed"
    KILLED = "killed"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run. `by` are the judges or checks that failed it; `detail` is the first thing they said."""

    outcome: Outcome
    by: tuple[str, ...] = ()
    detail: str = ""
    virtual_s: float = 0.0


def read_run(returncode: int, stdout: str, stderr: str) -> RunReport:
    """Judge one run of one seed. `returncode` is the process's: negative for a signal."""
    line = _last_line(stdout)
    virtual_s = float(line.get("virtual_s", 0.0)) if line is not None else 0.0
    said = _violations(line) if line is not None else []
    if said:
        judges = tuple(dict.fromkeys(BY_EXCEPTION.get(judge, judge) for judge, _ in said))
        is_broken = any(judge[:1].isupper() and _NO_PROGRAM.search(text) for judge, text in said)
        if is_broken:
            judges = ()
        return RunReport(
            Outcome.BROKEN if is_broken else Outcome.KILLED, judges, said[0][1][:DETAIL_LENGTH_MAX], virtual_s
        )
    if returncode == 0 and line is not None:
        return RunReport(Outcome.PASSED, virtual_s=virtual_s)
    return _read_failure(returncode, stderr, virtual_s)


def _last_line(stdout: str) -> dict[str, Any] | None:
    for text in reversed(stdout.splitlines()):
        if text.startswith("{"):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and "seed" in line:
                return line
    return None


def _violations(line: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (judge, what it said) for each violation; a run that is not ok without one is a violation, too."""
    said = [(_judge_of(str(text)), str(text)) for text in line.get("violations", [])]
    if not said and line.get("ok") is False:
        said = [("not ok", "the run says that it is not ok, and not why")]
    return said


def _judge_of(violation: str) -> str:
    """A violation begins with its judge: `set-full: 17 was acknowledged and is gone`."""
    return violation.partition(":")[0].strip()[:JUDGE_LENGTH_MAX]


def _read_failure(returncode: int, stderr: str, virtual_s: float) -> RunReport:
    raised = _exceptions(stderr)
    if not raised or returncode < 0:
        why = f"exit code {returncode}, no line of JSON; " + " / ".join(stderr.strip().splitlines()[-2:])
        return RunReport(Outcome.BROKEN, (), why[:DETAIL_LENGTH_MAX], virtual_s)
    name, text, file = raised[-1]
    detail = f"{name}: {text}"[:DETAIL_LENGTH_MAX]
    if any(each in BROKEN for each, _, _ in raised):
        return RunReport(Outcome.BROKEN, (), detail, virtual_s)
    if name == "AssertionError":
        by = "product assertion" if _PRODUCT.search(file) else "harness assertion"
    else:
        by = BY_EXCEPTION.get(name, f"raised {name}")
    return RunReport(Outcome.KILLED, (by,), detail, virtual_s)


def _exceptions(stderr: str) -> list[tuple[str, str, str]]:
    """Return (class name, message, innermost file) of every traceback; the last one is what ended the run."""
    found, file, is_inside = [], "", False
    for line in stderr.splitlines():
        if line.startswith("Traceback (most recent call last):"):
            file, is_inside = "", True
        elif is_inside and (frame := _FRAME.match(line)):
            file = frame["file"]
        elif is_inside and line and not line[0].isspace():
            name, _, text = line.partition(": ")
            found.append((name.rpartition(".")[2].strip(), text, file))
            is_inside = False  # what follows are notes: the end of the trace, the replay line
    return found
