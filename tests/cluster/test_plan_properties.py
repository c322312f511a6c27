"""Placement, by law: whatever joins, leaves or changes weight, plan() keeps its guarantees. The laws are checked with
code of their own (shares by repeated capping, optimality by trying every placement), not with the code under test."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.plan import Plan, plan
from kvstore.ids import NodeId
from kvstore.ring import Member
from kvstore.ring.topology import Owners


def shares_of(members: list[Member], total: int, cap: int) -> dict[NodeId, Fraction]:
    """Shares by weight: cap whoever is above, share the rest among the others, until nobody is above."""
    capped: dict[NodeId, Fraction] = {}
    while True:
        others = [member for member in members if member.node_id not in capped]
        weight, left = sum(member.weight for member in others), total - cap * len(capped)
        shares = {member.node_id: Fraction(left * member.weight, weight) for member in others}
        above = [node for node, share in shares.items() if share > cap]
        if not above:
            return shares | capped
        capped.update(dict.fromkeys(above, Fraction(cap)))


def replicas_held(owners: Owners) -> Counter[NodeId]:
    return Counter(node for nodes in owners for node in nodes)


def crowding(owners: Owners, members: list[Member]) -> int:
    """Replicas that share a zone with an earlier one of their partition."""
    zone_of = {member.node_id: member.zone for member in members}
    return sum(len(nodes) - len({zone_of[node] for node in nodes}) for nodes in owners)


def arrivals(before: Owners, after: Owners) -> int:
    return sum(len(set(theirs) - set(ours)) for ours, theirs in zip(before, after, strict=True))


def moves_lower_bound(members: list[Member], before: Owners, replicas: int) -> int:
    """What balance alone asks for: each node receives at least what it lacks to the floor of its share."""
    held = replicas_held(before)
    shares = shares_of(members, len(before) * replicas, len(before))
    return sum(max(0, floor(share) - held[node]) for node, share in shares.items())


def check_laws(members: list[Member], before: Owners, n: int, result: Plan) -> None:
    """Distinct owners, balance, even leadership, and moves that say what happened."""
    replicas, held = min(n, len(members)), replicas_held(result.owners)
    assert all(len(nodes) == len(set(nodes)) == replicas for nodes in result.owners)
    shares = shares_of(members, len(before) * replicas, len(before))
    assert set(held) <= set(shares)
    assert all(floor(share) <= held[node] <= ceil(share) for node, share in shares.items())
    leads = Counter(nodes[0] for nodes in result.owners)
    assert all(held[node] // replicas <= leads[node] <= -(-held[node] // replicas) for node in shares)
    replay = [set(nodes) & set(shares) for nodes in before]
    for move in result.moves:
        assert move.receiver not in replay[move.partition]
        assert move.giver is None or move.giver in before[move.partition]
        replay[move.partition].discard(move.giver or move.receiver)
        replay[move.partition].add(move.receiver)
    assert len(result.moves) == arrivals(before, result.owners)
    assert all(set(nodes) <= reached for nodes, reached in zip(result.owners, replay, strict=True))


def histories(rng: random.Random, *, zones: int, weights: list[int], steps: int, n: int, bits: int) -> Iterator[
    tuple[list[Member], Owners, Plan]
]:  # fmt: skip
    """Yield (members, owners before, plan) of a cluster that nodes join, leave and change weight in."""
    names = iter(range(100))

    def newcomer() -> Member:
        node_id = NodeId(rng.randbytes(7) + bytes([next(names)]))
        return Member(node_id, f"{node_id.hex()}:1", f"z{rng.randrange(zones)}", rng.choice(weights))

    members = [newcomer() for _ in range(rng.randint(1, 12))]
    owners: Owners = ((),) * (1 << bits)
    for _ in range(steps):
        rng.shuffle(members)
        result = plan(members=members, current_owners=owners, partition_bits=bits, n=n)
        yield list(members), owners, result
        owners = result.owners
        event = rng.choice(["join", "join", "leave", "weight"])
        if event == "join" and len(members) < 12:
            members.append(newcomer())
        elif event == "leave" and len(members) > 1:
            members.pop()
        else:
            members[0] = replace(members[0], weight=rng.choice(weights))


shapes = {
    "seed": st.integers(0, 2**32),
    "n": st.integers(1, 5),
    "bits": st.sampled_from([0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 8]),
}


@settings(max_examples=400, deadline=None)
@given(zones=st.integers(1, 4), weights=st.sampled_from([[1], [1, 2, 3, 4]]), **shapes)
def test_every_plan_of_every_history_keeps_the_laws(
    seed: int, n: int, bits: int, zones: int, weights: list[int]
) -> None:
    """Hundreds of histories of five plans: 1 to 12 nodes, weights 1 to 4, 1 to 4 zones, N 1 to 5, Q 1 to 256."""
    for members, before, result in histories(
        random.Random(seed), zones=zones, weights=weights, steps=5, n=n, bits=bits
    ):
        check_laws(members, before, n, result)


@settings(max_examples=100, deadline=None)
@given(**shapes)
def test_equal_nodes_move_hardly_more_than_balance_asks_for(seed: int, n: int, bits: int) -> None:
    """Within 10 % of the lower bound, plus one replica a node for rounding (the bound uses the floor of each share).

    With zones or unequal weights the bound is sometimes out of reach of any plan: see the next two tests.
    """
    for members, before, result in histories(random.Random(seed), zones=1, weights=[1], steps=5, n=n, bits=bits):
        bound = moves_lower_bound(members, before, min(n, len(members)))

        assert len(result.moves) <= 1.1 * bound + len(members)


def test_unequal_nodes_move_hardly_more_on_the_whole() -> None:
    """Over 60 histories with zones and weights: within 10 % of the sum of bounds, plus the same rounding.

    A single plan may need more: to mend a zone, or where weights make it impossible to hand a replica over directly
    (the giver's partitions are all held by the receiver already). Then the plan is the best there is: the test below.
    """
    moved = allowed = 0.0
    for seed in range(60):
        rng = random.Random(seed)
        for members, before, result in histories(
            rng, zones=rng.randint(1, 4), weights=[1, 2, 3, 4], steps=5, n=rng.randint(1, 5), bits=rng.randint(4, 8)
        ):
            bound = moves_lower_bound(members, before, min(n_of(result), len(members)))
            moved += len(result.moves)
            allowed += 1.1 * bound + len(members)

    assert moved <= allowed


def n_of(result: Plan) -> int:
    return len(result.owners[0])


def best_by_trial(members: list[Member], before: Owners, replicas: int) -> tuple[int, int]:
    """Return the least (crowding, moves) of all balanced placements: try all, leaving out what is already worse."""
    shares = shares_of(members, len(before) * replicas, len(before))
    sets = list(combinations(sorted(shares), replicas))
    choices = [
        sorted((crowding((nodes,), members), arrivals((held,), (nodes,)), nodes) for nodes in sets) for held in before
    ]
    best = (1 << 30, 0)

    def try_from(partition: int, held: Counter[NodeId], cost: tuple[int, int]) -> None:
        nonlocal best
        if cost >= best or any(count > ceil(shares[node]) for node, count in held.items()):
            return
        if partition == len(before):
            if all(held[node] >= floor(share) for node, share in shares.items()):
                best = cost
            return
        for crowded, moved, nodes in choices[partition]:
            try_from(partition + 1, held + Counter(nodes), (cost[0] + crowded, cost[1] + moved))

    try_from(0, Counter(), (0, 0))
    return best


@settings(max_examples=200, deadline=None)
@given(
    zones=st.lists(st.sampled_from("wxyz"), min_size=6, max_size=6),
    weights=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    nodes_count=st.sampled_from([1, 2, 3, 4, 5, 5, 6, 6]),
    n=st.integers(1, 3),
    bits=st.sampled_from([0, 1, 2, 2]),
    seed=st.integers(0, 2**32),
)
def test_small_plans_are_the_best_there_are(
    zones: list[str], weights: list[int], nodes_count: int, n: int, bits: int, seed: int
) -> None:
    """From any start, also one no plan would make: first the fewest crowded zones, then the fewest moves."""
    rng = random.Random(seed)
    ids = [NodeId(bytes([letter]) * 8) for letter in b"abcdef"]
    members = [Member(ids[each], f"h{each}:1", zones[each], weights[each]) for each in range(nodes_count)]
    replicas, gone = min(n, nodes_count), NodeId(b"g" * 8)
    before = tuple(
        tuple(rng.sample([*ids[:nodes_count], gone], rng.choice([replicas, replicas, replicas - 1])))
        for _ in range(1 << bits)
    )

    result = plan(members=members, current_owners=before, partition_bits=bits, n=n)

    check_laws(members, before, n, result)
    assert (crowding(result.owners, members), len(result.moves)) == best_by_trial(members, before, replicas)


@settings(max_examples=25, deadline=None)
@given(zones=st.integers(1, 4), **shapes)
def test_plans_do_not_depend_on_the_order_of_members(seed: int, n: int, bits: int, zones: int) -> None:
    """Two operators who list the nodes differently get the same plan."""
    for members, before, result in histories(random.Random(seed), zones=zones, weights=[1, 2], steps=2, n=n, bits=bits):
        assert plan(members=members[::-1], current_owners=before, partition_bits=bits, n=n) == result
