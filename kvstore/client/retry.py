"""Whether and when to try again, and which error to report when there is no more: decided from what the attempts said.

    | the attempt ended with            | read  | put, delete (operation id) | then                                  |
    |-----------------------------------|-------|----------------------------|---------------------------------------|
    | definite, not retryable           | no    | no                         | report it                             |
    | definite, retryable               | yes   | yes                        | at once elsewhere, then with backoff  |
    |   with retry_after_s              | yes   | yes                        | after that pause                      |
    |   NotReady: it is that node's own | yes   | yes                        | at once elsewhere, then that pause    |
    | indefinite, retryable             | yes   | yes: the same id is one    | the same                              |
    |                                   |       | write, however often sent  |                                       |
    | storage error                     | yes   | yes                        | another node has its own disk         |
    | anything else                     | no    | no                         | report it                             |

Invariants
  1. No attempt begins after the deadline, and never more than `attempts_max` of them.
  2. If any attempt of a write was indefinite, the reported error is indefinite: a later refusal does not undo it.
  3. A read that failed is definite, whatever failed: it changed nothing.

Pure: `now` and `rng` are arguments. Runs only after a first attempt has failed.
"""

from __future__ import annotations

import random

from kvstore.errors import IndeterminateError, KVStoreError, NotReady, ReadError, ReadTimeout, Timeout

__all__ = ["BACKOFF_S_MAX", "BACKOFF_S_MIN", "Attempts"]

BACKOFF_S_MIN = 0.02
"""About two commits of a busy node: long enough for a moment's overload to pass."""
BACKOFF_S_MAX = 1.0
_REPLICA_NUMBERS = ("acked", "replied", "needed", "alive")


class Attempts:
    """The failed attempts of one operation."""

    __slots__ = ("_attempts_max", "_best", "_deadline", "_is_read", "count")

    def __init__(self, *, is_read: bool, deadline: float, attempts_max: int) -> None:
        self._is_read, self._deadline, self._attempts_max = is_read, deadline, attempts_max
        self._best: KVStoreError | None = None
        self.count = 0

    def failed(self, error: KVStoreError, now: float, rng: random.Random) -> float | None:
        """Record a failed attempt. Returns the seconds to wait before the next one, or None: report `final`."""
        self.count += 1
        if self._best is None or self._rank(error) >= self._rank(self._best):
            self._best = error
        if not self._may_retry(error) or self.count >= self._attempts_max:
            return None
        delay_s = self._delay_s(error, rng)
        return delay_s if now + delay_s < self._deadline else None

    def final(self) -> KVStoreError:
        """Return the most informative error that is not more definite than what is known."""
        assert self._best is not None, "there is nothing to report before an attempt failed"
        error = _as_read_error(self._best) if self._is_read else self._best
        if self.count > 1:
            error.details.setdefault("attempts", self.count)
        return error

    def _may_retry(self, error: KVStoreError) -> bool:
        return error.retryable

    def _rank(self, error: KVStoreError) -> tuple[bool, bool, bool]:
        """Doubt first (invariant 2); then what no retry could change; then what replicas said over what a link said."""
        in_doubt = not error.definite and not self._is_read
        return in_doubt, not self._may_retry(error), any(name in error.details for name in _REPLICA_NUMBERS)

    def _delay_s(self, error: KVStoreError, rng: random.Random) -> float:
        if self.count == 1 and isinstance(error, NotReady):
            # A node that starts or stops speaks of itself alone. Obeying it made every operation that met one take 0.2-0.35 s
            # during a rolling restart, while two other owners would have answered at once.
            return 0.0
        asked = error.details.get("retry_after_s")
        if isinstance(asked, int | float) and asked > 0:
            # Later than asked, never earlier, and spread: all who were refused together would return together.
            return float(asked) * rng.uniform(1.0, 1.5)
        if self.count == 1:
            return 0.0  # the next attempt goes to another node, which need not share the first one's trouble
        ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0**self.count)
        return rng.uniform(BACKOFF_S_MIN, ceiling)


def _as_read_error(error: KVStoreError) -> KVStoreError:
    if isinstance(error, Timeout):
        return ReadTimeout(error.message, **error.details)
    if isinstance(error, IndeterminateError):
        return ReadError(error.message, **error.details)
    return error
