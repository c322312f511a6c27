"""Resuming a load: which prefix of the input is settled, and when a state file may be used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.load_core import LoadProgress, LoadState, check_resume
from kvstore.errors import ConfigError

STATE = LoadState("/f.jsonl", 1_000, "c1", "default", "id")


def test_offset_moves_only_over_a_settled_prefix() -> None:
    """A record that finished early does not move the offset past one that is still open."""
    progress = LoadProgress(0, 0)
    first, second, third = progress.start(100, 1), progress.start(200, 2), progress.start(300, 3)

    progress.settle(second)
    assert (progress.offset, progress.line) == (0, 0)
    progress.settle(first)
    assert (progress.offset, progress.line) == (200, 2)
    progress.settle(third)

    assert (progress.offset, progress.line, progress.open_count) == (300, 3, 0)


def test_a_held_record_keeps_the_offset_before_it() -> None:
    """What has to be tried again is tried again by a resumed load, and tracking after it takes no more memory."""
    progress = LoadProgress(0, 0)
    numbers = [progress.start(10 * (i + 1), i + 1) for i in range(3)]

    progress.hold(numbers[1])
    progress.settle(numbers[0])
    progress.settle(numbers[2])
    for i in range(3, 1_000):
        progress.settle(progress.start(10 * (i + 1), i + 1))

    assert progress.is_held
    assert progress.offset == 10
    assert progress.open_count == 2


@given(st.permutations(range(12)), st.integers(0, 12))
def test_offset_is_the_longest_settled_prefix_in_any_order(order: list[int], settled_count: int) -> None:
    """Against the dumb model: count how many of the first records are settled."""
    progress = LoadProgress(0, 0)
    numbers = [progress.start(i + 1, i + 1) for i in range(12)]
    settled = set()

    for index in order[:settled_count]:
        progress.settle(numbers[index])
        settled.add(index)

    prefix = next((i for i in range(12) if i not in settled), 12)
    assert (progress.offset, progress.line) == (prefix, prefix)


def test_state_survives_its_file() -> None:
    """What is written can be read back."""
    state = replace(STATE, offset=500, line=7, ok=6, failed=1)

    assert LoadState.from_document(json.loads(json.dumps(state.as_document()))) == state


@pytest.mark.parametrize("document", [None, [], {}, {"schema": 2}, {"schema": 1}, {"schema": 1, "source": 3}])
def test_an_unreadable_state_file_is_an_error_not_a_fresh_start(document: object) -> None:
    """Starting over silently could be hours of work; the message names --restart."""
    with pytest.raises(ConfigError, match="--restart"):
        LoadState.from_document(document)


@pytest.mark.parametrize("change", [{"cluster_id": "c2"}, {"bucket": "b"}, {"key_field": "k"}, {"source": "/g"}])
def test_the_state_of_another_load_is_refused(change: dict[str, str]) -> None:
    """An offset means nothing for another file, cluster, bucket or key."""
    with pytest.raises(ConfigError, match="another load"):
        check_resume(replace(STATE, **change), STATE)  # type: ignore[arg-type]  # all changes are of text fields


def test_a_file_that_grew_is_resumed_and_one_that_shrank_is_not() -> None:
    """Logs grow at the end; a shorter file is another file."""
    found = replace(STATE, offset=900)

    assert check_resume(found, replace(STATE, size_bytes=2_000)).offset == 900
    with pytest.raises(ConfigError, match="shorter"):
        check_resume(found, replace(STATE, size_bytes=899))
