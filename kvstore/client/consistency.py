"""How many replicas must answer: numbers, or the words that stand for them on the wire.

    ONE       1
    QUORUM    N // 2 + 1 of the cluster's N, never clamped to fewer owners
    ALL       N

Left out, a count is the bucket's default, which is clamped to the owners there are.
"""

from __future__ import annotations

from enum import IntEnum

from kvstore.errors import InvalidArgument
from kvstore.messages import CONSISTENCY_ALL, CONSISTENCY_QUORUM
from kvstore.ring.topology import N_MAX

__all__ = ["Consistency", "check_count"]


class Consistency(IntEnum):
    """A count by name. For a read it sets r, for a write w and dw; an explicit count beside it wins."""

    ONE = 1
    QUORUM = CONSISTENCY_QUORUM
    ALL = CONSISTENCY_ALL


def check_count(name: str, value: object) -> int:
    """Return a count as the wire wants it, from an int, a `Consistency` or its name; else `InvalidArgument`."""
    if isinstance(value, str):
        return _from_text(name, value)
    if isinstance(value, Consistency):
        return int(value)
    if type(value) is not int or not 0 <= value <= N_MAX:
        raise InvalidArgument(f"{name} must be 0 to {N_MAX}, or one, quorum or all", value=str(value))
    return value


def _from_text(name: str, text: str) -> int:
    word = text.strip().upper()
    if word in Consistency.__members__:
        return int(Consistency[word])
    if not (word.isascii() and word.isdecimal() and len(word) <= 3):
        raise InvalidArgument(f"{name} must be 0 to {N_MAX}, or one, quorum or all", value=text)
    return check_count(name, int(word))
