"""Bucket properties: what a bucket may be called and may ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvstore.errors import InvalidArgument
from kvstore.ids import ObjectType
from kvstore.messages import CONSISTENCY_ALL
from kvstore.ring.buckets import DEFAULT_BUCKET, BucketProperties


def test_default_bucket_holds_registers_and_allows_every_type() -> None:
    """The bucket that needs no set-up asks for nothing special."""
    assert DEFAULT_BUCKET.name == "default"
    assert DEFAULT_BUCKET.default_type is ObjectType.REGISTER
    assert set(DEFAULT_BUCKET.allowed_types) == set(ObjectType)
    assert (DEFAULT_BUCKET.r, DEFAULT_BUCKET.w, DEFAULT_BUCKET.dw, DEFAULT_BUCKET.pr, DEFAULT_BUCKET.pw) == (None,) * 5
    assert DEFAULT_BUCKET.ttl_ms == 0


@pytest.mark.parametrize("name", ["a", "Users.v2", "under_score-dash", "x" * 64])
def test_names_of_plain_characters_are_accepted(name: str) -> None:
    """Letters, digits, underscore, dot and dash, up to 64."""
    assert BucketProperties(name).name == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "a\n", "naïve", "a\x00", None, b"bytes"])
def test_other_names_are_refused(name: Any) -> None:
    """A name goes into logs, shells and storage keys; nothing there needs quoting."""
    with pytest.raises(InvalidArgument):
        BucketProperties(name)


@pytest.mark.parametrize("field", ["r", "w", "dw", "pr", "pw"])
def test_counts_are_small_numbers_or_none(field: str) -> None:
    """0 to 102, where the last two are symbolic; None leaves it to the cluster."""
    good: list[Any] = [None, 0, 3, CONSISTENCY_ALL]
    bad: list[Any] = [-1, CONSISTENCY_ALL + 1, True, 1.0, "2"]

    for count in good:
        assert getattr(replace(DEFAULT_BUCKET, **{field: count}), field) == count
    for count in bad:
        with pytest.raises(InvalidArgument):
            replace(DEFAULT_BUCKET, **{field: count})


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_ms": -1},
        {"ttl_ms": 1 << 45},
        {"ttl_ms": None},
        {"allowed_types": ()},
        {"allowed_types": (ObjectType.LWW,)},
        {"allowed_types": (ObjectType.REGISTER, ObjectType.REGISTER)},
        {"allowed_types": (1,)},
        {"allowed_types": [ObjectType.REGISTER]},
        {"default_type": 1},
    ],
)
def test_impossible_properties_are_refused(wrong: dict[str, Any]) -> None:
    """Times out of range, and types that contradict each other."""
    with pytest.raises(InvalidArgument):
        BucketProperties("b", **wrong)


def test_order_of_allowed_types_does_not_matter() -> None:
    """Equal meaning is an equal object, and so equal bytes in the topology document."""
    types = (ObjectType.LWW, ObjectType.REGISTER)

    assert BucketProperties("b", allowed_types=types) == BucketProperties("b", allowed_types=types[::-1])
