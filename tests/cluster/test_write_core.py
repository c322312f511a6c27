"""The write accumulator against a dumb model that recounts everything after every event."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.coordinator.write_core import Outcome, WriteCore


def model(events: list[tuple[int, str]], *, asked: int, w: int, dw: int, pw: int) -> Outcome:
    """Recount: which replicas applied, are durable, failed; the first verdict stays."""
    applied: set[int] = set()
    durable: set[int] = set()
    failed: set[int] = set()
    for replica, event in events:
        if event == "applied":
            applied.add(replica)
        elif event == "durable":
            applied.add(replica)
            durable.add(replica)
        else:
            failed.add(replica)
        if len(applied) >= w and len(durable) >= dw and len(applied) >= pw:
            return Outcome.MET
        if asked - len(failed) < max(w, dw, pw):
            return Outcome.IMPOSSIBLE
    return Outcome.PENDING


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[int, str]]]:
    asked = draw(st.integers(1, 5))
    counts = {name: draw(st.integers(0, asked)) for name in ("w", "dw", "pw")}
    scripts = [
        draw(st.sampled_from([["durable"], ["applied", "durable"], ["failed"], ["applied", "failed"], ["applied"], []]))
        for _ in range(asked)
    ]
    turns = draw(st.permutations([replica for replica, script in enumerate(scripts) for _ in script]))
    rest = [list(script) for script in scripts]
    return {"asked": asked, **counts}, [(replica, rest[replica].pop(0)) for replica in turns]


def feed(core: WriteCore, events: list[tuple[int, str]]) -> list[bool]:
    """Give the core the events as the driver does; return what each call said about a change."""
    early: set[int] = set()
    changes = []
    for replica, event in events:
        if event == "applied":
            early.add(replica)
            changes.append(core.add_applied(primary=True))
        elif event == "durable":
            changes.append(core.add_durable(primary=True, counted=replica in early))
        else:
            changes.append(core.add_failure())
    return changes


@given(runs())
@settings(max_examples=400, deadline=None)
def test_the_outcome_is_that_of_recounting(run: tuple[dict[str, int], list[tuple[int, str]]]) -> None:
    """In any order of early, durable and failed replies the verdict is the model's, and is announced exactly once."""
    counts, events = run
    core = WriteCore(**counts)

    changes = feed(core, events)

    assert core.outcome is model(events, **counts)
    assert sum(changes) == (core.outcome is not Outcome.PENDING)
    assert core.durable <= core.applied <= core.asked


@given(runs())
@settings(max_examples=200, deadline=None)
def test_once_every_replica_settled_the_outcome_is_decided(run: tuple[dict[str, int], list[tuple[int, str]]]) -> None:
    """No put waits for ever: nobody outstanding means met or impossible (w, dw or pw of at least one)."""
    counts, events = run
    core = WriteCore(**{**counts, "w": max(counts["w"], 1)})
    settled = {replica for replica, event in events if event != "applied"}
    endings = [(replica, "failed") for replica in range(counts["asked"]) if replica not in settled]

    feed(core, [*events, *endings])

    assert core.outstanding == 0 and core.outcome is not Outcome.PENDING


def test_an_early_acknowledgement_counts_for_w_but_not_for_dw() -> None:
    """w=2, dw=1: two that applied are not enough until one of them is durable."""
    core = WriteCore(asked=3, w=2, dw=1, pw=0)
    assert not core.add_applied(primary=True)
    assert not core.add_applied(primary=True)
    assert core.add_durable(primary=True, counted=True)
    assert (core.applied, core.durable, core.primaries) == (2, 1, 2)


def test_a_fallback_never_counts_for_pw() -> None:
    """Two acknowledged, one of them primary: pw=2 is not met."""
    core = WriteCore(asked=3, w=2, dw=2, pw=2)
    assert not core.add_durable(primary=True, counted=False)
    assert not core.add_durable(primary=False, counted=False)
    assert core.add_durable(primary=True, counted=False) and core.outcome is Outcome.MET
