"""kvstore: one key, one node, one client of a leaderless replicated key-value store. Users import this package only.

    from kvstore import AsyncClient, Client, Consistency, errors, resolvers

    with Client.from_url("kv://localhost:7400") as kv:
        kv.put("k", {"n": 1.5})
        print(kv.get("k").value)

Rule for editing: what is not in `__all__` is not public, however easily it can be imported. The client is loaded when it is
first named: a node imports modules of this package on its way up and has no use for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore import errors
    from kvstore.client import resolvers
    from kvstore.client.client import AsyncClient
    from kvstore.client.consistency import Consistency
    from kvstore.client.sync import Client

__all__ = ["AsyncClient", "Client", "Consistency", "__version__", "errors", "resolvers"]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "kvstore.client.client",
    "Client": "kvstore.client.sync",
    "Consistency": "kvstore.client.consistency",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "resolvers":
        return import_module("kvstore.client.resolvers")
    if name not in _HOMES:
        raise AttributeError(f"module 'kvstore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
