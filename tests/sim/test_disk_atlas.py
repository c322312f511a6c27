"""The fault budget, and the nemesis that asks it: no key loses more than a write acknowledged with dw copies may lose."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise

import pytest

from jepsen_lite.sim.atlas import FaultAtlas
from jepsen_lite.sim.disk import SimDisk
from jepsen_lite.sim.disk_faults import HARMING, DiskFault, DiskNemesis, DiskSwarm
from jepsen_lite.sim.fault_log import FaultLog
from kvstore.causality.actor import make_actor
from kvstore.causality.dvvset import EMPTY, Sibling, update
from kvstore.causality.version_vector import VersionVector
from kvstore.ids import ActorId, HlcTimestamp, NodeId, ObjectType, OperationId, PartitionId, StorageKey
from kvstore.storage.engine import Family
from kvstore.storage.identity import META_NODE_ID
from kvstore.storage.keyspace import object_name, storage_key
from kvstore.storage.record import check_record, encode_record

K, HOSTS = b"tokentok-key", ["n0", "n1", "n2"]
X, Y = ActorId(b"x" * 20), ActorId(b"y" * 20)


class Copies:
    """What each host holds durably; None is unreadable."""

    def __init__(self, **held: VersionVector | None) -> None:
        self.held = held

    def look(self, host: str, key: bytes) -> VersionVector | None:
        return self.held[host]


def test_one_copy_of_three_may_be_damaged_and_the_next_only_after_it_healed() -> None:
    """With dw 2; healed means that the damaged host durably covers all that was durable anywhere at the damage."""
    copies = Copies(n0={X: 2}, n1={X: 2}, n2={X: 1})
    atlas = FaultAtlas(HOSTS, dw=2)

    assert atlas.decide("rot", "n0", [K], copies.look).is_allowed
    copies.held["n0"] = None
    assert atlas.decide("rot", "n1", [K], copies.look).refusal == "another copy is not healed yet"
    assert atlas.decide("rot", "n0", [K], copies.look).refusal == "this copy is damaged already"
    copies.held["n0"] = {X: 1}
    assert atlas.observe(copies.look) == [], "an older state is no healing"
    copies.held["n0"] = {X: 2, Y: 1}
    assert atlas.observe(copies.look) == [("n0", K)] and atlas.damaged == {}
    assert atlas.decide("rot", "n1", [K], copies.look).is_allowed


def test_the_smallest_dw_of_a_key_counts() -> None:
    """A write acknowledged with dw=1 promises nothing under disk loss, so its key is spared; dw=3 allows two."""
    copies = Copies(n0={X: 1}, n1={X: 1}, n2={X: 1})
    careless, careful = FaultAtlas(HOSTS, dw=2), FaultAtlas(HOSTS, dw=3)
    careless.acknowledged(K, 1)
    careless.acknowledged(K, 3)

    assert careless.decide("rot", "n0", [K], copies.look).refusal == "acknowledged with dw=1"
    assert [careful.decide("rot", host, [K], copies.look).is_allowed for host in HOSTS] == [True, True, False]


def test_the_only_durable_copy_of_anything_is_spared() -> None:
    """Also of what is not acknowledged yet: a read may have shown it."""
    copies = Copies(n0={X: 2}, n1={X: 1, Y: 1}, n2=None)
    atlas = FaultAtlas(HOSTS)

    assert atlas.decide("rot", "n0", [K], copies.look).refusal == "it is the only durable copy of something"
    assert atlas.decide("rot", "n2", [K], copies.look).is_allowed, "what is unreadable already has nothing to lose"


def test_a_fault_on_many_keys_is_allowed_for_all_or_none_and_every_decision_is_kept() -> None:
    """A lost disk costs all of its copies at once; a host that is given up is forgotten."""
    other = b"tokentok-oth"
    copies = Copies(n0={X: 1}, n1={X: 1}, n2={X: 1})
    atlas = FaultAtlas(HOSTS)
    atlas.decide("rot", "n1", [other], copies.look)

    assert not atlas.decide("lost_disk", "n0", [K, other], copies.look).is_allowed
    assert (atlas.budget(K), atlas.budget(other)) == (1, 0)
    atlas.forget_host("n1")
    assert atlas.decide("lost_disk", "n0", [K, other], copies.look).is_allowed
    assert [decision.is_allowed for decision in atlas.decisions] == [True, False, True]
    assert str(atlas.decisions[1]).startswith("lost_disk on n0, 2 keys")


# ----------------------------------------------------------------------------------------------------------------- the nemesis


def disks_with_records(seed: int, *, keys: int = 12, minted_by: bytes = b"elsewher") -> dict[str, SimDisk]:
    """Return three disks that hold the same two durable versions of every key."""
    actor = make_actor(NodeId(minted_by), PartitionId(0), random.Random(1))
    disks = {name: SimDisk(name, random.Random(f"{seed} {name}")) for name in HOSTS}
    for number, disk in enumerate(disks.values()):
        engine = disk.open()
        engine.apply([(Family.META, META_NODE_ID, b"node000%d" % number)])
        for key in map(key_of, range(keys)):
            made = EMPTY
            for counter in (1, 2):
                operation = OperationId(b"%d" % counter * 16)
                new = Sibling(actor, counter, HlcTimestamp(counter), HlcTimestamp(0), operation, b"%d" % counter)
                made = update(made, made.vector, new, b"8 bytes.")
                engine.apply([(Family.DATA, key, encode_record(key, made))])
        disk.kill()
        disk.open()
    return disks


def key_of(number: int) -> StorageKey:
    return storage_key(object_name("default", ObjectType.REGISTER, b"k%d" % number))


def nemesis_of(disks: dict[str, SimDisk], swarm: DiskSwarm, seed: int = 1) -> tuple[DiskNemesis, FaultAtlas, FaultLog]:
    atlas, log = FaultAtlas(disks), FaultLog(DiskFault)
    return DiskNemesis(disks, swarm=swarm, rng=random.Random(seed), atlas=atlas, log=log), atlas, log


def newest_copies(disks: dict[str, SimDisk], key: bytes) -> int:
    versions = [disk.durable_versions(key)[-1] for disk in disks.values()]
    found = [disk.peek_durable(key) or b"" for disk in disks.values()]
    return sum(record == versions[0] and check_record(StorageKey(key), record) for record in found)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_nemesis_does_two_good_copies_of_every_key_stay(seed: int) -> None:
    """Nobody repairs here, so it runs out of victims: at most one copy of each key is ever damaged."""
    disks = disks_with_records(seed)
    nemesis, atlas, log = nemesis_of(
        disks, DiskSwarm(pause_s=1.0, weights=tuple((kind, 1.0) for kind in HARMING)), seed
    )

    for _ in range(60):
        nemesis.step()

    assert all(newest_copies(disks, key_of(number)) >= 2 for number in range(12))
    assert sum(newest_copies(disks, key_of(number)) == 2 for number in range(12)) >= 8
    assert log.counts[DiskFault.REFUSED] > 0 and sum(log.counts[kind] > 0 for kind in HARMING) >= 3
    assert sum(1 for decision in atlas.decisions if decision.is_allowed) == sum(log.counts[kind] for kind in HARMING)


def test_no_lost_write_takes_back_a_dot_of_the_node_that_minted_it() -> None:
    """No checksum can show it, and the node would mint that dot again: n1 is spared, the others are not."""
    disks = disks_with_records(1, keys=4, minted_by=b"node0001")
    nemesis, _, _ = nemesis_of(disks, DiskSwarm.calm())

    assert [nemesis.lose_write(disk) for disk in disks.values()] == [True, False, True]


def test_a_disk_that_will_never_be_served_again_counts_as_damaged_for_good() -> None:
    """A failed sync costs the host: after it no other host may be hurt, whatever is still written on that disk."""
    disks = disks_with_records(1)
    nemesis, atlas, _ = nemesis_of(disks, DiskSwarm.calm())

    assert nemesis.fail_sync(disks["n0"])
    atlas.observe(nemesis.look)

    assert not nemesis.flip_bits(disks["n1"]) and not nemesis.fail_write(disks["n2"])
    assert not nemesis.flip_bits(disks["n0"]), "it is doomed already"


def test_only_one_host_is_lost_for_good_even_while_nothing_is_written() -> None:
    """With two of three owners gone there is no quorum for what will be written, so nothing could be promised of it."""
    disks = {name: SimDisk(name, random.Random(1), now=lambda: 0.0) for name in ("n0", "n1", "n2")}
    nemesis, _, _ = nemesis_of(disks, DiskSwarm.calm())

    assert nemesis.fail_sync(disks["n0"])
    assert (
        not nemesis.fail_write(disks["n1"])
        and not nemesis.fail_sync(disks["n1"])
        and not nemesis.lose_disk(disks["n2"])
    )


def test_a_lost_disk_counts_until_its_host_is_given_up() -> None:
    """Empty is not healed."""
    disks = disks_with_records(1)
    nemesis, atlas, _ = nemesis_of(disks, DiskSwarm.calm())
    disks["n2"].kill()

    assert nemesis.lose_disk(disks["n2"]) and disks["n2"].records() == {}
    atlas.observe(nemesis.look)
    assert not nemesis.swap(disks["n0"])
    atlas.forget_host("n2")
    assert nemesis.swap(disks["n0"])


def test_calm_does_nothing_and_swarms_differ() -> None:
    """Each fault is absent in about half of the seeds; faults that cost a node are drawn only on request."""
    disks = disks_with_records(1)
    nemesis, _, log = nemesis_of(disks, DiskSwarm.calm())
    drawn = [DiskSwarm.draw(random.Random(seed), is_ending=True) for seed in range(40)]

    assert nemesis.step() is None and nemesis.next_pause_s() == float("inf") and log.line() == "no faults"
    for kind in (*HARMING, DiskFault.SYNC_FAILURE, DiskFault.SLOW):
        assert 8 <= sum(dict(swarm.weights)[kind] == 0 for swarm in drawn) <= 32
    assert DiskFault.SYNC_FAILURE not in dict(DiskSwarm.draw(random.Random(1)).weights)
    assert len({swarm.line() for swarm in drawn}) == 40 and "\n" not in drawn[0].line()
    assert all(a.line() != b.line() for a, b in pairwise(drawn))


CHILD = """
import sys, random
from tests.sim.test_disk_atlas import *
for seed in range(6):
    disks, seen = disks_with_records(seed), []
    log = FaultLog(DiskFault, lambda *fields: seen.append(fields))
    swarm = DiskSwarm.draw(random.Random(seed), is_ending=True)
    nemesis = DiskNemesis(disks, swarm=swarm, rng=random.Random(seed), atlas=FaultAtlas(disks), log=log)
    for _ in range(40):
        nemesis.step()
    print(swarm.line(), seen, log.line(), [disk.durable_records() for disk in disks.values()])
"""


def test_what_a_seed_does_is_the_same_in_another_process_with_other_hashes() -> None:
    """Down to every byte on every disk."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", CHILD], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for seed in ("1", "4242")
    }  # fmt: skip

    assert len(outputs) == 1 and len(outputs.pop()) > 10_000
