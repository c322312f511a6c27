"""What reads and writes answer. A read never guesses: no value is "not found", one is the value, more are siblings.

    r.found                     at least one live value
    r.value                     the value; raises NotFound if there is none, Siblings if there are several and no resolver
    r.get(default)              as .value, but `default` if there is none
    r.siblings                  all of them: value, dot, written_at, expires_at
    r.context                   what this read saw; a put or delete with it replaces exactly that
    r.replied, r.primaries, r.n how many replicas answered, how many of these are primaries, of how many

`.value` does not return None for "not found", because None is a value that can be stored.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import chain
from typing import Any, Final, Generic, NamedTuple, TypeVar

from kvstore.causality.hlc import LOGICAL_BITS
from kvstore.client.datatypes import Codec
from kvstore.errors import InvalidContext, NotFound, Siblings
from kvstore.ids import short_id
from kvstore.messages import decode_put_reply

__all__ = ["OMITTED", "Context", "GetResult", "Omitted", "PutResult", "Resolver", "Sibling", "put_result", "usable"]

T = TypeVar("T")
D = TypeVar("D")
_FIELDS_OF_ONE = 9
"""Fields of a reply with one value."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Omitted(Enum):
    """The type of OMITTED."""

    OMITTED = "omitted"


OMITTED: Final = Omitted.OMITTED
"""No context was given: a put is blind, a delete reads first. Not the same as None, which is an unusable context."""


class Context(bytes):
    """An opaque causal token: what a read saw. Valid for its own key only. `text` and `from_text` carry it elsewhere."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Context({self.text!r})"

    @property
    def text(self) -> str:
        """The context as URL-safe text."""
        return base64.urlsafe_b64encode(self).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> Context:
        """Read what `text` gave; `InvalidContext` if it is not that."""
        try:
            return cls(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        except (ValueError, binascii.Error):
            raise InvalidContext("not the text of a context") from None


def usable(context: bytes | None) -> bytes:
    """Return the context if it can be used; `InvalidContext` for None and the empty one a put with siblings leaves."""
    if not context:
        raise InvalidContext(
            "this context came from a put that left siblings: read the key, then write with that context"
        )
    if not isinstance(context, bytes):
        raise InvalidContext(f"a context is bytes, not {type(context).__name__}")
    return context


@dataclass(frozen=True, slots=True)
class Sibling(Generic[T]):
    """One of the concurrent values of an object, with where and when it was written. `expires_ms` 0 means never."""

    value: T
    actor: bytes
    counter: int
    hlc: int
    expires_ms: int

    @property
    def dot(self) -> str:
        """The event that wrote it, for people: the node's short id and its counter for this key, as `a1f3…:7`."""
        return f"{short_id(self.actor)}…:{self.counter}"

    @property
    def written_at(self) -> datetime:
        """When the coordinator took the write, by its hybrid logical clock."""
        return _EPOCH + timedelta(milliseconds=self.hlc >> LOGICAL_BITS)

    @property
    def expires_at(self) -> datetime | None:
        """When it expires, or None."""
        return _EPOCH + timedelta(milliseconds=self.expires_ms) if self.expires_ms else None


Resolver = Callable[[Sequence[Sibling[T]]], T]
"""Makes one value of several; must not depend on their order (they come sorted by dot)."""


