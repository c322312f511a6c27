"""A small disk fills up: writes are refused definitely, reads go on, writes go on when there is space again, nothing is lost.

    tmpfs of 128 MiB for each node, a ballast file in each
      fill ──► DiskFull (definite) ──► fill the last byte with more ballast ──► all reads go on, puts stay refused
           ──► delete all ballast ──► puts are acknowledged again ──► SIGKILL, start ──► everything acknowledged is there
           ──► fill without ballast ──► delete nothing ──► stop, start ──► still there

Acknowledged values are read back and compared by their hash. A put of unknown outcome (a replica was full before its
coordinator noticed) is counted and told; one that was refused definitely must not be found later. Needs root, for mount.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
import xxhash

from cluster.cli.node_process import NodeStartFailed
from kvstore.client.client import AsyncClient
from kvstore.errors import DiskFull, KVStoreError
from tests.campaigns.harness import Findings, client_url, main, options, run_all, say, scratch
from tests.support.processes import KvnodeProcess

__all__ = [
    "BALLAST", "Told", "cluster_on", "delete_ballast", "put_one", "read_back", "resume", "run", "small_disk", "start_all",
    "write_ballast",
]  # fmt: skip

MIB = 1024 * 1024
VALUE_BYTES = 10_000
CONCURRENCY = 32
TIMEOUT_S = 3.0
REFUSALS_ENOUGH = 200
"""So many definite refusals in a row, without one acknowledgement between, mean that it is full."""
DOUBTS_MAX = 2_000
"""So many errors of unknown outcome mean that it does not learn to refuse."""
PUTS_MAX = 100_000
RESUME_TIMEOUT_S = 60.0
RESUMED_IN_A_ROW = 100
BALLAST = "ballast"


@dataclass(slots=True)
class Told:
    """What clients were told of their puts: hashes of the values, by key."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    number: int = 0
    value_bytes: int = VALUE_BYTES


def run(*, nodes_count: int = 1, size_mib: int = 128, ballast_mib: int = 48, seed: int = 1) -> Findings:
    """Run the campaign with one node or several, each on a disk of its own."""
    findings = Findings("disk_full", {"nodes": nodes_count, "size_mib": size_mib, "seed": seed})
    with scratch() as directory, contextlib.ExitStack() as closing:
        disks = [
            closing.enter_context(small_disk(directory / f"disk-{name}", size_mib)) for name in "abc"[:nodes_count]
        ]
        nodes = closing.enter_context(cluster_on(disks))
        write_ballast(disks, BALLAST, ballast_mib * MIB)
        uvloop.run(_run(findings, nodes, disks, random.Random(seed)))
    return findings


@contextlib.contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextlib.contextmanager
def cluster_on(disks: Sequence[Path]) -> Iterator[list[KvnodeProcess]]:
    nodes = [KvnodeProcess(disk / "node") for disk in disks]
    try:
        for node in nodes:
            if node is not nodes[0]:
                node.join_through(nodes[0].address)
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def write_ballast(disks: Sequence[Path], name: str, size_bytes: int | None) -> None:
    """Write a file of this size, or (None) one that takes every byte there is left."""
    for disk in disks:
        with (disk / name).open("wb", buffering=0) as file, contextlib.suppress(OSError):
            left_bytes = size_bytes if size_bytes is not None else 1 << 40
            while left_bytes > 0:
                left_bytes -= file.write(bytes(min(MIB, left_bytes)))


def delete_ballast(disks: Sequence[Path]) -> None:
    for disk in disks:
        for file in disk.glob(f"{BALLAST}*"):
            file.unlink()


def _free_mib(disk: Path) -> float:
    return shutil.disk_usage(disk).free / MIB


