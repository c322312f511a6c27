"""Coalescing: an idle link sends at once, a busy loop gathers, and nothing waits for long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from jepsen_lite.sim.loop import VirtualLoop
from kvstore.limits import FRAME_OPERATIONS_MAX, FRAME_SIZE_BYTES_MAX, FRAME_SIZE_BYTES_TARGET
from kvstore.transport.coalescer import COMPANY_S_MAX, HOLD_S_MAX, QUIET_CHECKS, Coalescer
from kvstore.transport.frames import decode_frame

TURN_S = 10e-6


class Sent:
    """Takes the place of a connection: remembers each frame, and when it came."""

    def __init__(self, *, company: int = 1) -> None:
        self.frames: list[list[Any]] = []
        self.times_s: list[float] = []
        self.epoch = 7
        self.unanswered = 0
        self.coalescer = Coalescer(
            self._send,
            lambda: [2, self.epoch],
            unanswered=(lambda: self.unanswered) if company > 1 else None,
            company=company,
        )

    def _send(self, frame: bytes) -> None:
        self.frames.append(decode_frame(frame))
        self.times_s.append(asyncio.get_running_loop().time())

    def add(self, number: int, body: bytes = b"") -> None:
        self.unanswered += 1
        self.coalescer.add((number, 0, body), len(body))

    def answer(self, count: int) -> None:
        self.unanswered -= count
        self.coalescer.poke()

    @property
    def numbers(self) -> list[list[int]]:
        """The operations of each frame."""
        return [frame[2::3] for frame in self.frames]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on virtual time, in which each callback costs TURN_S."""
    VirtualLoop(random.Random(1), charge_s=TURN_S).run(main(), until_s=60)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_idle_link_sends_after_three_quiet_turns_of_the_loop() -> None:
    """No timer: a single operation waits for three turns in which nothing else came."""

    async def main() -> None:
        sent = Sent()
        sent.add(1)
        await turns(QUIET_CHECKS - 1)
        assert sent.frames == []

        await turns(2)

        assert sent.numbers == [[1]]

    run(main)


def test_operations_of_one_turn_share_a_frame_in_order() -> None:
    """What one frame of requests caused goes out in one frame of replies."""

    async def main() -> None:
        sent = Sent()
        for number in range(100):
            sent.add(number)
        await turns(10)

        assert sent.numbers == [list(range(100))]
        assert (sent.coalescer.frames_sent, sent.coalescer.operations_sent) == (1, 100)

    run(main)


def test_a_busy_loop_gathers_until_it_falls_quiet() -> None:
    """Each check that finds something new starts over."""

    async def main() -> None:
        sent = Sent()
        for number in range(50):
            sent.add(number)
            await turns(2)
        assert sent.frames == []

        await turns(QUIET_CHECKS + 1)

        assert sent.numbers == [list(range(50))]

    run(main)


def test_a_loop_that_never_falls_quiet_sends_at_the_bound() -> None:
    """HOLD_S_MAX and a turn: a saturated node answers all the same."""

    async def main() -> None:
        sent = Sent()
        loop = asyncio.get_running_loop()
        added_s = []
        for number in range(2_000):
            added_s.append(loop.time())
            sent.add(number)
            await turns(1)
        await turns(10)

        assert [n for numbers in sent.numbers for n in numbers] == list(range(2_000))
        assert len(sent.frames) < 20
        for numbers, sent_s in zip(sent.numbers, sent.times_s, strict=True):
            assert sent_s - added_s[numbers[0]] <= HOLD_S_MAX + 10 * TURN_S

    run(main)


def test_a_full_frame_leaves_at_once() -> None:
    """By count, from inside `add`."""

    async def main() -> None:
        sent = Sent()
        for number in range(FRAME_OPERATIONS_MAX + 1):
            sent.add(number)
        assert sent.numbers == [list(range(FRAME_OPERATIONS_MAX))]

        await turns(10)

        assert sent.numbers[1:] == [[FRAME_OPERATIONS_MAX]]

    run(main)


