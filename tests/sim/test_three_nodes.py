"""Whole clusters on virtual time: nodes lose power under load, and nothing that was acknowledged is gone.

The suite runs a few seeds. Many more, about a second each:

    python -m jepsen_lite.sim.first --seeds 0..200
    pytest -m slow tests/sim/test_three_nodes.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from jepsen_lite.sim.first import FirstOptions, Verdict, replay_line, run_seed
from jepsen_lite.sim.workload import BUCKET
from jepsen_lite.sim.world import Host, World, WorldOptions, derived_rng
from kvstore.client.client import AsyncClient
from kvstore.errors import ReadError, UnavailableError
from kvstore.ids import ObjectType
from kvstore.messages import Verb, decode_put_reply, encode_body
from kvstore.storage.keyspace import object_name

CHILD_TIMEOUT_S = 60


def check(seed: int, options: FirstOptions | None = None) -> Verdict:
    """Run a seed; a broken promise is shown with the line that replays it."""
    verdict = run_seed(seed, options)
    assert verdict.is_ok, f"{verdict}\nreplay: {replay_line(seed)}"
    return verdict


@pytest.mark.parametrize("seed", range(5))
def test_no_acknowledged_write_is_lost_while_nodes_lose_power(seed: int) -> None:
    """Register and lww puts, blind and with contexts; crashes, power loss, resets; then every replica has everything."""
    verdict = check(seed)

    assert verdict.acked > 20, "a run that acknowledges nothing proves nothing"
    assert verdict.crashes > 0


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_two_hundred_seeds_keep_every_promise() -> None:
    """The same for 200 seeds; together they reach what one seed does not."""
    verdicts = [check(seed) for seed in range(200)]

    assert sum(verdict.lost_batches for verdict in verdicts) > 500, "power loss must really lose something"


def _run_in_child(seed: int, hash_seed: str) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, "-m", "jepsen_lite.sim.first", "--seed", str(seed), "--duration", "4"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    verdict: dict[str, Any] = json.loads(finished.stdout)
    return verdict


def test_a_seed_gives_the_same_trace_in_another_process_with_other_hashes() -> None:
    """A run is a function of code and seed: set order, addresses and earlier runs in the process must not matter."""
    here = run_seed(3, FirstOptions(duration_s=4))

    children = [_run_in_child(3, hash_seed) for hash_seed in ("1", "4242")]

    assert [child["hash"] for child in children] == [here.hash, here.hash], replay_line(3)
    assert children[0]["events"] == here.events > 1_000
    assert run_seed(4, FirstOptions(duration_s=4)).hash != here.hash


def test_the_judges_notice_disks_that_lie_about_their_syncs() -> None:
    """A sync that makes nothing durable loses acknowledged writes: a harness that stays calm here is blind."""
    options = FirstOptions(duration_s=5, world=WorldOptions(is_disk_lying=True))

    verdicts = [run_seed(seed, options) for seed in (0, 2, 3)]

    assert any(verdict.lost for verdict in verdicts), "the register oracle saw nothing"
    assert any(verdict.overtaken for verdict in verdicts), "the lww oracle saw nothing"


def test_components_draw_from_streams_of_their_own() -> None:
    """The stream of a component depends on the seed and its name, not on what else exists or on hash seeds."""
    assert derived_rng(1, "network").random() == derived_rng(1, "network").random()
    assert len({derived_rng(seed, name).random() for seed in (1, 2) for name in ("network", "timers")}) == 4
    assert derived_rng(7, "timers").getrandbits(32) == 0x6A30FAED


def in_world(world: World, story: Coroutine[Any, Any, None]) -> None:
    """Run a story in a world in which at most a minute passes."""
    world.run(story, until_s=60)


def _client(world: World) -> AsyncClient:
    return AsyncClient(
        [host.address for host in world.hosts], transport=world.network.transport("c0"), clock=world.clock("c0"),
        rng=world.rng("client c0"),
    )  # fmt: skip


async def _wait_unsynced(world: World, host: Host) -> None:
    for _ in range(1_000):
        if host.disk.unsynced_count:
            return
        await asyncio.sleep(0.0001)
    pytest.fail("nothing was written")


@pytest.mark.parametrize("is_power_loss", [False, True])
def test_a_kill_keeps_what_was_applied_and_a_power_loss_may_not(is_power_loss: bool) -> None:
    """A killed process leaves the page cache; only a power loss takes unsynced batches, and is seen at the next start."""
    losses = []

    async def story(world: World) -> None:
        await world.start_all()
        client, host = _client(world), world.hosts[1]
        put = world.loop.create_task(client.put("k", "v"))
        await _wait_unsynced(world, host)
        losses.append(await world.crash(host, is_power_loss=is_power_loss))
        await put
        await world.start(host)
        assert host.engine is not None
        assert host.engine.report.history_may_be_missing is is_power_loss
        await client.close()

    for seed in range(6):
        world = World(seed)
        in_world(world, story(world))
    assert any(losses) is is_power_loss


def test_a_cluster_with_two_of_three_nodes_down_refuses_and_then_recovers() -> None:
    """A minority neither acknowledges nor pretends; when the others are back, all is there."""
    world = World(6)

    async def story() -> None:
        await world.start_all()
        client = _client(world)
        await client.put("k", "before")
        for host in world.hosts[1:]:
            await world.crash(host, is_power_loss=True)
        with pytest.raises((UnavailableError, ReadError)):
            await client.get("k", timeout=1)
        for host in world.hosts[1:]:
            await world.start(host)
        assert (await client.get("k", r=3, timeout=10)).value == "before"
        await client.close()

    in_world(world, story())


def test_a_retry_whose_value_was_replaced_gets_no_context() -> None:
    """Else the retrying client overwrites a value it was never shown: an acknowledged write is lost.

    Found by the simulation: A puts "old", its reply is late; B reads "old" and puts "new"; A's retry is recognised, only
    "new" is left, and a context that covers "new" would let A replace it blindly.
    """
    world = World(7)

    async def story() -> None:
        await world.start_all()
        client = _client(world)
        name = object_name(BUCKET, ObjectType.REGISTER, b"k")
        retried = encode_body([b"operation-id-16b", b"\xa3old", None, 0, None, None, None])
        first = decode_put_reply(await client.call_node(world.hosts[0].address, Verb.PUT, name, retried))
        await client.put("k", "new", context=(await client.get("k")).context)

        again = decode_put_reply(await client.call_node(world.hosts[0].address, Verb.PUT, name, retried))

        assert first.context != b""
        assert (again.siblings, again.context) == (1, b""), "the context covers a value the client never saw"
        await client.close()

    in_world(world, story())
