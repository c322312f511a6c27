"""The commands of jepsen-lite: what they print, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner, Result

import jepsen_lite.cli as cli
import jepsen_lite.run
from jepsen_lite.judged import MODELS
from jepsen_lite.run import Report, RunOptions, run_seed
from jepsen_lite.sim.nemesis import fault_names
from jepsen_lite.workloads.catalogue import WORKLOADS
from kvstore.chaos import Point, Probe

SHORT = ("--duration", "3", "--workload", "lww")


@pytest.fixture(autouse=True)
def _small_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in this process need not reach their 500 operations, and must leave logging as it was."""
    small = partial(RunOptions, operations_min=20, clients=3)
    monkeypatch.setattr(jepsen_lite.run, "RunOptions", small)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    yield
    logging.disable(logging.NOTSET)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def _bad(seed: int, options: RunOptions | None = None) -> Report:
    report = run_seed(seed, options)
    return replace(
        report, ok=False, violations=["causality: lost: k: 1:1 was acknowledged and is gone\n  its evidence"]
    )


# --- run ------------------------------------------------------------------------------------------------------------------


def test_run_prints_a_line_for_a_seed_and_what_all_of_them_did() -> None:
    """One seed runs here; exit code 0 says that every promise held."""
    told = invoke("run", "--seeds", "5", *SHORT)

    assert told.exit_code == 0, told.output
    first, total, *rest = told.output.splitlines()
    assert first.startswith("seed 5     ok  ") and " virtual s in " in first
    assert total.startswith("1 seeds, 0 bad: ")
    assert [line.partition(":")[0] for line in rest] == [
        "faults", "moves", "probes", "buggify", "probes never hit",
    ]  # fmt: skip


def test_run_shows_what_broke_and_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1; the evidence is indented below its seed, and the last line of it can be pasted."""
    monkeypatch.setattr(jepsen_lite.run, "run_seed", _bad)

    told = invoke("run", "--seeds", "5", *SHORT)

    assert told.exit_code == 1
    assert told.output.splitlines()[0].startswith("seed 5     BAD ")
    assert told.output.splitlines()[1:4] == [
        "    causality: lost: k: 1:1 was acknowledged and is gone",
        "      its evidence",
        "    replay: jepsen-lite replay --seed 5 --workload lww --duration 3",
    ]
    assert "1 seeds, 1 bad: " in told.output


def test_run_of_several_seeds_uses_processes_and_keeps_their_order() -> None:
    """Each run is a process of its own; reports come in the order of the seeds, whatever finishes first."""
    told = invoke("run", "--seeds", "5..7", "--duration", "1", "--processes", "2", "--json")

    assert told.exit_code == 0, told.output
    assert [json.loads(line)["seed"] for line in told.output.splitlines()] == [5, 6]


def test_twice_runs_every_seed_in_two_processes() -> None:
    """With different hash seeds: equal hashes, or the seed is bad."""
    told = invoke("run", "--seeds", "5", "--duration", "1", "--workload", "lww", "--twice", "--json")

    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["ok"]


def test_two_runs_that_differ_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that cannot be repeated cannot be debugged: it is a violation of its own."""
    hashes = iter(["aaaa", "aaaa", "bbbb", "aaaa"])

    class Pool:
        """Runs nothing: the second of the first two jobs gives another hash at its second run."""

        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, _function: object, jobs: list[cli.Job]) -> Iterator[dict[str, Any]]:
            return ({"seed": job.seed, "ok": True, "hash": next(hashes), "violations": []} for job in jobs)

    monkeypatch.setattr(cli, "_pool", Pool)

    jobs = [cli.Job(seed, "mix", 1.0, moves=False) for seed in range(2)]
    reports = list(cli._reports(jobs, twice=True, processes=1))

    assert [report["ok"] for report in reports] == [False, True]
    assert reports[0]["violations"] == ["not reproducible: aaaa and then bbbb"]


@pytest.mark.parametrize("seeds", ["", "x", "-1", "1..", "1..y", "1.5"])
def test_a_bad_range_of_seeds_is_a_usage_error(seeds: str) -> None:
    """Exit code 2, and what would be right."""
    told = invoke("run", "--seeds", seeds)

    assert told.exit_code == 2
    assert "a seed, or A..B (B excluded)" in told.output


# --- replay ---------------------------------------------------------------------------------------------------------------


def test_replay_shows_everything_about_one_seed() -> None:
    """The swarm first, then the verdict, then every count."""
    told = invoke("replay", "--seed", "5", *SHORT)

    assert told.exit_code == 0, told.output
    begins = [line.split()[0] for line in told.output.splitlines()]
    assert begins == [
        "cluster", "network", "disk", "clock", "process", "buggify", "workload", "seed", "faults:", "moves:", "buggify:",
        "probes:", "figures:",
    ]  # fmt: skip


def test_replay_repeats_the_run() -> None:
    """The same hash as the line of `run` shows."""
    ran, again = (
        invoke(*command, *SHORT, "--json") for command in (("run", "--seeds", "6"), ("replay", "--seed", "6"))
    )

    assert json.loads(ran.output)["hash"] == json.loads(again.output)["hash"]


def test_moves_are_in_the_replay_line_and_repeat() -> None:
    """With `--moves` the seed is another run, and `replay` with the same option the same one."""
    ran, again, plain = (
        json.loads(invoke(*command, "--duration", "3", "--json").output)
        for command in (
            ("run", "--seeds", "8", "--moves"),
            ("replay", "--seed", "8", "--moves"),
            ("replay", "--seed", "8"),
        )
    )

    assert ran["ok"], ran["violations"]
    assert ran["replay"] == "jepsen-lite replay --seed 8 --moves --duration 3"
    assert ran["hash"] == again["hash"] != plain["hash"]
    assert ran["moves"]["joins_begun"] >= 1 and ran["moves"]["joins_ended"] >= 1


def test_replay_of_a_bad_seed_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `git bisect run jepsen-lite replay --seed N` works."""
    monkeypatch.setattr(jepsen_lite.run, "run_seed", _bad)

    assert invoke("replay", "--seed", "5", *SHORT).exit_code == 1
    assert invoke("replay", "--seed", "5", *SHORT, "--json").exit_code == 1


# --- list -----------------------------------------------------------------------------------------------------------------


def test_list_names_all_workloads_faults_points_and_probes() -> None:
    """One on each line, by the names that reports have."""
    told = invoke("list")

    assert told.exit_code == 0
    named = [tuple(line.split()[:2]) for line in told.output.splitlines()]
    assert named == [
        *(("workload", name) for name, _ in WORKLOADS),
        *(("model", name) for name, _ in MODELS),
        *(("fault", name) for name in fault_names()),
        *(("point", str(point)) for point in Point),
        *(("probe", str(probe)) for probe in Probe),
    ]
