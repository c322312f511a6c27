"""Retries at other coordinators, against a model that knows which operation every dot is: none is lost, and few come back.

model: an operation is live  <=>  one of its dots is known, and no other known one had been shown it at any of its dots
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.causality import dvvset, retries
from kvstore.causality.dvvset import EMPTY, DVVSet, sync
from kvstore.causality.version_vector import Relation, VersionVector, compare, covers
from tests.causality.histories import actor_of, operation_id, put

REPLICAS, CLIENTS = 3, 3
PUTS_MAX = 5
"""Each at up to three dots: fewer than a record remembers, so that the model need not forget."""
_STEPS = st.tuples(
    st.sampled_from(["put", "retry", "sync", "take", "read"]),
    st.integers(0, REPLICAS - 1),
    st.integers(0, CLIENTS - 1),
)
HISTORIES = st.lists(_STEPS, max_size=40)


@dataclass
class Retries:
    """Replicas, and clients that send what they wrote last again, with the same context, wherever they like.

    With another context an operation may still be lost: of three attempts, two may each cover the dot that stands for the other.
    """

    forgets: bool = False
    """Whether replicas may take a record as it is, from a coordinator that heard of theirs through a context only."""
    states: list[DVVSet] = field(default_factory=lambda: [EMPTY] * REPLICAS)
    contexts: list[VersionVector] = field(default_factory=lambda: [{} for _ in range(CLIENTS)])
    last: dict[int, tuple[int, VersionVector]] = field(default_factory=dict)
    shown: dict[tuple[bytes, int], set[int]] = field(default_factory=dict)
    """Dot -> the other operations that its context covers, at any dot."""
    dots: dict[int, list[tuple[bytes, int]]] = field(default_factory=dict)
    """Operation -> its dots, in the order of their times."""
    may_be_back: set[int] = field(default_factory=set)
    """Operations that looked somewhere as if they had been sent again by somebody who had been shown them."""

    def step(self, step: tuple[str, int, int]) -> None:
        action, replica, other = step
        if action == "put" and len(self.dots) < PUTS_MAX:
            self.last[other] = len(self.dots) + 1, self.contexts[other]
            self._put(replica, *self.last[other])
        elif action == "retry" and other in self.last:
            self._put(replica, *self.last[other])
        elif action == "sync":
            self.states[other] = sync(self.states[other], self.states[replica])
        elif action == "take" and self.forgets and self._dominates(replica, other):
            self.states[other] = self.states[replica]  # as replicas do with a record that has seen all of theirs
        elif action == "read":
            self.contexts[other] = self.states[replica].vector

    def _put(self, replica: int, number: int, context: VersionVector) -> None:
        state = self.states[replica]
        if any(each.operation_id == operation_id(number) for each in (*state.operations, *state.siblings)):
            return  # a coordinator that remembers it replicates what it has
        actor = actor_of(replica)
        after = put(state, context, actor, number, b"%d" % number, hlc=len(self.shown) + 1)
        dot = (actor, after.vector[actor])
        self.shown[dot] = self._covered(context) - {number}
        self.dots.setdefault(number, []).append(dot)
        self.states[replica] = after
        self.may_be_back |= {n for n in _numbers(after) if self._is_ambiguous(n, after)}

    def _is_ambiguous(self, number: int, state: DVVSet) -> bool:
        """Whether a state holds a dot of an operation and covers an earlier one."""
        dots = self.dots[number]
        held = [(s.actor, s.counter) for s in state.siblings if s.operation_id == operation_id(number)]
        return any(covers(state.vector, a, n) for dot in held for a, n in dots[: dots.index(dot)])  # type: ignore[arg-type]

    def _dominates(self, replica: int, other: int) -> bool:
        return compare(self.states[replica].vector, self.states[other].vector) is Relation.DOMINATES

    def _covered(self, vector: VersionVector) -> set[int]:
        return {number for number, dots in self.dots.items() if any(covers(vector, a, n) for a, n in dots)}  # type: ignore[arg-type]

    def live(self, state: DVVSet) -> set[int]:
        known = {dot for dot in self.shown if covers(state.vector, *dot)}  # type: ignore[arg-type]
        return self._covered(state.vector) - set[int]().union(*(self.shown[dot] for dot in known))

    def check(self) -> None:
        """Assert that every state holds what is live, and nothing twice."""
        for state in self.states:
            numbers = _numbers(state)
            assert len(numbers) == len(set(numbers))
            assert self.live(state) <= set(numbers)

    def sync_all(self) -> None:
        """Let everybody meet everybody."""
        for _ in range(2):
            for replica in range(REPLICAS):
                self.step(("sync", replica, (replica + 1) % REPLICAS))


def _numbers(state: DVVSet) -> list[int]:
    return sorted(int(sibling.value or b"0") for sibling in state.siblings)


@settings(max_examples=300, deadline=None)
@given(HISTORIES)
def test_after_everybody_synced_the_live_values_are_there_and_hardly_another_one(
    steps: list[tuple[str, int, int]],
) -> None:
    """On the way a live value is always there, and once; at the end nothing that was replaced is, unless it looked like its own
    repetition."""
    world = Retries()
    for step in steps:
        world.step(step)
        world.check()

    world.sync_all()
    for state in world.states:
        assert set(_numbers(state)) - world.may_be_back <= world.live(state) <= set(_numbers(state))
    assert world.states[0] == world.states[1] == world.states[2]


@settings(max_examples=300, deadline=None)
@given(HISTORIES, st.integers(1, 4))
def test_states_that_forget_lose_nothing(steps: list[tuple[str, int, int]], kept_max: int) -> None:
    """With memories that are too short a replaced value may be back; a live one is never gone."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (dvvset, retries):
            patch.setattr(module, "OPERATIONS_KEPT_MAX", kept_max)
        world = Retries(forgets=True)
        for step in steps:
            world.step(step)
            world.check()
        world.sync_all()
        world.check()
