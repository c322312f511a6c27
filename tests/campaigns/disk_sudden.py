"""A disk whose last byte somebody else takes while puts are under way: what RocksDB says "no space" to is in doubt, nothing else.

    puts run ──► another process fills the disk to the last byte ──► errors, possibly the node's end ──► space is freed
             ──► the node goes on, or starts again on the same directory ──► everything acknowledged is there, puts work

The low-space watermark of `disk_full` cannot help here: between two looks of the node at its file system all is gone. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
from pathlib import Path

import uvloop

from kvstore.client.client import AsyncClient
from kvstore.storage.directory import SUSPECT_FILE
from tests.campaigns.disk_full import (
    BALLAST,
    Told,
    cluster_on,
    delete_ballast,
    put_one,
    read_back,
    resume,
    small_disk,
    start_all,
    write_ballast,
)
from tests.campaigns.harness import Findings, client_url, main, options, say, scratch
from tests.support.processes import KvnodeProcess

__all__ = ["run"]

CONCURRENCY = 128
PUTS_BEFORE = 200
FULL_FOR_S = 3.0
TIMEOUT_S = 2.0


def run(*, nodes_count: int = 1, size_mib: int = 256, value_bytes: int = 100_000, seed: int = 1) -> Findings:
    """Run the campaign."""
    findings = Findings(
        "disk_sudden", {"nodes": nodes_count, "size_mib": size_mib, "value_bytes": value_bytes, "seed": seed}
    )
    with scratch() as directory, contextlib.ExitStack() as closing:
        disks = [
            closing.enter_context(small_disk(directory / f"disk-{name}", size_mib)) for name in "abc"[:nodes_count]
        ]
        nodes = closing.enter_context(cluster_on(disks))
        told, rng = Told(value_bytes=value_bytes), random.Random(seed)
        uvloop.run(_fill_suddenly(nodes, disks, told, rng))
        ended = [node.data.parent.name for node in nodes if not node.is_running]
        suspect = [node.data.parent.name for node in nodes if (node.data / SUSPECT_FILE).exists()]
        delete_ballast(disks)
        say(f"acknowledged {len(told.acknowledged):,}; errors {dict(sorted(told.errors.items()))}; ended: {ended or 'none'};"
            f" marked as suspect: {suspect or 'none'}; now there is space")  # fmt: skip
        for node in nodes:
            if not node.is_running:
                say(f"  the end of its log: {node.log_text().strip().splitlines()[-1][:300]}")
        findings.note(acknowledged=len(told.acknowledged), errors=told.errors, ended=ended, suspect=suspect)
        findings.require(not suspect, f"no fsync failed, and yet {suspect} may never start again")
        findings.require(not ended, f"{ended} ended: reads did not go on")
        if not suspect:
            uvloop.run(_recovered(findings, nodes, told, rng))
    return findings


async def _fill_suddenly(nodes: list[KvnodeProcess], disks: list[Path], told: Told, rng: random.Random) -> None:
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
        full = asyncio.Event()

        async def work() -> None:
            while not full.is_set():
                await put_one(client, told, rng)

        workers = [asyncio.ensure_future(work()) for _ in range(CONCURRENCY)]
        while len(told.acknowledged) < PUTS_BEFORE:  # noqa: ASYNC110  # workers only count
            await asyncio.sleep(0.01)
        await asyncio.to_thread(write_ballast, disks, f"{BALLAST}-sudden", None)
        await asyncio.sleep(FULL_FOR_S)
        full.set()
        await asyncio.gather(*workers)


async def _recovered(findings: Findings, nodes: list[KvnodeProcess], told: Told, rng: random.Random) -> None:
    if not await start_all(findings, [node for node in nodes if not node.is_running]):
        return
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
        await resume(findings, client, told, rng)
        await read_back(findings, client, told, "after space returned")
    for node in nodes:
        node.kill()
    if not await start_all(findings, nodes):
        return
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
        await read_back(findings, client, told, "after SIGKILL and start")


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="each on a disk of its own")
    parser.add_argument("--size-mib", type=int, default=256, help="of each disk")
    parser.add_argument(
        "--value-bytes", type=int, default=100_000, help="of each put: large ones meet the end more surely"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = _parse()
    sys.exit(
        main(
            lambda: run(
                nodes_count=given.nodes, size_mib=given.size_mib, value_bytes=given.value_bytes, seed=given.seed
            )
        )
    )
