"""What a session has seen: for each object the least history that a read has to show, and the token that carries it elsewhere.

    get ──► context ──┐                                   ┌──► history of the next get
    put ──► context ──┴─ note ─► vectors, joined by key ──┤
                                                          └──► token: another client, another process, another day

    token  =  1 (format) | cluster id (16; zeros if nothing was seen) | for each object, ascending:
              hash of its name (8) | entries (2) | vector (28 each)     | XXH3-64 of all before (8)

Pure: no clock, no I/O. An object is known by the hash of its name, as in a context; two that share it would only ask for more.

Invariants
  1. Nothing that was seen is ever forgotten: what does not fit is refused before it is sent (`SessionFull`).
  2. Noting is a join: the order of replies does not matter, and no vector ever goes back.
  3. `decode` takes exactly what `encode` makes. The checksum is no signature: who forges a token can only make his own reads
     promise less or fail.
Source: Terry et al., "Session Guarantees for Weakly Consistent Replicated Data", PDIS 1994 (read-your-writes, monotonic reads).
"""

from __future__ import annotations

import struct

from xxhash import xxh3_64_digest

from kvstore.causality.context import decode_history, encode_history
from kvstore.causality.version_vector import (
    VECTOR_ENTRY_SIZE_BYTES,
    VersionVector,
    decode_vector,
    encode_vector,
    merge_vectors,
)
from kvstore.client.failures import InvalidSession, SessionFull
from kvstore.errors import ClusterMismatch, DecodeError
from kvstore.limits import CONTEXT_SIZE_BYTES_MAX, SESSION_OBJECTS_COUNT_MAX, SESSION_SIZE_BYTES_MAX

__all__ = ["TOKEN_FORMAT", "SessionState"]

TOKEN_FORMAT = 1
_HEAD = struct.Struct(">B16s")
_OBJECT = struct.Struct(">8sH")
_CHECKSUM_BYTES = 8
_NO_CLUSTER = bytes(16)


class SessionState:
    """The vectors of one session. `cluster_id` is empty until something was asked of a cluster."""

    __slots__ = ("_seen", "_size_bytes", "cluster_id")

    def __init__(self) -> None:
        self.cluster_id = b""
        self._seen: dict[bytes, VersionVector] = {}
        self._size_bytes = 0

    def bind(self, cluster_id: bytes) -> None:
        """Belong to this cluster from now on; `ClusterMismatch` if it is another one already."""
        if self.cluster_id and self.cluster_id != cluster_id:
            raise ClusterMismatch("the session is of another cluster: what it has seen means nothing here")
        self.cluster_id = cluster_id

    def admit(self, name_hash: bytes) -> None:
        """Make room for what an operation on this object will have seen. Raises SessionFull: do not send it."""
        if self._size_bytes > SESSION_SIZE_BYTES_MAX:
            raise SessionFull(
                "the session has seen too much", size_bytes=self._size_bytes, limit_bytes=SESSION_SIZE_BYTES_MAX
            )
        if name_hash not in self._seen:
            if len(self._seen) >= SESSION_OBJECTS_COUNT_MAX:
                raise SessionFull(
                    "the session knows too many objects", objects=len(self._seen), limit=SESSION_OBJECTS_COUNT_MAX
                )
            self._seen[name_hash] = {}
            self._size_bytes += _OBJECT.size

    def history(self, name_hash: bytes) -> bytes:
        """Return the history that a read of this object has to cover; empty if there is none. Raises SessionFull."""
        vector = self._seen.get(name_hash)
        if not vector:
            return b""
        history = encode_history(name_hash, encode_vector(vector))
        if len(history) > CONTEXT_SIZE_BYTES_MAX:
            raise SessionFull(
                "no read can carry so wide a history", size_bytes=len(history), limit_bytes=CONTEXT_SIZE_BYTES_MAX
            )
        return history

    def note(self, name_hash: bytes, context: bytes) -> None:
        """Join what a reply has shown; an empty context shows nothing. Raises InvalidContext."""
        if not context:
            return
        ours = self._seen.get(name_hash, {})
        joined = merge_vectors(ours, decode_history(context, name_hash))
        self._size_bytes += (len(joined) - len(ours)) * VECTOR_ENTRY_SIZE_BYTES
        self._seen[name_hash] = joined

    def encode(self) -> bytes:
        """Return the token. Raises SessionFull."""
        if self._size_bytes > SESSION_SIZE_BYTES_MAX:
            raise SessionFull(
                "the session has seen too much", size_bytes=self._size_bytes, limit_bytes=SESSION_SIZE_BYTES_MAX
            )
        known = sorted((name_hash, vector) for name_hash, vector in self._seen.items() if vector)
        body = [_HEAD.pack(TOKEN_FORMAT, self.cluster_id if known else _NO_CLUSTER)]
        for name_hash, vector in known:
            body += (_OBJECT.pack(name_hash, len(vector)), encode_vector(vector))
        packed = b"".join(body)
        return packed + xxh3_64_digest(packed)

    @classmethod
    def decode(cls, token: bytes) -> SessionState:
        """Return the state that a token carries; `InvalidSession` if it is anything else."""
        body = _checked(token)
        _, cluster_id = _HEAD.unpack_from(body)
        state, at = cls(), _HEAD.size
        while at < len(body):
            at = state._take(body, at)
        if (cluster_id == _NO_CLUSTER) != (not state._seen):
            raise InvalidSession("a session of no cluster has seen nothing")
        state.cluster_id = b"" if cluster_id == _NO_CLUSTER else cluster_id
        return state

    def _take(self, body: bytes, at: int) -> int:
        """Read one object and return where the next begins."""
        if len(body) - at < _OBJECT.size:
            raise InvalidSession("the token of a session ends too early")
        name_hash, entries = _OBJECT.unpack_from(body, at)
        start = at + _OBJECT.size
        end: int = start + entries * VECTOR_ENTRY_SIZE_BYTES
        if not entries or end > len(body):
            raise InvalidSession("the token of a session ends too early")
        if len(self._seen) >= SESSION_OBJECTS_COUNT_MAX or (self._seen and name_hash <= next(reversed(self._seen))):
            raise InvalidSession("the token of a session has too many objects, or they are not in order")
        try:
            self._seen[name_hash] = decode_vector(body[start:end])
        except DecodeError as problem:
            raise InvalidSession(f"broken token of a session: {problem.message}") from None
        self._size_bytes += end - at
        return end


def _checked(token: bytes) -> bytes:
    """Return a token without its checksum, of our format."""
    size_bytes_max = _HEAD.size + SESSION_SIZE_BYTES_MAX + _CHECKSUM_BYTES
    if not isinstance(token, bytes) or not _HEAD.size + _CHECKSUM_BYTES <= len(token) <= size_bytes_max:
        raise InvalidSession("not the token of a session")
    if token[0] != TOKEN_FORMAT:
        raise InvalidSession(f"the token has format {token[0]}, this build reads {TOKEN_FORMAT}")
    body, checksum = token[:-_CHECKSUM_BYTES], token[-_CHECKSUM_BYTES:]
    if xxh3_64_digest(body) != checksum:
        raise InvalidSession("the token of a session is damaged")
    return body
