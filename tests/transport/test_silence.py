"""When a silent peer is asked for a sign of life, and how its silence counts."""

from __future__ import annotations

import pytest

from kvstore.transport.silence import Silence


@pytest.mark.parametrize(
    ("idle_beats", "beats", "expected"),
    [
        (1, [(False, False)] * 3, [1, 2, 3]),
        (4, [(False, False)] * 6, [0, 0, 0, 1, 2, 3]),
        (4, [(False, True)] * 3, [1, 2, 3]),
        (4, [(False, False), (False, True), (False, True)], [0, 1, 2]),
        (4, [(False, True), (True, True), (False, False)], [1, 0, 0]),
        (2, [(False, False), (True, False), (False, False), (False, False)], [0, 0, 0, 1]),
    ],
    ids=["a node", "idle", "owes", "begins to owe", "heard", "heard while idle"],
)
def test_silence_counts_for_who_owes_an_answer_and_else_only_after_a_while(
    idle_beats: int, beats: list[tuple[bool, bool]], expected: list[int]
) -> None:
    """Each beat: (heard, owes); whoever is at 1 or more is asked."""
    silence = Silence(idle_beats)
    seen = []
    for heard, owes in beats:
        silence.beat(heard=heard, owes=owes)
        seen.append(silence.beats)

    assert seen == expected
