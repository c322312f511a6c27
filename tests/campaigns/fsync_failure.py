"""A disk whose fsync fails: strace makes every fdatasync from the K-th on return EIO, and the node must stop at once.

    kvnode ── strace attached ── puts ──► K-1 commits acknowledged ── commit K: EIO ──► process ends, exit code not 0
                                                                                      └► SUSPECT: the directory never opens again

Checked, for each K:
  1. One put at a time costs one commit, so at most K-1 puts can be acknowledged; with many at once the next check decides.
  2. Power loss: a copy of the database, its log cut to what the last *successful* fdatasync covered (computed from the trace
     of writes), holds every acknowledged value. So nothing was acknowledged that only the page cache had.
  3. After the failure nothing is acknowledged, and the process ends with a code other than 0.
  4. The node refuses to start on that directory and says why; with the mark removed the uncut copy holds everything, too.
  5. A node whose very first fdatasync fails never says that it is ready.

`flush_wal(True)` is fdatasync on Linux. strace counts `when=` for each thread; one thread does all syncs of a node that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import uvloop

from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from kvstore.storage.directory import DATABASE_DIRECTORY, SUSPECT_FILE
from kvstore.storage.keyspace import name_of, parse_name
from tests.campaigns.harness import Findings, main, options, read_store, run_all, say, scratch
from tests.support.processes import KvnodeProcess

__all__ = ["cut_to_durable", "run"]

PUTS_MAX = 200_000
PUT_TIMEOUT_S = 3.0
ATTACH_TIMEOUT_S = 10.0
EXIT_TIMEOUT_S = 10.0
START_TIMEOUT_S = 20.0
VALUE_BYTES = 100
_LINE = re.compile(r"(\d+) +[\d.]+ (.*)")
_CALL = re.compile(r"(write|pwrite64|fdatasync)\(\d+<([^>]*)>(.*)")
_RESULT = re.compile(r"= (-?\d+)[^=]*$")


@dataclass(slots=True)
class Load:
    """What the clients were told."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    last_ack_s: float = 0.0
    first_error_s: float | None = None
    errors: dict[str, int] = field(default_factory=dict)


def run(*, when: int = 1, concurrency: int = 1) -> Findings:
    """Run the campaign for one K and one number of puts in flight."""
    findings = Findings("fsync_failure", {"when": when, "concurrency": concurrency})
    with scratch() as directory:
        node = KvnodeProcess(directory / "node")
        trace = directory / "strace.out"
        try:
            node.start()
            with _strace(node.pid, trace, when):
                load, code, ended_s = uvloop.run(_fail(node, concurrency))
            _judge_load(findings, load, code, ended_s, when, concurrency)
            _judge_disk(findings, node, load, trace)
            _judge_restart(findings, node)
            _judge_first_start(findings, directory)
        finally:
            node.kill()
    return findings


@contextmanager
def _strace(pid: int, trace: Path, when: int) -> Iterator[None]:
    """Attach strace to every thread of a process; it ends with the process, or by us."""
    command = ["strace", "-f", "-ttt", "-y", "-s", "0", "-o", str(trace), "-p", str(pid), "-e",
               "trace=write,pwrite64,fdatasync", "-e", f"inject=fdatasync:error=EIO:when={when}+"]  # fmt: skip
    tracing = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _wait_attached(tracing, pid)
        yield
    finally:
        tracing.terminate()
        tracing.communicate()


def _wait_attached(tracing: subprocess.Popen[bytes], pid: int) -> None:
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    tasks = Path(f"/proc/{pid}/task")
    while not all("TracerPid:\t0" not in (task / "status").read_text() for task in tasks.iterdir()):
        if tracing.poll() is not None:
            assert tracing.stderr is not None
            raise RuntimeError(f"strace could not attach: {tracing.stderr.read().decode(errors='replace')}")
        if time.monotonic() > deadline:
            raise RuntimeError("strace did not attach to every thread")
        time.sleep(0.02)


# --- load until the process is gone -----------------------------------------------------------------------------------


