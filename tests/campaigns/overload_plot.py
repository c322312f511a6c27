"""The curves of the overload campaign as SVG: what was offered against what was done, and how long answers took.

Needs matplotlib (`pip install .[plots]`). Text stays text and the file has no date or random ids, so that a diff of it shows what
was measured and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["write_plot"]

SIZE_INCHES = (10.0, 6.5)
GOOD, REFUSED, LATE, IDEAL = "#1b7837", "#762a83", "#c51b1b", "#999999"


def write_plot(path: Path, steps: Sequence[dict[str, Any]]) -> None:
    """Write one column for each verb: rates above, latencies below. `steps` are those of the line of JSON."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kvstore", "font.size": 9})
    verbs = list(dict.fromkeys(step["verb"] for step in steps))
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots(2, len(verbs), squeeze=False, sharex="col")
    for column, verb in enumerate(verbs):
        mine = [step for step in steps if step["verb"] == verb]
        _draw_rates(axes[0][column], verb, mine)
        _draw_latencies(axes[1][column], mine)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_rates(axes: Axes, verb: str, steps: Sequence[dict[str, Any]]) -> None:
    offered = [step["offered_per_s"] for step in steps]
    axes.plot(offered, offered, color=IDEAL, linestyle=":", label="offered")
    axes.plot(offered, [step["goodput_per_s"] for step in steps], color=GOOD, marker="o", label="acknowledged in time")
    axes.plot(offered, [step["refused_per_s"] for step in steps], color=REFUSED, marker="s", label="refused")
    axes.plot(
        offered, [step["late_or_error_per_s"] for step in steps], color=LATE, marker="x", label="late, or in doubt"
    )
    axes.set(title=f"{verb}s", ylabel="per second", ylim=(0, None))
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.3)


def _draw_latencies(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    for name, color, label in (("answered_ms", GOOD, "acknowledged"), ("refusals_ms", REFUSED, "refused")):
        for index, (quantile, style) in enumerate((("p50", "-"), ("p99", "--"))):
            known = [(step["offered_per_s"], step[name][index]) for step in steps if step[name][index] is not None]
            if known:
                axes.plot(
                    *zip(*known, strict=True), color=color, linestyle=style, marker=".", label=f"{label} {quantile}"
                )
    axes.set(xlabel="offered per second", ylabel="ms", yscale="log")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3, which="both")
