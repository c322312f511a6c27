"""The record cache: what it holds is what the engine would give, and it never grows beyond its bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.record_cache import RecordCache

KEYS = [b"%02d" % number for number in range(12)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "get", "clear"]), st.sampled_from(KEYS), st.binary(max_size=40)),
    max_size=60,
)


@given(STEPS, st.sampled_from([0, 600, 4_000, 100_000]))
def test_it_never_gives_anything_but_the_newest_record(steps: list[tuple[str, bytes, bytes]], size: int) -> None:
    """A model: whatever was put last and not dropped since is what a hit gives; a miss is always allowed."""
    cache, newest = RecordCache(size), dict[bytes, bytes]()
    for step, key, record in steps:
        if step == "put":
            cache.put(key, record)
            newest[key] = record
        elif step == "drop":
            cache.drop([key])
            newest.pop(key, None)
        elif step == "clear":
            cache.clear()
            newest.clear()
        assert cache.get(key) in (None, newest.get(key))


def test_a_key_in_use_stays_and_the_others_go() -> None:
    """Two generations: what is read between two turns survives them."""
    cache = RecordCache(20_000)
    cache.put(b"hot", b"h")
    for number in range(1_000):
        cache.put(b"%d" % number, b"c")
        assert cache.get(b"hot") == b"h"
    assert cache.get(b"0") is None and cache.get(b"999") == b"c"


def test_a_size_of_nothing_switches_it_off() -> None:
    """Then every read is the engine's."""
    cache = RecordCache(0)
    cache.put(b"k", b"r")
    assert cache.get(b"k") is None


def test_a_large_record_does_not_push_out_the_others() -> None:
    """It is not kept, and does not leave an older version of itself behind."""
    cache = RecordCache(20_000)
    cache.put(b"k", b"old")
    cache.put(b"other", b"o")
    cache.put(b"k", bytes(5_000))
    assert cache.get(b"k") is None and cache.get(b"other") == b"o"


def test_it_stays_within_its_bound() -> None:
    """Counted with the overhead it assumes, over more keys than fit."""
    cache = RecordCache(50_000)
    for number in range(10_000):
        cache.put(b"%06d" % number, bytes(100))
    held = sum(cache.get(b"%06d" % number) is not None for number in range(9_000, 10_000))
    assert 0 < held <= 50_000 // 350
