"""`kvctl demo`: a real cluster in front of your eyes. Three processes, real records, one SIGKILL, nothing lost: or it says so.

    start 3 nodes ─► write every named character ──SIGKILL one node──► … go on writing ─► read all back at R=2 from two
                  ─► restart the node ─► read a sample at R=3 ─► kvctl status ─► what was checked, exit code

What "lost" means here: a record whose put was acknowledged, and which a read at R=2 does not give back byte for byte.
Puts that failed are counted and told, not hidden: they were never acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgpack

from cluster.cli.session import Session
from cluster.cli.workers import run_all
from kvstore.errors import KVStoreError

if TYPE_CHECKING:
    from cluster.cli.node_process import NodeProcess
    from kvstore.client.bucket import AsyncBucket
    from kvstore.client.client import AsyncClient

__all__ = ["demo", "unicode_records"]

NODES_COUNT = 3
WRITE_CONCURRENCY = 256
WRITE_BUDGET_S = 24.0
"""Writing stops here on a slow machine (and the demo says so), to stay below a minute as a whole."""
VERIFY_BATCH = 512
SAMPLE_COUNT = 2_000
KILL_BETWEEN = (0.25, 0.6)
"""Share of the records after which the node is killed: a random moment in the thick of the writing."""
PUT_TIMEOUT_S = 15.0
Records = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Findings:
    """What the demo saw."""

    acknowledged: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    write_s: float = 0.0
    killed_after: int = 0
    verified: int = 0
    sampled: int = 0
    lost: list[str] = field(default_factory=list)


def unicode_records() -> Records:
    """Return every named character of the standard library's Unicode database as a record, keyed `U+0041`."""
    found = ((character, unicodedata.name(character, None)) for character in map(chr, range(sys.maxunicode + 1)))
    return {f"U+{ord(character):04X}": _record(character, name) for character, name in found if name is not None}


def _record(character: str, name: str) -> dict[str, Any]:
    return {
        "character": character, "name": name, "category": unicodedata.category(character),
        "bidirectional": unicodedata.bidirectional(character), "combining": unicodedata.combining(character),
        "decomposition": unicodedata.decomposition(character), "numeric": unicodedata.numeric(character, None),
        "mirrored": bool(unicodedata.mirrored(character)),
    }  # fmt: skip


@click.command()
@click.option("--records", "records_max", type=click.IntRange(min=100), help="Write only this many. [all there are]")
@click.option("--keep", is_flag=True, help="Leave the nodes' data directory behind.")
@click.pass_obj
def demo(session: Session, records_max: int | None, keep: bool) -> None:
    """Start three nodes, write real records, kill a node, check that nothing acknowledged was lost. Needs no set-up."""
    session.finish(lambda: _main(session, records_max, keep))


