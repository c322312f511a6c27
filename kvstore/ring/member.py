"""A member of the cluster as the topology knows it, and the checks of its parts that the whole document shares.

Membership is not liveness: a dead member stays a member, and owns what it owns, until the topology says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from kvstore.errors import InvalidArgument
from kvstore.ids import NODE_ID_SIZE_BYTES, NodeId

__all__ = ["ADDRESS_LENGTH_MAX", "NAME_LENGTH_MAX", "WEIGHT_MAX", "Member", "MemberState", "check_id", "check_text"]

WEIGHT_MAX: Final = 1_000
NAME_LENGTH_MAX: Final = 64
"""Characters of a cluster name or zone."""
ADDRESS_LENGTH_MAX: Final = 261
"""Characters of `host:port`: a DNS name has at most 253, a bracketed IPv6 address fewer."""


class MemberState(IntEnum):
    """Where a member is in its life (not whether it is alive). ONLY APPEND: values are part of the format."""

    NORMAL = 1
    JOINING = 2


@dataclass(frozen=True, slots=True)
class Member:
    """A node that belongs to the cluster. `zone` may be empty: then it is one zone with all others without a name.

    `weight` is the node's capacity relative to the others. Raises `InvalidArgument` if a field is out of bounds.
    """

    node_id: NodeId
    address: str
    zone: str = ""
    weight: int = 1
    state: MemberState = MemberState.NORMAL

    def __post_init__(self) -> None:
        check_id("node_id", self.node_id, NODE_ID_SIZE_BYTES)
        check_text("address", self.address, 1, ADDRESS_LENGTH_MAX)
        check_text("zone", self.zone, 0, NAME_LENGTH_MAX)
        if type(self.weight) is not int or not 1 <= self.weight <= WEIGHT_MAX:
            raise InvalidArgument(f"weight must be 1 to {WEIGHT_MAX}", weight=self.weight)
        if type(self.state) is not MemberState:
            raise InvalidArgument("state must be a member state")


def check_id(name: str, identifier: bytes, size_bytes: int) -> None:
    """Raise `InvalidArgument` unless `identifier` is exactly that many bytes."""
    if type(identifier) is not bytes or len(identifier) != size_bytes:
        raise InvalidArgument(f"{name} must be {size_bytes} bytes")


def check_text(name: str, text: str, length_min: int, length_max: int) -> None:
    """Raise `InvalidArgument` unless `text` is printable (logs and tables stay whole) and of an allowed length."""
    if type(text) is not str or not length_min <= len(text) <= length_max or not text.isprintable():
        raise InvalidArgument(f"{name} must be {length_min} to {length_max} printable characters")
