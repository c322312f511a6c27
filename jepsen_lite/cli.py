"""jepsen-lite: run seeds of the simulated cluster, replay one, judge any history, list what there is, run the mutation suite.

    jepsen-lite run --seeds 0..1000 --twice        each seed in two processes with different PYTHONHASHSEED: equal hashes
    jepsen-lite run --seeds 0..1000 --moves        nodes join, and take the places of lost ones, during the faults of every run
    jepsen-lite replay --seed 7                    one seed, everything about it
    jepsen-lite check --model register FILE        a history of any system: check_command.py
    jepsen-lite list                               workloads, models, faults, buggify points, probes
    jepsen-lite mutants                            the harness's own test

Every run is a process of its own with a hash seed of its own, so nothing of one run can reach another. Exit code 1 if any run
broke a promise, or if two runs of one seed differed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import click

from jepsen_lite.check_command import check, write_history
from jepsen_lite.history import History
from jepsen_lite.judged import MODELS
from jepsen_lite.workloads.catalogue import DEFAULT_NAME, WORKLOADS

__all__ = ["main"]

NOT_FAULTS = ("net_frames_delivered", "net_frames_dropped", "net_heals", "restart")
"""Counted beside the faults, and not faults."""
HASH_SEEDS = ("1", "4242")
"""Of the first and the second run of a seed."""
TWICE_AT_A_TIME = 40
"""Seeds that run once, and then all again: the hash seed is the pool's, so there is one pool at a time."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Break a simulated kvstore cluster, and judge what it promised."""


main.add_command(check)


def _seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> range:
    first, dots, end = text.partition("..")
    if not (first.isdecimal() and (end.isdecimal() or not dots)):
        raise click.BadParameter("a seed, or A..B (B excluded)")
    return range(int(first), int(end)) if dots else range(int(first), int(first) + 1)


_workload = click.option(
    "--workload", type=click.Choice([name for name, _ in WORKLOADS]), default=DEFAULT_NAME, show_default=True,
    help="See `jepsen-lite list`.",
)  # fmt: skip
_duration = click.option(
    "--duration", "duration_s", default=60.0, show_default=True, help="Virtual seconds of load and faults."
)
_moves = click.option(
    "--moves", is_flag=True, help="Nodes join and take the places of lost ones during the faults, in every run."
)


class Job(NamedTuple):
    """One run, as its process is told."""

    seed: int
    workload: str
    duration_s: float
    moves: bool


@main.command()
@click.option("--seeds", callback=_seeds, default="0..20", show_default=True, help="A..B, B excluded.")
@_workload
@_duration
@_moves
@click.option(
    "--twice", is_flag=True, help="Run each seed again in another process with another hash seed, and compare."
)
@click.option("--processes", default=os.cpu_count() or 1, show_default=True, help="Runs at a time.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each seed.")
def run(
    seeds: range, workload: str, duration_s: float, moves: bool, twice: bool, processes: int, as_json: bool
) -> None:  # fmt: skip
    """Run seeds, and judge each."""
    bad, totals, figures = (
        0,
        {name: Counter[str]() for name in ("faults", "moves", "probes", "buggify")},
        Counter[str](),
    )
    jobs = [Job(seed, workload, duration_s, moves) for seed in seeds]
    for report in _reports(jobs, twice=twice, processes=processes):
        bad += not report["ok"]
        for name, total in totals.items():
            total.update(report[name])
        for name in ("ops", "acked", "virtual_s", "cpu_s"):
            figures[name] += report[name]
        _show(report, as_json=as_json)
    if not as_json:
        _show_totals(len(seeds), bad, totals, figures)
    sys.exit(1 if bad else 0)


@main.command()
@click.option("--seed", type=int, required=True)
@_workload
@_duration
@_moves
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@click.option("--history", "history_file", help="Write what clients did there, for `check`; see docs/histories.md.")
def replay(
    seed: int, workload: str, duration_s: float, moves: bool, as_json: bool, history_file: str | None
) -> None:  # fmt: skip
    """Run one seed here, and show everything about it."""
    history = None if history_file is None else History()
    report = _run_one(Job(seed, workload, duration_s, moves), history)
    if history is not None and history_file is not None:
        write_history(history, history_file)
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo("\n".join(report["swarm"]))
        _show(report, as_json=False, everything=True)
        for name in ("faults", "moves", "buggify", "probes", "figures"):
            click.echo(f"{name}: " + " ".join(f"{key}={value:g}" for key, value in report[name].items() if value))
    sys.exit(0 if report["ok"] else 1)


