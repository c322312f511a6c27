"""What an object does when operations come one after the other: the sequential half of linearizability.

    state ── step(state, operation) ──► the next state, or IMPOSSIBLE: the answer is none that this state gives

    register        read, write               lock          acquire, release; tokens grow
    cas-register    read, write, cas          fenced-lock   acquire (leases expire), use of a token at the resource
    counter         read, add                 linearizable-set    read, add

Bring your own: anything with these methods is a `Model`. Rules for it
  1. States and operations are hashable and never change; `step` is a function of its arguments.
  2. `is_read` only if `step` never returns another state than the one given.
  3. `leaves` and `sees` only save work. If in doubt: `leaves` returns "mark" and `sees` returns ("mark",), always.
Source: Knossos' and Porcupine's models; the fenced lock after Jepsen's Hazelcast tests and `reliability` 3.10.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from typing import ClassVar, Final, NamedTuple, Protocol, TypeVar

from jepsen_lite.checkers.calls import Operation, Process, Value, shown

__all__ = [
    "IMPOSSIBLE", "CasRegister", "Counter", "FencedLock", "GrowOnlySet", "Impossible", "Lock", "Model", "ModelError", "Register",
]  # fmt: skip


class ModelError(ValueError):
    """The model knows no such operation: the history is of another kind of object."""


class Impossible(Enum):
    """So that a state may be None."""

    IMPOSSIBLE = "impossible"


IMPOSSIBLE: Final = Impossible.IMPOSSIBLE
State = TypeVar("State", bound=Hashable)


class Model(Protocol[State]):
    """One kind of object."""

    def initial(self) -> State:
        """Return the state before any operation."""

    def understand(self, process: Process, f: str, value: Value, result: Value, *, is_known: bool) -> Operation:
        """Return the operation in the model's own form; `ModelError` if it has none of this kind. `is_known`: it was
        answered, with `result`. Leave `process` out of it unless it matters: equal operations save work."""

    def step(self, state: State, operation: Operation) -> State | Impossible:
        """Return the state after the operation, IMPOSSIBLE if in this state it cannot end as it did."""

    def is_read(self, operation: Operation) -> bool:
        """Return whether it never changes the state."""

    def leaves(self, operation: Operation) -> Hashable:
        """Return the mark by which others can tell that it happened. One of unknown outcome whose mark nobody `sees` is
        left out of the search."""

    def sees(self, operation: Operation) -> Iterable[Hashable]:
        """Return the marks that the operation, ending as it did, may be owed to."""

    def show(self, state: State) -> str:
        """Return the state in words that follow on "it": `holds 3`."""


def _unknown(f: str, known: str) -> ModelError:
    return ModelError(f"f is {shown(f)}, and this model knows {known}")


def _one(value: Value, what: str) -> int:
    if type(value) is not int:
        raise ModelError(f"{what} is a whole number, not {shown(value)}")
    return value


# --- registers ------------------------------------------------------------------------------------------------------


class Register:
    """Reads and writes of one value; null is "nothing was written yet", and may be written."""

    knows: ClassVar[tuple[str, ...]] = ("read", "write")

    def initial(self) -> Value:
        """Return null."""
        return None

    def understand(self, process: Process, f: str, value: Value, result: Value, *, is_known: bool) -> Operation:
        """Return the operation without its process."""
        if f not in self.knows:
            raise _unknown(f, ", ".join(self.knows))
        if f == "cas" and not (isinstance(value, tuple) and len(value) == 2):
            raise ModelError(f"a cas has the value [old, new], not {shown(value)}")
        return Operation(f, None, result) if f == "read" else Operation(f, value)

    def step(self, state: Value, operation: Operation) -> Value | Impossible:
        """A read shows the last write; a cas that succeeded found its old value."""
        f = operation.f
        if f == "read":
            return state if operation.result == state else IMPOSSIBLE
        if f == "write":
            return operation.value
        assert isinstance(operation.value, tuple), "`understand` lets no other cas pass"
        return operation.value[1] if operation.value[0] == state else IMPOSSIBLE

    def is_read(self, operation: Operation) -> bool:
        """Only reads."""
        return operation.f == "read"

    def leaves(self, operation: Operation) -> Value:
        """What it wrote."""
        return operation.value[1] if operation.f == "cas" else operation.value  # type: ignore[index]

    def sees(self, operation: Operation) -> Iterable[Value]:
        """What it read, or replaced."""
        if operation.f == "read":
            return (operation.result,)
        return (operation.value[0],) if operation.f == "cas" else ()  # type: ignore[index]

    def show(self, state: Value) -> str:
        """Say the value."""
        return f"holds {shown(state)}"


class CasRegister(Register):
    """A register with `cas [old, new]`; one that found another value has failed, and failed operations are no calls."""

    knows: ClassVar[tuple[str, ...]] = ("read", "write", "cas")


# --- sums and sets --------------------------------------------------------------------------------------------------


class Counter:
    """`add n` and reads of the sum. Stricter than `checkers/counters.py`: reads must agree with each other as well."""

    def initial(self) -> int:
        """Return zero."""
        return 0

    def understand(self, process: Process, f: str, value: Value, result: Value, *, is_known: bool) -> Operation:
        """Return the operation without its process."""
        if f == "add":
            return Operation(f, _one(value, "the value of an add"))
        if f == "read":
            return Operation(f, None, _one(result, "the result of a read") if is_known else None)
        raise _unknown(f, "read, add")

    def step(self, state: int, operation: Operation) -> int | Impossible:
        """A read shows the sum of all that was added."""
        if operation.f == "read":
            return state if operation.result == state else IMPOSSIBLE
        assert isinstance(operation.value, int), "`understand` lets no other add pass"
        return state + operation.value

    def is_read(self, operation: Operation) -> bool:
        """Only reads."""
        return operation.f == "read"

    def leaves(self, operation: Operation) -> str:
        """A change of the sum."""
        return "sum"

    def sees(self, operation: Operation) -> Iterable[str]:
        """The sum."""
        return ("sum",) if operation.f == "read" else ()

    def show(self, state: int) -> str:
        """Say the sum."""
        return f"is at {state}"


class GrowOnlySet:
    """`add element` and reads of all elements."""

    def initial(self) -> frozenset[Value]:
        """Return the empty set."""
        return frozenset()

    def understand(self, process: Process, f: str, value: Value, result: Value, *, is_known: bool) -> Operation:
        """Return the operation without its process; the elements of a read in one order, each once."""
        if f == "add":
            return Operation(f, value)
        if f != "read":
            raise _unknown(f, "read, add")
        if is_known and not isinstance(result, tuple):
            raise ModelError(f"the result of a read is a list, not {shown(result)}")
        elements = dict.fromkeys(result) if isinstance(result, tuple) else {}
        return Operation(f, None, tuple(sorted(elements, key=shown)))

    def step(self, state: frozenset[Value], operation: Operation) -> frozenset[Value] | Impossible:
        """A read shows everything that was added."""
        if operation.f == "add":
            return state | {operation.value}
        result = operation.result
        assert isinstance(result, tuple), "`understand` lets no other read pass"
        return state if len(result) == len(state) and state.issuperset(result) else IMPOSSIBLE

    def is_read(self, operation: Operation) -> bool:
        """Only reads."""
        return operation.f == "read"

    def leaves(self, operation: Operation) -> Value:
        """Its element."""
        return operation.value

    def sees(self, operation: Operation) -> Iterable[Value]:
        """The elements of a read."""
        return operation.result if isinstance(operation.result, tuple) else ()

    def show(self, state: frozenset[Value]) -> str:
        """Say the elements, if they are few."""
        few = sorted(map(shown, state))[:8]
        return f"has {len(state)} elements: {' '.join(few)}{' …' if len(state) > len(few) else ''}"


# --- locks ----------------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """Who holds a lock, and the greatest token that is known to have been given out."""

    by: Process | None
    token: int | None


class Lock:
    """Mutual exclusion: `acquire` (its result is a fencing token, or null if the lock gives none) and `release`.

    No lease ever expires here; for locks with leases see `FencedLock`.
    """

    def initial(self) -> Held:
        """Return a free lock."""
        return Held(None, None)

    def understand(self, process: Process, f: str, value: Value, result: Value, *, is_known: bool) -> Operation:
        """Return the operation with its process: only its holder can release a lock."""
        if f == "acquire":
            return Operation(f, None, None if result is None else _one(result, "a token"), process)
        if f == "release":
            return Operation(f, process=process)
        raise _unknown(f, "acquire, release")

    def step(self, state: Held, operation: Operation) -> Held | Impossible:
        """Only a free lock is acquired, with a greater token than any before, and only its holder releases it."""
        if operation.f == "release":
            return Held(None, state.token) if state.by == operation.process else IMPOSSIBLE
        token = operation.result
        assert token is None or isinstance(token, int), "`understand` lets no other token pass"
        if state.by is not None or (token is not None and state.token is not None and token <= state.token):
            return IMPOSSIBLE
        return Held(operation.process, state.token if token is None else token)

    def is_read(self, operation: Operation) -> bool:
        """Nothing here only reads."""
        return False

    def leaves(self, operation: Operation) -> str:
        """Whoever holds it."""
        return "holder"

    def sees(self, operation: Operation) -> Iterable[str]:
        """Everybody asks who holds it."""
        return ("holder",)

    def show(self, state: Held) -> str:
        """Say who holds it."""
        by = "is free" if state.by is None else f"is held by {state.by}"
        return by if state.token is None else f"{by}, last token {state.token}"


class Fence(NamedTuple):
    """The greatest token given out, and the greatest one that the resource has accepted."""

    given: int
    used: int


class FencedLock:
    """Tokens of a lock whose leases expire, and the resource that they guard: `acquire` → token, `use` token.

    Nobody can promise that one client at a time *believes* to hold such a lock. Promised is that tokens grow, and that the
    resource accepts no token after a greater one, and none that was not given out. `release` changes nothing.
    """

    def initial(self) -> Fence:
        """Return the fence before any token; tokens are positive."""
        return Fence(0, 0)

    def understand(self, process: Process, f: str, value: Value, result: Value, *, is_known: bool) -> Operation:
        """Return the operation without its process."""
        if f == "acquire":
            return Operation(f, None, _one(result, "a token") if is_known else None)
        if f == "use":
            return Operation(f, _one(value, "a token"))
        if f == "release":
            return Operation(f)
        raise _unknown(f, "acquire, release, use")

    def step(self, state: Fence, operation: Operation) -> Fence | Impossible:
        """Tokens grow, at the lock and at the resource. An acquire of unknown outcome has an unknown token: see `Fence`."""
        if operation.f == "acquire":
            token = operation.result
            if token is None:
                return state  # whoever got it never learned it, so nobody uses it
            assert isinstance(token, int), "`understand` lets no other token pass"
            return Fence(token, state.used) if token > state.given else IMPOSSIBLE
        if operation.f == "use":
            token = operation.value
            assert isinstance(token, int), "`understand` lets no other token pass"
            return Fence(state.given, token) if state.used <= token <= state.given else IMPOSSIBLE
        return state

    def is_read(self, operation: Operation) -> bool:
        """Only a release."""
        return operation.f == "release"

    def leaves(self, operation: Operation) -> str | None:
        """A use, what the resource accepted. A token that nobody learned leaves nothing."""
        return "used" if operation.f == "use" else None

    def sees(self, operation: Operation) -> Iterable[str]:
        """A use, what the resource accepted before."""
        return ("used",) if operation.f == "use" else ()

    def show(self, state: Fence) -> str:
        """Say both tokens."""
        return f"gave out tokens up to {state.given}, and its resource accepted up to {state.used}"
