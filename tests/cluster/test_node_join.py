"""Membership: growing, refusals, a join that is interrupted anywhere, clones and rollbacks, buckets."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.errors import ClusterMismatch, JoinRefused, KVStoreError, NoSuchBucket, StaleIdentity
from tests.support.cluster import Cluster, Host, in_cluster, name_of_key

NAMES = [name_of_key(f"key {number}") for number in range(40)]


async def fill(cluster: Cluster, index: int = 0, *, size_bytes: int = 3) -> None:
    """Write every name through one node, acknowledged by all owners."""
    client = cluster.client(index)
    await client.link.wait_up(5)
    for number, name in enumerate(NAMES):
        await client.put(name, b"%03d" % number + bytes(size_bytes - 3))


async def check_everywhere(cluster: Cluster) -> None:
    """Every record is held by each of its owners, not only readable."""
    for number, name in enumerate(NAMES):
        owners = cluster.owners(name)
        assert len(owners) == min(3, sum(host.node is not None for host in cluster.hosts))
        for index in owners:
            held = cluster.held_values(index, name)
            assert [value[:3] for value in held if value is not None] == [b"%03d" % number], f"{number} on n{index}"


def test_a_cluster_grows_from_one_to_four_and_keeps_every_record_on_every_owner() -> None:
    """Data written by one node is complete on all owners after each join; what is not owned any more is dropped."""

    async def main(cluster: Cluster) -> None:
        await cluster.start(cluster.hosts[0])
        await fill(cluster)
        for index in (1, 2, 3):
            await cluster.start(cluster.hosts[index])
            await cluster.until(lambda: all(h.node.placement.is_settled for h in cluster.hosts if h.node is not None))
            await check_everywhere(cluster)
            for number, name in enumerate(NAMES[:10]):
                assert await cluster.client(index).values(name, r=1) == [b"%03d" % number]
        await cluster.until(lambda: len({cluster.node(i).placement.epoch for i in range(4)}) == 1)
        held = sum(cluster.node(i).store.engine.keys_estimate() for i in range(4))
        assert held == 3 * len(NAMES)

    in_cluster(main, nodes=4, is_started=False)


def test_actor_epochs_of_lost_partitions_end() -> None:
    """Rule 1: when ownership ends the next dot there would be of a new epoch."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        cluster.add_host()
        await cluster.start(cluster.hosts[3])
        await cluster.until(lambda: cluster.node(0).placement.is_settled)
        for index in range(3):
            for slot in cluster.node(index).placement.slots():
                if not slot.is_owner:
                    assert cluster.node(index).actors.maybe_current(slot.partition) is None

    in_cluster(main)


def test_a_join_moves_records_larger_than_a_link_may_queue() -> None:
    """40 records of 500 KB: the transfer waits for its receivers instead of failing."""

    async def main(cluster: Cluster) -> None:
        await cluster.start(cluster.hosts[0])
        await fill(cluster, size_bytes=500_000)
        await cluster.start(cluster.hosts[1])
        await check_everywhere(cluster)

    in_cluster(main, nodes=2, is_started=False)


def test_a_join_is_refused_while_a_member_is_down() -> None:
    """Everybody has to adopt the new placement first."""

    async def main(cluster: Cluster) -> None:
        await cluster.kill(2)
        cluster.add_host()
        with pytest.raises(JoinRefused, match="must be reachable"):
            await cluster.start(cluster.hosts[3])
        await cluster.client(0).put(NAMES[0], b"v")

    in_cluster(main)


def joining(cluster: Cluster, host: Host) -> asyncio.Task[object]:
    """Start a joiner in the background."""
    task: asyncio.Task[object] = asyncio.ensure_future(cluster.start(host))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def begun(cluster: Cluster) -> None:
    """Wait until the founder has begun a transfer and the joiner adopted it."""

    def is_transferring() -> bool:
        topology = cluster.node(0).placement.topology
        return topology is not None and topology.move is not None

    await cluster.until(is_transferring)


