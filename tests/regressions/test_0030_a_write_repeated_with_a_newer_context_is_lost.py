"""A user lost an acknowledged write: it was in doubt, they read it, and repeated it under its id with the context of that read.

The read showed the first attempt; the node that took the second one had never heard of it. A record that holds the second dot and
has seen the first one through a context only looked as if somebody had replaced the write, so the next merge with a node that
remembers the first dot dropped both: nothing was left, though nobody had written anything else.

`docs/other_languages.md` said "repeat it with its id, or read and see"; who did both lost it. The Python client never does: it
sends the same bytes again.
"""

from __future__ import annotations

import itertools

import pytest

from kvstore.causality.dvvset import EMPTY, DVVSet, sync
from tests.causality.histories import actor_of, put
from tests.support.cluster import Cluster, in_cluster, name_of_key

WRITE, OTHER = 1, 2


def values(state: DVVSet) -> list[bytes | None]:
    return sorted(sibling.value or b"" for sibling in state.siblings)  # type: ignore[return-value]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(range(2))))
def test_a_write_that_saw_itself_is_not_replaced(first: int, second: int) -> None:
    """Whichever of the two dots is the smaller one, and in whatever order the two states meet."""
    attempt = put(EMPTY, {}, actor_of(first), WRITE, b"mine", hlc=1)
    repetition = put(EMPTY, attempt.vector, actor_of(second), WRITE, b"mine", hlc=2)

    assert values(sync(attempt, repetition)) == [b"mine"]
    assert values(sync(repetition, attempt)) == [b"mine"]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(range(2))))
def test_nor_is_it_by_a_blind_write_beside_it(first: int, second: int) -> None:
    """The same bytes as if the other one had replaced it and a late repetition had come afterwards: nobody can tell."""
    attempt = put(EMPTY, {}, actor_of(first), WRITE, b"mine", hlc=1)
    blind = put(EMPTY, {}, actor_of(second), OTHER, b"blind", hlc=2)
    repetition = put(blind, attempt.vector, actor_of(second), WRITE, b"mine", hlc=3)

    assert values(sync(attempt, repetition)) == [b"blind", b"mine"]


def test_nor_is_it_where_the_oldest_attempt_stands_for_all() -> None:
    """Three attempts: the second is seen by the third, and the first, which nobody saw, has the smallest dot."""
    first = put(EMPTY, {}, actor_of(0), WRITE, b"mine", hlc=1)
    second = put(EMPTY, {}, actor_of(2), WRITE, b"mine", hlc=2)
    third = put(EMPTY, second.vector, actor_of(1), WRITE, b"mine", hlc=3)

    assert values(sync(sync(first, third), second)) == [b"mine"]


def test_nor_is_it_where_a_smaller_dot_stood_for_the_heard_one() -> None:
    """The oldest dot is covered by the repetition's own context; until then it stood for a later attempt's."""
    first = put(EMPTY, {}, actor_of(0), WRITE, b"mine", hlc=1)
    repetition = put(EMPTY, first.vector, actor_of(2), WRITE, b"mine", hlc=2)
    late = sync(put(EMPTY, {}, actor_of(1), WRITE, b"mine", hlc=3), first)

    assert values(sync(sync(repetition, late), first)) == [b"mine"]


def test_a_cluster_keeps_it() -> None:
    """Acknowledged by two nodes; then the node of the first attempt is back, and all three are asked."""
    name = name_of_key("k")

    async def main(cluster: Cluster) -> None:
        for index in range(3):
            await cluster.client(index).link.wait_up(5)
        cluster.cut_off(0)
        await cluster.client(0).put(name, b"mine", operation=77, w=1, dw=1, pw=1)
        seen = await cluster.client(0).get(name, r=1)
        await cluster.client(1).put(name, b"mine", seen.context, operation=77)
        cluster.network.heal_all()
        await cluster.whole()
        assert await cluster.client(2).values(name, r=3) == [b"mine"]

    in_cluster(main)