def _main(session: Session, records_max: int | None, keep: bool) -> int:
    import uvloop

    from cluster.cli.node_process import NodeProcess

    directory = Path(tempfile.mkdtemp(prefix="kvstore-demo-"))
    nodes = [NodeProcess(directory / name) for name in "abc"]
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        findings = uvloop.run(_Demo(session, nodes).run(_some(unicode_records(), records_max)))
    finally:
        for node in nodes:
            node.kill()
        signal.signal(signal.SIGTERM, previous)
        if keep:
            print(f"data and logs: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
    return 1 if findings.lost or findings.failed else 0


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _some(records: Records, records_max: int | None) -> Records:
    if records_max is None or records_max >= len(records):
        return records
    step = len(records) / records_max
    keys = list(records)
    return {keys[int(number * step)]: records[keys[int(number * step)]] for number in range(records_max)}


class _Demo:
    """The steps in order; `run` is the table of contents."""

    def __init__(self, session: Session, nodes: list[NodeProcess]) -> None:
        from rich.console import Console

        self._session = session
        self._nodes = nodes
        self._out = Console(stderr=session.is_json, highlight=False, soft_wrap=True)
        self._findings = Findings()
        self._started_s = time.monotonic()

    async def run(self, records: Records) -> Findings:
        from kvstore.client.client import AsyncClient

        await self._start_nodes()
        seeds = ",".join(node.address for node in self._nodes)
        async with AsyncClient.from_url(f"kv://{seeds}") as client:
            await self._write(client, records)
            await self._verify(client, records)
            await self._restart(client, records)
            status = await self._show_status(client)
        self._conclude(records, status)
        return self._findings

    def _say(self, text: str) -> None:
        self._out.print(f"[dim]{time.monotonic() - self._started_s:5.1f} s[/dim]  {text}")

    async def _start_nodes(self) -> None:
        self._say(f"starting {NODES_COUNT} nodes, each a process with its own data directory")
        founder, *others = self._nodes
        await asyncio.to_thread(founder.start)
        for node in others:
            node.join_through(founder.address)
            await asyncio.to_thread(node.start)
        for node in self._nodes:
            self._say(f"  node {node.data.name}: pid {node.pid}, {node.address}")

    async def _write(self, client: AsyncClient, records: Records) -> None:
        bucket = client.bucket("default").with_options(timeout=PUT_TIMEOUT_S)
        findings = self._findings
        kill_at = int(len(records) * random.SystemRandom().uniform(*KILL_BETWEEN))
        self._say(
            f"writing {len(records):,} records, the named characters of Unicode {unicodedata.unidata_version}, w=2 of 3"
        )
        started_s = time.monotonic()

        async def write(key: str) -> None:
            try:
                await bucket.put(key, records[key])
            except KVStoreError as error:
                findings.failed[error.code] = findings.failed.get(error.code, 0) + 1
                return
            findings.acknowledged.append(key)
            if not findings.killed_after and len(findings.acknowledged) >= kill_at:
                self._kill_one()

        await run_all(_until(records, started_s + WRITE_BUDGET_S), write, WRITE_CONCURRENCY)
        findings.write_s = time.monotonic() - started_s
        count = len(findings.acknowledged)
        stopped = (
            "" if count + sum(findings.failed.values()) == len(records) else f" (stopped after {WRITE_BUDGET_S:.0f} s)"
        )
        self._say(f"{count:,} records acknowledged, {count / findings.write_s:,.0f}/s{stopped}")
        for code, failures in sorted(findings.failed.items()):
            self._say(f"[red]{failures:,} puts failed: {code}[/red]")

    def _kill_one(self) -> None:
        victim = random.SystemRandom().choice(self._nodes)
        self._findings.killed_after = len(self._findings.acknowledged)
        self._victim = victim
        self._say(
            f"[bold red]kill -9[/bold red] node {victim.data.name} (pid {victim.pid}) after"
            f" {self._findings.killed_after:,} acknowledged records; writing goes on"
        )
        victim.kill()

    async def _verify(self, client: AsyncClient, records: Records) -> None:
        """Read all acknowledged records at R=2 while the killed node is down, so only the two others can answer."""
        self._say(f"reading {len(self._findings.acknowledged):,} records back at R=2 from the two nodes left")
        lost = await self._compare(client, self._findings.acknowledged, records, r=2)
        self._findings.verified = len(self._findings.acknowledged) - len(lost)
        self._findings.lost += lost
        self._say(f"{self._findings.verified:,} equal byte for byte, {len(lost):,} lost")

    async def _compare(self, client: AsyncClient, keys: Iterable[str], records: Records, *, r: int) -> list[str]:
        bucket: AsyncBucket[Any] = client.bucket("default").with_options(timeout=PUT_TIMEOUT_S)
        lost: list[str] = []

        async def check(key: str) -> None:
            try:
                result = await bucket.get(key, r=r)
            except KVStoreError as error:
                lost.append(f"{key}: {error}")
                return
            expected = msgpack.packb(records[key])
            if [msgpack.packb(sibling.value) for sibling in result.siblings] != [expected]:
                lost.append(f"{key}: wrote {records[key]!r}, read {result!r}")

        await run_all(keys, check, VERIFY_BATCH)
        return lost

    async def _restart(self, client: AsyncClient, records: Records) -> None:
        """Bring the node back. It missed writes; a read at R=3 must wait for it, and must still answer right."""
        victim = self._victim
        await asyncio.to_thread(victim.start)
        self._say(
            f"node {victim.data.name} restarted: {victim.start_lines[-1].partition(' · ')[2].partition(' · ')[0]}"
        )
        acknowledged = self._findings.acknowledged
        sample = random.SystemRandom().sample(acknowledged, min(SAMPLE_COUNT, len(acknowledged)))
        lost = await self._compare(client, sample, records, r=3)
        self._findings.sampled = len(sample) - len(lost)
        self._findings.lost += lost
        self._say(f"{self._findings.sampled:,} of a random {len(sample):,} equal at R=3, the restarted node included")

    async def _show_status(self, client: AsyncClient) -> dict[str, Any]:
        from cluster.cli.inspect_cluster import look

        view = await look(client)
        self._out.print(f"\n[bold]$ kvctl status[/bold]\n{view.text()}\n", markup=True)
        return view.document()

    def _conclude(self, records: Records, status: dict[str, Any]) -> None:
        found = self._findings
        seconds = time.monotonic() - self._started_s
        if self._session.is_json:
            self._session.show(
                {
                    "records": len(records), "acknowledged": len(found.acknowledged), "failed": found.failed,
                    "killed_after": found.killed_after, "verified_r2": found.verified, "verified_r3": found.sampled,
                    "lost": found.lost, "elapsed_s": round(seconds, 1), "status": status,
                },
                "",
            )  # fmt: skip
        for line in found.lost[:10]:
            self._out.print(f"[red]lost[/red] {line}", markup=True)
        verdict = (
            "[bold green]nothing lost[/bold green]"
            if not found.lost
            else f"[bold red]{len(found.lost)} LOST[/bold red]"
        )
        self._out.print(
            f"{verdict}: {len(found.acknowledged):,} puts acknowledged by two of three nodes or more, one node killed with"
            f" SIGKILL while\nwriting, {found.verified:,} read back byte for byte at R=2 without it and {found.sampled:,} at R=3"
            f" with it. {seconds:.0f} s."
        )
        self._out.print("[dim]Not shown: power loss, partitions, slow disks. One machine, one killed process.[/dim]")


def _until(keys: Iterable[str], deadline_s: float) -> Iterator[str]:
    for key in keys:
        if time.monotonic() > deadline_s:
            return
        yield key
