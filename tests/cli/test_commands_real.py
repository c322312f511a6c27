"""The commands against three real processes, as a person would type them. Few, because each costs half a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.node_process import NodeStartFailed
from tests.support.processes import KvnodeProcess, three_nodes

COMMAND_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KvnodeProcess]]:
    """A cluster that the tests of this file share; whoever kills a node restarts it."""
    with three_nodes(tmp_path_factory.mktemp("nodes")) as started:
        yield started


def kvctl(nodes: list[KvnodeProcess], *arguments: str, code: int = 0) -> str:
    """Run a command against the cluster, check its exit code, and return what it printed."""
    seeds = ",".join(node.address for node in nodes)
    return run("kvctl", "--node", seeds, *arguments, code=code)


def run(program: str, *arguments: str, code: int) -> str:
    """Run kvctl or kvnode as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KV", "COLUMNS"))}
    done = subprocess.run(
        [sys.executable, "-m", f"cluster.cli.{program}", *arguments],
        capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return (done.stdout if code in (0, 9) else done.stderr).strip()


def kvctl_json(nodes: list[KvnodeProcess], *arguments: str, code: int = 0) -> dict[str, Any]:
    """The same with -o json."""
    document: dict[str, Any] = json.loads(kvctl(nodes, "-o", "json", *arguments, code=code))
    assert document["schema"] == 1
    return document


def test_put_get_del(nodes: list[KvnodeProcess]) -> None:
    """What was put is got; put again replaces; deleted is not found (exit code 3)."""
    assert kvctl(nodes, "put", "hello", "world").startswith("OK w=")
    kvctl(nodes, "put", "hello", "there")
    assert kvctl(nodes, "get", "hello") == "there"
    kvctl(nodes, "del", "hello")
    assert "not in bucket" in kvctl(nodes, "get", "hello", code=3)
    assert "not in bucket" in kvctl(nodes, "del", "hello", code=3)


def test_json_values_keep_their_types(nodes: list[KvnodeProcess]) -> None:
    """--json stores a list, not its text."""
    kvctl(nodes, "put", "typed", "--json", '[1, 2.5, null, {"a": "é"}]')

    assert kvctl_json(nodes, "get", "typed")["value"] == [1, 2.5, None, {"a": "é"}]


def test_siblings_are_shown_and_resolved(nodes: list[KvnodeProcess]) -> None:
    """Two writers that did not see each other: exit code 7 until somebody picks."""
    kvctl(nodes, "put", "color", "red", "--blind")
    kvctl(nodes, "put", "color", "blue", "--blind")
    assert "--siblings" in kvctl(nodes, "get", "color", code=7)
    shown = kvctl(nodes, "get", "color", "--siblings").splitlines()
    assert shown[-1] == "resolve: kvctl resolve color --pick 1"
    picked = next(line for line in shown if '"blue"' in line)[1]
    kvctl(nodes, "resolve", "color", "--pick", picked)
    assert kvctl(nodes, "get", "color") == "blue"
    kvctl(nodes, "resolve", "color", "--pick", "2", code=2)


def test_buckets_have_their_type(nodes: list[KvnodeProcess]) -> None:
    """In an lww bucket blind puts overwrite; a bucket nobody created is refused with the command that creates it."""
    kvctl(nodes, "bucket", "create", "flags", "--type", "lww")
    kvctl(nodes, "put", "k", "1", "--bucket", "flags", "--blind")
    kvctl(nodes, "put", "k", "2", "--bucket", "flags", "--blind")
    assert kvctl(nodes, "get", "k", "--bucket", "flags") == "2"
    assert "flags" in kvctl(nodes, "bucket", "list")
    assert "kvctl bucket create nope" in kvctl(nodes, "get", "k", "--bucket", "nope", code=2)


def test_load_is_idempotent_and_leaves_no_state_behind(nodes: list[KvnodeProcess], tmp_path: Path) -> None:
    """Loading a file twice writes it once."""
    file = tmp_path / "people.csv"
    file.write_text("id,name\n" + "".join(f"{i},name {i}\n" for i in range(300)), encoding="utf-8")

    first = kvctl_json(nodes, "load", str(file), "--key", "id")
    second = kvctl_json(nodes, "load", str(file), "--key", "id")

    assert (first["written"], second["written"], second["unchanged"]) == (300, 0, 300)
    assert kvctl_json(nodes, "get", "299")["value"] == {"id": "299", "name": "name 299"}
    assert list(tmp_path.iterdir()) == [file]


def test_bench_measures(nodes: list[KvnodeProcess]) -> None:
    """A closed and an open loop do what they were told, without errors."""
    short = ("--operations", "200", "--warmup", "0", "--keys", "50")

    closed = kvctl_json(nodes, "bench", "--workload", "f", "--concurrency", "8", *short)
    opened = kvctl_json(nodes, "bench", "--workload", "put", "--type", "lww", "--rate", "1000", *short)

    assert (closed["operations"], closed["errors"], closed["not_found"]) == (200, 0, 0)
    assert set(closed["by_kind"]) == {"read", "read_modify_write"}
    assert (opened["loop"], opened["operations"], opened["policy"]) == ("open", 200, "blind")


def test_a_killed_node_is_shown_and_loses_nothing(nodes: list[KvnodeProcess]) -> None:
    """kill -9, go on with two, restart: the value is there all the time, and status says how it stands."""
    kvctl(nodes, "put", "kept", "before", "-w", "all")
    assert "healthy: can lose 1 more node" in kvctl(nodes, "status")

    nodes[2].sigkill()
    kvctl(nodes, "put", "kept", "during")
    degraded = kvctl_json(nodes, "status")
    ring = kvctl(nodes, "ring", "--key", "kept")
    needs_all = kvctl(nodes, "put", "kept", "never", "-w", "3", "--blind", code=4)
    nodes[2].start()

    assert "needed=3" in needs_all
    assert (degraded["healthy"], degraded["can_lose_nodes"]) == (True, 0)
    assert sorted(each["state"] for each in degraded["nodes"]) == ["DN", "UN", "UN"]
    assert "DN" in ring and ring.endswith("writable, readable")
    assert kvctl(nodes, "get", "kept", "-r", "3") == "during"


def test_too_few_owners_is_unavailable_and_a_hung_one_is_maybe(nodes: list[KvnodeProcess]) -> None:
    """Exit code 4: it was not tried. Exit code 5: it may have been applied. Exit code 9: a cluster without quorum."""
    kvctl(nodes, "put", "k5", "v")
    assert "w=4" in kvctl(nodes, "put", "k5", "v", "-w", "4", code=4)
    try:
        nodes[1].sigstop()
        nodes[2].sigstop()
        first = [nodes[0]]
        kvctl(first, "--timeout", "900ms", "put", "k5", "w", "--blind", code=5)
        kvctl(first, "status", code=9)
    finally:
        nodes[1].sigcont()
        nodes[2].sigcont()


def test_nobody_there_is_unavailable() -> None:
    """No address answers: nothing was tried."""
    run("kvctl", "--node", "127.0.0.1:9", "--timeout", "300ms", "get", "k", code=4)


def test_a_node_stops_in_order_and_starts_again(tmp_path: Path) -> None:
    """SIGTERM: drain, sync, mark, exit 0. The store is then as it was."""
    node = KvnodeProcess(tmp_path / "a")
    try:
        node.start()
        kvctl([node], "put", "k", "v")
        assert node.start_lines[-1].startswith("kvnode ") and "try: kvctl put hello world" in node.start_lines[-1]
        node.signal(signal.SIGTERM)  # wrappers send it twice: still one orderly stop
        assert node.terminate() == 0
        node.start()
        assert kvctl([node], "get", "k") == "v"
        assert node.rss_bytes() < 90_000_000
    finally:
        node.kill()


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    """A data directory or an address in use is a usage error with one line, not a traceback."""
    node = KvnodeProcess(tmp_path / "a")
    try:
        node.start()
        assert "in use" in run("kvnode", "--data", str(node.data), "--listen", "127.0.0.1:0", code=2)
        assert "cannot listen" in run("kvnode", "--data", str(tmp_path / "b"), "--listen", node.address, code=2)
        with pytest.raises(NodeStartFailed, match="TLS and authentication"):
            KvnodeProcess(tmp_path / "c", listen="0.0.0.0:0").start()
    finally:
        node.kill()


def test_the_demo_loses_nothing_and_cleans_up(tmp_path: Path) -> None:
    """The whole of it with few records; nothing is left of it afterwards."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli.kvctl", "-o", "json", "demo", "--records", "1500"],
        capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, env=environment, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["acknowledged"], found["verified_r2"], found["lost"]) == (1_500, 1_500, [])
    assert 0 < found["killed_after"] < 1_500
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_cleans_up(tmp_path: Path) -> None:
    """Ctrl-C in the middle: no process and no directory stays behind."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli.kvctl", "demo"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert demo.stdout is not None
    pids = []
    for line in demo.stdout:
        if "pid" in line:
            pids.append(int(line.partition("pid ")[2].partition(",")[0]))
        if "writing" in line:
            break

    demo.send_signal(signal.SIGINT)
    code = demo.wait(COMMAND_TIMEOUT_S)
    demo.stdout.close()

    assert code == 130
    assert len(pids) == 3 and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(tmp_path.iterdir()) == []
