"""One example of everything whose bytes outlive a build, with how it is encoded and decoded; the bytes are in the *.hex files.

    python -m tests.golden            compare today's encoders with the files, and say what differs
    python -m tests.golden --rewrite  write the files anew: for a change of a format that docs/formats.md describes

Values are built by the product's public functions, so that a field with a default can be added without touching this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvstore import groups
from kvstore.causality.context import decode_context, decode_history, encode_context, encode_history
from kvstore.causality.dvvset import EMPTY, DVVSet, Sibling, update
from kvstore.causality.version_vector import encode_vector
from kvstore.client.session_state import SessionState
from kvstore.errors import Overloaded, error_from_wire, error_to_wire
from kvstore.ids import ActorId, ClusterId, HlcTimestamp, NodeId, ObjectType, OperationId, StorageKey
from kvstore.messages import (
    DeleteBody,
    GetRequest,
    PutReply,
    PutRequest,
    asking_history,
    decode_delete,
    decode_get,
    decode_get_reply,
    decode_put,
    decode_put_reply,
    encode_body,
    encode_get_reply,
    in_session,
)
from kvstore.ring import BucketProperties, Member, begin_move, finish_move, flip_move, found, with_bucket
from kvstore.ring.topology_codec import decode as decode_topology
from kvstore.ring.topology_codec import encode as encode_topology
from kvstore.storage.keyspace import object_name, parse_name, storage_key
from kvstore.storage.record import decode_record, encode_record, value_hash
from kvstore.transport.envelope import unwrap, wrap
from kvstore.transport.frames import Hello, decode_frame, encode_frame, hello_fields, hello_from

__all__ = ["DIRECTORY", "Example", "examples", "read_golden", "rewrite"]

DIRECTORY = Path(__file__).parent
LINE_LENGTH = 100
KEY = storage_key(object_name("default", ObjectType.REGISTER, b"key"))
ACTORS = [ActorId(node + bytes((0, 0, 0, 7)) + b"epoch--1") for node in (b"node-one", b"node-two")]
NOW = 0x018BCFE568000000
OPERATION = b"operation-id-16b"


@dataclass(frozen=True, slots=True)
class Example:
    """A value with its encoder and decoder. `format` names the file."""

    format: str
    name: str
    value: Any
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def examples() -> list[Example]:
    """Return every example, in the order of the files."""
    return [*_records(), *_frames(), *_bodies(), *_contexts(), *_sessions(), *_topologies(), *_names()]


def _put(
    state: DVVSet, actor: ActorId, number: int, value: bytes | None, *, sees: bool = False, ttl: int = 0
) -> DVVSet:
    operation_id = OperationId(number.to_bytes(8, "big") + b"client-1")
    expires = HlcTimestamp(NOW + ttl if ttl else 0)
    new = Sibling(actor, state.vector.get(actor, 0) + 1, HlcTimestamp(NOW + number), expires, operation_id, value)
    return update(state, state.vector if sees else {}, new, value_hash(value, expires))


def _records() -> list[Example]:
    one = _put(EMPTY, ACTORS[0], 1, b"red")
    siblings = _put(_put(one, ACTORS[1], 2, b"blue", ttl=9 << 16), ACTORS[0], 3, None)
    overwritten = one
    for number in range(2, 20):
        overwritten = _put(overwritten, ACTORS[number % 2], number, b"value %d" % number, sees=True)
    states = {"one value": one, "siblings, a tombstone, an expiry": siblings, "sixteen operations": overwritten}

    def encode(state: DVVSet) -> bytes:
        return encode_record(KEY, state)

    def decode(record: bytes) -> DVVSet:
        return decode_record(StorageKey(KEY), record)

    return [Example("record", name, state, encode, decode) for name, state in states.items()]


def _frames() -> list[Example]:
    hello = Hello(1, 1, b"c" * 16, b"n" * 8, 5, 0xFEDCBA9876543210, 7, "127.0.0.1:7400", "zstd")
    frames = {
        "hello": hello_fields(hello), "hello of a client": hello_fields(Hello(protocol_min=1, protocol_max=1)),
        "requests": [1, 5_000, 10, 2, 3, 900, b"key", b"body", 11, 40, 0, 100, b"", b""],
        "replies": [2, 7, 10, 0, b"body", 11, 3, error_to_wire(Overloaded("full", retry_after_s=0.5))],
        "refused": [3, error_to_wire(Overloaded("full", retry_after_s=0.5))],
    }  # fmt: skip
    return [
        *[Example("frame", name, fields, encode_frame, decode_frame) for name, fields in frames.items()],
        Example("frame", "hello, read", hello, lambda each: encode_frame(hello_fields(each)),
                lambda data: hello_from(decode_frame(data))),
        Example("frame", "envelope", b"f" * 200, wrap, unwrap),
    ]  # fmt: skip


def _bodies() -> list[Example]:
    put = PutRequest(OPERATION, b"value", b"context", 60_000, None, 2, 101)
    delete = DeleteBody(OPERATION, b"context", 2, None, None)
    reply = PutReply(2, 2, 3, 2, 1, 1, False, b"context")
    read = [b"context", 2, 3, 2, [ACTORS[0], 3, NOW, 0, b"value"]]
    error = Overloaded("full", retry_after_s=0.5)
    return [
        Example("body", "put", put, lambda each: encode_body(list(each[:7])), decode_put),
        Example("body", "put of a session", put._replace(tells_history=True),
                lambda each: asking_history(encode_body(list(each[:7]))), decode_put),
        Example("body", "delete", PutRequest(OPERATION, None, b"context", 0, 2, None, None),
                lambda _: encode_body(list(delete[:5])), decode_delete),
        Example("body", "get", GetRequest(2, 101), lambda each: encode_body(list(each[:2])), decode_get),
        Example("body", "get of a session", GetRequest(2, 101, b"history"),
                lambda each: in_session(encode_body(list(each[:2])), b"history"), decode_get),
        Example("body", "put reply", reply, lambda each: encode_body(list(each)), decode_put_reply),
        Example("body", "get reply", read, lambda each: encode_get_reply(*each), _plain_get_reply),
        Example("body", "error", [error.code, error.message, error.details], lambda _: error_to_wire(error), _plain_error),
        Example("body", "group of writes", [(1, KEY, b"record")], groups.encode_writes, groups.decode_writes),
        Example("body", "group of reads", [(1, KEY), (2, KEY)], groups.encode_fetches, groups.decode_fetches),
    ]  # fmt: skip


def _plain_get_reply(body: bytes) -> list[Any]:
    context, replied, n, primaries_replied, siblings = decode_get_reply(body)
    return [context, replied, n, primaries_replied, [part for sibling in siblings for part in sibling]]


def _plain_error(body: bytes) -> list[Any]:
    error = error_from_wire(body)
    return [error.code, error.message, error.details]


def _contexts() -> list[Example]:
    def encode(parts: tuple[dict[ActorId, int], int]) -> bytes:
        return encode_context(KEY[:8], parts[1], encode_vector(parts[0]))

    def decode(context: bytes) -> tuple[dict[ActorId, int], int]:
        return decode_context(context, KEY[:8])

    both = (dict(zip(ACTORS, (3, 1), strict=True)), NOW + 1)
    return [
        Example("context", "of nothing", ({}, 0), encode, decode),
        Example("context", "of two actors", both, encode, decode),
        Example(
            "context",
            "that only reads take",
            both[0],
            lambda vector: encode_history(KEY[:8], encode_vector(vector)),
            lambda context: decode_history(context, KEY[:8]),
        ),
    ]


def _sessions() -> list[Example]:
    state = SessionState()
    state.bind(b"c" * 16)
    state.note(KEY[:8], encode_history(KEY[:8], encode_vector(dict(zip(ACTORS, (3, 1), strict=True)))))

    def decode(token: bytes) -> bytes:
        return SessionState.decode(token).encode()

    return [Example("session", "of one object", state.encode(), lambda token: token, decode)]


def _topologies() -> list[Example]:
    one, two = NodeId(b"node-one"), NodeId(b"node-two")
    founded = found(ClusterId(b"cluster-id-16-by"), "dev", Member(one, "127.0.0.1:7400", "zone a", 2), partition_bits=1)
    bucketed = with_bucket(founded, BucketProperties("carts", ObjectType.LWW, r=1, w=2, ttl_ms=9))
    joining = begin_move(bucketed, Member(two, "127.0.0.1:7401"), [(two, one), (one, two)])
    documents = {"founded": founded, "with a bucket": bucketed, "joining": joining, "joined": finish_move(flip_move(joining)),
                 "settling": flip_move(joining)}  # fmt: skip
    return [Example("topology", name, each, encode_topology, decode_topology) for name, each in documents.items()]


def _names() -> list[Example]:
    names = {
        "register": ("default", ObjectType.REGISTER, b"key"),
        "lww with zeros": ("b", ObjectType.LWW, b"a\x00\xffb"),
    }
    return [
        Example(
            "name", name, parts, lambda each: storage_key(object_name(*each)), lambda key: tuple(parse_name(key[8:]))
        )
        for name, parts in names.items()
    ]


# --- the files --------------------------------------------------------------------------------------------------------


def read_golden(name: str) -> dict[str, bytes]:
    """Return what a file holds, by the names of its examples."""
    found_in_file: dict[str, bytes] = {}
    current = ""
    for line in (DIRECTORY / f"{name}.hex").read_text("utf-8").splitlines():
        if line.startswith("    "):
            found_in_file[current] += bytes.fromhex(line)
        elif line:
            current = line
            found_in_file[current] = b""
    return found_in_file


def rewrite() -> None:
    """Write every file from today's encoders."""
    texts: dict[str, list[str]] = {}
    for example in examples():
        hexed = example.encode(example.value).hex()
        lines = [f"    {hexed[start : start + LINE_LENGTH]}" for start in range(0, len(hexed), LINE_LENGTH)]
        texts.setdefault(example.format, []).extend([example.name, *lines])
    for name, lines in texts.items():
        (DIRECTORY / f"{name}.hex").write_text("\n".join(lines) + "\n", "utf-8")