@main.command("list")
def list_() -> None:
    """List workloads, models of `check`, faults, buggify points and probes."""
    from jepsen_lite.sim.nemesis import fault_names
    from kvstore.chaos import Point, Probe

    for name, says in WORKLOADS:
        click.echo(f"workload  {name:<10} {says}")
    for name, says in MODELS:
        click.echo(f"model     {name:<20} {says}")
    for title, names in (("fault", fault_names()), ("point", list(Point)), ("probe", list(Probe))):
        for name in names:
            click.echo(f"{title:<9} {name}")


@main.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mutants(arguments: tuple[str, ...]) -> None:
    """Seed bugs into a copy of the product; each must be caught."""
    from jepsen_lite.mutants.suite import main as suite

    sys.exit(suite(list(arguments)))


# --- runs -----------------------------------------------------------------------------------------------------------------


def _reports(jobs: list[Job], *, twice: bool, processes: int) -> Iterator[dict[str, Any]]:
    """Yield the report of every seed in order; with `twice` a differing second run is a violation."""
    if len(jobs) == 1 and not twice:
        yield _run_one(jobs[0])
        return
    if not twice:
        with _pool(processes, HASH_SEEDS[0]) as pool:
            yield from pool.map(_run_one, jobs)
        return
    for start in range(0, len(jobs), TWICE_AT_A_TIME):
        yield from _run_twice(jobs[start : start + TWICE_AT_A_TIME], processes)


def _run_twice(jobs: list[Job], processes: int) -> Iterator[dict[str, Any]]:
    with _pool(processes, HASH_SEEDS[0]) as first:
        reports = list(first.map(_run_one, jobs))
    with _pool(processes, HASH_SEEDS[1]) as second:
        for report, again in zip(reports, second.map(_run_one, jobs), strict=True):
            if again["hash"] != report["hash"]:
                report["ok"] = False
                report["violations"].append(f"not reproducible: {report['hash']} and then {again['hash']}")
            yield report


def _pool(processes: int, hash_seed: str) -> ProcessPoolExecutor:
    """Return processes that each do one run and end."""
    os.environ["PYTHONHASHSEED"] = hash_seed  # of the processes to come; ours is what it is
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"), max_tasks_per_child=1)


def _run_one(job: Job, history: History | None = None) -> dict[str, Any]:
    from jepsen_lite.run import RunOptions, run_seed

    logging.disable(logging.CRITICAL)
    options = RunOptions(workload=job.workload, duration_s=job.duration_s, has_moves=job.moves)
    return (run_seed(job.seed, options) if history is None else run_seed(job.seed, options, history=history)).as_dict()


# --- showing --------------------------------------------------------------------------------------------------------------


def _show(report: dict[str, Any], *, as_json: bool, everything: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(report))
        return
    faults = sum(count for name, count in report["faults"].items() if name not in NOT_FAULTS)
    click.echo(
        f"seed {report['seed']:<5} {'ok ' if report['ok'] else 'BAD'} {report['hash'][:16]}  {report['ops']} operations, "
        f"{report['acked']} acknowledged, {faults} faults, {report['virtual_s']:.0f} virtual s in {report['cpu_s']:.1f} CPU s"
    )
    if report["violations"]:
        for violation in report["violations"] if everything else report["violations"][:3]:
            click.echo("    " + violation.replace("\n", "\n    "))
        click.echo(f"    replay: {report['replay']}")


def _show_totals(count: int, bad: int, totals: dict[str, Counter[str]], figures: Counter[str]) -> None:
    cpu_s = figures["cpu_s"] or 1.0
    click.echo(
        f"{count} seeds, {bad} bad: {figures['ops']} operations ({figures['acked']} acknowledged), "
        f"{figures['virtual_s'] / 3600:.1f} virtual hours in {cpu_s / 3600:.2f} CPU hours: "
        f"{figures['ops'] / cpu_s:.0f} operations and {figures['virtual_s'] / cpu_s:.0f} virtual s per CPU s"
    )
    for name, total in totals.items():
        click.echo(f"{name}: " + " ".join(f"{key}={value}" for key, value in total.items() if value))
    from kvstore.chaos import GUARDS

    missed = [probe for probe, hits in totals["probes"].items() if not hits and probe not in GUARDS]
    click.echo(f"probes never hit: {' '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
