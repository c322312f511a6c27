"""A large value is known by its name, and one that is damaged by none."""

from __future__ import annotations

from jepsen_lite.workloads.payload import name_of, payload, shown_as

SIZE = 300_001


def test_a_small_value_is_its_own_name() -> None:
    """No padding below the length of the head."""
    assert payload("3:17") == b"3:17" == payload("3:17", 5)
    assert shown_as(b"3:17") == name_of("3:17") == "3:17"


def test_a_large_value_has_its_size_and_name() -> None:
    """Exactly as many bytes as asked for."""
    value = payload("3:17", SIZE)

    assert len(value) == SIZE
    assert shown_as(value) == name_of(value.decode()) == "3:17"


def test_whatever_is_not_the_value_of_its_name_is_shown_as_broken() -> None:
    """Cut, changed, parts swapped, or joined with another's."""
    value, other = payload("3:17", SIZE), payload("3:18", SIZE)
    damaged = [
        value[:-1], value[:1000] + b"x" + value[1001:], value[:1024] + value[2048:3072] + value[1024:2048] + value[3072:],
        value[:150_000] + other[150_000:], value + b"0",
    ]  # fmt: skip

    assert all(shown_as(each).startswith("broken 3:17") for each in damaged)


def test_a_value_of_somebody_else_is_shown_as_it_is() -> None:
    """Also if it looks a little like ours."""
    assert shown_as(b"x|y|z").startswith("broken")
    assert shown_as(b"\xff") == "\\xff"
