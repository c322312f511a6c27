"""The joiner's first step: ask any member to be taken in. What follows is in receiver.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kvstore.errors import KVStoreError, Unavailable, UnavailableError
from kvstore.messages import Verb, encode_body
from kvstore.ring.topology import Member
from kvstore.transport.link import Link

__all__ = ["ask_to_join", "join_cluster"]

SEED_TIMEOUT_S = 3.0
RETRY_S = 0.3


async def join_cluster(
    ours: Member, seeds: Sequence[str], open_link: Callable[[str], Link], *, timeout_s: float, replaced: str = ""
) -> bytes:
    """Return the encoded topology in which `ours` is a member, JOINING at first. Joining again changes nothing. `replaced`:
    the beginning of the id of the dead member whose place it takes.

    Tries the seeds in order until one can be reached. Raises its refusal (JoinRefused, ClusterMismatch, StaleIdentity), or
    Unavailable; after Timeout the join may still be finished by the cluster, and the same start again is safe.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    problem: KVStoreError = Unavailable("no address to join was given")
    while True:
        for seed in seeds:
            link = open_link(seed)
            try:
                await link.wait_up(min(SEED_TIMEOUT_S, timeout_s))
                return await ask_to_join(ours, link, timeout_s=deadline - loop.time(), replaced=replaced)
            except UnavailableError as error:
                problem = error
            finally:
                await link.close()
        if loop.time() + RETRY_S >= deadline or isinstance(problem, Unavailable):
            raise problem
        await asyncio.sleep(RETRY_S)  # NotReady or Overloaded: nothing was done, and it will pass


async def ask_to_join(ours: Member, link: Link, *, timeout_s: float, replaced: str = "") -> bytes:
    """Ask one member; for a member again it is a no-op, or tells the cluster its new address. Returns the topology."""
    body = encode_body([ours.node_id, ours.address, ours.zone, ours.weight, replaced])
    return await link.call(Verb.JOIN, 0, asyncio.get_running_loop().time() + timeout_s, b"", body)
