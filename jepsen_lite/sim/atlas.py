"""The fault budget: which copies may be damaged now, so that no key loses more than the promise covers.

    a write acknowledged with dw durable copies may lose dw - 1 of them, until repair has restored them all

    key k, dw 2      n0  n1  n2
    rot on n0        ✗   ✓   ✓     allowed: 1 of at most dw - 1 = 1
    lost write n1    ✗   ?   ✓     refused, until a peek shows that n0 again covers all that was durable at the damage

Pure: it is told what the hosts hold and never looks itself. Power loss and kills need no permission: they take nothing durable.

Invariants
  1. For every key, the hosts with an unhealed damage are at most (smallest dw of its acknowledged writes) - 1.
  2. A damage is healed only when the host's *durable, readable* record covers every durable vector known at the damage.
  3. What is the only durable copy of something is spared, acknowledged or not: a read may have shown it.
Source: TigerBeetle's `ClusterFaultAtlas`; `reliability` section 2. There is no anti-entropy yet: only reads heal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kvstore.causality.version_vector import VersionVector, descends, merge_vectors

__all__ = ["Decision", "FaultAtlas", "Look"]

Look = Callable[[str, bytes], VersionVector | None]
"""(host, key) -> the vector of its durable record; empty if it surely has none, None if it cannot be read."""
DECISIONS_KEPT_MAX = 10_000
DW_DEFAULT = 2


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a damage was allowed, and why not (empty if it was)."""

    kind: str
    host: str
    keys: tuple[bytes, ...]
    refusal: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the damage may be done; it then counts until it is healed."""
        return not self.refusal

    def __str__(self) -> str:
        keys = ", ".join(key[8:].hex() for key in self.keys[:2]) + (" …" if len(self.keys) > 2 else "")
        return f"{self.kind} on {self.host}, {len(self.keys)} keys ({keys}): {self.refusal or 'allowed'}"


class FaultAtlas:
    """`hosts` are all machines that may hold copies, in a fixed order; `dw` is the cluster's default."""

    def __init__(self, hosts: Iterable[str], *, dw: int = DW_DEFAULT) -> None:
        self._hosts, self._dw = list(hosts), dw
        self._dw_of_key: dict[bytes, int] = {}
        self._damaged: dict[bytes, dict[str, VersionVector]] = {}
        self.ever_damaged: dict[bytes, None] = {}
        """Every key of which a copy was damaged, healed or not."""
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT_MAX)

    def acknowledged(self, key: bytes, dw: int) -> None:
        """Note that a write of the key was acknowledged with so many durable copies: the smallest one counts."""
        self._dw_of_key[key] = min(dw, self._dw_of_key.get(key, self._dw))

    def is_weak(self, key: bytes) -> bool:
        """Whether a write of the key was acknowledged with one durable copy."""
        return self._dw_of_key.get(key, self._dw) < 2

    def decide(self, kind: str, host: str, keys: Iterable[bytes], look: Look) -> Decision:
        """Allow or refuse to damage the host's durable copies of the keys, all together. Allowed damage is noted."""
        wanted = tuple(keys)
        refusal = next((why for key in wanted if (why := self._refusal(host, key, look))), "")
        decision = Decision(kind, host, wanted, refusal)
        self.decisions.append(decision)
        if decision.is_allowed:
            for key in wanted:
                self._damaged.setdefault(key, {})[host] = self._known(key, look)
                self.ever_damaged[key] = None
        return decision

    def observe(self, look: Look) -> list[tuple[str, bytes]]:
        """Forget every damage that is healed now; returns (host, key) of them."""
        healed = [
            (host, key)
            for key, damaged in self._damaged.items()
            for host, known in damaged.items()
            if (seen := look(host, key)) is not None and descends(seen, known)
        ]
        for host, key in healed:
            del self._damaged[key][host]
            if not self._damaged[key]:
                del self._damaged[key]
        return healed

    def forget_host(self, host: str) -> None:
        """Forget the damages of a host that no longer counts as an owner and whose copies others have taken over."""
        self._hosts = [name for name in self._hosts if name != host]
        for key in list(self._damaged):
            self._damaged[key].pop(host, None)
            if not self._damaged[key]:
                del self._damaged[key]

    def due_from_heal(self, host: str, key: bytes) -> VersionVector | None:
        """Return what a record that replaces the host's damaged copy must have seen: what others held durably when it was
        damaged. None if it was not, or if it is not the only damaged one."""
        damaged = self._damaged.get(key, {})
        return damaged.get(host) if len(damaged) == 1 else None

    @property
    def damaged(self) -> Mapping[bytes, tuple[str, ...]]:
        """Return the hosts with an unhealed damage of each key."""
        return {key: tuple(hosts) for key, hosts in self._damaged.items()}

    def budget(self, key: bytes) -> int:
        """Return how many more hosts may be damaged at this key."""
        return self._dw_of_key.get(key, self._dw) - 1 - len(self._damaged.get(key, ()))

    def _refusal(self, host: str, key: bytes, look: Look) -> str:
        if host in self._damaged.get(key, ()):
            return "this copy is damaged already"
        if self.budget(key) < 1:
            return "another copy is not healed yet" if self._damaged.get(key) else "acknowledged with dw=1"
        ours = look(host, key)
        if ours is not None and not descends(self._known(key, look, besides=host), ours):
            return "it is the only durable copy of something"
        return ""

    def _known(self, key: bytes, look: Look, *, besides: str = "") -> VersionVector:
        known: VersionVector = {}
        for host in self._hosts:
            if host != besides and (seen := look(host, key)) is not None:
                known = merge_vectors(known, seen)
        return known
