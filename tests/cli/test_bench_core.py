"""The arithmetic of the benchmark: schedules, latencies, mixes and key distributions."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest

from cluster.cli.bench import summarize
from cluster.cli.bench_core import (
    EARLY_NS,
    WORKLOADS,
    Kind,
    choose_mix,
    key_chooser,
    key_of,
    latency_ns,
    start_delay_s,
)  # fmt: skip
from cluster.cli.bench_run import Measured
from kvstore.errors import InvalidArgument

MS = 1_000_000


@pytest.mark.parametrize(
    ("intended_ns", "issued_ns", "answered_ns", "expected_ns"),
    [
        (0, 0, 5 * MS, 5 * MS),  # on time
        (0, 900 * MS, 901 * MS, 901 * MS),  # issued late because everything before it stalled: the wait counts
        (10 * MS, 9 * MS, 12 * MS, 3 * MS),  # woken early by a coarse timer: counts from the issue
    ],
)
def test_open_loop_latency_counts_from_the_intended_start(
    intended_ns: int, issued_ns: int, answered_ns: int, expected_ns: int
) -> None:
    """No coordinated omission: waiting for a stalled system is part of what its user waited."""
    assert latency_ns(intended_ns, issued_ns, answered_ns) == expected_ns


def test_a_stall_is_seen_by_all_operations_it_delayed() -> None:
    """1000/s for 2 s with the server silent from 0.5 to 1.5 s: half of the operations waited, up to a second."""
    intended = [i * MS for i in range(2_000)]
    answered = [max(at + MS // 2, 1_500 * MS) if at >= 500 * MS else at + MS // 2 for at in intended]

    latencies = sorted(latency_ns(at, at, then) for at, then in zip(intended, answered, strict=True))

    assert latencies[-1] == 1_000 * MS
    assert sum(each > 10 * MS for each in latencies) == 990
    assert latencies[1_500] == pytest.approx(500 * MS, rel=0.01)


def test_start_delay_wakes_up_a_little_early_and_never_sleeps_when_late() -> None:
    """Loops wait in whole milliseconds."""
    assert start_delay_s(10 * MS, 0) == pytest.approx((10 * MS - EARLY_NS) / 1e9)
    assert start_delay_s(EARLY_NS, 0) == 0.0
    assert start_delay_s(0, 5 * MS) == 0.0


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_mixes_have_the_shares_they_say(name: str) -> None:
    """Over many draws each kind comes as often as its share."""
    mix = choose_mix(name)
    choose = mix.chooser(random.Random(1))

    counted = Counter(choose() for _ in range(20_000))

    assert sum(mix.shares) == pytest.approx(1.0)
    for kind in Kind:
        assert counted[kind] / 20_000 == pytest.approx(mix.shares[kind], abs=0.02)


def test_workload_e_is_refused_with_the_reason() -> None:
    """It scans, and there is no scan."""
    with pytest.raises(InvalidArgument, match="no scan"):
        choose_mix("e")


def test_keys_are_those_of_the_prototype() -> None:
    """So that figures compare."""
    assert key_of(42) == b"user000000000042"


@pytest.mark.parametrize("distribution", ["uniform", "zipfian", "latest"])
@pytest.mark.parametrize("count", [1, 2, 3, 1_000])
def test_chosen_keys_are_in_range(distribution: str, count: int) -> None:
    """Whatever the distribution and however small the key space."""
    choose = key_chooser(distribution, count, lambda: count, random.Random(2))

    assert all(0 <= choose() < count for _ in range(2_000))


def test_zipfian_is_skewed_and_uniform_is_not() -> None:
    """With theta 0.99 over 1000 keys the hottest takes about 13 % (1 / zeta); uniformly about 0.1 %."""
    shares = {}
    for distribution in ("uniform", "zipfian"):
        choose = key_chooser(distribution, 1_000, lambda: 1_000, random.Random(3))
        counted = Counter(choose() for _ in range(20_000))
        shares[distribution] = counted.most_common(1)[0][1] / 20_000

    assert shares["zipfian"] == pytest.approx(0.13, abs=0.02)
    assert shares["uniform"] < 0.005


def test_latest_follows_what_was_inserted() -> None:
    """The newest key is the most likely one, also after it changed."""
    newest = 100
    choose = key_chooser("latest", 100, lambda: newest, random.Random(4))
    before = Counter(choose() for _ in range(2_000)).most_common(1)[0][0]
    newest = 150

    after = Counter(choose() for _ in range(2_000)).most_common(1)[0][0]

    assert (before, after) == (99, 149)


def test_summary_has_percentiles_by_kind_and_in_total() -> None:
    """Percentiles are in milliseconds; errors are counted, not averaged in."""
    measured = Measured(elapsed_s=2.0)
    measured.latencies_ns[Kind.READ] = array("q", [i * MS for i in range(1, 101)])
    measured.latencies_ns[Kind.UPDATE] = array("q", [500 * MS])
    measured.errors["timeout"] = 3

    found = summarize(measured)

    assert (found["operations"], found["per_s"], found["errors"]) == (101, 50.5, 3)
    assert found["by_kind"]["read"]["p50"] == pytest.approx(50, rel=0.01)
    assert found["by_kind"]["read"]["p99"] == pytest.approx(99, rel=0.01)
    assert found["latency_ms"]["max"] == 500
    assert set(found["by_kind"]) == {"read", "update"}


def test_an_empty_measurement_is_not_a_division_by_zero() -> None:
    """A dead cluster gives zero operations and says so."""
    assert summarize(Measured())["per_s"] == 0.0
