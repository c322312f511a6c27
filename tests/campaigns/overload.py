"""Ten times too much: how much useful work is done, how quickly the rest is refused, and whether memory stays flat.

    search   rate × 2 … until less than SUSTAINED_SHARE is acknowledged in time, then halves ──► sustainable rate
    steps    0.25 × … 10 × of it, an open loop each ──► offered, goodput, refusals, errors, latencies, memory of the nodes

For puts, then for gets. Where there are two cores or more, the nodes get half of them and the load the others, so that the load
neither waits for what it measures nor takes its time away (`--share-cores` for all on all).

Required: goodput at overload at least GOODPUT_SHARE_MIN of the peak; the nodes' memory within RSS_GROWTH_BYTES_MAX of what it was
up to 1 ×; of sampled puts, those refused are absent and those acknowledged are there; and no error that leaves a client in
doubt except its own deadline (all nodes are up and well, so nothing else has reason to).

A step is not judged for its goodput, and says so, if the load processes fell behind their schedule while the nodes had time
left: answers then waited unread. On two cores that is so from a few times the capacity on, and on a machine that others use
much earlier; what was promised for 10 × is then not shown. The line of JSON names these steps (`puts_not_judged`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import psutil
import uvloop

from cluster.cli.bench_core import key_of
from kvstore.client.client import AsyncClient
from kvstore.ids import ObjectType
from kvstore.messages import Verb
from tests.campaigns.harness import Findings, kvctl_environment, main, options, run_all, say, scratch
from tests.campaigns.open_loop import BEHIND_S_MAX, VALUE_BYTES, Plan, Tally
from tests.support.processes import KvnodeProcess, three_nodes

__all__ = ["MULTIPLES", "Step", "run"]

MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
VERBS = ("put", "get")
SECONDS = 5.0
WARM_UP_S = 1.5
"""Before each measurement: long enough for the guard to have settled."""
GENERATORS = 3
KEYS = 20_000
DEADLINE_S = 1.0
RATE_FIRST = 500.0
HALVINGS = 3
SUSTAINED_SHARE, SUSTAINED_QUANTILE_MS = 0.98, 250.0
"""A rate is sustained if that share of it is acknowledged in time, and 99 % of those within a quarter of the deadline."""
DONE_SHARE = 0.95
GOODPUT_SHARE_MIN = 0.7
RSS_GROWTH_BYTES_MAX = 64 << 20
"""Operations in flight, backlogs and what the allocator keeps of them; a queue without a bound takes that in two seconds."""
OFFERED_SHARE_MIN = 0.95
NODES_BUSY_SHARE, BEHIND_SHARE = 0.9, 0.9
"""A step is not judged if the nodes used less than that of their cores and the load was that close to giving up its schedule."""
BEGIN_IN_S = 0.3
RSS_EVERY_S = 0.1
FILL_CONCURRENCY = 64
IDLE_S_MAX = 30.0


@dataclass(slots=True)
class Step:
    """One rate of one verb, measured."""

    verb: str
    rate_per_s: float
    seconds: float
    multiple: float = 0.0
    tally: Tally = field(default_factory=Tally)
    rss_bytes_max: int = 0
    nodes_cpu_s: float = 0.0
    nodes_cores: int = 1

    @property
    def offered_per_s(self) -> float:
        """What the generators really issued."""
        return self.tally.offered / self.seconds

    @property
    def goodput_per_s(self) -> float:
        """What was acknowledged within its deadline."""
        return self.tally.good / self.seconds

    @property
    def refused_per_s(self) -> float:
        """Overloaded, from the nodes or from the client's own link."""
        return self.tally.refused.total() / self.seconds

    @property
    def errors_per_s(self) -> float:
        """All that is neither good nor refused: late, or another error."""
        return (self.tally.late + self.tally.errors.total()) / self.seconds

    @property
    def is_done(self) -> bool:
        """Whether nearly all that was offered was acknowledged in time: no overload, whatever the multiple."""
        return self.tally.good >= DONE_SHARE * self.tally.offered

    @property
    def is_load_the_limit(self) -> bool:
        """Whether the generators were behind their schedule while the nodes had time left: then answers waited for them."""
        behind_ms = self.tally.behind.quantile_ms(0.99)
        has_time_left = self.nodes_cpu_s < NODES_BUSY_SHARE * self.seconds * self.nodes_cores
        return has_time_left and behind_ms is not None and behind_ms >= BEHIND_SHARE * BEHIND_S_MAX * 1e3

    @property
    def is_sustained(self) -> bool:
        """Whether nearly all that was to be offered was offered and acknowledged, quickly."""
        p99_ms = self.tally.answered.quantile_ms(0.99)
        return (
            self.tally.good >= SUSTAINED_SHARE * self.rate_per_s * self.seconds
            and p99_ms is not None and p99_ms <= SUSTAINED_QUANTILE_MS
        )  # fmt: skip

    def line(self) -> str:
        """Return it as a row of the table in docs/performance.md."""
        tally = self.tally
        pauses = sorted(tally.pauses_ms.elements())
        pause = f"{pauses[len(pauses) // 2] / 1000:.2f}" if pauses else ""
        cells = [
            f"{self.multiple:g}x" if self.multiple else "probe", f"{self.offered_per_s:,.0f}", f"{self.goodput_per_s:,.0f}",
            f"{self.refused_per_s:,.0f}", f"{self.errors_per_s:,.0f}",
            *[_ms(tally.answered.quantile_ms(quantile)) for quantile in (0.5, 0.99)],
            *[_ms(tally.refusals.quantile_ms(quantile)) for quantile in (0.5, 0.99)], pause,
            f"{self.rss_bytes_max >> 20}", f"{self.nodes_cpu_s / self.seconds:.2f}", f"{tally.cpu_s / self.seconds:.2f}",
            _ms(tally.behind.quantile_ms(0.99)),
        ]  # fmt: skip
        return "| " + " | ".join(cells) + " |"

    def as_dict(self) -> dict[str, Any]:
        """Return it for the line of JSON and for a plot."""
        tally = self.tally
        return {
            "verb": self.verb, "multiple": self.multiple, "offered_per_s": round(self.offered_per_s),
            "goodput_per_s": round(self.goodput_per_s), "refused_per_s": round(self.refused_per_s),
            "late_or_error_per_s": round(self.errors_per_s), "late": tally.late,
            "refused": dict(tally.refused), "errors": dict(tally.errors), "samples": dict(tally.samples),
            "answered_ms": [tally.answered.quantile_ms(quantile) for quantile in (0.5, 0.99)],
            "refusals_ms": [tally.refusals.quantile_ms(quantile) for quantile in (0.5, 0.99)],
            "rss_bytes_max": self.rss_bytes_max,
        }  # fmt: skip


