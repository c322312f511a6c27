"""Values as clients write them, and the short names by which histories and judges know them.

    3:17                          a small value is its own name: process 3, its 17th
    3:17|300000|9f1c…             a large one begins with its name and size; the rest follows from these

A history then stays small, and a value that comes back cut, swapped or mixed with another's chunks is not what its name says:
it is shown under a name that nobody ever wrote, which the judge of phantoms flags.
"""

from __future__ import annotations

import hashlib
import random

from jepsen_lite.history import text_of

__all__ = ["name_of", "payload", "shown_as", "stored_name"]

SEPARATOR = "|"
HEAD_BYTES_MAX = 64
"""A name and a size are far shorter."""


def payload(name: str, size_bytes: int = 0) -> bytes:
    """Return the value called `name`, padded to `size_bytes` if that is more. The padding differs from place to place."""
    head = f"{name}{SEPARATOR}{size_bytes}{SEPARATOR}".encode()
    missing = size_bytes - len(head)
    if missing <= 0:
        return name.encode()
    return head + random.Random(name).randbytes((missing + 1) // 2).hex().encode()[:missing]


def name_of(text: str) -> str:
    """Return the name of a value from its text, without looking at the padding."""
    return text.partition(SEPARATOR)[0]


def stored_name(value: bytes) -> str:
    """Return the name under which nodes hold a value: `name_of` its text, without making text of a large one."""
    return text_of(value.partition(SEPARATOR.encode())[0])


def shown_as(value: bytes) -> str:
    """Return the name of a value that was read, or words that are no name if the value is not the one of that name."""
    name, _, rest = value[:HEAD_BYTES_MAX].partition(SEPARATOR.encode())
    if not rest:
        return text_of(value)
    size = rest.partition(SEPARATOR.encode())[0]
    if size.isdigit() and payload(text_of(name), int(size)) == value:
        return text_of(name)
    return f"broken {text_of(name)} ({len(value)} bytes, {hashlib.sha256(value).hexdigest()[:12]})"
