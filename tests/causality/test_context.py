"""Contexts: good for the key they were read from, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.context import CONTEXT_FORMAT, UNUSABLE, decode_context, encode_context
from kvstore.causality.version_vector import VersionVector, encode_vector
from kvstore.errors import InvalidContext
from tests.causality.histories import actor_of

TOKEN = b"8 bytes!"
VECTOR: VersionVector = {actor_of(1): 3, actor_of(2): 1}
CONTEXT = encode_context(TOKEN, 77, encode_vector(VECTOR))

TOKENS = st.binary(min_size=8, max_size=8)
VECTORS = st.dictionaries(st.sampled_from([actor_of(n) for n in range(4)]), st.integers(1, 1 << 40))


@settings(max_examples=100, deadline=None)
@given(TOKENS, st.integers(0, (1 << 64) - 1), VECTORS)
def test_a_context_carries_its_vector_and_time(token: bytes, hlc: int, vector: VersionVector) -> None:
    """What a read puts in, the write takes out."""
    assert decode_context(encode_context(token, hlc, encode_vector(vector)), token) == (vector, hlc)


@settings(max_examples=50, deadline=None)
@given(TOKENS.filter(lambda token: token != TOKEN))
def test_a_context_of_another_key_is_invalid(token: bytes) -> None:
    """Else a put could replace siblings that its client never saw."""
    with pytest.raises(InvalidContext, match="another key"):
        decode_context(CONTEXT, token)


def test_the_context_of_a_put_that_left_siblings_is_invalid_and_says_what_to_do() -> None:
    """Rule 4: read before overwriting."""
    with pytest.raises(InvalidContext, match="read the key"):
        decode_context(UNUSABLE, TOKEN)


def test_every_truncation_that_cuts_an_entry_is_invalid() -> None:
    """Only whole entries can be missing unnoticed; a context is not signed, and a client that cuts it only saw less."""
    whole = {17, 17 + 28, 17 + 56}

    for size in range(len(CONTEXT)):
        if size not in whole:
            with pytest.raises(InvalidContext):
                decode_context(CONTEXT[:size], TOKEN)


def test_a_context_of_another_format_names_both_formats() -> None:
    """A newer cluster's context reaches an older node during an upgrade: the message must help."""
    with pytest.raises(InvalidContext, match=f"format 9, this node reads {CONTEXT_FORMAT}"):
        decode_context(b"\x09" + CONTEXT[1:], TOKEN)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120) | st.binary(max_size=100).map(lambda rest: CONTEXT[:9] + rest))
def test_garbage_is_invalid_and_nothing_worse(garbage: bytes) -> None:
    """No other exception leaves, whatever a client sends."""
    try:
        vector, hlc = decode_context(garbage, TOKEN)
    except InvalidContext:
        return
    assert encode_context(TOKEN, hlc, encode_vector(vector)) == garbage
