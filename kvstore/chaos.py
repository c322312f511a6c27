"""Buggify points and code probes: named places where a simulation may disturb the product, and where it sees that it got.

    point    "may this go the unusual way now?"    chaos.fires(Point.X)   chaos.pick(Point.X, default, other, …)
    probe    "this rare branch was taken"          chaos.hit(Probe.X)

A point asks for something that a slow disk, a bad network, another configuration or mere chance could bring about as well, so
every promise has to hold while it fires; its comment says why. A probe that a whole night of runs never hits means
that the night tested less than it seemed.

In production `CALM` is injected: nothing fires and nothing is counted. It costs nothing there, because places on the way of
every operation ask once, when they are made, or keep `is_calm` at hand; only rare branches call.

ONLY APPEND to both enums: a seeded implementation draws in their order, so that old seeds stay what they were.
Source: Zhou et al., "FoundationDB", SIGMOD 2021, section 4 (buggify; the TEST macro); `reliability` section 2.
"""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Protocol, TypeVar

__all__ = ["CALM", "FREQUENT", "GUARDS", "ON_REQUEST", "Chaos", "Point", "Probe"]

T = TypeVar("T")


class Point(StrEnum):
    """What may be disturbed. The comment says why that is legal."""

    # Frames and links: a network may do all of this.
    FRAME_TINY = auto()  # a frame goes out with one or two operations: how many share one is a matter of cost
    FRAME_HELD = auto()  # a frame waits for no quiet check, or for many: only delay, bounded by HOLD_S_MAX
    FRAME_COMPANY = auto()  # operations wait for more or for no company: only delay, bounded by COMPANY_S_MAX
    CHUNK_SMALL = auto()  # bodies travel in many small parts: a receiver takes parts of any size
    LINK_NARROW = auto()  # a client's link takes few operations at once: Overloaded, and nothing was sent
    LINK_DROPPED = auto()  # a connection ends at a heartbeat: as a network may end it
    LINK_SUSPECT_EARLY = auto()  # a peer is suspect although it was heard: suspicion decides only whom to ask
    HEARTBEAT_FAST = auto()  # silence is counted in shorter beats: as above, and connections end sooner
    RECONNECT_LATE = auto()  # longer pauses before reconnecting: as if the peer could not be reached meanwhile
    ADMISSION_REFUSED = auto()  # a session is refused with Overloaded: whoever connects tries again
    # Requests at their node: as if they had come late, twice, or not at all.
    REQUEST_REFUSED = auto()  # Overloaded before anything was begun: definite, nothing was applied
    REQUEST_LATE = auto()  # handled some milliseconds later: operations under way together have no order
    REQUEST_TWICE = auto()  # a peer's write or read is handled twice: merging is idempotent
    REPLY_DROPPED = auto()  # done, but the answer is lost: whoever asked has to call it indefinite
    GROUP_PART_REFUSED = auto()  # some of a group are not taken: they are asked again alone
    COMMIT_EACH = auto()  # a batch ends in the middle of a frame: batches are atomic, frames are not
    CATCH_UP_SKIPPED = auto()  # no catching up this time: NotReady all the same, and the next request asks again
    # Coordination: other sizes, other orders, more asking.
    INBOX_EAGER = auto()  # frames of clients gather although there is no crowd: only delay, bounded by HOLD_S_MAX
    GROUP_TINY = auto()  # a group has one or two operations: grouping is a matter of cost
    GROUP_NEVER = auto()  # (nearly) every operation goes alone: as above
    GET_GROUP_APART = auto()  # a group of reads is taken apart at once: as when a peer is slow
    SLOW_READ_SOON = auto()  # a read is slow after 2 ms, or only after 2 s: decides whether one more owner is asked
    SPARE_READS = auto()  # no or any number of additional reads: as above
    SPARE_READ_EARLY = auto()  # one owner more is asked from the start: an answer more cannot hurt
    IN_FLIGHT_SMALL = auto()  # a node coordinates few operations at once: Overloaded before anything was begun
    FORWARD_ELSEWHERE = auto()  # another owner coordinates a forwarded operation: any owner may
    PEERS_SHUFFLED = auto()  # owners are asked in another order: all of them are owners
    # Replicas: the general way, more repair, less repair.
    OVERWRITE_LONG_WAY = auto()  # a put is never spliced: the general way makes the same record
    MERGE_LONG_WAY = auto()  # a replicated record is always decoded and joined: as above
    REPAIR_SHED = auto()  # a read repair is not done: the next read finds the difference again
    REPAIR_LATE = auto()  # a read repair starts later: meanwhile anything may have happened to the key
    REPAIR_TWICE = auto()  # the same repair two times: merging is idempotent
    REPAIR_NEEDLESS = auto()  # owners that hold the record get it again: it changes nothing
    HEAL_SKIPPED = auto()  # an unreadable record is not healed this time: its next access asks again
    ACTOR_EARLY = auto()  # a new actor for a put: an actor epoch may end at any time
    ACTORS_RETIRED = auto()  # a start ends all actor epochs although nothing is missing: as above
    HLC_AHEAD = auto()  # the hybrid clock counts up to half a millisecond ahead: as after so many ticks
    # The store.
    RECORD_CACHE_TINY = auto()  # no cache of records, or one for a few: the engine has them all
    COMMIT_LATE = auto()  # a group commit begins later: nothing is acknowledged before it
    # Topology.
    ADOPT_LATE = auto()  # a newer topology is adopted later: as if it had come later
    PUSH_SKIPPED = auto()  # one member is not told of a topology: it learns the epoch from any frame of replies
    # Clients.
    ATTEMPT_SHORT = auto()  # an attempt is given up early and made elsewhere: the operation id makes it one write
    RETRY_STORM = auto()  # the next attempt is made at once: nodes protect themselves
    ROUTE_ROTATED = auto()  # another owner is asked first: any owner coordinates
    ROUTE_ASTRAY = auto()  # a node that owns nothing of the key is asked first: it forwards once
    ROUTES_FORGOTTEN = auto()  # what was made of the topology is made again: it is a cache
    REFRESH_NEEDLESS = auto()  # the topology is fetched although none is newer: it is read only
    # Moves.
    PAGE_TINY = auto()  # a page of a scan has one to five records: how many share one is a matter of cost


