"""Throws mutated inputs at every decoder of the product and judges what happens: `python -m tests.fuzz --inputs 1000000`.

A finding is: an exception that is not the decoder's typed error; a decode of more than 50 ms of CPU; memory out of proportion to
the input; a value that does not survive being encoded and decoded again; a merge of two records that raises or cannot be stored.
Prints a line for each decoder and, for each finding, the input in hex. Exit code 1 if there is any. `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.engine import Report, Target, fuzz
from tests.fuzz.targets_disk import disk_targets
from tests.fuzz.targets_wire import wire_targets

__all__ = ["all_targets", "main", "run"]

SHOWN_BYTES_MAX = 160


def all_targets() -> list[Target]:
    """Return every target, those of the wire first."""
    return [*wire_targets(), *disk_targets()]


def run(inputs: int, seed: int, only: str = "") -> list[Report]:
    """Share `inputs` among the targets by their weights, run them and print a line for each."""
    targets = [target for target in all_targets() if only in target.name]
    weights = sum(target.weight for target in targets)
    reports = []
    say(f"{'decoder':17} {'inputs':>9} {'decoded':>8} {'errors':>6} {'corpus':>6} {'lines':>5} {'slowest':>9} {'peak':>9} "
        f"{'resident':>9}  findings")  # fmt: skip
    for target in targets:
        report = fuzz(target, -(-inputs * target.weight // weights), seed)
        reports.append(report)
        slowest = f"{report.slowest_s * 1000:.1f} ms" if report.slowest_s else "< 4 ms"
        say(f"{report.name:17} {report.inputs:9,} {report.decoded:8,} {len(report.kinds):6} {report.corpus:6} {report.lines:5} "
            f"{slowest:>9} {report.peak_bytes / 1024:6,.0f} KiB {report.resident_growth_bytes / 1024:+6,.0f} KiB "
            f" {len(report.findings)}")  # fmt: skip
    return reports


def say(text: str) -> None:
    """Print a line of the summary at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run as told by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, shared among the decoders")
    parser.add_argument("--seed", type=int, default=1, help="of every mutation")
    parser.add_argument("--only", default="", help="decoders whose name contains this")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    reports = run(given.inputs, given.seed, given.only)
    findings = [finding for report in reports for finding in report.findings]
    for finding in findings:
        size, more = len(finding.data), "…" if len(finding.data) > SHOWN_BYTES_MAX else ""
        say(f"FINDING {finding.target}: {finding.problem}")
        say(f"  {size} bytes: {finding.data[:SHOWN_BYTES_MAX].hex()}{more}")
    total, kinds = sum(report.inputs for report in reports), sum(len(report.kinds) for report in reports)
    verdict = "all held" if not findings else f"{len(findings)} FINDINGS"
    elapsed_s = time.monotonic() - started
    say(f"fuzz: {total:,} inputs, seed {given.seed}, {kinds} kinds of refusal: {verdict} ({elapsed_s:.0f} s)")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
