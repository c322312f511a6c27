"""`kvctl` as a person types it, against three nodes: status, ring, siblings and their end, and an error of every exit code.

    0 ok   2 usage   3 not found   4 unavailable: not applied   5 timeout: may have been applied   7 siblings   (9 unhealthy)

Code 4: two of three nodes are dead, so a put is not even tried. Code 5: two of three nodes hang (SIGSTOP), so a put is applied by
one and acknowledged by nobody; when they wake up it is there, which is why the code is not 4.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from kvstore.client.client import AsyncClient
from tests.campaigns.harness import Findings, client_url, kvctl, main, options, say, scratch
from tests.support.processes import KvnodeProcess, three_nodes

__all__ = ["run"]


class _Transcript:
    """Runs commands, prints them as a terminal would, and compares their exit codes with what was expected."""

    def __init__(self, findings: Findings, nodes: Sequence[KvnodeProcess]) -> None:
        self._findings, self._nodes = findings, nodes
        self.codes: dict[str, str] = {}

    def run(self, *arguments: str, code: int, through: Sequence[KvnodeProcess] | None = None) -> str:
        """Run one command; returns what it printed on stdout."""
        done = kvctl(self._nodes if through is None else through, *arguments)
        line = shlex.join(["kvctl", *arguments])
        say(f"$ {line}")
        for printed in (done.stdout + done.stderr).rstrip().splitlines():
            say(f"  {printed}")
        say(f"  → exit code {done.returncode}")
        self._findings.require(done.returncode == code, f"{line}: exit code {done.returncode}, expected {code}")
        self.codes.setdefault(str(done.returncode), line)
        return done.stdout.strip()


def run() -> Findings:
    """Run the campaign."""
    findings = Findings("exit_codes")
    with scratch() as directory, three_nodes(Path(directory)) as nodes:
        transcript = _Transcript(findings, nodes)
        _look(transcript)
        _siblings(findings, transcript, nodes)
        _errors(findings, transcript, nodes)
        findings.note(examples=dict(sorted(transcript.codes.items())))
        missing = [code for code in ("0", "2", "3", "4", "5", "7") if code not in transcript.codes]
        findings.require(not missing, f"no example of exit codes {missing}")
    return findings


def _look(transcript: _Transcript) -> None:
    transcript.run("status", code=0)
    transcript.run("ring", "--key", "cart", code=0)


def _siblings(findings: Findings, transcript: _Transcript, nodes: Sequence[KvnodeProcess]) -> None:
    """Two clients write without having read: both values stay until somebody who saw them decides."""
    uvloop.run(_write_blindly(nodes))
    transcript.run("get", "cart", code=7)
    shown = transcript.run("get", "cart", "--siblings", code=0)
    findings.require('"tea"' in shown and '"milk"' in shown, "the siblings are not the two values that were written")
    transcript.run("resolve", "cart", "--value", "tea and milk", code=0)
    findings.require(transcript.run("get", "cart", code=0) == "tea and milk", "resolve did not leave its value")


async def _write_blindly(nodes: Sequence[KvnodeProcess]) -> None:
    for value in ("tea", "milk"):
        async with AsyncClient.from_url(client_url(nodes)) as client:
            await client.put("cart", value)
        say(f'# a client that read nothing: put("cart", "{value}")')


def _errors(findings: Findings, transcript: _Transcript, nodes: Sequence[KvnodeProcess]) -> None:
    transcript.run("get", "cart", "--bucket", "no-such-bucket", code=2)
    transcript.run("get", "nothing-here", code=3)
    _hang_two(findings, transcript, nodes)
    _kill_two(transcript, nodes)


def _hang_two(findings: Findings, transcript: _Transcript, nodes: Sequence[KvnodeProcess]) -> None:
    alive, *hanging = nodes
    try:
        for node in hanging:
            node.sigstop()
        say("# SIGSTOP two of three nodes: they hang, and nobody knows yet")
        transcript.run("--timeout", "1s", "put", "letter", "maybe", "--blind", code=5, through=[alive])
    finally:
        for node in hanging:
            node.sigcont()
    say("# SIGCONT both")
    found = transcript.run("--timeout", "10s", "get", "letter", code=0)
    findings.require(found == "maybe", f"the put that may have been applied: read {found!r}")


def _kill_two(transcript: _Transcript, nodes: Sequence[KvnodeProcess]) -> None:
    alive, *dying = nodes
    for node in dying:
        node.kill()
    say("# SIGKILL two of three nodes")
    transcript.run("put", "cart", "coffee", "--blind", code=4, through=[alive])
    transcript.run("get", "cart", code=4, through=[alive])
    transcript.run("status", code=9, through=[alive])
    for node in dying:
        node.start()
    say("# both restarted")
    transcript.run("--timeout", "10s", "get", "cart", code=0)


if __name__ == "__main__":
    options(__doc__).parse_args()
    sys.exit(main(run))
