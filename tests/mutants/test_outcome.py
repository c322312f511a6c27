"""What a run came to: the words of judges, exceptions of every kind, and what must not be called a kill."""

from __future__ import annotations

import json

import pytest

from jepsen_lite.mutants.outcome import Outcome, read_run

FINE = {"seed": 3, "ok": True, "virtual_s": 61.5, "violations": []}


def _traceback(error: str, file: str = "/tmp/x/tree/cluster/store.py", note: str = "") -> str:
    return f'Traceback (most recent call last):\n  File "{file}", line 7, in f\n    g()\n{error}\n{note}'


def test_a_run_without_violations_passed() -> None:
    """It says so in a line of JSON and by exit code 0; other output does not matter."""
    run = read_run(0, f"noise\n{json.dumps(FINE)}\n{{not json\n", "a warning")

    assert (run.outcome, run.virtual_s) == (Outcome.PASSED, 61.5)


def test_violations_kill_and_name_their_judges() -> None:
    """Each judge once, in the order in which they spoke; the first thing said is kept for people."""
    violations = ["set-full: 17 is gone", "dots: n1 minted twice", "set-full: 18 is gone"]

    run = read_run(1, json.dumps({**FINE, "ok": False, "violations": violations}), "")

    assert (run.outcome, run.by, run.detail) == (Outcome.KILLED, ("set-full", "dots"), "set-full: 17 is gone")


@pytest.mark.parametrize(
    ("violation", "outcome", "by"),
    [
        ("Deadlock: nobody can continue", Outcome.KILLED, ("deadlock",)),
        ("UnseenFailures: 1.0s n0 raised: KeyError(3)", Outcome.KILLED, ("unseen failure",)),
        ("AssertionError: a dot is never minted twice", Outcome.KILLED, ("AssertionError",)),
        ("NameError: name 'g' is not defined", Outcome.BROKEN, ()),
        ("UnseenFailures: 1.0s n0 raised: NameError(\"name 'g' is not defined\")", Outcome.BROKEN, ()),
        ("phantoms: a value called NameError: was shown", Outcome.KILLED, ("phantoms",)),
    ],
)
def test_an_exception_inside_a_run_is_among_its_violations(
    violation: str, outcome: Outcome, by: tuple[str, ...]
) -> None:
    """A mutant that is no program has broken no promise, in whatever words the run says so."""
    run = read_run(1, json.dumps({**FINE, "ok": False, "violations": [violation]}), "")

    assert (run.outcome, run.by) == (outcome, by)


def test_a_run_that_is_not_ok_is_a_kill_whatever_the_reason() -> None:
    """A judge without words is still a judge."""
    run = read_run(1, json.dumps({"seed": 1, "ok": False, "violations": []}), "")

    assert (run.outcome, run.by) == (Outcome.KILLED, ("not ok",))


@pytest.mark.parametrize(
    ("error", "by"),
    [
        ("AssertionError: a dot is never minted twice", "product assertion"),
        ("jepsen_lite.sim.loop.Deadlock: nobody can continue", "deadlock"),
        ("jepsen_lite.sim.loop.TimeLimit: not done", "time limit"),
        ("jepsen_lite.sim.loop.UnseenFailures: 1 failure", "unseen failure"),
        ("kvstore.errors.Unavailable: too few", "raised Unavailable"),
        ("KeyError", "raised KeyError"),
    ],
)
def test_an_exception_that_ended_the_run_is_a_kill(error: str, by: str) -> None:
    """Told apart, because an assertion of the product is a defence and a deadlock is a hang. Notes follow the error."""
    run = read_run(1, "", _traceback(error, note="the last events were\n  12 apply\nNameError: not this\n"))

    assert (run.outcome, run.by) == (Outcome.KILLED, (by,))


def test_an_assertion_of_the_harness_is_named_as_such() -> None:
    """It kills, but says that a judge should have spoken before."""
    run = read_run(1, "", _traceback("AssertionError", file="/tmp/x/tree/jepsen_lite/sim/world.py"))

    assert run.by == ("harness assertion",)


@pytest.mark.parametrize(
    ("returncode", "stdout", "stderr"),
    [
        (0, "", ""),
        (2, "", "usage: first\nfirst: error: no such option"),
        (1, "", "python: No module named jepsen_lite.cli"),
        (-9, "", "Killed"),
        (1, "", _traceback("NameError: name 'g' is not defined")),
        (1, "", _traceback("NameError: name 'g'") + "\nDuring handling\n\n" + _traceback("UnseenFailures: 1")),
    ],
)
def test_what_never_ran_is_broken_and_not_killed(returncode: int, stdout: str, stderr: str) -> None:
    """Else a mutant with a typing error, or a missing harness, would raise the score."""
    assert read_run(returncode, stdout, stderr).outcome is Outcome.BROKEN
