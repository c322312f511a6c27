"""The product obeys the determinism rules, and the lint that says so catches each way of breaking them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.determinism_lint import ADAPTERS, is_core, lint_source, lint_tree

ROOT = Path(__file__).parent.parent
DRIVER = "cluster/node.py"
CORE = "cluster/coordinator/read_core.py"
ADAPTER = "kvstore/storage/rocksdb.py"


def rules(source: str, path: str = DRIVER) -> list[str]:
    """Lint a snippet and return the names of the broken rules, one for each finding."""
    return [violation.rule for violation in lint_source(dedent(source), path)]


def test_the_product_is_deterministic() -> None:
    """No file of the product breaks a rule; the message names file, line and rule."""
    found = lint_tree(ROOT)

    assert not found, "\n" + "\n".join(map(str, found))


def test_a_finding_prints_as_editors_follow_it() -> None:
    """`path:line: rule: message`."""
    (found,) = lint_source("import uuid\n", DRIVER)

    assert str(found).startswith("cluster/node.py:1: world: `uuid`")


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import threading",
        "from concurrent.futures import ThreadPoolExecutor",
        "import uuid",
        "import secrets",
        "from pathlib import Path",
        "def f(path: str) -> str: return open(path).read()",
        "import os\nnonce = os.urandom(8)",
        "from os import urandom as chance\nnonce = chance(8)",
        "import random\ndelay = random.random()",
        "import random as r\nr.shuffle(nodes)",
        "from random import choice\nchoice(nodes)",
        "import random\nrng = random.SystemRandom()",
        "import random\npick = random.choice",
        "import asyncio\nasync def f(tasks): await asyncio.wait(tasks)",
        "import asyncio\nasync def f(tasks): return asyncio.as_completed(tasks)",
        "from asyncio import TaskGroup\nasync def f():\n    async with TaskGroup(): pass",
        "import asyncio\nasync def f(g): await asyncio.to_thread(g)",
        "from datetime import datetime\nnow = datetime.now()",
        "import datetime\nnow = datetime.datetime.now(datetime.UTC)",
    ],
)
def test_the_world_stays_outside_drivers(source: str) -> None:
    """Clocks, chance, files, threads and asyncio over sets of tasks are found, under any alias, even uncalled."""
    assert "world" in rules(source)


@pytest.mark.parametrize(
    "source",
    [
        "import random\ndef f(rng: random.Random) -> float: return rng.random()",
        "import random\ndef f(seed: int) -> random.Random: return random.Random(seed)",
        "import asyncio\ndef f() -> float: return asyncio.get_running_loop().time()",
        "import asyncio\nasync def f(g): await asyncio.wait_for(g(), 1)",
        "from datetime import timedelta\nhour = timedelta(hours=1)",
    ],
)
def test_what_a_driver_may_use(source: str) -> None:
    """An own seeded generator, the loop's time, and waiting for one thing are fine."""
    assert rules(source) == []


def test_adapters_may_touch_the_world() -> None:
    """Adapters own the world; the other rules hold for them as well."""
    source = "import time, threading\nstarted = time.monotonic()"

    assert rules(source, ADAPTER) == []
    assert rules(source, "cluster/cli/kvctl.py") == []
    assert rules(source, "jepsen_lite/cli.py") == rules(source, "jepsen_lite/mutants/suite.py") == []
    assert rules("try: f()\nexcept Exception: pass", ADAPTER) == ["except"]


def test_the_harness_is_deterministic_too() -> None:
    """Its simulator, checkers and workloads obey the same rules: else a failure could not be replayed."""
    for path in ("jepsen_lite/sim/world.py", "jepsen_lite/checkers/lww.py", "jepsen_lite/workloads/mix.py"):
        assert rules("import time", path) == ["world"]
        assert rules("def f(names: set[str]) -> list[str]: return list(names)", path) == ["set-order"]


def test_a_run_may_measure_its_cost_and_nothing_else() -> None:
    """CPU time is in the report and not in the trace; any other clock would be chance."""
    meter = "jepsen_lite/run.py"

    assert rules("import time\nstarted_s = time.process_time()", meter) == []
    assert rules("import time\nstarted_s = time.monotonic()", meter) == ["world"]
    assert rules("from time import time as now\nstarted_s = now()", meter) == ["world"]
    assert rules("import os", meter) == ["world"]


def test_the_loop_keeps_its_own_tasks() -> None:
    """A task made by the simulated loop for itself is in its list; elsewhere somebody has to keep it."""
    source = "class Loop:\n    def f(self): self.create_task(g())"

    assert rules(source, "jepsen_lite/sim/loop.py") == []
    assert rules(source, "jepsen_lite/sim/nemesis.py") == ["task"]


def test_a_core_does_not_wait() -> None:
    """`async` and asyncio are for drivers; cores are known by their name or their room."""
    source = "import asyncio\nasync def f() -> None: await g()"

    assert rules(source, CORE) == ["core", "core"]
    assert rules("from asyncio import Future", "kvstore/ring/token.py") == ["core"]
    assert rules(source, DRIVER) == []


