"""Planning: what a request needs before anything is done: its slot, its bucket and how many replicas have to answer.

Refuses what cannot be done, always with a definite error. Counts are resolved once for each combination and remembered: buckets
never change and N is the cluster's.
"""

from __future__ import annotations

from cluster.coordinator.overload import OverloadGuard
from cluster.coordinator.quorum import resolve_count, resolve_primary_count
from cluster.counters import Counters
from cluster.placement import Placement, Slot
from kvstore.causality.context import decode_history
from kvstore.causality.version_vector import VersionVector
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import NoSuchBucket, NotReady, Overloaded, Unavailable
from kvstore.ids import ObjectType, StorageKey
from kvstore.limits import INFLIGHT_PER_NODE_MAX
from kvstore.messages import decode_get
from kvstore.ring.buckets import BucketProperties
from kvstore.storage.keyspace import check_name, storage_key

__all__ = ["Planner", "ReadPlan", "WriteCounts"]

WriteCounts = tuple[int, int, int]
"""Resolved (w, dw, pw)."""
ReadPlan = tuple[int, int, VersionVector | None]
"""Resolved r and pr, and what a session's read has to cover; None if nothing."""


class Planner:
    """`in_flight` counts the operations this node coordinates; whoever plans one adds to it, and says when it `ended`."""

    def __init__(self, placement: Placement, counters: Counters, *, chaos: Chaos = CALM) -> None:
        self._placement, self._counters, self._chaos = placement, counters, chaos
        self.in_flight = 0
        self._guard = OverloadGuard(chaos.pick(Point.IN_FLIGHT_SMALL, INFLIGHT_PER_NODE_MAX, 2, 8))
        self._write_counts: dict[tuple[str, int, int | None, int | None, int | None], tuple[WriteCounts, int]] = {}
        """And how many owners that needs. Bounded by buckets x N x the few counts that resolve at all."""
        self._read_counts: dict[tuple[str, int], ReadPlan] = {}
        """Of reads that ask for nothing special."""

    def ended(self, count: int, took_s: float) -> None:
        """`count` operations were answered, `took_s` after they began."""
        self.in_flight -= count
        self._guard.ended(count, took_s)

    def is_too_late(self, late_s: float, now: float) -> bool:
        """Whether a client's frame that arrived `late_s` late is to be refused; asked once for each."""
        return self._guard.is_too_late(late_s, self.in_flight, now)

    def count_refusals(self, now: float, count: int = 1) -> None:
        """Count operations as refused."""
        self._chaos.hit(Probe.REFUSED_OVERLOADED)
        self._counters.overloaded += count
        self._guard.refuse(now, count)

    def refusal(self) -> Overloaded:
        """Return why operations are refused now, and when they may come again."""
        retry_after_s = round(self._guard.retry_after_s, 2)
        return Overloaded("the node is busy", retry_after_s=retry_after_s, in_flight=self.in_flight)

    @property
    def epoch(self) -> int:
        """The adopted topology's epoch."""
        return self._placement.epoch

    def plan(self, name: bytes, deadline: float, now: float) -> tuple[Slot, StorageKey, BucketProperties]:
        """Return the slot, storage key and bucket of an object, or raise why the operation cannot be begun."""
        if self.in_flight >= self._guard.limit:
            self.count_refusals(now)
            raise self.refusal()
        topology = self._placement.topology
        if topology is None:
            raise NotReady("the node is not serving yet", retry_after_s=0.1)
        if deadline <= now:
            self._chaos.hit(Probe.REFUSED_TOO_LATE)
            raise Overloaded("the deadline had passed before the operation was begun", retry_after_s=0.0)
        bucket = topology.bucket_by_bytes(check_name(name))
        if name[0] not in bucket.allowed_types:
            kind = ObjectType(name[0]).name.lower()
            raise NoSuchBucket(f"bucket {bucket.name!r} does not hold objects of type {kind}")
        key = storage_key(name)
        return self._placement.slot(key), key, bucket

    def write_counts(
        self, slot: Slot, bucket: BucketProperties, w: int | None, dw: int | None, pw: int | None
    ) -> WriteCounts:
        """Return what w, dw and pw of a request mean here, one more for each guest: see ring/move.py.

        Raises InsufficientNodes, or Unavailable if too few are reachable.
        """
        asked = (bucket.name, slot.n_effective, w, dw, pw)
        known = self._write_counts.get(asked)
        if known is None:
            n, n_effective = slot.n, slot.n_effective
            w_count = resolve_count(w, bucket.w, n=n, n_effective=n_effective, name="w")
            dw_count = resolve_count(dw, bucket.dw, n=n, n_effective=n_effective, name="dw")
            pw_count = resolve_primary_count(pw, bucket.pw, n=n, n_effective=n_effective, name="pw")
            if dw is None and bucket.dw is None:
                dw_count = min(dw_count, w_count)  # a w below the quorum means that the caller asked for less
            needed = max(1, w_count, dw_count, pw_count)
            self._write_counts[asked] = known = ((w_count, dw_count, pw_count), needed)
        counts, needed = known
        alive = slot.reachable()
        if slot.guests_count:
            self._chaos.hit(Probe.WROTE_TO_GUESTS)
            w_count, dw_count, pw_count = (count and count + slot.guests_count for count in counts)
            counts, needed = (w_count, dw_count, pw_count), needed + slot.guests_count
            alive += slot.reachable_guests()
        if alive < needed:
            self._chaos.hit(Probe.REFUSED_WITHOUT_OWNERS)
            raise Unavailable("too few owners of the key can be reached", needed=needed, alive=alive)
        return counts

    def read_plan(self, slot: Slot, key: StorageKey, bucket: BucketProperties, body: bytes) -> ReadPlan:
        """Return what a GET asks for here. Raises InsufficientNodes, DecodeError or InvalidContext."""
        plan = None if body else self._read_counts.get((bucket.name, slot.n_effective))
        return plan or self._resolve_read(slot, key, bucket, body)

    def _resolve_read(self, slot: Slot, key: StorageKey, bucket: BucketProperties, body: bytes) -> ReadPlan:
        request = decode_get(body)
        n, n_effective = slot.n, slot.n_effective
        r = max(1, resolve_count(request.r, bucket.r, n=n, n_effective=n_effective, name="r"))
        pr = resolve_primary_count(request.pr, bucket.pr, n=n, n_effective=n_effective, name="pr")
        if not body:
            self._read_counts[bucket.name, n_effective] = (r, pr, None)
        if request.history is None:
            return r, pr, None
        return r, pr, decode_history(request.history, key[:8]) or None
