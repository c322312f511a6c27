"""Ours against etcd on one machine: three nodes each, the same sizes and durability, loads in three shapes.

    python -m tests.benchmarks.versus_etcd [--rounds 3] [-o json]

etcd is loaded by a small Go program built on etcd's own client module (etcd_load/), ours by kv_load.py on our client; both do
the same closed loop. Where there is no Go toolchain, only `etcdctl check perf` is left; see docs/versus.md for what compares.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.contenders import Ours
from tests.benchmarks.etcd import GO_HINT, Etcd, build_load, find_programs, has_go
from tests.benchmarks.figures import Shape
from tests.benchmarks.foreign import (
    CHECK_PERF_KEY_BYTES,
    CHECK_PERF_LIMITS,
    CHECK_PERF_VALUE_BYTES,
    CheckPerf,
)
from tests.benchmarks.sitting import (
    Plan,
    Sitting,
    chosen,
    conclude,
    environment,
    load_options,
    main,
    parser,
    progress,
    workspace,
)

__all__ = ["SHAPES", "check_document", "run"]

SHAPES = (
    Shape("1 client x 500", 1, 1, 500),
    Shape("8 processes x 64", 8, 1, 64),
    Shape("500 connections", 4, 125, 125),
)
"""500 connections: 500 clients with one operation in flight each, in four processes on either side; every client is connected
to all three nodes, so the servers hold 1,500 TCP connections."""
SAYS = (
    "Durability is the same: an acknowledged put was fsynced by a majority (etcd) or by W=2 of N=3 nodes (ours).",
    "Consistency is not: etcd orders all writes by consensus and its gets are linearizable; our gets ask R=2 of 3 and may show"
    " siblings. etcd keeps old revisions, we keep causality.",
    "Generators differ in language: etcd's client is Go, ours is Python; they share the cores with the servers.",
)
TARGETS = {
    "all": "Clients of etcd are given all three members, as ours are given all nodes; followers forward puts to the leader.",
    "leader": "Clients of etcd are given the leader only (--target leader): nothing is forwarded, and no member takes over.",
}
NO_GO = f"NO GO TOOLCHAIN: etcd was not loaded like for like, and only `etcdctl check perf` speaks for it. {GO_HINT}."


def run(options: argparse.Namespace) -> int:
    """Measure and report."""
    version = find_programs()
    sizes = load_options(options)
    sitting = Sitting(Plan(chosen(SHAPES, options.shapes), options.operations, options.rounds, options.directory))
    document: dict[str, Any] = {"environment": environment(options, etcd=version), "says": list(SAYS)}
    checks: list[CheckPerf] = []
    with workspace(options.directory) as directory:
        load = build_load(directory) if has_go() else None
        etcd, ours = Etcd(sizes, load, leader_only=options.target == "leader"), Ours(sizes)
        document["says"] += [TARGETS[options.target]] if load is not None else [NO_GO]
        after = (lambda: checks.append(_check_perf(etcd, options))) if options.check_perf != "none" else None
        sitting.run([etcd, ours] if load is not None else [ours], after_round=after)
    document["cells"] = sitting.cells("etcd", "ours")
    if checks:
        document["check_perf"] = check_document(options.check_perf, checks, document["cells"])
        document["says"].append(document["check_perf"]["says"])
    return conclude(document, sitting, "etcd", options.output)


def _check_perf(etcd: Etcd, options: argparse.Namespace) -> CheckPerf:
    with workspace(options.directory) as directory:
        checked = etcd.check_perf(options.check_perf, directory)
    progress(f"etcdctl check perf --load {options.check_perf}: {checked.per_s:,.0f}/s")
    return checked


def check_document(load: str, checks: Sequence[CheckPerf], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what `check perf` found, next to what etcd did for its own client in the shape with the most puts."""
    limit, clients = CHECK_PERF_LIMITS[load]
    rates = [each.per_s for each in checks]
    best = max(
        (cell["peer"]["per_s"][0] for cell in cells if cell["operation"] == "put" and cell["peer"]["per_s"]),
        default=None,
    )
    says = (
        f"etcdctl check perf --load {load}: {statistics.median(rates):,.0f} puts/s [{min(rates):,.0f}..{max(rates):,.0f}]"
        f" with {clients} clients. It is rate-limited (at most {limit:,}/s, handed out one at a time by one goroutine),"
        " so it understates what etcd can do"
    )
    share = f": {statistics.median(rates) / best:.2f} of what the Go client reached here." if best else "."
    return {
        "load": load, "clients": clients, "limit_per_s": limit, "per_s": rates, "slowest_s": [each.slowest_s for each in checks],
        "errors": sum(each.errors for each in checks), "share_of_go_client": statistics.median(rates) / best if best else None,
        "says": says + share,
    }  # fmt: skip


def _options() -> argparse.Namespace:
    made = parser(__doc__, key_size=CHECK_PERF_KEY_BYTES, value_size=CHECK_PERF_VALUE_BYTES)
    made.add_argument("--target", choices=sorted(TARGETS), default="all", help="members that clients of etcd are given")
    made.add_argument(
        "--check-perf",
        choices=["none", *CHECK_PERF_LIMITS],
        default="xl",
        help="load of etcdctl check perf, a minute each round",
    )
    return made.parse_args()


if __name__ == "__main__":
    given = _options()
    sys.exit(main(lambda: run(given), given.limit))
