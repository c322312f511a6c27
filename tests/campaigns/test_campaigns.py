"""The campaigns at a size for every day (`pytest -m slow tests/campaigns`), and the judges they trust, which are quick.

The full sizes and their last output are in docs/campaigns.md.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kvstore.causality.dvvset import DVVSet, Operation, Sibling
from kvstore.ids import ActorId, HlcTimestamp, OperationId, StorageKey
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import value_hash
from tests.campaigns import (
    disk_full,
    disk_sudden,
    exit_codes,
    footprint,
    fsync_failure,
    geonames,
    grow,
    kill_cycles,
    overload,
    rolling_restart,
)
from tests.campaigns.harness import Findings
from tests.campaigns.history import History, Outcome
from tests.campaigns.kill_cycles import dots_bound_twice

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounts a small tmpfs: needs root"
)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
ACTOR = ActorId(bytes(20))


def _held(findings: Findings) -> None:
    assert findings.violations == []


# --- the judges -------------------------------------------------------------------------------------------------------


def _acknowledged(history: History, value: str, shown: tuple[str, ...] = ()) -> None:
    history.begin("k", value, shown).outcome = Outcome.ACKNOWLEDGED


def test_an_acknowledged_value_that_nobody_was_shown_is_lost_when_absent() -> None:
    """Two blind puts, one value left: the other was not anybody's to replace."""
    history = History()
    _acknowledged(history, "a")
    _acknowledged(history, "b")

    assert history.judge({"k": ["b"]}).lost == ["k: a was acknowledged"]


def test_a_value_may_be_replaced_through_a_chain_of_puts_that_were_shown_it() -> None:
    """C was shown B, whose outcome is unknown, and B was shown A: with C there, both may be absent."""
    history = History()
    _acknowledged(history, "a")
    history.begin("k", "b", ["a"])
    _acknowledged(history, "c", ("b",))

    assert history.judge({"k": ["c"]}).lost == []
    assert history.judge({"k": []}).lost == ["k: a was acknowledged", "k: c was acknowledged"]


def test_a_put_that_failed_definitely_replaces_nothing_and_must_not_be_found() -> None:
    """It did not and will not happen, so what it was shown must stay, and its value must not appear."""
    history = History()
    _acknowledged(history, "a")
    history.begin("k", "b", ["a"]).outcome = Outcome.FAILED

    verdict = history.judge({"k": ["b"]})

    assert verdict.lost == ["k: a was acknowledged"]
    assert verdict.invented == ["k: b is there, but its put failed definitely"]


def test_a_dot_that_names_two_values_is_noticed() -> None:
    """In what reads showed, and between the databases of two nodes."""
    history = History()
    history.saw("k", ACTOR, 1, "a")
    history.saw("k", ACTOR, 1, "b")
    key = storage_key(object_name("default", 1, b"k"))
    stores = [{key: _state(key, value)} for value in (b"a", b"b")]

    assert len(history.judge({}).rebound) == 1
    assert dots_bound_twice(stores)[0] == 1 and len(dots_bound_twice(stores)[1]) > 0
    assert dots_bound_twice([stores[0], stores[0]]) == (1, [])


def _state(key: StorageKey, value: bytes) -> DVVSet:
    operation_id = OperationId(value * 16)
    sibling = Sibling(ACTOR, 1, HlcTimestamp(1), HlcTimestamp(0), operation_id, value)
    return DVVSet({ACTOR: 1}, (sibling,), (Operation(HlcTimestamp(1), operation_id, value_hash(value, 0), ACTOR, 1),))


def test_a_log_is_cut_to_what_the_last_successful_fdatasync_covered(tmp_path: Path) -> None:
    """What was written while a sync ran is not covered by it, nor by one that failed."""
    log = tmp_path / "000004.log"
    log.write_bytes(b"x" * 100)  # 40 bytes of it from before the trace
    trace = tmp_path / "trace"
    trace.write_text(
        f'1 1.0 write(9<{log}>, ""..., 20) = 20\n'
        f"2 1.1 fdatasync(9<{log}> <unfinished ...>\n"
        f'1 1.2 write(9<{log}>, ""..., 30) = 30\n'
        "2 1.3 <... fdatasync resumed>) = 0\n"
        f'1 1.4 write(7<pipe:[1]>, ""..., 5) = 5\n'
        f'1 1.5 write(9<{log}>, ""..., 10) = 10\n'
        f"2 1.6 fdatasync(9<{log}>) = -1 EIO (Input/output error) (INJECTED)\n"
    )

    assert fsync_failure.cut_to_durable(tmp_path, trace) == (1, 1, 40)
    assert log.stat().st_size == 60


# --- the campaigns, small ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_killed_during_a_load_loses_no_acknowledged_record() -> None:
    """Twelve thousand real cities through `kvctl load`."""
    _held(geonames.run(records_max=12_000))


@pytest.mark.slow
def test_one_node_becomes_four_under_load() -> None:
    """Five thousand records; the last joiner is killed while it copies."""
    _held(grow.run(records=5_000))


@pytest.mark.slow
def test_kills_lose_nothing_bind_no_dot_twice_and_grow_no_vector() -> None:
    """Four kills at random moments."""
    _held(kill_cycles.run(cycles=4, seconds_per_cycle=1.5))


@pytest.mark.slow
def test_clients_notice_nothing_of_a_rolling_restart() -> None:
    """Each of three nodes once, under load."""
    _held(rolling_restart.run(rounds=1, keys=500, workers=64))


@pytest.mark.slow
def test_too_much_load_is_refused_and_what_can_be_done_is_done() -> None:
    """Puts and gets, at a rate that every machine sustains and at many times of it."""
    _held(overload.run(seconds=2.0, rate=2_000, multiples=(0.5, 1.0, 10.0)))


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize(("when", "concurrency"), [(1, 1), (20, 1), (60, 64)])
def test_a_failed_fsync_ends_the_node_before_it_acknowledges(when: int, concurrency: int) -> None:
    """The K-th fdatasync fails, one put at a time and many at once."""
    _held(fsync_failure.run(when=when, concurrency=concurrency))


@pytest.mark.slow
@needs_mount
@pytest.mark.parametrize(("nodes_count", "size_mib", "ballast_mib"), [(1, 128, 48), (3, 128, 48), (1, 96, 40)])
def test_a_full_disk_refuses_definitely_and_recovers(nodes_count: int, size_mib: int, ballast_mib: int) -> None:
    """Of the sizes, the last meets its end while RocksDB writes out a memtable."""
    _held(disk_full.run(nodes_count=nodes_count, size_mib=size_mib, ballast_mib=ballast_mib))


@pytest.mark.slow
@needs_mount
def test_a_disk_that_is_suddenly_full_loses_nothing_acknowledged() -> None:
    """The last byte goes while puts are under way."""
    _held(disk_sudden.run())


@pytest.mark.slow
def test_a_node_is_small_and_starts_quickly() -> None:
    """With thirty thousand records; the bounds are those for a million."""
    _held(footprint.run(records=30_000))


@pytest.mark.slow
def test_every_exit_code_has_its_example() -> None:
    """0, 2, 3, 4, 5 and 7, and 9 for an unhealthy cluster."""
    _held(exit_codes.run())
