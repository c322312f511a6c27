"""A real `kvnode` process, started and ended from Python: what the demo and the tests build their clusters from.

    NodeProcess.start ──► waits for the line "… ready in …" on its stdout ──► address
                     └──► it ended first, or said nothing in time: NodeStartFailed with the end of its log

Invariants
  1. Whoever starts a process ends it: `kill` is safe to call at any time, any number of times, and reaps.
  2. Only pids started here are signalled.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kvstore.errors import KVStoreError

__all__ = ["NodeProcess", "NodeStartFailed"]

LOG_TAIL_BYTES = 2_000


class NodeStartFailed(KVStoreError):
    """The process ended or stayed silent instead of becoming ready; the message ends with its log."""

    code, definite = "node_start_failed", True


class NodeProcess:
    """One node's process, data directory and address. After `start` the address is fixed, so a restart keeps it."""

    def __init__(self, data: Path, *, listen: str = "127.0.0.1:0", join: Sequence[str] = (), flags: Sequence[str] = ()):
        self.data = data
        self.address = listen
        self.start_lines: list[str] = []
        self._join = tuple(join)
        self._flags = tuple(flags)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = data.with_name(data.name + ".log")

    def join_through(self, address: str) -> None:
        """Enter the cluster of the node at `address` at the next start."""
        self._join = (address,)

    @property
    def pid(self) -> int:
        """Process id; only while started."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True from `start` until the process ended for whatever reason."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = 30.0) -> None:
        """Start (or start again) and wait until the node says it is ready."""
        assert not self.is_running, "already running"
        self.launch()
        self.wait_ready(timeout_s=timeout_s)

    def launch(self) -> None:
        """Start without waiting; `wait_ready` follows."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KVNODE_")}
        environment["PYTHONUNBUFFERED"] = "1"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip  # its own session: Ctrl-C reaches us, and we end it

    def command(self) -> list[str]:
        """Return the command line of the next start."""
        command = [sys.executable, "-m", "cluster.cli.kvnode", "--data", str(self.data), "--listen", self.address]
        for seed in self._join:
            command += ["--join", seed]
        return [*command, *self._flags]

    def wait_ready(self, *, timeout_s: float) -> None:
        """Read stdout until the ready line; takes the address from it."""
        self.start_lines = []
        deadline = time.monotonic() + timeout_s
        pending = b""
        while True:
            chunk = self._read_stdout(deadline)
            if not chunk:
                raise NodeStartFailed(f"kvnode for {self.data} did not become ready:\n{self._end_and_tail()}")
            *lines, pending = (pending + chunk).split(b"\n")
            self.start_lines += [line.decode("utf-8", "replace") for line in lines]
            if any(" ready in " in line for line in self.start_lines):
                self.address = self._announced_address()
                return

    def _announced_address(self) -> str:
        words = self.start_lines[-1].split()
        return words[words.index("grpc") + 1]

    def _read_stdout(self, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return b""
        return os.read(self._process.stdout.fileno(), 65_536)

    def _end_and_tail(self) -> str:
        self.kill()
        return self.log_text()[-LOG_TAIL_BYTES:]

    def log_text(self) -> str:
        """Return everything the process wrote to its log, over all its starts."""
        return self._log_path.read_text("utf-8", "replace") if self._log_path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the process with SIGKILL and reap it; does nothing if it is not running."""
        self.signal(signal.SIGKILL)
        self.wait(None)

    def terminate(self, *, timeout_s: float = 15.0) -> int:
        """Ask for an orderly stop and return the exit code; SIGKILL after `timeout_s`."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def wait(self, timeout_s: float | None) -> int:
        """Wait until the process ended by itself or by a signal, and return its exit code (0 if it never started).

        Raises `subprocess.TimeoutExpired`; the process then still runs.
        """
        if self._process is None:
            return 0
        code = self._process.wait(timeout_s)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code
