"""The rare verbs: topology, status, buckets, joins and their scans. Changes go to the founder; other nodes pass them on once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.membership.changes import Changes
from cluster.membership.keeper import Keeper
from cluster.membership.source import Source
from cluster.placement import Peers
from cluster.requests import Reply
from cluster.server.frame_service import unknown_verb
from cluster.tasks import Tasks
from kvstore.errors import DecodeError, InvalidArgument, Unavailable
from kvstore.ids import NodeId, ObjectType
from kvstore.messages import Status, Verb, decode_body, encode_body
from kvstore.ring.buckets import BucketProperties
from kvstore.ring.topology import Member
from kvstore.ring.topology_codec import encode
from kvstore.transport.session import Caller

__all__ = ["Administration"]


class Administration:
    """Called by the frame service for every verb that is not on the request path."""

    def __init__(
        self, *, source: Source, keeper: Keeper, changes: Changes, peers: Peers, tasks: Tasks,
        status: Callable[[], dict[str, Any]],
    ) -> None:  # fmt: skip
        self._source, self._keeper, self._changes = source, keeper, changes
        self._peers, self._tasks, self._status = peers, tasks, status
        self._loop = asyncio.get_running_loop()

    def handle(self, caller: Caller, verb: int, body: bytes, deadline: float, reply: Reply) -> None:
        """Answer one operation, now or later. Raises what is wrong with the request."""
        if verb == Verb.TOPOLOGY:
            reply(Status.OK, encode(self._changes.topology()))
        elif verb == Verb.STATUS:
            reply(Status.OK, encode_body(self._status()))
        elif verb == Verb.TOPOLOGY_ADOPT:
            self._tasks.answer("adopting a topology", self._adopt(body), reply)
        elif verb == Verb.SCAN:
            reply(Status.OK, self._source.page(_sender(caller), body))
        elif verb == Verb.MOVED:
            self._tasks.answer("moving partitions", self._moved(_sender(caller), body), reply)
        elif verb in (Verb.BUCKET_CREATE, Verb.JOIN):
            self._change(verb, body, deadline, reply, forwarded=False)
        elif verb == Verb.FORWARDED_ADMIN:
            self._change(body[0] if body else 0, body[1:], deadline, reply, forwarded=True)
        else:
            raise unknown_verb(verb)

    async def _adopt(self, document: bytes) -> bytes:
        await self._keeper.adopt_document(document)
        return b""

    async def _moved(self, joiner: NodeId, body: bytes) -> bytes:
        fields = decode_body(body, fields_max=2)
        if [type(field) for field in fields] != [int, int]:
            raise DecodeError("MOVED takes the epoch at which the move began, and a step")
        await self._changes.moved(joiner, *fields)
        return b""

    def _change(self, verb: int, body: bytes, deadline: float, reply: Reply, *, forwarded: bool) -> None:
        if self._changes.is_founder:
            work = self._create_bucket(body) if verb == Verb.BUCKET_CREATE else self._join(body)
            self._tasks.answer("changing the topology", work, reply)
            return
        founder = self._changes.topology().founder
        link = self._peers.link(founder)
        if forwarded or link is None or not link.is_up:
            raise Unavailable("the founding node makes all changes of the topology, and it cannot be reached")
        link.ask(Verb.FORWARDED_ADMIN, 0, deadline, b"", bytes([verb]) + body, reply)

    async def _create_bucket(self, body: bytes) -> bytes:
        fields = decode_body(body, fields_max=8)
        if len(fields) != 8:
            raise DecodeError("BUCKET_CREATE takes 8 fields", fields=len(fields))
        name, default_type, r, w, dw, pr, pw, ttl_ms = fields
        if type(default_type) is not int or default_type not in set(ObjectType):
            raise InvalidArgument("unknown object type")
        properties = BucketProperties(name, ObjectType(default_type), r=r, w=w, dw=dw, pr=pr, pw=pw, ttl_ms=ttl_ms)
        return encode(await self._changes.create_bucket(properties))

    async def _join(self, body: bytes) -> bytes:
        fields = decode_body(body, fields_max=5)
        if len(fields) != 5:
            raise DecodeError("JOIN takes 5 fields", fields=len(fields))
        node_id, address, zone, weight, replaced = fields
        if type(replaced) is not str:
            raise DecodeError("the node to replace is the beginning of an id, or empty")
        return encode(await self._changes.admit(Member(NodeId(node_id), address, zone, weight), replaced))


def _sender(caller: Caller) -> NodeId:
    return NodeId(caller.hello.node_id if caller.hello is not None else b"")