FREQUENT = frozenset({
    Point.LINK_DROPPED, Point.LINK_SUSPECT_EARLY, Point.REQUEST_REFUSED, Point.REQUEST_LATE, Point.REQUEST_TWICE,
    Point.REPLY_DROPPED, Point.GROUP_PART_REFUSED, Point.COMMIT_EACH, Point.ACTOR_EARLY,
})  # fmt: skip
"""Asked for every operation or heartbeat, and each time somebody suffers: let them fire more rarely than the others."""

ON_REQUEST = frozenset({Point.PAGE_TINY})
"""Asleep unless a run asks for them by name, and then they fire every time: old seeds stay what they were."""


class Probe(StrEnum):
    """Rare branches, each to be taken in some run of a night."""

    # Links and clients.
    LINK_FULL = auto()
    LINK_SUSPECT = auto()
    LINK_REVIVED = auto()
    LINK_DEAD = auto()
    LINK_REFUSED = auto()
    OPERATION_TIMED_OUT = auto()
    OPERATION_LOST = auto()
    REPLY_TOO_LATE = auto()
    WAITED_FOR_COMPANY = auto()
    FRAMES_GATHERED = auto()
    CHUNKED_REQUEST = auto()
    CHUNKED_REPLY = auto()
    CLIENT_RETRY_WORKED = auto()
    CLIENT_GAVE_UP = auto()
    CLIENT_KEPT_DOUBT = auto()  # the last attempt was refused, but an earlier one may have been applied
    CLIENT_ROUTE_STALE = auto()
    CLIENT_FOUND_NO_NODE = auto()
    # Admission.
    CLONE_REFUSED = auto()
    ROLLED_BACK_REFUSED = auto()
    DOUBLE_REFUSED = auto()
    ADMISSION_IN_DISK_TROUBLE = auto()
    ADDRESS_LEARNED = auto()
    # Requests at their node.
    REFUSED_WHILE_CLOSED = auto()
    REFUSED_OVERLOADED = auto()
    REFUSED_TOO_LATE = auto()
    REFUSED_WITHOUT_OWNERS = auto()
    STALE_PLACEMENT_REFUSED = auto()
    NEWER_PLACEMENT_SEEN = auto()
    WRONG_OWNER_REFUSED = auto()
    FORWARDED = auto()
    FORWARDED_ASTRAY = auto()
    UNREADABLE_PASSED_ON = auto()
    # Writes.
    DUPLICATE_PUT_FOUND = auto()
    RETRY_MET_REPLACED_VALUE = auto()
    OVERWRITE_SPLICED = auto()
    OVERWRITE_STEPPED_ASIDE = auto()
    CONTEXT_AHEAD_OF_HISTORY = auto()
    CONTEXT_CLOCK_REFUSED = auto()
    SIBLING_LIMIT_REACHED = auto()
    LWW_SUPERSEDED = auto()
    PUT_GROUP_SPLIT = auto()
    PUT_GROUP_REFUSED_SOME = auto()
    PUT_ACKNOWLEDGED_EARLY = auto()
    PUT_TOO_LARGE_FOR_A_GROUP = auto()
    WRITE_FELL_SHORT = auto()
    # Reads and repair.
    GET_GROUP_SPLIT = auto()
    GET_LEFT_ITS_GROUP = auto()
    SPARE_READ_MADE = auto()
    SPARE_READS_USED_UP = auto()
    READ_LOST_A_PEER = auto()
    READ_FELL_SHORT = auto()
    READ_WAITED_FOR_SYNC = auto()
    REPLICA_SEEN_BEHIND = auto()
    REPAIR_WAS_SHED = auto()
    REPAIRED_LOCALLY = auto()
    REPAIR_CAME_TOO_LATE = auto()
    REPAIR_RACED_A_DELETE = auto()
    RECORD_HEALED = auto()
    HEAL_FOUND_NOTHING = auto()
    UNREADABLE_LEFT_OUT = auto()
    HEAL_FAILED = auto()
    # Replicas.
    MERGED_AS_NEWS = auto()
    MERGED_AS_NEXT = auto()
    MERGED_CONCURRENT = auto()
    MERGE_CHANGED_NOTHING = auto()
    OLD_VALUE_MET_TOMBSTONE = auto()
    PEER_CLOCK_AHEAD = auto()
    ACTOR_MINTED_SEEN_AHEAD = auto()
    ACTOR_MINTED_UNREADABLE = auto()
    ACTORS_RETIRED_AT_START = auto()
    REPLICATE_WAITED_FOR_STALL = auto()
    GROUP_READ_LEFT_OUT = auto()
    GROUP_STALLED = auto()
    GROUP_IN_DOUBT = auto()
    # The store.
    BATCH_REFUSED = auto()
    BATCH_IN_DOUBT = auto()
    NO_SPACE_WAITED = auto()
    SYNC_FAILED = auto()
    CACHE_TURNED = auto()
    # Topology.
    MOVE_CANCELLED = auto()
    PARTITIONS_GIVEN_UP = auto()
    TOPOLOGY_NOT_NEWER = auto()
    WROTE_TO_GUESTS = auto()
    COPY_RESUMED = auto()
    COPY_WAITED = auto()
    SETTLED_A_DIFFERENCE = auto()
    # Hedges.
    HEDGE_WON = auto()
    SLOW_OWNER_PASSED_OVER = auto()


GUARDS = frozenset({Probe.CONTEXT_AHEAD_OF_HISTORY, Probe.ACTOR_MINTED_SEEN_AHEAD, Probe.WRONG_OWNER_REFUSED})
"""Branches that nothing within today's promise leads to: a history that went back unseen, or one placement version with two
meanings. They limit the harm should something do. A run in which one is hit has found how, and failed."""


class Chaos(Protocol):
    """What product code may ask and tell. Never keeps it from going on: an answer is quick, and nothing is raised."""

    @property
    def is_calm(self) -> bool:
        """Whether nothing will ever fire and nobody counts hits; constant, so it may be kept."""

    def fires(self, point: Point) -> bool:
        """Whether the point goes the unusual way this time."""

    def pick(self, point: Point, default: T, *others: T) -> T:
        """Return `default`, or one of `others` if the point fires."""

    def hit(self, probe: Probe) -> None:
        """Count a rare branch that is being taken."""


class _Calm:
    """Production: as if there were no chaos."""

    __slots__ = ()
    is_calm = True

    def fires(self, point: Point) -> bool:
        return False

    def pick(self, point: Point, default: T, *others: T) -> T:
        return default

    def hit(self, probe: Probe) -> None:
        pass


CALM: Chaos = _Calm()
