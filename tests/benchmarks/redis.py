"""A redis primary with two replicas for one measurement, loaded by redis-benchmark.

The durability that is measured, and what it is not:

    appendfsync always   the primary fsyncs its append-only file once per turn of its event loop, before it answers what that turn
                         did: an acknowledged SET is on the primary's disk
    two replicas         are sent the write *afterwards*: an acknowledged SET may be on one disk only, and is lost with it, or in
                         a failover to a replica that had not received it
    WAIT n               (not used here) blocks until n replicas *received* the write; that they fsynced it is what WAITAOF says,
                         from redis 7.2 on. Neither takes a write back when it times out, so they count copies, they do not agree.

So its acknowledgement is W=1 on disk, ours is W=2 on disk. GETs are answered by the primary from memory; ours ask R=2 of 3.
"""

from __future__ import annotations

import random
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.contenders import free_ports, program, run_program, servers
from tests.benchmarks.figures import Figure, NothingMeasured, Shape
from tests.benchmarks.foreign import parse_redis_csv, parse_redis_info
from tests.benchmarks.load_process import LoadOptions

__all__ = ["Drive", "Redis", "find_programs"]

PACKAGES = "redis-server redis-tools"
FRESH_KEYS = 999_999_999_999
"""redis-benchmark draws keys from this many: the chance that a put meets a key it drew before is negligible."""
DIGITS = 12
REPLICAS_COUNT = 2


@dataclass(frozen=True, slots=True)
class Drive:
    """How redis-benchmark makes a shape: connections, and commands sent by each before it waits for the answers."""

    connections: int
    pipeline: int


class Redis:
    """As Contender."""

    name = "redis"

    def __init__(self, options: LoadOptions, drives: dict[str, Drive]) -> None:
        self._options, self._drives = options, drives
        alphabet = string.ascii_letters + string.digits
        self._value = "".join(random.Random(1).choices(alphabet, k=options.value_size))

    def measure(self, shape: Shape, operation: str, directory: Path) -> Figure:
        """As Contender. A first run of redis-benchmark is the warm-up and tells how many requests fill the duration."""
        drive = self._drives[shape.name]
        with _group(directory) as (pids, ports):
            if operation == "get":
                self._fill(ports[0])
            trial = self._benchmark(ports[0], drive, operation, 4 * drive.connections * drive.pipeline)
            warmed = self._benchmark(ports[0], drive, operation, round(trial.per_s * max(0.5, self._options.warmup_s)))
            return self._measured(pids, ports[0], drive, operation, round(warmed.per_s * self._options.duration_s))

    def _measured(self, pids: list[int], port: int, drive: Drive, operation: str, requests: int) -> Figure:
        before_s, begun_s = _cpu_s(pids), time.monotonic()
        figure = self._benchmark(port, drive, operation, requests)
        elapsed_s = time.monotonic() - begun_s
        if elapsed_s > self._options.limit_s:
            raise NothingMeasured(f"redis-benchmark took {elapsed_s:.0f} s")
        cpu_us = (_cpu_s(pids) - before_s) / figure.operations * 1e6
        return Figure(
            figure.operations, figure.per_s, figure.p50_ms, figure.p99_ms, cpu_us, None, connections=drive.connections
        )  # fmt: skip

    def _benchmark(self, port: int, drive: Drive, operation: str, requests: int) -> Figure:
        requests = max(requests, drive.connections * drive.pipeline)
        fresh, prefix = (FRESH_KEYS, "p-") if operation == "put" else (self._options.keys, "k-")
        command = [
            program("redis-benchmark", "redis-tools"), "-h", "127.0.0.1", "-p", str(port), "-c", str(drive.connections),
            "-P", str(drive.pipeline), "-n", str(requests), "-r", str(fresh), "--precision", "3", "--csv",
            *(("SET", self._key(prefix, "__rand_int__"), self._value) if operation == "put"
              else ("GET", self._key(prefix, "__rand_int__"))),
        ]  # fmt: skip
        line = parse_redis_csv(run_program(command, timeout_s=self._options.limit_s))
        return Figure(requests, line.per_s, line.p50_ms, line.p99_ms, None, None)

    def _key(self, prefix: str, digits: str) -> str:
        """Return the prefix, filled up with dots, and the digits; the same as kv_load.py's."""
        return prefix.ljust(self._options.key_size - DIGITS, ".") + digits

    def _fill(self, port: int) -> None:
        lines = (f"SET {self._key('k-', f'{each:0{DIGITS}d}')} {self._value}\r\n" for each in range(self._options.keys))
        command = [program("redis-cli", "redis-tools"), "-h", "127.0.0.1", "-p", str(port), "--pipe"]
        printed = run_program(command, timeout_s=self._options.limit_s, stdin="".join(lines).encode())
        if f"errors: 0, replies: {self._options.keys}" not in printed:
            raise NothingMeasured(f"putting the keys to read: {printed[-400:]}")


def find_programs() -> str:
    """Return the version of redis, or raise MissingProgram."""
    program("redis-benchmark", "redis-tools")
    program("redis-cli", "redis-tools")
    return (
        run_program([program("redis-server", "redis-server"), "--version"], timeout_s=10.0)
        .split()[2]
        .removeprefix("v=")
    )


@contextmanager
def _group(directory: Path) -> Iterator[tuple[list[int], list[int]]]:
    ports = free_ports(1 + REPLICAS_COUNT)
    commands = [_command(directory / f"r{number}", port, ports[0]) for number, port in enumerate(ports)]
    with servers(commands, directory, lambda: _is_replicating(ports[0])) as pids:
        yield pids, ports


def _command(data: Path, port: int, primary_port: int) -> list[str]:
    data.mkdir()
    command = [
        program("redis-server", "redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data),
        "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--repl-diskless-sync-delay", "0",
    ]  # fmt: skip
    return command if port == primary_port else [*command, "--replicaof", "127.0.0.1", str(primary_port)]


def _is_replicating(port: int) -> bool:
    """Both replicas are online, as the primary sees them."""
    command = [program("redis-cli", "redis-tools"), "-h", "127.0.0.1", "-p", str(port), "info", "replication"]
    found = parse_redis_info(run_program(command, timeout_s=10.0, codes=(0, 1)))
    replicas = [found.get(f"slave{number}", "") for number in range(REPLICAS_COUNT)]
    return all("state=online" in each for each in replicas)


def _cpu_s(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(each.user + each.system for each in times))
