"""One node becomes four, with data and under load: nothing acknowledged is lost, no strict read misses, nobody is refused.

    a ──records──► a        ┌── clients put, and read back at once what any of them was told is stored ──┐
    join b ─► settled ─► join c ─► settled ─► join d ──SIGKILL d, while it copies──► d again ─► settled ──┴─► every record read

Bytes moved are what the joiners received, set against the records that they own at the end: the least that could have been sent.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import uvloop

from kvstore.client.client import AsyncClient
from kvstore.messages import Verb
from kvstore.ring.topology import Topology
from kvstore.ring.topology_codec import decode
from tests.campaigns.harness import Findings, client_url, main, options, run_all, say, scratch
from tests.campaigns.strict_load import StrictLoad
from tests.support.processes import KvnodeProcess

__all__ = ["run"]

RECORDS = 200_000
VALUE_BYTES = 100
CONCURRENCY = 256
LOADED_KEYS = 2_000
"""Of the records, those that the load writes again and again."""
POLL_S = 0.1
SETTLE_S_MAX = 300.0
READY_S_MAX = 300.0


def run(*, seed: int = 1, records: int = RECORDS) -> Findings:
    """Run the campaign."""
    findings = Findings("grow")
    findings.note(seed=seed, records=records)
    with scratch() as directory:
        nodes = [KvnodeProcess(directory / name) for name in "abcd"]
        try:
            nodes[0].start()
            uvloop.run(_story(findings, nodes, random.Random(seed), records))
        finally:
            for node in nodes:
                node.kill()
    return findings


async def _story(findings: Findings, nodes: list[KvnodeProcess], rng: random.Random, records: int) -> None:
    async with AsyncClient.from_url(client_url(nodes[:1]), timeout=30) as client:
        values = {f"key {number}": rng.randbytes(VALUE_BYTES) for number in range(records)}
        await _fill(client, values)
        load = StrictLoad(
            client, rng, {key: values[key] for key in rng.sample(sorted(values), min(LOADED_KEYS, records))}
        )
        working = asyncio.create_task(load.run())
        try:
            for node in nodes[1:]:
                await _join(findings, nodes, node, client, rng, is_killed=node is nodes[-1])
        finally:
            load.is_over = True
            await working
        load.judge(findings, tolerates_errors=True)
        await _read_all(findings, client, {**values, **load.last}, load.doubtful)
        await _weigh(findings, nodes, client)


async def _fill(client: AsyncClient, values: dict[str, bytes]) -> None:
    started_s = time.monotonic()

    async def put(key: str) -> None:
        await client.put(key, values[key])

    await run_all(values, put, CONCURRENCY)
    say(f"{len(values):,} records in one node, {len(values) / (time.monotonic() - started_s):,.0f}/s")


async def _join(
    findings: Findings, nodes: list[KvnodeProcess], node: KvnodeProcess, client: AsyncClient, rng: random.Random, *,
    is_killed: bool,
) -> None:  # fmt: skip
    node.join_through(rng.choice(nodes[: nodes.index(node)]).address)
    started_s = time.monotonic()
    await asyncio.to_thread(node.launch)
    if is_killed:
        await _kill_while_copying(findings, node)
        await asyncio.to_thread(node.launch)
    await asyncio.to_thread(partial(node.wait_ready, timeout_s=READY_S_MAX))
    ready_s = time.monotonic() - started_s
    while (topology := await _topology(client, nodes[0])).move is not None:
        findings.require(time.monotonic() - started_s < SETTLE_S_MAX, "a move did not end")
        await asyncio.sleep(POLL_S)
    settled_s = time.monotonic() - started_s
    status = await _status(client, node)
    mine = [owners for owners in topology.owners if bytes.fromhex(status["node_id"]) in owners]
    name, share = node.data.name, round(len(mine) / len(topology.owners), 3)
    findings.note(**{f"{name}_received_bytes": status["received_bytes"], f"{name}_owns_share": share})
    received = f"{status['received_records']:,} records, {status['received_bytes']:,} bytes"
    say(f"{name} joined: serves after {ready_s:.1f} s, settled after {settled_s:.1f} s; received {received}")


async def _kill_while_copying(findings: Findings, node: KvnodeProcess) -> None:
    """SIGKILL the joiner once its log says that it copied some of its partitions."""
    log, text = Path(str(node.data) + ".log"), ""
    while node.is_running and " of " not in text:
        await asyncio.sleep(POLL_S / 10)
        text = await asyncio.to_thread(log.read_text, "utf-8")
    findings.require(node.is_running, "the joiner ended by itself")
    node.kill()
    line = [each for each in text.splitlines() if "copying:" in each][-1:]
    say(f"SIGKILL {node.data.name} while it copies: {line[0].strip() if line else 'at the beginning'}")


async def _topology(client: AsyncClient, node: KvnodeProcess) -> Topology:
    return decode(await client.call_node(node.address, Verb.TOPOLOGY))


async def _status(client: AsyncClient, node: KvnodeProcess) -> dict[str, Any]:
    return dict(msgpack.unpackb(await client.call_node(node.address, Verb.STATUS)))


async def _read_all(findings: Findings, client: AsyncClient, values: dict[str, bytes], doubtful: set[str]) -> None:
    wrong: list[str] = []

    async def check(key: str) -> None:
        shown = [sibling.value for sibling in (await client.get(key)).siblings]
        if shown != [values[key]] and key not in doubtful:
            wrong.append(f"{key}: {shown}, written was {values[key]!r}")

    await run_all(values, check, CONCURRENCY)
    say(f"read at R=2: {len(values) - len(wrong):,} equal, {len(wrong)} not, {len(doubtful)} unknown")
    for line in wrong[:10]:
        say(f"  {line}")
    findings.require(not wrong, f"{len(wrong)} acknowledged records are not as they were written")
    findings.note(equal=len(values) - len(wrong), unknown=len(doubtful))


async def _weigh(findings: Findings, nodes: list[KvnodeProcess], client: AsyncClient) -> None:
    topology = await _topology(client, nodes[0])
    counts = {node.data.name: (await _status(client, node))["keys_estimate"] for node in nodes}
    say(f"records on each node: {counts}; {len(topology.members)} members, epoch {topology.epoch}")
    findings.require(len(topology.members) == len(nodes), "not all nodes are members")
    findings.note(records_on=counts)


def _main() -> int:
    parser = options(__doc__)
    parser.add_argument("--records", type=int, default=RECORDS)
    given: argparse.Namespace = parser.parse_args()
    return main(lambda: run(seed=given.seed, records=given.records))


if __name__ == "__main__":
    raise SystemExit(_main())
