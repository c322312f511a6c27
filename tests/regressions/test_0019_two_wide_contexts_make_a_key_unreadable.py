"""A user's acknowledged values could never be read again: invented contexts had made the key's vector too wide to decode.

A context is not signed, so a client may name 4,000 actors that never were. Each coordinator bounds what its own puts lead to, but
two coordinators that do not hear each other take two such puts, and the join of their vectors was refused by the decoder: every
owner stored a record that none could read. Limits bind client puts only, never replication (`correctness` rule 8): a stored
vector may now be as wide as the format's actor index allows. Found by the merge law of tests/fuzz at the limit of a vector.
"""

from __future__ import annotations

from kvstore.causality.context import encode_context
from kvstore.causality.version_vector import encode_vector
from kvstore.ids import ActorId
from kvstore.storage.keyspace import storage_key
from tests.support.cluster import Cluster, in_cluster, name_of_key


def invented_context(name: bytes, letter: bytes) -> bytes:
    """Return a context of 4,000 actors whose ids begin with `letter`."""
    actors = {ActorId(letter + number.to_bytes(19, "big")): 1 for number in range(4_000)}
    return encode_context(storage_key(name)[:8], 0, encode_vector(actors))


def test_values_put_with_two_wide_contexts_are_both_read() -> None:
    """Two nodes that cannot hear each other, a put through each; then they can, and a read joins them."""

    async def main(cluster: Cluster) -> None:
        name = name_of_key("k")
        clients = [cluster.client(index) for index in range(2)]
        await cluster.whole()
        cluster.network.cut("n0", "n1")
        for client, letter, value in zip(clients, (b"a", b"b"), (b"red", b"blue"), strict=True):
            await client.put(name, value, invented_context(name, letter), w=1, dw=1)
        cluster.network.heal("n0", "n1")
        await cluster.until(lambda: not any(node.peers.all()[0][1].is_up for node in map(cluster.node, range(2))))
        await cluster.whole()

        assert await clients[0].values(name, r=2) == [b"blue", b"red"]
        await cluster.until(lambda: all(len(cluster.held_values(index, name)) == 2 for index in range(2)))
        for client in clients:
            assert await client.values(name, r=2) == [b"blue", b"red"]

    in_cluster(main, nodes=2)
