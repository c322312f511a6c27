"""One node of another revision among two of this one: they form a cluster, survive kills, and hold the same bytes in the end.

    git worktree of --rev ──► node a        this tree ──► nodes b, c          once with a as the founder, once with b
    write through each, read through each other ──► SIGKILL a ──► write ──► restart ──► the same with b
    a stops and starts again from this tree (the upgrade) ──► everything is read through each ──► the three databases compared

Checked
  1. Every value that was acknowledged is read through every node, whichever versions wrote and read it; so are overwrites with a
     context that the other version gave, and deletes.
  2. The three databases are equal byte for byte: a record is canonical, so two versions that disagree about one byte of it
     would repair each other for ever.
  3. A directory written by the other revision is opened by this one.
The way back (this revision's directory under the other one) is not promised and not tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import uvloop

from kvstore.client.client import AsyncClient
from kvstore.errors import KVStoreError
from kvstore.ids import ObjectType
from kvstore.messages import GetReply, PutReply, Verb, decode_get_reply, decode_put_reply, encode_body
from kvstore.storage.keyspace import object_name
from tests.campaigns.harness import Findings, client_url, main, options, read_store, say, scratch
from tests.support.processes import KvnodeProcess

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
PATIENCE_S, RETRY_S = 20.0, 0.05
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import cluster; print('code', cluster.__file__, file=sys.stderr); "
    "from cluster.cli.kvnode import main; main(prog_name='kvnode')"
)


class RevisionProcess(KvnodeProcess):
    """A node that runs the code of `tree`."""

    tree = ROOT

    def command(self) -> list[str]:
        """Return the command line, with the tree in front of everything Python might import from instead."""
        executable, _, _, *rest = super().command()
        return [executable, "-c", BOOT, str(self.tree), *rest]

    @property
    def runs_its_tree(self) -> bool:
        """Whether the last start said so."""
        started = [line for line in self.log_text().splitlines() if line.startswith("code ")]
        return bool(started) and started[-1] == f"code {self.tree / 'cluster' / '__init__.py'}"


@contextlib.contextmanager
def worktree(revision: str, parent: Path) -> Iterator[Path]:
    """Check a revision out beside the repository's own tree; removed at the end."""
    path = parent / "other"
    _git("worktree", "add", "--detach", "--force", str(path), revision)
    try:
        yield path
    finally:
        _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def run(*, revision: str = "HEAD~1", keys: int = 60, seed: int = 1, founders: Sequence[str] = ("a", "b")) -> Findings:
    """Run the campaign."""
    described = _git("log", "-1", "--format=%h %s", revision)
    findings = Findings("mixed_version", {"seed": seed, "revision": described.split()[0], "keys": keys})
    say(f"node a: {described}")
    say(f"nodes b and c: this tree, {_git('describe', '--always', '--dirty')}")
    with scratch() as directory, worktree(revision, directory) as tree:
        for founder in founders:
            say(f"{founder} founds the cluster")
            try:
                _one(findings, directory / f"founded-by-{founder}", tree, founder, keys, random.Random(seed))
            except KVStoreError as failure:  # a node that does not start, or refuses the others
                findings.require(False, f"founded by {founder}: {type(failure).__name__}: {failure}")
    return findings


def _one(findings: Findings, directory: Path, tree: Path, founder: str, keys: int, rng: random.Random) -> None:
    directory.mkdir()
    nodes = {name: RevisionProcess(directory / name) for name in "abc"}
    nodes["a"].tree = tree
    try:
        nodes[founder].start()
        for name, node in nodes.items():
            if name != founder:
                node.join_through(nodes[founder].address)
                node.start()
        uvloop.run(_Story(findings, nodes, keys, rng).run())
        for name, node in nodes.items():
            findings.require(node.terminate() == 0, f"node {name} did not stop cleanly")
        _judge_stores(findings, list(nodes.values()))
    finally:
        for node in nodes.values():
            node.kill()


