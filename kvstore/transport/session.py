"""The answering side of one connection: admits the peer, hands whole operations to a service, gathers replies.

    accepted ──HELLO──► admitting ──welcome──► open ──► closed
       ├── GREETING_TIMEOUT_S ──┐
       └──── a bad frame ───┴──refuse──► refused ──the peer hangs up, or REFUSED_LINGER_S──► closed

A frame that cannot be decoded ends the connection with a typed refusal; nothing of it was handled. `Connection.close` may
drop what is queued, so a refused connection lingers until the peer has read why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.env import Connection
from kvstore.errors import DecodeError, KVStoreError, ProtocolMismatch, Unavailable, error_to_wire
from kvstore.limits import CHUNK_SIZE_BYTES_MAX, GREETING_TIMEOUT_S
from kvstore.messages import PROTOCOL_VERSION, Status, Verb
from kvstore.transport.chunks import Reassembly, split
from kvstore.transport.coalescer import Coalescer
from kvstore.transport.frames import (
    REQUEST_FIRST,
    REQUEST_STRIDE,
    FrameKind,
    Hello,
    decode_frame,
    encode_frame,
    hello_fields,
    hello_from,
)
from kvstore.transport.lateness import Lateness

__all__ = ["REFUSED_LINGER_S", "Request", "Service", "Session"]

REFUSED_LINGER_S = 1.0
"""How long a refused peer has to read the refusal and hang up by itself."""

_APPLIED = int(Status.APPLIED)
Request = tuple[int, int, int, int, bytes, bytes]
"""(id, verb, placement_version, remaining_ms, key, body)"""


class Service(Protocol):
    """What a node does with a connection."""

    def topology_epoch(self) -> int:
        """Return the newest topology epoch known here; it rides on every frame of replies."""

    def admit(self, session: Session, hello: Hello) -> None:
        """Decide about a peer, now or later, by `session.welcome` or `session.refuse`."""

    def handle(self, session: Session, requests: Sequence[Request]) -> None:
        """Handle the operations of one frame in order. Every one is answered by `session.reply`, now or later."""

    def closed(self, session: Session) -> None:
        """The connection ended; replies to it are dropped from now on."""


class Session:
    """One accepted connection. `hello` is the peer's, once it spoke."""

    __slots__ = ("_chaos", "_chunk_bytes", "_coalescer", "_connection", "_greeting_due", "_is_refused", "_lateness",
                 "_loop", "_open", "_parts", "_service", "_unanswered", "hello", "late_s")  # fmt: skip

    def __init__(self, connection: Connection, service: Service, *, chaos: Chaos = CALM) -> None:
        self._connection, self._service, self._chaos = connection, service, chaos
        self._coalescer = Coalescer(connection.send, self._header, chaos=chaos)
        self._chunk_bytes = chaos.pick(Point.CHUNK_SMALL, CHUNK_SIZE_BYTES_MAX, 300, 4_000)
        self._parts = Reassembly()
        self._open = self._is_refused = False
        self._unanswered = 0
        self._loop, self._lateness = asyncio.get_running_loop(), Lateness()
        self._greeting_due = self._loop.call_later(GREETING_TIMEOUT_S, self._not_greeted)
        self.hello: Hello | None = None
        self.late_s = 0.0
        """How long the frame that is handled now waited on its way: its operations have that much less time left."""

    @property
    def peer(self) -> str:
        """Address of the other side, for messages."""
        return self._connection.peer

    @property
    def is_open(self) -> bool:
        """Whether the peer was admitted and is still there."""
        return self._open

    def welcome(self, ours: Hello) -> None:
        """Admit the peer: from now on its requests are handled. Without effect once it was refused."""
        if self._is_refused:
            return
        self._open = True
        self._connection.send(encode_frame(hello_fields(ours)))

    def refuse(self, error: KVStoreError) -> None:
        """Tell the peer why, and end the connection."""
        self._greeting_due.cancel()
        self._open, self._is_refused = False, True
        self._connection.send(encode_frame([FrameKind.REFUSED, error_to_wire(error)]))
        asyncio.get_running_loop().call_later(REFUSED_LINGER_S, self._connection.close, error)

    def reply(self, operation_id: int, status: int, body: bytes) -> None:
        """Queue one reply; a body too large for a frame goes in chunks. Dropped if the connection is gone."""
        if len(body) > self._chunk_bytes:
            self._chaos.hit(Probe.CHUNKED_REPLY)
            *parts, body = split(body, self._chunk_bytes)
            for part in parts:
                self._coalescer.add((operation_id, int(Status.PART), part), len(part))
        self._coalescer.add((operation_id, status, body), len(body))
        if status != _APPLIED:
            self._unanswered -= 1
            if self._unanswered <= 0:
                self._coalescer.flush()  # nobody is left to wait for

    def reply_error(self, operation_id: int, error: KVStoreError) -> None:
        """Queue an ERROR reply."""
        self.reply(operation_id, int(Status.ERROR), error_to_wire(error))

    def close(self, error: Exception | None = None) -> None:
        """Send what is queued and end the connection."""
        self._coalescer.flush()
        self._connection.close(error)

    def frame_received(self, frame: bytes) -> None:
        """Handle one frame; see the module's picture."""
        if self._is_refused:
            return
        try:
            fields = decode_frame(frame)
            if fields[0] == FrameKind.REQUESTS and self._open:
                self.late_s = self._lateness.of(fields[1], int(self._loop.time() * 1000)) / 1000
                requests = self._whole(fields)
                self._unanswered += len(requests)
                self._service.handle(self, requests)
            elif fields[0] == FrameKind.HELLO and self.hello is None:
                self._greet(hello_from(fields))
            else:
                raise DecodeError("a frame of this kind was not expected here", kind=int(fields[0]))
        except DecodeError as error:
            self.refuse(error)

    def connection_closed(self, error: Exception | None) -> None:
        """The transport lost the connection."""
        self._greeting_due.cancel()
        self._open = False
        self._service.closed(self)

    def _header(self) -> list[Any]:
        return [int(FrameKind.REPLIES), self._service.topology_epoch()]

    def _not_greeted(self) -> None:
        # Retryable: a peer that was stopped, or whose HELLO the network held up, may come again.
        self.refuse(Unavailable("the peer did not say HELLO in time", timeout_s=GREETING_TIMEOUT_S))

    def _greet(self, hello: Hello) -> None:
        self._greeting_due.cancel()
        self.hello = hello
        if not hello.protocol_min <= PROTOCOL_VERSION <= hello.protocol_max:
            theirs = f"{hello.protocol_min}..{hello.protocol_max}"
            self.refuse(ProtocolMismatch(f"this node speaks protocol {PROTOCOL_VERSION}, the peer speaks {theirs}"))
        else:
            self._service.admit(self, hello)

    def _whole(self, fields: list[Any]) -> list[Request]:
        flat = iter(fields)
        next(flat), next(flat)
        requests = zip(flat, flat, flat, flat, flat, flat, strict=True)
        if self._parts or int(Verb.PART) in fields[REQUEST_FIRST + 1 :: REQUEST_STRIDE]:
            return self._reassembled(requests)
        return list(requests)

    def _reassembled(self, requests: Iterable[Request]) -> list[Request]:
        whole: list[Request] = []
        for request in requests:
            operation_id, verb, version, remaining_ms, key, body = request
            if verb == Verb.PART:
                self._parts.add(operation_id, body)
            else:
                whole.append((operation_id, verb, version, remaining_ms, key, self._parts.take(operation_id, body)))
        return whole
