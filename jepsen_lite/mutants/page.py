"""docs/mutants.md, made of a suite's JSON and the library: what each mutant is, who found it, and what that took.

    jepsen-lite mutants --page docs/mutants.md

Pure: the same JSON and library make the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepsen_lite.mutants.mutant import Mutant

__all__ = ["page"]

_HEAD = """# Mutants: the harness's own test

A mutant is a bug planted in a copy of the product (`jepsen_lite/mutants/library/*.toml`). The harness runs seed after seed on the
copy until a run fails; a mutant that no seed finds means that the harness is blind there. Those of author `stranger` were
written by somebody who had not read the tests.

This page is written by `jepsen-lite mutants --page docs/mutants.md` (one mutant: `--only NAME`; `--list` says what they are).
Those marked "moves" are run with `--moves`: nodes join, and take the places of lost ones, during the faults of every run.
"Seed" is the one that found it, "runs" how many that were; seconds are of all these runs together: virtual ones of the simulated
clusters, and of CPU.
"""
_LATER = """
## Later

The harness does not find these yet: what would show them does not exist, or no seed that was tried brought it about. They are
left out of the score, so that is a score of the library above and not of all bugs known.

| mutant | the bug | promise | why not yet |
|---|---|---|---|
"""


def page(document: Mapping[str, Any], library: Iterable[Mutant], later: Sequence[Mutant]) -> str:
    """Return the page for a `SuiteReport.as_json` of (a part of) `library`."""
    of_name = {mutant.name: mutant for mutant in library}
    results = [result for result in document["mutants"] if result["mutant"] in of_name]
    lines = [
        _HEAD,
        f"**{document['killed']} of {document['total']} killed ({document['score']:.0%}).** The unchanged product passed "
        f"{' and '.join(_seeds(control) for control in document['controls'])}.\n",
        "| mutant | author | the bug | promise | found by | seed | runs | virtual s | CPU s |",
        "|---|---|---|---|---|---:|---:|---:|---:|",
        *[_row(result, of_name[result["mutant"]]) for result in results],
    ]
    waiting = [f"| `{each.name}` | {_cell(each.says)} | {each.promise} | {_cell(each.later)} |" for each in later]
    return "\n".join(lines) + "\n" + (_LATER + "\n".join(waiting) + "\n" if waiting else "")


def _seeds(control: Mapping[str, Any]) -> str:
    return f"{control['seeds']} seeds" + (" with `--moves`" if "moves" in control["mutant"] else "")


def _row(result: Mapping[str, Any], mutant: Mutant) -> str:
    found_by = ", ".join(result["killed_by"]) or f"**{result['outcome']}**"
    seed = "" if result["seed"] is None else result["seed"]
    name = f"`{mutant.name}`" + (" (moves)" if mutant.moves else "")
    return (
        f"| {name} | {mutant.author} | {_cell(mutant.says)} | {mutant.promise} | {_cell(found_by)} | {seed} "
        f"| {result['seeds']} | {result['virtual_s']:.0f} | {result['cpu_s']:.1f} |"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
