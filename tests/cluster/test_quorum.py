"""Quorum arithmetic: explicit over bucket over default; defaults are clamped, explicit counts never."""

from __future__ import annotations

import pytest

from cluster.coordinator.quorum import resolve_count, resolve_primary_count
from kvstore.errors import InsufficientNodes
from kvstore.messages import CONSISTENCY_ALL, CONSISTENCY_QUORUM


@pytest.mark.parametrize(("explicit", "bucket", "n", "n_effective", "count"), [
    (None, None, 3, 3, 2), (None, None, 3, 2, 2), (None, None, 3, 1, 1), (None, None, 5, 5, 3), (None, None, 1, 1, 1),
    (1, None, 3, 3, 1), (3, 1, 3, 3, 3), (None, 3, 3, 3, 3), (0, 2, 3, 3, 0),
    (CONSISTENCY_QUORUM, None, 3, 3, 2), (CONSISTENCY_ALL, None, 3, 3, 3), (None, CONSISTENCY_ALL, 3, 3, 3),
    (CONSISTENCY_QUORUM, None, 3, 2, 2),
])  # fmt: skip
def test_counts(explicit: int | None, bucket: int | None, n: int, n_effective: int, count: int) -> None:
    """The most specific wins; QUORUM and ALL are of the cluster's N, not of who happens to be there."""
    assert resolve_count(explicit, bucket, n=n, n_effective=n_effective, name="w") == count


@pytest.mark.parametrize(("explicit", "bucket", "n_effective", "needed"), [
    (3, None, 2, 3), (None, 3, 2, 3), (CONSISTENCY_ALL, None, 2, 3), (CONSISTENCY_QUORUM, None, 1, 2),
])  # fmt: skip
def test_what_was_asked_for_is_never_clamped(
    explicit: int | None, bucket: int | None, n_effective: int, needed: int
) -> None:
    """Fewer owners than that is a definite refusal with both numbers."""
    for resolve in (resolve_count, resolve_primary_count):
        with pytest.raises(InsufficientNodes) as refused:
            resolve(explicit, bucket, n=3, n_effective=n_effective, name="w")
        assert (refused.value.needed, refused.value.alive, refused.value.definite) == (needed, n_effective, True)


def test_primaries_are_not_asked_for_by_default() -> None:
    """`pr` and `pw` are for strict requests."""
    assert resolve_primary_count(None, None, n=3, n_effective=3, name="pr") == 0
    assert resolve_primary_count(None, 2, n=3, n_effective=3, name="pr") == 2
