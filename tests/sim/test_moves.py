"""The log of moves: what it makes of the documents that the founder stores."""

from __future__ import annotations

from dataclasses import replace

from jepsen_lite.sim.moves import MoveLog
from kvstore.ids import ClusterId, NodeId
from kvstore.ring.move import begin_move, cancel_move, finish_move, flip_move
from kvstore.ring.topology import Member, Topology, found
from kvstore.ring.topology_codec import encode

A, B, C = (NodeId(bytes([number]) * 8) for number in (1, 2, 3))


def _one() -> Topology:
    return found(ClusterId(b"c" * 16), "test", Member(A, "a:1"), 3, 3)


def _begun(topology: Topology, joiner: NodeId = B) -> Topology:
    owners = [(*each, joiner) for each in topology.owners]
    return begin_move(topology, Member(joiner, f"{joiner.hex()}:1"), owners)


def _log(*documents: Topology) -> MoveLog:
    log = MoveLog()
    for document in documents:
        log.see(encode(document))
    return log


def test_a_move_begins_flips_and_ends() -> None:
    """Whoever listens hears when owners change and when guests go."""
    copying = _begun(_one())
    settling = flip_move(copying)
    log, heard = _log(_one(), copying), list[int]()
    log.is_under_faults, log.on_owners = True, lambda topology: heard.append(topology.epoch)

    for document in (settling, finish_move(settling)):
        log.see(encode(document))

    counts = log.counts()
    assert (counts["joins_begun"], counts["joins_ended"], counts["ended_under_faults"], counts["cancelled"]) == (
        1,
        1,
        1,
        0,
    )
    assert heard == [settling.epoch, settling.epoch + 1]
    assert log.is_member(B) and log.is_owner(B, b"\0" * 8) and log.current is None


def test_a_cancelled_move_and_one_that_a_power_loss_took_back_count_once() -> None:
    """A document that is made again is the same move; a joiner that comes again is another one."""
    copying = _begun(_one())
    cancelled = cancel_move(copying)
    log = _log(_one(), copying, _one(), copying, cancelled, _begun(cancelled))

    counts = log.counts()
    assert (counts["joins_begun"], counts["cancelled"], counts["left_under_way"]) == (2, 1, 1)
    assert not log.is_member(B), "it is JOINING"


def test_faults_count_while_a_move_is_under_way_and_what_forms_the_cluster_does_not() -> None:
    """`begin` is called when clients begin to work."""
    log = _log(_one(), _begun(_one()))
    log.count("kill")
    log.begin()
    log.count("kill")
    log.see(encode(flip_move(_begun(_one()))))

    assert log.counts()["joins_begun"] == 0 and "met_kill" not in log.counts()
    later = replace(finish_move(flip_move(_begun(_one()))), epoch=20)
    log.see(encode(later))
    log.see(encode(_begun(later, C)))
    log.count("kill")
    assert log.counts()["met_kill"] == 1
