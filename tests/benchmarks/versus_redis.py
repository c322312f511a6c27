"""Ours against redis on one machine: a primary that fsyncs every write with two replicas, and our three nodes; the same sizes.

    python -m tests.benchmarks.versus_redis [--rounds 3] [-o json]

redis is loaded by redis-benchmark, ours by kv_load.py. The two do not promise the same (redis.py says what redis promises):
the ratio is told, whatever it is, and is what a second copy on disk and an always-writable store cost next to one primary.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tests.benchmarks.contenders import Ours
from tests.benchmarks.figures import Shape
from tests.benchmarks.redis import Drive, Redis, find_programs
from tests.benchmarks.sitting import Plan, Sitting, chosen, conclude, environment, load_options, main, parser

__all__ = ["DRIVES", "SHAPES", "run"]

SHAPES = (
    Shape("50 connections", 2, 25, 25),
    Shape("50 connections, 16 in flight each", 2, 25, 400),
    Shape("500 connections", 4, 125, 125),
    Shape("1 connection, 500 in flight", 1, 1, 500),
)
"""Ours; a client of ours is connected to all three nodes, so "500 connections" are 1,500."""
DRIVES = {
    "50 connections": Drive(50, 1),
    "50 connections, 16 in flight each": Drive(50, 16),
    "500 connections": Drive(500, 1),
    "1 connection, 500 in flight": Drive(1, 500),
}
"""The same shapes as options of redis-benchmark, which is one process: `-c` connections, `-P` pipelined."""
SAYS = (
    "Durability differs: redis acknowledges when its primary has fsynced (appendfsync always) and replicates afterwards; ours"
    " acknowledges when two of three nodes have fsynced. An acknowledged SET can be lost with one disk or in a failover.",
    "Reads differ: a redis GET is the primary's memory; our get asks R=2 of 3.",
    "Pipelines differ: redis-benchmark -P sends that many commands and waits for all answers, and its latency ends with the"
    " first of them, so it is too small there; ours issues the next operation with every answer and times each one.",
    "redis-benchmark prints no errors and counts a GET of an absent key as done; all keys are put beforehand.",
)


def run(options: argparse.Namespace) -> int:
    """Measure and report."""
    version = find_programs()
    sizes = load_options(options)
    document: dict[str, Any] = {"environment": environment(options, redis=version), "says": list(SAYS)}
    sitting = Sitting(Plan(chosen(SHAPES, options.shapes), options.operations, options.rounds, options.directory))
    sitting.run([Redis(sizes, DRIVES), Ours(sizes)])
    document["cells"] = sitting.cells("redis", "ours")
    return conclude(document, sitting, "redis", options.output)


if __name__ == "__main__":
    given = parser(__doc__, key_size=276, value_size=1_024).parse_args()
    sys.exit(main(lambda: run(given), given.limit))
