"""Hybrid logical clocks under a wall clock that does what it likes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.hlc import LOGICAL_BITS, MAX_CLOCK_SKEW_MS, HybridLogicalClock, hlc_from_ms, hlc_to_ms
from kvstore.ids import HlcTimestamp

WALLS = st.integers(0, 1 << 42)
TIMES = st.integers(0, (1 << 64) - 1).map(HlcTimestamp)


@settings(max_examples=100, deadline=None)
@given(st.lists(WALLS, min_size=2, max_size=50))
def test_ticks_strictly_increase_however_the_wall_steps(walls: list[int]) -> None:
    """Backwards, standing still or leaping: no two ticks are equal and none is before an earlier one."""
    clock = HybridLogicalClock()

    ticks = [clock.tick(wall_ms) for wall_ms in walls]

    assert all(earlier < later for earlier, later in pairwise(ticks))
    assert all(hlc_to_ms(tick) >= wall_ms for tick, wall_ms in zip(ticks, walls, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WALLS, TIMES | WALLS.map(hlc_from_ms)), min_size=1, max_size=50))
def test_a_clock_is_never_further_ahead_than_its_wall_has_been_plus_the_bound(
    steps: list[tuple[int, HlcTimestamp]],
) -> None:
    """Whatever peers claim: foreign timestamps drag it by at most `max_skew_ms`, and each tick adds one at most."""
    clock = HybridLogicalClock()
    highest_wall_ms = 0

    for count, (wall_ms, seen) in enumerate(steps, start=1):
        highest_wall_ms = max(highest_wall_ms, wall_ms)
        clock.observe(seen, wall_ms)
        assert clock.tick(wall_ms) <= hlc_from_ms(highest_wall_ms + MAX_CLOCK_SKEW_MS + 1) + count


@settings(max_examples=100, deadline=None)
@given(WALLS, WALLS, TIMES)
def test_after_observing_a_timestamp_the_next_tick_is_greater(last_ms: int, wall_ms: int, seen: HlcTimestamp) -> None:
    """Cause before effect, unless the timestamp is beyond the bound: then nothing moved and it was counted."""
    clock, untouched = HybridLogicalClock(), HybridLogicalClock()
    clock.tick(last_ms)
    untouched.tick(last_ms)

    accepted = clock.observe(seen, wall_ms)

    if accepted:
        assert clock.refused_count == 0
        assert clock.tick(wall_ms) > seen
    else:
        assert clock.refused_count == 1
        assert clock.is_too_far_ahead(seen, wall_ms)
        assert clock.tick(wall_ms) == untouched.tick(wall_ms)


def test_the_bound_is_in_milliseconds_and_inclusive() -> None:
    """Exactly `max_skew_ms` ahead is accepted, one more is not."""
    clock = HybridLogicalClock(max_skew_ms=500)

    assert clock.observe(hlc_from_ms(1_500), 1_000)
    assert not clock.observe(hlc_from_ms(1_501), 1_000)


def test_one_millisecond_holds_65536_ticks_before_time_runs_ahead() -> None:
    """The logical counter carries into the milliseconds instead of wrapping."""
    clock = HybridLogicalClock()

    first = clock.tick(7)
    for _ in range(1 << LOGICAL_BITS):
        last = clock.tick(7)

    assert (hlc_to_ms(first), hlc_to_ms(last)) == (7, 8)
    assert last - first == 1 << LOGICAL_BITS
