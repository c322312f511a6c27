"""The library of mutants fits the present source: each applies exactly, compiles, and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepsen_lite.mutants.apply import copy_base, make_tree, patched, sources_imported
from jepsen_lite.mutants.mutant import CONTROL, LATER, Edit, Mutant, MutantError, chosen, load_library

LIBRARY = load_library()
WAITING = load_library(LATER)
ROOT = Path(next(iter(sources_imported().values()))).parent


@pytest.mark.parametrize("mutant", [*LIBRARY, *WAITING], ids=lambda mutant: mutant.name)
def test_a_mutant_applies_exactly_and_compiles(mutant: Mutant) -> None:
    """`patched` raises unless every edit finds its text once and the outcome is Python; the product is what it changes."""
    changed = patched(ROOT, mutant)

    assert all(changed[name] != (ROOT / name).read_text() for name in changed)
    assert all(name.startswith(("kvstore/", "cluster/")) for name in changed), "the harness is not what is tested"


@pytest.mark.parametrize("mutant", [*LIBRARY, *WAITING], ids=lambda mutant: mutant.name)
def test_a_mutant_says_what_it_is(mutant: Mutant) -> None:
    """A survivor's report is of use only with the promise it breaks and the faults that would have shown it."""
    assert mutant.says.endswith(".")
    assert mutant.promise.startswith(("correctness", "reliability"))
    assert mutant.needs
    assert bool(mutant.later) == (mutant in WAITING), "the score leaves out exactly those that say why"


def test_there_are_enough_mutants_and_most_are_a_strangers() -> None:
    """The catalogue asks for 30; those of somebody who had not read the tests are what the score is worth."""
    assert len(LIBRARY) >= 30
    assert sum(mutant.author == "lead" for mutant in LIBRARY) == 9
    assert sum(mutant.author == "stranger" for mutant in LIBRARY) >= 8


def _library(directory: Path, **documents: str) -> Path:
    for name, text in documents.items():
        (directory / f"{name}.toml").write_text(text)
    return directory


GOOD = """
says = "It forgets."
promise = "correctness 1"
author = "stranger"
needs = ["a crash"]
[[edit]]
file = "kvstore/a.py"
find = "one"
replace = "two"
"""


def test_a_directory_of_toml_files_is_a_library(tmp_path: Path) -> None:
    """The name of a mutant is that of its file; the lead's come first."""
    directory = _library(tmp_path, late=GOOD, early=GOOD, mine=GOOD.replace("stranger", "lead"))

    library = load_library(directory)

    assert [mutant.name for mutant in library] == ["mine", "early", "late"]
    assert library[0].edits == (Edit("kvstore/a.py", "one", "two"),)
    assert [mutant.name for mutant in chosen(library, ["late", "mine", "late"])] == ["late", "mine"]
    assert chosen(library, []) == library


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (GOOD.replace("needs", "need"), "unreadable"),
        (GOOD.replace("stranger", "somebody"), "unreadable"),
        (GOOD.replace('"two"', '"one"'), "changes nothing"),
        (GOOD.replace('"one"', '""', 1), "changes nothing"),
        ("says = ", "unreadable"),
    ],
)
def test_a_mutant_that_cannot_be_read_is_an_error(tmp_path: Path, document: str, problem: str) -> None:
    """A misspelt field must not turn a mutant into one that passes by."""
    with pytest.raises(MutantError, match=problem):
        load_library(_library(tmp_path, broken=document))


def test_an_empty_library_and_an_unknown_name_are_errors(tmp_path: Path) -> None:
    """An installation that lost its data files would report a perfect score of nothing."""
    with pytest.raises(MutantError, match="no mutants"):
        load_library(tmp_path)
    with pytest.raises(MutantError, match="no mutant called nonsense"):
        chosen(LIBRARY, ["nonsense"])


# --- applying --------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of one small package."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "__init__.py").write_text("")
    (source / "a.py").write_text("x = 1\ny = 1\n")
    return copy_base(tmp_path / "base", {"small": source})


def _mutant(*edits: Edit) -> Mutant:
    return Mutant("m", "It is wrong.", "correctness 1", "stranger", ("a crash",), edits)


def test_a_tree_is_the_base_with_the_edits(base: Path, tmp_path: Path) -> None:
    """Edits are made in their order, also several of one file; the base stays as it is."""
    edits = (Edit("small/a.py", "x = 1", "x = 2"), Edit("small/a.py", "x = 2\ny", "x = 2\nz"))

    tree = make_tree(base, _mutant(*edits), tmp_path / "tree")

    assert (tree / "small/a.py").read_text() == "x = 2\nz = 1\n"
    assert (base / "small/a.py").read_text() == "x = 1\ny = 1\n"
    assert not list((tree / "small").rglob("a.*.pyc")), "what was compiled from the old source must not be found"
    assert (make_tree(base, CONTROL, tmp_path / "same") / "small/a.py").read_text() == "x = 1\ny = 1\n"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (Edit("small/a.py", "= 1", "= 2"), "2 places"),
        (Edit("small/a.py", "gone", "= 2"), "0 places"),
        (Edit("small/b.py", "x", "y"), "there is no small/b.py"),
        (Edit("small/a.py", "x = 1", "x = ("), "does not compile"),
    ],
)
def test_a_mutant_that_does_not_fit_is_an_error(base: Path, edit: Edit, problem: str) -> None:
    """The source moved on: somebody has to look, because a skipped mutant looks like a killed one."""
    with pytest.raises(MutantError, match=problem):
        patched(base, _mutant(edit))
