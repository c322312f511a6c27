"""The previous commit's node with two of this tree, small (`pytest -m slow tests/campaigns/test_mixed_version.py`)."""

from __future__ import annotations

import shutil

import pytest

from tests.campaigns import mixed_version

needs_history = pytest.mark.skipif(
    shutil.which("git") is None or not (mixed_version.ROOT / ".git").exists(), reason="needs the repository's history"
)


@pytest.mark.slow
@needs_history
@pytest.mark.parametrize("founder", ["a", "b"], ids=["the previous commit founds", "this tree founds"])
def test_the_previous_commit_and_this_tree_form_one_cluster(founder: str) -> None:
    """Reads, overwrites, deletes, kills and the upgrade of the old node; in the end all three hold the same bytes."""
    assert mixed_version.run(keys=9, founders=founder).violations == []
