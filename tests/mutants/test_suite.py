"""The suite with a harness of ten lines: who is killed, who survives, what is an error, and what the report adds up to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jepsen_lite.mutants.apply import copy_base, sources_imported
from jepsen_lite.mutants.mutant import CONTROL, Edit, Mutant, chosen, load_library
from jepsen_lite.mutants.outcome import Outcome, RunReport
from jepsen_lite.mutants.page import page
from jepsen_lite.mutants.report import SuiteReport, result_of
from jepsen_lite.mutants.suite import SuiteOptions, main, run_suite

FAKE = """
import json, sys, time
from small.a import promise
seed, following = int(sys.argv[1]), int(sys.argv[2])
assert following == seed + 1
violations = [] if promise(seed) else [f"judge: seed {seed}"]
print(json.dumps({"seed": seed, "ok": not violations, "virtual_s": 10.0, "violations": violations}))
sys.exit(bool(violations))
"""
HARNESS = ("python", "-m", "small.fake", "{seed}", "{next}")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of one package: a product that keeps its promise, and the harness that asks it."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "__init__.py").write_text("")
    (source / "a.py").write_text("def promise(seed):\n    return True\n")
    (source / "fake.py").write_text(FAKE)
    return copy_base(tmp_path / "work" / "base", {"small": source})


def _mutant(name: str, body: str) -> Mutant:
    return Mutant(name, "It is wrong.", "correctness 1", "stranger", ("a crash",), (Edit("small/a.py", "True", body),))


def _options(seeds: int, **changes: float) -> SuiteOptions:
    return SuiteOptions(HARNESS, range(seeds), **changes)  # type: ignore[arg-type]


def test_a_fatal_mutant_is_killed_by_the_first_seed_and_a_harmless_one_survives(base: Path) -> None:
    """Seeds come in order until one fails; the control takes as many as the longest needed."""
    mutants = [_mutant("fatal", "False"), _mutant("rare", "seed != 2"), _mutant("harmless", "bool(True)")]
    told = []

    report = run_suite(mutants, _options(4), base, lambda result: told.append(result.mutant))

    assert [(r.mutant, r.outcome, r.seed, r.seeds, r.virtual_s) for r in report.results] == [
        ("fatal", "killed", 0, 1, 10.0), ("rare", "killed", 2, 3, 30.0), ("harmless", "survived", None, 4, 40.0),
    ]  # fmt: skip
    assert report.results[0].killed_by == ("judge",)
    assert (report.controls[0].outcome, report.controls[0].seeds) == ("survived", 4)
    assert (report.killed, report.score, report.is_ok) == (2, 2 / 3, False)
    assert sorted(told) == ["(unchanged)", "fatal", "harmless", "rare"]
    assert list(base.parent.iterdir()) != [], "the base is left to whoever made it"


def test_all_killed_and_the_control_alive_is_the_only_success(base: Path) -> None:
    """Exit code 0 means 100 %."""
    report = run_suite([_mutant("fatal", "False")], _options(3), base)

    assert report.is_ok
    assert report.controls[0].seeds == 1


def test_a_harness_that_flags_the_product_itself_runs_no_mutant(base: Path) -> None:
    """Everything would be killed, and it would mean nothing."""
    (base / "small/a.py").write_text("def promise(seed):\n    return seed > 0 or not True\n")

    report = run_suite([_mutant("fatal", "False")], _options(3), base)

    assert (report.controls[0].outcome, report.results, report.is_ok) == ("killed", (), False)


def test_the_control_must_pass_every_seed_that_a_mutant_took(base: Path) -> None:
    """A seed on which the product fails as well has killed nobody."""
    (base / "small/a.py").write_text("def promise(seed):\n    return True and seed != 2\n")

    report = run_suite([_mutant("none", "bool(1)")], _options(5), base)

    assert (report.controls[0].outcome, report.controls[0].seed, report.is_ok) == ("killed", 2, False)


def test_a_mutant_that_does_not_fit_or_does_not_run_is_broken(base: Path) -> None:
    """Neither survived nor killed, and the suite fails."""
    misfit = Mutant("misfit", "It is wrong.", "1", "lead", ("x",), (Edit("small/a.py", "gone", "y"),))

    report = run_suite([misfit, _mutant("typo", "Ture")], _options(2), base)

    assert [(r.mutant, r.outcome) for r in report.results] == [("misfit", "broken"), ("typo", "broken")]
    assert "no longer applies" in report.results[0].detail
    assert "NameError" in report.results[1].detail
    assert not report.is_ok


def test_a_run_that_does_not_end_is_killed(base: Path) -> None:
    """A hang outside virtual time is a failure like any other."""
    report = run_suite([_mutant("hang", "__import__('time').sleep(60)")], _options(2, run_s_max=1.0), base)

    assert (report.results[0].outcome, report.results[0].killed_by) == ("killed", ("did not end",))


def test_the_bound_of_cpu_seconds_ends_a_mutant(base: Path) -> None:
    """A survivor is one that had its share of the machine."""
    report = run_suite([_mutant("harmless", "bool(1)")], _options(50, cpu_s_max=0.001), base)

    assert (report.results[0].outcome, report.results[0].seeds) == ("survived", 1)
    assert report.results[0].cpu_s > 0


def test_a_mutant_that_wants_moves_gets_them_and_a_control_of_its_own(base: Path) -> None:
    """Its seeds are other runs, so the product has to pass those, too."""
    (base / "small/fake.py").write_text(FAKE.replace("promise(seed)", "(promise(seed) or '--moves' not in sys.argv)"))
    moving = Mutant("m", "It is wrong.", "1", "lead", ("x",), (Edit("small/a.py", "True", "seed < 1"),), moves=True)
    still = Mutant("s", "It is wrong.", "1", "lead", ("x",), (Edit("small/a.py", "True", "seed < 1"),))

    report = run_suite([moving, still], _options(3), base)

    assert [(r.outcome, r.seeds) for r in report.results] == [("killed", 2), ("survived", 3)]
    assert [(r.mutant, r.outcome, r.seeds) for r in report.controls] == [
        ("(unchanged)", "survived", 3), ("(unchanged, moves)", "survived", 2),
    ]  # fmt: skip


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_adds_up_and_survives_json() -> None:
    """Seconds are of all runs of a mutant, `seed` that of the run that decided."""
    passed, killed = RunReport(Outcome.PASSED, virtual_s=60.0), RunReport(Outcome.KILLED, ("dots",), "twice", 7.5)
    mutant = _mutant("m", "False")
    results = (
        result_of(mutant, [(0, passed), (1, killed)], 4.2),
        result_of(mutant, [(0, passed)], 2.0),
        result_of(mutant, [], 0.0, "no longer applies"),
    )
    report = SuiteReport(("python",), (result_of(CONTROL, [(0, passed)], 2.0),), results)

    document = json.loads(json.dumps(report.as_json()))

    assert [entry["outcome"] for entry in document["mutants"]] == ["killed", "survived", "broken"]
    assert (document["mutants"][0]["virtual_s"], document["mutants"][0]["cpu_s"]) == (67.5, 4.2)
    assert [entry["seed"] for entry in document["mutants"]] == [1, None, None]
    assert (document["killed"], document["total"], document["score"], document["ok"]) == (1, 3, 1 / 3, False)
    assert report.as_table().row_count == 4


def test_the_page_says_what_became_of_each_mutant_and_what_waits() -> None:
    """A survivor stands out; a bar in a text does not end its cell."""
    killed = RunReport(Outcome.KILLED, ("dots",), "twice", 7.5)
    found, lost = _mutant("found", "False"), _mutant("lost", "a|b")
    results = (result_of(found, [(3, killed)], 4.2), result_of(lost, [(0, RunReport(Outcome.PASSED))], 2.0))
    report = SuiteReport((), (result_of(CONTROL, [(0, RunReport(Outcome.PASSED))], 2.0),), results)
    waiting = Mutant("waits", "It waits.", "correctness 1", "stranger", ("x",), (), "Not | yet.")

    text = page(report.as_json(), [found, lost], [waiting])

    assert "**1 of 2 killed (50%).** The unchanged product passed 1 seeds." in text
    assert "| `found` | stranger | It is wrong. | correctness 1 | dots | 3 | 1 | 8 | 4.2 |" in text
    assert "| `lost` | stranger | It is wrong. | correctness 1 | **survived** |  | 1 | 0 | 2.0 |" in text
    assert "| `waits` | It waits. | correctness 1 | Not \\| yet. |" in text


def test_a_suite_without_mutants_is_no_success() -> None:
    """0 of 0 is not 100 %."""
    control = result_of(CONTROL, [(0, RunReport(Outcome.PASSED))], 1.0)

    assert not SuiteReport((), (control,), ()).is_ok


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` runs nothing; an unknown name is an error with the known ones."""
    assert main(["--list"]) == 0
    assert "ack_before_fsync (reliability 4.15):" in capsys.readouterr().out
    assert main(["--only", "nonsense"]) == 1
    assert "no mutant called nonsense" in capsys.readouterr().err


