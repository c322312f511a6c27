"""Cluster URLs and options: one name each, everywhere, and no typing error becomes a default."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kvstore import AsyncClient, Consistency, errors
from kvstore.client.options import CLIENT_OPTIONS, Options, duration_s, from_environment, with_given
from kvstore.client.url import parse_seeds, parse_url


def test_a_url_names_seeds_and_options() -> None:
    """Ports default to 7400."""
    assert parse_url("kv://10.0.0.1:7401,[::1],db.example/?timeout=500ms&r=2") == (
        ("10.0.0.1:7401", "[::1]:7400", "db.example:7400"),
        {"timeout": "500ms", "r": "2"},
    )


@pytest.mark.parametrize(
    "url",
    [
        "", "kv://", "http://h:1/", "kv://h:0", "kv://h:70000", "kv://h:1/bucket", "kv://user@h:1", "kv://h:1/#x", "kv://h:x",
        "kv://h,,g", "kv://h/?timeout", "kv://h/?r=1&r=2", "kv://h o:1", "h:1",
    ],
)  # fmt: skip
def test_anything_else_is_refused(url: str) -> None:
    """A URL that is nearly right must not connect to something."""
    with pytest.raises(errors.InvalidArgument):
        parse_url(url)


def test_seeds_may_be_a_list_and_are_kept_once() -> None:
    """In the order given."""
    assert parse_seeds(["b:1", "a:1", "b:1"]) == ("b:1", "a:1")
    with pytest.raises(errors.InvalidArgument):
        parse_seeds([])


def test_an_unknown_option_lists_the_known_ones() -> None:
    """In a URL and as a keyword alike."""
    unknown: dict[str, Any] = {"time_out": 1}

    with pytest.raises(errors.InvalidArgument, match="'time_out'; known: consistency, r, w, dw, pr, pw, timeout, ttl"):
        AsyncClient.from_url("kv://h/?time_out=1", environ={})
    with pytest.raises(errors.InvalidArgument, match="unknown option 'time_out'"):
        AsyncClient(["h"], **unknown)
    with pytest.raises(errors.InvalidArgument, match="unknown option 'attempts_max'"):
        AsyncClient(["h"]).bucket("b", attempts_max=1)  # type: ignore[call-overload]  # an option of clients only


def test_a_keyword_wins_over_the_url_and_that_over_the_environment() -> None:
    """Nearest to the code wins."""
    environ = {
        "KVSTORE_TIMEOUT": "1s",
        "KVSTORE_R": "1",
        "KVSTORE_W": "1",
        "KVSTORE_DATA": "/var/lib/kv",
        "KVSTORE_PR": "",
    }

    kv = AsyncClient.from_url("kv://h/?timeout=2s&r=quorum", environ=environ, timeout=timedelta(seconds=3))

    assert kv.options.timeout_s == 3.0
    assert kv.options.r == Consistency.QUORUM
    assert kv.options.w == 1
    assert kv.options.pr is None


def test_the_environment_knows_every_option() -> None:
    """KVSTORE_ and the name in capitals."""
    assert sorted(from_environment({f"KVSTORE_{name.upper()}": "1" for name in CLIENT_OPTIONS})) == sorted(
        CLIENT_OPTIONS
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("2s", 2.0), ("1.5", 1.5), ("5m", 300.0), (" 1h ", 3600.0), ("7d", 604_800.0)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert duration_s("timeout", text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "fast", "-1s", "1 s", "0", 0, -1, float("nan"), float("inf"), True, None, "1e3", "٣s"]
)
def test_a_duration_is_positive_and_finite(value: object) -> None:
    """Anything else is refused with the option's name."""
    with pytest.raises(errors.InvalidArgument, match="timeout must be"):
        duration_s("timeout", value)


@pytest.mark.parametrize(
    ("value", "count"), [("one", 1), ("QUORUM", 101), ("all", 102), ("3", 3), (Consistency.ALL, 102)]
)
def test_a_count_is_a_number_or_a_word(value: Any, count: int) -> None:
    """The words travel as symbols, so the cluster's N decides."""
    assert with_given(Options(), {"w": value}, CLIENT_OPTIONS).w == count


@pytest.mark.parametrize("value", ["two", "-1", "101", 101, 1.5, True, [], "²"])
def test_other_counts_are_refused(value: Any) -> None:
    """101 and 102 mean something else on the wire, so they cannot be given as numbers."""
    with pytest.raises(errors.InvalidArgument):
        with_given(Options(), {"w": value}, CLIENT_OPTIONS)


@pytest.mark.parametrize("value", ["0", 0, 101, "many", True, 1.5])
def test_attempts_are_bounded(value: Any) -> None:
    """One attempt is the least, a hundred the most."""
    with pytest.raises(errors.InvalidArgument):
        with_given(Options(), {"attempts_max": value}, CLIENT_OPTIONS)
