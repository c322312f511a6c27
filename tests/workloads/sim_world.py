"""The simulated cluster as recorders and judges want it: a thin face on `jepsen_lite.sim.world`, and one whole run of it.

run_real(seed, "mix")    start 3 nodes ─► clients and power losses ─► all back ─► final reads ─► Evidence
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from jepsen_lite.checkers.dots import DotWitness
from jepsen_lite.history import History
from jepsen_lite.judges import Evidence
from jepsen_lite.recorder import Board
from jepsen_lite.sim.atlas import FaultAtlas
from jepsen_lite.sim.faults import Faults
from jepsen_lite.sim.world import World, WorldOptions
from jepsen_lite.workloads.catalogue import draw, open_reader, open_recorder, work
from jepsen_lite.workloads.finals import final_reads
from kvstore.client.client import AsyncClient
from kvstore.storage.engine import Family

__all__ = ["SimWorld", "run_real"]

CLIENTS = 6
UNTIL_S = 400.0


class _Witness:
    """Feeds the checkers' witness from where the world feeds its own."""

    def __init__(self) -> None:
        self.inner = DotWitness()

    def see(self, node: str, key: bytes, record: bytes) -> None:
        self.inner.see_record(node, key, record)


class SimWorld:
    """One world, with what recorders and judges ask of it: clients, states and owners (here every node owns all)."""

    def __init__(self, seed: int, options: WorldOptions) -> None:
        self.inner = World(seed, options=options)
        shim = _Witness()
        self.inner.witness = shim  # type: ignore[assignment]  # it is only asked to `see`
        self.witness = shim.inner
        self.loop, self.trace, self.rng = self.inner.loop, self.inner.trace, self.inner.rng
        self.atlas = FaultAtlas([host.name for host in self.inner.hosts])
        self.swarm = SimpleNamespace(network=SimpleNamespace(doubles_requests=False))

    def open_client(self, name: str, **options: Any) -> AsyncClient:
        """Return a client on a machine of its own."""
        world = self.inner
        return AsyncClient(
            [host.address for host in world.hosts], transport=world.network.transport(name), clock=world.clock(name),
            rng=world.rng(f"client {name}"), **options,
        )  # fmt: skip

    async def close_client(self, client: AsyncClient) -> None:
        """Disconnect it."""
        await client.close()

    def owners(self, storage_key: bytes) -> list[str]:
        """Return who keeps the object: three nodes, three copies."""
        return [host.name for host in self.inner.hosts]

    def states(self, storage_key: bytes) -> dict[str, bytes]:
        """Return the newest record of each owner."""
        return {
            host.name: (host.engine.get(Family.DATA, storage_key) if host.engine else None) or b""
            for host in self.inner.hosts
        }  # fmt: skip


def run_real(
    seed: int, workload_name: str = "mix", *, duration_s: float = 8.0, options: WorldOptions | None = None
) -> Evidence:
    """Run one seed of the product under crashes and power losses; return everything that judges need."""
    world = SimWorld(seed, options or WorldOptions())
    return world.inner.run(_main(world, workload_name, duration_s), until_s=UNTIL_S)


async def _main(world: SimWorld, workload_name: str, duration_s: float) -> Evidence:
    history, board = History(), Board()
    await world.inner.start_all()
    workload = draw(workload_name, world.rng("workload"))
    ends_s = world.loop.time() + duration_s
    recorders = [open_recorder(world, history, board, f"c{number}", workload) for number in range(CLIENTS)]
    tasks = [
        world.loop.create_task(work(workload, recorder, world.rng(f"steps {recorder.name}"), ends_s))
        for recorder in recorders
    ]
    tasks.append(world.loop.create_task(Faults(world.inner).run([recorder.name for recorder in recorders], ends_s)))
    for task in tasks:
        await task
    for recorder in recorders:
        await recorder.close()
    reader = open_reader(world, history, board)
    finals = await final_reads(world, reader, list(board.touched), settle_s=2.0)
    await reader.close()
    clocks = [host.clock for host in world.inner.hosts]
    await world.inner.stop_all()
    return Evidence(history=history, witness=world.witness, finals=finals, board=board, clocks=clocks)
