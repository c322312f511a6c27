"""Targets of what is kept: records with their merges and overwrites, IDENTITY, and the page of the witness."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash

from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, sync, sync_lww, update, update_lww
from kvstore.causality.version_vector import COUNTER_MAX, encode_vector, is_next_of_one
from kvstore.errors import ConfigError, Corruption, SuspectStore
from kvstore.ids import ActorId, HlcTimestamp, ObjectType, OperationId, StorageKey
from kvstore.storage.directory import IDENTITY_FILE, check_openable, read_node_id
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.overwrite import overwrite
from kvstore.storage.record import (
    RecordView,
    check_record,
    decode_record,
    encode_record,
    stored_vector,
    value_hash,
    view_record,
)
from kvstore.storage.witness_file import PAGE_SIZE_BYTES, _read
from tests.fuzz.engine import Target

__all__ = ["disk_targets", "seal"]

KEY = storage_key(object_name("default", ObjectType.REGISTER, b"k"))
ACTORS = tuple(ActorId(bytes((letter,)) * 20) for letter in b"abcd")
POOL_MAX = 40


def seal(record: bytes, key: StorageKey = KEY) -> bytes:
    """Return the record with the checksum that its body should have."""
    return xxhash.xxh3_64_digest(key + record[8:]) + record[8:]


def _put(state: DVVSet, actor: ActorId, number: int, value: bytes | None, *, sees: bool) -> DVVSet:
    new = Sibling(
        actor,
        state.vector.get(actor, 0) + 1,
        HlcTimestamp(number),
        HlcTimestamp(0),
        OperationId(number.to_bytes(16, "big")),
        value,
    )
    return update(state, state.vector if sees else {}, new, value_hash(value, 0))


def _states() -> list[DVVSet]:
    one = _put(EMPTY, ACTORS[0], 1, b"red", sees=False)
    two = _put(one, ACTORS[1], 2, b"blue", sees=False)
    long = two
    for number in range(3, 24):
        long = _put(long, ACTORS[number % 3], number, None if number % 5 == 0 else b"v" * number, sees=number % 3 != 0)
    replaced = _put(_put(one, ACTORS[0], 2, b"green", sees=True), ACTORS[2], 3, b"yellow", sees=True)
    return [one, two, _put(two, ACTORS[0], 3, None, sees=True), long, replaced]


class Reading(NamedTuple):
    """What the two readers of a record made of it; None where one refused it."""

    state: DVVSet | None
    view: RecordView | None


def _read_record(record: bytes) -> Reading:
    """Read as a replica does: nothing without its checksum; then each way may refuse with `Corruption`, and only so."""
    if len(record) < 8 or not check_record(KEY, record):
        decode_record(KEY, record)
        raise AssertionError("decoded without its checksum")
    refusals: list[Corruption] = []
    readings: list[Any] = []
    for read in (lambda: decode_record(KEY, record), lambda: view_record(record)):
        try:
            readings.append(read())
        except Corruption as refusal:
            readings.append(None)
            refusals.append(refusal)
    if len(refusals) == 2:
        raise refusals[0]
    return Reading(*readings)


class _RecordLaws:
    """Keeps some of the states that decoded, to merge the next ones with."""

    def __init__(self) -> None:
        self._pool: list[DVVSet] = _states()

    def check(self, record: bytes, reading: Reading, rng: random.Random) -> None:
        state, view = reading
        if view is not None:
            self._check_view(record, view, state, rng)
        if state is None:
            return
        assert view is not None, "decodes, but cannot be viewed"
        assert view.encoded_vector == stored_vector(record) == encode_vector(state.vector), "another vector"
        assert view.hlc_max == max((s.hlc for s in state.siblings), default=0), "another time"
        self._check_encoding(state)
        if state.vector and len(state.vector) < 1_000:
            self._check_merges(state, rng)

    def _check_encoding(self, state: DVVSet) -> None:
        again = encode_record(KEY, state)
        assert decode_record(KEY, again) == state, "another state came back"
        assert encode_record(KEY, decode_record(KEY, again)) == again, "not canonical"

    def _check_merges(self, state: DVVSet, rng: random.Random) -> None:
        other = rng.choice(self._pool)
        for merge in (sync, sync_lww):
            for merged in (merge(state, other), merge(other, state), merge(state, state)):
                record = encode_record(KEY, merged)
                again = decode_record(KEY, record)
                # Operations may gain one: a foreign record of two values may remember none, and then one value is left.
                assert again[:2] == merged[:2] and encode_record(KEY, again) == record, (
                    "a merge that cannot be read back"
                )
            assert merge(state, other).vector == merge(other, state).vector, "merges differ by their order"
        is_next_of_one(encode_vector(state.vector), encode_vector(other.vector))
        if len(self._pool) < POOL_MAX:
            self._pool.append(state)
        elif rng.random() < 0.05:
            self._pool[int(rng.random() * POOL_MAX)] = state

    def _check_view(self, record: bytes, view: RecordView, state: DVVSet | None, rng: random.Random) -> None:
        """Overwriting gives the record that the general way gives, or steps aside; it never raises."""
        actor, hlc = rng.choice(ACTORS), max(view.hlc_max + 1, 5)
        if hlc >= 1 << 64:
            return
        value, operation_id = b"new", OperationId(rng.randbytes(16))
        digest = value_hash(value, 0)
        made = overwrite(KEY, view, actor, hlc, 0, operation_id, value, digest)
        stored_vector(record), view.actor_of(0), view.actor_of(5)
        is_next_of_one(view.encoded_vector, rng.choice(_VECTORS))
        if made is None or state is None:
            return
        counter = state.vector.get(actor, 0) + 1
        assert counter <= COUNTER_MAX, "a counter that cannot be read back"
        new = Sibling(actor, counter, HlcTimestamp(hlc), HlcTimestamp(0), operation_id, value)
        general = update(state, state.vector, new, digest)
        assert made[1] == encode_vector(general.vector), "spliced another vector"
        if tuple(sorted(state.operations)) == state.operations and len(state.operations) == len(
            {operation.operation_id for operation in state.operations}
        ):
            assert made[0] == encode_record(KEY, general), "spliced another record"
        assert update_lww(state, new, digest)[0].vector == general.vector


_VECTORS = [encode_vector(state.vector) for state in _states()]


def _records() -> Target:
    seeds = [encode_record(KEY, state) for state in _states()]
    fields = msgpack.unpackb(seeds[0][8:])
    wide = b"".join(number.to_bytes(20, "big") + bytes(7) + b"\x01" for number in range(1, 65_536))
    bodies: list[bytes] = [
        b"\x91" * 60_000, b"\x9f" * (1 << 20), b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff" + b"\x90" * 65_535, b"", b"\x93\x01",
        msgpack.packb([1, wide, b""]), msgpack.packb([1, wide, b"", *[65_534, 1, 1, 0, bytes(16), b""] * 2]),
        msgpack.packb([*fields[:3], *fields[3:] * 10_000]), msgpack.packb([*fields[:8], bytes(3 << 20)]),
        b"\xdc\x00\x09" + seeds[0][9:],
    ]  # fmt: skip
    return Target("record", seeds, _read_record, (Corruption,), _RecordLaws().check, mend=seal, packed_from=8, weight=22,
                  bombs=[seal(bytes(8) + body) for body in bodies])  # fmt: skip


def _in_file(name: str, read: Callable[[Path], Any], directory: Path) -> Callable[[bytes], Any]:
    path = directory / name

    def decode(data: bytes) -> Any:
        path.write_bytes(data)
        return read(path)

    return decode


def _read_identity(path: Path) -> str:
    check_openable(path.parent)
    return read_node_id(path.parent)


def _page(text: bytes) -> bytes:
    words = b"".join(word.to_bytes(8, "little") for word in (7, 0, len(text)))
    return (b"kvwitns1" + words + text).ljust(PAGE_SIZE_BYTES, b"\0")


def disk_targets() -> list[Target]:
    """Return the targets of what is kept. (Files are written for each input, to memory where the system has a place for that.)"""
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    holder = tempfile.TemporaryDirectory(prefix="kvstore-fuzz-", dir=parent)
    identity, witness = Path(holder.name) / "identity", Path(holder.name) / "witness"
    identity.mkdir()
    witness.mkdir()
    decode_identity = _in_file(IDENTITY_FILE, _read_identity, identity)
    decode_page = _in_file("page", _read, witness)
    text = b'{"boot_id": "b", "store": "%s", "run": "00ff", "directory": "/d", "refused": ""}' % (b"a" * 16)

    def keep(data: bytes, decoded: Any, rng: random.Random) -> None:
        assert holder is not None, "the directory lives as long as its targets"

    return [
        _records(),
        Target("identity", [b'{"node_id": "6161616161616161", "created": "2024-01-01T00:00:00Z", "format_version": 1}\n'],
               decode_identity, (SuspectStore, ConfigError), keep, packed_from=None, weight=1,
               bombs=[b'{"node_id": "a", "format_version": 1e999}', b'{"node_id": "a", "format_version": ' + b"9" * 5_000 + b"}",
                      b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b"[]", b'{"node_id": "a", "format_version": 2}']),
        Target("witness", [_page(text)], decode_page, (), keep, packed_from=None, weight=1,
               bombs=[_page(b"[" * 8_000), _page(b'{"a":' * 1_600), _page(b"\xff"), _page(text.replace(b'"b"', b'"\\ud800"')),
                      b"kvwitns1".ljust(PAGE_SIZE_BYTES, b"\xff")]),
    ]  # fmt: skip
