"""Histories of a register that is linearizable by construction, with as much concurrency as wanted; and bad ones made of them.

    client   invoke ─── at some moment it takes effect ─── return          or, of unknown outcome: never returns, and takes
                                                                           effect now, much later, or never

`stale` mutates one read so that no order can explain it; `zones_overlap` is a second judge for large histories of unique writes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from jepsen_lite.checkers.calls import Call, Operation, Value

__all__ = ["simulate", "stale", "zones_overlap"]


@dataclass(slots=True)
class _Client:
    operation: Operation | None = None
    invoked: int = 0
    is_done: bool = False


def simulate(
    seed: int, operations: int, *, clients: int = 10, unknown: int = 8, values: int | None = None, cas_share: float = 0.2,
    write_share: float = 0.3,
    is_busy: bool = False,
) -> list[Call]:  # fmt: skip
    """Return the calls to one register. `values`: how many different ones, None if every written one is unique.
    `is_busy`: nobody pauses, so nearly all clients have something under way all the time."""
    rng = random.Random(seed)
    calls: list[Call] = []
    working = [_Client() for _ in range(clients)]
    late: list[Operation] = []
    state: Value = None
    index = invoked = 0

    def new_value() -> int:
        return invoked if values is None else rng.randrange(values)

    def draw() -> Operation:
        choice = rng.random()
        if choice < write_share:
            return Operation("write", new_value())
        if choice < write_share + cas_share:
            old = state if rng.random() < 0.7 else (None if values is None else rng.randrange(values))
            return Operation("cas", (old, new_value()))
        return Operation("read")

    def apply(operation: Operation) -> Operation | None:
        nonlocal state
        if operation.f == "read":
            return replace_result(operation, state)
        if operation.f == "write":
            state = operation.value
            return operation
        old, new = operation.value  # type: ignore[misc]
        if old != state:
            return None
        state = new
        return operation

    while invoked < operations or any(client.operation for client in working):
        if late and rng.random() < 0.002:
            apply(late.pop(rng.randrange(len(late))))
        idle = [client for client in working if client.operation is None] if is_busy and invoked < operations else []
        client = rng.choice(idle or working)
        if client.operation is None:
            if invoked < operations:
                client.operation, client.invoked, client.is_done = draw(), index, False
                invoked, index = invoked + 1, index + 1
        elif not client.is_done:
            if unknown and client.operation.f != "read" and rng.random() < unknown * 4 / operations:
                calls.append(Call(client.operation, client.invoked, None))
                fate = rng.choice(["now", "late", "never"])
                unknown -= 1
                if fate == "now":
                    apply(client.operation)
                elif fate == "late":
                    late.append(client.operation)
                client.operation = None
                continue
            ended = apply(client.operation)
            if ended is None:  # a cas that found another value: definitely failed, and no call
                client.operation = None
            else:
                client.operation, client.is_done = ended, True
        else:
            calls.append(Call(client.operation, client.invoked, index))
            client.operation, index = None, index + 1
    return sorted(calls, key=lambda call: call.invoked)


def replace_result(operation: Operation, result: Value) -> Operation:
    """Return the operation as answered."""
    return operation._replace(result=result)


def stale(calls: Sequence[Call], *, at_share: float = 0.9) -> list[Call]:
    """Return the calls with one read, after `at_share` of them, that shows a value which another had certainly replaced."""
    start = int(len(calls) * at_share)
    read = next(call for call in calls[start:] if call.operation.f == "read" and call.returned is not None)
    writes = [call for call in calls if call.operation.f == "write" and (call.returned or read.invoked) < read.invoked]
    later = max(writes, key=lambda call: call.invoked)
    old = max((call for call in writes if (call.returned or 0) < later.invoked), key=lambda call: call.invoked)
    bad = replace(read, operation=replace_result(read.operation, old.operation.value))
    return [bad if call is read else call for call in calls]


def zones_overlap(calls: Sequence[Call]) -> bool:
    """Return whether reads and unique writes (no cas) are *not* linearizable. O(n²) here, and a quite different way.

    A cluster is a write and its reads; its zone goes from the first return to the last invocation in it. Two clusters whose
    zones both go forward cannot overlap, and none that goes backward lies inside one that goes forward.
    Source: Gibbons and Korach, "Testing shared memories", 1997.
    """
    never = 1 << 60
    clusters: dict[Value, list[Call]] = {None: [Call(Operation("write"), -2, -1)]}
    for call in calls:
        if call.operation.f == "write":
            clusters.setdefault(call.operation.value, []).append(call)
    for call in calls:
        if call.operation.f == "read" and call.returned is not None:
            if call.operation.result not in clusters:
                return True
            write = clusters[call.operation.result][0]
            if call.returned < write.invoked:
                return True
            clusters[call.operation.result].append(call)
    zones = []
    for cluster in clusters.values():
        if len(cluster) > 1 or cluster[0].returned is not None:
            ends = min(never if call.returned is None else call.returned for call in cluster)
            zones.append((ends, max(call.invoked for call in cluster)))
    forward = sorted(zone for zone in zones if zone[0] < zone[1])
    backward = [zone for zone in zones if zone[0] >= zone[1]]
    if any(one[1] > other[0] for one, other in pairwise(forward)):
        return True
    return any(low < start and end < high for low, high in forward for end, start in backward)
