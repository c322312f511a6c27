"""What a node takes on at once: less when operations take long, and refusals that spread those who come back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.coordinator.overload import (
    BUSY_MIN,
    IN_FLIGHT_MIN,
    QUEUE_S_MAX,
    RETRY_S_MAX,
    RETRY_S_MIN,
    TARGET_S,
    WINDOW_S,
    OverloadGuard,
)

STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 512), st.floats(0, 5)), max_size=200)


@given(STEPS, st.sampled_from([2, 8, 700, 4_096]))
def test_limit_and_pause_stay_within_their_bounds(steps: list[tuple[bool, int, float]], most: int) -> None:
    """Whatever happens."""
    guard, now = OverloadGuard(most), 0.0
    for is_refusal, count, seconds in steps:
        now += seconds / 50
        if is_refusal:
            assert RETRY_S_MIN <= guard.refuse(now) <= RETRY_S_MAX
        else:
            guard.ended(count, seconds)
        assert min(IN_FLIGHT_MIN, most) <= guard.limit <= most


def test_a_machine_that_is_too_slow_takes_less_on() -> None:
    """4,096 in flight at 1,500 a second are 2.7 s: the limit falls until what is taken on is done in time."""
    guard, per_s = OverloadGuard(4_096), 1_500
    for _ in range(400):
        guard.ended(50, guard.limit / per_s)
    assert guard.limit / per_s <= TARGET_S * 1.1


def test_a_machine_that_is_quick_again_takes_more_on() -> None:
    """Slowly, up to the bound."""
    guard = OverloadGuard(4_096)
    for _ in range(1_000):
        guard.ended(100, 2.0)
    assert guard.limit == IN_FLIGHT_MIN
    for _ in range(1_000):
        guard.ended(100, 0.01)
    assert guard.limit == 4_096


def test_those_who_are_refused_are_spread_until_refusing_costs_less_than_working() -> None:
    """20,000 clients that each come back after the pause they were told: few refusals for each operation that is done."""
    guard, now, done_per_s, clients = OverloadGuard(4_096), 0.0, 1_500, 20_000
    for _ in range(100):
        now += 0.1
        guard.ended(done_per_s // 10, 0.4)
        for _ in range(round(clients * 0.1 / guard.retry_after_s)):
            guard.refuse(now)
    assert guard.retry_after_s == RETRY_S_MAX
    for _ in range(50):
        now += 0.2
        guard.ended(300, 0.1)
        guard.refuse(now)
    assert guard.retry_after_s < 0.2


def test_frames_are_refused_once_most_of_a_window_came_late() -> None:
    """Not the first ones: they may be what a pause of our own left behind. On time again, nothing is refused."""
    guard, late_s = OverloadGuard(4_096), QUEUE_S_MAX * 1.1
    refused = [guard.is_too_late(late_s, BUSY_MIN, now_s) for now_s in (0.0, 0.05, WINDOW_S, 0.15)]
    assert refused == [False, False, True, True]
    assert not guard.is_too_late(QUEUE_S_MAX, BUSY_MIN, 0.16)


def test_one_late_client_among_many_is_not_refused() -> None:
    """Most frames come on time, so it is not this node that is behind."""
    guard = OverloadGuard(4_096)
    for tick in range(100):
        assert not guard.is_too_late(QUEUE_S_MAX * 2, BUSY_MIN, tick / 50)
        assert not guard.is_too_late(0.0, BUSY_MIN, tick / 50)
        assert not guard.is_too_late(0.0, BUSY_MIN, tick / 50)
