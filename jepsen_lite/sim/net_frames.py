"""What the network may do to single frames: deliver one twice, or flip a bit of it.

Duplication stands for a sender that repeats a request it already sent. TCP itself never does that, so it must stay
within what a repeated request can mean: HELLO (a second one is a protocol error), replies, and anything that belongs to a
body in chunks (a second last chunk would be a body without its beginning) are never doubled.

What it does break is "definite": a copy may be accepted after its original was refused and its asker was told so. A judge
of a run with copies must count definite failures as indefinite (`NetworkSwarm.doubles_requests`).
"""

from __future__ import annotations

import random

from kvstore.errors import DecodeError
from kvstore.limits import CHUNK_SIZE_BYTES_MAX
from kvstore.messages import Verb
from kvstore.transport.frames import REQUEST_FIRST, REQUEST_STRIDE, FrameKind, decode_frame

__all__ = ["ChunkMemory", "flip_bit", "is_readable"]


class ChunkMemory:
    """Remembers, for one direction of one connection, which operations came in chunks."""

    def __init__(self) -> None:
        self._chunked: set[int] = set()  # only asked for membership

    def note(self, frame: bytes) -> None:
        """See a frame before it is sent. Only large frames are decoded: a chunk is never smaller than its bound."""
        if len(frame) > CHUNK_SIZE_BYTES_MAX:
            ids, verbs = _requests(frame)
            self._chunked.update(number for number, verb in zip(ids, verbs, strict=True) if verb == Verb.PART)

    def may_repeat(self, frame: bytes) -> bool:
        """Return whether a noted frame holds whole requests and nothing else."""
        ids, _ = _requests(frame)
        return bool(ids) and self._chunked.isdisjoint(ids)


def _requests(frame: bytes) -> tuple[list[int], list[int]]:
    """Return ids and verbs of a frame of requests; of any other, nothing."""
    try:
        fields = decode_frame(frame)
    except DecodeError:
        return [], []
    if fields[0] != FrameKind.REQUESTS:
        return [], []
    return fields[REQUEST_FIRST::REQUEST_STRIDE], fields[REQUEST_FIRST + 1 :: REQUEST_STRIDE]


def flip_bit(frame: bytes, rng: random.Random) -> bytes:
    """Return the frame with one bit changed; an empty one becomes one byte."""
    if not frame:
        return b"\xff"
    bit = rng.randrange(8 * len(frame))
    damaged = bytearray(frame)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def is_readable(frame: bytes) -> bool:
    """Return whether the decoder would take the frame for a good one."""
    try:
        decode_frame(frame)
    except DecodeError:
        return False
    return True
