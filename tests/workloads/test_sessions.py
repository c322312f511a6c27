"""The workload of sessions on the simulated cluster: sessions move, and one that is ignored is found out."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.coordinator.planning import Planner
from jepsen_lite.run import RunOptions, _Run, run_seed

OPTIONS = RunOptions(workload="sessions", duration_s=25.0, operations_min=300)


def test_a_run_of_sessions_keeps_its_promises_and_had_something_to_judge() -> None:
    """Sessions are of several processes, and most reads had a history to cover."""
    run = _Run(0, OPTIONS)
    report = run.world.run(run.main(), until_s=600.0)

    assert report.violations == []
    assert report.figures["sessions.asking"] > 50
    processes = Counter(
        pair[0] for pair in {(op.session, op.process) for op in run.history.ops if op.session is not None}
    )
    assert sum(count > 1 for count in processes.values()) > 3


def test_a_coordinator_that_ignores_the_history_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed; the judge names the session and shows the two operations."""
    read_plan = Planner.read_plan

    def careless(self: Planner, *arguments: object) -> object:
        r, pr, _ = read_plan(self, *arguments)  # type: ignore[arg-type]
        return r, pr, None

    monkeypatch.setattr(Planner, "read_plan", careless)
    found = [each for each in run_seed(0, OPTIONS).violations if each.startswith("sessions:")]
    assert found and "of session" in found[0]
