"""jepsen-lite check: what it prints, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import jepsen_lite.cli as cli
from jepsen_lite.events import HistoryError, read_events
from jepsen_lite.history import History
from jepsen_lite.judged import MODELS, judge_events
from tests.checkers.event_scripts import events, lines_of
from tests.checkers.scripts import tell
from tests.checkers.simulated_register import simulate


def check(model: str, text: str, *options: str) -> Result:
    return CliRunner().invoke(cli.main, ["check", "--model", model, *options, "-"], input=text)


def test_a_history_that_holds_exits_with_0() -> None:
    """One line with how much it was, one with the figures."""
    told = check("register", lines_of("0 write 1; 1 read -> 1"))

    assert told.exit_code == 0
    first, second = told.output.splitlines()
    assert first.startswith("register: holds: 2 operations in 4 events, ")
    assert second == "figures: operations=2 unknown=0 keys=1 configurations=1 configurations_of_a_key_max=1"


def test_a_violation_exits_with_1_and_shows_the_lines_that_prove_it() -> None:
    """Line numbers are those of the file."""
    told = check("register", lines_of("0 write 1 @x; 0 write 2 @x; 1 read @x -> 1"))

    assert told.exit_code == 1
    assert told.output.splitlines()[2:] == [
        "not_linearizable: x: read → 1 [4, 5] fits nowhere; an order of 2 operations is the longest. By then",
        "    it holds 2, after write 2 [2, 3]:",
        "      read → 1 [4, 5] cannot be next: it holds 2",
        '    line 3: 0.003000s 0 invoke "write" "x" 2',
        '    line 4: 0.004000s 0 ok "write" "x" 2',
        '    line 5: 0.005000s 1 invoke "read" "x"',
        '    line 6: 0.006000s 1 ok "read" "x" 1',
    ]


def test_json_says_the_same_in_one_line() -> None:
    """With the evidence."""
    told = check("register", lines_of("0 write 1; 1 read -> 2"), "--json")

    found = json.loads(told.output)
    assert told.exit_code == 1
    assert (found["model"], found["outcome"], found["operations"], found["events"]) == ("register", "violated", 2, 4)
    (violation,) = found["violations"]
    assert violation["broken"] == "not_linearizable"
    assert [each["line"] for each in violation["evidence"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "arguments",
    [["--model", "register", "/nowhere"], ["--model", "no-such-model", "-"], ["-"], ["--model", "register"]],
    ids=["no file", "no such model", "no model", "nothing to read"],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    """As click's own errors do."""
    assert CliRunner().invoke(cli.main, ["check", *arguments], input="").exit_code == 2


def test_what_is_no_history_exits_with_2_and_names_the_line() -> None:
    """On stderr: nothing on stdout could be taken for a verdict."""
    told = check("register", lines_of("0 write 1") + "{}\n")

    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr == "stdin: line 3: has no process\n"


def test_a_search_that_was_given_up_exits_with_3() -> None:
    """And says which bound it was."""
    lines = []
    for call in simulate(1, 300, cas_share=0):
        end = [] if call.returned is None else [(call.returned, "ok", call.operation.result)]
        lines += [
            (index, call, how, value) for index, how, value in [(call.invoked, "invoke", call.operation.value), *end]
        ]
    numbers = {id(call): number for number, call in enumerate(dict.fromkeys(call for _, call, _, _ in lines))}
    text = "".join(
        json.dumps({"process": numbers[id(call)], "type": how, "f": call.operation.f, "value": value}) + "\n"
        for _, call, how, value in sorted(lines, key=lambda line: line[0])
    )

    assert check("register", text).exit_code == 0
    told = check("register", text, "--configurations", "20")
    assert told.exit_code == 3
    assert told.output.splitlines()[-1] == "unknown:  (memory: more than 20 configurations)"
    assert check("register", text, "--seconds", "-1").exit_code in (0, 3)


def test_what_a_history_holds_cannot_move_the_cursor() -> None:
    """Keys and values are escaped."""
    told = check(
        "register",
        lines_of("0 read -> 7").replace("7", '"\\u001b[2J\\u009b2J"').replace('"f"', '"key": "\\u001b", "f"'),
    )

    assert told.exit_code == 1
    assert "\x1b" not in told.output and "\x9b" not in told.output and "\\x1b" in told.output


