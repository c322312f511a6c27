"""How gRPC is loaded: quietly, the way we want it, unless somebody else decided."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvstore.transport.grpc_loader import EXPERIMENTS, VARIABLE

SHOW = """
import os, sys
{first}
seen = []


def hook(event, args):
    if event == "import" and args[0] == "grpc":
        seen.append(os.environ.get("GRPC_EXPERIMENTS"))


sys.addaudithook(hook)
import kvstore.transport.grpc_transport
import asyncio, grpc.aio
asyncio.run(grpc.aio.insecure_channel("127.0.0.1:1").close())
print(seen[:1], os.environ.get("GRPC_EXPERIMENTS"))
"""


def load(first: str = "", **environment: str) -> tuple[str, str]:
    """Load the transport in a new process; returns what it printed and its stderr."""
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE} | environment
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(first=first)], env=environ, capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


def test_grpc_is_loaded_without_its_thread_pool_and_nothing_is_left_in_the_environment() -> None:
    """And it knows the names it was given: it complains on stderr of those that it does not."""
    assert load() == (f"[{EXPERIMENTS!r}] None", "")


@pytest.mark.parametrize(
    ("first", "environment", "shown"),
    [
        ("", {VARIABLE: "-event_engine_fork"}, "['-event_engine_fork'] -event_engine_fork"),
        ("import grpc", {}, "[] None"),
    ],
    ids=["the operator's word", "loaded before us"],
)
def test_what_somebody_else_decided_stays(first: str, environment: dict[str, str], shown: str) -> None:
    """We are one library of a process among others."""
    assert load(first, **environment) == (shown, "")
