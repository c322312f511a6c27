"""The product under crashes and power losses keeps every promise; on disks that lie it is found out.

PYTHONPATH=. python -m pytest -m slow tests/workloads/test_real.py      more seeds, every workload
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from jepsen_lite.history import OpType
from jepsen_lite.judges import broken, judge, unjudged
from jepsen_lite.sim.world import WorldOptions
from jepsen_lite.workloads.catalogue import WORKLOADS
from tests.workloads.sim_world import run_real

LIARS_MAX = 3
"""Seeds within which a disk that lies must be noticed; 6 of the first 8 notice it."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Every simulated restart would say that it was unclean."""
    logger = logging.getLogger("kvnode")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def check(seed: int, name: str) -> int:
    """Run a seed; nothing may be broken or left unjudged. Returns how many operations were acknowledged."""
    evidence = run_real(seed, name)
    verdicts = judge(evidence)
    assert broken(verdicts, evidence.history) == [], f"seed {seed} of {name}"
    assert [each for each in unjudged(verdicts) if not each.startswith("set_full")] == []
    return sum(pair.outcome is OpType.OK for pair in evidence.history.pairs())


def test_the_product_keeps_its_promises_to_the_mix() -> None:
    """Every kind of object and context, crashes and power losses, a few seeds."""
    assert sum(check(seed, "mix") for seed in range(4)) > 400


def test_a_disk_that_lies_is_noticed() -> None:
    """Syncs that do nothing lose acknowledged writes at the next power loss: a harness that misses that is blind."""
    noticed = 0
    for seed in range(LIARS_MAX):
        evidence = run_real(seed, options=WorldOptions(is_disk_lying=True))
        noticed += any(line.startswith("causality: lost") for line in broken(judge(evidence), evidence.history))

    assert noticed > 0


def test_a_run_can_be_repeated() -> None:
    """One seed is one history, to the byte."""
    first, second = (run_real(2, duration_s=3.0).history.to_json_lines() for _ in range(2))

    assert first == second


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name, _ in WORKLOADS])
def test_the_product_keeps_its_promises_to_each_workload(name: str) -> None:
    """The same for every workload and twenty seeds."""
    for seed in range(20 if name != "large" else 6):
        check(seed, name)
