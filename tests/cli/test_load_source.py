"""Reading records: formats, bad lines, and offsets that a resumed load can start from."""

from __future__ import annotations

import io

import pytest

from cluster.cli.load_source import Record, guess_format, read_records
from kvstore.errors import ConfigError

JSONL = b'{"id": 1, "name": "a"}\n\n{"id": "two"}\nnot json\n[1]\n{"id": null}\n{"id": "\xc3\xa9"}'
CSV = b'id,name\n1,plain\n2,"two\nlines, ""quoted"""\r\n3\n\n4,\xff\n5,last'


def records(raw: bytes, kind: str, offset: int = 0, line: int = 0) -> list[Record]:
    """Everything `read_records` finds."""
    return list(read_records(io.BytesIO(raw), kind, "id", offset=offset, line=line))


def test_json_lines_give_keys_values_and_problems() -> None:
    """A bad line is an item that says what is wrong with it; the rest goes on."""
    found = records(JSONL, "jsonl")

    assert [each.key for each in found] == ["1", "two", "", "", "", "é"]
    assert found[0].value == {"id": 1, "name": "a"}
    assert [each.problem is not None for each in found] == [False, False, True, True, True, False]
    assert [each.end_line for each in found] == [1, 3, 4, 5, 6, 7]


def test_csv_gives_maps_of_text() -> None:
    """The header names the fields; quoted line breaks belong to their record."""
    found = records(CSV, "csv")

    assert found[0].value == {"id": "1", "name": "plain"}
    assert found[1].value == {"id": "2", "name": 'two\nlines, "quoted"'}
    assert [each.problem for each in found[2:4]] == ["1 fields where the header has 2", "not UTF-8"]
    assert found[4].key == "5"


@pytest.mark.parametrize(("raw", "kind"), [(JSONL, "jsonl"), (CSV, "csv")])
def test_reading_from_any_offset_gives_the_rest(raw: bytes, kind: str) -> None:
    """The offset a record ends at is where the next one starts, also after quoted line breaks."""
    whole = records(raw, kind)

    for index, record in enumerate(whole):
        assert records(raw, kind, record.end_offset, record.end_line) == whole[index + 1 :]


def test_a_csv_header_without_the_key_is_an_error() -> None:
    """Every record would fail: say it once, with the fields there are."""
    with pytest.raises(ConfigError, match="it has a, b"):
        records(b"a,b\n1,2\n", "csv")


def test_an_empty_file_has_no_records() -> None:
    """Nothing to do is not an error."""
    assert records(b"", "csv") == records(b"", "jsonl") == []


def test_byte_order_marks_are_not_data() -> None:
    """Spreadsheets write them."""
    assert records(b"\xef\xbb\xbfid\n7\n", "csv")[0].key == "7"
    assert records(b'\xef\xbb\xbf{"id": 7}\n', "jsonl")[0].key == "7"


@pytest.mark.parametrize(("name", "kind"), [("a.jsonl", "jsonl"), ("A.NDJSON", "jsonl"), ("b.c.csv", "csv")])
def test_format_comes_from_the_name(name: str, kind: str) -> None:
    """Known suffixes, in any case."""
    assert guess_format(name) == kind


def test_an_unknown_suffix_asks_for_the_format() -> None:
    """Guessing wrong would load nonsense."""
    with pytest.raises(ConfigError, match="--format"):
        guess_format("data.txt")