def test_cores_are_known_by_name_or_room() -> None:
    """`*_core.py` anywhere, and everything in causality, crdt and ring."""
    assert is_core("cluster/membership/swim_core.py")
    assert is_core("kvstore/causality/dvvset.py")
    assert is_core("kvstore/ring/topology.py")
    assert not is_core("kvstore/core.py")
    assert not is_core("cluster/ring.py")


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: send(x)",
        "for x in set(nodes): send(x)",
        "for x in frozenset(nodes): send(x)",
        "for x in a.union(b): send(x)",
        "for x in set(a) - set(b): send(x)",
        "for x in {n for n in nodes}: send(x)",
        "NAMES = [x for x in set(nodes)]",
        "NAMES = {x: 1 for x in set(nodes)}",
        "NAMES = list(set(nodes))",
        "names = ','.join({'a', 'b'})",
        "send(*{1, 2})",
        "first = next(iter({1, 2}))",
        "def f(nodes: set[int]) -> None:\n    for x in nodes: send(x)",
        "def f(nodes: frozenset[int] | None) -> None:\n    for x in nodes: send(x)",
        "def f() -> None:\n    seen = set()\n    for x in seen: send(x)",
        """
        class Node:
            def __init__(self) -> None:
                self.waiting: set[int] = set()
            def f(self) -> None:
                for x in self.waiting: send(x)
        """,
        """
        @dataclass
        class Members:
            alive: frozenset[int]
            def f(self) -> list[int]:
                return [x for x in self.alive]
        """,
        "def f(nodes: set[int]) -> int: return nodes.pop()",
        "def f(nodes: set[int]) -> None:\n    def g() -> None:\n        for x in nodes: send(x)",
    ],
)
def test_the_order_of_a_set_goes_nowhere(source: str) -> None:
    """Loops, comprehensions, conversions, unpacking and `pop` over a set are found."""
    assert rules(source) == ["set-order"]


@pytest.mark.parametrize(
    "source",
    [
        "for x in sorted({1, 2}): send(x)",
        "for x in sorted(set(a) - set(b)): send(x)",
        "total = sum(x for x in {1, 2})",
        "ok = any(x > 1 for x in set(nodes))",
        "names = sorted(x.name for x in set(nodes))",
        "DOUBLED = {x * 2 for x in {1, 2}}",
        "def f(nodes: set[int]) -> bool: return 3 in nodes and len(nodes) > 1",
        "def f(by_name: dict[str, set[int]]) -> None:\n    for x in by_name: send(x)",
        "def f(nodes: list[int]) -> int: return nodes.pop()",
        "for x in dict.fromkeys(nodes): send(x)",
        "def f(nodes: set[int]) -> None: ...\ndef g(nodes: list[int]) -> None:\n    for x in nodes: send(x)",
    ],
)
def test_a_set_may_be_asked_what_has_no_order(source: str) -> None:
    """Membership, counting, sorting and making another set do not depend on the order."""
    assert rules(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "cache = {}",
        "_cache: dict[str, int] = {}",
        "nodes = list()",
        "import collections\nqueue = collections.deque()",
        "from collections import defaultdict\nby_name = defaultdict(list)",
        "import itertools\nids = itertools.count()",
        "import random\nrng = random.Random(1)",
        "if True:\n    seen = set()",
        "TABLE = {}\ndef f(k: str) -> None: TABLE[k] = 1",
        "TABLE = []\ndef f() -> None: TABLE.append(1)",
        "TABLE = {1: 2}\ndef f() -> None:\n    del TABLE[1]",
        "COUNT = 0\ndef f() -> None:\n    global COUNT\n    COUNT += 1",
    ],
)
def test_no_state_at_module_level(source: str) -> None:
    """What lives in a module survives a simulated crash and is shared by all nodes."""
    assert rules(source) == ["state"]


@pytest.mark.parametrize(
    "source",
    [
        "__all__ = ['A']",
        "TABLE = {1: 'one'}",
        "_BY_CODE: dict[str, int] = {'a': 1}",
        "Put = tuple[int, bytes]",
        "limit = 3",
        "class Node:\n    def __init__(self) -> None: self.cache = {}",
        "def f() -> None:\n    cache = {}\n    cache[1] = 2",
    ],
)
def test_constants_and_objects_are_not_module_state(source: str) -> None:
    """A table in capitals that nobody changes, and whatever belongs to an object or a call, is fine."""
    assert rules(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "try: f()\nexcept: pass",
        "try: f()\nexcept Exception: pass",
        "try: f()\nexcept (ValueError, BaseException): pass",
        "try: f()\nexcept Exception:  # noqa: BLE001\n    pass",
        "try: f()\nexcept Exception as problem: raise ValueError from problem",
        "try: f()\nexcept Exception:  # boundary:\n    pass",
        "import contextlib\nwith contextlib.suppress(Exception): f()",
    ],
)
def test_no_blind_except(source: str) -> None:
    """Catching everything needs its reason on the same line; silencing the other linter is not a reason."""
    assert rules(source) == ["except"]


@pytest.mark.parametrize(
    "source",
    [
        "try: f()\nexcept ValueError: pass",
        "try: f()\nexcept Exception as problem:  # boundary: the edge of a task\n    log(problem)",
        "try: f()\nexcept Exception:  # the task boundary: nobody above would see it\n    log()",
        "try: f()\nexcept BaseException:\n    clean_up()\n    raise",
    ],
)
def test_a_boundary_says_why(source: str) -> None:
    """The edge of a task or of a foreign library may catch all, with a reason."""
    assert rules(source) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import asyncio\nasync def f(): asyncio.create_task(g())", ["task"]),
        ("from asyncio import create_task as go\nasync def f(): go(g())", ["task"]),
        ("def f(loop): loop.create_task(g())", ["task"]),
        ("import asyncio\nasync def f(): asyncio.ensure_future(g())", ["task"]),
        ("import asyncio\nasync def f(self): self.task = asyncio.create_task(g())", []),
        ("import asyncio\nasync def f(): await asyncio.create_task(g())", []),
    ],
)
def test_every_task_has_an_owner(source: str, expected: list[str]) -> None:
    """A task that nobody keeps can be collected half way, and nobody sees it fail."""
    assert rules(source) == expected


def test_the_exceptions_are_few_and_named() -> None:
    """Each adapter on the list is a decision: the world may be touched in these places and no other."""
    assert len(ADAPTERS) <= 13