class GetResult(Generic[T]):
    """Answer of a read; see the module docstring. Values are decoded (so checked) when the read returns; all else is taken
    from the reply's flat fields when it is asked for, because most reads are asked for their value and nothing else.

    A plain slotted class: a frozen dataclass of eight fields takes 1.9 us to make, this 0.4, on a path of about 10 us.
    """

    __slots__ = ("_context", "_fields", "_resolver", "_values")

    def __init__(self, fields: Sequence[Any], codec: Codec[T], resolver: Resolver[T] | None, context: bytes) -> None:
        """`fields` are those of `messages.get_reply_fields`."""
        if len(fields) > _FIELDS_OF_ONE:
            fields = _in_order_of_dots(fields)
            self._values: list[T] = [codec.decode(value) for value in fields[8::5]]
        else:
            self._values = [codec.decode(fields[8])] if len(fields) == _FIELDS_OF_ONE else []
        self._fields, self._resolver, self._context = fields, resolver, context

    @property
    def context(self) -> Context:
        """What this read saw."""
        return Context(self._context)

    @property
    def replied(self) -> int:
        """How many replicas answered."""
        return self._fields[1]  # type: ignore[no-any-return]  # the fields' types stand in the module docstring of messages

    @property
    def n(self) -> int:
        """Of how many replicas."""
        return self._fields[2]  # type: ignore[no-any-return]

    @property
    def primaries(self) -> int:
        """How many of those that answered are primaries."""
        return self._fields[3]  # type: ignore[no-any-return]

    @property
    def found(self) -> bool:
        """Whether there is at least one live value."""
        return bool(self._values)

    @property
    def value(self) -> T:
        """The one value, or what the bucket's resolver makes of several. Raises NotFound or Siblings."""
        if len(self._values) == 1:
            return self._values[0]
        if not self._values:
            raise NotFound("there is no value under this key")
        if self._resolver is None:
            raise Siblings(
                "there are concurrent values: use .siblings, or give the bucket a resolver", count=len(self._values)
            )
        return self._resolver(self.siblings)

    def get(self, default: D) -> T | D:
        """Return `.value`, or `default` if there is none. Raises Siblings as `.value` does."""
        return self.value if self._values else default

    @property
    def siblings(self) -> tuple[Sibling[T], ...]:
        """All live values, in the order of their dots; empty if there is none."""
        return tuple(
            Sibling(value, actor, counter, hlc, expires_ms)
            for value, (actor, counter, hlc, expires_ms, _) in zip(self._values, _by_sibling(self._fields), strict=True)
        )

    def __repr__(self) -> str:
        shown = "not found" if not self._values else ", ".join(repr(value) for value in self._values[:3])
        more = f", … {len(self._values)} siblings" if len(self._values) > 3 else ""
        return f"<GetResult {shown}{more}; {self.replied} of {self.n} replied>"


def _by_sibling(fields: Sequence[Any]) -> Iterator[tuple[Any, Any, Any, Any, Any]]:
    """Yield actor, counter, hlc, expires_ms and packed value of each sibling."""
    rest = iter(fields[4:])
    return zip(rest, rest, rest, rest, rest, strict=True)


def _in_order_of_dots(fields: Sequence[Any]) -> Sequence[Any]:
    siblings = sorted(_by_sibling(fields), key=_dot_of)
    return [*fields[:4], *chain.from_iterable(siblings)]


def _dot_of(sibling: tuple[Any, Any, Any, Any, Any]) -> tuple[bytes, int]:
    return sibling[0], sibling[1]


class PutResult(NamedTuple):
    """Answer of a put or delete: what is known to have happened.

    `acked` of the `n` replicas applied it (`needed` were asked for), `primaries_acked` of these are primaries and `durable`
    have it on disk. `siblings` live values are there now; `superseded`: a newer value of an `lww` object is known and this
    one lost. `context` replaces exactly this write, and is None if siblings were left: read before overwriting.
    A delete that found nothing asked nobody to write: all its counts but `n` are 0.
    """

    acked: int
    needed: int
    n: int
    primaries_acked: int
    durable: int
    siblings: int
    superseded: bool
    context: Context | None


def put_result(body: bytes) -> PutResult:
    """Decode the reply to a put or delete."""
    acked, needed, n, primaries_acked, durable, siblings, superseded, context = decode_put_reply(body)
    following = Context(context) if context else None
    return PutResult(acked, needed, n, primaries_acked, durable, siblings, superseded, following)
