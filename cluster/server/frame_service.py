"""Dispatch: hands every operation of a frame to whoever answers its verb, then commits what they staged as one batch.

    frames of clients while there is a crowd ─► inbox ─► together

    client verbs    PUT GET DELETE ─► coordinator          TOPOLOGY STATUS BUCKET_CREATE JOIN ─► administration
    peer verbs      FORWARDED_* ─► coordinator             REPLICATE FETCH ─► replica, checked against the placement version

Peer verbs are taken only from sessions of members. A request planned with an older placement of its partition is refused
(`StalePlacement`); one with a newer placement makes this node catch up first (`NotReady`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from cluster.coordinator.coordinator import Coordinator, Frame
from cluster.placement import Placement, Slot
from cluster.replica import Replica
from cluster.requests import Reply
from cluster.server.inbox import Arrival, Inbox, Tickets
from cluster.server.peer_groups import PeerGroups
from cluster.server.replicated_write import ReplicatedWrite
from kvstore.chaos import CALM, Chaos, Point, Probe
from kvstore.errors import (
    DecodeError,
    InvalidArgument,
    KVStoreError,
    NotReady,
    Overloaded,
    StalePlacement,
    UnknownVerb,
    WrongOwner,
    error_to_wire,
)
from kvstore.groups import decode_fetches, decode_writes
from kvstore.ids import NodeId, StorageKey
from kvstore.limits import KEY_SIZE_BYTES_MAX
from kvstore.messages import Status, Verb
from kvstore.transport.frames import Hello
from kvstore.transport.session import Caller, Request, Session

__all__ = ["Administration", "FrameService", "unknown_verb"]

STORAGE_KEY_SIZE_BYTES_MAX = 2 * KEY_SIZE_BYTES_MAX + 128
# Plain ints: enum access costs.
_PUT, _GET, _DELETE = int(Verb.PUT), int(Verb.GET), int(Verb.DELETE)
_REPLICATE, _PING = int(Verb.REPLICATE), int(Verb.PING)
_OK, _ERROR = int(Status.OK), int(Status.ERROR)
_REPLICATE_GROUP, _FETCH_GROUP = int(Verb.REPLICATE_GROUP), int(Verb.FETCH_GROUP)
_DISTURBED = frozenset({
    Verb.PUT, Verb.GET, Verb.DELETE, Verb.REPLICATE, Verb.REPLICATE_EARLY, Verb.FETCH, Verb.FORWARDED_PUT, Verb.FORWARDED_GET,
    Verb.FORWARDED_DELETE, Verb.REPLICATE_GROUP, Verb.FETCH_GROUP,
})  # fmt: skip
_REPEATABLE = frozenset({Verb.REPLICATE, Verb.REPLICATE_EARLY, Verb.FETCH, Verb.REPLICATE_GROUP, Verb.FETCH_GROUP})
"""Not a put: were the first one refused and the second applied, its definite error would not be true."""
NOBODY = 0
"""An operation id that no link uses: whoever gets a reply to it ignores it."""
ANSWER_MARGIN_S = 0.05
"""A coordinator gives up this much before its client does (a tenth if there is less than half a second), so that its numbers
still reach the client."""
REMAINING_MS_MAX = 600_000
"""Deadlines further away than ten minutes are cut to that."""

Administration = Callable[[Caller, int, bytes, float, Reply], None]
"""(caller, verb, body, deadline, reply): answers the rare verbs."""


class FrameService:
    """Runs for the life of a node; sessions call `handle` with the operations of each frame."""

    def __init__(
        self, *, placement: Placement, coordinator: Coordinator, replica: Replica, administration: Administration,
        admit: Callable[[Session, Hello], None], catch_up: Callable[[NodeId], None], chaos: Chaos = CALM,
    ) -> None:  # fmt: skip
        self.admit, self._chaos, self._is_calm = admit, chaos, chaos.is_calm
        self._check_part = self._checked if chaos.is_calm else self._checked_or_not
        self._placement, self._coordinator, self._replica = placement, coordinator, replica
        self._administration, self._catch_up = administration, catch_up
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._handle_together, lambda: coordinator.in_flight, chaos=chaos)
        self.is_open = False
        """Whether client data operations are taken: between the end of the start and the beginning of the stop."""

    def topology_epoch(self) -> int:
        """Return the epoch that rides on every frame of replies."""
        return self._placement.epoch

    def closed(self, session: Session) -> None:
        """Nothing is kept for a session: replies that come later are dropped by it."""

    def handle(self, caller: Caller, requests: Sequence[Request]) -> None:
        """Handle every operation of one frame, now or with those of other clients."""
        late_s = caller.late_s
        if self._inbox.is_gathering and _is_client(caller) and self._inbox.keeps(caller, requests, late_s):
            return
        frame = self._coordinator.begin(caller.reply)
        self._handle(frame, [Arrival(caller, requests, late_s, frame.now)])

    def _handle_together(self, arrivals: list[Arrival]) -> None:
        tickets = Tickets()
        self._handle(self._coordinator.begin(tickets.reply), arrivals, tickets)

    def _handle(self, frame: Frame, arrivals: list[Arrival], tickets: Tickets | None = None) -> None:
        """Handle the operations of some frames, apply what they staged, then ask the other owners."""
        peers = PeerGroups(self._replica, frame.reply, self._chaos)
        for caller, requests, late_s, at in arrivals:
            if not self._is_calm:
                requests = self._disturbed(caller, requests)
            if tickets is not None:
                requests = tickets.number(caller.reply, requests)
            self._begin(frame, peers, caller, requests, late_s + frame.now - at)
        self._replica.store.commit_staged()
        peers.committed()
        self._coordinator.ask(frame)

    def _begin(
        self, frame: Frame, peers: PeerGroups, caller: Caller, requests: Iterable[Request], late_s: float
    ) -> None:
        """Begin the operations of one caller."""
        now, reply = frame.now, frame.reply
        if self.is_open and _is_client(caller):
            self._coordinator.watch_lateness(frame, late_s)
        if frame.refusal:
            requests = self._refuse(frame, requests)
        sender: NodeId | None = None
        for operation_id, verb, version, remaining_ms, key, body in requests:
            remaining_s = (remaining_ms if remaining_ms < REMAINING_MS_MAX else REMAINING_MS_MAX) / 1000 - late_s
            try:
                if verb < _REPLICATE:  # the first of the peer verbs
                    deadline = now + remaining_s - (remaining_s / 10 if remaining_s < 0.5 else ANSWER_MARGIN_S)
                    self._client(frame, caller, operation_id, verb, key, body, deadline)
                    continue
                if verb == _PING:
                    reply(operation_id, _OK, b"")
                    continue
                if sender is None:
                    sender = self._member(caller)
                if verb == _REPLICATE_GROUP:
                    peers.replicate(operation_id, decode_writes(body), partial(self._check_part, sender))
                elif verb == _FETCH_GROUP:
                    peers.fetch(operation_id, decode_fetches(body), partial(self._check_part, sender))
                else:
                    self._peer(frame, caller, sender, operation_id, verb, version, key, body, now + remaining_s)
            except KVStoreError as error:
                reply(operation_id, _ERROR, error_to_wire(error))

    def _refuse(self, frame: Frame, requests: Iterable[Request]) -> list[Request]:
        """Refuse what clients ask of their data, and return the rest: ten times too many of them must cost next to nothing."""
        reply, refusal, rest, count = frame.reply, frame.refusal, list[Request](), 0
        for request in requests:
            if request[1] <= _DELETE:
                count += 1
                reply(request[0], _ERROR, refusal)
            else:
                rest.append(request)
        self._coordinator.count_late(frame, count)
        return rest

    def _client(
        self, frame: Frame, caller: Caller, operation_id: int, verb: int, key: bytes, body: bytes, deadline: float
    ) -> None:
        if not self.is_open and verb <= _DELETE:
            self._chaos.hit(Probe.REFUSED_WHILE_CLOSED)
            raise NotReady("the node is starting or stopping", retry_after_s=0.2)
        if verb == _GET:
            self._coordinator.get(frame, operation_id, key, body, deadline)
        elif verb == _PUT:
            self._coordinator.put(frame, operation_id, key, body, deadline)
        elif verb == _DELETE:
            self._coordinator.delete(frame, operation_id, key, body, deadline)
        else:
            self._administration(caller, verb, body, deadline, partial(frame.reply, operation_id))

    def _peer(
        self, frame: Frame, caller: Caller, sender: NodeId, operation_id: int, verb: int, version: int, key: bytes,
        body: bytes, deadline: float,
    ) -> None:  # fmt: skip
        reply = partial(frame.reply, operation_id)
        if verb == Verb.FETCH:
            self._checked(sender, key, version)
            self._fetch(reply, StorageKey(key))
        elif verb == _REPLICATE or verb == Verb.REPLICATE_EARLY:
            slot = self._checked(sender, key, version)
            write = ReplicatedWrite(
                self._replica, slot.partition, StorageKey(key), body, deadline, reply, early=verb != _REPLICATE,
                chaos=self._chaos,
            )  # fmt: skip
            write.stage()
        elif verb == Verb.FORWARDED_PUT:
            self._coordinator.put(frame, operation_id, key, body, deadline, forwarded=True)
        elif verb == Verb.FORWARDED_GET:
            self._coordinator.get(frame, operation_id, key, body, deadline, forwarded=True)
        elif verb == Verb.FORWARDED_DELETE:
            self._coordinator.delete(frame, operation_id, key, body, deadline, forwarded=True)
        else:
            self._administration(caller, verb, body, deadline, reply)

    def _member(self, caller: Caller) -> NodeId:
        node_id = NodeId(caller.hello.node_id if caller.hello is not None else b"")
        topology = self._placement.topology
        if topology is None:
            if not node_id:
                raise InvalidArgument("this operation is for members of the cluster")
        elif topology.maybe_member(node_id) is None:
            raise InvalidArgument("this operation is for members of the cluster")
        return node_id

    def _checked(self, sender: NodeId, key: bytes, version: int) -> Slot:
        """Return the slot of a peer's key if the peer planned with our placement of it."""
        if not 12 <= len(key) <= STORAGE_KEY_SIZE_BYTES_MAX:
            raise DecodeError("a storage key has 12 to 2,176 bytes", size_bytes=len(key))
        if self._placement.topology is None:
            raise NotReady("the node has no topology yet", retry_after_s=0.1)
        slot = self._placement.slot(key)
        if version < slot.version:
            self._chaos.hit(Probe.STALE_PLACEMENT_REFUSED)
            epoch = self._placement.epoch
            raise StalePlacement(
                "planned with an older placement", topology_epoch=epoch, placement_version=slot.version
            )
        if version > slot.version:
            self._chaos.hit(Probe.NEWER_PLACEMENT_SEEN)
            if not self._chaos.fires(Point.CATCH_UP_SKIPPED):
                self._catch_up(sender)
            raise NotReady("the node is catching up with a newer topology", retry_after_s=0.05)
        if not slot.is_holder:
            self._chaos.hit(Probe.WRONG_OWNER_REFUSED)
            raise WrongOwner("the node does not own the key", topology_epoch=self._placement.epoch)
        return slot

    # --- chaos ------------------------------------------------------------------------------------------------------------

    def _disturbed(self, caller: Caller, requests: Iterable[Request]) -> Iterator[Request]:
        """Pass the requests of a frame on, some of them not, later, twice, or so that nobody hears the answer."""
        chaos, commit_staged = self._chaos, self._replica.store.commit_staged
        for request in requests:
            operation_id, verb, version, remaining_ms, key, body = request
            if verb not in _DISTURBED:
                yield request
            elif chaos.fires(Point.REQUEST_REFUSED):
                caller.reply_error(operation_id, Overloaded("refused before it was begun", retry_after_s=0.01))
            elif delay_ms := chaos.pick(Point.REQUEST_LATE, 0, 1, 5, 50):
                late = (operation_id, verb, version, max(0, remaining_ms - delay_ms), key, body)
                self._loop.call_later(delay_ms / 1000, self._handle_late, caller, late)
            elif chaos.fires(Point.REPLY_DROPPED):
                yield NOBODY, verb, version, remaining_ms, key, body
            else:
                yield request
                if verb in _REPEATABLE and chaos.fires(Point.REQUEST_TWICE):
                    yield NOBODY, verb, version, remaining_ms, key, body
            if chaos.fires(Point.COMMIT_EACH):
                commit_staged()

    def _handle_late(self, caller: Caller, request: Request) -> None:
        if caller.is_open:
            self.handle(caller, [request])

    def _checked_or_not(self, sender: NodeId, key: bytes, version: int) -> Slot:
        if self._chaos.fires(Point.GROUP_PART_REFUSED):
            raise Overloaded("this one has to be asked alone", retry_after_s=0.01)
        return self._checked(sender, key, version)

    def _fetch(self, reply: Reply, key: StorageKey) -> None:
        record = self._replica.read(key)
        self._replica.store.when_key_durable(key, partial(reply, _OK, record))


def _is_client(caller: Caller) -> bool:
    return caller.hello is not None and not caller.hello.node_id


def unknown_verb(verb: int) -> UnknownVerb:
    """Return the error for a verb that this build does not know: only its operation fails."""
    return UnknownVerb(f"this node does not know verb {verb}")
