"""Sessions that move: every operation in one, reads that ask a single replica, and tokens left for others to go on with.

    c0  put ─ get ─ get ─ leaves ──► lobby ──► taken by c1  get ─ put ─ ...     session 4 on two clients, one by one
    c2  put ─ (unknown outcome, its process ends) ──► lobby ──► taken by c0

A session is one story: who leaves it goes on with a new one, and whoever takes it was not in it before. So its operations never
overlap, and what it was told before it moved is what its token has to carry.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from jepsen_lite.history import ContextKind, F, History, Kind, Op
from jepsen_lite.recorder import BUCKET, Board, Counts, Recorder, RecordingWorld, Target
from jepsen_lite.workloads.pace import Pace, pick, targets, write_context
from kvstore.ids import ObjectType

__all__ = ["Lobby", "SessionRecorder", "Sessions"]

LOBBY_MAX: Final = 8
LEAVE_SHARE, TAKE_SHARE = 0.08, 0.2
ALONE: Final = Counts(r=1)
ALONE_SHARE: Final = 0.8
"""Of reads, those that would be content with any one replica."""


@dataclass(slots=True)
class Lobby:
    """Sessions that nobody is in, with their tokens, and the number of the next new one."""

    left: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=LOBBY_MAX))
    number_next: int = 0

    def new(self) -> int:
        """Return the number of a new session."""
        self.number_next += 1
        return self.number_next - 1


class SessionRecorder(Recorder):
    """A recorder whose operations are all in a session; its process's end leaves the session in the lobby."""

    def __init__(
        self, world: RecordingWorld, history: History, board: Board, name: str, lobby: Lobby, **options: Any
    ) -> None:
        self._lobby = lobby
        self._number: int | None = None
        super().__init__(world, history, board, name, **options)

    def _begin_life(self) -> None:
        super()._begin_life()
        self.leave()

    def leave(self) -> None:
        """Leave the session for others, and begin a new one."""
        if self._number is not None:
            self._lobby.left.append((self._number, self._session.token))
        self._enter(self._lobby.new(), None)

    def take(self) -> None:
        """Go on with a session that was left, if there is one; the present one ends."""
        if self._lobby.left:
            self._enter(*self._lobby.left.popleft())

    def _enter(self, number: int, token: bytes | None) -> None:
        self._number, self._session = number, self._client.session(token)
        self._buckets = {
            kind: self._session.bucket(BUCKET, type=bytes, object_type=kind)
            for kind in (ObjectType.REGISTER, ObjectType.LWW)
        }

    def _invoke(self, f: F, target: Target, *, process: int | None = None, **fields: Any) -> Op:
        return super()._invoke(f, target, process=process, session=self._number, **fields)


class Sessions:
    """Registers and lww objects, read from one replica at a time."""

    NAME: ClassVar[str] = "sessions"
    says: ClassVar[str] = (
        "sessions that move between clients: reads of one replica show what the session has written and read"
    )

    def __init__(self, pace: Pace) -> None:
        self.pace, self.lobby = pace, Lobby()
        half = max(1, pace.keys_count // 2)
        self.objects: Sequence[Target] = (*targets(Kind.REGISTER, "ses", half + 1), *targets(Kind.LWW, "sesw", half))

    async def step(self, recorder: Recorder, rng: random.Random) -> None:
        """Move, read, put, or delete with a context: a delete without one excuses the absence of everything."""
        assert isinstance(recorder, SessionRecorder), "the catalogue gives this workload its own recorder"
        moves = rng.random()
        if moves < LEAVE_SHARE:
            recorder.leave()
        elif moves < LEAVE_SHARE + TAKE_SHARE:
            recorder.take()
        target, draw = pick(self.objects, self.pace, rng), rng.random()
        counts = self.pace.counts_for(target, self.objects, rng)
        if draw < 0.5:
            await recorder.get(target, counts=ALONE if rng.random() < ALONE_SHARE else counts)
        elif draw < 0.9:
            await recorder.put(target, write_context(self.pace, rng), counts=counts)
        else:
            how = rng.choice([ContextKind.FRESH, ContextKind.OWN, ContextKind.STALE, ContextKind.FOREIGN])
            await recorder.delete(target, how, counts=counts)
