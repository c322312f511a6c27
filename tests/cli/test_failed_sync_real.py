"""A disk that fails to sync: a real node under strace acknowledges nothing after it and ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.cli.node_process import NodeStartFailed
from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from tests.support.processes import KvnodeProcess

WRITES_BEFORE_FAILURE = 40
"""fdatasync calls that succeed, those of the start included."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_after_a_failed_sync_nothing_is_acknowledged_and_the_process_ends(tmp_path: Path) -> None:
    """Exit code 1, one line saying why, and the store refuses to start again: it cannot be trusted."""
    node = KvnodeProcess(tmp_path / "a")
    node.strace = ("-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={WRITES_BEFORE_FAILURE}+")
    try:
        node.start(timeout_s=60)
        outcomes = await write(node, 3 * WRITES_BEFORE_FAILURE)
        exit_code = node.wait(20)
        node.strace = ()
        with pytest.raises(NodeStartFailed, match="failed write to disk"):
            node.start()
    finally:
        node.kill()

    first_failure = outcomes.index(False)
    assert 0 < first_failure <= WRITES_BEFORE_FAILURE
    assert not any(outcomes[first_failure:])
    assert exit_code == 1
    assert "fatal: ending at once" in node.log_text()


async def write(node: KvnodeProcess, count: int) -> list[bool]:
    """Put one key after the other; True where the put was acknowledged. Stops trying soon after the node is gone."""
    outcomes = []
    async with AsyncClient.from_url(f"kv://{node.address}/?timeout=500ms&attempts_max=1") as client:
        for number in range(count):
            try:
                await client.put(f"k{number}", number)
            except KVStoreError:
                outcomes.append(False)
                if outcomes.count(False) > 3:
                    break
            else:
                outcomes.append(True)
    return outcomes
