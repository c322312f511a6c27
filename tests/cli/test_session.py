"""What all commands share: addresses, durations, values for people and machines, exit codes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cluster.cli.kvctl import main
from cluster.cli.session import Session, client_url, jsonable, parse_duration_s, show_text
from kvstore.errors import ConditionFailed, InvalidArgument, KVStoreError, NotFound, Siblings, Timeout, Unavailable


@pytest.mark.parametrize(
    ("node", "timeout_s", "url"),
    [
        ("127.0.0.1:7400", None, "kv://127.0.0.1:7400"),
        ("a:1,b:2", 0.5, "kv://a:1,b:2/?timeout=500ms"),
        ("kv://a:1/?r=2", 2.0, "kv://a:1/?r=2&timeout=2000ms"),
        ("kv://a:1/?timeout=9s&r=2", 2.0, "kv://a:1/?r=2&timeout=2000ms"),
    ],
)
def test_node_and_timeout_become_a_client_url(node: str, timeout_s: float | None, url: str) -> None:
    """--timeout wins over the one in the URL."""
    assert client_url(node, timeout_s) == url


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("2s", 2), ("1.5", 1.5), ("10m", 600), ("7d", 604_800)])
def test_durations(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "0", "-1s", "5 weeks", "inf", "nan"])
def test_what_is_not_a_duration(text: str) -> None:
    """Zero is none either: it would mean "at once" to one reader and "never" to another."""
    with pytest.raises(InvalidArgument):
        parse_duration_s(text)


def test_values_for_people_and_machines() -> None:
    """Text is bare; bytes that are text are shown as text; everything else is JSON."""
    assert show_text("red") == "red"
    assert show_text(b"red") == "red"
    assert show_text({"a": [1, None, "é"]}) == '{"a": [1, null, "é"]}'
    assert jsonable({b"k": b"\xff\x00"}) == {"k": {"base64": "/wA="}}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x"), 2), (NotFound("x"), 3), (Unavailable("x"), 4), (Timeout("x"), 5), (ConditionFailed("x"), 6),
        (Siblings("x", count=2), 7), (KVStoreError("x"), 1),
    ],
)  # fmt: skip
def test_errors_become_exit_codes_and_one_line(
    error: KVStoreError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts branch on the code; with -o json the document says whether it may have been applied."""

    def work() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        Session("kv://a:1", "json").finish(work)

    out = capsys.readouterr()
    assert caught.value.code == code
    assert out.err.startswith("kvctl: x") and out.err.count("\n") == 1
    assert json.loads(out.out)["error"]["definite"] == error.definite


@pytest.mark.parametrize(
    "arguments",
    [
        ["--timeout", "soon", "get", "k"],
        ["get", "k", "-r", "many"],
        ["put", "k", "v", "-w", "101"],
        ["resolve", "k", "--pick", "0"],
        ["load", "f.csv"],
        ["bench", "--workload", "z"],
        ["frobnicate"],
    ],
)
def test_mistyped_commands_are_usage_errors(arguments: list[str]) -> None:
    """Exit code 2, before anything is asked of a cluster."""
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_workload_e_is_refused_before_anything_happens() -> None:
    """Scans are not in this version."""
    result = CliRunner().invoke(main, ["bench", "--workload", "e"])

    assert result.exit_code == 2
    assert "no scan" in result.output
