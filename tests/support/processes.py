"""Real `kvnode` processes for tests: start, hang, kill, weigh. Everything started here is ended here."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from cluster.cli.node_process import NodeProcess

__all__ = ["KvnodeProcess", "three_nodes"]


class KvnodeProcess(NodeProcess):
    """A node process that tests can also hang and weigh."""

    strace: tuple[str, ...] = ()
    """Options of strace(1), which then runs the node (as its grandchild: the pid stays the node's)."""

    def command(self) -> list[str]:
        """Return the command line, under strace if asked for."""
        prefix = ["strace", "-D", "-f", "-qq", "-o", str(self.data) + ".strace", *self.strace] if self.strace else []
        return [*prefix, *super().command()]

    def sigkill(self) -> None:
        """End it as a crash does."""
        self.kill()

    def sigstop(self) -> None:
        """Hang it: connections stay open and nothing answers."""
        self.signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        """Let it go on after `sigstop`."""
        self.signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Return its resident memory now."""
        size_bytes: int = psutil.Process(self.pid).memory_info().rss
        return size_bytes


@contextlib.contextmanager
def three_nodes(directory: Path, *, flags: Sequence[str] = ()) -> Iterator[list[KvnodeProcess]]:
    """A cluster of three on free loopback ports; the first is the founder. All are killed at the end, however it comes."""
    nodes = [KvnodeProcess(directory / name, flags=flags) for name in "abc"]
    try:
        nodes[0].start()
        for node in nodes[1:]:
            node.join_through(nodes[0].address)
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
