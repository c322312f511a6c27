"""Who this node is, which start this is, and how its store was found: the durable memory behind amnesia detection.

Three kinds of lost history are told apart (correctness 1 and 3):

    stopped without its mark         the clean-stop mark is absent     and no witness proves that nothing is gone
    another directory                identity file has another inode   copied, or restored from a copy
    an older state of this store     the kernel remembers a newer one  `Witness`, until the kernel restarts
                                     boot number goes backwards        only peers can see it: `PeerBoots`

META keys of this module begin with 00 (this node) or 01 (peers); see docs/formats.md.

Invariants
  1. A boot number is durable before it is presented to anyone, and never presented with two nonces.
  2. The clean-stop mark is gone, durably, before the first write of a run.
  3. "History may be missing" is reported at every open until the actor epochs of before were retired: what it was
     concluded from (directory, kernel boot) is overwritten at the first open, and that process may die too early.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from kvstore.errors import Corruption, StaleIdentity
from kvstore.ids import NODE_ID_SIZE_BYTES, NodeId
from kvstore.limits import STRANGERS_COUNT_MAX
from kvstore.storage.engine import Engine, Family, OpenReport, Put
from kvstore.storage.witness import Statement

__all__ = [
    "META_BOOT_ID", "META_BOOT_NUMBER", "META_CLEAN_STOP", "META_DIRECTORY", "META_EPOCHS_RETIRE", "META_NODE_ID",
    "META_PEER_BOOT", "META_RUN", "BootCheck", "NodeIdentity", "PeerBoots", "closing_puts", "open_identity", "opening_puts",
    "read_report",
]  # fmt: skip

META_CLEAN_STOP = b"\x00clean_stop"
META_BOOT_ID = b"\x00boot_id"
META_DIRECTORY = b"\x00directory"
META_RUN = b"\x00run"
"""A token of the last open, new at every one: what the kernel remembers is of this run or of another."""
META_EPOCHS_RETIRE = b"\x00epochs_retire"
"""Set while history may be missing; deleted after (in the log, too) every actor epoch of before."""
META_NODE_ID = b"\x00node_id"
META_BOOT_NUMBER = b"\x00boot_number"
META_PEER_BOOT = b"\x01boot/"
"""Followed by the peer's node id."""
_BOOT_NUMBER_SIZE_BYTES = 8
_NONCE_SIZE_BYTES = 8

GetMeta = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What a node presents in its Hello. The nonce tells two starts with the same number apart."""

    node_id: NodeId
    boot_number: int
    boot_nonce: int


class BootCheck(Enum):
    """What a presented boot number means."""

    NEW = "new"
    """Higher than any seen: a start. A member's is remembered durably after the next sync."""
    SAME = "same"
    """The start already known, on another connection."""


def read_report(
    get_meta: GetMeta, *, boot_id: str, directory: bytes, statement: Statement | None, sequence: int
) -> OpenReport:
    """Judge a store just opened. `boot_id` is empty if unknown; `directory` identifies the files themselves; `statement` is
    of this store and kernel, or None; `sequence` is what the store recovered, before anything was written."""
    is_new = get_meta(META_DIRECTORY) is None
    epochs_retire = get_meta(META_EPOCHS_RETIRE) is not None
    clean = is_new or (get_meta(META_CLEAN_STOP) is not None and not epochs_retire)
    doubt = contradiction = ""
    if boot_id == "" or get_meta(META_BOOT_ID) != boot_id.encode():
        doubt = "the kernel restarted since"
    elif statement is None:
        doubt = "nothing remembers what the last run had written"
    else:
        doubt = contradiction = statement.contradiction(run=get_meta(META_RUN), sequence=sequence)
    if epochs_retire:
        doubt = doubt or "an earlier start found so"
    return OpenReport(
        is_new=is_new,
        clean=clean,
        same_boot=not is_new and doubt == "",
        is_copy=not is_new and get_meta(META_DIRECTORY) != directory,
        is_rolled_back=not is_new and contradiction != "",
        doubt=doubt if not clean or contradiction else "",
        refused=statement.refused if statement is not None and not is_new else b"",
    )


def opening_puts(report: OpenReport, *, boot_id: str, directory: bytes, run: bytes) -> list[Put]:
    """Return what an engine writes and syncs right after `read_report`: a copy is so reported until its epochs retired."""
    return [
        *([(Family.META, META_EPOCHS_RETIRE, b"1")] if report.history_may_be_missing else []),
        (Family.META, META_CLEAN_STOP, None),
        (Family.META, META_BOOT_ID, boot_id.encode()),
        (Family.META, META_DIRECTORY, directory),
        (Family.META, META_RUN, run),
    ]


