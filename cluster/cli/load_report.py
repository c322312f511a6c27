"""How a load tells how it is going: a bar with a rate on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from cluster.cli.load import Loader
    from cluster.cli.load_core import LoadState

__all__ = ["Reporter"]

LINE_EVERY_S = 5.0


class Reporter:
    """Shows progress on stderr; `update` about once a second, `close` at the end."""

    def __init__(self, loader: Loader, state: LoadState | None, *, quiet: bool) -> None:
        self._loader = loader
        self._total = state.size_bytes if state is not None else None
        self._quiet = quiet
        self._started_s = self._line_s = time.monotonic()
        self._bar: Progress | None = None
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.fields[said]}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("load", total=self._total, said="0")
            self._bar.start()

    def update(self) -> None:
        """Show where the load is."""
        now_s = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._loader.progress.offset, said=self._said(now_s))
        elif not self._quiet and now_s - self._line_s >= LINE_EVERY_S:
            self._line_s = now_s
            print(self._said(now_s), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _said(self, now_s: float) -> str:
        counts = self._loader.counts
        rate = counts.ok / max(0.001, now_s - self._started_s)
        said = f"{counts.ok:,} records  {rate:,.0f}/s"
        if self._total:
            said += f"  {100 * self._loader.progress.offset / self._total:.0f} %"
        return f"{said}  {counts.failed:,} failed" if counts.failed else said
