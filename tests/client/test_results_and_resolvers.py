"""Results of reads, contexts as text, and resolvers that do not care for order."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from kvstore import errors, resolvers
from kvstore.client.datatypes import Codec
from kvstore.client.results import Context, GetResult, Resolver, Sibling, put_result, usable
from kvstore.messages import encode_body

HLC = 1_700_000_000_000 << 16


def sibling(value: Any, *, hlc: int = HLC, actor: bytes = b"\xa1\xf3" + b"\0" * 18, counter: int = 7) -> Sibling[Any]:
    return Sibling(value, actor, counter, hlc, 0)


def result(*values: Any, resolver: Resolver[Any] | None = None) -> GetResult[Any]:
    codec: Codec[Any] = Codec()
    fields: list[Any] = [b"ctx", 2, 3, 2]
    for i, value in enumerate(values):
        fields += [bytes([9 - i]) * 20, 1, HLC + i, 0, codec.encode(value)]
    return GetResult(fields, codec, resolver, b"ctx")


def test_no_value_is_not_found_and_none_is_a_value() -> None:
    """`.value` never answers None for "not found", because None can be stored."""
    nothing, stored_none = result(), result(None)

    assert not nothing.found
    assert nothing.get("default") == "default"
    with pytest.raises(errors.NotFound):
        _ = nothing.value
    assert stored_none.found
    assert stored_none.value is None
    assert stored_none.get("default") is None


def test_several_values_are_siblings_until_a_resolver_decides() -> None:
    """Never one of them by chance; and the siblings stay visible."""
    plain, resolved = result("red", "blue"), result("red", "blue", resolver=resolvers.last_write_wins)

    with pytest.raises(errors.Siblings) as caught:
        _ = plain.value
    assert caught.value.details["count"] == 2
    with pytest.raises(errors.Siblings):
        plain.get("default")
    assert resolved.value == "blue"
    assert [each.value for each in resolved.siblings] == ["blue", "red"]  # by dot


def test_a_sibling_says_where_when_and_until() -> None:
    """For people: the short id of the node, its counter, and times in UTC."""
    it = Sibling("x", b"\xa1\xf3" + b"\0" * 18, 7, HLC | 5, 1_700_000_060_000)

    assert it.dot == "a1f3…:7"
    assert it.written_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert it.expires_at == datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)
    assert sibling("x").expires_at is None


def test_a_context_travels_as_text() -> None:
    """Into a URL or a shell and back; garbage is refused."""
    context = Context(bytes(range(250, 256)) * 3)

    assert Context.from_text(context.text) == context
    assert "/" not in context.text
    assert "=" not in context.text
    for text in ("a", "?", "ä"):
        with pytest.raises(errors.InvalidContext):
            Context.from_text(text)


@pytest.mark.parametrize("context", [None, b"", Context(b"")])
def test_an_unusable_context_is_not_a_missing_one(context: bytes | None) -> None:
    """It came from a put that left siblings; taking it for "blind" would make one more."""
    with pytest.raises(errors.InvalidContext):
        usable(context)


def test_a_put_that_left_siblings_has_no_context() -> None:
    """Read before overwriting."""
    assert put_result(encode_body([2, 2, 3, 2, 2, 2, False, b""])).context is None
    assert put_result(encode_body([2, 2, 3, 2, 2, 1, False, b"x"])).context == b"x"


@pytest.mark.parametrize(
    ("resolver", "united"),
    [
        (resolvers.last_write_wins, ["bread", "milk", "milk"]),
        (resolvers.union_lists, ["apple", "milk", "bread", "milk"]),
        (resolvers.union_sets, ["milk", "apple", "bread"]),
    ],
)
def test_a_resolver_gives_one_answer_in_every_order(resolver: Resolver[Any], united: list[str]) -> None:
    """Two clients that resolve the same siblings must agree, or their puts are siblings again."""
    carts = [
        sibling(["apple", "milk"], hlc=HLC + 1),
        sibling(["milk", "apple"], hlc=HLC + 2),
        sibling(["bread", "milk", "milk"], hlc=HLC + 3),
    ]

    assert [resolver(order) for order in itertools.permutations(carts)] == [united] * 6


def test_equal_times_are_told_apart_by_dot() -> None:
    """A tie must not be decided by arrival."""
    tied = [sibling(1, actor=b"a" * 20), sibling(2, actor=b"b" * 20)]

    assert resolvers.last_write_wins(tied) == resolvers.last_write_wins(tied[::-1]) == 2


def test_unions_keep_unhashable_and_look_alike_items_apart() -> None:
    """1, 1.0 and True are different values, and dicts may be items."""
    values = [sibling([{"id": 1}, 1, True], counter=1), sibling([1.0, {"id": 1}], counter=2)]

    assert len(resolvers.union_sets(values)) == 4
    assert resolvers.union_lists(values) == [{"id": 1}, 1, True, 1.0]


def test_union_sets_gives_a_set_for_sets() -> None:
    """As a typed bucket of set[str] has them."""
    assert resolvers.union_sets([sibling({"a"}), sibling({"b"}, counter=8)]) == {"a", "b"}


def test_a_union_of_something_else_is_refused() -> None:
    """The letters of a str are not its items."""
    with pytest.raises(errors.InvalidArgument):
        resolvers.union_lists([sibling("ab"), sibling("cd")])
