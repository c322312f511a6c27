"""Ready-made resolvers: each makes one value of concurrent siblings, and the same one whatever their order.

A resolver decides in the client, on read; `put(value, context=r.context)` then makes the decision permanent. Two clients that
resolve the same siblings must agree, or their puts would be siblings again: so nothing here looks at the order it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgpack
import msgspec

from kvstore.client.results import Sibling
from kvstore.errors import InvalidArgument

__all__ = ["last_write_wins", "union_lists", "union_sets"]

T = TypeVar("T")
_PACK_ITEM: Callable[[Any], bytes] = msgpack.packb


def last_write_wins(siblings: Sequence[Sibling[T]]) -> T:
    """Return the value written last by the hybrid logical clock; equal times are told apart by dot. Loses the others."""
    return max(siblings, key=_age_of).value


def union_lists(siblings: Sequence[Sibling[Any]]) -> Any:
    """Return a list with every item as often as the sibling that has it most often, older siblings' items first.

    So what two carts have in common is not doubled, and what one cart holds twice is kept twice. A removal in one
    sibling is undone by another that still has the item: a set that must forget needs a type that remembers removals.
    """
    united: list[Any] = []
    counts: dict[bytes, int] = {}
    for sibling in sorted(siblings, key=_age_of):
        here: dict[bytes, int] = {}
        for item, identity in _items(sibling.value):
            here[identity] = here.get(identity, 0) + 1
            if here[identity] > counts.get(identity, 0):
                counts[identity] = here[identity]
                united.append(item)
    return united


def union_sets(siblings: Sequence[Sibling[Any]]) -> Any:
    """Return every distinct item once: a set if the values are sets, else a list in a canonical order."""
    found: dict[bytes, Any] = {}
    for sibling in sorted(siblings, key=_age_of):
        for item, identity in _items(sibling.value):
            found.setdefault(identity, item)
    if all(isinstance(sibling.value, set) for sibling in siblings):
        return set(found.values())
    return [found[identity] for identity in sorted(found)]


def _age_of(sibling: Sibling[Any]) -> tuple[int, bytes, int]:
    return sibling.hlc, sibling.actor, sibling.counter


def _items(value: object) -> Iterable[tuple[Any, bytes]]:
    """Yield each item with the bytes that stand for it: items may be unhashable, and 1, 1.0 and True must stay apart."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidArgument(f"this resolver is for lists and sets, not {type(value).__name__}")
    items = [(item, _PACK_ITEM(msgspec.to_builtins(item, builtin_types=(bytes,)))) for item in value]
    return sorted(items, key=_identity_of) if isinstance(value, set | frozenset) else items


def _identity_of(pair: tuple[Any, bytes]) -> bytes:
    return pair[1]
