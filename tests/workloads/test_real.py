"""The product keeps every promise to every workload, with all faults that a seed draws, and under crashes alone.

A few seeds of a few virtual seconds here; PYTHONPATH=. python -m pytest -m slow tests/workloads/test_real.py runs whole ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from jepsen_lite.run import RunOptions
from jepsen_lite.sim.swarm import ProcessSwarm, Swarm
from jepsen_lite.workloads.catalogue import WORKLOADS
from tests.support.runs import check, quiet_nodes

SHORT = RunOptions(duration_s=8.0, operations_min=50, clients=6)
CRASHES = Swarm(process=ProcessSwarm(crash_pause_s=2.0, power_share=0.5, together_share=0.2))
NAMES = [name for name, _ in WORKLOADS]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_nodes():
        yield


def test_the_product_keeps_its_promises_to_the_mix_under_crashes() -> None:
    """Every kind of object and context, kills and power losses and nothing else, so that much is acknowledged."""
    reports = [check(seed, replace(SHORT, swarm=CRASHES)) for seed in range(3)]

    assert sum(report.acked for report in reports) > 400
    assert sum(report.faults["power_loss"] for report in reports) > 3


@pytest.mark.parametrize("name", [name for name in NAMES if name != "large"])
def test_the_product_keeps_its_promises_to_each_workload(name: str) -> None:
    """With the faults of two seeds."""
    assert sum(check(seed, replace(SHORT, workload=name)).acked for seed in range(2)) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_product_keeps_its_promises_in_twenty_whole_runs(name: str) -> None:
    """At full length, of which `large` needs more time than all others."""
    for seed in range(20 if name != "large" else 6):
        check(seed, RunOptions(workload=name))
