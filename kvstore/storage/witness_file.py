"""`Witness` of a real node: a small file on tmpfs for each data directory, mapped into memory.

    <run directory>/<hash of the data directory>      8 KiB, mode 0600; the run directory is ours, nobody else writes there

       0  "kvwitns1"
       8  sequence          64 bits, native order (it cannot leave the machine): a store to memory, no system call
      16  suspect           64 bits, 0 or 1
      24  length of JSON    64 bits
      32  JSON              boot_id, store (node id), run, directory, refused

SIGKILL leaves mapped tmpfs as it was, a reboot takes it. The kernel's boot id is in it too, so that a run directory
on a real disk proves nothing after a reboot. It must not lie on a volume that could be rolled back together with the data.

A file whose data directory is gone, or of another boot, is removed when any node begins. One that accuses or refuses its
directory stays until the reboot: its volume may only be unmounted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

from kvstore.storage.witness import Statement

__all__ = ["FileWitness", "default_run_directory"]

PAGE_SIZE_BYTES = 8192
_MAGIC = b"kvwitns1"
_SEQUENCE, _SUSPECT, _LENGTH, _TEXT_OFFSET = 1, 2, 3, 32
"""Words of 8 bytes, and where the JSON begins."""
_REFUSED_SIZE_MAX = 512
"""A longer reason is cut: the page also holds the path of the directory."""
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_EMPTY_WORDS = bytes(_TEXT_OFFSET)


def default_run_directory() -> Path:
    """Return where witnesses live unless told otherwise: shared memory, which every Linux has and no reboot keeps."""
    return Path(f"/dev/shm/kvnode-{os.geteuid()}")


class FileWitness:
    """The witness of one data directory. `run_directory` None: there is none."""

    def __init__(self, run_directory: Path | None, data_directory: Path) -> None:
        self._run_directory = run_directory
        self._data_directory = os.fspath(data_directory.resolve())
        name = hashlib.blake2b(self._data_directory.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        self._path = run_directory / name if run_directory is not None else None
        self._page: mmap.mmap | None = None
        self._words = memoryview(bytearray(_EMPTY_WORDS)).cast("Q")
        self._statement: Statement | None = None

    def recall(self) -> Statement | None:
        if self._path is None or self._run_directory is None or _unfit(self._run_directory):
            return None
        found = _read(self._path)
        return found[0] if found is not None and found[1] == self._data_directory else None

    def begin(self, statement: Statement) -> str:
        directory, path = self._run_directory, self._path
        if directory is None or path is None:
            return "no run directory is set"
        if statement.boot_id == "":
            return "this kernel does not tell its boots apart"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if reason := _unfit(directory):
                return reason
            _prune(directory, statement.boot_id)
            self._page = _make(path, self._encoded(statement))
        except OSError as error:
            return f"{directory} cannot be used: {error.strerror}"
        except ValueError as error:
            return str(error)
        self._words = memoryview(self._page)[:_TEXT_OFFSET].cast("Q")
        self._statement = statement
        return ""

    def applied(self, sequence: int) -> None:
        self._words[_SEQUENCE] = sequence

    def accuse(self) -> None:
        self._words[_SUSPECT] = 1
        if self._page is None and self._path is not None:  # the store failed while it opened: the page of its last run
            with contextlib.suppress(OSError):
                descriptor = os.open(self._path, os.O_WRONLY | _FLAGS)
                try:
                    os.pwrite(descriptor, (1).to_bytes(8, sys.byteorder), 8 * _SUSPECT)
                finally:
                    os.close(descriptor)

    def refuse(self, refused: bytes) -> bool:
        if self._page is None or self._statement is None:
            return False
        statement = replace(self._statement, refused=refused[:_REFUSED_SIZE_MAX])
        try:
            page = self._encoded(statement)
        except ValueError:
            return False
        # The words before belong to the run, and to the thread that syncs.
        self._page[8 * _LENGTH :] = page[8 * _LENGTH :]
        self._statement = statement
        return True

    def end(self) -> None:
        if self._page is None or self._path is None or self._statement is None or self._statement.refused:
            return
        with contextlib.suppress(OSError):  # then it stays, and what it says is true
            self._path.unlink()

    def close(self) -> None:
        """Let go of the page, which stays. Idempotent; what is told afterwards goes nowhere."""
        page, self._page = self._page, None
        words, self._words = self._words, memoryview(bytearray(_EMPTY_WORDS)).cast("Q")
        words.release()
        if page is not None:
            page.close()

    def _encoded(self, statement: Statement) -> bytes:
        fields = {
            "boot_id": statement.boot_id, "store": statement.store, "run": statement.run.hex(),
            "directory": self._data_directory, "refused": statement.refused.decode("utf-8", "replace"),
        }  # fmt: skip
        text = json.dumps(fields).encode()
        if _TEXT_OFFSET + len(text) > PAGE_SIZE_BYTES:
            raise ValueError(f"the path of {self._data_directory} is too long to be remembered")
        page = bytearray(PAGE_SIZE_BYTES)
        words = memoryview(page)[:_TEXT_OFFSET].cast("Q")
        words[_SEQUENCE], words[_SUSPECT], words[_LENGTH] = statement.sequence, statement.is_suspect, len(text)
        page[: len(_MAGIC)] = _MAGIC
        page[_TEXT_OFFSET : _TEXT_OFFSET + len(text)] = text
        return bytes(page)


def _unfit(directory: Path) -> str:
    """Return why this directory cannot be trusted: in a place like /dev/shm anybody can make one of any name."""
    try:
        status = directory.lstat()
    except OSError as error:
        return f"{directory} cannot be used: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        return f"{directory} is not a directory that only this user can write to"
    return ""


def _make(path: Path, content: bytes) -> mmap.mmap:
    """Write a page in one step, with all of its memory taken now (a mapped page that cannot be had kills the process)."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600)
    try:
        if os.pwrite(descriptor, content, 0) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        page = mmap.mmap(descriptor, len(content))
    finally:
        os.close(descriptor)
    draft.replace(path)
    return page


def _read(path: Path) -> tuple[Statement, str] | None:
    """Return what a page says and of which data directory, None if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            page = os.pread(descriptor, PAGE_SIZE_BYTES, 0)
        finally:
            os.close(descriptor)
        if len(page) != PAGE_SIZE_BYTES or page[: len(_MAGIC)] != _MAGIC:
            return None
        words = memoryview(page)[:_TEXT_OFFSET].cast("Q")
        fields = json.loads(page[_TEXT_OFFSET : _TEXT_OFFSET + words[_LENGTH]])
        statement = Statement(
            str(fields["boot_id"]), str(fields["store"]), bytes.fromhex(fields["run"]), words[_SEQUENCE],
            bool(words[_SUSPECT]), str(fields["refused"]).encode(),
        )  # fmt: skip
        return statement, str(fields["directory"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _prune(directory: Path, boot_id: str) -> None:
    """Remove what no start can need: killed nodes of tests and demos leave nothing for long."""
    for path in sorted(directory.iterdir()):
        found = _read(path)
        if found is None:
            continue
        statement, data_directory = found
        is_needed = statement.is_suspect or statement.refused != b"" or os.path.exists(data_directory)
        if statement.boot_id != boot_id or not is_needed:
            path.unlink(missing_ok=True)
