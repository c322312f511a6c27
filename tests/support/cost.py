"""What a refused input cost: CPU time and peak memory, measured in two runs because tracing slows the first figure."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

__all__ = ["assert_cheap_refusal"]


def assert_cheap_refusal(
    refuse: Callable[[], object], error: type[Exception], *, peak_bytes_max: int, cpu_s_max: float
) -> None:
    """Assert that `refuse` raises `error` within the bounds. CPU time, because other tests share the machine."""
    started = time.process_time()
    _raises(refuse, error)
    took_s = time.process_time() - started
    tracemalloc.start()
    try:
        _raises(refuse, error)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= peak_bytes_max
    assert took_s <= cpu_s_max


def _raises(refuse: Callable[[], object], error: type[Exception]) -> None:
    try:
        refuse()
    except error:
        return
    raise AssertionError(f"accepted, where {error.__name__} was expected")
