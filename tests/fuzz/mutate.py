"""Mutations: how a well-formed input becomes one that is almost right, which is where decoders break.

    seed ──► a few of: bytes changed, cut, repeated, spliced with another input │ a field of its msgpack changed, or its header

Inputs of nothing but noise are refused at their first byte, so every input starts from one that was once accepted or that was
refused in a new way. Pure: all chance comes from the `rng` argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

__all__ = ["mutate"]

STEPS_MAX = 4
SIZE_BYTES_MAX = 64 * 1024
"""Of what mutation makes; the few inputs that have to be large are written down by each target (`Target.bombs`)."""
EDGE_BYTES = bytes((0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x91, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC4, 0xC6, 0xC7, 0xCA, 0xCB, 0xCF,
                    0xD3, 0xD6, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF, 0xE0, 0xFF))  # fmt: skip
"""First bytes of every kind of msgpack, and the ends of their ranges."""
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
EDGE_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 103, 127, 128, 255, 65_535, 65_536, (1 << 31) - 1, 1 << 32, 1 << 45, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, -(1 << 63), 1.0, float("nan"), float("inf"), "", "a", "ä" * 70, "\x00\n", b"", b"x", bytes(8), bytes(16),
    bytes(20), bytes(28), b"\xff" * 28, bytes(29), bytes(42), b"\xff" * 56, [], [[]], [1, b"x"], {}, {"a": 1},
    {"message": 1, "self": 2}, DEEP,
)  # fmt: skip
Step = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes], *, packed_from: int | None) -> bytes:
    """Return a mutant of `data`. `packed_from`: where its msgpack begins, None if it is none."""
    for _ in range(1 + int(rng.random() ** 3 * STEPS_MAX)):
        if packed_from is not None and rng.random() < 0.4:
            data = data[:packed_from] + _with_other_field(rng, data[packed_from:])
        else:
            data = rng.choice(_STEPS)(rng, data, others)
    return data[:SIZE_BYTES_MAX]


def _position(rng: random.Random, data: bytes) -> int:
    return int(rng.random() * (len(data) + 1))


def _replaced(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[:at] + bytes((rng.choice(EDGE_BYTES),)) + data[at + 1 :]


def _flipped(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x00"
    at = int(rng.random() * len(data))
    return data[:at] + bytes((data[at] ^ (1 << int(rng.random() * 8)),)) + data[at + 1 :]


def _inserted(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[:at] + rng.randbytes(1 + int(rng.random() * 4)) + data[at:]


def _cut(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: _position(rng, data)]


def _removed(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[:at] + data[at + 1 + int(rng.random() * 8) :]


def _repeated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    first, second = sorted((_position(rng, data), _position(rng, data)))
    return data[:second] + data[first:second] * (1 + int(rng.random() * 3)) + data[second:]


def _spliced(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: _position(rng, data)] + other[_position(rng, other) :]


_STEPS: tuple[Step, ...] = (_replaced, _replaced, _flipped, _flipped, _inserted, _cut, _removed, _repeated, _spliced)


def _with_other_field(rng: random.Random, packed: bytes) -> bytes:
    """Return the same msgpack with one value of it, at any depth, replaced, removed or repeated; or the bytes as they are."""
    try:
        tree = msgpack.unpackb(packed, strict_map_key=False)
        if type(tree) is list and tree:
            _change(rng, tree)
        return _packed(rng, tree)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return packed


def _change(rng: random.Random, fields: list[Any]) -> None:
    at = int(rng.random() * len(fields))
    if type(fields[at]) is list and fields[at] and rng.random() < 0.7:
        _change(rng, fields[at])
        return
    choice = rng.random()
    if choice < 0.6:
        fields[at] = rng.choice(EDGE_VALUES)
    elif choice < 0.75:
        fields[at] = fields[int(rng.random() * len(fields))]
    elif choice < 0.85:
        del fields[at]
    else:
        fields[at:at] = fields[at : at + 1 + int(rng.random() * 6)]


def _packed(rng: random.Random, tree: Any) -> bytes:
    packed: bytes = msgpack.packb(tree)
    if type(tree) is list and rng.random() < 0.1:  # the same with a header that is longer than it needs to be
        header_size = 1 if len(tree) < 16 else 3 if len(tree) < 65_536 else 5
        return b"\xdd" + len(tree).to_bytes(4, "big") + packed[header_size:]
    return packed
