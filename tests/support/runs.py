"""Seeds run in this process: quietly, and with the line that replays them if a promise is broken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from jepsen_lite.run import Report, RunOptions, run_seed

__all__ = ["check", "quiet_nodes"]


@contextmanager
def quiet_nodes() -> Iterator[None]:
    """Every simulated restart would say that it was unclean."""
    logger = logging.getLogger("kvnode")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def check(seed: int, options: RunOptions | None = None) -> Report:
    """Run a seed; nothing may be broken or left unjudged."""
    report = run_seed(seed, options)
    assert report.ok, "\n".join([*report.violations, f"{report.replay}   with {options}"])
    return report
