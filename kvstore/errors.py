"""Every error the product raises, as one tree: what went wrong, with its numbers, and whether it may have happened.

    KVStoreError
    ├─ ClientError              caller's fault, nothing happened
    ├─ UnavailableError         refused before any replica was asked, nothing happened
    ├─ IndeterminateError       may have taken effect, now or later
    ├─ ReadError                reads change nothing: definite
    ├─ ConditionFailed          precondition false, nothing happened
    ├─ StorageError             the disk; `SyncFailed` poisons the engine until restart
    └─ InternalError            a bug

Invariants
  1. `definite` is True only if the operation did not and will not take effect. Doubt means False.
  2. Errors cross the wire by `code`; an unknown code decodes to `InternalError` with the original code kept.
  3. `details` holds only msgpack scalars (or lists of them), so any error can travel.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgpack

__all__ = [
    "ClientError", "ClockSkew", "ClusterMismatch", "ConditionFailed", "ConfigError", "CoordinatorLost", "Corruption",
    "DataDirectoryInUse", "DecodeError", "DiskFull", "IndeterminateError", "InsufficientNodes", "InternalError",
    "InvalidArgument", "InvalidContext", "JoinRefused", "KVStoreError", "NoSuchBucket", "NotFound", "NotReady",
    "Overloaded", "ProtocolMismatch", "ReadError", "ReadQuorumUnsatisfied", "ReadTimeout", "SessionNotSatisfied", "Siblings",
    "StalePlacement", "StaleIdentity", "StorageError", "SuspectStore", "SyncFailed", "Timeout", "TooManySiblings", "Unavailable",
    "UnavailableError", "UnknownVerb", "ValueTooLarge", "WriteQuorumUnsatisfied", "WrongOwner", "error_from_wire",
    "error_to_wire",
]  # fmt: skip

MESSAGE_LENGTH_MAX = 1_000
ERROR_SIZE_BYTES_MAX = 16_384
"""Bounds what a hostile error reply can make a decoder allocate."""


class KVStoreError(Exception):
    """Base of all errors. `details` are the numbers that explain it and are readable as attributes."""

    code: ClassVar[str] = "error"
    definite: ClassVar[bool] = False
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __getattr__(self, name: str) -> Any:
        details: dict[str, Any] = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    @property
    def maybe_applied(self) -> bool:
        """True if the operation may have taken effect, or may yet."""
        return not self.definite

    def __str__(self) -> str:
        numbers = ", ".join(f"{name}={value!r}" for name, value in self.details.items() if value is not None)
        return f"{self.message} ({numbers})" if numbers else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.details))


def _rebuild(kind: type[KVStoreError], message: str, details: dict[str, Any]) -> KVStoreError:
    return kind(message, **details)


class ClientError(KVStoreError):
    """The caller's fault; nothing happened."""

    code, definite, exit_code = "client_error", True, 2


class InvalidArgument(ClientError):
    """An argument is of the wrong shape or out of bounds, or an operation id was reused for another value."""

    code = "invalid_argument"


class InvalidContext(ClientError):
    """The context is unreadable, belongs to another key, or is the unusable one a put with siblings returned."""

    code = "invalid_context"


class ClockSkew(ClientError):
    """A timestamp is further ahead than `max_clock_skew_s` allows."""

    code = "clock_skew"


class ValueTooLarge(ClientError):
    """A key, value or record exceeds its limit: `size_bytes`, `limit_bytes`."""

    code = "value_too_large"


class TooManySiblings(ClientError):
    """The object already holds `siblings` concurrent values (limit `limit`): read, resolve and write with the context."""

    code = "too_many_siblings"


class NoSuchBucket(ClientError):
    """The bucket was never created, or does not allow the type; the message names the command that creates it."""

    code = "no_such_bucket"


class NotFound(ClientError):
    """The object does not exist (raised by accessors and commands; reads return an empty result instead)."""

    code, exit_code = "not_found", 3


class Siblings(ClientError):
    """A single value was asked for but there are `count` concurrent ones: use `.siblings` or a resolver."""

    code, exit_code = "siblings", 7


class DecodeError(ClientError):
    """Bytes from outside do not follow their format, or exceed a limit of it. Nothing was changed."""

    code = "decode_error"


class UnknownVerb(ClientError):
    """The other side does not know this operation (it is older): only this operation failed."""

    code = "unknown_verb"


class ProtocolMismatch(ClientError):
    """The two sides share no protocol version."""

    code = "protocol_mismatch"


class ClusterMismatch(ClientError):
    """The peer belongs to another cluster."""

    code = "cluster_mismatch"


class StaleIdentity(ClientError):
    """A node presented a boot number that was already used: its data directory is a copy or was rolled back."""

    code = "stale_identity"


class JoinRefused(ClientError):
    """The cluster cannot take the node in as it is now; the message says why and what to do."""

    code = "join_refused"


class ConfigError(ClientError):
    """A flag, environment variable or configuration file is unusable."""

    code = "config_error"


class UnavailableError(KVStoreError):
    """Refused before any replica was asked: nothing happened, and it is safe to try again."""

    code, definite, retryable, exit_code = "unavailable_error", True, True, 4


