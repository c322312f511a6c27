"""What all campaigns share: a scratch directory, `kvctl` as a process, bounded concurrency, what was found, how it is told.

A campaign is a program that makes real processes suffer and then judges what they kept. It prints a summary for people, one line
of JSON for machines, and exits non-zero if anything it promises did not hold. Chance comes from `--seed`, so that a run can be
repeated as far as real processes can be.

Invariants
  1. Every process a campaign starts is ended by its pid, and every directory removed, however the campaign ends.
  2. A campaign judges from outside: what was acknowledged is what a client was told, not what a node believes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster.cli.node_process import NodeProcess
from cluster.cli.workers import run_all
from kvstore.causality.dvvset import DVVSet
from kvstore.ids import StorageKey
from kvstore.storage.engine import Family
from kvstore.storage.record import decode_record
from kvstore.storage.rocksdb import RocksEngine

__all__ = [
    "Findings", "client_url", "kvctl", "kvctl_command", "kvctl_environment", "main", "options", "read_store", "run_all", "say",
    "scratch",
]  # fmt: skip

Item = TypeVar("Item")
VIOLATIONS_SHOWN_MAX = 20
KVCTL_TIMEOUT_S = 3_600.0
END_OF_KEYS = b"\xff" * 16


def say(text: str) -> None:
    """Print a line of the summary at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Findings:
    """What a campaign measured, and which of its promises did not hold."""

    campaign: str
    numbers: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    def note(self, **numbers: Any) -> None:
        """Keep numbers for the line of JSON."""
        self.numbers.update(numbers)

    def require(self, holds: bool, otherwise: str) -> None:
        """Record a violation unless the promise `holds`."""
        if not holds:
            self.violations.append(otherwise)
            say(f"  VIOLATION {otherwise}")

    def conclude(self) -> int:
        """Print the verdict and the line of JSON; returns the exit code."""
        elapsed_s = round(time.monotonic() - self.started_s, 1)
        verdict = "all held" if not self.violations else f"{len(self.violations)} VIOLATIONS"
        say(f"{self.campaign}: {verdict} ({elapsed_s} s)")
        shown = self.violations[:VIOLATIONS_SHOWN_MAX]
        say(json.dumps({"campaign": self.campaign, "ok": not self.violations, "violations": shown, **self.numbers,
                        "elapsed_s": elapsed_s}))  # fmt: skip
        return 1 if self.violations else 0


@contextlib.contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A directory of its own, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="kvstore-campaign-", dir=parent) as name:
        yield Path(name)


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options every campaign has."""
    summary = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of every random choice")
    return parser


def main(run: Callable[[], Findings]) -> int:
    """Run a campaign so that SIGTERM cleans up too, and return its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    return run().conclude()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def client_url(nodes: Iterable[NodeProcess]) -> str:
    """Return the URL of the cluster with all these nodes as seeds."""
    return "kv://" + ",".join(node.address for node in nodes)


def kvctl_environment() -> dict[str, str]:
    """Return an environment without settings of ours, and with a fixed width."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KV")}
    return {**kept, "COLUMNS": "140"}


def kvctl_command(nodes: Sequence[NodeProcess], *arguments: str) -> list[str]:
    """Return the command line of `kvctl` against these nodes."""
    return [sys.executable, "-m", "cluster.cli.kvctl", "--node", ",".join(n.address for n in nodes), *arguments]


def kvctl(nodes: Sequence[NodeProcess], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `kvctl` to its end."""
    command = kvctl_command(nodes, *arguments)
    return subprocess.run(
        command, capture_output=True, text=True, env=kvctl_environment(), timeout=KVCTL_TIMEOUT_S, check=False
    )


def read_store(directory: Path) -> dict[StorageKey, tuple[bytes, DVVSet]]:
    """Return every record of a stopped node as bytes and decoded; raises Corruption at one that fails its checksum.

    Opening marks the store as in use, so this is for the end of a node's life, or for a copy of its directory.
    """
    engine = RocksEngine.open(directory)
    try:
        return {
            StorageKey(key): (record, decode_record(StorageKey(key), record))
            for key, record in engine.scan(Family.DATA, b"", END_OF_KEYS)
        }
    finally:
        asyncio.run(engine.close(clean=False))
