"""The error tree as gRPC sees it: a status for what any client understands, and an `Error` message for the whole truth.

    KVStoreError ──status_name──► "UNAVAILABLE"            what retry policies and people look at
                 ──error_trailer─► kvstore-error-bin        code, definite, retryable, retry_after_s, numbers, operation id

Invariants
  1. What is not definite has one of MAYBE_APPLIED, whose names promise nothing; of what is definite, only `ReadTimeout` (which
     changed nothing) and no write has one of them.
  2. A trailer has at most TRAILER_SIZE_BYTES_MAX, whatever an error says: one that is larger than what the other side takes
     as metadata would cost it the error.
The table is told to users in proto/kvstore/v1/registers.proto; tests compare the two.
"""

from __future__ import annotations

from itertools import islice

from kvstore.errors import (
    ClientError,
    ConditionFailed,
    Corruption,
    DataDirectoryInUse,
    DecodeError,
    DiskFull,
    IndeterminateError,
    InsufficientNodes,
    InternalError,
    InvalidArgument,
    InvalidContext,
    KVStoreError,
    Overloaded,
    ReadError,
    ReadTimeout,
    StorageError,
    SuspectStore,
    Timeout,
    UnavailableError,
    UnknownVerb,
    ValueTooLarge,
)
from kvstore.v1 import registers_pb2 as pb

__all__ = ["ERROR_TRAILER", "MAYBE_APPLIED", "TRAILER_SIZE_BYTES_MAX", "as_read_error", "error_trailer", "status_name"]

ERROR_TRAILER = "kvstore-error-bin"
TRAILER_SIZE_BYTES_MAX = 3_000
"""A third more as base64, and still half of the 8 KiB that gRPC's implementations take as metadata by default."""
MESSAGE_SIZE_BYTES_MAX = 1_000
DETAILS_COUNT_MAX, DETAIL_SIZE_BYTES_MAX = 12, 60
MAYBE_APPLIED = frozenset({"UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED"})
_INT64_MAX = (1 << 63) - 1
_STATUS: dict[type, str] = {
    KVStoreError: "INTERNAL",
    ClientError: "FAILED_PRECONDITION",
    InvalidArgument: "INVALID_ARGUMENT",
    InvalidContext: "INVALID_ARGUMENT",
    DecodeError: "INVALID_ARGUMENT",
    ValueTooLarge: "INVALID_ARGUMENT",
    UnknownVerb: "UNIMPLEMENTED",
    UnavailableError: "UNAVAILABLE",
    InsufficientNodes: "FAILED_PRECONDITION",
    Overloaded: "RESOURCE_EXHAUSTED",
    DiskFull: "RESOURCE_EXHAUSTED",
    IndeterminateError: "UNKNOWN",
    Timeout: "DEADLINE_EXCEEDED",
    ReadError: "UNAVAILABLE",
    ReadTimeout: "DEADLINE_EXCEEDED",
    ConditionFailed: "FAILED_PRECONDITION",
    StorageError: "UNKNOWN",
    Corruption: "DATA_LOSS",
    SuspectStore: "FAILED_PRECONDITION",
    DataDirectoryInUse: "FAILED_PRECONDITION",
    InternalError: "INTERNAL",
}


def status_name(error: KVStoreError) -> str:
    """Return the name of the gRPC status: that of the error's own class, or of the nearest one above it."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def as_read_error(error: KVStoreError) -> KVStoreError:
    """Return how a read says it: a lost or late answer changed nothing, so it is not indefinite."""
    if isinstance(error, Timeout):
        return ReadTimeout(error.message, **error.details)
    if isinstance(error, IndeterminateError):
        return ReadError(error.message, **error.details)
    return error


def error_trailer(error: KVStoreError, *, is_read: bool = False, operation_id: bytes = b"") -> bytes:
    """Return the serialised `Error`. A failed read is definite whatever failed, and another replica has its own disk."""
    wire = pb.Error(
        code=error.code, definite=error.definite or is_read, message=_cut(error.message, MESSAGE_SIZE_BYTES_MAX),
        retryable=error.retryable or (is_read and isinstance(error, StorageError)), operation_id=operation_id,
    )  # fmt: skip
    for name, value in islice(error.details.items(), DETAILS_COUNT_MAX):
        _add_detail(wire, _cut(name, DETAIL_SIZE_BYTES_MAX), value)
    return wire.SerializeToString()


def _add_detail(wire: pb.Error, name: str, value: object) -> None:
    if name == "retry_after_s" and isinstance(value, int | float):
        wire.retry_after_s = value
    elif type(value) is int and -_INT64_MAX <= value <= _INT64_MAX:
        wire.numbers[name] = value
    elif value is not None:
        text = value.hex() if isinstance(value, bytes) else str(value)
        wire.texts[name] = _cut(text, DETAIL_SIZE_BYTES_MAX)


def _cut(text: str, size_bytes_max: int) -> str:
    return text[:size_bytes_max].encode("utf-8", "replace")[:size_bytes_max].decode("utf-8", "ignore")