@pytest.mark.parametrize("after_s", [0.0, 0.004, 0.008, 0.012, 0.016, 0.024])
def test_a_joiner_that_dies_while_it_copies_is_cancelled_and_may_join_again(after_s: float) -> None:
    """After join_timeout_s; meanwhile and afterwards the old owners serve, nothing is lost, and the same node can retry."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        cluster.add_host()
        task = joining(cluster, cluster.hosts[3])
        await begun(cluster)
        await asyncio.sleep(after_s)
        await cluster.kill(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.until(lambda: all(cluster.node(i).placement.is_settled for i in range(3)), timeout_s=60)
        for number, name in enumerate(NAMES):
            assert await cluster.client(number % 3).values(name) == [b"%03d" % number]
        await cluster.start(cluster.hosts[3], join=("n0:7400",))
        await cluster.until(lambda: all(cluster.node(i).placement.is_settled for i in range(4)))
        await check_everywhere(cluster)

    in_cluster(main)


@pytest.mark.parametrize("is_power_loss", [False, True])
@pytest.mark.parametrize("after_s", [0.0, 0.004, 0.008, 0.012, 0.016, 0.024])
def test_a_founder_that_crashes_mid_transfer_resumes(after_s: float, is_power_loss: bool) -> None:
    """The joiner tells again how far it is, until the founder is back and hears it."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        cluster.add_host()
        joining(cluster, cluster.hosts[3])
        await begun(cluster)
        await asyncio.sleep(after_s)
        await (cluster.power_loss(0) if is_power_loss else cluster.kill(0))
        await asyncio.sleep(1)
        await cluster.restart(0)
        if cluster.hosts[3].node is None:
            await cluster.start(cluster.hosts[3], join=("n1:7400",))
        await cluster.until(lambda: all(cluster.node(i).placement.is_settled for i in range(4)))
        await check_everywhere(cluster)

    in_cluster(main)


