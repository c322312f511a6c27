"""The suite: every mutant meets seed after seed until one run fails, or the bound is reached and it has survived.

    python -m jepsen_lite.mutants.suite                                    all mutants, a table, exit code 1 unless 100 %
    python -m jepsen_lite.mutants.suite --only ack_before_fsync --json     one of them, a line of JSON
    python -m jepsen_lite.mutants.suite --seeds 0..200 --cpu-s 900         how hard to try each one

    control seed 0 ─fails─► stop: the harness flags the product itself
         └─passes─► mutants, `processes` at a time, each its seeds in order ─► control: every other seed that was used

One process for each run, so that CPU seconds are its own (wait4) and nothing survives into the next run. No threads: one poll
waits for all children.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from jepsen_lite.mutants.apply import copy_base, make_tree
from jepsen_lite.mutants.mutant import CONTROL, CONTROL_MOVES, LATER, Mutant, MutantError, chosen, load_library
from jepsen_lite.mutants.outcome import Outcome, RunReport, read_run
from jepsen_lite.mutants.page import page
from jepsen_lite.mutants.report import MutantResult, SuiteReport, result_of

__all__ = ["HARNESS", "SuiteOptions", "main", "run_suite"]

MOVES = "--moves"
HARNESS = ("python", "-m", "jepsen_lite.cli", "run", "--seeds", "{seed}..{next}", "--json")


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """`harness` is a command with {seed} and {next}; "python" is this interpreter. `run_s_max` is wall time of one run, far
    above what it needs: a mutant that never ends is killed by that. `cpu_s_max` bounds all runs of one mutant."""

    harness: tuple[str, ...] = HARNESS
    """Mutants that ask for moves get `MOVES` after it."""
    seeds: range = range(40)
    cpu_s_max: float = 600.0
    run_s_max: float = 600.0
    processes: int = 2


def run_suite(
    mutants: Sequence[Mutant], options: SuiteOptions, base: Path, told: Callable[[MutantResult], None] = lambda _: None
) -> SuiteReport:
    """Run the mutants on copies of `base`; `told` hears of each as it is decided. Trees are made beside `base`."""
    kinds = [each for each in (CONTROL, CONTROL_MOVES) if each is CONTROL or any(mutant.moves for mutant in mutants)]
    controls = [_Subject(each, base, options) for each in kinds]
    _Scheduler(options, controls, seeds_max=1).run()
    is_fair = all(control.is_open for control in controls)
    subjects = [_Subject(mutant, base, options) for mutant in mutants] if is_fair else []
    _Scheduler(options, subjects, told=told).run()
    for control in controls:
        taken = [len(subject.runs) for subject in subjects if subject.mutant.moves == control.mutant.moves]
        _Scheduler(options, [control], seeds_max=max(taken, default=1)).run()
        told(control.result())
    results = [subject.result() for subject in (*controls, *subjects)]
    return SuiteReport(options.harness, tuple(results[: len(controls)]), tuple(results[len(controls) :]))


@dataclass(slots=True)
class _Subject:
    """A mutant on its way through the seeds."""

    mutant: Mutant
    base: Path
    options: SuiteOptions
    tree: Path | None = None
    runs: list[tuple[int, RunReport]] = field(default_factory=list)
    cpu_s: float = 0.0
    problem: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nothing has been decided yet."""
        return not self.problem and (not self.runs or self.runs[-1][1].outcome is Outcome.PASSED)

    def maybe_seed(self, seeds_max: int) -> int | None:
        """Return the next seed to run, if one is left within the bounds (the control has only those of the others)."""
        count = len(self.runs)
        is_spent = self.cpu_s >= self.options.cpu_s_max and self.mutant not in (CONTROL, CONTROL_MOVES)
        if not self.is_open or is_spent or count >= min(seeds_max, len(self.options.seeds)):
            return None
        return self.options.seeds[count]

    def plant(self) -> bool:
        """Make the tree; False if the mutant does not fit, which decides it."""
        if self.tree is None:
            target = Path(tempfile.mkdtemp(prefix=f"{_file_name(self.mutant)}-", dir=self.base.parent)) / "tree"
            try:
                self.tree = make_tree(self.base, self.mutant, target)
            except MutantError as problem:
                self.problem = str(problem)
                target.parent.rmdir()
        return self.tree is not None

    def clear(self) -> None:
        """Delete the tree; the next run makes it again."""
        if self.tree is not None:
            shutil.rmtree(self.tree.parent)
            self.tree = None

    def result(self) -> MutantResult:
        """Return what became of it so far."""
        return result_of(self.mutant, self.runs, self.cpu_s, self.problem)


