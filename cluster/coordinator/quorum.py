"""Quorum arithmetic: from what the caller, the bucket and the topology say to the counts one request needs.

    explicit in the request  >  bucket property  >  default QUORUM = n_eff // 2 + 1,  n_eff = min(N, owners in the topology)

Defaults are clamped to n_eff, because a young cluster of one or two nodes must work. Explicit counts never are: asking two
owners for w=3 is `InsufficientNodes`. Dead owners count in n_eff, so a default never weakens because a node died.
"""

from __future__ import annotations

from kvstore.errors import InsufficientNodes
from kvstore.messages import CONSISTENCY_ALL, CONSISTENCY_QUORUM

__all__ = ["resolve_count", "resolve_primary_count"]


def resolve_count(explicit: int | None, from_bucket: int | None, *, n: int, n_effective: int, name: str) -> int:
    """Return how many replicas `r`, `w` or `dw` means here. Raises InsufficientNodes if it is more than there are."""
    count = explicit if explicit is not None else from_bucket
    if count is None:
        return n_effective // 2 + 1
    return _symbolic(count, n=n, n_effective=n_effective, name=name)


def resolve_primary_count(explicit: int | None, from_bucket: int | None, *, n: int, n_effective: int, name: str) -> int:
    """Return how many primaries `pr` or `pw` means here; the default is 0."""
    count = explicit if explicit is not None else from_bucket
    return 0 if count is None else _symbolic(count, n=n, n_effective=n_effective, name=name)


def _symbolic(count: int, *, n: int, n_effective: int, name: str) -> int:
    if count == CONSISTENCY_QUORUM:
        count = n // 2 + 1
    elif count == CONSISTENCY_ALL:
        count = n
    if count > n_effective:
        raise InsufficientNodes(
            f"{name}={count} asks for more owners than the key has", needed=count, alive=n_effective
        )
    return count
