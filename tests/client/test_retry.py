"""The retry table: which failures are tried again, how long they wait, and what is reported in the end."""

from __future__ import annotations

import random

import pytest

from kvstore import errors
from kvstore.client.retry import BACKOFF_S_MAX, BACKOFF_S_MIN, Attempts
from kvstore.errors import KVStoreError

DEADLINE = 10.0


def attempts(*, is_read: bool = False, attempts_max: int = 4) -> Attempts:
    return Attempts(is_read=is_read, deadline=DEADLINE, attempts_max=attempts_max)


def fail(those: Attempts, *problems: KVStoreError, now: float = 0.0) -> float | None:
    delay_s: float | None = None
    for problem in problems:
        delay_s = those.failed(problem, now, random.Random(1))
    return delay_s


RETRIED = [
    errors.Unavailable("x"), errors.Overloaded("x"), errors.NotReady("x"), errors.WrongOwner("x"), errors.DiskFull("x"),
    errors.StalePlacement("x"), errors.Timeout("x"), errors.CoordinatorLost("x"), errors.WriteQuorumUnsatisfied("x"),
    errors.ReadQuorumUnsatisfied("x"), errors.ReadTimeout("x"), errors.Corruption("x"),
]  # fmt: skip
NOT_RETRIED = [
    errors.InvalidArgument("x"), errors.InvalidContext("x"), errors.TooManySiblings("x"), errors.NoSuchBucket("x"),
    errors.InternalError("x"), errors.ClockSkew("x"), errors.ConditionFailed("x"),
]  # fmt: skip


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("problem", RETRIED, ids=lambda problem: problem.code)
def test_a_retryable_failure_is_tried_again(problem: KVStoreError, is_read: bool) -> None:
    """Definite or not: a write carries an operation id, so sending it twice is one write."""
    assert fail(attempts(is_read=is_read), problem) is not None


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("problem", NOT_RETRIED, ids=lambda problem: problem.code)
def test_what_no_retry_can_change_is_reported_at_once(problem: KVStoreError, is_read: bool) -> None:
    """A caller's mistake or a bug is the same at every node."""
    those = attempts(is_read=is_read)

    assert fail(those, problem) is None
    assert those.final() is problem


def test_a_broken_disk_is_tried_elsewhere() -> None:
    """A put failed because one of three disks had no space: another node has its own, and the operation id makes it one write."""
    assert fail(attempts(is_read=True), errors.StorageError("x")) is not None
    assert fail(attempts(is_read=False), errors.StorageError("x")) is not None


@pytest.mark.parametrize("later", [errors.Unavailable("x", needed=2, alive=0), errors.InvalidArgument("x")])
def test_a_later_refusal_does_not_make_a_doubtful_write_definite(later: KVStoreError) -> None:
    """The first attempt may have landed, whatever a second one was told."""
    those = attempts()

    fail(those, errors.CoordinatorLost("first"), later)

    assert not those.final().definite
    assert those.final().message == "first"


def test_a_doubtful_last_attempt_makes_the_write_doubtful() -> None:
    """A refusal before it does not help."""
    those = attempts()

    fail(those, errors.Unavailable("first"), errors.Timeout("second"))

    assert isinstance(those.final(), errors.Timeout)


def test_a_write_refused_every_time_is_definite() -> None:
    """Nobody ever took it."""
    those = attempts()

    fail(those, errors.Unavailable("a"), errors.Overloaded("b"), errors.Unavailable("c"))

    assert those.final().definite
    assert those.final().details["attempts"] == 3


def test_the_error_with_the_replicas_numbers_is_preferred() -> None:
    """`acked=1, needed=2` tells more than that a connection broke."""
    those = attempts()

    fail(those, errors.WriteQuorumUnsatisfied("numbers", acked=1, needed=2), errors.CoordinatorLost("link"))

    assert those.final().details["acked"] == 1


@pytest.mark.parametrize(
    ("problem", "reported"),
    [
        (errors.Timeout("x"), errors.ReadTimeout),
        (errors.CoordinatorLost("x"), errors.ReadError),
        (errors.ReadQuorumUnsatisfied("x"), errors.ReadQuorumUnsatisfied),
    ],
)
def test_a_failed_read_is_definite_whatever_failed(problem: KVStoreError, reported: type[KVStoreError]) -> None:
    """Reads change nothing, so there is nothing to be in doubt about."""
    those = attempts(is_read=True)

    fail(those, problem)

    assert type(those.final()) is reported
    assert those.final().definite


def test_the_first_retry_goes_elsewhere_at_once_and_later_ones_back_off_with_jitter() -> None:
    """Another node need not share the first one's trouble; if several fail, hurrying makes it worse."""
    those, rng = attempts(attempts_max=100), random.Random(1)

    delays_s = [those.failed(errors.Unavailable("x"), 0.0, rng) for _ in range(20)]

    assert delays_s[0] == 0.0
    assert all(delay_s is not None and BACKOFF_S_MIN <= delay_s <= BACKOFF_S_MAX for delay_s in delays_s[1:])
    assert len(set(delays_s)) == 20


def test_retry_after_is_waited_for_and_spread() -> None:
    """All who were refused together must not return together, and none early."""
    waits_s = [
        attempts().failed(errors.Overloaded("x", retry_after_s=0.2), 0.0, random.Random(seed)) for seed in range(9)
    ]

    assert all(wait_s is not None and 0.2 <= wait_s <= 0.3 for wait_s in waits_s)
    assert len(set(waits_s)) == 9


def test_a_node_that_starts_or_stops_is_not_waited_for_while_another_may_serve() -> None:
    """Its pause is its own: the first retry goes elsewhere at once. If that one is not ready either, it is a pause for all."""
    those, problem = attempts(), errors.NotReady("the node is starting or stopping", retry_after_s=0.2)

    first_s, second_s = (those.failed(problem, 0.0, random.Random(1)) for _ in range(2))

    assert first_s == 0.0
    assert second_s is not None and 0.2 <= second_s <= 0.3


@pytest.mark.parametrize("hint", [float("nan"), float("inf"), -1, "soon", None])
def test_a_strange_retry_after_never_leads_past_the_deadline(hint: object) -> None:
    """The hint comes from outside."""
    delay_s = fail(attempts(), errors.Overloaded("x", retry_after_s=hint))

    assert delay_s is None or delay_s < DEADLINE


def test_nothing_is_tried_after_the_deadline_or_the_last_attempt() -> None:
    """Both bounds hold for every kind of failure."""
    assert fail(attempts(), errors.Unavailable("x"), now=DEADLINE) is None
    assert fail(attempts(), errors.Overloaded("x", retry_after_s=1.0), now=DEADLINE - 0.5) is None
    assert fail(attempts(attempts_max=2), errors.Unavailable("x"), errors.Unavailable("x")) is None
