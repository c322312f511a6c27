"""A user's program ran out of memory because of one value that somebody else had written.

A value is msgpack of any shape. 1 MiB of headers, each of an array of a million fields that never come, made the reading client
reserve 8 MB for each, a thousand levels deep. Now the client looks first whether everything a value promises is there. The same
held for a status that `kvctl` asks of a node. Found by tests/fuzz.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from cluster.cli.inspect_cluster import _decode_status
from kvstore.client.datatypes import Codec
from kvstore.errors import DecodeError
from tests.support.cost import assert_cheap_refusal

BOMBS = [b"\xdc\xea\x60" * 60_000, b"\xdd\x00\x0e\x00\x00" * 200_000, b"\xdf\x00\x06\x00\x00\xa1a" * 140_000]


@pytest.mark.parametrize("bomb", BOMBS, ids=["60,000 fields", "a million fields", "maps"])
def test_a_value_of_promises_is_refused_before_it_takes_memory(bomb: bytes) -> None:
    """Wide and deep at once, as large as a value may be."""
    values: Codec[Any] = Codec()

    assert_cheap_refusal(lambda: values.decode(bomb), DecodeError, peak_bytes_max=8 << 20, cpu_s_max=0.3)
    assert_cheap_refusal(lambda: _decode_status(bomb), DecodeError, peak_bytes_max=8 << 20, cpu_s_max=0.3)


def test_a_large_value_is_read_as_before() -> None:
    """All of it is there."""
    value = {"list": [[number, str(number)] for number in range(5_000)]}

    assert Codec[Any]().decode(msgpack.packb(value)) == value
