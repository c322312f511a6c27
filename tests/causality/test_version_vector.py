"""Version vectors: a lattice of histories, with one byte string for each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality.version_vector import (
    COUNTER_MAX,
    Relation,
    VersionVector,
    compare,
    covers,
    decode_vector,
    descends,
    encode_vector,
    merge_vectors,
)
from kvstore.errors import DecodeError
from kvstore.ids import ActorId
from kvstore.limits import VECTOR_ENTRIES_STORED_MAX
from tests.causality.histories import actor_of, dots_under

SMALL = st.dictionaries(st.sampled_from([actor_of(n) for n in range(4)]), st.integers(1, 4))
ANY = st.dictionaries(st.binary(min_size=20, max_size=20).map(ActorId), st.integers(1, COUNTER_MAX), max_size=8)


@settings(max_examples=100, deadline=None)
@given(SMALL, SMALL)
def test_a_vector_is_compared_like_the_set_of_dots_it_stands_for(ours: VersionVector, theirs: VersionVector) -> None:
    """`descends` is superset, `merge_vectors` is union, and `compare` names the four cases."""
    our_dots, their_dots = dots_under(ours), dots_under(theirs)
    expected = {
        (True, True): Relation.EQUAL,
        (True, False): Relation.DOMINATES,
        (False, True): Relation.DOMINATED,
        (False, False): Relation.CONCURRENT,
    }

    assert descends(ours, theirs) == (our_dots >= their_dots)
    assert dots_under(merge_vectors(ours, theirs)) == our_dots | their_dots
    assert compare(ours, theirs) is expected[our_dots >= their_dots, our_dots <= their_dots]


@settings(max_examples=100, deadline=None)
@given(SMALL, st.sampled_from([actor_of(n) for n in range(4)]), st.integers(1, 5))
def test_covers_is_membership(vector: VersionVector, actor: ActorId, counter: int) -> None:
    """A dot is covered if it is one of those the vector stands for."""
    assert covers(vector, actor, counter) == ((actor, counter) in dots_under(vector))


@settings(max_examples=100, deadline=None)
@given(SMALL, SMALL, SMALL)
def test_merge_is_the_least_upper_bound(one: VersionVector, two: VersionVector, three: VersionVector) -> None:
    """Commutative, associative, idempotent, above both, and no larger than any other that is above both."""
    merged = merge_vectors(one, two)

    assert merged == merge_vectors(two, one)
    assert merge_vectors(merged, three) == merge_vectors(one, merge_vectors(two, three))
    assert merge_vectors(one, one) == one == merge_vectors(one, {})
    assert descends(merged, one)
    assert descends(merged, two)
    if descends(three, one) and descends(three, two):
        assert descends(three, merged)


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_encoding_round_trips_and_is_canonical(vector: VersionVector) -> None:
    """Equal vectors are equal bytes, whatever the order in which their entries were made."""
    encoded = encode_vector(vector)

    assert decode_vector(encoded) == vector
    assert list(decode_vector(encoded)) == sorted(vector)
    assert encode_vector(dict(reversed(vector.items()))) == encoded
    assert len(encoded) == 28 * len(vector)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=28 * 4) | st.lists(st.binary(min_size=28, max_size=28), max_size=4).map(b"".join))
def test_arbitrary_bytes_decode_to_themselves_or_are_refused(encoded: bytes) -> None:
    """Only canonical bytes are taken, and nothing but `DecodeError` comes out of the others."""
    try:
        vector = decode_vector(encoded)
    except DecodeError:
        return
    assert encode_vector(vector) == encoded


ONE = encode_vector({actor_of(1): 1})


@pytest.mark.parametrize(
    ("case", "encoded"),
    [
        ("half an entry", ONE[:14]),
        ("a trailing byte", ONE + b"\x00"),
        ("an actor twice", ONE + ONE),
        ("actors out of order", encode_vector({ActorId(b"b" * 20): 1}) + encode_vector({ActorId(b"a" * 20): 1})),
        ("counter zero", ONE[:20] + bytes(8)),
        ("a counter beyond 63 bits", ONE[:20] + b"\xff" * 8),
        (
            "too many entries",
            b"".join(n.to_bytes(20, "big") + ONE[20:] for n in range(1, VECTOR_ENTRIES_STORED_MAX + 2)),
        ),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(case: str, encoded: bytes) -> None:
    """Each of them would let one vector have two encodings, or more entries than may be allocated."""
    with pytest.raises(DecodeError):
        decode_vector(encoded)