HEADINGS = (
    "| load | offered/s | goodput/s | refused/s | late, errors/s | p50 ms | p99 ms | refused p50 ms | p99 ms | asked to pause s |"
    " RSS MiB | nodes' CPU | load's CPU | load behind p99 ms |\n" + "|---" * 14 + "|"
)


def _ms(duration_ms: float | None) -> str:
    return "" if duration_ms is None else f"{duration_ms:,.0f}" if duration_ms >= 10 else f"{duration_ms:.1f}"


def run(
    *, seconds: float = SECONDS, multiples: Sequence[float] = MULTIPLES, verbs: Sequence[str] = VERBS,
    generators: int = GENERATORS, rate: float | None = None, share_cores: bool = False, keys: int = KEYS, seed: int = 1,
    plot: Path | None = None,
) -> Findings:  # fmt: skip
    """Run the campaign. `rate`: take it for the sustainable one instead of searching."""
    findings = Findings("overload", {"seed": seed, "seconds": seconds, "generators": generators})
    steps: list[Step] = []
    with scratch() as directory, _nodes(directory, share_cores=share_cores) as nodes:
        uvloop.run(_fill(nodes, keys, random.Random(seed)))
        for verb in verbs:
            load = partial(_load, nodes, verb, keys=keys, generators=generators, seconds=seconds)
            sustained = rate if rate is not None else _search(findings, verb, load)
            say(f"{verb}s, {sustained:,.0f}/s taken as 1x\n{HEADINGS}")
            measured = [_measure(load, sustained, multiple) for multiple in multiples]
            _judge(findings, nodes, verb, measured)
            steps += measured
    findings.note(steps=[step.as_dict() for step in steps])
    if plot is not None:
        from tests.campaigns.overload_plot import write_plot

        write_plot(plot, [step.as_dict() for step in steps])
    return findings