class _Story:
    """What clients do to one cluster; `expected` is what reads must show (None: deleted)."""

    def __init__(self, findings: Findings, nodes: dict[str, RevisionProcess], keys: int, rng: random.Random) -> None:
        self._findings, self._nodes, self._keys, self._rng = findings, nodes, keys, rng
        self._names, self._expected, self.retries = list(nodes), dict[str, str | None](), 0

    async def run(self) -> None:
        """Write, kill, upgrade, and look."""
        self._check_code()
        async with AsyncClient.from_url(client_url(self._nodes.values())) as client:
            await self._write(client, "first", self._names)
            await self._look(client, "after writes through all")
            for victim in ("a", "b"):
                self._nodes[victim].sigkill()
                await self._write(client, f"without {victim}", [name for name in self._names if name != victim])
                self._nodes[victim].start()
                await self._look(client, f"after {victim} was killed, missed writes and came back")
            self._findings.require(self._nodes["a"].terminate() == 0, "node a did not stop for its upgrade")
            self._nodes["a"].tree = ROOT
            self._nodes["a"].start()
            self._check_code()
            await self._write(client, "upgraded", self._names)
            await self._look(client, "after a was upgraded")

    def _check_code(self) -> None:
        for name, node in self._nodes.items():
            self._findings.require(node.runs_its_tree, f"node {name} does not run the code of {node.tree}")

    async def _write(self, client: AsyncClient, phase: str, through: list[str]) -> None:
        """Put new keys through one node; read each through another one, and overwrite or delete it with that context there."""
        for number in range(self._keys):
            key, first, second = (
                f"{phase} {number}",
                through[number % len(through)],
                through[(number + 1) % len(through)],
            )
            await self._put(client, first, key, "1", None)
            shown = await self._get(client, second, key)
            self._findings.require(
                _values(shown) == ["1"], f"{key}: put through {first}, {second} shows {_values(shown)}"
            )
            self._expected[key] = "1"
            if number % 3 == 1:
                await self._put(client, second, key, "2", shown.context)
                self._expected[key] = "2"
            elif number % 3 == 2:
                body = encode_body([self._rng.randbytes(16), shown.context, None, None, None])
                await self._ask(client, second, Verb.DELETE, key, body)
                self._expected[key] = None

    async def _put(self, client: AsyncClient, through: str, key: str, value: str, context: bytes | None) -> PutReply:
        body = encode_body([self._rng.randbytes(16), msgpack.packb(value), context, 0, None, None, None])
        return decode_put_reply(await self._ask(client, through, Verb.PUT, key, body))

    async def _get(self, client: AsyncClient, through: str, key: str, r: int | None = None) -> GetReply:
        return decode_get_reply(await self._ask(client, through, Verb.GET, key, encode_body([r, None])))

    async def _ask(self, client: AsyncClient, through: str, verb: Verb, key: str, body: bytes) -> bytes:
        """Ask one node, again while it says that it may be asked again: links to a node that came back need a moment.

        The same operation id twice is one write, so that this is right for puts too.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_S
        while True:
            try:
                return await client.call_node(self._nodes[through].address, verb, _name(key), body)
            except KVStoreError as error:
                if not error.retryable or loop.time() > give_up_at:
                    raise
                self.retries += 1
            await asyncio.sleep(RETRY_S)

    async def _look(self, client: AsyncClient, when: str) -> None:
        """Read everything at R=3 through every node: each must show what is expected, and mends what is stale."""
        wrong = 0
        for name in self._names:
            for key, value in self._expected.items():
                shown = _values(await self._get(client, name, key, r=3))
                wrong += shown != ([] if value is None else [value])
        self._findings.require(wrong == 0, f"{when}: {wrong} reads did not show what was written")
        say(f"  {when}: {len(self._expected)} keys read through each of three nodes, {wrong} not as written")


def _name(key: str) -> bytes:
    return object_name("default", ObjectType.REGISTER, key.encode())


def _values(reply: GetReply) -> list[str]:
    return [msgpack.unpackb(sibling.value) for sibling in reply.siblings]


def _judge_stores(findings: Findings, nodes: list[RevisionProcess]) -> None:
    stores = [{key: record for key, (record, _) in read_store(node.data).items()} for node in nodes]
    keys = set().union(*stores)
    unequal = sorted(key.hex() for key in keys if len({store.get(key) for store in stores}) > 1)
    say(f"  databases of the three nodes: {len(keys)} records, {len(unequal)} not equal byte for byte")
    findings.require(not unequal, f"{len(unequal)} records differ between the nodes, first {unequal[:1]}")


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--rev", default="HEAD~1", help="the other revision")
    parser.add_argument("--keys", type=int, default=60, help="in each of four phases")
    given = parser.parse_args()
    sys.exit(main(lambda: run(revision=given.rev, keys=given.keys, seed=given.seed)))
