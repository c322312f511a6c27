"""Laws of the simulated network that hold under every schedule of faults, found by Hypothesis.

prefix   what a direction received, copies taken out, is a prefix of what was sent into it
end      `connection_closed` comes at most once per end, and no frame after it (the recorder fails)
healing  once the network is calm, a connection soon is closed at both ends, or carries frames both ways
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_lite.sim.loop import VirtualLoop
from jepsen_lite.sim.net_swarm import NetworkSwarm
from jepsen_lite.sim.network import SimNetwork
from kvstore.errors import Unavailable
from kvstore.messages import Verb
from kvstore.transport.frames import FrameKind, encode_frame
from tests.support.transports import Recorder, Side

HOSTS = ("a", "b")
COMMANDS = (
    "send a", "send b", "send a", "send b", "large", "connect", "close", "abort", "cut a", "cut b", "heal", "clog", "clog for",
    "unclog", "reset", "crash", "crash silent", "serve", "lossy", "slow", "hole", "double", "late", "fast", "wait", "wait long",
)  # fmt: skip
commands = st.lists(st.tuples(st.sampled_from(COMMANDS), st.floats(0.0, 0.5)), max_size=60)


class Run:
    """Two hosts; `a` connects to `b`. Every frame is a request with a number of its own."""

    def __init__(self, seed: int) -> None:
        self.network = SimNetwork(random.Random(seed), NetworkSwarm.draw(random.Random(seed)))
        self.starts, self.ends = Side(), Side()
        self.sent: dict[Recorder, list[bytes]] = {}
        self.number = 0

    async def main(self, script: list[tuple[str, float]]) -> None:
        await self.serve()
        for command, pause_s in script:
            await self.apply(command)
            await asyncio.sleep(pause_s)
        self.network.calm()
        await self.serve()
        await asyncio.sleep(100)
        self.check()

    async def serve(self) -> None:
        self.network.revive("b")
        if not any(address == "b:1" for address in self.network._listeners):
            await self.network.transport("b").serve("b:1", self.ends)

    async def connect(self) -> None:
        try:
            await self.network.transport("a").connect("b:1", self.starts, timeout_s=1.0)
        except Unavailable:
            return

    def send(self, side: Side, body: bytes = b"") -> None:
        if side.recorders:
            recorder = side.recorders[-1]
            self.number += 1
            frame = encode_frame([FrameKind.REQUESTS, 0, self.number, int(Verb.PUT), 0, 0, b"key", body])
            self.sent.setdefault(recorder, []).append(frame)
            recorder.connection.send(frame)

    def change(self, **changes: float | int) -> None:
        for source, target in (HOSTS, HOSTS[::-1]):
            wire = self.network.wire(source, target)
            self.network.change(source, target, replace(wire.conditions, **changes))  # type: ignore[arg-type]

    async def apply(self, command: str) -> None:
        network = self.network
        match command.split():
            case ["send", host]:
                for _ in range(3):
                    self.send(self.starts if host == "a" else self.ends)
            case ["large"]:
                self.send(self.starts, bytes(5_000))
            case ["connect"]:
                await self.connect()
            case ["close"] if self.starts.recorders:
                self.starts.recorders[-1].connection.close()
            case ["abort"] if self.ends.recorders:
                self.ends.recorders[-1].connection.close(ValueError("enough"))
            case ["cut", host]:
                network.cut_one_way(host, "b" if host == "a" else "a")
            case ["heal"]:
                network.heal_all()
            case ["clog", *for_s]:
                network.clog_links([HOSTS, HOSTS[::-1]], 0.7 if for_s else None)
            case ["unclog"]:
                network.unclog_links([HOSTS, HOSTS[::-1]])
            case ["reset"]:
                network.reset(*HOSTS)
            case ["crash", *silent]:
                network.crash("b", silent=bool(silent))
            case ["serve"]:
                await self.serve()
            case ["lossy"]:
                self.change(loss_good=0.3)
            case ["slow"]:
                self.change(bandwidth_bytes_per_s=2_000)
            case ["hole"]:
                self.change(frame_bytes_max=1_400)
            case ["double"]:
                self.change(duplicate_share=0.7)
            case ["late"]:
                self.change(late_share=0.3, late_s_max=3.0, straggle_share=1.0)
            case ["fast"]:
                self.change(late_share=0.0, delay_s_min=0.000_1, jitter_s_mean=0.0)
            case ["wait", *long]:
                await asyncio.sleep(30 if long else 1)

    def check(self) -> None:
        by_number = {end.connection.number: end for end in self.ends.recorders}  # type: ignore[attr-defined]
        for start in self.starts.recorders:
            end = by_number.get(start.connection.number)  # type: ignore[attr-defined]
            if end is not None:
                self.check_direction(self.sent.get(start, []), end.frames)
                self.check_direction(self.sent.get(end, []), start.frames)
        for recorder in self.starts.recorders + self.ends.recorders:
            assert len(recorder.closings) <= 1

    @staticmethod
    def check_direction(sent: list[bytes], received: list[bytes]) -> None:
        once = list(dict.fromkeys(received))
        assert once == sent[: len(once)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1_000), commands)
def test_what_arrives_is_a_prefix_of_what_was_sent_under_every_schedule(
    seed: int, script: list[tuple[str, float]]
) -> None:
    """Cuts, clogs, loss, delay, resets, crashes and copies, in any order: no gap, no swap, nothing after the end."""
    run = Run(seed)
    loop = VirtualLoop(random.Random(seed), charge_s=1e-6)
    loop.run(run.main([("connect", 0.0), *script]), until_s=100_000)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1_000), commands)
def test_after_the_network_is_calm_a_connection_is_dead_or_works(seed: int, script: list[tuple[str, float]]) -> None:
    """No connection stays open at one end only, or silent for ever: 100 s later each pair is open at both ends or none."""
    run = Run(seed)

    async def main() -> None:
        await run.main([("connect", 0.0), *script])
        opened = {end.connection.number: end for end in run.ends.recorders}  # type: ignore[attr-defined]
        for start in run.starts.recorders:
            end = opened.get(start.connection.number)  # type: ignore[attr-defined]
            ours, theirs = start.connection.is_closed, end is None or end.connection.is_closed  # type: ignore[attr-defined]
            assert ours == theirs
            if end is not None and not ours:
                start.connection.send(b"there")
                end.connection.send(b"back")
                await asyncio.sleep(10)
                assert (end.frames[-1], start.frames[-1]) == (b"there", b"back")
        assert run.network._flushing == {}

    VirtualLoop(random.Random(seed), charge_s=1e-6).run(main(), until_s=100_000)
