"""One sitting: contenders in turn, pair by pair, and the report. What versus_etcd.py and versus_redis.py have in common.

    for every round, operation and shape:   peer ─ ours   (next round: ours ─ peer), each alone on the machine, from empty

The two of a pair run within a minute of each other, so that a machine that changes its speed changes it for both; which one
goes first alternates. Contenders never run at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from kvstore import __version__
from kvstore.errors import KVStoreError
from tests.benchmarks.contenders import Contender
from tests.benchmarks.figures import Figure, Shape, cell_document
from tests.benchmarks.load_process import LoadOptions

__all__ = [
    "Plan", "Sitting", "chosen", "conclude", "environment", "filesystem", "load_options", "main", "parser", "progress",
    "workspace",
]  # fmt: skip

SCHEMA = 1
ERROR_SHARE_MAX = 0.01
"""More failed operations than this and the figure is of something else than what it says."""
BUSY_LOAD = 0.3
"""Load average per core above which the machine is not ours alone."""
VOLATILE = ("tmpfs", "ramfs")
COLUMNS = ("ops/s", "p50 ms", "p99 ms", "server CPU us/op", "generator")
SHOWN = {"per_s": 0, "p50_ms": 1, "p99_ms": 1, "server_cpu_us": 0, "generator_cpu_us": 0}
"""Measure -> digits after the point."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, how often, where."""

    shapes: Sequence[Shape]
    operations: Sequence[str]
    rounds: int
    directory: Path


@dataclass(slots=True)
class Sitting:
    """Figures by (operation, shape, contender), one for each round."""

    plan: Plan
    figures: dict[tuple[str, str, str], list[Figure]] = field(default_factory=dict)

    def run(self, contenders: Sequence[Contender], *, after_round: Callable[[], None] | None = None) -> None:
        """Measure everything, and whatever else belongs to a round after each."""
        for number in range(self.plan.rounds):
            order = contenders if number % 2 == 0 else contenders[::-1]
            for operation in self.plan.operations:
                for shape in self.plan.shapes:
                    for contender in order:
                        self._measure(number, contender, operation, shape)
            if after_round is not None:
                after_round()

    def _measure(self, number: int, contender: Contender, operation: str, shape: Shape) -> None:
        with workspace(self.plan.directory) as directory:
            figure = contender.measure(shape, operation, directory)
        progress(
            f"round {number + 1} {operation} {shape.name}: {contender.name} {figure.per_s:,.0f}/s"
            f" p50 {figure.p50_ms:.1f} p99 {figure.p99_ms:.1f} ms, {figure.errors} errors"
        )
        self.figures.setdefault((operation, shape.name, contender.name), []).append(figure)

    def cells(self, peer: str, ours: str) -> list[dict[str, Any]]:
        """Return one document for every operation and shape."""
        return [
            {"operation": operation, "shape": shape.name, "says": shape.says,
             **cell_document(self._of(operation, shape, ours), self._of(operation, shape, peer))}
            for operation in self.plan.operations for shape in self.plan.shapes
        ]  # fmt: skip

    def _of(self, operation: str, shape: Shape, contender: str) -> list[Figure]:
        return self.figures.get((operation, shape.name, contender), [])

    def problems(self) -> list[str]:
        """Say which figures are not what they claim: nothing done, or too many errors, or reads that found nothing."""
        found = []
        for (operation, shape, name), figures in sorted(self.figures.items()):
            for each in figures:
                wrong = each.errors + each.not_found
                if not each.operations or wrong > ERROR_SHARE_MAX * each.operations:
                    found.append(
                        f"{name} {operation} {shape}: {each.errors} errors and {each.not_found} not found"
                        f" for {each.operations} operations; {each.first_error}"
                    )
        return found


def parser(description: str | None, *, key_size: int, value_size: int) -> argparse.ArgumentParser:
    """Return a parser with the options both comparisons have."""
    summary = (description or "").partition("\n")[0]
    made = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--rounds", type=int, default=3, help="medians and ranges are over these")
    made.add_argument("--duration", type=float, default=8.0, help="seconds measured of each load")
    made.add_argument("--warmup", type=float, default=2.0, help="seconds of the same load before")
    made.add_argument("--key-size", type=int, default=key_size, help="bytes")
    made.add_argument("--value-size", type=int, default=value_size, help="bytes, random")
    made.add_argument("--keys", type=int, default=20_000, help="keys that gets read, uniformly; puts are of fresh keys")
    made.add_argument("--operations", nargs="+", choices=["put", "get"], default=["put", "get"])
    made.add_argument("--shapes", nargs="+", type=int, metavar="N", help="only these load shapes, by number from 1")
    made.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="data of all contenders")
    made.add_argument("--limit", type=float, default=3_600.0, help="seconds after which everything is stopped")
    made.add_argument("-o", "--output", choices=["table", "json"], default="table")
    return made