# --- the real thing, small ---------------------------------------------------------------------------------------------

IMPORTED = """
import json, kvstore, cluster, jepsen_lite, os
inside = all(os.path.realpath(m.__file__).startswith(os.getcwd()) for m in (kvstore, cluster, jepsen_lite))
print(json.dumps({"seed": 0, "ok": inside, "violations": [] if inside else ["path: imported from elsewhere"]}))
"""
FAST = ("vector_goes_back", "actor_epoch_kept", "put_context_covers_siblings")


def test_a_tree_imports_itself_and_not_the_checkout(tmp_path: Path) -> None:
    """Else every mutant would test the unchanged product."""
    base = copy_base(tmp_path / "base", {**sources_imported(), "probe": _probe(tmp_path)})
    options = SuiteOptions((sys.executable, "-m", "probe.main"), range(1))

    report = run_suite([], options, base)

    assert report.controls[0].outcome == "survived", report.controls[0].detail


def _probe(directory: Path) -> Path:
    probe = directory / "probe"
    probe.mkdir()
    (probe / "__init__.py").write_text("")
    (probe / "main.py").write_text(IMPORTED)
    return probe


@pytest.mark.slow
def test_three_mutants_are_found_in_seconds(tmp_path: Path) -> None:
    """A smoke test of the whole way; all others run on demand: `jepsen-lite mutants`."""
    base = copy_base(tmp_path / "base")

    report = run_suite(chosen(load_library(), FAST), SuiteOptions(seeds=range(10)), base)

    assert report.is_ok, [(result.mutant, result.outcome, result.detail) for result in report.results]
