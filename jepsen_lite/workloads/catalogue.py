"""The workloads by name, and how a run gets one: drawn from the seed, printed in one line.

    workload = draw("mix", world.rng("workload"), forget=...)        workload_line(workload)
    recorder = open_recorder(world, history, board, "c0", workload)
    await work(workload, recorder, world.rng("client c0"), ends_at_s)
    finals = await final_reads(world, open_reader(world, history, board), list(board.touched))        then judges.py

All judges judge every run (judges.py): each finds its objects by their kind, so a workload names none.
"""

from __future__ import annotations

import random
from typing import Any, Final

from jepsen_lite.history import History
from jepsen_lite.recorder import Board, Recorder, RecordingWorld
from jepsen_lite.workloads.deletes import Deletes
from jepsen_lite.workloads.mix import Mix
from jepsen_lite.workloads.pace import Forget, Pace, Workload, work
from jepsen_lite.workloads.registers import Churn, Hot, Large, Lww, Registers
from jepsen_lite.workloads.sessions import SessionRecorder, Sessions
from jepsen_lite.workloads.sets import Sets

__all__ = ["DEFAULT_NAME", "WORKLOADS", "draw", "open_reader", "open_recorder", "work", "workload_line"]

DEFAULT_NAME: Final = Mix.NAME
CLIENT_LASTS: Final = 4
"""Indefinite outcomes until a client is replaced: half of the CPU of a bad run went into connecting new ones."""
READER_TIMEOUT_S: Final = 30.0
READER_ATTEMPT_TIMEOUT_S: Final = 10.0
"""The reader is in no hurry: a record of several MiB has to come from all replicas."""
WORKLOADS: Final = tuple(
    (kind.NAME, kind.says) for kind in (Mix, Registers, Lww, Sets, Deletes, Churn, Hot, Large, Sessions)
)
"""(name, what it is for), the default first."""


def draw(name: str, rng: random.Random, *, forget: Forget | None = None) -> Workload:
    """Return the workload of this name at the pace of the seed; ValueError if there is none. `forget`: see `pace.Forget`."""
    pace = Pace.draw(rng)
    match name:
        case Mix.NAME:
            return Mix(pace, rng, forget=forget)
        case Registers.NAME:
            return Registers(pace, forget=forget)
    for kind in (Lww, Sets, Deletes, Churn, Hot, Large, Sessions):
        if name == kind.NAME:
            return kind(pace)
    raise ValueError(f"no workload {name!r}; there are {', '.join(known for known, _ in WORKLOADS)}")


def workload_line(workload: Workload) -> str:
    """Return the workload and its pace in one line."""
    parts = f" {workload.line()}" if isinstance(workload, Mix) else ""
    return f"workload {workload.NAME} {workload.pace.line()}{parts}"


def open_recorder(world: RecordingWorld, history: History, board: Board, name: str, workload: Workload) -> Recorder:
    """Return a client for this workload."""
    pace = workload.pace
    options: dict[str, Any] = {
        "timeout_s": pace.timeout_s, "attempt_timeout_s": pace.attempt_timeout_s, "client_lasts": CLIENT_LASTS,
    }  # fmt: skip
    if isinstance(workload, Sessions):
        return SessionRecorder(world, history, board, name, workload.lobby, **options)
    return Recorder(world, history, board, name, **options)


def open_reader(world: RecordingWorld, history: History, board: Board) -> Recorder:
    """Return the patient client that carries out the final reads."""
    return Recorder(
        world, history, board, "reader", timeout_s=READER_TIMEOUT_S, attempt_timeout_s=READER_ATTEMPT_TIMEOUT_S,
    )  # fmt: skip
