"""What is compared: clusters that are started for one measurement on loopback and a directory of their own, and stopped after it.

The idle contender is shut down, not stopped by SIGSTOP: after a SIGSTOP both sides wake up believing that their peers died
(elections, suspicions, reconnects), and would do so within the measured time; shut down, it holds neither CPU nor memory nor
page cache, and every measurement starts with no data, as its peer's does.

Invariants
  1. Every process started here listens on 127.0.0.1 only and is ended by its pid and reaped, however a measurement ends.
  2. A missing program is `MissingProgram` with the command that installs it, before anything was started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from kvstore.errors import KVStoreError
from tests.benchmarks import load_process
from tests.benchmarks.figures import Figure, Shape
from tests.benchmarks.load_process import LoadOptions
from tests.support.processes import three_nodes

__all__ = [
    "Contender", "MissingProgram", "Ours", "Server", "free_ports", "plain_environment", "program", "run_program", "servers",
    "wait_until",
]  # fmt: skip

LOG_SHOWN_BYTES = 2_000
STOP_S_MAX = 10.0
READY_S_MAX = 60.0
POLL_S = 0.1


class MissingProgram(KVStoreError):
    """A program of the comparison is not installed; the message says how to get it."""

    code, definite = "missing_program", True


class ServerFailed(KVStoreError):
    """A server ended or did not become ready; the message ends with its log."""

    code, definite = "server_failed", True


class Contender(Protocol):
    """One side of a comparison."""

    name: str

    def measure(self, shape: Shape, operation: str, directory: Path) -> Figure:
        """Start afresh in an empty directory, load in this shape, stop; `operation` is put or get."""
        ...


class Ours:
    """Three `kvnode` processes with all defaults: N=3, W=2, R=2, every acknowledgement after an fsync."""

    name = "ours"

    def __init__(self, options: LoadOptions) -> None:
        self._options = options

    def measure(self, shape: Shape, operation: str, directory: Path) -> Figure:
        """As Contender."""
        with three_nodes(directory) as nodes:
            endpoints = ",".join(node.address for node in nodes)
            command = [sys.executable, "-m", "tests.benchmarks.kv_load", "-endpoints", endpoints]
            if operation == "get":
                load_process.fill(command, self._options, directory)
            return load_process.measure(
                command, shape, operation, self._options, [node.pid for node in nodes], directory
            )  # fmt: skip


class Server:
    """A process of somebody else's: started with its output in a log file, ended by its pid."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=plain_environment(),
                start_new_session=True,
            )  # fmt: skip  # its own session: Ctrl-C reaches us, and we end it

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise ServerFailed if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise ServerFailed(f"{self._process.args!r} ended with {code}:\n{self._tail()}")

    def stop(self) -> None:
        """Ask it to stop, insist after a while, and reap it. Safe at any time."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        return self._log.read_bytes()[-LOG_SHOWN_BYTES:].decode("utf-8", "replace")


@contextlib.contextmanager
def servers(commands: Sequence[Sequence[str]], directory: Path, is_ready: Callable[[], bool]) -> Iterator[list[int]]:
    """Run servers until the block ends; it begins, with their pids, once `is_ready()`."""
    started: list[Server] = []
    try:
        for number, command in enumerate(commands):
            started.append(Server(command, directory / f"server-{number}.log"))
        wait_until(is_ready, started)
        yield [each.pid for each in started]
    finally:
        for each in started:
            each.stop()


def wait_until(is_ready: Callable[[], bool], started: Sequence[Server]) -> None:
    """Ask again and again; ServerFailed if a server ends or it takes longer than READY_S_MAX."""
    deadline_s = time.monotonic() + READY_S_MAX
    while not is_ready():
        for each in started:
            each.check()
        if time.monotonic() > deadline_s:
            raise ServerFailed(f"not ready after {READY_S_MAX:.0f} s")
        time.sleep(POLL_S)


def program(name: str, package: str) -> str:
    """Return the path of an installed program."""
    found = shutil.which(name)
    if found is None:
        raise MissingProgram(f"{name} is not installed: apt-get install -y {package}")
    return found


def run_program(
    command: Sequence[str], *, timeout_s: float, stdin: bytes = b"", codes: Sequence[int] = (0,)
) -> str:  # fmt: skip
    """Run a program to its end and return what it printed; ServerFailed for another exit code or no end in time."""
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout_s, env=plain_environment(), check=False
        )  # fmt: skip  # it is killed at the time limit
    except subprocess.TimeoutExpired:
        raise ServerFailed(f"{Path(command[0]).name} took longer than {timeout_s:.0f} s") from None
    printed = (done.stdout + done.stderr).decode("utf-8", "replace")
    if done.returncode not in codes:
        raise ServerFailed(f"{Path(command[0]).name} ended with {done.returncode}: {printed[-LOG_SHOWN_BYTES:]}")
    return printed


def plain_environment() -> dict[str, str]:
    """Return an environment without settings for either side."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ETCD", "KV", "REDIS"))}


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now; all are held until all are found."""
    with contextlib.ExitStack() as holding:
        held = [holding.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