async def _run(findings: Findings, nodes: list[KvnodeProcess], disks: list[Path], rng: random.Random) -> None:
    told = Told()
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
        await _fill(findings, client, told, rng, "with ballast", disks)
        await read_back(findings, client, told, "while refused")
        await asyncio.to_thread(write_ballast, disks, f"{BALLAST}-to-the-brim", None)
        say(f"filled to the last byte: {min(map(_free_mib, disks)):.1f} MiB free")
        await _refused_still(findings, client, told, rng)
        await read_back(findings, client, told, "on a disk without a free byte")
        findings.require(all(node.is_running for node in nodes), "a node ended because its disk was full")
        delete_ballast(disks)
        await resume(findings, client, told, rng)
        for node in nodes:
            node.kill()
    await _restarted(findings, nodes, told, "after SIGKILL of all", rng, disks)


async def _restarted(
    findings: Findings, nodes: list[KvnodeProcess], told: Told, what: str, rng: random.Random, disks: list[Path]
) -> None:
    if not await start_all(findings, nodes):
        return
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
        await read_back(findings, client, told, what)
        await _fill(findings, client, told, rng, "to the end", disks)
    for node in nodes:
        code = await asyncio.to_thread(node.terminate)
        if code != 0:
            say("  the end of its log:\n" + "\n".join(node.log_text().strip().splitlines()[-5:]))
        findings.require(code == 0, f"a node with a full disk did not stop cleanly: exit code {code}")
    if not await start_all(findings, nodes):
        return
    async with AsyncClient.from_url(client_url(nodes), timeout=TIMEOUT_S) as client:
        await read_back(findings, client, told, "after a clean stop and start on the full disk")
    findings.note(
        acknowledged=len(told.acknowledged), refused=len(told.refused), errors=dict(sorted(told.errors.items()))
    )


async def start_all(findings: Findings, nodes: list[KvnodeProcess]) -> bool:
    """Start the nodes together; one that does not become ready is a violation. Returns whether all did."""
    for node in nodes:
        node.launch()
    before = len(findings.violations)
    for node in nodes:
        try:
            await asyncio.to_thread(node.wait_ready, timeout_s=30.0)
        except NodeStartFailed as error:
            findings.require(False, f"a node did not start: {error.message.strip().splitlines()[-1]}")
    return len(findings.violations) == before


# --- puts -------------------------------------------------------------------------------------------------------------


async def put_one(client: AsyncClient, told: Told, rng: random.Random) -> KVStoreError | None:
    """Put one value that no compression makes smaller; returns the error, if it was one."""
    told.number += 1
    key, value = f"key-{told.number:06}", rng.randbytes(told.value_bytes)
    digest = xxhash.xxh3_64_intdigest(value)
    try:
        await client.put(key, value)
    except KVStoreError as error:
        if error.definite:
            told.refused[key] = digest
        name = f"{error.code}{'' if error.definite else ' (unknown)'}"
        told.errors[name] = told.errors.get(name, 0) + 1
        return error
    told.acknowledged[key] = digest
    return None


async def _fill(
    findings: Findings, client: AsyncClient, told: Told, rng: random.Random, what: str, disks: list[Path]
) -> None:
    """Put until nothing but refusals comes. They are quick: the client is told not to try again."""
    before, errors_before, in_a_row = len(told.acknowledged), dict(told.errors), 0
    doubts = 0
    with_one_try = AsyncClient.from_url(f"kv://{','.join(client.seeds)}", timeout=TIMEOUT_S, attempts_max=1)

    async def put(number: int) -> None:
        nonlocal in_a_row, doubts
        if in_a_row < REFUSALS_ENOUGH and doubts < DOUBTS_MAX:
            error = await put_one(with_one_try, told, rng)
            doubts += error is not None and not error.definite
            in_a_row = in_a_row + 1 if error is not None and error.definite else 0

    async with with_one_try:
        started_s = time.monotonic()
        await run_all(range(PUTS_MAX), put, CONCURRENCY)
    errors = {code: count - errors_before.get(code, 0) for code, count in told.errors.items()}
    errors = {code: count for code, count in sorted(errors.items()) if count}
    stored = len(told.acknowledged) - before
    free_mib = min(map(_free_mib, disks))
    elapsed_s = time.monotonic() - started_s
    say(f"filled {what}: {stored:,} puts of {VALUE_BYTES:,} bytes acknowledged in {elapsed_s:.1f} s, then {errors};"
        f" {free_mib:.1f} MiB free")  # fmt: skip
    findings.require(in_a_row >= REFUSALS_ENOUGH, f"the disk never refused definitely ({what})")
    findings.require(errors.get(DiskFull.code, 0) > 0, f"no refusal was {DiskFull.code} ({what})")


