"""What one process of an open-loop load does and counts: operations are offered when they are due, whatever became of others.

    due ──issue, first attempt only──► acknowledged within the deadline (good) │ late │ refused (definite) │ error
                 └── every SAMPLE_EVERY-th put has a key of its own, which is read afterwards: there or not, as it was told?

The client's retries are left out: what they add is another load, and here the load is what is given. Operations go straight to
the link of their key's first owner and are answered by a callback: no task and no future for any of them, which is what lets
one core offer several times of what three nodes on another can do.

Only what ended within the measured window counts as done in it, so that what an overloaded cluster works off afterwards
does not look like speed.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import msgpack

from cluster.cli.bench_core import key_of
from kvstore.client.operation_ids import OperationIds
from kvstore.client.requests import Requests
from kvstore.errors import KVStoreError, Overloaded, error_from_wire
from kvstore.ids import ObjectType, PartitionId
from kvstore.messages import Status, Verb, encode_body, get_reply_fields
from kvstore.ring.token import partition_of
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.system import SystemClock
from kvstore.transport.link import Link
from tests.campaigns.harness import run_all

__all__ = ["BEHIND_S_MAX", "Durations", "OpenLoop", "Plan", "Tally"]

VALUE_BYTES = 100
TICK_S = 0.001
CONNECT_S_MAX = 10.0
IN_DOUBT = "in doubt"
PUT_HEAD = encode_body((bytes(16), b"", None, 0, None, None, None))[:3]
"""Of the body of a put: seven fields, the first of which has 16 bytes (the operation id follows)."""
SAMPLE_EVERY = 32
SAMPLES_MAX = 1_000
SAMPLE_CONCURRENCY = 32
SAMPLE_TIMEOUT_S = 10.0
GET_REPLY_HEAD_FIELDS = 4
BEHIND_S_MAX = 0.02
"""What was due longer ago than that is not offered at all: a generator that hurries after its schedule has no time to read
answers, and would measure itself. It then offers less than was planned, which `offered` says."""
STEPS_PER_DOUBLING = 16
"""Of the histogram: durations are told to within 4.4 %."""


@dataclass(slots=True)
class Durations:
    """A histogram of durations; those of several processes can be added."""

    counts: Counter[int] = field(default_factory=Counter)

    def add_all(self, durations_s: Iterable[float]) -> None:
        """Count durations in seconds."""
        self.counts.update(round(STEPS_PER_DOUBLING * math.log2(max(each, 1e-6) * 1e6)) for each in durations_s)

    def quantile_ms(self, quantile: float) -> float | None:
        """Return a quantile in milliseconds; None if there are none."""
        left = quantile * self.counts.total()
        for step in sorted(self.counts):
            left -= self.counts[step]
            if left <= 0:
                return float(2.0 ** (step / STEPS_PER_DOUBLING) / 1e3)
        return None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process offers: `rate_per_s` for `warm_up_s` and then, measured, for `measured_s`."""

    addresses: tuple[str, ...]
    verb: str
    rate_per_s: float
    keys_count: int
    warm_up_s: float
    measured_s: float
    deadline_s: float
    name: str


@dataclass(slots=True)
class Tally:
    """Counts within the measured window, of one process or of several together."""

    offered: int = 0
    good: int = 0
    late: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By who refused: the node, before it began; the client's own link, before it sent."""
    errors: Counter[str] = field(default_factory=Counter)
    answered: Durations = field(default_factory=Durations)
    refusals: Durations = field(default_factory=Durations)
    pauses_ms: Counter[int] = field(default_factory=Counter)
    """The `retry_after_s` of the refusals."""
    behind: Durations = field(default_factory=Durations)
    """How late the generator itself was at issuing."""
    samples: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    def add(self, other: Tally) -> None:
        """Join another process's."""
        self.offered, self.good, self.late = (
            self.offered + other.offered,
            self.good + other.good,
            self.late + other.late,
        )
        for name in ("refused", "errors", "pauses_ms", "samples"):
            getattr(self, name).update(getattr(other, name))
        for name in ("answered", "refusals", "behind"):
            getattr(self, name).counts.update(getattr(other, name).counts)
        self.cpu_s += other.cpu_s

    def packed(self) -> bytes:
        """Return it as bytes for another process."""
        packed: bytes = msgpack.packb([
            self.offered, self.good, self.late, self.refused, self.errors, self.answered.counts, self.refusals.counts,
            self.pauses_ms, self.behind.counts, self.samples, self.cpu_s,
        ])  # fmt: skip
        return packed

    @classmethod
    def unpacked(cls, packed: bytes) -> Tally:
        """Return what `packed` told."""
        offered, good, late, refused, errors, answered, refusals, pauses_ms, behind, samples, cpu_s = msgpack.unpackb(
            packed, strict_map_key=False
        )
        return cls(
            offered, good, late, Counter(refused), Counter(errors), Durations(Counter(answered)), Durations(Counter(refusals)),
            Counter(pauses_ms), Durations(Counter(behind)), Counter(samples), cpu_s,
        )  # fmt: skip


