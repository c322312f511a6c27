"""Availability and latency by fault window: what belongs where. Nothing here can fail a run."""

from __future__ import annotations

from jepsen_lite.checkers.availability import Window, measure_availability, table, timed_pairs
from jepsen_lite.foreign import timed, windows
from tests.checkers.event_scripts import events
from tests.checkers.scripts import tell

STORY = """
    0 write 1
    #100; 0 write 2 ...
    #110; nemesis start-partition
    #120; 0 ok
    #130; 1 write 3 fail
    #140; 2 write 4 info
    #150; nemesis stop-partition
    #200; 0 write 5 ...
    #230; 0 ok
"""


def test_an_operation_belongs_to_the_windows_that_it_overlaps_and_to_calm_if_to_none() -> None:
    """The write that was answered after the cut felt it; the one of unknown outcome never ended, and began in it."""
    log = events(STORY)

    calm, partition = measure_availability(timed(log), windows(log))

    assert (calm.window, calm.operations, calm.ok, calm.ok_share) == ("calm", 2, 2, 1.0)
    assert (calm.p50_ms, calm.longest_ms) == (30, 30)
    assert (partition.window, partition.operations) == ("partition 0.1–0.2 s", 3)
    assert (partition.ok, partition.failed, partition.unknown) == (1, 1, 1)
    assert partition.longest_ms == 20


def test_several_windows_of_one_name_have_a_row_together_and_one_each() -> None:
    """An operation that overlaps both counts once in the common one."""
    log = events("""
        nemesis start-kill; 0 write 1 ...; nemesis stop-kill; nemesis start-kill; 0 ok; nemesis stop-kill; #900; 0 write 2
    """)  # fmt: skip

    rows = measure_availability(timed(log), windows(log))

    assert [(row.window, row.operations) for row in rows] == [
        ("calm", 1), ("kill (2 times)", 1), ("kill 0.0–0.0 s", 1), ("kill 0.0–0.0 s", 1),
    ]  # fmt: skip


def test_a_fault_that_is_told_twice_as_jepsen_does_is_one_window() -> None:
    """From the first start to the last stop; one that never stops lasts to the end."""
    log = events("""
        nemesis start-partition; nemesis start-partition; #50; nemesis stop-partition; nemesis stop-partition
        #80; nemesis start; 0 write 1
    """)  # fmt: skip

    assert windows(log) == [Window("partition", 1_000_000, 52_000_000), Window("fault", 81_000_000)]


def test_our_own_histories_are_measured_too() -> None:
    """Without windows everything is calm."""
    (calm,) = measure_availability(timed_pairs(tell("0 put k A ok; 0 put k B fail; 1 put k C ...")), [])

    assert (calm.operations, calm.ok, calm.failed, calm.unknown) == (3, 1, 1, 1)
    assert table([calm]).splitlines()[1].split() == ["calm", "3", "33.3%", "1", "1", "1.0", "1.0", "1.0"]


def test_nothing_measured_is_available() -> None:
    """No operation was refused."""
    (calm,) = measure_availability([], [])

    assert (calm.ok_share, calm.p99_ms) == (1.0, 0.0)
