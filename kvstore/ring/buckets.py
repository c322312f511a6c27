"""What a bucket is: a namespace with defaults for the requests made in it, kept in the topology document.

A bucket has to be created before use, except `default`, so that a typing error in a name cannot silently open a second
namespace. Nothing here can be changed later: two nodes never disagree about a bucket that both know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kvstore.errors import InvalidArgument
from kvstore.ids import ObjectType
from kvstore.limits import BUCKET_NAME_LENGTH_MAX
from kvstore.messages import CONSISTENCY_ALL

__all__ = ["DEFAULT_BUCKET", "DEFAULT_BUCKET_NAME", "TTL_MS_LIMIT", "BucketProperties"]

DEFAULT_BUCKET_NAME: Final = "default"
TTL_MS_LIMIT: Final = 1 << 45
"""Milliseconds, exclusive (about 1,100 years): an expiry time must fit the 48 bits of time in a hybrid timestamp."""

_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{BUCKET_NAME_LENGTH_MAX}}}")
_ALL_TYPES: Final = tuple(ObjectType)


@dataclass(frozen=True, slots=True)
class BucketProperties:
    """One bucket. A count of None means the cluster's default (a quorum; for `pr` and `pw`, nothing is asked for).

    Counts may be symbolic (`CONSISTENCY_QUORUM`, `CONSISTENCY_ALL`). `ttl_ms` 0 means values do not expire.
    `allowed_types` is kept sorted, and holds `default_type`. Raises `InvalidArgument` for anything else.
    """

    name: str
    default_type: ObjectType = ObjectType.REGISTER
    r: int | None = None
    w: int | None = None
    dw: int | None = None
    pr: int | None = None
    pw: int | None = None
    ttl_ms: int = 0
    allowed_types: tuple[ObjectType, ...] = _ALL_TYPES

    def __post_init__(self) -> None:
        if type(self.name) is not str or _NAME.fullmatch(self.name) is None:
            # Of what came from outside and nests, the repr may not end.
            shown = repr(self.name) if type(self.name) is str else type(self.name).__name__
            raise InvalidArgument(f"a bucket name is 1 to {BUCKET_NAME_LENGTH_MAX} of A-Z a-z 0-9 _ . -, not {shown}")
        for count in (self.r, self.w, self.dw, self.pr, self.pw):
            if count is not None and (type(count) is not int or not 0 <= count <= CONSISTENCY_ALL):
                raise InvalidArgument(f"r, w, dw, pr and pw must be 0 to {CONSISTENCY_ALL}", count=count)
        if type(self.ttl_ms) is not int or not 0 <= self.ttl_ms < TTL_MS_LIMIT:
            raise InvalidArgument(f"ttl_ms must be 0 to {TTL_MS_LIMIT - 1}", ttl_ms=self.ttl_ms)
        self._check_types()

    def _check_types(self) -> None:
        types = self.allowed_types
        if type(types) is not tuple or not all(type(each) is ObjectType for each in types):
            raise InvalidArgument("allowed_types must be a tuple of object types")
        if len(set(types)) != len(types) or self.default_type not in types:
            raise InvalidArgument("allowed_types must name each type once and hold the default type")
        if type(self.default_type) is not ObjectType:
            raise InvalidArgument("default_type must be an object type")
        # One form for one meaning: equal properties must be equal objects and equal bytes.
        object.__setattr__(self, "allowed_types", tuple(sorted(types)))


DEFAULT_BUCKET: Final = BucketProperties(DEFAULT_BUCKET_NAME)
"""The bucket every cluster is founded with: registers unless asked otherwise, all types allowed."""