async def _fail(node: KvnodeProcess, concurrency: int) -> tuple[Load, int, float]:
    """Put until nothing is acknowledged any more; returns what was, and how the process ended."""
    load = Load()
    async with AsyncClient.from_url(f"kv://{node.address}", timeout=PUT_TIMEOUT_S, attempts_max=1) as client:

        async def put(number: int) -> None:
            if load.first_error_s is not None:
                return
            key, value = f"key-{number:06}", f"{number:0{VALUE_BYTES}}"
            try:
                await client.put(key, value)
            except KVStoreError as error:
                load.errors[error.code] = load.errors.get(error.code, 0) + 1
                load.first_error_s = load.first_error_s or time.monotonic()
                return
            load.acknowledged[key] = value
            load.last_ack_s = time.monotonic()

        await run_all(range(PUTS_MAX), put, concurrency)
        deadline_s = time.monotonic() + EXIT_TIMEOUT_S
        while node.is_running and time.monotonic() < deadline_s:
            await _try_another(client, load)
    is_ended, ended_s = not node.is_running, time.monotonic()
    return load, await asyncio.to_thread(node.wait, EXIT_TIMEOUT_S) if is_ended else 0, ended_s


async def _try_another(client: AsyncClient, load: Load) -> None:
    """The process should be gone; while it is not, it must not acknowledge."""
    try:
        await client.put("after", "the failure", timeout=0.2)
        load.acknowledged["after"] = "the failure"
    except KVStoreError as error:
        load.errors[error.code] = load.errors.get(error.code, 0) + 1
    await asyncio.sleep(0.01)


def _judge_load(findings: Findings, load: Load, code: int, ended_s: float, when: int, concurrency: int) -> None:
    count = len(load.acknowledged)
    assert load.first_error_s is not None, "the load ended before fdatasync failed: choose a smaller K"
    after_s = max(0.0, ended_s - load.first_error_s)
    findings.note(acknowledged=count, errors=load.errors, exit_code=code, exit_after_s=round(after_s, 2))
    say(
        f"K={when}, {concurrency} in flight: {count:,} acknowledged, then {load.errors}; exit code {code}, {after_s:.2f} s later"
    )
    findings.require(code not in (0, -9), f"the process ended with {code}")
    findings.require("after" not in load.acknowledged, "a put was acknowledged after the failure")
    findings.require(concurrency > 1 or count <= when - 1, f"{count} acknowledged one at a time by {when - 1} commits")
    findings.require(when == 1 or count > 0, "nothing was acknowledged before the failure: nothing was shown")


# --- what the disk holds ----------------------------------------------------------------------------------------------


def _judge_disk(findings: Findings, node: KvnodeProcess, load: Load, trace: Path) -> None:
    findings.require((node.data / SUSPECT_FILE).exists(), "the directory is not marked as suspect")
    whole, cut = node.data.with_name("whole"), node.data.with_name("cut")
    for copy in (whole, cut):
        shutil.copytree(node.data, copy)
        (copy / SUSPECT_FILE).unlink(missing_ok=True)
    syncs, failed, removed_bytes = cut_to_durable(cut / DATABASE_DIRECTORY, trace)
    for what, copy in (("as it is", whole), ("cut to the last successful fdatasync", cut)):
        found = {parse_name(name_of(key)).key.decode(): state.siblings for key, (_, state) in read_store(copy).items()}
        values = {key: [msgpack.unpackb(s.value) for s in siblings if s.value] for key, siblings in found.items()}
        missing = [key for key, value in load.acknowledged.items() if values.get(key) != [value]]
        say(f"the database {what}: {len(load.acknowledged) - len(missing):,} of {len(load.acknowledged):,} acknowledged values"
            f" there, {len(values) - len(load.acknowledged):,} others")  # fmt: skip
        findings.require(
            not missing, f"{len(missing)} acknowledged values missing in the database {what}: {missing[:3]}"
        )
    say(f"  {syncs:,} fdatasync of the log succeeded, {failed:,} failed; {removed_bytes:,} bytes cut off")
    findings.note(syncs=syncs, syncs_failed=failed, cut_bytes=removed_bytes)
    findings.require(failed > 0, "no fdatasync of the log failed: nothing was shown")


