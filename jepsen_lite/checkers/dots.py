"""White-box judge of dots, online: no dot is ever bound to two writes, anywhere, ever.

    node n1 applies record {(a,3) "x"}   node n2 applies {(a,3) "x"}   fine, the same write
    node n1 loses its disk, forgets, and mints (a,3) "y"               DOT_REUSED: one of "x" and "y" will vanish in a merge

It is fed every record that any node ever applies, also those which a later power loss takes away, so it catches a dot minted
twice even if the two values never meet. What it learns, the binding of every dot, is what `dot_causality` reads afterwards.

Invariants
  1. (object, actor, counter) -> (operation id, value) is a function; of an overwritten value whose operation a record still
     remembers, (object, actor, counter) -> operation id.
  2. A value has one operation id, however often it is sent.
  3. lww: what has seen the same writes shows the same one, on every node.
  4. A node replaces a readable record only by one whose vector descends from it (`see_replaced`).
Source: `design` section 4; riak_kv issue 679; `reliability` 3.6 (c). Complexity: O(1) for each sibling seen; a record that was
seen before costs one look-up. Memory: every dot and every distinct record of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgpack

from jepsen_lite.checkers.verdict import Broken, Verdict, Violation
from jepsen_lite.history import text_of
from kvstore.causality.dvvset import DVVSet, Operation
from kvstore.causality.version_vector import VersionVector, decode_vector, descends
from kvstore.errors import Corruption, DecodeError
from kvstore.ids import ObjectType, StorageKey
from kvstore.storage.keyspace import check_storage_key, parse_name
from kvstore.storage.record import decode_record, view_record

__all__ = ["Binding", "Dot", "DotWitness", "key_of", "value_of"]


class Dot(NamedTuple):
    """One event of one object."""

    actor: bytes
    counter: int

    def __str__(self) -> str:
        return f"{self.actor.hex()}:{self.counter}"


class Binding(NamedTuple):
    """What a dot stands for. `value` None is a tombstone; `hlc` does not belong to the identity of the write."""

    operation_id: bytes
    value: str | None
    hlc: int = 0


def value_of(packed: bytes | None) -> str | None:
    """Return a stored value as the history holds it: clients store msgpack of bytes or text."""
    if packed is None:
        return None
    try:
        plain = msgpack.unpackb(packed, raw=True)
    except (ValueError, msgpack.UnpackException):
        return text_of(packed)
    return text_of(plain) if isinstance(plain, bytes) else text_of(packed)


def key_of(storage_key: bytes) -> str:
    """Return the user's key inside a storage key, as the history holds it."""
    try:
        return text_of(parse_name(check_storage_key(storage_key)).key)
    except DecodeError:
        return storage_key.hex()


def _words(binding: Binding) -> str:
    return (
        f"{'a tombstone' if binding.value is None else repr(binding.value)} of operation {binding.operation_id.hex()}"
    )


def _dots(vector: VersionVector) -> str:
    return " ".join(f"{actor.hex()}:{counter}" for actor, counter in vector.items())


NAME_END = "|"
"""Ends the name of a large value; what follows is padding."""
_TYPE_OFFSET = 8
"""Of the object type in a storage key, behind the token."""


