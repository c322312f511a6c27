"""The package is put together as its plan says: imports go down only, every module imports, nothing shadows PyPI."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import kvstore

ROOT = Path(__file__).parent.parent
PACKAGES = ("kvstore", "cluster", "jepsen_lite")


def module_names() -> list[str]:
    """Return the dotted name of every module of the product."""
    files = [file.relative_to(ROOT) for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_import_contracts_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts of pyproject.toml: layers, cores without a world, one door to each foreign library."""
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)

    assert status == 0, capsys.readouterr().out


def test_every_module_imports() -> None:
    """Each module can be imported, and none writes to the terminal while it is."""
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"

    done = subprocess.run(
        [sys.executable, "-c", script, *module_names()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_client_does_not_load_the_server() -> None:
    """`import kvstore` costs an application neither the server nor RocksDB."""
    script = (
        "import sys, kvstore\nprint([name for name in ('cluster', 'jepsen_lite', 'rocksdict') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "[]\n"


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without `__init__.py` would be missed by the import contracts and by mypy."""
    folders = {file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")}

    assert sorted(folder for folder in folders if not (folder / "__init__.py").exists()) == []


def test_proto_holds_sources_only() -> None:
    """A top-level `proto` package would shadow PyPI's proto-plus in every environment we are installed in."""
    assert sorted((ROOT / "proto").rglob("*.py*")) == []


def test_users_get_types() -> None:
    """Each package carries the marker that lets mypy trust its annotations."""
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").exists()] == []


def test_the_wheel_holds_the_three_packages() -> None:
    """The distribution's name is `kvnode`; its version is said once, in `kvstore/__init__.py`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert project["project"]["name"] == "kvnode"
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert kvstore.__version__.count(".") == 2
