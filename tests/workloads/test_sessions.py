"""The workload of sessions on the simulated cluster: sessions move, and one that is ignored is found out."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.coordinator.planning import Planner
from jepsen_lite.history import History
from jepsen_lite.run import RunOptions, run_seed

OPTIONS = RunOptions(workload="sessions", duration_s=25.0, operations_min=300)


def test_a_run_of_sessions_keeps_its_promises_and_had_something_to_judge() -> None:
    """Sessions are of several processes, and most reads had a history to cover."""
    history = History()
    report = run_seed(0, OPTIONS, history=history)

    assert report.violations == []
    assert report.figures["sessions.asking"] > 50
    processes = Counter(pair[0] for pair in {(op.session, op.process) for op in history.ops if op.session is not None})
    assert sum(count > 1 for count in processes.values()) > 3


def test_a_coordinator_that_ignores_the_history_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a few seeds: not every one brings a stale replica before a session. The judge names the session."""
    read_plan = Planner.read_plan

    def careless(self: Planner, *arguments: object) -> object:
        r, pr, _ = read_plan(self, *arguments)  # type: ignore[arg-type]
        return r, pr, None

    monkeypatch.setattr(Planner, "read_plan", careless)
    runs = (run_seed(seed, OPTIONS) for seed in range(8))
    found = next((each for run in runs for each in run.violations if each.startswith("sessions:")), "")
    assert "of session" in found
