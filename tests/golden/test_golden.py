"""The bytes of every format are what they were: on disks, in clients' hands, and between nodes of two versions.

If one of these fails, the change needs what docs/formats.md, "Versions, and changing a format", asks for.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgpack
import pytest
import xxhash

from kvstore.causality.context import HISTORY_FORMAT, decode_context, decode_history
from kvstore.errors import ConfigError, Corruption, DecodeError, InvalidContext, ProtocolMismatch
from kvstore.messages import PROTOCOL_VERSION
from kvstore.ring.topology_codec import FORMAT_VERSION
from kvstore.ring.topology_codec import decode as decode_topology
from kvstore.storage import directory
from kvstore.storage.record import RECORD_FORMAT, decode_record, view_record
from kvstore.transport.frames import Hello, encode_frame, hello_fields
from tests.golden.formats import DIRECTORY, KEY, Example, examples, read_golden
from tests.transport.test_session import Fixture, sessions

EXAMPLES = examples()
IDS = [f"{each.format}: {each.name}" for each in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_todays_encoder_makes_the_bytes_of_then(example: Example) -> None:
    """Byte for byte."""
    assert example.encode(example.value).hex() == read_golden(example.format)[example.name].hex()


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_todays_decoder_reads_the_bytes_of_then(example: Example) -> None:
    """Also those that no encoder makes any more, once there are any."""
    assert example.decode(read_golden(example.format)[example.name]) == example.value


def test_every_golden_byte_has_its_example() -> None:
    """An example that was removed would take its promise along unseen."""
    kept = {(path.stem, name) for path in DIRECTORY.glob("*.hex") for name in read_golden(path.stem)}

    assert kept == {(each.format, each.name) for each in EXAMPLES}


def sealed(body: bytes) -> bytes:
    return xxhash.xxh3_64_digest(KEY + body) + body


@pytest.mark.parametrize("rest", [[], [b"v", b"", *[0] * 6], ["text", {"a": []}], [[1] * 99], list(range(300))])
def test_a_record_of_a_newer_format_names_both(rest: list[object]) -> None:
    """Whatever follows the number, by both readers; it is `Corruption`, because this node cannot serve it."""
    body = msgpack.packb([RECORD_FORMAT + 1, *rest], use_bin_type=True)
    record = sealed(body + b"\xc0" * max(0, 4 - len(body)))
    for read in (lambda: decode_record(KEY, record), lambda: view_record(record)):
        with pytest.raises(Corruption, match=r"format 2, this build reads up to 1"):
            read()


def test_a_context_of_a_newer_format_names_both() -> None:
    """The client used another version's node to read."""
    newer = bytes((HISTORY_FORMAT + 1,)) + read_golden("context")["of two actors"][1:]

    with pytest.raises(InvalidContext, match=r"format 3, this node reads 1"):
        decode_context(newer, KEY[:8])
    with pytest.raises(InvalidContext, match=r"format 3, this node reads 2"):
        decode_history(newer, KEY[:8])


def test_a_topology_of_a_newer_format_names_both() -> None:
    """(tests/ring/test_topology_codec.py varies what follows.)"""
    newer = msgpack.packb([FORMAT_VERSION + 1, "anything"])

    with pytest.raises(DecodeError, match=rf"format {FORMAT_VERSION + 1}, this build reads up to {FORMAT_VERSION}"):
        decode_topology(newer)


def test_a_peer_of_a_newer_protocol_is_told_both() -> None:
    """Frames have no number of their own: HELLO says what both sides speak, before any other frame."""

    async def test(f: Fixture) -> None:
        newer = Hello(protocol_min=PROTOCOL_VERSION + 1, protocol_max=PROTOCOL_VERSION + 2)
        f.session.frame_received(encode_frame(hello_fields(newer)))

        refusal = f.refusal()
        assert type(refusal) is ProtocolMismatch
        assert refusal.message == "this node speaks protocol 1, the peer speaks 2..3"

    sessions(test)


def test_a_directory_of_a_newer_format_names_both(tmp_path: Path) -> None:
    """And is not called suspect, which would tell the operator to give it up."""
    fields = {"node_id": "61" * 8, "format_version": directory.FORMAT_VERSION + 1}
    (tmp_path / directory.IDENTITY_FILE).write_text(json.dumps(fields))

    with pytest.raises(ConfigError, match=r"format version \(found=2, supported=1\)"):
        directory.check_openable(tmp_path)
