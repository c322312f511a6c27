"""The report of a suite: what became of each mutant, the score, as a table for people and as JSON.

    score = killed / seeded            1.0, or the harness is blind somewhere

`seeds` is how many runs a mutant took; for a killed one the last of them killed it, so its seconds are the time to kill, which is
tracked because a mutant that takes ever longer will survive one day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from jepsen_lite.mutants.mutant import Mutant
from jepsen_lite.mutants.outcome import Outcome, RunReport

__all__ = ["MutantResult", "SuiteReport", "result_of"]

_WORDS = {Outcome.PASSED: "survived", Outcome.KILLED: "killed", Outcome.BROKEN: "broken"}
_STYLES = {"survived": "bold red", "killed": "green", "broken": "bold magenta"}


@dataclass(frozen=True, slots=True)
class MutantResult:
    """What became of one mutant. `seed` is that of the run that decided; None if all of them passed."""

    mutant: str
    author: str
    promise: str
    needs: tuple[str, ...]
    outcome: str
    killed_by: tuple[str, ...]
    seed: int | None
    seeds: int
    virtual_s: float
    cpu_s: float
    detail: str


def result_of(mutant: Mutant, runs: Sequence[tuple[int, RunReport]], cpu_s: float, problem: str = "") -> MutantResult:
    """Sum up the runs (seed, report) of a mutant. `problem`: why it could not be run at all, or not to its end."""
    seed, last = runs[-1] if runs else (None, RunReport(Outcome.BROKEN))
    outcome = Outcome.BROKEN if problem else last.outcome
    return MutantResult(
        mutant=mutant.name, author=mutant.author, promise=mutant.promise, needs=mutant.needs, outcome=_WORDS[outcome],
        killed_by=last.by, seed=None if outcome is Outcome.PASSED else seed, seeds=len(runs),
        virtual_s=round(sum(run.virtual_s for _, run in runs), 3), cpu_s=round(cpu_s, 3), detail=problem or last.detail,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """All results. A control is the product as it is, on every seed that any mutant took; one more where mutants want moves."""

    harness: tuple[str, ...]
    controls: tuple[MutantResult, ...]
    results: tuple[MutantResult, ...]

    @property
    def killed(self) -> int:
        """How many mutants were found."""
        return sum(result.outcome == "killed" for result in self.results)

    @property
    def score(self) -> float:
        """Return killed / seeded."""
        return self.killed / len(self.results) if self.results else 0.0

    @property
    def is_ok(self) -> bool:
        """Whether every mutant was killed, and the product was not."""
        are_alive = all(control.outcome == "survived" for control in self.controls)
        return are_alive and bool(self.results) and self.killed == len(self.results)

    def as_json(self) -> dict[str, Any]:
        """Return everything, for a file that the next night compares itself with."""
        return {
            "harness": list(self.harness), "killed": self.killed, "total": len(self.results), "score": self.score,
            "ok": self.is_ok, "controls": [asdict(control) for control in self.controls],
            "mutants": [asdict(result) for result in self.results],
        }  # fmt: skip

    def as_table(self) -> Table:
        """Return a table, survivors last, so that they stand where one looks."""
        table = Table(title=f"{self.killed} of {len(self.results)} mutants killed ({self.score:.0%})")
        table.add_column("mutant", no_wrap=True)
        table.add_column("outcome", no_wrap=True)
        table.add_column("by, or what was said")
        for column in ("seed", "runs", "virtual s", "CPU s"):
            table.add_column(column, justify="right")
        order = ["killed", "survived", "broken"]
        for result in [*self.controls, *sorted(self.results, key=lambda each: order.index(each.outcome))]:
            table.add_row(*_row(result, is_control=result in self.controls))
        return table


def _row(result: MutantResult, *, is_control: bool) -> tuple[str, ...]:
    outcome = "passed" if is_control and result.outcome == "survived" else result.outcome
    style = _STYLES[result.outcome] if outcome != "passed" else "green"
    why = ", ".join(result.killed_by) or result.detail or "needs " + "; ".join(result.needs or ("nothing",))
    return (
        result.mutant, f"[{style}]{outcome}[/]", "" if outcome == "passed" else why,
        "" if result.seed is None else str(result.seed), str(result.seeds), f"{result.virtual_s:.0f}",
        f"{result.cpu_s:.1f}",
    )  # fmt: skip
