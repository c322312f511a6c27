"""A whole run: from one seed to a report, which is the same in every process, and bad if anything is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from jepsen_lite.judges import Evidence
from jepsen_lite.run import RunOptions, replay_line, run_seed
from jepsen_lite.sim.nemesis import fault_names
from jepsen_lite.sim.swarm import ProcessSwarm, Swarm
from jepsen_lite.sim.world import World
from kvstore.chaos import Point, Probe
from tests.support.runs import check, quiet_nodes

SHORT = RunOptions(duration_s=4.0, operations_min=50, clients=4)
CHILD = """
import json, logging
from jepsen_lite.run import RunOptions, run_seed
logging.disable(logging.CRITICAL)
report = run_seed(3, RunOptions(duration_s=4.0, operations_min=50, clients=4)).as_dict()
del report["cpu_s"]
print(json.dumps(report))
"""
CHILD_TIMEOUT_S = 60
LIARS_MAX = 3
"""Seeds within which a disk that lies must be noticed; 5 of the first 6 notice it."""
POWER = ProcessSwarm(crash_pause_s=1.0, power_share=1.0, together_share=0.5)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_nodes():
        yield


# --- a good run -----------------------------------------------------------------------------------------------------------


def test_a_run_is_long_and_busy_enough_to_prove_something() -> None:
    """At least a virtual minute, 500 operations, and a figure from every judge."""
    report = check(0)

    assert report.virtual_s >= 60.0
    assert report.ops >= 500
    assert 250 < report.acked <= report.ops
    assert report.events > 10_000 and report.cpu_s > 0
    assert report.figures["lww_clocks.compared"] >= 0 and report.figures["staleness.reads"] > 100


def test_a_run_goes_on_until_it_has_its_operations() -> None:
    """A seed in which clients mostly wait gets more time, faults included; but not for ever."""
    calm = RunOptions(duration_s=1.0, operations_min=1, clients=1, swarm=Swarm())

    short, longer, longest = (check(1, replace(calm, operations_min=wanted)) for wanted in (1, 300, 1_000_000))

    assert short.ops < 300 <= longer.ops < longest.ops < 1_000_000
    assert short.virtual_s < longer.virtual_s < longest.virtual_s < 60


def test_a_report_names_what_happened() -> None:
    """Swarm, faults, probes and points by the names that `jepsen-lite list` shows; plain data, fit for JSON."""
    report = check(5, SHORT)

    assert [line.split()[0] for line in report.swarm] == [
        "cluster", "network", "disk", "clock", "process", "buggify", "workload",
    ]  # fmt: skip
    assert set(report.faults) <= set(fault_names()) and all(report.faults.values())
    assert set(report.probes) == {str(probe) for probe in Probe}
    assert set(report.buggify) <= {str(point) for point in Point}
    assert (report.seed, len(report.hash)) == (5, 64)
    assert json.loads(json.dumps(report.as_dict())) == json.loads(json.dumps(report.as_dict()))


def test_the_replay_line_has_what_differs_from_the_default() -> None:
    """What a failure prints is the command to type."""
    assert replay_line(7, RunOptions()) == "jepsen-lite replay --seed 7"
    assert (
        replay_line(7, RunOptions(workload="lww", duration_s=8))
        == "jepsen-lite replay --seed 7 --workload lww --duration 8"
    )


# --- determinism ----------------------------------------------------------------------------------------------------------


def _run_in_child(hash_seed: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_seed_gives_the_same_run_in_another_process_with_other_hashes() -> None:
    """A run is a function of code and seed: set order, addresses and earlier runs in the process must not matter."""
    here = run_seed(3, SHORT)

    first, second = (_run_in_child(hash_seed) for hash_seed in ("1", "4242"))

    assert first == second, here.replay
    assert first["hash"] == here.hash, here.replay
    assert first["events"] == here.events > 1_000
    assert run_seed(4, SHORT).hash != here.hash


# --- bad runs -------------------------------------------------------------------------------------------------------------


def test_disks_that_lie_about_their_syncs_are_noticed() -> None:
    """A sync that makes nothing durable loses acknowledged writes: a harness that stays calm here is blind."""
    options = replace(SHORT, swarm=Swarm(process=POWER))
    lying = replace(SHORT, swarm=Swarm(process=POWER, is_disk_lying=True))

    told = [line for seed in range(LIARS_MAX) for line in run_seed(seed, lying).violations]

    assert [line for line in told if line.startswith("causality: lost")]
    for seed in range(LIARS_MAX):
        check(seed, options)


def test_what_a_run_raises_is_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of product or harness does not end a campaign: it is one bad run, with its last events and how to replay it."""

    async def trip(world: World) -> None:
        await world.loop.create_task(_wait(world))
        raise AssertionError("a promise of the harness")

    async def _wait(world: World) -> None:
        world.trace.record("the last thing", "n0")

    monkeypatch.setattr(World, "stop_all", trip)

    report = run_seed(5, SHORT)

    assert not report.ok
    assert len(report.violations) == 1
    assert report.violations[0].startswith("AssertionError: a promise of the harness")
    assert "the last thing" in report.violations[0]
    assert report.violations[0].endswith(f"replay: {report.replay}")
    assert report.ops > 50


def test_what_fails_unseen_is_a_verdict_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a callback of which nobody hears would be a log line in production."""
    stop_all = World.stop_all

    async def trip(world: World) -> None:
        world.loop.call_soon([].pop)
        await stop_all(world)

    monkeypatch.setattr(World, "stop_all", trip)

    (violation,) = run_seed(5, SHORT).violations

    assert violation.startswith("UnseenFailures: ")
    assert "pop from empty list" in violation


def test_what_could_not_be_judged_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that proves nothing must not pass for a good one."""
    unjudged = ["causality: r0"]
    monkeypatch.setattr("jepsen_lite.run.unjudged", lambda _verdicts: unjudged)

    assert run_seed(5, SHORT).violations == ["not judged: causality: r0"]


def test_every_judge_sees_the_whole_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of all nodes, the final state of everything that was touched, at all its owners."""
    seen: list[Evidence] = []

    def judge(evidence: Evidence) -> list[Any]:
        seen.append(evidence)
        return []

    monkeypatch.setattr("jepsen_lite.run.judge", judge)

    report = run_seed(5, SHORT)

    (evidence,) = seen
    assert report.ok and not report.figures
    assert len(evidence.clocks) == 3 and sum(1 for _ in evidence.history.pairs()) == report.ops
    assert evidence.objects and list(evidence.finals.states) == evidence.objects
