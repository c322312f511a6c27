"""Peers that do what a test tells them: a service whose answer is written in the key of each request, and its server.

b"echo"            OK with the same body, at once            b"silent"      no answer
b"late 0.5"        OK after 0.5 s                            b"applied"     APPLIED, and OK a little later
b"applied only"    APPLIED and nothing else                  b"error"       a typed error
b"double"          OK twice (a bug of the other side)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from jepsen_lite.sim.loop import VirtualLoop
from kvstore.env import Listener
from kvstore.errors import KVStoreError, NotFound
from kvstore.messages import Status, Verb
from kvstore.transport.frames import Hello
from kvstore.transport.memory import MemoryNetwork
from kvstore.transport.session import Request, Session

__all__ = ["ADDRESS", "HELLO", "ScriptedService", "run", "serve"]

ADDRESS = "peer:7001"
HELLO = Hello(cluster_id=b"c" * 16, node_id=b"n" * 8, boot_number=1, topology_epoch=3, address=ADDRESS)


def run(main: Callable[[], Coroutine[Any, Any, None]], *, seed: int = 1) -> None:
    """Run a test on virtual time; it fails if any callback or task failed unseen."""
    VirtualLoop(random.Random(seed), charge_s=1e-6).run(main(), until_s=10_000)


class ScriptedService:
    """A `Service`. `refusal`: what answers a HELLO instead of its own; `is_mute`: nothing answers it."""

    def __init__(self) -> None:
        self.epoch = 3
        self.refusal: KVStoreError | None = None
        self.is_mute = False
        self.sessions: list[Session] = []
        self.handled: list[Request] = []
        self.closed_count = 0

    def topology_epoch(self) -> int:
        return self.epoch

    def admit(self, session: Session, hello: Hello) -> None:
        self.sessions.append(session)
        if self.refusal is not None:
            session.refuse(self.refusal)
        elif not self.is_mute:
            session.welcome(HELLO)

    def handle(self, session: Session, requests: Sequence[Request]) -> None:
        for request in requests:
            if request[1] == Verb.PING:
                session.reply(request[0], Status.OK, b"")
            else:
                self.handled.append(request)
                self._answer(session, request)

    def closed(self, session: Session) -> None:
        self.closed_count += 1

    def _answer(self, session: Session, request: Request) -> None:
        operation_id, _, _, _, key, body = request
        command, _, delay_s = key.partition(b" ")
        if key in (b"echo", b"double"):
            session.reply(operation_id, Status.OK, body)
        if key == b"double":
            session.reply(operation_id, Status.OK, body)
        if command == b"applied":
            session.reply(operation_id, Status.APPLIED, b"")
        if key == b"applied":
            asyncio.get_running_loop().call_later(0.01, session.reply, operation_id, Status.OK, body)
        if command == b"late":
            asyncio.get_running_loop().call_later(float(delay_s), session.reply, operation_id, Status.OK, body)
        if key == b"error":
            session.reply_error(operation_id, NotFound("no such thing", key="k"))


async def serve(network: MemoryNetwork, service: ScriptedService) -> Listener:
    """Serve `service` at ADDRESS of the network."""
    return await network.transport("peer").serve(ADDRESS, lambda connection: Session(connection, service))