def test_a_joiner_restarted_after_the_founder_finished_keeps_its_data() -> None:
    """It never saw the end of its join, asks again, and learns that it is a member: it must not begin empty."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        cluster.add_host()
        task = joining(cluster, cluster.hosts[3])

        def is_finished() -> bool:
            topology = cluster.node(0).placement.topology
            return topology is not None and topology.move is None and len(topology.members) == 4

        await begun(cluster)
        await cluster.until(is_finished, every_s=0.0005)
        await cluster.kill(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not cluster.hosts[3].node
        await cluster.start(cluster.hosts[3], join=("n0:7400",))
        await cluster.until(lambda: all(cluster.node(i).placement.is_settled for i in range(4)))
        await check_everywhere(cluster)

    in_cluster(main)


def test_a_silent_joiner_is_cancelled() -> None:
    """Cut off, not dead: nobody tells, the silence does. Meanwhile clients are served."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        cluster.add_host()
        task = joining(cluster, cluster.hosts[3])
        await begun(cluster)
        cluster.cut_off(3)
        assert await cluster.client(0).values(NAMES[0]) == [b"000"]
        await cluster.client(0).put(NAMES[0], b"x")
        await cluster.until(lambda: all(cluster.node(i).placement.is_settled for i in range(3)), timeout_s=60)
        assert await cluster.client(0).values(NAMES[0]) == [b"000", b"x"]
        await cluster.kill(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_cluster(main)


def test_join_again_on_a_member_is_a_no_op() -> None:
    """`--join` stays in a unit file for ever."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        epoch = cluster.node(0).placement.epoch
        await cluster.stop(2)
        await cluster.start(cluster.hosts[2], join=("n0:7400",))
        assert cluster.node(2).placement.epoch == epoch
        await check_everywhere(cluster)
        await cluster.stop(2)
        await cluster.start(cluster.hosts[2], join=("n9:7400",))
        assert cluster.node(2).placement.epoch == epoch

    in_cluster(main)


def test_a_member_that_moved_to_another_address_is_found_there() -> None:
    """Its data comes with it."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        await cluster.stop(2)
        await cluster.start(cluster.hosts[2], listen="n2:7500")
        await cluster.until(lambda: cluster.node(0).placement.slots()[0].reachable() == 3)
        topology = cluster.node(1).placement.topology
        assert topology is not None
        assert "n2:7500" in [member.address for member in topology.members]

    in_cluster(main)


def test_a_node_of_another_cluster_is_refused() -> None:
    """Two clusters never mix."""

    async def main(cluster: Cluster) -> None:
        await cluster.start(cluster.hosts[0])
        await cluster.start(cluster.hosts[1], join=())
        await cluster.stop(1)
        with pytest.raises(ClusterMismatch):
            await cluster.start(cluster.hosts[1], join=("n0:7400",))
        assert len(cluster.node(0).placement.topology.members) == 1  # type: ignore[union-attr]

    in_cluster(main, nodes=2, is_started=False)


def test_a_clone_started_beside_the_original_takes_part_in_nothing() -> None:
    """Its links are refused and the original is unharmed."""

    async def main(cluster: Cluster) -> None:
        await fill(cluster)
        clone = cluster.add_host()
        clone.disk = cluster.hosts[2].disk.copy()
        clone.starts = 1
        try:
            await cluster.start(clone)
        except KVStoreError:
            clone.node = None
        if clone.node is not None:
            assert not any(link.is_up for _, link in clone.node.peers.all())
            with pytest.raises(KVStoreError):
                await cluster.client(3).put(NAMES[0], b"by the clone", timeout_s=1)
        assert (await cluster.client(2).put(NAMES[0], b"by the original", w=3)).acked == 3
        assert cluster.node(0).placement.slots()[0].reachable() == 3

    in_cluster(main)


@pytest.mark.parametrize("join", [(), ("n0:7400",)])
def test_a_rolled_back_node_is_refused_for_good(join: tuple[str, ...]) -> None:
    """Its boot number was seen already (a restored snapshot): fatal, and it acknowledges nothing."""

    async def main(cluster: Cluster) -> None:
        cluster.expects_death = True
        await fill(cluster)
        snapshot = cluster.hosts[2].disk.copy(is_block_level=True)
        for _ in range(2):
            await cluster.kill(2)
            await cluster.restart(2)
        await cluster.kill(2)
        cluster.hosts[2].disk = snapshot
        with pytest.raises(StaleIdentity):
            await cluster.start(cluster.hosts[2], join=join)
        assert cluster.hosts[2].node is None
        assert await cluster.client(0).values(NAMES[0]) == [b"000"]

    in_cluster(main)


def test_a_bucket_is_made_through_any_node_and_survives_restarts() -> None:
    """Also the restart of everybody at once."""
    name = name_of_key("k", bucket="users")

    async def main(cluster: Cluster) -> None:
        await cluster.client(2).create_bucket("users", r=1)
        await cluster.client(1).put(name, b"v", w=3)
        await cluster.power_loss(0, 1, 2)
        for index in range(3):
            await cluster.restart(index)
        assert (await cluster.client(0).get(name)).replied == 1
        assert await cluster.client(0).create_bucket("users", r=1) == cluster.node(0).placement.epoch

    in_cluster(main)


def test_a_bucket_reaches_a_node_that_was_down() -> None:
    """It meets the others before it serves."""

    async def main(cluster: Cluster) -> None:
        await cluster.kill(2)
        await cluster.client(1).create_bucket("users")
        await cluster.restart(2)
        await cluster.client(2).put(name_of_key("k", bucket="users"), b"v", w=3)

    in_cluster(main)


def test_a_bucket_reaches_a_node_that_was_cut_off() -> None:
    """The epoch rides on heartbeats, so nobody stays behind for long."""

    async def main(cluster: Cluster) -> None:
        cluster.cut_off(2)
        await cluster.client(1).create_bucket("users")
        with pytest.raises(NoSuchBucket):
            await cluster.client(2).get(name_of_key("k", bucket="users"))
        cluster.network.heal_all()
        await cluster.until(lambda: cluster.node(2).placement.epoch == cluster.node(0).placement.epoch)

    in_cluster(main)


def test_catching_up_is_tried_again_when_it_fails() -> None:
    """A link tells of a newer epoch once; a lost answer must not leave the node behind for good."""

    async def main(cluster: Cluster) -> None:
        cluster.delays[("n0", "n2")] = cluster.delays[("n1", "n2")] = 1.5
        await cluster.client(1).create_bucket("users")
        await asyncio.sleep(5)
        cluster.delays.clear()
        await cluster.until(lambda: cluster.node(2).placement.epoch == cluster.node(0).placement.epoch)

    in_cluster(main)
