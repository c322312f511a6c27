"""Lateness: what a frame waited beyond the quickest one, whatever the two clocks show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.transport.lateness import WINDOW_MS, Lateness

FRAMES = st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 5_000)), min_size=1, max_size=60)


@given(FRAMES, st.integers(-(10**12), 10**12))
def test_it_is_the_wait_beyond_the_quickest_frame(frames: list[tuple[int, int]], offset: int) -> None:
    """Whatever the offset of the clocks; never negative, and never more than the frame really waited."""
    lateness, sent, quickest = Lateness(), 0, 10**9
    for pause, wait in frames:
        sent += pause
        quickest = min(quickest, wait)
        late = lateness.of(sent, sent + wait + offset)
        assert 0 <= late <= wait
        if sent + wait < WINDOW_MS // 2:
            assert late == wait - quickest


def test_clocks_that_drift_apart_do_not_make_everything_late() -> None:
    """The floor is that of the last two windows: 50 ppm over a day would be four seconds."""
    lateness = Lateness()
    late = [lateness.of(sent, sent + sent * 50 // 1_000_000) for sent in range(0, 86_400_000, 1_000)]
    assert max(late) <= 2 * WINDOW_MS * 50 // 1_000_000 + 1


def test_a_stopped_receiver_sees_how_long_it_was_stopped() -> None:
    """Frames that waited for it come at once when it goes on."""
    lateness = Lateness()
    assert [lateness.of(sent, 1_000_000 + sent + 3) for sent in (0, 10, 20)] == [0, 0, 0]
    assert lateness.of(30, 1_000_000 + 2_030) == 1_997
