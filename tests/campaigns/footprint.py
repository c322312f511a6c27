"""What a node costs: memory when idle, memory under a million records, and the time it needs to start on them.

    three nodes ──► idle RSS ──► one million 100-byte values through one client, RSS of each process sampled meanwhile
      ──► SIGKILL all ──► all start at once ──► sample read back ──► clean stop of all ──► all start at once ──► read back

Starting all three at the same time on this machine's few cores is the slow case: that is what is timed, from the start of the
process to its ready line.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

import psutil
import uvloop

from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from tests.campaigns.harness import Findings, client_url, main, options, run_all, say, scratch
from tests.support.processes import KvnodeProcess, three_nodes

__all__ = ["run"]

MIB = 1024 * 1024
IDLE_MIB_MAX = 90
LOADED_MIB_MAX = 600
START_S_MAX = 5.0
VALUE_BYTES = 100
BATCH_RECORDS = 20_000
SAMPLE_EVERY_S = 0.25
SAMPLE_READS = 10_000
SETTLE_S = 2.0
TIMEOUT_S = 30.0


def run(*, records: int = 1_000_000, concurrency: int = 1_024, seed: int = 1) -> Findings:
    """Run the campaign."""
    findings = Findings("footprint", {"records": records, "concurrency": concurrency, "seed": seed})
    with scratch() as directory, three_nodes(directory) as nodes:
        time.sleep(SETTLE_S)
        _tell_idle(findings, nodes, "idle", new=True)
        uvloop.run(_load(findings, nodes, records, concurrency, seed))
        disk_mib = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) / MIB
        findings.note(disk_mib_all_nodes=round(disk_mib))
        for node in nodes:
            node.kill()
        _start(findings, nodes, records, seed, "after SIGKILL")
        for node in nodes:
            findings.require(node.terminate(timeout_s=60.0) == 0, f"node {node.data.name} did not stop cleanly")
        _start(findings, nodes, records, seed, "after a clean stop")
        _tell_idle(findings, nodes, "idle_with_data", new=False)
    return findings


def _tell_idle(findings: Findings, nodes: Sequence[KvnodeProcess], name: str, *, new: bool) -> None:
    sizes = [round(node.rss_bytes() / MIB) for node in nodes]
    say(f"resident {'idle' if new else 'after the second start, with the data and after some reads'}: {sizes} MiB")
    findings.note(**{f"{name}_mib": sizes})
    if new:
        findings.require(max(sizes) * MIB < IDLE_MIB_MAX * 1e6, f"an idle node takes {max(sizes)} MiB")


# --- load -------------------------------------------------------------------------------------------------------------


def _value(number: int, seed: int) -> bytes:
    return random.Random(seed * 1_000_003 + number).randbytes(VALUE_BYTES)


async def _load(findings: Findings, nodes: Sequence[KvnodeProcess], records: int, concurrency: int, seed: int) -> None:
    highest = [0] * len(nodes)
    sampling = asyncio.ensure_future(_sample(nodes, highest))
    client_highest, failed = 0, 0
    started_s = time.monotonic()
    try:
        async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
            bucket = client.bucket("default")
            for first in range(0, records, BATCH_RECORDS):
                async with bucket.batch(max_in_flight=concurrency) as batch:
                    for number in range(first, min(records, first + BATCH_RECORDS)):
                        batch.put(f"key-{number:08}", _value(number, seed))
                failed += len(batch.failed)
                for each in batch.failed[:3]:
                    say(f"  {each.key!r}: {each.error}")
                client_highest = max(client_highest, psutil.Process().memory_info().rss)
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
    elapsed_s = time.monotonic() - started_s
    sizes = [round(size / MIB) for size in highest]
    findings.note(load_s=round(elapsed_s, 1), load_per_s=round(records / elapsed_s), failed=failed, highest_mib=sizes,
                  client_highest_mib=round(client_highest / MIB))  # fmt: skip
    say(f"{records - failed:,} of {records:,} puts of {VALUE_BYTES} bytes acknowledged in {elapsed_s:.1f} s:"
        f" {records / elapsed_s:,.0f}/s; highest resident {sizes} MiB, client {client_highest / MIB:.0f} MiB")  # fmt: skip
    findings.require(failed == 0, f"{failed} puts failed")
    findings.require(max(sizes) * MIB < LOADED_MIB_MAX * 1e6, f"a node took {max(sizes)} MiB")
    findings.require(client_highest < LOADED_MIB_MAX * 1e6, f"the client took {client_highest / MIB:.0f} MiB")


async def _sample(nodes: Sequence[KvnodeProcess], highest: list[int]) -> None:
    while True:
        for number, node in enumerate(nodes):
            highest[number] = max(highest[number], node.rss_bytes())
        await asyncio.sleep(SAMPLE_EVERY_S)


# --- start ------------------------------------------------------------------------------------------------------------


def _start(findings: Findings, nodes: Sequence[KvnodeProcess], records: int, seed: int, what: str) -> None:
    elapsed_s = asyncio.run(_start_all(nodes))
    ready_s = [node.start_lines[-1].partition("ready in ")[2].partition(" s")[0] for node in nodes]
    shown = [round(each, 2) for each in elapsed_s]
    say(f"start {what}, all three at once: {shown} s to the ready line (they say {', '.join(ready_s)} s)")
    findings.note(**{f"start_s_{what.replace(' ', '_')}": shown})
    findings.require(max(elapsed_s) < START_S_MAX, f"a start {what} took {max(elapsed_s):.1f} s")
    uvloop.run(_read_sample(findings, nodes, records, seed, what))


async def _start_all(nodes: Sequence[KvnodeProcess]) -> list[float]:
    return list(await asyncio.gather(*(asyncio.to_thread(_start_one, node) for node in nodes)))


def _start_one(node: KvnodeProcess) -> float:
    started_s = time.monotonic()
    node.start(timeout_s=60.0)
    return time.monotonic() - started_s


async def _read_sample(findings: Findings, nodes: Sequence[KvnodeProcess], records: int, seed: int, what: str) -> None:
    numbers = random.Random(seed).sample(range(records), min(records, SAMPLE_READS))
    wrong: list[str] = []
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:

        async def read(number: int) -> None:
            try:
                result = await client.get(f"key-{number:08}")
            except KVStoreError as error:
                wrong.append(str(error))
                return
            if [sibling.value for sibling in result.siblings] != [_value(number, seed)]:
                wrong.append(f"key-{number:08}: {result!r}")

        await run_all(numbers, read, 128)
    say(f"  {len(numbers) - len(wrong):,} of a random {len(numbers):,} records equal")
    findings.require(not wrong, f"{len(wrong)} records not equal {what}: {wrong[:3]}")


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="values of 100 bytes")
    parser.add_argument("--concurrency", type=int, default=1_024, help="puts in flight")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = _parse()
    sys.exit(main(lambda: run(records=given.records, concurrency=given.concurrency, seed=given.seed)))