class OpenLoop:
    """Runs a plan from `start` on (loop time). `on_window` is called at the beginning and at the end of what is measured."""

    def __init__(self, plan: Plan, requests: Requests, rng: random.Random, on_window: Callable[[], None]) -> None:
        self.plan, self.tally, self._requests, self._rng = plan, Tally(), requests, rng
        self._loop, self._on_window = requests.router.loop, on_window
        self._verb = Verb[plan.verb.upper()]
        self._operation_id = OperationIds(SystemClock(), rng).next
        self._packed = msgpack.packb(rng.randbytes(VALUE_BYTES))
        self._begins = self._ends = 0.0
        self._number = 0
        self._samples: dict[bytes, str] = {}
        self._answered_s, self._refused_s, self._behind_s = array("d"), array("d"), array("d")
        self._tail = encode_body((self._packed, None, 0, None, None, None))[1:]
        self._targets: list[tuple[Link, int, bytes]] = []
        """By number of the key: the link to its first owner, the placement version, its name."""
        self.over = self._loop.create_future()

    async def prepare(self) -> None:
        """Connect to every owner and look up where each key goes."""
        router, give_up_at = self._requests.router, self._loop.time() + CONNECT_S_MAX
        await router.wait_usable(give_up_at)
        assert router.topology is not None, "wait_usable returns only with a topology"
        self._topology = router.topology
        self._links = {m.node_id: await router.link_to(m.address, give_up_at) for m in self._topology.members}
        self._targets = [self._target(key_of(number)) for number in range(self.plan.keys_count)]

    def _target(self, key: bytes) -> tuple[Link, int, bytes]:
        name = object_name("default", ObjectType.LWW, key)
        partition = PartitionId(partition_of(storage_key(name), self._topology.partition_bits))
        return self._links[self._topology.owners_of(partition)[0]], self._topology.placement_versions[partition], name

    def start(self, begins: float) -> None:
        """Offer from the loop time `begins`; `over` is done when the last operation was due."""
        self._begins = begins
        self._ends = begins + self.plan.warm_up_s + self.plan.measured_s
        self._loop.call_at(begins + self.plan.warm_up_s, self._on_window)
        self._loop.call_at(begins, self._tick)

    def _tick(self) -> None:
        now, rate = self._loop.time(), self.plan.rate_per_s
        if now >= self._ends:
            self._on_window()
            self.over.set_result(None)
            return
        elapsed_s = now - self._begins
        self._number = max(self._number, int((elapsed_s - BEHIND_S_MAX) * rate))
        before = self._number
        while self._number < int(elapsed_s * rate):
            self._number += 1
            self._issue(self._begins + self._number / rate, now)
        if self._number > before and self._is_measured(now):
            self.tally.offered += self._number - before
            self._behind_s.append(elapsed_s - (before + 1) / rate)
        self._loop.call_later(TICK_S, self._tick)

    def _issue(self, due: float, now: float) -> None:
        is_put = self._verb is Verb.PUT
        if is_put and not self._number % SAMPLE_EVERY and len(self._samples) < SAMPLES_MAX:
            link, version, name = self._target(b"%s %d" % (self.plan.name.encode(), self._number))
            sample = name
            self._samples[sample] = IN_DOUBT
        else:
            link, version, name = self._targets[int(self._rng.random() * len(self._targets))]
            sample = b""
        body = PUT_HEAD + self._operation_id() + self._tail if is_put else b""
        try:
            link.ask(self._verb, version, now + self.plan.deadline_s, name, body, partial(self._ended, due, sample))
        except KVStoreError as error:
            self._failed(due, sample, error, "the client")

    def _is_measured(self, now: float) -> bool:
        return self._begins + self.plan.warm_up_s <= now < self._ends

    def _ended(self, due: float, sample: bytes, status: int, body: bytes) -> None:
        if status != Status.OK:
            self._failed(due, sample, error_from_wire(body), "the node")
            return
        if sample:
            self._samples[sample] = "acknowledged"
        now = self._loop.time()
        if self._is_measured(now):
            if now - due <= self.plan.deadline_s:
                self._answered_s.append(now - due)
            else:
                self.tally.late += 1

    def _failed(self, due: float, sample: bytes, error: KVStoreError, who: str) -> None:
        if sample:
            self._samples[sample] = "refused" if error.definite else IN_DOUBT
        now = self._loop.time()
        if not self._is_measured(now):
            return
        if isinstance(error, Overloaded):
            self.tally.refused[who if error.details.get("retry_after_s") else f"{who}: too late"] += 1
            self._refused_s.append(now - due)
            self.tally.pauses_ms[round(1000 * error.details.get("retry_after_s", 0))] += 1
        else:
            self.tally.errors[error.code if error.definite else f"{error.code} (unknown)"] += 1

    # --- afterwards -------------------------------------------------------------------------------------------------------

    async def check_samples(self) -> None:
        """Read the sampled puts: acknowledged ones have to be there, refused ones must not."""
        await run_all(dict(self._samples), self._check, SAMPLE_CONCURRENCY)

    def count(self) -> Tally:
        """Return what was counted; once, at the end."""
        self.tally.good = len(self._answered_s)
        self.tally.answered.add_all(self._answered_s)
        self.tally.refusals.add_all(self._refused_s)
        self.tally.behind.add_all(self._behind_s)
        return self.tally

    async def _check(self, name: bytes) -> None:
        deadline = self._loop.time() + SAMPLE_TIMEOUT_S
        fields = get_reply_fields(await self._requests.perform(Verb.GET, name, b"", deadline))
        told = self._samples[name]
        self.tally.samples[f"{told}, {'there' if len(fields) > GET_REPLY_HEAD_FIELDS else 'absent'}"] += 1
