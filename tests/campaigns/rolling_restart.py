"""Every node is stopped and started again, one after the other, under load: clients with default options notice nothing.

    load ───────────────────────────────────────────────────────────────────────────────────► every key read again
    round × 2   SIGTERM a ─► drained, exit 0 ─► start ─► all see all ─► SIGTERM b ─► … ─► SIGTERM c ─► …

This is how a cluster is upgraded. Required: 0 errors from the client, 0 strict reads that miss an acknowledged write, and that
every stop is a clean one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from typing import Any

import msgpack
import uvloop

from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from kvstore.messages import Verb
from tests.campaigns.harness import Findings, main, options, run_all, say, scratch
from tests.campaigns.strict_load import RetryCount, StrictLoad
from tests.support.processes import KvnodeProcess, three_nodes

__all__ = ["run"]

ROUNDS = 2
KEYS = 2_000
WORKERS = 256
CONCURRENCY = 64
WITH_ALL_S = 1.0
"""How long the load runs with all nodes before the next one stops."""
HEALTHY_S_MAX = 30.0
POLL_S = 0.05


def run(*, rounds: int = ROUNDS, keys: int = KEYS, workers: int = WORKERS, seed: int = 1) -> Findings:
    """Run the campaign."""
    findings = Findings("rolling_restart", {"seed": seed, "rounds": rounds, "keys": keys, "workers": workers})
    with scratch() as directory, three_nodes(directory) as nodes:
        values = {f"key {number}": b"first" for number in range(keys)}
        uvloop.run(_run(findings, nodes, rounds, values, workers, random.Random(seed)))
    return findings


async def _run(
    findings: Findings,
    nodes: list[KvnodeProcess],
    rounds: int,
    values: dict[str, bytes],
    workers: int,
    rng: random.Random,
) -> None:
    retries = RetryCount()
    async with AsyncClient([node.address for node in nodes], chaos=retries) as client:
        load = StrictLoad(client, rng, values, workers)
        await run_all(load.last, lambda key: _put_first(client, load, key), CONCURRENCY)
        working = asyncio.create_task(load.run())
        try:
            await _restart_all(findings, nodes, load, retries, rounds)
        finally:
            load.is_over = True
            await working
        load.judge(findings, tolerates_errors=False)
        await _read_all(findings, client, load)
    findings.note(retries=retries.count)


async def _put_first(client: AsyncClient, load: StrictLoad, key: str) -> None:
    await client.put(key, load.last[key])


async def _restart_all(
    findings: Findings, nodes: list[KvnodeProcess], load: StrictLoad, retries: RetryCount, rounds: int
) -> None:
    longest_s: dict[str, float] = {"all nodes up": 0.0, "restart": 0.0}
    async with AsyncClient([node.address for node in nodes]) as observer:  # of its own: it does not disturb the load's
        await _wait_healthy(observer, nodes)
        for _ in range(rounds):
            for node in nodes:
                load.longest_s = 0.0
                await asyncio.sleep(WITH_ALL_S)
                longest_s["all nodes up"] = max(longest_s["all nodes up"], load.longest_s)
                await _restart(findings, observer, nodes, node, load, retries)
                longest_s["restart"] = max(longest_s["restart"], load.longest_s)
    told = {name: round(seconds, 3) for name, seconds in longest_s.items()}
    say(f"longest operation: {told['restart']} s while a node restarts, {told['all nodes up']} s while all are up")
    findings.note(longest_s=told)


async def _restart(
    findings: Findings, observer: AsyncClient, nodes: list[KvnodeProcess], node: KvnodeProcess, load: StrictLoad,
    retries: RetryCount,
) -> None:  # fmt: skip
    puts, retried, errors = load.puts, retries.count, sum(load.errors.values())
    load.longest_s, started_s = 0.0, time.monotonic()
    code = await asyncio.to_thread(node.terminate)
    findings.require(code == 0, f"node {node.data.name} did not stop cleanly: exit code {code}")
    stopped_s = time.monotonic() - started_s
    await asyncio.to_thread(node.start)
    await _wait_healthy(observer, nodes)
    healthy_s = time.monotonic() - started_s
    say(f"  {node.data.name}: stopped after {stopped_s:.2f} s, all healthy after {healthy_s:.2f} s; {load.puts - puts:,} puts"
        f" meanwhile, {retries.count - retried} operations retried, {sum(load.errors.values()) - errors} errors, the longest"
        f" took {load.longest_s:.3f} s")  # fmt: skip


async def _wait_healthy(observer: AsyncClient, nodes: list[KvnodeProcess]) -> None:
    """Wait until every node serves and has a link to every other one."""
    give_up_at = time.monotonic() + HEALTHY_S_MAX
    for node in nodes:
        while not await _sees_all(observer, node, len(nodes) - 1):
            if time.monotonic() > give_up_at:
                raise AssertionError(f"node {node.data.name} does not see the others")
            await asyncio.sleep(POLL_S)


async def _sees_all(observer: AsyncClient, node: KvnodeProcess, peers_count: int) -> bool:
    try:
        status: dict[str, Any] = msgpack.unpackb(await observer.call_node(node.address, Verb.STATUS))
    except KVStoreError:  # not reachable yet
        return False
    return bool(status["ready"]) and sum(peer["up"] for peer in status["peers"].values()) == peers_count


async def _read_all(findings: Findings, client: AsyncClient, load: StrictLoad) -> None:
    wrong: list[str] = []

    async def check(key: str) -> None:
        values = [sibling.value for sibling in (await client.get(key, r=3)).siblings]
        if values != [load.last[key]] and key not in load.doubtful:
            wrong.append(key)

    await run_all(load.last, check, CONCURRENCY)
    say(f"read at R=3: {len(load.last) - len(wrong):,} of {len(load.last):,} keys as last acknowledged")
    findings.require(not wrong, f"{len(wrong)} keys are not as last acknowledged, first {wrong[:3]}")


def _main() -> int:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times that every node restarts")
    parser.add_argument("--keys", type=int, default=KEYS, help="that the load works on")
    parser.add_argument("--workers", type=int, default=WORKERS, help="operations under way at any time")
    given: argparse.Namespace = parser.parse_args()
    return main(lambda: run(rounds=given.rounds, keys=given.keys, workers=given.workers, seed=given.seed))


if __name__ == "__main__":
    raise SystemExit(_main())
