"""Mutants as data: what a seeded bug is called, what it breaks, and the edits that plant it.

    says = "…"                        the bug, in the words of somebody who uses or reads the product
    promise = "correctness 5"         the rule or section that it breaks
    author = "stranger"               `lead`, or somebody who wrote it without having read the tests
    needs = ["power loss"]            what has to happen before it can be seen
    moves = true                      its runs are those of `run --moves`: without, it would take too many seeds
    later = "…"                       only in later/: why the harness cannot find it yet; such mutants do not count
    [[edit]]                          one or more, done in this order
    file = "cluster/store.py"
    find = '''…'''                    stands exactly once in the file, or the mutant is an error, never skipped
    replace = '''…'''

The file's name is the mutant's name. Unknown fields are errors, so that a misspelt one does not pass for a missing one.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

import msgspec

__all__ = ["CONTROL", "CONTROL_MOVES", "LATER", "Edit", "Mutant", "MutantError", "chosen", "load_library"]

LATER = files("jepsen_lite.mutants") / "later"
"""Mutants that wait for a part of the product, or for a fault, that does not exist yet."""


class MutantError(Exception):
    """A mutant that cannot be used as it is: unreadable, unknown, or it no longer fits the source."""


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replace text that stands exactly once in a file; the path is relative to the parent of the packages."""

    file: str
    find: str
    replace: str


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    says: str
    promise: str
    author: Literal["lead", "stranger"]
    needs: tuple[str, ...]
    edit: tuple[Edit, ...]
    moves: bool = False
    later: str = ""


class Mutant(msgspec.Struct, frozen=True):
    """One seeded bug."""

    name: str
    says: str
    promise: str
    author: str
    needs: tuple[str, ...]
    edits: tuple[Edit, ...]
    later: str = ""
    moves: bool = False


CONTROL = Mutant("(unchanged)", "The product as it is: every seed must pass.", "", "lead", (), ())
CONTROL_MOVES = Mutant("(unchanged, moves)", "The same with `--moves`.", "", "lead", (), (), moves=True)


def load_library(directory: Traversable | None = None) -> tuple[Mutant, ...]:
    """Return every mutant of a directory of TOML files, the lead's first and then by name. Raises MutantError."""
    place = files("jepsen_lite.mutants") / "library" if directory is None else directory
    documents = sorted((file for file in place.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    if not documents:
        raise MutantError(f"there are no mutants in {place}: were the data files installed?")
    return tuple(sorted(map(_load, documents), key=lambda mutant: (mutant.author, mutant.name)))


def chosen(library: Iterable[Mutant], names: Iterable[str]) -> tuple[Mutant, ...]:
    """Return the mutants of these names, in the order of the names; all for no names. Raises MutantError."""
    known = {mutant.name: mutant for mutant in library}
    wanted = list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise MutantError(f"there is no mutant called {', '.join(unknown)}; known: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(wanted)) or tuple(known.values())


def _load(file: Traversable) -> Mutant:
    name = file.name.removesuffix(".toml")
    try:
        document = msgspec.toml.decode(file.read_bytes(), type=_Document)
    except msgspec.MsgspecError as problem:
        raise MutantError(f"mutant {name} is unreadable: {problem}") from None
    if not document.edit or any(edit.find == edit.replace or not edit.find for edit in document.edit):
        raise MutantError(f"mutant {name} changes nothing")
    return Mutant(
        name, document.says, document.promise, document.author, document.needs, document.edit, document.later,
        document.moves,
    )  # fmt: skip
