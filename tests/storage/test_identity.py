"""Who a node is and which start this is: numbers go up durably, and a clone is refused by its peers."""

from __future__ import annotations

import random

import pytest

from kvstore.errors import Corruption, StaleIdentity, SyncFailed
from kvstore.ids import NodeId
from kvstore.limits import STRANGERS_COUNT_MAX
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_NODE_ID, META_PEER_BOOT, BootCheck, PeerBoots, open_identity
from kvstore.storage.memory import MemoryDisk, MemoryEngine

PEER = NodeId(b"peer----")


async def test_the_node_id_stays_and_the_boot_number_rises() -> None:
    """Same node, next start, fresh nonce."""
    disk = MemoryDisk()
    first = await open_identity(MemoryEngine.open(disk), random.Random(1))
    disk.crash()
    second = await open_identity(MemoryEngine.open(disk), random.Random(2))

    assert len(first.node_id) == 8
    assert second.node_id == first.node_id
    assert (first.boot_number, second.boot_number) == (1, 2)
    assert first.boot_nonce != second.boot_nonce


async def test_a_boot_number_is_durable_before_anyone_sees_it() -> None:
    """Power loss right after `open_identity` returned cannot make the number come again."""
    disk = MemoryDisk()
    await open_identity(MemoryEngine.open(disk), random.Random(1))
    disk.crash(keep=lambda count: 0)

    assert (await open_identity(MemoryEngine.open(disk), random.Random(1))).boot_number == 2


async def test_no_identity_is_presented_if_the_sync_fails() -> None:
    """A start that cannot be made durable does not begin."""
    disk = MemoryDisk()
    disk.fail_sync_after(0)

    with pytest.raises(SyncFailed):
        await open_identity(MemoryEngine.open(disk), random.Random(1))


async def test_an_id_the_engine_minted_is_kept() -> None:
    """RocksDB writes the id into the IDENTITY file too, so it mints it itself."""
    engine = MemoryEngine.open(MemoryDisk())
    engine.apply([(Family.META, META_NODE_ID, b"12345678")])

    assert (await open_identity(engine, random.Random(1))).node_id == b"12345678"


async def test_an_impossible_stored_id_is_corruption() -> None:
    """Never present half an identity."""
    engine = MemoryEngine.open(MemoryDisk())
    engine.apply([(Family.META, META_NODE_ID, b"short")])

    with pytest.raises(Corruption):
        await open_identity(engine, random.Random(1))


def test_a_peer_start_is_new_once_and_then_the_same() -> None:
    """Many connections of one start are one start; the next start is new again."""
    boots = PeerBoots(MemoryEngine.open(MemoryDisk()))

    assert boots.check(PEER, 1, 77) is BootCheck.NEW
    assert boots.check(PEER, 1, 77) is BootCheck.SAME
    assert boots.check(PEER, 2, 5) is BootCheck.NEW
    assert boots.check(NodeId(b"other---"), 1, 77) is BootCheck.NEW


@pytest.mark.parametrize(("boot_number", "boot_nonce"), [(5, 78), (4, 77), (4, 78), (0, 0)])
def test_a_clone_or_a_rolled_back_node_is_refused(boot_number: int, boot_nonce: int) -> None:
    """The same number with another nonce is a clone; a lower one is a rollback. Nothing is changed by the attempt."""
    boots = PeerBoots(MemoryEngine.open(MemoryDisk()))
    boots.check(PEER, 5, 77)

    with pytest.raises(StaleIdentity):
        boots.check(PEER, boot_number, boot_nonce)

    assert boots.check(PEER, 5, 77) is BootCheck.SAME


async def test_a_node_restored_from_a_snapshot_is_refused_by_a_peer_that_saw_its_later_start() -> None:
    """A block-level rollback looks untouched from inside (no copy is reported): only the peer can tell."""
    peer = PeerBoots(MemoryEngine.open(MemoryDisk()))
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    await open_identity(engine, random.Random(1))
    await engine.close(clean=True)
    snapshot = disk.copy(is_block_level=True)
    later = await open_identity(MemoryEngine.open(disk), random.Random(2))
    peer.check(later.node_id, later.boot_number, later.boot_nonce)

    restored_engine = MemoryEngine.open(snapshot)
    restored = await open_identity(restored_engine, random.Random(3))

    assert not restored_engine.report.history_may_be_missing
    with pytest.raises(StaleIdentity):
        peer.check(restored.node_id, restored.boot_number, restored.boot_nonce)


async def test_peers_remember_across_restarts() -> None:
    """What was synced is remembered: a witness that forgets is none."""
    disk = MemoryDisk()
    engine = MemoryEngine.open(disk)
    boots = PeerBoots(engine)
    boots.members_are([PEER])
    boots.check(PEER, 5, 77)
    await engine.sync()
    disk.crash(keep=lambda count: 0)

    with pytest.raises(StaleIdentity):
        PeerBoots(MemoryEngine.open(disk)).check(PEER, 4, 1)


@pytest.mark.parametrize("seen_first", [True, False])
def test_only_a_members_start_is_noted_on_disk(seen_first: bool) -> None:
    """A stranger's is as soon as it is a member, whichever comes first; strangers that stay so are not."""
    engine = MemoryEngine.open(MemoryDisk())
    boots = PeerBoots(engine)
    boots.check(NodeId(b"stranger"), 1, 1)
    if seen_first:
        boots.check(PEER, 5, 77)
    boots.members_are([PEER])
    if not seen_first:
        boots.check(PEER, 5, 77)

    assert engine.get(Family.META, META_PEER_BOOT + PEER) == (5).to_bytes(8, "big") + (77).to_bytes(8, "big")
    assert engine.get(Family.META, META_PEER_BOOT + b"stranger") is None


def test_a_noted_node_is_noted_again_after_it_was_a_member() -> None:
    """A join that was given up: a row that is there already costs nothing more, and its number must not go back."""
    engine = MemoryEngine.open(MemoryDisk())
    boots = PeerBoots(engine)
    boots.members_are([PEER])
    boots.check(PEER, 5, 77)
    boots.members_are([])
    boots.check(PEER, 6, 78)

    with pytest.raises(StaleIdentity):
        PeerBoots(engine).check(PEER, 5, 77)


def test_of_too_many_strangers_the_newest_are_remembered() -> None:
    """One that is remembered cannot be cloned; of one that was pushed out nothing is known."""
    boots = PeerBoots(MemoryEngine.open(MemoryDisk()))
    for number in range(STRANGERS_COUNT_MAX + 1):
        boots.check(NodeId(number.to_bytes(8, "big")), 5, 77)

    assert boots.check(NodeId(bytes(8)), 4, 1) is BootCheck.NEW
    with pytest.raises(StaleIdentity):
        boots.check(NodeId(STRANGERS_COUNT_MAX.to_bytes(8, "big")), 4, 1)


def test_an_impossible_memory_of_a_peer_is_corruption() -> None:
    """Not "never seen", which would accept a clone."""
    engine = MemoryEngine.open(MemoryDisk())
    engine.apply([(Family.META, META_PEER_BOOT + PEER, b"?")])

    with pytest.raises(Corruption):
        PeerBoots(engine).check(PEER, 9, 9)
