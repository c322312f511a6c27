"""Frames of a crowd are handled together; a lone client's at once; every operation is answered to who sent it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from cluster.server.inbox import HOLD_S_MAX, IN_FLIGHT_MIN, SHARE, Arrival, Inbox, Tickets
from kvstore.messages import Verb
from kvstore.transport.session import Request, Session
from tests.support.cluster import Cluster, in_cluster, name_of_key, on_loop

ALICE, BOB = cast(Session, "alice"), cast(Session, "bob")


def requests(*operation_ids: int) -> list[Request]:
    return [(each, int(Verb.GET), 0, 1_000, b"key", b"") for each in operation_ids]


class Fixture:
    """An inbox, and what it had handled: at which time, whose operations."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.handled: list[tuple[float, list[tuple[Any, list[int]]]]] = []
        self.inbox = Inbox(self._handle, lambda: self.in_flight)

    def _handle(self, arrivals: list[Arrival]) -> None:
        now = asyncio.get_running_loop().time()
        self.handled.append((now, [(each.session, [r[0] for r in each.requests]) for each in arrivals]))


def test_without_a_crowd_nobody_waits() -> None:
    """Few operations under way: the inbox does not want the frame."""

    async def main() -> None:
        assert not Fixture(IN_FLIGHT_MIN - 1).inbox.is_gathering
        assert Fixture(IN_FLIGHT_MIN).inbox.is_gathering

    on_loop(main)


def test_frames_wait_until_together_they_are_worth_a_batch() -> None:
    """The one that completes it takes the others along, in the order in which they came."""

    async def main() -> None:
        f = Fixture(3 * SHARE)
        assert f.inbox.keeps(ALICE, requests(1), 0.0)
        assert f.inbox.keeps(BOB, requests(7), 0.0)
        assert f.handled == []
        assert f.inbox.keeps(ALICE, requests(2), 0.0)
        assert [what for _, what in f.handled] == [[(ALICE, [1]), (BOB, [7]), (ALICE, [2])]]
        f.in_flight = 0
        assert not f.inbox.is_gathering, "nothing is left behind"
        await asyncio.sleep(2 * HOLD_S_MAX)
        assert len(f.handled) == 1, "and no timer either"

    on_loop(main)


def test_a_frame_that_is_worth_it_alone_is_not_kept() -> None:
    """Unless others wait: it must not overtake them."""

    async def main() -> None:
        f = Fixture(2 * SHARE)
        assert not f.inbox.keeps(ALICE, requests(1, 2), 0.0)
        assert f.inbox.keeps(BOB, requests(7), 0.0)
        assert f.inbox.keeps(ALICE, requests(3, 4), 0.0)
        assert [what for _, what in f.handled] == [[(BOB, [7]), (ALICE, [3, 4])]]

    on_loop(main)


def test_nobody_waits_longer_than_named() -> None:
    """Although nobody else comes, and also once the crowd is gone."""

    async def main() -> None:
        f = Fixture(100 * SHARE)
        began = asyncio.get_running_loop().time()
        assert f.inbox.keeps(ALICE, requests(1), 0.0)
        f.in_flight = 0
        assert f.inbox.is_gathering, "frames that come now must not overtake it"
        await asyncio.sleep(2 * HOLD_S_MAX)
        assert [(round(at - began, 4), what) for at, what in f.handled] == [(HOLD_S_MAX, [(ALICE, [1])])]

    on_loop(main)


def test_equal_operation_ids_of_two_sessions_are_answered_apart() -> None:
    """Each client numbers its own operations, so they all begin with 1."""
    answers: list[tuple[str, int, int, bytes]] = []
    tickets = Tickets()
    numbered = [
        *tickets.number(lambda *reply: answers.append(("alice", *reply)), requests(1, 2)),
        *tickets.number(lambda *reply: answers.append(("bob", *reply)), requests(1)),
    ]
    for ticket, *_ in reversed(numbered):
        tickets.reply(ticket, 0, b"%d" % ticket)

    assert answers == [("bob", 1, 0, b"2"), ("alice", 2, 0, b"1"), ("alice", 1, 0, b"0")]


def test_a_crowd_of_clients_is_answered_and_costs_few_batches() -> None:
    """Two hundred clients put one key each and read it: everybody gets their own, and the node commits some times, not 200."""
    clients_count = 200

    async def main(cluster: Cluster) -> None:
        clients = [cluster.client(0) for _ in range(clients_count)]
        for client in clients:
            await client.link.wait_up(5)
        batches = 0
        apply = cluster.node(0).store.engine.apply

        def counted(*arguments: Any) -> Any:
            nonlocal batches
            batches += 1
            return apply(*arguments)

        cluster.node(0).store.engine.apply = counted  # type: ignore[method-assign]
        for round_number in range(3):
            await asyncio.gather(
                *(each.put(name_of_key(f"{round_number} {i}"), b"%d" % i) for i, each in enumerate(clients))
            )
        assert batches < 3 * clients_count / 4
        found = await asyncio.gather(*(each.values(name_of_key(f"2 {i}")) for i, each in enumerate(clients)))
        assert found == [[b"%d" % i] for i in range(clients_count)]

    in_cluster(main)
