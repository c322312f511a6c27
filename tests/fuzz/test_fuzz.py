"""The fuzzer for a few seconds, what it found before, and that it would find something.

The full run is `python -m tests.fuzz --inputs 1000000` (about a minute); another seed every time is worth more than more inputs.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from kvstore.errors import DecodeError
from tests.fuzz.__main__ import all_targets
from tests.fuzz.engine import Target, fuzz

TARGETS = {target.name: target for target in all_targets()}
FOUND = [
    [part.strip() for part in line.split("|")]
    for line in (Path(__file__).parent / "corpus" / "found.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
INPUTS_EACH = 150
"""For each unit of a target's weight."""


@pytest.mark.parametrize("name", list(TARGETS))
def test_no_input_does_more_than_be_refused(name: str) -> None:
    """Typed errors only, little time and memory, what decodes survives being encoded, records merge."""
    report = fuzz(TARGETS[name], INPUTS_EACH * TARGETS[name].weight, seed=7)

    assert [(finding.problem, finding.data[:200].hex()) for finding in report.findings] == []
    assert report.decoded > 0, "every input was refused: the seeds are not what the decoder reads"


@pytest.mark.parametrize(("name", "what", "hexed"), FOUND, ids=[f"{name}: {what[:40]}" for name, what, _ in FOUND])
def test_what_was_found_stays_mended(name: str, what: str, hexed: str) -> None:
    """As the only seed of its target, and a few mutants of it."""
    target, data = TARGETS[name], bytes.fromhex(hexed)
    only = Target(name, [data], target.decode, target.errors, target.laws, target.mend, target.packed_from)

    assert fuzz(only, 200, seed=1).findings == []


def _fragile(data: bytes) -> Any:
    if data[:1] == b"\x00":
        raise DecodeError("refused")
    return bytes(data[1] * 1_000_000) if data[:1] == b"\xff" else data[:3]


def test_the_fuzzer_finds_what_it_is_for() -> None:
    """An untyped error, and memory out of proportion, in a decoder that has both."""
    problems = {finding.problem.split(" ")[0] for finding in _run(_fragile, bombs=[b"", b"\xff\xff"]).findings}

    assert {"decode", "took"} <= problems


def test_the_fuzzer_finds_a_broken_law() -> None:
    """A decoder that forgets what follows the third byte."""

    def law(data: bytes, decoded: Any, rng: random.Random) -> None:
        assert decoded == data

    assert any("law broken" in finding.problem for finding in _run(_fragile, laws=law).findings)


def _run(decode: Any, **options: Any) -> Any:
    return fuzz(Target("fragile", [b"abc"], decode, (DecodeError,), packed_from=None, **options), 2_000, seed=1)