class Unavailable(UnavailableError):
    """Fewer owners are reachable (`alive`) than the operation needs (`needed`). It was not tried."""

    code = "unavailable"


class InsufficientNodes(Unavailable):
    """The cluster has fewer members than the explicit consistency asks for."""

    code, retryable = "insufficient_nodes", False


class NotReady(UnavailableError):
    """The node is starting, joining or draining; `retry_after_s` says when to ask again."""

    code = "not_ready"


class Overloaded(UnavailableError):
    """A named bound is reached; `retry_after_s` says when to ask again. Nothing was applied."""

    code = "overloaded"


class WrongOwner(UnavailableError):
    """The node does not own the key in the topology it knows (`topology_epoch`)."""

    code = "wrong_owner"


class StalePlacement(UnavailableError):
    """The request was planned with an older placement of its partition than the replica has durably adopted."""

    code = "stale_placement"


class DiskFull(UnavailableError):
    """The node's disk is below its low-space watermark: writes are refused before they are applied, reads go on."""

    code = "disk_full"


class IndeterminateError(KVStoreError):
    """It may have taken effect, or may yet."""

    code, definite, retryable, exit_code = "indeterminate", False, True, 5


class Timeout(IndeterminateError):
    """The deadline passed after the operation was sent. `acked` of `needed` replicas had answered, if known."""

    code = "timeout"


class WriteQuorumUnsatisfied(IndeterminateError):
    """The write was applied by `acked` replicas and cannot reach `needed`. It may survive and spread."""

    code = "write_quorum_unsatisfied"


class CoordinatorLost(IndeterminateError):
    """The connection to the coordinator broke while the operation was under way."""

    code = "coordinator_lost"


class ReadError(KVStoreError):
    """A read failed; it changed nothing."""

    code, definite, retryable, exit_code = "read_error", True, True, 4


class ReadQuorumUnsatisfied(ReadError):
    """Only `replied` of the `needed` replicas could answer the read."""

    code = "read_quorum_unsatisfied"


class SessionNotSatisfied(ReadError):
    """None of the `replied` of `n` owners, nor all of them together, has seen what the session has: `lacking` actors of it."""

    code = "session_not_satisfied"


class ReadTimeout(ReadError):
    """The deadline passed before `needed` replicas answered the read."""

    code, exit_code = "read_timeout", 5


class ConditionFailed(KVStoreError):
    """The precondition is false; nothing happened."""

    code, definite, exit_code = "condition_failed", True, 6


class StorageError(KVStoreError):
    """The storage engine of a node failed. Unless a subclass says otherwise the operation may have been applied there; another
    node need not share the trouble."""

    code, retryable = "storage_error", True


class Corruption(StorageError):
    """A record or block failed its checksum. It was not served; it is not "not found"."""

    code, definite, retryable = "corruption", True, True


class SyncFailed(StorageError):
    """An fsync failed: the engine is poisoned, acknowledges nothing more, and the process ends."""

    code = "sync_failed"


class SuspectStore(StorageError):
    """The store had a failed fsync or refuses to open; it must be replaced by a new node."""

    code, definite = "suspect_store", True


class DataDirectoryInUse(StorageError):
    """Another process holds the lock of the data directory."""

    code, definite, exit_code = "data_directory_in_use", True, 2


class InternalError(KVStoreError):
    """A bug; please report. Never retried."""

    code = "internal"


def _tree(kind: type[KVStoreError]) -> dict[str, type[KVStoreError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found.update(_tree(child))
    return found


_BY_CODE = _tree(KVStoreError)


def error_to_wire(error: KVStoreError) -> bytes:
    """Encode an error for a reply body: msgpack `[code, message, details]`, message cut to MESSAGE_LENGTH_MAX."""
    packed: bytes = msgpack.packb([error.code, error.message[:MESSAGE_LENGTH_MAX], error.details])
    return packed


def _is_detail(value: Any) -> bool:
    if type(value) is list:
        return all(type(each) not in (list, dict) for each in value)
    return type(value) is not dict  # msgpack makes nothing else that nests


def error_from_wire(body: bytes) -> KVStoreError:
    """Decode a reply body made by `error_to_wire`; anything unreadable becomes an `InternalError` that says so."""
    try:
        if len(body) > ERROR_SIZE_BYTES_MAX:
            raise ValueError(f"{len(body)} bytes")
        code, message, details = msgpack.unpackb(body, max_array_len=64, max_map_len=32, max_ext_len=0)
        if not (isinstance(code, str) and isinstance(message, str) and isinstance(details, dict)):
            raise ValueError("wrong field types")
        details = {str(name): value for name, value in details.items()}
        if not all(_is_detail(value) for value in details.values()):
            raise ValueError("details that are neither scalars nor lists of them")
    except (ValueError, TypeError, msgpack.UnpackException) as problem:
        return InternalError(f"unreadable error reply: {problem}")
    kind = _BY_CODE.get(code)
    if kind is None:
        return InternalError(f"{code}: {message}", **details)
    return kind(message, **details)
