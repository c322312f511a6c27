"""The part of an event loop that a simulation refuses: threads, sockets, signals, subprocesses, and asyncio's debug mode."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

__all__ = ["SealedLoop", "SimulationError"]


class SimulationError(Exception):
    """The simulated program did something a simulation cannot allow."""


def _refused(what: str) -> Any:
    """Return a method that refuses. (Any, because these stand in for three dozen signatures.)"""

    def refuse(*_args: object, **_options: object) -> NoReturn:
        raise SimulationError(f"no {what} in a simulation: go through the Env, whose simulated twin has none")

    return refuse


class SealedLoop(asyncio.AbstractEventLoop):
    """Nothing here blocks, and nothing leaves the thread."""

    run_in_executor = set_default_executor = _refused("threads")
    add_signal_handler = remove_signal_handler = _refused("signals")
    subprocess_exec = subprocess_shell = _refused("subprocesses")
    connect_read_pipe = connect_write_pipe = _refused("pipes")
    getaddrinfo = getnameinfo = create_connection = create_server = _refused("sockets")
    create_unix_connection = create_unix_server = create_datagram_endpoint = start_tls = _refused("sockets")
    connect_accepted_socket = sendfile = add_reader = remove_reader = add_writer = remove_writer = _refused("sockets")
    sock_recv = sock_recv_into = sock_recvfrom = sock_recvfrom_into = _refused("sockets")
    sock_sendall = sock_sendto = sock_connect = sock_accept = sock_sendfile = _refused("sockets")
    set_task_factory = get_task_factory = _refused("task factories")
    set_exception_handler = get_exception_handler = _refused("exception handlers")

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        if enabled:
            raise SimulationError("asyncio debug mode measures real time: not in a simulation")

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: abandoned generators are closed as soon as their last reference goes."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is no executor."""
