"""What a session remembers: never less than it was shown, within its bounds, and the same after a journey as a token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from kvstore.causality.context import decode_history, encode_context, encode_history
from kvstore.causality.version_vector import encode_vector, merge_vectors
from kvstore.client.failures import InvalidSession, SessionFull
from kvstore.client.session_state import SessionState
from kvstore.errors import ClusterMismatch, InvalidContext
from kvstore.ids import ActorId
from kvstore.limits import SESSION_OBJECTS_COUNT_MAX, SESSION_SIZE_BYTES_MAX, VECTOR_ENTRIES_STORED_MAX

CLUSTER = b"c" * 16
ACTORS = [ActorId(bytes((letter,)) * 20) for letter in b"abc"]
NAMES = [b"name-%03d" % number for number in range(4)]
VECTORS = st.dictionaries(st.sampled_from(ACTORS), st.integers(1, 9))


def wide(actors: int) -> dict[ActorId, int]:
    return {ActorId(number.to_bytes(20, "big")): 1 for number in range(1, actors + 1)}


def seen(*notes: tuple[bytes, dict[ActorId, int]], cluster_id: bytes = CLUSTER) -> SessionState:
    """Return a session that was shown these vectors."""
    state = SessionState()
    state.bind(cluster_id)
    for name, vector in notes:
        state.admit(name)
        state.note(name, encode_context(name, 7, encode_vector(vector)))
    return state


def history(state: SessionState, name: bytes) -> dict[ActorId, int]:
    encoded = state.history(name)
    return decode_history(encoded, name) if encoded else {}


@settings(max_examples=200, deadline=None)
@given(notes=st.lists(st.tuples(st.sampled_from(NAMES), VECTORS), max_size=12), travels=st.booleans())
def test_a_read_asks_for_the_join_of_all_that_was_shown(
    notes: list[tuple[bytes, dict[ActorId, int]]], travels: bool
) -> None:
    """The model is one vector for each object; a journey as a token changes nothing, and tokens of equal sessions are equal."""
    model: dict[bytes, dict[ActorId, int]] = {}
    for name, vector in notes:
        model[name] = merge_vectors(model.get(name, {}), vector)

    state = seen(*notes)
    assert SessionState.decode(state.encode()).encode() == state.encode() == seen(*reversed(notes)).encode()
    if travels:
        state = SessionState.decode(state.encode())
    assert {name: history(state, name) for name in NAMES} == {name: model.get(name, {}) for name in NAMES}


def test_what_was_never_seen_asks_for_nothing() -> None:
    """Not even an empty history: the body of the get is the one of a client without a session."""
    state = seen((NAMES[0], {}))
    state.note(NAMES[1], b"")

    assert (state.history(NAMES[0]), state.history(NAMES[1]), state.history(NAMES[2])) == (b"", b"", b"")
    assert state.encode() == SessionState().encode()


def test_the_context_of_another_object_is_refused() -> None:
    """A node mixed up its answers: nothing is remembered under the wrong name."""
    state = seen()
    with pytest.raises(InvalidContext):
        state.note(NAMES[0], encode_history(NAMES[1], encode_vector({ACTORS[0]: 1})))
    assert state.history(NAMES[0]) == b""


def test_one_object_too_many_is_refused_and_none_is_forgotten() -> None:
    """Before anything is sent; those that are known go on."""
    state = seen(*((b"%08d" % number, {ACTORS[0]: 1}) for number in range(SESSION_OBJECTS_COUNT_MAX)))
    with pytest.raises(SessionFull) as raised:
        state.admit(b"one more")

    assert raised.value.definite and not raised.value.retryable
    assert (raised.value.objects, raised.value.limit) == (SESSION_OBJECTS_COUNT_MAX, SESSION_OBJECTS_COUNT_MAX)
    state.admit(b"%08d" % 5)
    moved = SessionState.decode(state.encode())
    assert all(history(moved, b"%08d" % number) for number in range(SESSION_OBJECTS_COUNT_MAX))


def test_a_session_that_has_seen_too_much_takes_nothing_more() -> None:
    """Neither an operation nor a token, because both would have to leave something out."""
    entries = SESSION_SIZE_BYTES_MAX // 28 + 1
    state = seen((NAMES[0], wide(entries)))

    for refused in (lambda: state.admit(NAMES[0]), lambda: state.admit(NAMES[1]), state.encode):
        with pytest.raises(SessionFull, match="too much"):
            refused()


def test_the_largest_session_fits_a_token() -> None:
    """The bound of the memory and the bound of the token are one."""
    state = SessionState()
    state.bind(CLUSTER)
    left = (SESSION_SIZE_BYTES_MAX - 20) // 28
    state.admit(NAMES[0])
    state.admit(NAMES[1])
    state.note(NAMES[0], encode_history(NAMES[0], encode_vector(wide(left - 1_000))))
    state.note(NAMES[1], encode_history(NAMES[1], encode_vector(wide(1_000))))

    assert len(state.encode()) <= 25 + SESSION_SIZE_BYTES_MAX < len(state.encode()) + 28
    assert SessionState.decode(state.encode()).encode() == state.encode()


def test_a_history_too_wide_for_a_read_says_so() -> None:
    """Thousands of actors wrote one object: it cannot be asked for, and is not left out."""
    state = seen((NAMES[0], wide(5_000)))
    assert VECTOR_ENTRIES_STORED_MAX > 5_000
    with pytest.raises(SessionFull, match="so wide a history"):
        state.history(NAMES[0])


def test_a_session_belongs_to_one_cluster() -> None:
    """Vectors of another one mean nothing, and would never be satisfied."""
    moved = SessionState.decode(seen((NAMES[0], {ACTORS[0]: 1})).encode())
    moved.bind(CLUSTER)
    with pytest.raises(ClusterMismatch):
        moved.bind(b"d" * 16)
    SessionState.decode(seen().encode()).bind(b"d" * 16)  # has seen nothing, so any cluster is its own


TOKEN = seen((NAMES[0], {ACTORS[0]: 1}), (NAMES[1], {ACTORS[0]: 2, ACTORS[1]: 1})).encode()


@pytest.mark.parametrize("at", range(len(TOKEN)))
def test_a_token_with_one_bit_changed_is_refused(at: int) -> None:
    """Wherever it is; so is one that ends there."""
    for token in (TOKEN[:at] + bytes((TOKEN[at] ^ 1,)) + TOKEN[at + 1 :], TOKEN[:at]):
        with pytest.raises(InvalidSession):
            SessionState.decode(token)


@pytest.mark.parametrize(
    "token", [b"", b"x", bytes(25), TOKEN + b"\0", bytes(2 * SESSION_SIZE_BYTES_MAX), "text", None]
)
def test_what_is_no_token_is_refused(token: bytes) -> None:
    """Of any length and type."""
    with pytest.raises(InvalidSession):
        SessionState.decode(token)


def test_a_newer_token_names_both_formats() -> None:
    """Somebody upgraded half of the fleet."""
    with pytest.raises(InvalidSession, match="format 2, this build reads 1"):
        SessionState.decode(b"\x02" + TOKEN[1:])


@pytest.mark.parametrize(
    ("objects", "cluster_id"),
    [
        ([(NAMES[1], 1), (NAMES[0], 1)], CLUSTER), ([(NAMES[0], 1), (NAMES[0], 1)], CLUSTER), ([(NAMES[0], 0)], CLUSTER),
        ([], CLUSTER), ([(NAMES[0], 1)], bytes(16)),
        ([(b"%08d" % number, 1) for number in range(SESSION_OBJECTS_COUNT_MAX + 1)], CLUSTER),
    ],
    ids=["order", "twice", "empty vector", "nothing seen", "no cluster", "too many"],
)  # fmt: skip
def test_a_checksum_alone_makes_no_token(objects: list[tuple[bytes, int]], cluster_id: bytes) -> None:
    """Only what `encode` could have made is taken."""
    body = b"\x01" + cluster_id
    for name, entries in objects:
        body += name + entries.to_bytes(2, "big") + encode_vector(dict(list(wide(entries).items())))
    with pytest.raises(InvalidSession):
        SessionState.decode(body + xxh3_64_digest(body))
