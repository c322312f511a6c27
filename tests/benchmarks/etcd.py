"""A three-node etcd for one measurement, loaded by etcd's own Go client, or by `etcdctl check perf`.

All members have their defaults: the write-ahead log is fsynced before a member acknowledges an entry, a put is answered when a
majority has it, a get is linearizable (the leader confirms with a majority that it leads, one confirmation for many gets).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks import load_process
from tests.benchmarks.contenders import ServerFailed, free_ports, program, run_program, servers
from tests.benchmarks.figures import Figure, Shape
from tests.benchmarks.foreign import CHECK_PERF_S, CheckPerf, parse_check_perf
from tests.benchmarks.load_process import LoadOptions

__all__ = ["GO_HINT", "Etcd", "build_load", "find_programs", "has_go"]

LOAD_SOURCE = Path(__file__).with_name("etcd_load")
BUILD_S_MAX = 300.0
GO_HINT = "Go 1.22 or later: https://go.dev/dl, or golang-go of bookworm-backports (that of Debian 12 itself is 1.19)"
CHECK_PERF_SETUP_S_MAX = 120.0
"""For connecting a thousand clients before, and deleting all its keys after, its minute."""
FAILED_ITS_BAR = 1
"""Exit code of `check perf` below 0.9 of its rate: a figure like any other."""


class Etcd:
    """As Contender. `leader_only` sends everything to the leader, which saves the followers the forwarding."""

    name = "etcd"

    def __init__(self, options: LoadOptions, load: Path | None, *, leader_only: bool = False) -> None:
        self._options, self._load, self._leader_only = options, load, leader_only

    def measure(self, shape: Shape, operation: str, directory: Path) -> Figure:
        """As Contender. Needs the generator made by `build_load`."""
        assert self._load is not None, "no generator was built"
        with _cluster(directory) as (pids, endpoints):
            targets = _leader(endpoints) if self._leader_only else endpoints
            command = [str(self._load), "-endpoints", ",".join(targets)]
            if operation == "get":
                load_process.fill(command, self._options, directory)
            return load_process.measure(command, shape, operation, self._options, pids, directory)

    def check_perf(self, load: str, directory: Path) -> CheckPerf:
        """Run `etcdctl check perf` for its minute."""
        with _cluster(directory) as (_, endpoints):
            command = [*_etcdctl(endpoints), "check", "perf", "--load", load]
            limit_s = CHECK_PERF_S + CHECK_PERF_SETUP_S_MAX
            return parse_check_perf(run_program(command, timeout_s=limit_s, codes=(0, FAILED_ITS_BAR)))


def find_programs() -> str:
    """Return the version of etcd, or raise MissingProgram."""
    program("etcdctl", "etcd-client")
    return run_program([program("etcd", "etcd-server"), "--version"], timeout_s=10.0).split()[2]


def has_go() -> bool:
    """True if a Go toolchain is there to build the generator with."""
    return shutil.which("go") is not None


def build_load(directory: Path) -> Path:
    """Build the generator (etcd_load/, with etcd's client module from the module cache or proxy) and return its path."""
    built = directory / "etcd_load"
    command = [program("go", "golang-go"), "build", "-o", str(built), "."]
    try:
        done = subprocess.run(
            command, cwd=LOAD_SOURCE, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ServerFailed(f"building {LOAD_SOURCE} took longer than {BUILD_S_MAX:.0f} s") from None
    if done.returncode:
        raise ServerFailed(f"cannot build {LOAD_SOURCE} (it needs {GO_HINT}): {done.stderr[-2_000:]}")
    return built


@contextmanager
def _cluster(directory: Path) -> Iterator[tuple[list[int], list[str]]]:
    ports = free_ports(6)
    clients, peers = [f"127.0.0.1:{port}" for port in ports[:3]], [f"127.0.0.1:{port}" for port in ports[3:]]
    everybody = ",".join(f"m{number}=http://{peer}" for number, peer in enumerate(peers))
    commands = [
        [
            program("etcd", "etcd-server"), "--name", f"m{number}", "--data-dir", str(directory / f"m{number}"),
            "--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}",
            "--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}",
            "--initial-cluster", everybody, "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error",
        ]
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True))
    ]  # fmt: skip
    with servers(commands, directory, lambda: _is_healthy(clients)) as pids:
        yield pids, clients


def _etcdctl(endpoints: list[str]) -> list[str]:
    return ["env", "ETCDCTL_API=3", program("etcdctl", "etcd-client"), "--endpoints", ",".join(endpoints)]


def _is_healthy(endpoints: list[str]) -> bool:
    """All three answer a linearizable get: there is a leader, and everybody knows it."""
    command = [*_etcdctl(endpoints), "endpoint", "health"]
    return run_program(command, timeout_s=30.0, codes=(0, 1)).count("is healthy") == len(endpoints)


def _leader(endpoints: list[str]) -> list[str]:
    """Return the endpoint that says it leads: fifth column of `endpoint status`."""
    lines = run_program([*_etcdctl(endpoints), "endpoint", "status"], timeout_s=30.0).splitlines()
    leaders = [
        line.split(",")[0].strip() for line in lines if line.count(",") > 4 and line.split(",")[4].strip() == "true"
    ]
    if len(leaders) != 1:
        raise ServerFailed(f"etcd has {len(leaders)} leaders: {lines}")
    return leaders