async def _refused_still(findings: Findings, client: AsyncClient, told: Told, rng: random.Random) -> None:
    errors = [await put_one(client, told, rng) for _ in range(5)]
    codes = sorted({error.code if error is not None else "ok" for error in errors})
    say(f"puts now: {codes}, each after the client's retries")
    findings.require(all(isinstance(error, DiskFull) for error in errors), f"puts on a full disk gave {codes}")


async def resume(findings: Findings, client: AsyncClient, told: Told, rng: random.Random) -> None:
    """Put until RESUMED_IN_A_ROW are acknowledged without an error between; no node is restarted for it.

    After a write that really met "no space" RocksDB takes about six seconds to recover by itself, so one of several nodes may
    still refuse when the first put is acknowledged.
    """
    started_s, first_s, in_a_row = time.monotonic(), 0.0, 0
    errors: dict[str, int] = {}
    while in_a_row < RESUMED_IN_A_ROW and time.monotonic() - started_s < RESUME_TIMEOUT_S:
        error = await put_one(client, told, rng)
        in_a_row = in_a_row + 1 if error is None else 0
        if error is not None:
            errors[error.code] = errors.get(error.code, 0) + 1
            await asyncio.sleep(0.05)
        first_s = first_s or (time.monotonic() - started_s if error is None else 0.0)
    all_s = time.monotonic() - started_s
    findings.note(resume_first_s=round(first_s, 2), resume_s=round(all_s, 2), resume_errors=errors)
    say(f"space is back: first put acknowledged after {first_s:.2f} s, {in_a_row} in a row after {all_s:.2f} s;"
        f" errors {errors}")  # fmt: skip
    findings.require(in_a_row >= RESUMED_IN_A_ROW, f"puts did not resume within {RESUME_TIMEOUT_S:.0f} s: {errors}")


# --- reads ------------------------------------------------------------------------------------------------------------


async def read_back(findings: Findings, client: AsyncClient, told: Told, what: str) -> None:
    """Read every acknowledged key, and look for those that were refused."""
    wrong: list[str] = []

    async def read(key: str) -> None:
        try:
            result = await client.get(key)
        except KVStoreError as error:
            wrong.append(f"{key}: {error}")
            return
        found = [xxhash.xxh3_64_intdigest(sibling.value) for sibling in result.siblings]
        expected = [told.acknowledged[key]] if key in told.acknowledged else []
        if found != expected:
            wrong.append(f"{key}: found {len(found)} values, expected {len(expected)}")

    await run_all([*told.acknowledged, *told.refused], read, CONCURRENCY)
    say(
        f"  read {what}: {len(told.acknowledged):,} acknowledged and {len(told.refused):,} refused keys, {len(wrong)} not as told"
    )
    findings.require(not wrong, f"{len(wrong)} keys are not as told {what}: {wrong[:3]}")


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="each on a disk of its own")
    parser.add_argument("--size-mib", type=int, default=128, help="of each disk")
    parser.add_argument("--ballast-mib", type=int, default=48, help="what is deleted to make space")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = _parse()
    sys.exit(main(lambda: run(nodes_count=given.nodes, size_mib=given.size_mib, ballast_mib=given.ballast_mib,
                              seed=given.seed)))  # fmt: skip
