"""What recorders share: how objects are named, what each client knows of them, and what they ask of the world.

Target(REGISTER, "r3")     Known(context, shown)     Board: newest contexts of all recorders, for FOREIGN ones
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from jepsen_lite.checkers.durable import DurableJudge
from jepsen_lite.checkers.verdict import Violation
from jepsen_lite.history import Kind
from jepsen_lite.sim.trace import Field
from kvstore.client.client import AsyncClient
from kvstore.ids import ObjectType
from kvstore.storage.keyspace import object_name, storage_key

__all__ = ["BUCKET", "DEFAULT", "Board", "Counts", "Known", "RecordingWorld", "Target"]

BUCKET: Final = "default"


class Target(NamedTuple):
    """One object of a run. A set is stored as a register, so its key must be no register's."""

    kind: Kind
    key: str

    @property
    def object_type(self) -> ObjectType:
        """The type in the store."""
        return ObjectType.LWW if self.kind is Kind.LWW else ObjectType.REGISTER

    @property
    def storage_key(self) -> bytes:
        """What replicas keep it under."""
        return storage_key(object_name(BUCKET, self.object_type, self.key.encode()))


class Counts(NamedTuple):
    """How many replicas an operation asks for; None is the bucket's default."""

    r: int | None = None
    w: int | None = None
    dw: int | None = None
    pw: int | None = None

    def __str__(self) -> str:
        return ",".join(f"{name}={count}" for name, count in self._asdict().items() if count is not None) or "default"


DEFAULT: Final = Counts()


@dataclass(frozen=True, slots=True)
class Known:
    """A context, the values which it stands for, and whether it came from a write of this client."""

    context: bytes
    shown: tuple[str, ...]
    is_own: bool = False


@dataclass(slots=True)
class Board:
    """What all recorders of a run share."""

    newest: dict[Target, dict[str, Known]] = field(default_factory=dict)
    """Of each object, the newest context of each recorder, the newest last."""
    touched: dict[Target, None] = field(default_factory=dict)
    """Every object of which anything was asked, in that order."""
    short: list[Violation] = field(default_factory=list)
    """Writes acknowledged by fewer replicas than they asked for."""
    overdue: int = 0
    """Operations that the client did not end within its own deadline and PATIENCE_S."""
    durable: DurableJudge | None = None
    """Told of every answer as it comes, if somebody can look at the disks."""
    retries_worked: Callable[[], int] | None = None
    """How many operations of all clients were answered after a retry. A write during which none was had been sent once."""


class _Clock(Protocol):
    def time(self) -> float: ...


class _Trace(Protocol):
    def record(self, kind: str, *fields: Field) -> None: ...


class _Atlas(Protocol):
    def acknowledged(self, key: bytes, dw: int) -> None: ...


class _Network(Protocol):
    @property
    def doubles_requests(self) -> bool: ...


class _Swarm(Protocol):
    @property
    def network(self) -> _Network: ...


class RecordingWorld(Protocol):
    """What a recorder needs of the world."""

    @property
    def loop(self) -> _Clock: ...
    @property
    def trace(self) -> _Trace: ...
    @property
    def atlas(self) -> _Atlas: ...
    @property
    def swarm(self) -> _Swarm: ...
    def open_client(self, name: str, **options: Any) -> AsyncClient: ...
    async def close_client(self, client: AsyncClient) -> None: ...
