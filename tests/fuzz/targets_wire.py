"""Targets of what travels on a connection: envelope, frame, hello, chunks, groups, bodies, errors, contexts, names, topology."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack
from xxhash import xxh3_64_digest

from kvstore import groups, pages
from kvstore.causality.context import decode_context, decode_history, encode_context, encode_history
from kvstore.causality.version_vector import VersionVector, decode_vector, encode_vector
from kvstore.client.datatypes import Codec
from kvstore.client.failures import InvalidSession
from kvstore.client.session_state import SessionState
from kvstore.errors import (
    DecodeError,
    InvalidArgument,
    InvalidContext,
    KVStoreError,
    Overloaded,
    Timeout,
    error_from_wire,
    error_to_wire,
)
from kvstore.ids import ActorId, ClusterId, NodeId, ObjectType, StorageKey
from kvstore.limits import (
    FRAME_SIZE_BYTES_MAX,
    REASSEMBLY_BYTES_MAX,
    SESSION_OBJECTS_COUNT_MAX,
    TOPOLOGY_SIZE_BYTES_MAX,
)
from kvstore.messages import (
    decode_body,
    decode_delete,
    decode_get,
    decode_get_reply,
    decode_put,
    decode_put_reply,
    encode_body,
)
from kvstore.ring import BucketProperties, Member, begin_move, found, with_bucket
from kvstore.ring.topology_codec import decode as decode_topology
from kvstore.ring.topology_codec import encode as encode_topology
from kvstore.storage.keyspace import check_storage_key, object_name, parse_name, storage_key
from kvstore.transport.chunks import PART_OVERHEAD_BYTES, Reassembly, split
from kvstore.transport.envelope import unwrap, wrap
from kvstore.transport.frames import FrameKind, Hello, decode_frame, encode_frame, hello_fields, hello_from
from tests.fuzz.engine import Target

__all__ = ["wire_targets"]

MIB = 1 << 20
ID = b"o" * 16
ACTORS = tuple(ActorId(bytes((letter,)) * 20) for letter in b"abc")
KEYS = [
    storage_key(object_name("default", kind, key)) for kind in ObjectType for key in (b"a", b"\x00\xff\x00", b"k" * 99)
]
HELLO = Hello(1, 1, b"c" * 16, b"n" * 8, 5, 6, 7, "127.0.0.1:7001", "zstd")
NESTED = (
    b"\x91" * 100_000,
    b"\xdc\xea\x60" * 60_000,
    b"\x9f" * (4 * MIB - 64),
    b"\xdd\xff\xff\xff\xff",
    b"\x97\xc6\xff\xff\xff\xff",
)
"""What headers promise: very deep, wide and deep, 4 MiB of headers, 2^32-1 fields, a binary of 4 GiB."""


def _same_as(again: Callable[[Any], Any]) -> Callable[[bytes, Any, random.Random], None]:
    """What decoded is what decoding its encoding gives."""

    def law(data: bytes, decoded: Any, rng: random.Random) -> None:
        # msgpack's own bytes, because a NaN differs from itself.
        assert msgpack.packb(again(decoded), default=repr) == msgpack.packb(decoded, default=repr), (
            "another value came back"
        )

    return law


def _body(
    name: str, seeds: list[list[Any]], decode: Callable[[bytes], Any], bombs: tuple[bytes, ...] = NESTED
) -> Target:
    laws = _same_as(lambda decoded: decode(encode_body(list(decoded))))
    return Target(name, [encode_body(seed) for seed in seeds], decode, (DecodeError,), laws, bombs=bombs)


# --- frames -----------------------------------------------------------------------------------------------------------


def _decode_frame(data: bytes) -> Any:
    fields = decode_frame(data)
    return hello_from(fields) if fields[0] == FrameKind.HELLO else fields


def _frame_law(data: bytes, decoded: Any, rng: random.Random) -> None:
    fields = hello_fields(decoded) if isinstance(decoded, Hello) else decoded
    again = _decode_frame(encode_frame(fields))
    assert again == decoded, "another frame came back"
    if fields[0] == FrameKind.REFUSED:
        error_from_wire(fields[1])


def _frames() -> Target:
    request, reply = [10, 2, 3, 900, b"key", b"body"], [10, 0, b"body"]
    seeds = [
        hello_fields(HELLO), hello_fields(Hello()), [1, 5, *request], [1, 5, *request * 9], [2, 7, *reply], [2, 7, *reply * 9],
        [3, error_to_wire(Overloaded("full", retry_after_s=0.5))],
    ]  # fmt: skip
    full = [1, 5, *([1 << 63, 1, 1, 1, b"k", b""] * 4_096)]
    bombs = [
        *NESTED, encode_frame(full), encode_frame([1, 5, *request[:5], bytes(FRAME_SIZE_BYTES_MAX - 64)]),
        encode_frame([0, *["ä" * 80] * 24_000]), b"\xdc\x60\x00\x00" + b"\x90" * 24_575, bytes(FRAME_SIZE_BYTES_MAX + 1),
    ]  # fmt: skip
    encoded = [encode_frame(seed) for seed in seeds]
    return Target("frame", encoded, _decode_frame, (DecodeError,), _frame_law, bombs=bombs, weight=10)


def _envelope_law(data: bytes, payload: bytes, rng: random.Random) -> None:
    assert unwrap(wrap(payload)) == payload, "another payload came back"


def _envelope() -> Target:
    seeds = [wrap(b""), wrap(b"frame"), wrap(bytes(200)), wrap(bytes(20_000)), b"", b"\x12\x01a\x0a\x02bc"]
    bombs = [b"\x0a\xff\xff\xff\xff\x0f", wrap(bytes(FRAME_SIZE_BYTES_MAX)), b"\x0a\x00" * MIB, b"\x0b" * MIB]
    return Target("envelope", seeds, unwrap, (DecodeError,), _envelope_law, packed_from=None, bombs=bombs)


def _reassemble(data: bytes) -> list[bytes]:
    """Play the bytes as PARTs and last pieces of eight operations, each piece three bytes of script, at most 100 of them."""
    parts, model, bodies = Reassembly(), dict[int, bytes](), []
    for at in range(0, min(len(data) - 2, 300), 3):
        operation, size, is_last = data[at] & 7, data[at + 1] << (data[at] >> 4 & 7), data[at + 2] & 3 == 0
        chunk = bytes((data[at + 2],)) * size
        if is_last:
            body = parts.take(operation, chunk)
            assert body == model.pop(operation, b"") + chunk, "another body came out"
            bodies.append(body)
        else:
            parts.add(operation, chunk)
            model[operation] = model.get(operation, b"") + chunk
    held = sum(len(chunk) + PART_OVERHEAD_BYTES for chunks in parts.unfinished.values() for chunk in chunks)
    assert held == parts._bytes <= REASSEMBLY_BYTES_MAX, "what is held is not what is counted"
    return bodies


def _chunks_law(data: bytes, bodies: list[bytes], rng: random.Random) -> None:
    for body in bodies[:2]:
        assert b"".join(split(body, 1 + int(rng.random() * 5_000))) == body


def _chunks() -> Target:
    seeds = [bytes((1, 50, 1, 1, 50, 4, 2, 9, 2, 2, 9, 8)), bytes((0x41, 255, 1) * 20 + (1, 1, 0))]
    # Its time is that of the script and its model; the bound is on what it holds.
    return Target("chunks", seeds, _reassemble, (DecodeError,), _chunks_law, packed_from=None, weight=1, cpu_s_max=2.0,
                  peak_factor=100_000)  # fmt: skip


def _groups() -> list[Target]:
    writes = [groups.encode_writes([(1, KEYS[0], b"record")] * count) for count in (1, 3, 40)]
    fetches = [groups.encode_fetches([(1, KEYS[0])] * count) for count in (1, 3, 40)]
    bombs = [*NESTED, b"\xdd\x00\x07\xff\xff" + b"\x93\x01\xc4\x00\xc4\x00" * 87_381, b"\xdd\x00\x07\xff\xf0" + b"\xc0" * 524_272,
             groups.encode_writes([(1, KEYS[0], bytes(900))] * 512)]  # fmt: skip
    records = [groups.encode_records([b"record", None, b""]), groups.encode_records([None] * 3)]
    refused = [groups.encode_refused([0, 2]), groups.encode_refused(list(range(40))), b""]
    return [
        Target("group of writes", writes, groups.decode_writes, (DecodeError,),
               _same_as(lambda d: groups.decode_writes(groups.encode_writes(d))), bombs=bombs),
        Target("group of reads", fetches, groups.decode_fetches, (DecodeError,),
               _same_as(lambda d: groups.decode_fetches(groups.encode_fetches(d))), bombs=bombs),
        Target("group's records", records, lambda data: groups.decode_records(data, 3), (DecodeError,),
               _same_as(lambda d: groups.decode_records(groups.encode_records(d), 3)), bombs=bombs),
        Target("group's refusals", refused, lambda data: groups.decode_refused(data, 40), (DecodeError,),
               _same_as(lambda d: groups.decode_refused(groups.encode_refused(d), 40)), bombs=bombs),
    ]  # fmt: skip


def _pages() -> list[Target]:
    keys = sorted(KEYS)
    scans = [pages.encode_scan((3, 7, b"", False)), pages.encode_scan((65_535, 1 << 40, keys[0], True))]
    full = [([(key, b"record") for key in keys], False), ([], True), ([(keys[0], bytes(8))], True)]
    return [
        Target("scan", scans, pages.decode_scan, (DecodeError,), _same_as(lambda d: pages.decode_scan(pages.encode_scan(d))),
               bombs=NESTED),
        Target("page", [pages.encode_page(page) for page in full], lambda data: pages.decode_page(data, after=b""),
               (DecodeError,), _same_as(lambda d: pages.decode_page(pages.encode_page(d), after=b"")),
               mend=lambda data: xxh3_64_digest(data[8:]) + data[8:], bombs=NESTED),
    ]  # fmt: skip


# --- bodies -----------------------------------------------------------------------------------------------------------


def _administrate(data: bytes) -> Any:
    """What a node makes of BUCKET_CREATE and JOIN (cluster/server/administration.py)."""
    fields = decode_body(data, fields_max=8)
    if len(fields) == 8:
        name, default_type, r, w, dw, pr, pw, ttl_ms = fields
        if type(default_type) is not int or default_type not in set(ObjectType):
            raise InvalidArgument("unknown object type")
        return BucketProperties(name, ObjectType(default_type), r=r, w=w, dw=dw, pr=pr, pw=pw, ttl_ms=ttl_ms)
    if len(fields) == 4:
        return Member(NodeId(fields[0]), fields[1], fields[2], fields[3])
    raise DecodeError("another number of fields", fields=len(fields))


def _bodies() -> list[Target]:
    get_reply = [b"context", 2, 3, 2, b"a" * 20, 1, 5, 0, b"value"]
    return [
        _body("put", [[ID, b"value", b"context", 0, None, 2, None], [ID, b"", None, 9, 101, 102, 0, True]], decode_put),
        _body("delete", [[ID, b"context", None, 2, None]], decode_delete_fields),
        _body("get", [[2, 101], [None, None], [None, 1, b"history"]], decode_get),
        _body("put reply", [[2, 2, 3, 2, 1, 1, False, b"context"]], decode_put_reply),
        Target("get reply", [encode_body(get_reply), encode_body([*get_reply, *get_reply[4:]]), encode_body(get_reply[:4])],
               decode_get_reply, (DecodeError,), bombs=[*NESTED, b"\xdd\x00\x00\xff\xff" + b"\xc0" * 65_535], weight=4),
        Target("body", [encode_body([1, b"x", "text", None, 2.5, True]), encode_body(["t"] * 40)], decode_body, (DecodeError,),
               _same_as(lambda decoded: decode_body(encode_body(decoded))),
               bombs=[*NESTED, b"\xdc\x10\x00" + b"\xd9\x02\xc3\xa4" * 4096]),
        Target("bucket and join",
               [encode_body(["carts", 1, None, 2, None, None, None, 0]), encode_body([b"n" * 8, "h:1", "z", 2])],
               _administrate, (DecodeError, InvalidArgument), bombs=[*NESTED, b"\x98" + b"\x91" * 990 + b"\xc0" * 8], weight=2),
        Target("value", [msgpack.packb({"a": [1, 2.5, None], 3: b"x"}), msgpack.packb("ä" * 9)], _values.decode, (DecodeError,),
               bombs=NESTED[:2], weight=2, peak_factor=64),
    ]  # fmt: skip


def decode_delete_fields(data: bytes) -> list[Any]:
    """DELETE without the fields that a put has and it has not, so that it can be encoded again."""
    request = decode_delete(data)
    assert request.value is None and request.ttl_ms == 0
    return [request.operation_id, request.context, request.w, request.dw, request.pw]


_values: Codec[Any] = Codec()


def _error_law(data: bytes, error: KVStoreError, rng: random.Random) -> None:
    assert isinstance(error, KVStoreError), "an error that is none of ours"
    assert str(error) or repr(error), "an error that cannot be shown"
    again = error_from_wire(error_to_wire(error))
    assert type(again) is type(error) and again.message == error.message[:1_000], "another error came back"
    assert msgpack.packb(again.details) == msgpack.packb(error.details), "other numbers came back"


def _errors() -> Target:
    seeds = [
        error_to_wire(Overloaded("full", retry_after_s=0.5)), error_to_wire(Timeout("late", acked=1, needed=2)),
        msgpack.packb(["of_the_future", "?", {"numbers": [1, 2], "name": "x"}]), error_to_wire(DecodeError("m" * 999)),
    ]  # fmt: skip
    bombs = [
        *NESTED,
        b"\x93\xa1a\xa1b\x81\xa1c" + b"\x91" * 1_000 + b"\xc0",
        b"\x93\xa1a\xa1b\xde\x00\x20" + b"\xa1a\x9f" * 5_000,
    ]
    return Target("error", seeds, error_from_wire, (), _error_law, bombs=bombs, weight=6)


# --- causality, names, topology ---------------------------------------------------------------------------------------


def _context_law(data: bytes, decoded: tuple[VersionVector, int], rng: random.Random) -> None:
    vector, hlc = decoded
    assert encode_context(KEYS[0][:8], hlc, encode_vector(vector)) == data, "two contexts say the same"


def _contexts() -> list[Target]:
    token, wide = KEYS[0][:8], {ActorId(number.to_bytes(20, "big")): 1 for number in range(1, 4_097)}
    vectors = [encode_vector({}), encode_vector({ACTORS[0]: 1}), encode_vector(dict.fromkeys(ACTORS, 1 << 40))]
    widest = encode_vector(wide)
    one_more = encode_vector(wide | {ActorId(b"\xff" * 20): 1})

    def vector_law(data: bytes, vector: VersionVector, rng: random.Random) -> None:
        assert encode_vector(vector) == data, "two encodings of one vector"

    return [
        Target("history", [encode_history(token, vector) for vector in vectors], lambda data: decode_history(data, token),
               (InvalidContext,), packed_from=None, bombs=[encode_context(token, 77, one_more), bytes(4 * MIB)]),
        Target("context", [encode_context(token, 77, vector) for vector in vectors], lambda data: decode_context(data, token),
               (InvalidContext,), _context_law, packed_from=None,
               bombs=[encode_context(token, 77, widest), encode_context(token, 77, one_more), bytes(4 * MIB)]),
        Target("vector", vectors, decode_vector, (DecodeError,), vector_law, packed_from=None, weight=2,
               bombs=[widest, one_more, bytes(4 * MIB), one_more[-28:] * 150_000]),
    ]  # fmt: skip


def _session() -> Target:
    state, many = SessionState(), SessionState()
    for each, count in ((state, 3), (many, SESSION_OBJECTS_COUNT_MAX)):
        each.bind(b"c" * 16)
        for number in range(count):
            name_hash = number.to_bytes(8, "big")
            each.note(name_hash, encode_history(name_hash, encode_vector(dict.fromkeys(ACTORS, number + 1))))

    def mend(data: bytes) -> bytes:
        return data[:-8] + xxh3_64_digest(data[:-8])

    def law(data: bytes, decoded: SessionState, rng: random.Random) -> None:
        assert decoded.encode() == data, "two tokens say the same"

    too_many = many.encode()[:-8] + (b"\xff" * 8 + b"\0\1" + encode_vector({ACTORS[0]: 1}))
    bombs = [many.encode(), mend(too_many + bytes(8)), bytes(4 * MIB), mend(b"\1" + b"c" * 16 + bytes(512 * 1024))]
    seeds = [SessionState().encode(), state.encode()]
    return Target(
        "session", seeds, SessionState.decode, (InvalidSession,), law, mend, packed_from=None, bombs=bombs, weight=2
    )


def _names() -> list[Target]:
    def name_law(data: bytes, decoded: Any, rng: random.Random) -> None:
        assert object_name(*decoded) == data, "two names of one object"

    def key_law(data: bytes, name: bytes, rng: random.Random) -> None:
        assert storage_key(name) == data and parse_name(name), "a key of no object"

    bombs = [b"\x01b\x00" + b"\x00\xff" * (2 * MIB), b"\x01" + b"b" * (4 * MIB), b"\x01b\x00" + b"a" * (4 * MIB)]
    return [
        Target("object name", [key[8:] for key in KEYS], parse_name, (DecodeError,), name_law, packed_from=None, bombs=bombs),
        Target("storage key", KEYS, lambda data: check_storage_key(StorageKey(data)), (DecodeError,), key_law, packed_from=None,
               weight=2, mend=lambda data: storage_key(data[8:]), bombs=[storage_key(bomb) for bomb in bombs]),
    ]  # fmt: skip


def _topologies() -> Target:
    small = found(ClusterId(b"c" * 16), "t", Member(NodeId(b"n" * 8), "h:1", "z", 2), partition_bits=1)
    bucketed = with_bucket(small, BucketProperties("b", ObjectType.LWW, r=1, ttl_ms=9))
    joining = begin_move(bucketed, Member(NodeId(b"o" * 8), "i:1"), [(NodeId(b"o" * 8), NodeId(b"n" * 8))] * 2)
    seeds = [encode_topology(each) for each in (small, bucketed, joining)]
    fields = msgpack.unpackb(seeds[0])
    bombs = [
        *NESTED, bytes(TOPOLOGY_SIZE_BYTES_MAX + 1), msgpack.packb([*fields[:4], 16, *fields[5:8], [b""] * 65_536, *fields[9:]]),
        msgpack.packb([1, [[[]] * 60_000] * 12]), msgpack.packb([*fields[:8], [bytes(200)] * 65_536]),
    ]  # fmt: skip

    def law(data: bytes, topology: Any, rng: random.Random) -> None:
        document = encode_topology(topology)
        assert decode_topology(document) == topology and encode_topology(decode_topology(document)) == document, (
            "not the same"
        )

    # A document of 3 MiB describes 65,536 partitions; it comes from members, and once for each change of the cluster.
    return Target("topology", seeds, decode_topology, (DecodeError,), law, bombs=bombs, weight=8, cpu_s_max=1.0)


def wire_targets() -> list[Target]:
    """Return the targets of what travels."""
    return [
        _envelope(),
        _frames(),
        _chunks(),
        *_groups(),
        *_pages(),
        *_bodies(),
        _errors(),
        *_contexts(),
        _session(),
        *_names(),
        _topologies(),
    ]