def load_options(options: argparse.Namespace) -> LoadOptions:
    """Return sizes and times of the loads."""
    return LoadOptions(
        key_size=options.key_size, value_size=options.value_size, keys=options.keys, warmup_s=options.warmup,
        duration_s=options.duration,
    )  # fmt: skip


def chosen(shapes: Sequence[Shape], numbers: Sequence[int] | None) -> list[Shape]:
    """Return the shapes with these numbers, from one; all without numbers."""
    return [shape for number, shape in enumerate(shapes, 1) if numbers is None or number in numbers]


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A directory for one measurement, removed after it."""
    with tempfile.TemporaryDirectory(prefix="kvstore-versus-", dir=parent) as name:
        yield Path(name)


def main(run: Callable[[], int], limit_s: float) -> int:
    """Run within a time limit, cleaning up after SIGTERM too; returns the exit code."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"signal {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        return run()
    except KVStoreError as problem:
        progress(f"error: {problem}")
        return 1
    except KeyboardInterrupt as interrupted:
        progress(f"interrupted: {interrupted or 'Ctrl-C'} (the time limit is {limit_s:.0f} s)")
        return 130


def progress(line: str) -> None:
    """Say what happens, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


# --- the report -------------------------------------------------------------------------------------------------------


def environment(options: argparse.Namespace, **versions: str) -> dict[str, Any]:
    """Return what a reader needs to judge the figures; warns at once if others are working on this machine."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY_LOAD * cores:
        progress(
            f"BUSY: load average {load:.1f} on {cores} cores before the first load; the figures will not be worth keeping"
        )
    return {
        **versions, "kvnode": __version__, "python": platform.python_version(), "machine": _processor(),
        "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30), "kernel": platform.release(),
        "load_average_before": [round(each, 2) for each in os.getloadavg()], "filesystem": filesystem(options.directory),
        "key_size_bytes": options.key_size, "value_size_bytes": options.value_size, "keys_read": options.keys,
        "rounds": options.rounds, "duration_s": options.duration, "warmup_s": options.warmup,
    }  # fmt: skip


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def filesystem(directory: Path) -> str:
    """Return the type of the file system below `directory`, with a warning if an fsync there means nothing."""
    path = str(directory.resolve())
    mounts = [each for each in psutil.disk_partitions(all=True) if path.startswith(each.mountpoint)]
    kind = max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "unknown"
    return f"{kind} (MEMORY: AN FSYNC COSTS NOTHING)" if kind in VOLATILE else kind


def conclude(document: dict[str, Any], sitting: Sitting, peer: str, output: str) -> int:
    """Print the report and what is wrong with it; returns the exit code."""
    document["problems"] = sitting.problems()
    _show(document, peer, output)
    for problem in document["problems"]:
        progress(f"WRONG: {problem}")
    return 1 if document["problems"] else 0


def _show(document: dict[str, Any], peer: str, output: str) -> None:
    """Print the report: one document, or a table."""
    if output == "json":
        sys.stdout.write(json.dumps({"schema": SCHEMA, **document}, ensure_ascii=False) + "\n")
        return
    console = Console(width=max(140, Console().width))
    console.print(_table(document["cells"], peer))
    for line in document["says"]:
        console.print(f"- {line}", markup=False, highlight=False)
    known = ", ".join(f"{name} {value}" for name, value in document["environment"].items())
    console.print(f"environment: {known}", markup=False, highlight=False)


def _table(cells: Sequence[dict[str, Any]], peer: str) -> Table:
    table = Table(title=f"ours against {peer}: median \\[range] over rounds; ratio = ours/{peer} within a pair")
    for column in ("", "", *COLUMNS, "conns", "ratio ops/s"):
        table.add_column(column, justify="left" if not column else "right")
    for cell in cells:
        for name, side in ((peer, cell["peer"]), ("ours", cell["ours"])):
            label = f"{cell['operation']}, {cell['shape']}" if name == peer else cell["says"]
            ratio = _shown(cell["ratio"], 2) if name == "ours" else ""
            figures = [_shown(side[measure], digits) for measure, digits in SHOWN.items()]
            table.add_row(label, name, *figures, str(side["connections"] or ""), ratio, end_section=name == "ours")
    return table


def _shown(spread: Sequence[float] | None, digits: int) -> str:
    if spread is None:
        return "-"
    median, low, high = (f"{each:,.{digits}f}" for each in spread)
    return median if low == high else f"{median} [{low}..{high}]"
