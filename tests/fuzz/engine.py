"""The loop of the fuzzer: mutate, decode, judge, keep what reached something new; one report for each target.

    corpus ─ pick ─ mutate ─► decode ──► refused with its typed error      fine: counted by (error, message without its numbers)
                                │  └───► anything else raised              a finding
                                └─ decoded ─► laws of the target           broken: a finding

An input stays in the corpus if it was refused in a new way, or reached a new line of the product; lines are only watched for one
input in SAMPLE, because watching takes ten times as long as decoding.

Limits that a decoder must keep whatever the input: CPU_S_MAX for one decode, measured again by the thread's own clock before
anybody is accused; and a peak of memory, by tracemalloc for one input in SAMPLE and all that are large.
"""

from __future__ import annotations

import gc
import random
import re
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tests.fuzz.mutate import mutate

__all__ = ["CPU_S_MAX", "Finding", "Report", "Target", "fuzz"]

CPU_S_MAX = 0.05
SUSPICIOUS_S = 0.004
"""By the wall clock, which costs nothing to read; what took longer is measured again."""
SAMPLE = 64
LARGE_BYTES = 32 * 1024
PEAK_BYTES_BASE = 8 << 20
PEAK_FACTOR = 5
"""Peak of one decode: PEAK_BYTES_BASE and so many times its size."""
CORPUS_MAX = 2_000
ACCEPTED_MAX = 100
ACCEPTED_BYTES_MAX = 4 * 1024
KINDS_MAX = 500
_VARIABLE = re.compile(r"b?'.*'|b?\".*\"|`[^`]*`|-?\d+")


def _same(data: bytes) -> bytes:
    return data


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `decode` raises only `errors`; `laws` gets (input, what was decoded, rng) and raises if it breaks one."""

    name: str
    seeds: Sequence[bytes]
    decode: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    laws: Callable[[bytes, Any, random.Random], None] = lambda data, decoded, rng: None
    mend: Callable[[bytes], bytes] = _same
    """Makes a mutant pass a checksum in front of the decoder proper; left out for one mutant in eight."""
    packed_from: int | None = 0
    bombs: Sequence[bytes] = ()
    weight: int = 4
    cpu_s_max: float = CPU_S_MAX
    peak_factor: int = PEAK_FACTOR


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong with which input."""

    target: str
    data: bytes
    problem: str


@dataclass(slots=True)
class Report:
    """What happened to one target's inputs."""

    name: str
    inputs: int = 0
    decoded: int = 0
    kinds: set[str] = field(default_factory=set)
    corpus: int = 0
    lines: int = 0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    resident_growth_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


def fuzz(target: Target, inputs: int, seed: int, *, findings_max: int = 5) -> Report:
    """Run one target; stops early after `findings_max` findings of it."""
    run = _Run(target, random.Random(f"{seed} {target.name}"))
    resident = _resident_bytes()
    for data in (*target.seeds, *target.bombs):
        run.one(data, is_watched=True)
    rng = run.rng
    while run.report.inputs < inputs and len(run.report.findings) < findings_max:
        basis = run.accepted if rng.random() < 0.6 else run.corpus
        data = mutate(rng, rng.choice(basis), run.corpus, packed_from=target.packed_from)
        if rng.random() < 0.875:
            data = target.mend(data)
        run.one(data, is_watched=run.report.inputs % SAMPLE == 0)
    run.report.corpus, run.report.lines = len(run.corpus), len(run.lines)
    run.report.resident_growth_bytes = _resident_bytes() - resident
    return run.report


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Run:
    def __init__(self, target: Target, rng: random.Random) -> None:
        self.target, self.rng, self.report = target, rng, Report(target.name)
        self.corpus = [each for each in target.seeds if len(each) <= LARGE_BYTES]
        self.accepted = list(self.corpus)
        self.lines: set[tuple[str, int]] = set()
        self._decode, self._laws, self._errors = target.decode, target.laws, target.errors

    def one(self, data: bytes, *, is_watched: bool) -> None:
        """Decode and judge one input."""
        report, is_new = self.report, False
        report.inputs += 1
        started = time.perf_counter()
        try:
            decoded = self._decode(data)
        except self._errors as refusal:
            took_s = time.perf_counter() - started
            is_new = self._note_kind(refusal)
        except Exception as bug:  # noqa: BLE001  # whatever else it raises is what this program looks for
            self._found(data, f"decode raised {type(bug).__name__}: {str(bug)[:200]}")
            return
        else:
            took_s = time.perf_counter() - started
            report.decoded += 1
            self._judge(data, decoded)
            self._accept(data)
        if took_s > SUSPICIOUS_S:
            self._measure_time(data)
        if is_watched or len(data) > LARGE_BYTES:
            self._measure_peak(data)
            is_new = self._watch(data) or is_new
        if is_new and len(data) <= LARGE_BYTES and len(self.corpus) < CORPUS_MAX:
            self.corpus.append(data)

    def _accept(self, data: bytes) -> None:
        """Keep some of what decoded: mutants of those get furthest."""
        if len(data) > ACCEPTED_BYTES_MAX:
            return
        if len(self.accepted) < ACCEPTED_MAX:
            self.accepted.append(data)
        elif self.rng.random() < 0.05:
            first = len(self.target.seeds)
            self.accepted[first + int(self.rng.random() * (ACCEPTED_MAX - first))] = data

    def _judge(self, data: bytes, decoded: Any) -> None:
        try:
            self._laws(data, decoded, self.rng)
        except Exception as bug:  # noqa: BLE001  # as above
            self._found(data, f"law broken, {type(bug).__name__}: {str(bug)[:200]}")

    def _found(self, data: bytes, problem: str) -> None:
        self.report.findings.append(Finding(self.target.name, data, problem))

    def _note_kind(self, refusal: Exception) -> bool:
        kinds = self.report.kinds
        kind = f"{type(refusal).__name__}: {_VARIABLE.sub('#', str(refusal)[:200])}"
        if kind in kinds or len(kinds) >= KINDS_MAX:
            return False
        kinds.add(kind)
        return True

    def _quietly(self, data: bytes) -> None:
        try:
            self._decode(data)
        except self._errors:
            return

    def _measure_time(self, data: bytes) -> None:
        """The best of three by this thread's own CPU: other processes and the collector are not the decoder's fault."""
        times = []
        gc.disable()
        for _ in range(3):
            started = time.thread_time()
            self._quietly(data)
            times.append(time.thread_time() - started)
        gc.enable()
        self.report.slowest_s = max(self.report.slowest_s, min(times))
        if min(times) > self.target.cpu_s_max:
            self._found(data, f"took {min(times) * 1000:.0f} ms of CPU for {len(data)} bytes")

    def _measure_peak(self, data: bytes) -> None:
        tracemalloc.start()
        try:
            self._quietly(data)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.report.peak_bytes = max(self.report.peak_bytes, peak_bytes)
        if peak_bytes > PEAK_BYTES_BASE + self.target.peak_factor * len(data):
            self._found(data, f"took {peak_bytes:,} bytes of memory for {len(data):,}")

    def _watch(self, data: bytes) -> bool:
        """Decode once more and return whether a line of the product ran that none did before."""
        before, lines = len(self.lines), self.lines

        def on_line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add((frame.f_code.co_filename, frame.f_lineno))
            return on_line

        def on_call(frame: FrameType, event: str, argument: Any) -> Any:
            return on_line if "/kvstore/" in frame.f_code.co_filename else None

        previous = sys.gettrace()
        sys.settrace(on_call)
        try:
            self._quietly(data)
        finally:
            sys.settrace(previous)
        return len(self.lines) > before