def closing_puts() -> list[Put]:
    """Return what an engine writes and syncs last of all, if everything before is durable."""
    return [(Family.META, META_CLEAN_STOP, b"1")]


async def open_identity(engine: Engine, rng: random.Random) -> NodeIdentity:
    """Begin a start: mint the node id if there is none, take the next boot number, and sync. May raise `StorageError`."""
    node_id = engine.get(Family.META, META_NODE_ID) or rng.randbytes(NODE_ID_SIZE_BYTES)
    if len(node_id) != NODE_ID_SIZE_BYTES:
        raise Corruption("the stored node id has the wrong length", size_bytes=len(node_id))
    boot_number = int.from_bytes(engine.get(Family.META, META_BOOT_NUMBER) or b"", "big") + 1
    engine.apply([
        (Family.META, META_NODE_ID, node_id),
        (Family.META, META_BOOT_NUMBER, boot_number.to_bytes(_BOOT_NUMBER_SIZE_BYTES, "big")),
    ])  # fmt: skip
    await engine.sync()
    return NodeIdentity(NodeId(node_id), boot_number, rng.getrandbits(8 * _NONCE_SIZE_BYTES))


class PeerBoots:
    """Remembers the last start of every peer, so that a clone or a rolled-back node is refused (correctness 3).

        of a member, or of a node noted before   in META, for ever
        of a stranger                            in memory, the STRANGERS_COUNT_MAX newest; in META once a topology names it

    Anybody can say HELLO with a new node id, so a stranger's costs no disk. It mints no dots before it is a member; a clone
    of it is refused while its start is in memory.

    One node alone has no witness, and a clone that is the first to be seen is taken for the original: what is guaranteed
    is that the two are never both accepted under one boot number, and that the number never goes back.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._members: frozenset[NodeId] = frozenset()
        self._strangers: dict[NodeId, tuple[int, int]] = {}
        """Number and nonce of nodes of which META has nothing, the newest at the end."""

    def members_are(self, members: Iterable[NodeId]) -> None:
        """Hear whom a topology names, before it is in use; those seen already are noted now, and synced with the topology."""
        self._members = frozenset(members)
        joined = [node_id for node_id in self._strangers if node_id in self._members]
        self._note([(node_id, *self._strangers[node_id]) for node_id in joined])
        for node_id in joined:
            del self._strangers[node_id]

    def check(self, node_id: NodeId, boot_number: int, boot_nonce: int) -> BootCheck:
        """Accept a presented start, or raise `StaleIdentity` (nothing is changed then).

        After `NEW` the caller syncs the engine before it answers, or a power loss could let a clone in.
        """
        noted = self._noted(node_id)
        known = noted or self._strangers.get(node_id)
        if known is not None:
            if known == (boot_number, boot_nonce):
                return BootCheck.SAME
            if boot_number <= known[0]:
                raise StaleIdentity(
                    "this start of the node was already seen: its data directory is a copy or was rolled back; "
                    "start it with an empty --data directory as a new node",
                    node_id=node_id.hex(), boot_number=boot_number, boot_number_seen=known[0],
                )  # fmt: skip
        if noted is not None or node_id in self._members:
            self._note([(node_id, boot_number, boot_nonce)])
        else:
            self._remember(node_id, (boot_number, boot_nonce))
        return BootCheck.NEW

    def _note(self, starts: list[tuple[NodeId, int, int]]) -> None:
        puts: list[Put] = []
        for node_id, number, nonce in starts:
            value = number.to_bytes(_BOOT_NUMBER_SIZE_BYTES, "big") + nonce.to_bytes(_NONCE_SIZE_BYTES, "big")
            puts.append((Family.META, META_PEER_BOOT + node_id, value))
        if puts:
            self._engine.apply(puts)

    def _remember(self, node_id: NodeId, start: tuple[int, int]) -> None:
        self._strangers.pop(node_id, None)
        if len(self._strangers) >= STRANGERS_COUNT_MAX:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[node_id] = start

    def _noted(self, node_id: NodeId) -> tuple[int, int] | None:
        value = self._engine.get(Family.META, META_PEER_BOOT + node_id)
        if value is None:
            return None
        if len(value) != _BOOT_NUMBER_SIZE_BYTES + _NONCE_SIZE_BYTES:
            raise Corruption("the remembered start of a peer has the wrong length", size_bytes=len(value))
        number, nonce = value[:_BOOT_NUMBER_SIZE_BYTES], value[_BOOT_NUMBER_SIZE_BYTES:]
        return int.from_bytes(number, "big"), int.from_bytes(nonce, "big")
