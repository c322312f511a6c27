"""The simulated disk with every switch at rest keeps the contract of every engine: the same suite, on `SimDisk`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

import tests.contract.test_engine as suite
from jepsen_lite.sim.disk import SimDisk
from kvstore.errors import SyncFailed
from kvstore.storage.engine import Engine

globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})


class SimStore:
    """A `Store` of the suite."""

    def __init__(self, disk: SimDisk | None = None) -> None:
        self.disk = disk or SimDisk(rng=random.Random(5))
        self.engine: Engine

    def open(self, boot_id: str = "boot-1") -> Engine:
        self.engine = self.disk.open(boot_id=boot_id)
        return self.engine

    def synced(self) -> None:
        pass

    async def kill(self) -> None:
        self.disk.kill()

    async def lose_power(self, kept: float = 0.0) -> None:
        self.disk.crash(keep=lambda count: int(count * kept))

    async def rot(self) -> None:
        keys = self.disk.settled_keys() or [key for key, _ in self.engine.scan(suite.DATA, b"", b"\xff")]
        self.disk.corrupt(suite.DATA, keys[len(keys) // 2])
        await self.engine.close(clean=True)
        self.open()

    async def copy(self) -> SimStore:
        await self.engine.close(clean=True)
        made = SimDisk("copy")
        made.restore(self.disk.snapshot(), is_block_level=False)
        return SimStore(made)

    def snapshot(self) -> None:
        self.image = self.disk.snapshot()

    async def roll_back(self) -> None:
        self.disk.kill()
        self.disk.restore(self.image, is_block_level=True)

    async def lose_mark(self) -> None:
        self.disk.trouble.is_mark_lost = True
        self.disk.fail_next_sync()
        with pytest.raises(SyncFailed):
            await self.engine.sync()
        self.disk.kill()

    def lose_witness(self) -> None:
        self.disk.witness.is_missing = True


@pytest.fixture
async def store() -> AsyncIterator[SimStore]:
    made = SimStore()
    made.open()
    yield made
    await made.engine.close(clean=False)


class SimAgainstDictionary(suite.EngineAgainstDictionary):
    def make_store(self) -> suite.Store:
        return SimStore()


TestSimAgainstDictionary = SimAgainstDictionary.TestCase
TestSimAgainstDictionary.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
