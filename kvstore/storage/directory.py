"""The data directory of a real node: who it belongs to, and whether it may be opened.

    IDENTITY    JSON: node id (hex), creation time, format version. For people, and its inode tells a copy from the original
    SUSPECT     text, only after a failed write to disk: the directory never opens again
    db/         RocksDB's

Invariant: what is written here is durable, name included, when the call returns.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from kvstore.errors import ConfigError, StorageError, SuspectStore

__all__ = [
    "DATABASE_DIRECTORY", "FORMAT_VERSION", "IDENTITY_FILE", "REPLACE_HINT", "SUSPECT_FILE", "check_openable",
    "identity_inode", "make_directory", "mark_suspect", "read_boot_id", "read_node_id", "write_identity",
]  # fmt: skip

FORMAT_VERSION = 1
SUSPECT_FILE = "SUSPECT"
IDENTITY_FILE = "IDENTITY"
DATABASE_DIRECTORY = "db"
REPLACE_HINT = (
    "do not start this directory again: start a new node with an empty --data directory and remove this one from the "
    "cluster (`kvnode --replace` comes in a later version)"
)


def make_directory(directory: Path) -> None:
    """Create the directory unless it is there; `ConfigError` if that is impossible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot use {directory} as data directory: {error.strerror}") from error


def check_openable(directory: Path) -> None:
    """Raise `SuspectStore` if the store is marked or unreadable, `ConfigError` if another version made it."""
    marker = directory / SUSPECT_FILE
    if marker.exists():
        raise SuspectStore(f"{directory} had a failed write to disk (see {marker}): {REPLACE_HINT}")
    if (directory / IDENTITY_FILE).exists():
        version = _read_identity(directory)["format_version"]
        if version != FORMAT_VERSION:
            raise ConfigError(f"{directory} has another format version", found=version, supported=FORMAT_VERSION)


def mark_suspect(directory: Path, reason: str) -> None:
    """Make sure the store never opens again. May raise OSError: the disk is failing."""
    _write_synced(directory / SUSPECT_FILE, f"{reason}\n{REPLACE_HINT}\n")


def read_node_id(directory: Path) -> str:
    """Return the node id in IDENTITY, as hex; `SuspectStore` if it is unreadable."""
    return str(_read_identity(directory)["node_id"])


def _read_identity(directory: Path) -> dict[str, str | int]:
    try:
        fields = json.loads((directory / IDENTITY_FILE).read_text("utf-8"))
        return {"node_id": str(fields["node_id"]), "format_version": int(fields["format_version"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise SuspectStore(f"{directory / IDENTITY_FILE} is unreadable ({error}): {REPLACE_HINT}") from error


def write_identity(directory: Path, node_id: bytes) -> None:
    """Write IDENTITY in one step: whoever reads it finds the old or the new one."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    fields = {"node_id": node_id.hex(), "created": created, "format_version": FORMAT_VERSION}
    draft = directory / (IDENTITY_FILE + ".new")
    try:
        _write_synced(draft, json.dumps(fields) + "\n")
        draft.replace(directory / IDENTITY_FILE)
        _sync_directory(directory)
    except OSError as error:
        raise StorageError(f"cannot write {directory / IDENTITY_FILE}: {error.strerror}") from error


def identity_inode(directory: Path) -> bytes | None:
    """Return what tells this IDENTITY file from a copy of it."""
    try:
        status = (directory / IDENTITY_FILE).stat()
    except FileNotFoundError:
        return None
    return b"%d:%d" % (status.st_dev, status.st_ino)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_boot_id() -> str:
    """Return the kernel's boot id, or "" where there is none: then no start is taken for the same boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
