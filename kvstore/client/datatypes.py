"""Keys and values of users as bytes: msgpack on the wire, and checked types in Python where a bucket has one.

    put   value ──msgspec.to_builtins──► bytes, str, numbers, None, lists, dicts ──msgpack──► wire
    get   wire  ──msgpack──► builtins ──msgspec.convert──► value                (without a type both middle steps fall away)

Typed: anything msgspec knows (dataclass, attrs, msgspec.Struct, TypedDict, NamedTuple, list[int], ...). A typed put checks
that what it writes can be read back as the type, because a wrong value would otherwise fail in somebody else's get.
Untyped: a tuple comes back as a list, since msgpack knows one kind of sequence.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgpack
import msgspec

from kvstore.errors import DecodeError, InvalidArgument, ValueTooLarge
from kvstore.flat import check_whole
from kvstore.limits import VALUE_DEPTH_MAX, VALUE_SIZE_BYTES_MAX

__all__ = ["Codec", "Key", "key_bytes"]

Key = str | bytes
"""A str stands for its UTF-8 bytes: "a" and b"a" are one key."""

T = TypeVar("T")
_CONTAINERS = (list, tuple, dict)
_PROMISES_BYTES_MAX = 2 * 1024
"""Below this, what the headers of a value promise is at most 16 MB and not worth a second look."""
_PACK_BUFFER_BYTES = 8 * 1024
"""A packer keeps its buffer; most values are far smaller, and it grows by itself for the others."""


def key_bytes(key: Key) -> bytes:
    """Return the bytes of a key. Emptiness and length are checked where the object's name is made."""
    if type(key) is bytes:
        return key
    if not isinstance(key, str):
        raise InvalidArgument(f"a key is str or bytes, not {type(key).__name__}")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("a str key must be encodable as UTF-8") from None


class Codec(Generic[T]):
    """Encodes and decodes the values of one bucket; `value_type` None means no conversion. Not for two threads at once."""

    __slots__ = ("_pack", "_type")

    def __init__(self, value_type: Any = None) -> None:
        self._type = value_type
        self._pack = msgpack.Packer(autoreset=True, buf_size=_PACK_BUFFER_BYTES).pack

    def encode(self, value: T) -> bytes:
        """Return the value's bytes. Raises InvalidArgument or ValueTooLarge; nothing was sent then."""
        plain: Any = value if self._type is None else self._plain(value)
        if isinstance(plain, _CONTAINERS):
            _check_depth(plain, 1)
        try:
            packed: bytes = self._pack(plain)
        except (ValueError, TypeError, OverflowError, RecursionError) as problem:
            raise InvalidArgument(f"the value cannot be written as msgpack: {problem}") from None
        if len(packed) > VALUE_SIZE_BYTES_MAX:
            raise ValueTooLarge("the value is too large", size_bytes=len(packed), limit_bytes=VALUE_SIZE_BYTES_MAX)
        return packed

    def decode(self, packed: bytes) -> T:
        """Return the value; `DecodeError` if the bytes are not msgpack or not of the bucket's type."""
        try:
            if len(packed) > _PROMISES_BYTES_MAX:
                check_whole(packed)
            plain = msgpack.unpackb(packed, strict_map_key=False, max_ext_len=0)
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as problem:
            raise DecodeError(f"the stored value is not msgpack: {problem}") from None
        if self._type is None:
            return plain  # type: ignore[no-any-return]  # an untyped bucket is a bucket of Any
        try:
            return msgspec.convert(plain, self._type)  # type: ignore[no-any-return]  # the type is a run-time value
        except msgspec.ValidationError as problem:
            raise DecodeError(f"the stored value is not a {_name_of(self._type)}: {problem}") from None

    def copy(self) -> Codec[T]:
        """Return a codec of the same type for another thread."""
        return Codec(self._type)

    def _plain(self, value: T) -> Any:
        try:
            plain = msgspec.to_builtins(value, builtin_types=(bytes,))
            msgspec.convert(plain, self._type)
        except (msgspec.ValidationError, TypeError, RecursionError) as problem:
            raise InvalidArgument(f"the value is not a {_name_of(self._type)}: {problem}") from None
        return plain


def _name_of(value_type: Any) -> str:
    return getattr(value_type, "__qualname__", None) or str(value_type)


def _check_depth(container: Any, depth: int) -> None:
    """Refuse what nests deeper than VALUE_DEPTH_MAX, which also ends the walk over a list that holds itself."""
    if depth > VALUE_DEPTH_MAX:
        raise InvalidArgument("the value nests too deeply", depth_max=VALUE_DEPTH_MAX)
    if isinstance(container, dict):
        if any(isinstance(key, tuple) for key in container):
            raise InvalidArgument("a tuple cannot be a key of a dict: msgpack reads it back as a list")
        container = container.values()
    for item in container:
        if isinstance(item, _CONTAINERS):
            _check_depth(item, depth + 1)
