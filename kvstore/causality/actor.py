"""Actors: who mints dots, and when an actor must never mint again.

    actor = node id (8) | partition (4, big endian) | random actor epoch (8)

A dot must never be bound to two values. A node that lost part of its history could mint a dot a second time, and no larger
counter repairs that (the merge of {a:100} with an older {a:3} drops live values). So the epoch is random and a new one is
minted, and every earlier one of that partition retired, whenever history may be missing. A plain kill loses nothing that was
applied, so it keeps the epoch and vectors do not grow.

Differs from the letter of the rule "continue the actor in an intact record if its epoch is not below the floor": every mint
here retires all earlier epochs of its partition, so the only epoch not below the floor is the current one. See ADR 0001.
Source: riak_kv issue 679 and pull requests 1094, 1643.
"""

from __future__ import annotations

import random
import struct
from enum import StrEnum

from kvstore.causality.version_vector import VersionVector
from kvstore.ids import ActorId, NodeId, PartitionId

__all__ = ["MintReason", "history_is_behind", "make_actor", "next_dot_counter"]

_ACTOR = struct.Struct(">8sIQ")


class MintReason(StrEnum):
    """Why an actor epoch began; kept beside it, for people."""

    FIRST = "first write of this node in the partition"
    HISTORY_MISSING = "the store may have lost or rolled back history"
    SEEN_AHEAD = "a vector or context named the actor above our own record"
    IN_DOUBT = "a write of our own is in doubt: it may come back after a restart"
    RECORD_UNREADABLE = "a local record was unreadable or replaced from a peer"


def make_actor(node_id: NodeId, partition: PartitionId, rng: random.Random) -> ActorId:
    """Return a new actor of this node and partition with a random 64-bit epoch."""
    return ActorId(_ACTOR.pack(node_id, partition, rng.getrandbits(64)))


def history_is_behind(actor: ActorId, ours: VersionVector, seen: VersionVector) -> bool:
    """Return whether `seen` names `actor` above our own record: evidence that we lost history."""
    return seen.get(actor, 0) > ours.get(actor, 0)


def next_dot_counter(actor: ActorId, vector: VersionVector) -> int:
    """Return the counter of the actor's next dot: contiguous per object and actor."""
    return vector.get(actor, 0) + 1
