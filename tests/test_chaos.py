"""Points and probes: named once, asked where they belong, through what was injected, and for nothing in production."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from kvstore import chaos
from kvstore.chaos import CALM, FREQUENT, Chaos, Point, Probe

ROOT = Path(__file__).parent.parent
PRODUCT = [file for package in ("kvstore", "cluster") for file in sorted((ROOT / package).rglob("*.py"))]
ASKING = {"Point": ("fires", "pick"), "Probe": ("hit",)}


def uses(tree: ast.AST, kind: str) -> Iterator[ast.Attribute]:
    """Yield every `Point.X` (or `Probe.X`) of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == kind:
            yield node


def asked(tree: ast.AST, kind: str) -> Iterator[ast.Attribute]:
    """Yield those that are asked as they should be: first argument of a method of something named chaos."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        whom = node.func.value
        name = whom.attr if isinstance(whom, ast.Attribute) else whom.id if isinstance(whom, ast.Name) else ""
        if node.func.attr in ASKING[kind] and name.lstrip("_") == "chaos":
            yield from uses(node.args[0], kind)


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text()) for file in PRODUCT if file.name != "chaos.py"}


@pytest.mark.parametrize("kind", [Point, Probe])
def test_names_are_unique_and_speak_for_themselves(kind: type[StrEnum]) -> None:
    """Names are what reports and totals show: no two alike, no number among them, and none in both enums."""
    names = [str(member) for member in kind]

    assert len(names) == len(set(names)) == len(kind.__members__)
    assert all(name.replace("_", "").isalpha() for name in names)
    assert not set(map(str, Point)) & set(map(str, Probe))


def test_there_are_enough() -> None:
    """What was promised: at least 24 points and 30 probes."""
    assert len(Point) >= 24
    assert len(Probe) >= 30
    assert set(Point) > FREQUENT


def test_every_point_says_why_it_is_legal() -> None:
    """One line each, beside its name."""
    lines = [line.strip() for line in inspect.getsource(Point).splitlines() if "auto()" in line]

    assert len(lines) == len(Point)
    assert [line for line in lines if ": " not in line.partition("#")[2]] == []


@pytest.mark.parametrize("kind", ["Point", "Probe"])
def test_every_one_is_used_in_the_product(kind: str, trees: dict[Path, ast.Module]) -> None:
    """A point that nobody asks, or a probe that nobody hits, would be missed every night."""
    found = Counter(use.attr for tree in trees.values() for use in uses(tree, kind))

    assert sorted(set(getattr(chaos, kind).__members__) - set(found)) == []


@pytest.mark.parametrize("kind", ["Point", "Probe"])
def test_they_are_asked_through_what_was_injected_only(kind: str, trees: dict[Path, ast.Module]) -> None:
    """`chaos.fires(Point.X)`, `self._chaos.hit(Probe.X)`: no table of them, no second way."""
    for file, tree in trees.items():
        wild = {use.lineno for use in uses(tree, kind)} - {use.lineno for use in asked(tree, kind)}
        assert not wild, f"{file.relative_to(ROOT)}: {kind} is used in lines {sorted(wild)} without asking chaos"


def test_calm_is_only_a_default(trees: dict[Path, ast.Module]) -> None:
    """Nobody calls the production implementation by its name: it would not be disturbed in a simulation."""
    for file, tree in trees.items():
        named = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "CALM"]
        defaults: list[ast.expr | None] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.arguments):
                defaults += [*node.defaults, *node.kw_defaults]
            elif isinstance(node, ast.AnnAssign):  # a field of a dataclass
                defaults.append(node.value)
        assert [node.lineno for node in named if node not in defaults] == [], file.relative_to(ROOT)


def test_calm_does_nothing_and_keeps_nothing() -> None:
    """Production: nothing fires, the default is picked, and no hit is remembered."""
    calm: Chaos = CALM
    for probe in Probe:
        calm.hit(probe)

    assert calm.is_calm
    assert not any(calm.fires(point) for point in Point)
    assert calm.pick(Point.GROUP_TINY, 512, 1, 2) == 512
    assert not hasattr(CALM, "__dict__")
