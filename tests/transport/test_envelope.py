"""The hand-made envelope says what the generated `Frame` says, and leaves to it what it does not know."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError as ProtobufDecodeError
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import DecodeError
from kvstore.limits import FRAME_SIZE_BYTES_MAX
from kvstore.transport.envelope import unwrap, wrap
from kvstore.transport.grpc_options import MESSAGE_SIZE_BYTES_MAX
from kvstore.v1.frames_pb2 import Frame


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, FRAME_SIZE_BYTES_MAX])
def test_wrap_gives_the_bytes_of_the_generated_class(size: int) -> None:
    """At every size where the length takes one byte more. (Proto3 leaves out an empty payload; both forms parse.)"""
    frame = b"x" * size

    message = wrap(frame)

    assert Frame.FromString(message).payload == frame
    assert unwrap(message) == frame
    assert unwrap(Frame(payload=frame).SerializeToString()) == frame
    if size > 0:
        assert message == Frame(payload=frame).SerializeToString()


def test_the_largest_frame_fits_a_message() -> None:
    """gRPC counts the envelope as well."""
    assert len(wrap(b"x" * FRAME_SIZE_BYTES_MAX)) <= MESSAGE_SIZE_BYTES_MAX


def assert_same_reading(message: bytes) -> None:
    """Both give the same payload, or both refuse."""
    try:
        expected = Frame.FromString(message).payload
    except ProtobufDecodeError:
        with pytest.raises(DecodeError):
            unwrap(message)
    else:
        assert unwrap(message) == expected


@given(st.binary(max_size=40))
def test_unwrap_and_the_generated_class_agree_on_any_bytes(message: bytes) -> None:
    """Unknown fields, repeated fields, padded lengths and nonsense."""
    assert_same_reading(message)


@given(st.binary(max_size=10), st.binary(max_size=10), st.integers(0, 200))
def test_unwrap_agrees_on_almost_right_messages(before: bytes, payload: bytes, length: int) -> None:
    """A right tag with a wrong length, something before it, or two payloads (the last one counts)."""
    for message in (b"\x0a" + bytes((length,)) + payload, wrap(before) + wrap(payload), b"\x10\x01" + wrap(payload)):
        assert_same_reading(message)