class _Child:
    """One run in a process of its own."""

    def __init__(self, subject: _Subject, seed: int) -> None:
        assert subject.tree is not None, "planted before"
        self.subject, self.seed, self.is_late = subject, seed, False
        self._stdout, self._stderr = subject.tree.parent / "stdout", subject.tree.parent / "stderr"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                _command(subject.options.harness, seed, has_moves=subject.mutant.moves),
                cwd=subject.tree, env=_environment(os.environ, subject.tree),
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        self.fd = os.pidfd_open(self.process.pid)
        self.late_at = time.monotonic() + subject.options.run_s_max

    def end_if_late(self) -> None:
        """Kill a run that takes too long."""
        if not self.is_late and time.monotonic() >= self.late_at:
            self.is_late = True
            self.process.kill()

    def reap(self) -> tuple[RunReport, float]:
        """Return what the ended process came to, and its CPU seconds."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait for it a second time
        os.close(self.fd)
        stdout, stderr = (file.read_text(errors="replace") for file in (self._stdout, self._stderr))
        if self.is_late:
            report = RunReport(Outcome.KILLED, ("did not end",), f"ran for {self.subject.options.run_s_max:.0f} s")
        else:
            report = read_run(self.process.returncode, stdout, stderr)
        return report, usage.ru_utime + usage.ru_stime

    def stop(self) -> None:
        """End it whatever it does (the suite itself was interrupted)."""
        self.process.kill()
        self.reap()


class _Scheduler:
    """Keeps `processes` runs going; a subject has at most one at a time, so its seeds come in order."""

    def __init__(
        self, options: SuiteOptions, subjects: Sequence[_Subject], *, seeds_max: int | None = None,
        told: Callable[[MutantResult], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._options, self._waiting, self._told = options, deque(subjects), told
        self._seeds_max = len(options.seeds) if seeds_max is None else seeds_max
        self._running: dict[int, _Child] = {}
        self._poll = select.poll()

    def run(self) -> None:
        """Run until every subject is decided or has used up its bound."""
        try:
            while self._start_what_fits():
                self._wait()
        finally:
            for child in self._running.values():
                child.stop()

    def _start_what_fits(self) -> bool:
        while self._waiting and len(self._running) < self._options.processes:
            subject = self._waiting.popleft()
            seed = subject.maybe_seed(self._seeds_max)
            if seed is None or not subject.plant():
                subject.clear()
                self._told(subject.result())
                continue
            child = _Child(subject, seed)
            self._running[child.fd] = child
            self._poll.register(child.fd, select.POLLIN)
        return bool(self._running)

    def _wait(self) -> None:
        earliest = min(child.late_at for child in self._running.values())
        for fd, _ in self._poll.poll(max(0.0, earliest - time.monotonic()) * 1_000 + 1):
            self._poll.unregister(fd)
            child = self._running.pop(fd)
            report, cpu_s = child.reap()
            child.subject.runs.append((child.seed, report))
            child.subject.cpu_s += cpu_s
            self._waiting.appendleft(child.subject)
        for child in self._running.values():
            child.end_if_late()


def _file_name(mutant: Mutant) -> str:
    return "".join(letter for letter in mutant.name if letter.isalnum() or letter == "_")


def _command(harness: Sequence[str], seed: int, *, has_moves: bool) -> list[str]:
    filled = [part.replace("{seed}", str(seed)).replace("{next}", str(seed + 1)) for part in harness]
    filled += [MOVES] * has_moves
    return [sys.executable, *filled[1:]] if filled[0] == "python" else filled


def _environment(outer: Mapping[str, str], tree: Path) -> dict[str, str]:
    """The tree comes first on the path and is the working directory; nothing else of ours may be found before it."""
    return {**outer, "PYTHONPATH": str(tree)}


# --- command ---------------------------------------------------------------------------------------------------------


def _seeds(text: str) -> range:
    first, _, end = text.partition("..")
    return range(int(first), int(end))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jepsen-lite mutants", description="does the harness find the seeded bugs?")
    parser.add_argument("--only", nargs="+", default=[], metavar="MUTANT", help="these mutants instead of all")
    parser.add_argument("--seeds", type=_seeds, default=range(40), metavar="A..B", help="seeds for each, 0..40")
    parser.add_argument("--cpu-s", type=float, default=600.0, help="CPU seconds for each mutant, 600")
    parser.add_argument("--run-s", type=float, default=600.0, help="wall seconds after which one run never ends, 600")
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time, 2")
    parser.add_argument("--harness", help="command with {seed} and {next} (default: `run`)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write docs/mutants.md there")
    parser.add_argument("--list", action="store_true", help="say what the mutants are, and run nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the module docstring; returns the exit code."""
    given = _parser().parse_args(arguments)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        mutants = chosen(load_library(), given.only)
        if given.list:
            for mutant in mutants:
                sys.stdout.write(f"{mutant.name} ({mutant.promise}): {mutant.says}\n")
            return 0
        with tempfile.TemporaryDirectory(prefix="jepsen-lite-mutants-") as directory:
            base = copy_base(Path(directory) / "base")
            harness = tuple(given.harness.split()) if given.harness else HARNESS
            options = SuiteOptions(harness, given.seeds, given.cpu_s, given.run_s, given.processes)
            report = run_suite(mutants, options, base, lambda result: errors.print(_progress(result)))
    except MutantError as problem:
        errors.print(str(problem))
        return 1
    if given.page is not None:
        given.page.write_text(page(report.as_json(), mutants, load_library(LATER)), encoding="utf-8")
    if given.json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    else:
        Console().print(report.as_table())
    return 0 if report.is_ok else 1


def _progress(result: MutantResult) -> str:
    by = ", ".join(result.killed_by) or result.detail
    return f"{result.mutant}: {result.outcome} after {result.seeds} runs, {result.cpu_s:.1f} CPU s; {by}"


if __name__ == "__main__":
    sys.exit(main())
