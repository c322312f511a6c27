"""One connection of the simulated network: two ends, each with a stream to the other.

    send ─► stream ─► other end: held while it pauses ─► frame_received
    close ─────────── FIN, in order behind the frames           other end: closed, no error
    close(error) ──── RST, on its own: overtakes, may be lost   other end: error, or learns by itself
    break ─────────── own decision: too many losses, too long a silence, a queue too long

Invariants
  1. What an end receives is a prefix of what the other sent, apart from doubled frames; `connection_closed` comes once.
  2. Handlers are called from timers and `call_soon`, never inside `send`, `close` or anything a nemesis calls.
  3. The ends know nothing of each other but what arrived: each breaks by its own timers, at times of its own.
  4. Every frame sent is traced exactly once as "frame" (delivered) or "drop"; doubled ones once more each.

Acknowledgements are free and instant: they count as a sign of life unless the way back is cut, and `backlog_bytes` sinks
when the other end takes a frame, even then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from jepsen_lite.sim.net_frames import ChunkMemory, flip_bit, is_readable
from jepsen_lite.sim.net_keepalive import Keepalive
from jepsen_lite.sim.net_stream import Segment, Stream, TcpTimes
from jepsen_lite.sim.net_wire import Tally, Wire
from kvstore.env import FrameHandler
from kvstore.limits import CONNECTION_BACKLOG_BYTES_MAX
from kvstore.transport.rules import BACKLOG_RESUME_BYTES, refuse_oversize, report_bug

__all__ = ["Registry", "SimConnection"]

IN_ORDER_CRASH_SHARE = 0.5
"""Of processes that die: their kernel flushes what it holds and ends in order, or resets (it does so if input was unread)."""


class Registry(Protocol):
    """What an end asks of its network."""

    times: TcpTimes
    tally: Tally

    def trace(self, kind: str, source: str, target: str, data: bytes) -> None:
        """Record an event."""

    def life(self, host: str) -> int:
        """Return how often the process of a host has crashed."""

    def shut(self, end: SimConnection, *, is_flushing: bool) -> None:
        """An end was closed; if flushing, its stream still has to deliver the end."""

    def flushed(self, end: SimConnection) -> None:
        """The stream of a closed end has nothing more to do."""


class SimConnection:
    """A `Connection`: one end. The other end is `other`."""

    __slots__ = (
        "_chunks", "_error", "_handler", "_held", "_is_accepted", "_is_paused", "_keepalive", "_life", "_loop", "_network",
        "_stream", "_wire", "backlog_bytes", "host", "is_closed", "number", "other", "peer", "peer_host",
    )  # fmt: skip

    def __init__(self, network: Registry, wire: Wire, *, peer: str, number: int, is_accepted: bool) -> None:
        self._network, self._wire = network, wire
        self._loop = asyncio.get_running_loop()
        self.host, self.peer_host, self.peer, self.number = wire.source, wire.target, peer, number
        self._is_accepted, self._life = is_accepted, 0
        self._stream = Stream(wire, network.times, on_dead=self._stream_died, on_drop=self._never_arrives)
        self.other = self
        self._handler: FrameHandler | None = None
        self._held: deque[tuple[bytes, int]] = deque()
        self.is_closed = self._is_paused = False
        self._error: Exception | None = None
        self.backlog_bytes = 0
        self._chunks = ChunkMemory()
        spread = network.times.spread
        self._keepalive = Keepalive(
            network.times, wire.rng.uniform(1 - spread, 1 + spread),
            ping=self._send_ping, dead=partial(self.break_now, "silence"),
        )  # fmt: skip

    # The handshake, for the network.

    def signal(self, arrive: Callable[[], object], *, is_knock: bool = False) -> None:
        """Run `arrive` at the other end, in order with the frames."""
        self._stream.push(Segment(arrive, is_knock=is_knock))

    def open(self) -> None:
        """The handshake is done on this side: from now on silence is noticed."""
        self._network.trace("open", self.host, self.peer_host, b"%d" % self.number)
        self._keepalive.start()

    def start(self, handler: FrameHandler) -> None:
        """Attach the handler; what arrived or happened before is handed over."""
        self._handler, self._life = handler, self._network.life(self.host)
        self._loop.call_soon(self._take)
        if self.is_closed:
            self._loop.call_soon(self._tell_end)

    # Sending.

    def send(self, frame: bytes) -> None:
        refuse_oversize(frame)
        if self.is_closed:
            return
        self.backlog_bytes += len(frame)
        self._chunks.note(frame)
        self._push(frame, len(frame))
        conditions = self._wire.conditions
        if self._wire.draw(conditions.duplicate_share) and self._chunks.may_repeat(frame):
            self._repeat(frame, conditions.duplicate_s_max)

    def _push(self, frame: bytes, counted_bytes: int) -> None:
        self._stream.push(Segment(partial(self.other._frame_arrived, frame, counted_bytes), frame))

    def _repeat(self, frame: bytes, later_s_max: float) -> None:
        if self._wire.draw(0.5):
            self._push_again("duplicated", frame)
        else:
            self._loop.call_later(self._wire.rng.uniform(0, later_s_max), self._push_again, "duplicated_late", frame)

    def _push_again(self, counter: str, frame: bytes) -> None:
        if not self.is_closed:
            self._network.tally.add(counter)
            self._network.trace("dup", self.host, self.peer_host, frame)
            self._push(frame, 0)

    # The end.

    def close(self, error: Exception | None = None) -> None:
        if self.is_closed:
            return
        if error is not None:
            self._give_up(error, tells=True)
            return
        self._shut(None, is_flushing=True)
        self._stream.push(Segment(self._fin_arrived))

    def break_now(self, cause: str) -> None:
        """End this end with an error, because of the network; the other one is told if a packet can do it."""
        if not self.is_closed:
            self._network.tally.add(f"broken_{cause}")
            tells = cause != "losses"  # as Linux: who gives up retransmitting has nothing left to say
            self._give_up(ConnectionResetError(f"the connection to {self.peer} was lost: {cause}"), tells=tells)

    def crash(self, *, is_silent: bool) -> None:
        """The process of this end dies: nobody is left to call here. Silent: its machine died with it."""
        self._handler = None
        if is_silent:
            self._stream.abandon()
            if not self.is_closed:
                self._shut(None)
        elif not self.is_closed:
            lost = ConnectionResetError(f"the connection to {self.host} was lost: its process ended")
            is_in_order = self._wire.draw(IN_ORDER_CRASH_SHARE)
            self._shut(None, is_flushing=is_in_order)
            if is_in_order:
                self._stream.push(Segment(partial(self._fin_arrived, lost)))
            else:
                self._stream.abandon()
                self._send_reset(lost)

    def _give_up(self, error: Exception, *, tells: bool) -> None:
        self._shut(error)
        straggles = self._stream.in_flight_count > 0 and self._wire.draw(self._wire.conditions.straggle_share)
        if straggles:
            self._network.tally.add("straggled")
            self._stream.abandon(extra_s=self._wire.rng.uniform(0, self._wire.conditions.straggle_s_max))
        else:
            self._stream.abandon()
            if tells:
                self._send_reset(ConnectionResetError(f"the connection to {self.host} was lost: {error}"))

    def _send_reset(self, lost: Exception) -> None:
        """A reset is one packet on its own: it may overtake frames, and nobody sends it again."""
        arrival_s = self._wire.arrival_s(self._loop.time(), 0)
        if arrival_s is not None:
            self._loop.call_at(arrival_s, self._reset_arrived, lost)

    def _reset_arrived(self, lost: Exception) -> None:
        if not self._wire.blocks():
            self.other._end_arrived(lost)

    def _fin_arrived(self, lost: Exception | None = None) -> None:
        self._network.flushed(self)
        self.other._end_arrived(lost)

    def _end_arrived(self, error: Exception | None) -> None:
        if not self.is_closed:
            self._shut(error)
            self._stream.abandon()

    def _shut(self, error: Exception | None, *, is_flushing: bool = False) -> None:
        self.is_closed, self._error = True, error
        self.backlog_bytes = 0
        self._keepalive.stop()
        for frame, _ in self._held:
            self.other._never_arrives(frame)
        self._held.clear()
        reason = b"" if error is None else str(error).encode()
        self._network.trace("end", self.host, self.peer_host, b"%d %s" % (self.number, reason))
        self._network.shut(self, is_flushing=is_flushing)
        if self._handler is not None:
            self._loop.call_soon(self._tell_end)

    def _tell_end(self) -> None:
        # A crash reaches the handlers of ends it finds; one that just closed is found no more, so it asks.
        if self._handler is not None and self._network.life(self.host) == self._life:
            self._handler.connection_closed(self._error)

    def _stream_died(self, cause: str) -> None:
        if self.is_closed:  # nobody is left to tell; the other end will learn by its own silence
            self._stream.stop()
            self._network.flushed(self)
        else:
            self.break_now(cause)

    def _never_arrives(self, frame: bytes) -> None:
        self._network.tally.add("frames_dropped")
        self._network.trace("drop", self.host, self.peer_host, frame)

    # Signs of life.

    def _send_ping(self) -> None:
        self.signal(self.other._ping_arrived)

    def _ping_arrived(self) -> None:
        if self._hear():
            self.signal(self.other._hear)

    def _hear(self) -> bool:
        """Something arrived: remember when, return whether this end is open. If not, and no word of its end is under way,
        the machine answers with a reset."""
        self._keepalive.heard()
        if self.is_closed and self._stream.is_empty:
            self._network.tally.add("answered_reset")
            self._send_reset(ConnectionResetError(f"the connection to {self.host} was lost: it does not exist there"))
        return not self.is_closed

    def answered(self, answer: Callable[[], None]) -> None:
        """The other side answered our knock, perhaps after we gave up."""
        if self._hear():
            answer()

    # Receiving.

    def _frame_arrived(self, frame: bytes, counted_bytes: int) -> None:
        if not self._hear():
            self.other._never_arrives(frame)
            return
        if not self._wire.blocks():
            self.other._keepalive.heard()  # an acknowledgement, which in HTTP/2 would also open the window
        wire = self.other._wire
        if wire.draw(wire.conditions.corrupt_share):
            damaged = flip_bit(frame, wire.rng)
            if is_readable(damaged):  # a decoder would be fooled, so it must be a checksum that saves us
                self._network.tally.add("corruption_caught")
                self.other._never_arrives(frame)
                self.break_now("checksum")
                return
            self._network.tally.add("corrupted")
            self._network.trace("corrupt", self.peer_host, self.host, damaged)
            frame = damaged
        self._held.append((frame, counted_bytes))
        self._take()

    def _take(self) -> None:
        """Hand over what arrived, unless our own frames are not taken."""
        while self._held and self._handler is not None and not self._is_paused:
            frame, counted_bytes = self._held.popleft()
            self.other._frame_taken(counted_bytes)
            self._network.tally.add("frames_delivered")
            self._network.trace("frame", self.peer_host, self.host, frame)
            try:
                self._handler.frame_received(frame)
            except Exception as bug:  # the task boundary, as in the gRPC twin
                self.close(report_bug(self.peer, bug))
            self._is_paused = self._is_accepted and self.backlog_bytes > CONNECTION_BACKLOG_BYTES_MAX

    def _frame_taken(self, size_bytes: int) -> None:
        if self.is_closed:
            return
        self.backlog_bytes -= size_bytes
        if self._is_paused and self.backlog_bytes < BACKLOG_RESUME_BYTES:
            self._is_paused = False
            self._loop.call_soon(self._take)
