"""gRPC, loaded so that it does its input and output in the thread that waits for it.

By default gRPC reads and writes sockets in a pool of threads of its own ("event engine") and hands every message from thread to
thread. For small messages that costs as much as the messages: with 250 connections, one message in flight on each, a round trip
took 131 us of CPU at the server and 128 at the client; without it 75 and 78. The older way is still there, behind names of
experiments that are read once, when the library is loaded; so this module is imported before it.

Nothing is changed if the program loaded grpc before us, if GRPC_EXPERIMENTS is set (the operator's word), or if the version is
one that nobody tried: an unknown name makes gRPC complain on stderr.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

__all__ = ["EXPERIMENTS", "VARIABLE"]

VARIABLE = "GRPC_EXPERIMENTS"
EXPERIMENTS = "-event_engine_listener,-event_engine_client"
TRIED = ((1, 62), (1, 85))
"""First and last version whose stderr stayed empty with these names."""


def _wants_experiments() -> bool:
    if "grpc" in sys.modules or VARIABLE in os.environ:
        return False
    major, minor = version("grpcio").split(".")[:2]
    return TRIED[0] <= (int(major), int(minor)) <= TRIED[1]


_is_chosen = _wants_experiments()
if _is_chosen:
    os.environ[VARIABLE] = EXPERIMENTS
try:
    import grpc  # noqa: F401
finally:
    if _is_chosen:
        del os.environ[VARIABLE]
