"""Fifty times SIGKILL at a random moment, under load, over three real processes: what was acknowledged stays.

    every node coordinates every hot key once ──► vectors of three actors noted
    cycle × 50   load ──random moment──► SIGKILL a random node ──► load goes on with two ──► restart ──► …
    all restarted ──► every key read at R=3 ──► the history judged from outside ──► stop ──► the databases judged from inside

Checked
  1. 0 acknowledged writes lost, nothing invented, by the black-box rule of `history.py`.
  2. 0 dots bound to two values: in all that reads showed during the run, and in the three databases (siblings, and the last
     sixteen operations that every record remembers).
  3. The version vectors of the hot keys have the same actors after the kills as before: one for each node.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import msgpack
import uvloop

from kvstore.causality.context import decode_context
from kvstore.causality.dvvset import DVVSet
from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from kvstore.ids import NODE_ID_SIZE_BYTES, ObjectType, StorageKey
from kvstore.messages import Verb, encode_body
from kvstore.storage.keyspace import name_of, object_name, parse_name, storage_key
from kvstore.storage.record import value_hash
from tests.campaigns.harness import Findings, client_url, main, options, read_store, run_all, say, scratch
from tests.campaigns.history import Outcome
from tests.campaigns.kill_load import HOT_KEYS, KillLoad
from tests.support.processes import KvnodeProcess, three_nodes

__all__ = ["dots_bound_twice", "run"]

ATTEMPTS_MAX = (8, 8, 1, 1)
"""Of each client: two retry as clients do by default, two never, so that outcomes stay unknown and are judged as such."""
READ_CONCURRENCY = 128
READ_TIMEOUT_S = 30.0
DOWN_SHARE = 0.4
"""Share of a cycle for which the killed node stays away, at most."""
Actors = dict[str, list[bytes]]


def run(*, cycles: int = 50, seconds_per_cycle: float = 3.0, workers: int = 32, seed: int = 1) -> Findings:
    """Run the campaign."""
    findings = Findings("kill_cycles", {"seed": seed, "cycles": cycles, "workers": workers})
    with scratch() as directory, three_nodes(directory) as nodes:
        uvloop.run(_run(findings, nodes, cycles, seconds_per_cycle, workers, random.Random(seed)))
        for node in nodes:
            findings.require(node.terminate() == 0, f"node {node.data.name} did not stop cleanly")
        _judge_stores(findings, nodes)
    return findings


async def _run(
    findings: Findings, nodes: list[KvnodeProcess], cycles: int, seconds: float, workers: int, rng: random.Random
) -> None:
    async with AsyncExitStack() as closing:
        url = client_url(nodes)
        clients = [
            await closing.enter_async_context(AsyncClient.from_url(url, attempts_max=attempts_max))
            for attempts_max in ATTEMPTS_MAX
        ]
        load = KillLoad(clients, rng)
        await _write_through_each(load, nodes)
        before = await _hot_actors(clients[0])
        loading = asyncio.ensure_future(load.run(workers))
        try:
            kills = await _kill(nodes, loading, cycles, seconds, rng)
        finally:
            load.stop()
            await loading
        findings.note(kills=kills)
        _tell_load(findings, load)
        await _judge_history(findings, clients[0], load)
        _judge_vectors(findings, nodes, before, await _hot_actors(clients[0]))


async def _write_through_each(load: KillLoad, nodes: list[KvnodeProcess]) -> None:
    """Let every node coordinate a put of every hot key, so that its vector has all the actors it should ever have."""
    client = load.clients[0]
    for node in nodes:
        for key in HOT_KEYS:
            seen = await client.get(key)
            put = load.history.begin(key, f"{key}={node.data.name}", load.note(key, seen))
            operation_id = load.rng.randbytes(16)
            body = encode_body((operation_id, msgpack.packb(put.value), seen.context, 0, None, None, None))
            await client.call_node(node.address, Verb.PUT, _name(key), body)
            put.outcome = Outcome.ACKNOWLEDGED


def _name(key: str) -> bytes:
    return object_name("default", ObjectType.REGISTER, key.encode())


async def _hot_actors(client: AsyncClient) -> Actors:
    """Return the actors in the vector of every hot key, as a read of all three replicas joins them."""
    found: Actors = {}
    for key in HOT_KEYS:
        context = (await client.get(key, r=3, timeout=READ_TIMEOUT_S)).context
        found[key] = sorted(decode_context(context, storage_key(_name(key))[:8])[0])
    return found


async def _kill(
    nodes: list[KvnodeProcess], loading: asyncio.Future[None], cycles: int, seconds: float, rng: random.Random
) -> dict[str, int]:
    kills = {node.data.name: 0 for node in nodes}
    for number in range(1, cycles + 1):
        victim = rng.choice(nodes)
        await asyncio.wait([loading], timeout=seconds * rng.uniform(0.2, 1.0 - DOWN_SHARE))
        victim.kill()
        kills[victim.data.name] += 1
        await asyncio.wait([loading], timeout=seconds * rng.uniform(0.0, DOWN_SHARE))
        if loading.done():
            loading.result()
        await asyncio.to_thread(victim.start)
        if number % 10 == 0 or number == cycles:
            say(f"  {number} kills: {kills}")
    return kills


def _tell_load(findings: Findings, load: KillLoad) -> None:
    history = load.history
    counts = {outcome.value: history.count(outcome) for outcome in Outcome}
    findings.note(puts=counts, reads=load.reads, keys=len(history.puts), errors=dict(sorted(load.errors.items())))
    say(f"{sum(counts.values()):,} puts on {len(history.puts):,} keys: {counts['ok']:,} acknowledged, {counts['fail']:,} failed"
        f" definitely, {counts['info']:,} unknown; {load.reads:,} reads; errors {dict(sorted(load.errors.items()))}")  # fmt: skip


async def _judge_history(findings: Findings, client: AsyncClient, load: KillLoad) -> None:
    found: dict[str, tuple[str, ...]] = {}

    async def read(key: str) -> None:
        try:
            result = await client.get(key, r=3, timeout=READ_TIMEOUT_S)
        except KVStoreError as error:
            findings.require(False, f"{key} cannot be read: {error}")
            return
        found[key] = load.note(key, result)

    await run_all(load.history.puts, read, READ_CONCURRENCY)
    verdict = load.history.judge(found)
    findings.note(lost=len(verdict.lost), invented=len(verdict.invented), dots_shown=len(load.history.dots))
    say(f"{len(verdict.lost)} acknowledged writes lost, {len(verdict.invented)} values invented; {len(load.history.dots):,}"
        f" dots shown by reads, {len(verdict.rebound)} bound to two values")  # fmt: skip
    for line in [*verdict.lost[:10], *verdict.invented[:10], *verdict.rebound[:10]]:
        say(f"  {line}")
    findings.require(not verdict.lost, f"{len(verdict.lost)} acknowledged writes lost")
    findings.require(not verdict.invented, f"{len(verdict.invented)} values are there that should not be")
    findings.require(not verdict.rebound, f"{len(verdict.rebound)} dots shown with two values")


def _judge_vectors(findings: Findings, nodes: list[KvnodeProcess], before: Actors, after: Actors) -> None:
    sizes = [max(len(actors) for actors in each.values()) for each in (before, after)]
    grown = [key for key in HOT_KEYS if before[key] != after[key]]
    doubled = [key for key in HOT_KEYS if len({actor[:NODE_ID_SIZE_BYTES] for actor in after[key]}) < len(after[key])]
    findings.note(actors_before=sizes[0], actors_after=sizes[1])
    say(f"vectors of {len(HOT_KEYS)} hot keys: at most {sizes[0]} actors before the kills, {sizes[1]} after")
    findings.require(sizes[0] == len(nodes), f"{sizes[0]} actors before the kills: not every node had coordinated")
    findings.require(not grown, f"vectors of {len(grown)} hot keys changed their actors")
    findings.require(not doubled, f"{len(doubled)} hot keys have two actors of one node")


def _judge_stores(findings: Findings, nodes: list[KvnodeProcess]) -> None:
    stores = [{key: state for key, (_, state) in read_store(node.data).items()} for node in nodes]
    dots, bound_twice = dots_bound_twice(stores)
    longest = max(len(state.vector) for store in stores for state in store.values())
    findings.note(dots_on_disk=dots, bound_twice=len(bound_twice), actors_max_any_key=longest)
    say(f"databases of the three nodes: {sum(map(len, stores)):,} records, {dots:,} dots, {len(bound_twice)} bound to two values;"
        f" no vector longer than {longest}")  # fmt: skip
    findings.require(not bound_twice, f"{len(bound_twice)} dots bound to two values, first {bound_twice[:3]}")


def dots_bound_twice(stores: Iterable[dict[StorageKey, DVVSet]]) -> tuple[int, list[str]]:
    """Return how many dots the stores know, and those that stand for two different values or operations."""
    bound: dict[tuple[StorageKey, bytes, int], tuple[Any, Any]] = {}
    wrong: list[str] = []
    for store in stores:
        for key, state in store.items():
            for dot, what in _dots(state):
                known = bound.setdefault((key, *dot), what)
                if known != what:
                    wrong.append(f"{parse_name(name_of(key)).key!r} {dot[0].hex()}:{dot[1]}")
    return len(bound), wrong


def _dots(state: DVVSet) -> Iterable[tuple[tuple[bytes, int], tuple[bytes, bytes]]]:
    """Yield every dot of a record with the operation and the value hash it stands for."""
    for sibling in state.siblings:
        yield (sibling.actor, sibling.counter), (sibling.operation_id, value_hash(sibling.value, sibling.expires))
    for operation in state.operations:
        yield (operation.actor, operation.counter), (operation.operation_id, operation.value_hash)


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--cycles", type=int, default=50, help="kills")
    parser.add_argument("--seconds-per-cycle", type=float, default=3.0, help="besides the restart")
    parser.add_argument("--workers", type=int, default=32, help="operations in flight")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = _parse()
    sys.exit(main(lambda: run(cycles=given.cycles, seconds_per_cycle=given.seconds_per_cycle, workers=given.workers,
                              seed=given.seed)))  # fmt: skip