@contextmanager
def _nodes(directory: Path, *, share_cores: bool) -> Iterator[list[KvnodeProcess]]:
    """Three nodes on the first half of the cores; this process, and so the generators, on the others."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    if half and not share_cores:
        os.sched_setaffinity(0, cores[:half])  # inherited by whatever starts now
    with three_nodes(directory) as nodes:
        try:
            if half and not share_cores:
                os.sched_setaffinity(0, cores[half:])
                say(f"nodes on cores {cores[:half]}, load on {cores[half:]}")
            yield nodes
        finally:
            os.sched_setaffinity(0, cores)


async def _fill(nodes: Sequence[KvnodeProcess], keys: int, rng: random.Random) -> None:
    async with AsyncClient([node.address for node in nodes], timeout=30) as client:
        bucket = client.bucket("default", object_type=ObjectType.LWW)

        async def put(number: int) -> None:
            await bucket.put(key_of(number), rng.randbytes(VALUE_BYTES))

        await run_all(range(keys), put, FILL_CONCURRENCY)


# --- loads ----------------------------------------------------------------------------------------------------------------


def _search(findings: Findings, verb: str, load: partial[Step]) -> float:
    """Return the highest rate that is sustained."""
    say(f"searching what {verb}s are sustained\n{HEADINGS}")
    sustained, failing = 0.0, RATE_FIRST
    while _probe(load, failing):
        sustained, failing = failing, 2 * failing
    findings.require(sustained > 0, f"{RATE_FIRST:g} {verb}s/s are too much already")
    for _ in range(HALVINGS):
        middle = (sustained + failing) / 2
        sustained, failing = (middle, failing) if _probe(load, middle) else (sustained, middle)
    return sustained or RATE_FIRST


def _probe(load: partial[Step], rate: float) -> bool:
    """Return whether a rate is sustained. Asked twice before it is denied: something else may have had the machine."""
    for _ in range(2):
        step = load(rate=rate)
        say(step.line())
        if step.is_sustained:
            return True
    return False


def _measure(load: partial[Step], sustained: float, multiple: float) -> Step:
    step = load(rate=sustained * multiple)
    step.multiple = multiple
    say(step.line())
    return step


def _load(
    nodes: Sequence[KvnodeProcess], verb: str, *, rate: float, keys: int, generators: int, seconds: float
) -> Step:
    """Offer a rate from several processes and return what became of it."""
    uvloop.run(_wait_idle(nodes))
    step = Step(verb, rate, seconds, nodes_cores=len(psutil.Process(nodes[0].pid).cpu_affinity()))
    plan = Plan(
        tuple(node.address for node in nodes), verb, rate / generators, keys, WARM_UP_S, seconds, DEADLINE_S, name=""
    )
    command = [sys.executable, "-m", "tests.campaigns.overload_generator"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kvctl_environment())
        for _ in range(generators)
    ]
    try:
        for number, process in enumerate(processes):
            _tell(process, json.dumps({**asdict(plan), "name": f"sample {time.monotonic_ns()} {number}"}))
        for process in processes:
            _heard(process)
        begins = time.monotonic() + BEGIN_IN_S
        for process in processes:
            _tell(process, repr(begins))
        _watch(nodes, step, begins + WARM_UP_S)
        for process in processes:
            step.tally.add(Tally.unpacked(bytes.fromhex(_heard(process))))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return step


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, "a generator ended early; its reason is above"
    return line


def _watch(nodes: Sequence[KvnodeProcess], step: Step, begins: float) -> None:
    """Weigh the nodes until the measured time is over."""
    time.sleep(max(0.0, begins - time.monotonic()))
    cpu_s = _cpu_s(nodes)
    while time.monotonic() < begins + step.seconds:
        step.rss_bytes_max = max(step.rss_bytes_max, *[node.rss_bytes() for node in nodes])
        time.sleep(RSS_EVERY_S)
    step.nodes_cpu_s = _cpu_s(nodes) - cpu_s


def _cpu_s(nodes: Sequence[KvnodeProcess]) -> float:
    times = [psutil.Process(node.pid).cpu_times() for node in nodes]
    return float(sum(each.user + each.system for each in times))


async def _wait_idle(nodes: Sequence[KvnodeProcess]) -> None:
    """Wait until no node has anything of the load before under way."""
    give_up_at = time.monotonic() + IDLE_S_MAX
    async with AsyncClient([node.address for node in nodes]) as client:
        for node in nodes:
            while msgpack.unpackb(await client.call_node(node.address, Verb.STATUS))["in_flight"]:
                assert time.monotonic() < give_up_at, "a node does not come to rest"


# --- judging --------------------------------------------------------------------------------------------------------------


def _judge(findings: Findings, nodes: Sequence[KvnodeProcess], verb: str, steps: Sequence[Step]) -> None:
    peak = max(step.goodput_per_s for step in steps)
    calm_rss = max((step.rss_bytes_max for step in steps if step.multiple <= 1), default=steps[0].rss_bytes_max)
    for step in steps:
        findings.require(not _wrong_samples(step), f"{verb}s at {step.multiple:g}x: {_wrong_samples(step)}")
        doubts = {code for code in step.tally.errors if code.endswith("(unknown)")} - {"timeout (unknown)"}
        findings.require(
            not doubts, f"{verb}s at {step.multiple:g}x leave a client in doubt without need: {sorted(doubts)}"
        )
        if step.multiple > 1 and step.is_load_the_limit:
            say(f"  {step.multiple:g}x is not judged: the load processes were the limit, the nodes had time left")
        elif step.multiple > 1:
            share = step.goodput_per_s / peak
            findings.require(
                share >= GOODPUT_SHARE_MIN, f"{verb}s at {step.multiple:g}x: goodput {share:.2f} of the peak"
            )
            grown = step.rss_bytes_max - calm_rss
            findings.require(
                grown <= RSS_GROWTH_BYTES_MAX, f"{verb}s at {step.multiple:g}x: a node grew by {grown >> 20} MiB"
            )
    findings.require(all(node.is_running for node in nodes), "a node ended")
    not_judged = [step.multiple for step in steps if step.multiple > 1 and step.is_load_the_limit]
    findings.note(**{f"{verb}s_not_judged": not_judged})
    _tell_all(verb, peak, steps)


def _wrong_samples(step: Step) -> dict[str, int]:
    wrong = ("refused, there", "acknowledged, absent")
    return {what: count for what, count in step.tally.samples.items() if what in wrong}


def _tell_all(verb: str, peak: float, steps: Sequence[Step]) -> None:
    whole = Tally()
    for step in steps:
        whole.add(step.tally)
    overloaded = [
        step.goodput_per_s for step in steps if step.multiple > 1 and not step.is_done and not step.is_load_the_limit
    ]
    least = min(overloaded, default=peak)
    say(f"{verb}s: peak {peak:,.0f}/s, least at overload {least:,.0f}/s ({least / peak:.2f})")
    say(f"  refused by {dict(whole.refused)}; errors {dict(sorted(whole.errors.items()))}, late {whole.late}")
    if whole.samples:
        say(f"  sampled puts, read back: {dict(sorted(whole.samples.items()))}")
    for step in steps:
        if step.offered_per_s < OFFERED_SHARE_MIN * step.rate_per_s:
            say(f"  at {step.multiple:g}x the load processes could not offer more than {step.offered_per_s:,.0f}/s")


def _main() -> int:
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="measured at each rate")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--multiples", nargs="+", type=float, default=list(MULTIPLES), help="of the sustainable rate")
    parser.add_argument("--rate", type=float, help="take this for the sustainable rate instead of searching")
    parser.add_argument("--generators", type=int, default=GENERATORS, help="load processes")
    parser.add_argument("--share-cores", action="store_true", help="nodes and load on the same cores")
    parser.add_argument("--plot", type=Path, help="write the curves there as SVG (needs the plots extra)")
    given: argparse.Namespace = parser.parse_args()
    return main(lambda: run(
        seconds=given.seconds, multiples=given.multiples, verbs=given.verbs, generators=given.generators, rate=given.rate,
        share_cores=given.share_cores, seed=given.seed, plot=given.plot,
    ))  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(_main())
