"""Records of a file, each with the byte offset it ends at: JSON lines or CSV, from the start or from an offset.

Invariants
  1. `end_offset` is exact for CSV with quoted line breaks too: the reader is fed line by line and lines are counted.
  2. A bad record is an item with `problem`, not an exception: one bad line does not end a load.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from kvstore.errors import ConfigError

__all__ = ["Record", "guess_format", "read_records"]

LINE_SIZE_BYTES_MAX = 8 * 1024 * 1024
"""A longer line is a file that is not lines at all; reading it whole would take the memory of the machine."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the input; exactly one of `value` and `problem` is meaningful."""

    end_offset: int
    end_line: int
    key: str
    value: Any
    problem: str | None = None


def guess_format(name: str) -> str:
    """Return `jsonl` or `csv` from a file name."""
    suffix = name.rpartition(".")[2].lower()
    if suffix in ("jsonl", "ndjson"):
        return "jsonl"
    if suffix == "csv":
        return "csv"
    raise ConfigError(f"cannot tell the format of {name!r} from its name: pass --format jsonl or --format csv")


def read_records(file: BinaryIO, kind: str, key_field: str, *, offset: int = 0, line: int = 0) -> Iterator[Record]:
    """Yield the records from `offset` on (0: the start; a CSV header is read from the start in any case)."""
    lines = _Lines(file)
    if kind == "csv":
        return _csv_records(lines, key_field, offset, line)
    lines.go_to(offset, line)
    return _json_records(lines, key_field)


class _Lines:
    """Iterates text lines and knows where it is in the bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0
        self.line = 0

    def go_to(self, offset: int, line: int) -> None:
        if offset > self.offset:
            self._file.seek(offset)
            self.offset, self.line = offset, line

    def __iter__(self) -> Iterator[bytes]:
        while raw := self._file.readline(LINE_SIZE_BYTES_MAX + 1):
            if len(raw) > LINE_SIZE_BYTES_MAX:
                raise ConfigError(f"line {self.line + 1} is longer than {LINE_SIZE_BYTES_MAX} bytes")
            self.offset += len(raw)
            self.line += 1
            yield raw


def _json_records(lines: _Lines, key_field: str) -> Iterator[Record]:
    for raw in lines:
        if not raw.strip():
            continue
        try:
            yield _keyed(lines, json.loads(raw), key_field)
        except ValueError as problem:
            yield Record(lines.offset, lines.line, "", None, f"not JSON in UTF-8: {problem}")


def _csv_records(lines: _Lines, key_field: str, offset: int, line: int) -> Iterator[Record]:
    header = next(csv.reader(_text(lines)), None)
    if header is None:
        return
    if key_field not in header:
        raise ConfigError(f"the CSV header has no field {key_field!r}: it has {', '.join(header)}")
    lines.go_to(offset, line)
    rows = csv.reader(_text(lines))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as problem:
            yield Record(lines.offset, lines.line, "", None, f"not CSV: {problem}")
            continue
        if not row:
            continue
        if len(row) != len(header):
            yield Record(lines.offset, lines.line, "", None, f"{len(row)} fields where the header has {len(header)}")
        elif not "".join(row).isprintable() and _has_surrogates(row):
            yield Record(lines.offset, lines.line, "", None, "not UTF-8")
        else:
            yield _keyed(lines, dict(zip(header, row, strict=True)), key_field)


def _has_surrogates(row: list[str]) -> bool:
    return any("\ud800" <= character <= "\udfff" for field in row for character in field)


def _text(lines: Iterable[bytes]) -> Iterator[str]:
    for number, raw in enumerate(lines):
        yield raw.decode("utf-8-sig" if number == 0 else "utf-8", errors="surrogateescape")


def _keyed(lines: _Lines, value: Any, key_field: str) -> Record:
    key = value.get(key_field) if isinstance(value, dict) else None
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        return Record(lines.offset, lines.line, "", value, f"no usable field {key_field!r} (text or a whole number)")
    return Record(lines.offset, lines.line, str(key), value)