# --- the other models -----------------------------------------------------------------------------------------------


OTHERS = [
    ("set", "0 add 1; 1 read -> [1]", 0),
    ("set", "0 add 1; 1 read -> [1]; 1 read -> []; 2 read -> []", 1),
    ("set", "0 add 1", 3),
    ("set", "0 write 1", 3),
    ("counter", "0 add 1; 1 read -> 1", 0),
    ("counter", "0 add 1; 1 read -> 3", 1),
    ("counter", "0 add 1", 3),
    ("counter", "0 write 1", 2),
    ("sessions", "0 put 1; 0 get -> [1]", 0),
    ("sessions", "0 put 1; nemesis start; 0 get -> nil", 1),
    ("sessions", "0 put 1; 0 put 1", 2),
    ("causality", "0 put 1; 0 final -> [1]", 0),
    ("causality", "0 put 1; nemesis start; 0 final -> nil", 1),
    ("causality", "0 put 1", 3),
    ("causality", "0 cas 1 2", 2),
    ("staleness", "0 put 1; 0 get -> nil", 0),
    ("availability", "0 put 1; nemesis start-partition", 0),
]


@pytest.mark.parametrize(("model", "script", "code"), OTHERS)
def test_the_black_box_checkers_judge_foreign_histories_too(model: str, script: str, code: int) -> None:
    """As far as a history has what they need; one that proves nothing is unknown."""
    told = check(model, lines_of(script))

    assert told.exit_code == code, told.output


def test_evidence_counts_the_nemesis_events() -> None:
    """A violation points at the lines of the file, not at those that were left when the nemesis was taken out."""
    told = check("sessions", lines_of("nemesis start; 0 put 1; nemesis stop; 0 get -> nil"))

    assert [line.split(":")[0].strip() for line in told.output.splitlines()[3:]] == [
        "line 2",
        "line 3",
        "line 5",
        "line 6",
    ]


def test_availability_without_times_is_no_history_of_it() -> None:
    """The line is named."""
    with pytest.raises(HistoryError, match="line 1: has no time_ns"):
        judge_events(read_events(_Lines('{"process":0,"type":"invoke","f":"read"}\n')), "availability")


class _Lines:
    def __init__(self, text: str) -> None:
        self.lines = [line.encode() for line in text.splitlines(keepends=True)]

    def readline(self, _limit: int, /) -> bytes:
        return self.lines.pop(0) if self.lines else b""


def test_our_own_histories_are_judged_as_they_were_recorded() -> None:
    """Kinds that a line leaves out are known from what is done with the key."""
    text = tell(
        "0 put k A ok; 1 put k B [A] ok; 0 get k -> B; 0 add s 7 ok; 1 read s -> 7; final s -> 7; final k -> B"
    ).to_json_lines()

    assert {model: check(model, text).exit_code for model in ("causality", "sessions", "set", "staleness")} == {
        "causality": 0, "sessions": 0, "set": 0, "staleness": 0,
    }  # fmt: skip


def test_values_that_are_siblings_are_of_no_linearizable_model() -> None:
    """They are not silently one of them."""
    told = check("register", tell("0 put k A ok; 1 put k B ok; 0 get k -> A B").to_json_lines())

    assert told.exit_code == 2 and "line 6: 2 values were read at once" in told.stderr


def test_every_model_says_what_it_is() -> None:
    """In `jepsen-lite list`, and for any history it has an answer or an error."""
    for model, says in MODELS:
        assert says
        judge_events(events(""), model)


def test_replay_writes_its_history(tmp_path: Path) -> None:
    """Which `check` reads, and which is the one that was judged."""
    path = tmp_path / "history.jsonl"

    told = CliRunner().invoke(
        cli.main, ["replay", "--seed", "5", "--duration", "3", "--workload", "registers", "--history", str(path)]
    )

    assert told.exit_code == 0, told.output
    history = History.from_json_lines(path.read_text())
    assert f" {sum(1 for _ in history.pairs())} operations" in told.output
    assert check("causality", path.read_text()).exit_code == 0
