"""Addresses of a cluster: `kv://host:port,host:port/?option=value&...`. Any of the nodes will do; the rest is discovered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlsplit

from kvstore.errors import InvalidArgument
from kvstore.ring.member import ADDRESS_LENGTH_MAX

__all__ = ["DEFAULT_PORT", "SEEDS_COUNT_MAX", "parse_address", "parse_seeds", "parse_url"]

DEFAULT_PORT = 7400
SEEDS_COUNT_MAX = 64
"""One connection is opened to each seed; a handful is enough to find any cluster."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def parse_address(text: str) -> str:
    """Return `host:port` with the default port filled in; `InvalidArgument` if it is not an address."""
    found = _ADDRESS.fullmatch(text.strip())
    port = int(found[2] or DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 65_536 or len(text) > ADDRESS_LENGTH_MAX:
        raise InvalidArgument(f"not an address: {text!r} (want host:port)")
    return f"{found[1]}:{port}"


def parse_seeds(seeds: str | Iterable[str]) -> tuple[str, ...]:
    """Return seed addresses in order, each once, from a list or from text with commas."""
    parts = seeds.split(",") if isinstance(seeds, str) else list(seeds)
    addresses = tuple(dict.fromkeys(parse_address(part) for part in parts))
    if not 1 <= len(addresses) <= SEEDS_COUNT_MAX:
        raise InvalidArgument(f"give 1 to {SEEDS_COUNT_MAX} seed addresses", seeds=len(addresses))
    return addresses


def parse_url(url: str) -> tuple[tuple[str, ...], dict[str, object]]:
    """Return (seeds, options as text). `InvalidArgument` for anything that is not exactly such a URL."""
    parts = urlsplit(url)
    if parts.scheme != "kv" or not parts.netloc:
        raise InvalidArgument(f"not a cluster URL: {url!r} (want kv://host:port,host:port/?timeout=500ms)")
    if parts.path not in ("", "/") or parts.fragment or "@" in parts.netloc:
        raise InvalidArgument(f"a cluster URL has no user, path or fragment: {url!r}")
    return parse_seeds(parts.netloc), _options(parts.query)


def _options(query: str) -> dict[str, object]:
    try:
        pairs: Sequence[tuple[str, str]] = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as problem:
        raise InvalidArgument(f"unreadable options: {query!r} ({problem})") from None
    options: dict[str, object] = dict(pairs)
    if len(options) != len(pairs):
        raise InvalidArgument("an option is given twice", options=[name for name, _ in pairs])
    return options