def test_a_heavy_frame_leaves_at_once_and_fits_the_wire() -> None:
    """By size: the target plus one chunk stays below what a transport takes."""

    async def main() -> None:
        frames: list[bytes] = []
        coalescer = Coalescer(frames.append, lambda: [2, 1])
        coalescer.add((1, 0, bytes(FRAME_SIZE_BYTES_TARGET - 100)), FRAME_SIZE_BYTES_TARGET - 100)
        assert frames == []

        coalescer.add((2, 0, bytes(FRAME_SIZE_BYTES_TARGET)), FRAME_SIZE_BYTES_TARGET)

        assert len(frames) == 1
        assert len(frames[0]) <= FRAME_SIZE_BYTES_MAX

    run(main)


def test_many_empty_operations_fit_the_wire() -> None:
    """Their overhead counts: the largest numbers take nine bytes each."""

    async def main() -> None:
        frames: list[bytes] = []
        coalescer = Coalescer(frames.append, lambda: [1])
        operation = ((1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1, b"", b"")
        while not frames:
            coalescer.add(operation, 0)

        assert len(frames[0]) <= FRAME_SIZE_BYTES_TARGET + 100

    run(main)


def test_order_is_kept_across_frames_of_every_cause() -> None:
    """Quiet, bound, size and explicit flush: the operations leave as they came, each once."""

    async def main() -> None:
        rng, sent = random.Random(3), Sent()
        for number in range(3_000):
            sent.add(number, bytes(rng.choice([0, 10, 5_000])))
            if rng.random() < 0.3:
                await turns(rng.randrange(6))
            if rng.random() < 0.01:
                sent.coalescer.flush()
        await turns(10)

        assert [n for numbers in sent.numbers for n in numbers] == list(range(3_000))

    run(main)


def test_the_header_is_that_of_the_moment_of_sending() -> None:
    """Replies carry the newest topology epoch, not the one of when they were queued."""

    async def main() -> None:
        sent = Sent()
        sent.add(1)
        sent.epoch = 8
        await turns(10)

        assert [frame[1] for frame in sent.frames] == [8]

    run(main)


def test_flush_of_nothing_sends_nothing() -> None:
    """There is no empty frame."""

    async def main() -> None:
        sent = Sent()
        sent.coalescer.flush()
        sent.add(1)
        sent.coalescer.flush()
        await turns(10)

        assert sent.numbers == [[1]]

    run(main)


def test_an_operation_waits_for_company_while_much_is_under_way() -> None:
    """Nagle's rule with a share: one in three of what is unanswered makes a frame; the loop is not burnt meanwhile."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        sent = Sent(company=3)
        for number in range(6):
            sent.add(number)
        await turns(10)
        assert sent.numbers == [[0, 1, 2, 3, 4, 5]], "nothing was under way: no company is needed"

        sent.add(6)
        await turns(10)
        before = loop.callbacks_run
        await asyncio.sleep(COMPANY_S_MAX / 2)
        assert len(sent.frames) == 1 and loop.callbacks_run - before <= 3

        sent.add(7)
        sent.add(8)  # three of nine
        await turns(10)
        assert sent.numbers[1:] == [[6, 7, 8]]

    run(main)


def test_answers_lower_what_company_is_enough() -> None:
    """The wait ends with the frames that caused it, not with a timer."""

    async def main() -> None:
        sent = Sent(company=3)
        for number in range(6):
            sent.add(number)
        await turns(10)
        sent.add(6)
        await turns(10)
        assert len(sent.frames) == 1

        sent.answer(3)
        await turns(10)
        assert len(sent.frames) == 1, "one of four"
        sent.answer(1)
        await turns(10)
        assert sent.numbers[1:] == [[6]]

    run(main)


def test_nobody_waits_for_company_for_ever() -> None:
    """What is under way may be stuck; the time counts from when the frame could have gone."""

    async def main() -> None:
        sent = Sent(company=3)
        for number in range(6):
            sent.add(number)
        await turns(10)
        started_s = asyncio.get_running_loop().time()
        sent.add(6)
        await asyncio.sleep(COMPANY_S_MAX + 0.001)
        assert sent.numbers[1:] == [[6]] and sent.times_s[1] - started_s <= COMPANY_S_MAX + 10 * TURN_S

        sent.add(7)
        sent.coalescer.flush()
        await asyncio.sleep(2 * COMPANY_S_MAX)
        assert sent.numbers[2:] == [[7]], "a flush ends the wait, and the timer sends nothing twice"

    run(main)