class DotWitness:
    """Remembers what every dot was bound to, and every time it was bound to something else."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._bound: dict[bytes, dict[Dot, Binding]] = {}
        self._records_seen: set[bytes] = set()
        self._first_dot: dict[tuple[bytes, bytes], Dot] = {}
        self._operations: dict[tuple[bytes, Dot], bytes] = {}
        self._dots_of_operation: dict[tuple[bytes, bytes], list[Dot]] = {}
        self._operation_of_name: dict[tuple[bytes, str], bytes] = {}
        self._twice: dict[str, bool] = {}
        self._actors: dict[bytes, None] = {}
        self._lww_winners: dict[tuple[bytes, tuple[tuple[bytes, int], ...]], list[Dot]] = {}
        self.count = 0
        """How many dots were seen."""

    def see(self, where: str, object_id: bytes, dot: Dot, binding: Binding) -> Violation | None:
        """Check one dot that node `where` holds; returns what is wrong, at once. O(1)."""
        bound = self._bound.setdefault(object_id, {})
        first = bound.get(dot)
        if first is None:
            bound[dot] = binding
            self._actors[dot.actor] = None
            self.count += 1
            self._note_value(object_id, dot, binding)
        elif first[:2] != binding[:2]:
            message = f"{where} holds {_words(binding)} at dot {dot}, which was {_words(first)}"
            return self._add(Broken.DOT_REUSED, object_id, message)
        return self.see_operation(where, object_id, dot, binding.operation_id)

    def see_operation(self, where: str, object_id: bytes, dot: Dot, operation_id: bytes) -> Violation | None:
        """Check one (operation id, dot) that a record remembers, although its value may be gone from it. O(1)."""
        first = self._operations.get((object_id, dot))
        if first is None:
            self._operations[object_id, dot] = operation_id
            self._dots_of_operation.setdefault((object_id, operation_id), []).append(dot)
            return None
        if first == operation_id:
            return None
        message = f"{where} remembers operation {operation_id.hex()} at dot {dot}, which was {first.hex()}"
        return self._add(Broken.DOT_REUSED, object_id, message)

    def see_record(self, where: str, storage_key: bytes, record: bytes) -> list[Violation]:
        """Check the dots of one record that node `where` is about to apply; returns what is wrong, at once."""
        seen = hashlib.blake2b(storage_key + record, digest_size=16).digest()
        if seen in self._records_seen:
            return []
        self._records_seen.add(seen)
        try:
            state = decode_record(StorageKey(storage_key), record)
        except Corruption as problem:
            return [self._add(Broken.UNREADABLE, storage_key, f"{where} wrote an unreadable record: {problem}")]
        found = [
            self.see(where, storage_key, Dot(s.actor, s.counter), Binding(s.operation_id, value_of(s.value), s.hlc))
            for s in state.siblings
        ]
        there = {(s.actor, s.counter) for s in state.siblings}
        found += [
            self.see_operation(where, storage_key, Dot(o.actor, o.counter), o.operation_id)
            for o in state.operations
            if (o.actor, o.counter) not in there
        ]
        if storage_key[_TYPE_OFFSET] == ObjectType.LWW:
            found.append(self._see_winner(where, storage_key, state))
            for o in state.operations:
                self._note_superseded(storage_key, Dot(o.actor, o.counter), o)
        return [violation for violation in found if violation is not None]

    def _see_winner(self, where: str, object_id: bytes, state: DVVSet) -> Violation | None:
        dots = [Dot(s.actor, s.counter) for s in state.siblings]
        first = self._lww_winners.setdefault((object_id, tuple(sorted(state.vector.items()))), dots)
        if first == dots:
            return None
        message = (
            f"{where} shows {' '.join(map(str, dots))}, and another that has seen the same {' '.join(map(str, first))}"
        )
        return self._add(Broken.DIVERGED, object_id, message)

    def see_replaced(self, where: str, storage_key: bytes, before: bytes, after: bytes) -> Violation | None:
        """Check that node `where` forgets nothing by putting `after` in place of `before`; both are readable records."""
        ours, theirs = view_record(after).encoded_vector, view_record(before).encoded_vector
        return None if ours == theirs else self.see_covers(where, storage_key, decode_vector(theirs), after)

    def see_covers(self, where: str, storage_key: bytes, due: VersionVector, after: bytes) -> Violation | None:
        """Check that the record which node `where` writes now has seen everything in `due`."""
        ours = decode_vector(view_record(after).encoded_vector)
        if descends(ours, due):
            return None
        message = f"{where} wrote a record that has not seen all it had to: {_dots(ours)} and not {_dots(due)}"
        return self._add(Broken.WENT_BACK, storage_key, message)

    def see_epoch_kept(self, where: str, storage_key: bytes) -> Violation:
        """Node `where` replaced an unreadable record and did not end its actor epoch with it."""
        return self._add(Broken.EPOCH_KEPT, storage_key, f"{where} replaced an unreadable record and keeps its actor")

    def actors_of(self, node_id: bytes) -> dict[bytes, None]:
        """Return every actor of a node that has minted a dot so far, as an ordered set."""
        return {actor: None for actor in self._actors if actor.startswith(node_id)}

    def see_ended_actor(self, where: str, storage_key: bytes, dot: Dot) -> Violation:
        """Node `where` minted a dot with an actor of before its history went missing."""
        return self._add(Broken.EPOCH_KEPT, storage_key, f"{where} started without all its history, and minted {dot}")

    def see_minted_again(self, where: str, storage_key: bytes, dot: Dot) -> Violation:
        """Node `where` gave a dot to a write although one of unknown outcome has it."""
        return self._add(Broken.DOT_REUSED, storage_key, f"{where} minted {dot} again, which a write in doubt has")

    def _note_superseded(self, object_id: bytes, dot: Dot, operation: Operation) -> None:
        """An lww put that lost on arrival leaves its operation and its dot, and no value: known only if another node held it."""
        first = self._first_dot.get((object_id, operation.operation_id))
        bound = self._bound.get(object_id, {})
        if first is not None and first != dot and dot not in bound:
            bound[dot] = bound[first]._replace(hlc=operation.hlc)
            self._note_value(object_id, dot, bound[dot])

    def _add(self, broken: Broken, object_id: bytes, message: str) -> Violation:
        violation = Violation(broken, key_of(object_id), message)
        self.violations.append(violation)
        return violation

    def _note_value(self, object_id: bytes, dot: Dot, binding: Binding) -> None:
        first = self._first_dot.setdefault((object_id, binding.operation_id), dot)
        if binding.value is None:
            return
        if first != dot:
            self._twice[binding.value] = True
        name = binding.value.partition(NAME_END)[0]
        operation_id = self._operation_of_name.setdefault((object_id, name), binding.operation_id)
        if operation_id != binding.operation_id:
            message = f"{name} is there as operation {operation_id.hex()} and as {binding.operation_id.hex()}"
            self._add(Broken.MINTED_TWICE, object_id, message)

    def bindings(self, object_id: bytes) -> Mapping[Dot, Binding]:
        """Return what every dot of one object was first bound to; do not modify it."""
        return self._bound.get(object_id, {})

    def dots_of(self, object_id: bytes, name: str) -> Sequence[Dot]:
        """Return the dots of the write of the value that begins with `name` (see workloads/payload.py), in any record so far."""
        operation_id = self._operation_of_name.get((object_id, name))
        return () if operation_id is None else self._dots_of_operation.get((object_id, operation_id), ())

    def objects(self) -> list[bytes]:
        """Return every object of which a dot was seen."""
        return list(self._bound)

    def written_twice(self) -> list[str]:
        """Return the values that have two dots because a retry met another coordinator; see `may_return`."""
        return list(self._twice)

    def verdict(self) -> Verdict:
        """Return what was found so far."""
        return Verdict("dots", tuple(self.violations), figures={"dots": self.count, "objects": len(self._bound)})