def cut_to_durable(database: Path, trace: Path) -> tuple[int, int, int]:
    """Cut every log in `database` that the trace saw written to what its last successful fdatasync covered.

    Returns how many of these succeeded and failed, and how many bytes were cut off. A log that grew before the trace began is
    known by its size at the end: what the trace saw written is the end of it.
    """
    written, durable, syncs, failed = _read_trace(trace)
    removed_bytes = 0
    for name, size_bytes in sorted(written.items()):
        file = database / name
        if file.exists():
            unsynced_bytes = size_bytes - durable.get(name, 0)
            keep_bytes = file.stat().st_size - unsynced_bytes
            removed_bytes += unsynced_bytes
            with file.open("r+b") as log:
                log.truncate(keep_bytes)
    return syncs, failed, removed_bytes


def _read_trace(trace: Path) -> tuple[dict[str, int], dict[str, int], int, int]:
    """Return the bytes written to each log, those covered by a successful fdatasync, and how many of these there were.

    A fdatasync covers what was written when it *began*: another thread may write while it runs.
    """
    written: dict[str, int] = {}
    durable: dict[str, int] = {}
    pending: dict[str, tuple[str, str, int]] = {}
    syncs = failed = 0
    for line in trace.read_text("utf-8", "replace").splitlines():
        thread, text = _split(line)
        call = _CALL.match(text)
        if call is not None and call[2].endswith(".log"):
            name = Path(call[2]).name
            pending[thread] = (call[1], name, written.get(name, 0))
        elif not (thread in pending and text.startswith(f"<... {pending[thread][0]} resumed")):
            continue
        if text.endswith("<unfinished ...>") or (result := _RESULT.search(text)) is None:
            continue
        kind, name, before = pending.pop(thread)
        if kind != "fdatasync":
            written[name] = written.get(name, 0) + max(0, int(result[1]))
        elif int(result[1]) == 0:
            syncs, durable[name] = syncs + 1, max(before, durable.get(name, 0))
        else:
            failed += 1
    return written, durable, syncs, failed


def _split(line: str) -> tuple[str, str]:
    found = _LINE.match(line)
    return (found[1], found[2]) if found is not None else ("", "")


# --- starting again ---------------------------------------------------------------------------------------------------


def _judge_restart(findings: Findings, node: KvnodeProcess) -> None:
    """The suspect directory is refused, with a message that says what to do."""
    before = len(node.log_text())
    node.launch()
    try:
        code = node.wait(START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        findings.require(False, "a node started on a directory whose fsync had failed")
        return
    message = node.log_text()[before:].strip().splitlines()[-1]
    say(f"restart: exit code {code}: {message}")
    findings.note(restart_exit_code=code, restart_message=message)
    findings.require(code not in (0, -9), f"the refused restart ended with {code}")
    findings.require("SUSPECT" in message and "new node" in message, f"the refusal does not say what to do: {message}")


def _judge_first_start(findings: Findings, directory: Path) -> None:
    """If the first fdatasync of a new node fails it does not serve."""
    strace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=1+",
    ]
    kvnode = [sys.executable, "-m", "cluster.cli.kvnode", "--data", str(directory / "first"), "--listen", "127.0.0.1:0"]
    command = [*strace, *kvnode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    message = (done.stderr.strip().splitlines() or [""])[-1]
    say(f"first start with a failing fdatasync: exit code {done.returncode}: {message[:160]}")
    findings.note(first_start_exit_code=done.returncode)
    findings.require(
        done.returncode not in (0, -9), f"a first start with a failing fdatasync ended with {done.returncode}"
    )
    findings.require("ready in" not in done.stdout, "a node that cannot sync said that it is ready")


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--when", type=int, default=20, metavar="K", help="the first fdatasync that fails")
    parser.add_argument("--concurrency", type=int, default=1, help="puts in flight")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = _parse()
    sys.exit(main(lambda: run(when=given.when, concurrency=given.concurrency)))
