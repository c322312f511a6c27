"""Runs load generators in step, several processes as one load, and weighs the servers meanwhile.

    generator   connect ─ "ready"      warm-up ─ "begin"   measured phase   "end" ─ one line of JSON ─ waits for the end of stdin
    here                all ready ─ "go"          all begun: CPU ─────── first end: CPU

Generators are kv_load.py for ours and etcd_load/main.go for etcd: the same options, the same closed loop, the same keys.
CPU counts between the last "begin" and the first "end", so it is of a time in which all of them loaded.

Invariants
  1. Every generator is ended by its pid, and reaped, however this ends; each has a time limit of its own as well.
  2. A generator that ends early fails the whole load, with the end of what it wrote to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.figures import Figure, LoadDocument, NothingMeasured, Shape

__all__ = ["LoadOptions", "established", "fill", "generator_options", "measure"]

LINE_BYTES_MAX = 16 * 1024 * 1024
SETUP_S_MAX = 180.0
"""For starting eight interpreters and opening 1,500 connections on two busy cores; on idle ones some ten seconds."""
STDERR_SHOWN_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Sizes and times that both sides share."""

    key_size: int
    value_size: int
    keys: int
    warmup_s: float
    duration_s: float

    @property
    def limit_s(self) -> float:
        """After so long a load has gone wrong."""
        return SETUP_S_MAX + 2 * self.warmup_s + 2 * self.duration_s


def generator_options(options: LoadOptions, shape: Shape, operation: str, process: int) -> list[str]:
    """Return the options of generator number `process`; all generators understand these."""
    prefix = f"p{process:02d}-" if operation == "put" else "k-"
    return [
        "-operation", operation, "-connections", str(shape.connections), "-in-flight", str(shape.in_flight),
        "-key-size", str(options.key_size), "-value-size", str(options.value_size), "-keys", str(options.keys),
        "-prefix", prefix, "-seed", str(process + 1), "-warmup", f"{options.warmup_s}s",
        "-duration", f"{options.duration_s}s", "-limit", f"{options.limit_s}s",
    ]  # fmt: skip


def fill(command: Sequence[str], options: LoadOptions, directory: Path) -> None:
    """Put all keys once with one generator; raises NothingMeasured if any put failed."""
    shape = Shape("fill", 1, 1, 256)
    document = asyncio.run(_fill([*command, *generator_options(options, shape, "fill", 0)], directory, options.limit_s))
    if document.errors or document.operations != options.keys:
        raise NothingMeasured(
            f"putting the keys to read: {document.operations} of {options.keys}; {document.first_error}",
            errors=document.errors,
        )


def measure(
    command: Sequence[str], shape: Shape, operation: str, options: LoadOptions, servers: Sequence[int], directory: Path
) -> Figure:
    """Load the servers (pids) with all processes of the shape and return what was measured."""
    commands = [
        [*command, *generator_options(options, shape, operation, each)] for each in range(shape.processes)
    ]  # fmt: skip
    return asyncio.run(_measure(commands, servers, directory, options.limit_s))


async def _fill(command: Sequence[str], directory: Path, limit_s: float) -> LoadDocument:
    async with _Generators([command], directory, limit_s) as generators:
        await generators.begin()
        return (await generators.finish())[0]


async def _measure(
    commands: Sequence[Sequence[str]], servers: Sequence[int], directory: Path, limit_s: float
) -> Figure:
    async with _Generators(commands, directory, limit_s) as generators:
        await generators.begin()
        await generators.all_say("begin")
        connections = established(servers)
        begun_s, ours, theirs = time.monotonic(), _cpu_s(generators.pids), _cpu_s(servers)
        await generators.first_says("end")
        elapsed_s = time.monotonic() - begun_s
        generator_share, server_share = (_cpu_s(generators.pids) - ours), (_cpu_s(servers) - theirs)
        documents = await generators.finish()
    return Figure.combine(documents, server_share / elapsed_s, generator_share / elapsed_s, connections)


def _cpu_s(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(each.user + each.system for each in times))


def established(pids: Sequence[int]) -> int:
    """Count the established connections of these servers that do not lead from one of them to another."""
    ends = [
        (each.laddr, each.raddr) for pid in pids for each in psutil.Process(pid).net_connections(kind="tcp")
        if each.status == psutil.CONN_ESTABLISHED
    ]  # fmt: skip
    inside = {local for local, _ in ends}
    return sum(1 for _, remote in ends if remote not in inside)


class _Generators:
    """The generator processes of one load, from start to reaping."""

    def __init__(self, commands: Sequence[Sequence[str]], directory: Path, limit_s: float) -> None:
        self._commands, self._directory, self._limit_s = commands, directory, limit_s
        self._processes: list[asyncio.subprocess.Process] = []
        self._ends: list[asyncio.Task[None]] = []
        self._deadline = asyncio.timeout(limit_s)

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [each.pid for each in self._processes]

    async def __aenter__(self) -> _Generators:
        await self._deadline.__aenter__()
        try:
            for number, command in enumerate(self._commands):
                with self._log(number).open("wb") as log:
                    self._processes.append(
                        await asyncio.create_subprocess_exec(
                            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                            limit=LINE_BYTES_MAX,
                        )
                    )  # fmt: skip
        except OSError:
            await self._end()
            raise
        return self

    async def __aexit__(self, kind: Any, problem: Any, trace: Any) -> None:
        await self._end()
        try:
            await self._deadline.__aexit__(kind, problem, trace)
        except TimeoutError:
            raise NothingMeasured(f"a load took longer than {self._limit_s:.0f} s\n{self._tails()}") from None

    async def begin(self) -> None:
        """Wait until all are connected, and let them go."""
        await self.all_say("ready")
        for each in self._processes:
            assert each.stdin is not None
            each.stdin.write(b"go\n")

    async def all_say(self, word: str) -> None:
        """Wait until all said `word`."""
        await asyncio.gather(*(self._expect(number, word) for number in range(len(self._processes))))

    async def first_says(self, word: str) -> None:
        """Wait until the first said `word`; `finish` waits for the others."""
        self._ends = [asyncio.ensure_future(self._expect(each, word)) for each in range(len(self._processes))]
        await asyncio.wait(self._ends, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self) -> list[LoadDocument]:
        """Return what each printed, in order."""
        await asyncio.gather(*self._ends)
        lines = await asyncio.gather(*(self._line(number) for number in range(len(self._processes))))
        try:
            return [LoadDocument.parse(json.loads(line)) for line in lines]
        except (ValueError, KeyError) as problem:
            raise NothingMeasured(f"a generator printed no result: {problem}\n{self._tails()}") from None

    async def _expect(self, number: int, word: str) -> None:
        line = await self._line(number)
        if line != word:
            raise NothingMeasured(f"a generator said {line[:80]!r} instead of {word!r}\n{self._tails()}")

    async def _line(self, number: int) -> str:
        stdout = self._processes[number].stdout
        assert stdout is not None
        return (await stdout.readline()).decode("utf-8", "replace").strip()

    async def _end(self) -> None:
        for end in self._ends:
            end.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)
        for each in self._processes:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself, as it should
                each.kill()
            await each.wait()

    def _log(self, number: int) -> Path:
        return self._directory / f"generator-{number}.log"

    def _tails(self) -> str:
        texts = (self._log(number).read_bytes()[-STDERR_SHOWN_BYTES:] for number in range(len(self._processes)))
        return "\n".join(text.decode("utf-8", "replace") for text in texts if text)
