"""Trees: a private copy of the three packages, in which one mutant is planted.

    where kvstore, cluster, jepsen_lite are imported from ─copy, compile─► base ─copy, patch─► one tree for each mutant

The harness runs in a process of its own whose working directory and PYTHONPATH are the tree, so the mutant is what it imports.
The base is copied once: what is edited in the checkout while the suite runs does not make mutants differ.

Invariant: a tree differs from the base in exactly the mutant's edits; a mutant that does not fit raises `MutantError`.
"""

from __future__ import annotations

import compileall
import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path

from jepsen_lite.mutants.mutant import Edit, Mutant, MutantError

__all__ = ["PACKAGES", "copy_base", "make_tree", "patched", "sources_imported"]

PACKAGES = ("kvstore", "cluster", "jepsen_lite")


def sources_imported() -> dict[str, Path]:
    """Return the directory of each package as this process imports it: a checkout or an installation."""
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise MutantError(f"package {name} cannot be found")
        found[name] = Path(next(iter(spec.submodule_search_locations)))
    return found


def copy_base(target: Path, sources: Mapping[str, Path] | None = None) -> Path:
    """Copy the packages into the new directory `target`, and compile them once for all trees."""
    for name, source in (sources_imported() if sources is None else sources).items():
        shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    if not compileall.compile_dir(target, quiet=2):
        raise MutantError(f"the sources do not compile; see `python -m compileall {target}`")
    return target


def make_tree(base: Path, mutant: Mutant, target: Path) -> Path:
    """Copy `base` into the new directory `target` with the mutant planted. Raises MutantError if it does not fit."""
    texts = patched(base, mutant)
    shutil.copytree(base, target)
    for name, source in texts.items():
        path = target / name
        path.write_text(source, encoding="utf-8")
        # Python trusts a compiled file whose source has the same size and whole second: it must not be the old one.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    return target


def patched(base: Path, mutant: Mutant) -> dict[str, str]:
    """Return the new text of every file that the mutant changes. Raises MutantError if it does not fit, or is no Python."""
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        texts[edit.file] = _edited(mutant, edit, texts.get(edit.file) or _read(base, mutant, edit))
    for name, text in texts.items():
        try:
            compile(text, name, "exec")
        except SyntaxError as problem:
            raise MutantError(f"mutant {mutant.name} does not compile: {problem}") from None
    return texts


def _read(base: Path, mutant: Mutant, edit: Edit) -> str:
    try:
        return (base / edit.file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MutantError(f"mutant {mutant.name} no longer applies: there is no {edit.file}") from None


def _edited(mutant: Mutant, edit: Edit, text: str) -> str:
    count = text.count(edit.find)
    if count != 1:
        begins = edit.find.strip().splitlines()[0].strip()
        raise MutantError(
            f"mutant {mutant.name} no longer applies: {count} places in {edit.file} match its text {begins!r}…; "
            "say the same bug in the words of the present source"
        )
    return text.replace(edit.find, edit.replace)
