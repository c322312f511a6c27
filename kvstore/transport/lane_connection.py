"""One end of a direct lane: frames over a TCP connection, each behind its length.

    send ──► outgoing (deque) ──► once a turn of the loop ──► transport.write        until the transport is full
    handler.frame_received ◄── frames cut out of what arrived ◄── data_received      not while our answers are not taken

    wire    4 bytes big-endian length, frame    …    END (a length no frame has), then end of file

Invariants
  1. `connection_closed` is called exactly once, from the loop and never from inside `close` or `send`.
  2. No frame reaches the handler after `close` returned.
  3. `backlog_bytes` is the sum of the frames that the transport did not take yet; 0 after close.
  4. An end without END is a loss. Whoever ended in order reads on until the other side ends as well, LINGER_S at most: a
     reset would take away from the peer what it has not read yet, END included.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from kvstore.env import FrameHandler
from kvstore.errors import DecodeError
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX, FRAME_SIZE_BYTES_MAX
from kvstore.transport.rules import BACKLOG_RESUME_BYTES, refuse_oversize, report_bug

__all__ = ["LINGER_S", "LaneConnection"]

END = b"\xff\xff\xff\xff"
_LENGTH = 4
_END = 0xFFFFFFFF
LINGER_S = 0.5
"""How long an orderly end may take to reach the peer before the connection is cut."""
JOINED_BYTES_MAX = 256 * 1024
"""Small frames of one turn go to the transport in one piece, up to this."""


class LaneConnection(asyncio.Protocol):
    """A `Connection`; the protocol of a socket that was greeted already. `start` attaches the handler."""

    __slots__ = (
        "_arrived", "_error", "_handler", "_is_accepted", "_is_full", "_is_holding", "_is_planned", "_linger", "_loop",
        "_outgoing", "_transport", "backlog_bytes", "finished", "is_closed", "peer",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, peer: str, *, is_accepted: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport, self.peer, self._is_accepted = transport, peer, is_accepted
        self._handler: FrameHandler | None = None
        self._outgoing: deque[bytes] = deque()
        self._arrived = bytearray()
        self._error: Exception | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._is_planned = self._is_full = self._is_holding = False
        self.is_closed = False
        self.backlog_bytes = 0
        self.finished: asyncio.Future[None] = self._loop.create_future()
        """Done once nothing of the socket is left."""

    def start(self, handler: FrameHandler, arrived: bytes = b"") -> None:
        """Begin to hand over, what arrived before included. A connection closed before still tells its handler."""
        self._handler = handler
        if self.is_closed:
            self._loop.call_soon(handler.connection_closed, self._error)
        elif arrived:
            self.data_received(arrived)

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """As `Connection`."""
        refuse_oversize(frame)
        if self.is_closed:
            return
        self._outgoing.append(frame)
        self.backlog_bytes += len(frame)
        if not self._is_planned and not self._is_full:
            self._is_planned = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_planned = False
        if self.is_closed:
            return
        outgoing = self._outgoing
        while outgoing and not self._is_full:
            pieces, size = [], 0
            while outgoing and size < JOINED_BYTES_MAX:
                frame = outgoing.popleft()
                size += len(frame)
                pieces.append(len(frame).to_bytes(_LENGTH, "big"))
                pieces.append(frame)
            self._transport.write(b"".join(pieces))
            self.backlog_bytes -= size
        if self._is_holding and self.backlog_bytes < BACKLOG_RESUME_BYTES:
            self._is_holding = False
            self._transport.resume_reading()
            self._loop.call_soon(self._deliver)

    def pause_writing(self) -> None:
        """The transport is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The transport has room."""
        self._is_full = False
        self._write()

    # --- receiving --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand over the frames that are whole now."""
        if self.is_closed:
            return
        if self._arrived or self._is_holding:
            self._arrived += data
            self._deliver()
        else:
            taken = self._take(data)
            if taken < len(data):
                self._arrived += data[taken:]

    def _deliver(self) -> None:
        if len(self._arrived) < _LENGTH or self._is_holding or self.is_closed:
            return
        if len(self._arrived) - _LENGTH < int.from_bytes(self._arrived[:_LENGTH], "big") <= FRAME_SIZE_BYTES_MAX:
            return  # not copied once more for every piece of a large frame
        taken = self._take(bytes(self._arrived))
        del self._arrived[:taken]

    def _take(self, data: bytes) -> int:
        """Hand over the whole frames in `data`; returns how many bytes they were."""
        start, end = 0, len(data)
        handler = self._handler
        assert handler is not None, "nothing is read before `start`"
        while end - start >= _LENGTH and not self._is_holding:
            size = int.from_bytes(data[start : start + _LENGTH], "big")
            if size > FRAME_SIZE_BYTES_MAX:
                self._end_seen(size)
                break
            stop = start + _LENGTH + size
            if stop > end:
                break
            frame, start = data[start + _LENGTH : stop], stop
            try:
                handler.frame_received(frame)
            except Exception as bug:  # the task boundary: nobody else would see it
                self.close(report_bug(self.peer, bug))
            if self.is_closed:
                break
            if self._is_accepted and self.backlog_bytes > CONNECTION_BACKLOG_BYTES_MAX:
                self._is_holding = True
                self._transport.pause_reading()
        return end if self.is_closed else start

    def _end_seen(self, size: int) -> None:
        if size == _END:
            self.close()
        else:
            limit = FRAME_SIZE_BYTES_MAX
            self.close(DecodeError("a frame of a lane is too large", size_bytes=size, limit_bytes=limit))

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, error: Exception | None = None) -> None:
        """As `Connection`."""
        if self.is_closed:
            return
        self.is_closed, self._error = True, error
        self._outgoing.clear()
        self._arrived.clear()
        self.backlog_bytes = 0
        if error is not None:
            self._transport.abort()
        else:
            self._end_in_order()
        if self._handler is not None:
            self._loop.call_soon(self._handler.connection_closed, error)

    def _end_in_order(self) -> None:
        if self._is_holding:
            self._is_holding = False
            self._transport.resume_reading()
        if self._transport.is_closing():
            return
        self._linger = self._loop.call_later(LINGER_S, self._transport.abort)
        self._transport.write(END)
        try:
            self._transport.write_eof()
        except OSError:  # the peer was quicker
            self._transport.abort()

    def eof_received(self) -> bool:
        """The peer will send no more: END was its last word, or it is gone."""
        self._lose(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self._linger is not None:
            self._linger.cancel()
        self._lose(exc)
        if not self.finished.done():
            self.finished.set_result(None)

    def _lose(self, problem: Any) -> None:
        # Deliberately not an `UnavailableError`: that class says "it was not tried", which nobody knows here.
        self.close(
            ConnectionResetError(f"the connection to {self.peer} was lost: {problem or 'it ended without a word'}")
        )
