"""jepsen-lite check: judge a history of any system, from a file of JSON lines or from stdin.

jepsen-lite check --model cas-register history.jsonl           exit code   0  holds
etcd-driver | jepsen-lite check --model register -                         1  violated: with the operations that prove it
                                                                           2  no history of this model, or wrong usage
                                                                           3  unknown: a bound was met, or nothing was proved
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, BinaryIO, Final

import click

from jepsen_lite.checkers.verdict import Outcome, Violation
from jepsen_lite.checkers.wing_gong_lowe import Bounds
from jepsen_lite.events import EventLog, read_events
from jepsen_lite.history import History, HistoryError
from jepsen_lite.judged import MODELS, Judged, judge_events

__all__ = ["check", "write_history"]

EXIT_CODES: Final = {Outcome.OK: 0, Outcome.VIOLATED: 1, Outcome.UNKNOWN: 3}
EXIT_NO_HISTORY: Final = 2
VIOLATIONS_SHOWN_MAX: Final = 20
WORDS: Final = {Outcome.OK: "holds", Outcome.VIOLATED: "violated", Outcome.UNKNOWN: "unknown"}


@click.command()
@click.option("--model", required=True, type=click.Choice([name for name, _ in MODELS]), help="See `jepsen-lite list`.")
@click.option("--seconds", default=60.0, show_default=True, help="Give up the search for an order after so many.")
@click.option(
    "--configurations", default=Bounds().configurations_max, show_default=True,
    help="Give up the search for one key after so many; each takes 120 to 250 bytes.",
)  # fmt: skip
@click.option("--only-finals", is_flag=True, help="Counters: plain reads may be stale, judge final ones.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@click.argument("file", type=click.File("rb"))
def check(model: str, seconds: float, configurations: int, only_finals: bool, as_json: bool, file: BinaryIO) -> None:
    """Judge the history in FILE (JSON lines, - for stdin; see docs/histories.md)."""
    started_s = time.monotonic()
    try:
        log = read_events(file)
        bounds = Bounds(configurations_max=configurations, clock=time.monotonic, deadline_s=time.monotonic() + seconds)
        judged = judge_events(log, model, bounds=bounds, only_finals=only_finals)
    except HistoryError as problem:
        click.echo(_printable(f"{getattr(file, 'name', 'stdin')}: {problem}"), err=True)
        sys.exit(EXIT_NO_HISTORY)
    took_s = time.monotonic() - started_s
    click.echo(json.dumps(_as_dict(log, model, judged, took_s)) if as_json else _as_text(log, model, judged, took_s))
    sys.exit(EXIT_CODES[judged.outcome])


def write_history(history: History, path: str) -> None:
    """Write a history of ours as lines that `check` reads; - is stdout."""
    with click.open_file(path, "w", encoding="utf-8") as file:
        file.write(history.to_json_lines())


# --- showing --------------------------------------------------------------------------------------------------------


def _as_text(log: EventLog, model: str, judged: Judged, took_s: float) -> str:
    word = WORDS[judged.outcome] if judged.verdicts else "measured"
    lines = [f"{model}: {word}: {len(log.pairs)} operations in {len(log.ops)} events, {took_s:.2f} s"]
    figures = {name: value for verdict in judged.verdicts for name, value in verdict.figures.items()} | judged.figures
    lines.append("figures: " + " ".join(f"{name}={value:g}" for name, value in figures.items()))
    lines += [judged.text] if judged.text else []
    violations = [violation for verdict in judged.verdicts for violation in verdict.violations]
    lines += [violation.explain(log) for violation in violations[:VIOLATIONS_SHOWN_MAX]]
    if len(violations) > VIOLATIONS_SHOWN_MAX:
        lines.append(f"and {len(violations) - VIOLATIONS_SHOWN_MAX} more violations (--json shows all)")
    lines += [f"unknown: {each}" for verdict in judged.verdicts for each in verdict.unjudged]
    return "\n".join(_printable(line) for line in lines)


def _as_dict(log: EventLog, model: str, judged: Judged, took_s: float) -> dict[str, Any]:
    return {
        "model": model, "outcome": judged.outcome if judged.verdicts else "measured", "seconds": round(took_s, 3),
        "operations": len(log.pairs), "events": len(log.ops),
        "figures": {k: v for verdict in judged.verdicts for k, v in verdict.figures.items()} | judged.figures,
        "violations": [_violation(log, each) for verdict in judged.verdicts for each in verdict.violations],
        "unknown": [each for verdict in judged.verdicts for each in verdict.unjudged],
    }  # fmt: skip


def _violation(log: EventLog, violation: Violation) -> dict[str, Any]:
    evidence = sorted(dict.fromkeys(violation.evidence))
    return {
        "broken": violation.broken, "key": violation.key, "message": violation.message,
        "evidence": [{"index": index, "line": log.ops[index].line, "event": str(log.ops[index])} for index in evidence],
    }  # fmt: skip


def _printable(text: str) -> str:
    """Escape whatever could move a terminal's cursor: keys and values are somebody else's."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )
