"""Finds, in the syntax tree, what would make a simulated run depend on more than (code, seed).

    source ──ast──► one pass per file ──► [Violation(path, line, rule, message)]

Import contracts (pyproject.toml) say who may import what; this says what may be *called* and *kept*. Rules have names,
so that a failure tells which promise is at stake:

    world      clocks, chance, files, threads; asyncio that iterates sets of tasks    not in ADAPTERS; METERS may measure
    core       a core has no `async` and no asyncio                                   only in cores
    set-order  the order of a set reaches something that keeps order                  everywhere linted
    state      a mutable value at module level survives a simulated crash             everywhere linted
    except     a blind `except` that neither re-raises nor says `# boundary: why`     everywhere linted
    task       a task whose result nobody keeps fails unseen                          not in TASK_KEEPERS

It reads names, not types: it follows import aliases and annotations of one file, and no further. That catches what
people write by accident, which is its purpose; it does not stop someone who means to. Generated stubs are not linted.
Source: correctness.md 31; design.md section 9.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Violation", "is_core", "lint_source", "lint_tree"]

PACKAGES = ("kvstore", "cluster", "jepsen_lite")
GENERATED = ("kvstore/v1",)
ADAPTERS = (
    "kvstore/transport/grpc_*.py",
    "kvstore/transport/lane*.py",
    "kvstore/storage/rocksdb*.py",
    "kvstore/storage/directory.py",
    "kvstore/storage/space.py",
    "kvstore/storage/witness_file.py",
    "kvstore/system.py",
    "kvstore/client/sync.py",
    "cluster/real.py",
    "cluster/cli",
    "jepsen_lite/cli.py",
    "jepsen_lite/check_command.py",
    "jepsen_lite/mutants",
)
METERS = ("jepsen_lite/run.py",)
"""May call `time.process_time`, and nothing else of `time`: what a run cost is in its report and never in its trace."""
TASK_KEEPERS = ("jepsen_lite/sim/loop.py",)
"""The loop itself keeps every task that it makes, and fails the run if one fails unseen."""
CORE_ROOMS = frozenset({"causality", "crdt", "ring"})

WORLD_MODULES = frozenset({
    "concurrent", "glob", "multiprocessing", "os", "pathlib", "secrets", "select", "shutil", "signal", "socket",
    "subprocess", "tempfile", "threading", "time", "uuid",
})  # fmt: skip
WORLD_CALLS = {
    "open": "files belong to adapters",
    "random.SystemRandom": "take the `rng` argument",
    "asyncio.wait": "iterates a set of tasks; wait for one future, or use the helper that keeps creation order",
    "asyncio.as_completed": "iterates a set of tasks; use the helper that keeps creation order",
    "asyncio.TaskGroup": "cancels by iterating a set; use the helper that keeps creation order",
    "asyncio.to_thread": "threads belong to adapters",
    "datetime.datetime.now": "take `now`, or ask Env.clock",
    "datetime.datetime.utcnow": "take `now`, or ask Env.clock",
    "datetime.datetime.today": "take `now`, or ask Env.clock",
    "datetime.date.today": "take `now`, or ask Env.clock",
}
TASK_MAKERS = frozenset({"create_task", "ensure_future", "run_coroutine_threadsafe"})
MUTABLE_MAKERS = frozenset({
    "list", "dict", "set", "bytearray", "collections.deque", "collections.defaultdict", "collections.Counter",
    "collections.OrderedDict", "random.Random", "itertools.count", "weakref.WeakKeyDictionary",
    "weakref.WeakValueDictionary", "weakref.WeakSet",
})  # fmt: skip
MUTATORS = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
    "reverse", "setdefault", "sort", "update",
})  # fmt: skip
SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference"})
SET_NAMES = frozenset({"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet"})
ORDER_BLIND = frozenset({"sorted", "set", "frozenset", "len", "sum", "min", "max", "any", "all"})
ORDER_KEEPING = frozenset({"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "dict.fromkeys"})
CONSTANT_NAME = re.compile(r"_?[A-Z][A-Z0-9_]*|__\w+__")
BOUNDARY = re.compile(r"#.*\bboundary[:,] *\S")


class Violation(NamedTuple):
    """One finding; prints as `path:line: rule: message`, which editors follow."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


def is_core(path: str) -> bool:
    """Return whether the file is a core: by its name, or by the room it stands in."""
    parts = PurePosixPath(path).parts
    return path.endswith("_core.py") or not CORE_ROOMS.isdisjoint(parts[:-1])


def _is_under(path: str, places: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, place) or path.startswith(place + "/") for place in places)


def lint_tree(root: Path) -> list[Violation]:
    """Lint every product file below `root`, in path order."""
    found: list[Violation] = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            if not _is_under(path, GENERATED):
                found += lint_source(file.read_text(encoding="utf-8"), path)
    return found


def lint_source(source: str, path: str) -> list[Violation]:
    """Lint one file; `path` (relative, with slashes) decides which rules hold. Findings come in line order."""
    linter = _Linter(ast.parse(source), source.splitlines(), path)
    found = {Violation(path, line, rule, message) for line, rule, message in linter.findings()}
    return sorted(found, key=lambda violation: (violation.line, violation.rule, violation.message))


Finding = tuple[int, str, str]


class _Linter:
    """The rules over one parsed file."""

    def __init__(self, tree: ast.Module, lines: list[str], path: str) -> None:
        self.tree = tree
        self.lines = lines
        self.core = is_core(path)
        self.adapter = _is_under(path, ADAPTERS)
        self.meter, self.task_keeper = _is_under(path, METERS), _is_under(path, TASK_KEEPERS)
        self.nodes = list(ast.walk(tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.aliases = dict(self._imported_names())
        self.bound = self._bind_names()

    def findings(self) -> Iterator[Finding]:
        for node in self.nodes:
            if not self.adapter:
                yield from self._world(node)
            if self.core:
                yield from self._core(node)
            yield from self._set_order(node)
            yield from self._except(node)
            if not self.task_keeper:
                yield from self._task(node)
        yield from self._state()

    # ---- names

    def _imported_names(self) -> Iterator[tuple[str, str]]:
        """Yield (name in this file, what it stands for): `from time import time as now` gives now -> time.time."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for item in node.names:
                    yield (item.asname, item.name) if item.asname else (item.name.split(".")[0],) * 2
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for item in node.names:
                    yield item.asname or item.name, f"{node.module}.{item.name}"

    def _dotted(self, node: ast.expr) -> str:
        """Return `a.b.c` with import aliases resolved, or "" for anything but a dotted name."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self._dotted(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""

    # ---- world and core

    def _world(self, node: ast.AST) -> Iterator[Finding]:
        if isinstance(node, ast.Import):
            for item in node.names:
                yield from self._world_import(node.lineno, item.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from self._world_import(node.lineno, node.module)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield from self._world_use(node)

    def _world_import(self, line: int, module: str) -> Iterator[Finding]:
        if module.split(".")[0] in WORLD_MODULES and not (self.meter and module == "time"):
            yield line, "world", f"`{module}` belongs to adapters; take it as an argument or through Env"

    def _world_use(self, node: ast.Name | ast.Attribute) -> Iterator[Finding]:
        name = self._dotted(node)
        if name in WORLD_CALLS:
            yield node.lineno, "world", f"`{name}`: {WORLD_CALLS[name]}"
        elif self.meter and name.startswith("time.") and name != "time.process_time":
            yield node.lineno, "world", f"`{name}`: a meter may call `time.process_time` only"
        elif re.fullmatch(r"random\.(?!Random$)\w+", name):
            yield node.lineno, "world", f"`{name}` uses the one generator all nodes share; take the `rng` argument"

    def _core(self, node: ast.AST) -> Iterator[Finding]:
        if isinstance(node, ast.AsyncFunctionDef):
            yield node.lineno, "core", "a core decides and returns; waiting is the driver's"
        elif isinstance(node, ast.Import) and any(item.name.split(".")[0] == "asyncio" for item in node.names):
            yield node.lineno, "core", "a core does not know asyncio"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asyncio":
            yield node.lineno, "core", "a core does not know asyncio"

    # ---- set order

    def _bind_names(self) -> dict[tuple[ast.AST, str], bool]:
        """Map (scope, name) to whether that scope ever declares or assigns the name as a set."""
        bound: dict[tuple[ast.AST, str], bool] = {}
        for node in self.nodes:
            for name, is_set in self._bindings(node):
                where = (self.tree if name.startswith("self.") else self._scope(node), name)
                bound[where] = bound.get(where, False) or is_set
        return bound

    def _bindings(self, node: ast.AST) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.arg):
            yield node.arg, node.annotation is not None and self._says_set(node.annotation)
        elif isinstance(node, ast.AnnAssign):
            yield _spelled(node.target), self._says_set(node.annotation)
            if isinstance(self.parents[node], ast.ClassDef):  # a field of a dataclass is read through self
                yield f"self.{_spelled(node.target)}", self._says_set(node.annotation)
        elif isinstance(node, ast.Assign):
            yield from ((_spelled(target), self._makes_set(node.value)) for target in node.targets)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, False

    def _scope(self, node: ast.AST) -> ast.AST:
        """Return the innermost function around `node`, or the module."""
        while node is not self.tree:
            node = self.parents[node]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                return node
        return node

    def _is_name_of_set(self, node: ast.expr) -> bool:
        """Look the name up as Python does: the innermost scope that binds it decides."""
        name = _spelled(node)
        if name.startswith("self."):
            return self.bound.get((self.tree, name), False)
        scope: ast.AST = node
        while name and scope is not self.tree:
            scope = self._scope(scope)
            if (scope, name) in self.bound:
                return self.bound[scope, name]
        return False

    def _says_set(self, annotation: ast.expr) -> bool:
        """Return whether an annotation is a set (`set[int]`, `frozenset[X] | None`); a container of sets is not one."""
        if isinstance(annotation, ast.Subscript):
            return self._says_set(annotation.value)
        if isinstance(annotation, ast.BinOp):
            return self._says_set(annotation.left) or self._says_set(annotation.right)
        return self._dotted(annotation).rsplit(".", 1)[-1] in SET_NAMES

    def _makes_set(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Set | ast.SetComp):
            return True
        if isinstance(node, ast.Call):
            name = self._dotted(node.func)
            is_method = isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS
            return name in {"set", "frozenset"} or is_method
        return False

    def _is_set(self, node: ast.expr) -> bool:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
            return self._is_set(node.left) or self._is_set(node.right)
        return self._makes_set(node) or self._is_name_of_set(node)

    def _set_order(self, node: ast.AST) -> Iterator[Finding]:
        message = "the order of a set is not reproducible: wrap it in sorted(...)"
        if isinstance(node, ast.For | ast.AsyncFor) and self._is_set(node.iter):
            yield node.lineno, "set-order", message
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            if any(self._is_set(clause.iter) for clause in node.generators) and not self._is_order_blind(node):
                yield node.lineno, "set-order", message
        elif isinstance(node, ast.Starred) and isinstance(node.ctx, ast.Load) and self._is_set(node.value):
            yield node.lineno, "set-order", message
        elif isinstance(node, ast.Call):
            yield from self._set_order_of_call(node, message)

    def _set_order_of_call(self, node: ast.Call, message: str) -> Iterator[Finding]:
        name = self._dotted(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        keeps_order = name in ORDER_KEEPING or method in {"join", "extend"}
        if keeps_order and any(self._is_set(argument) for argument in node.args) and not self._is_order_blind(node):
            yield node.lineno, "set-order", message
        elif isinstance(node.func, ast.Attribute) and method == "pop" and self._is_set(node.func.value):
            if not node.args:
                yield node.lineno, "set-order", "`pop` takes whichever comes first: take min(...) and discard it"

    def _is_order_blind(self, inner: ast.expr) -> bool:
        """Return whether `inner` is the argument of a call that gives the same answer in every order."""
        call = self.parents[inner]
        return isinstance(call, ast.Call) and inner in call.args and self._dotted(call.func) in ORDER_BLIND

    # ---- state, except, task

    def _state(self) -> Iterator[Finding]:
        """Module level may hold constants: ALL_CAPS tables nobody changes, and what cannot be changed at all."""
        mutable = dict(self._module_assignments())
        for name, line in mutable.items():
            if not CONSTANT_NAME.fullmatch(name):
                yield line, "state", f"`{name}` is shared by all nodes of a process; keep it in an object"
        for node in self.nodes:
            if isinstance(node, ast.Global):
                yield node.lineno, "state", "`global` is state that survives a simulated crash"
            elif (name := _mutated_name(node)) in mutable and name != "__all__":
                yield getattr(node, "lineno", 0), "state", f"`{name}` is a module-level constant and must not change"

    def _module_assignments(self) -> Iterator[tuple[str, int]]:
        """Yield (name, line) of mutable values assigned at module level, inside `if` and `try` too."""
        for node in _module_statements(self.tree.body):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and self._is_mutable(node.value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from ((target.id, node.lineno) for target in targets if isinstance(target, ast.Name))

    def _is_mutable(self, node: ast.expr) -> bool:
        displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
        return isinstance(node, displays) or (isinstance(node, ast.Call) and self._dotted(node.func) in MUTABLE_MAKERS)

    def _except(self, node: ast.AST) -> Iterator[Finding]:
        if isinstance(node, ast.ExceptHandler) and self._is_blind(node.type) and not _ends_in_raise(node.body):
            if not BOUNDARY.search(self.lines[node.lineno - 1]):
                yield node.lineno, "except", "catch what you can handle, or say `# boundary: why` on this line"
        elif isinstance(node, ast.Call) and self._dotted(node.func) == "contextlib.suppress":
            if any(self._is_blind(argument) for argument in node.args):
                yield node.lineno, "except", "suppressing every error hides the one you did not think of"

    def _is_blind(self, kind: ast.expr | None) -> bool:
        if isinstance(kind, ast.Tuple):
            return any(self._is_blind(item) for item in kind.elts)
        return kind is None or self._dotted(kind) in {"Exception", "BaseException"}

    def _task(self, node: ast.AST) -> Iterator[Finding]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = function.attr if isinstance(function, ast.Attribute) else self._dotted(function).rsplit(".", 1)[-1]
            if name in TASK_MAKERS:
                yield node.lineno, "task", "nobody keeps this task: it may be collected, and its failure goes unseen"


def _ends_in_raise(body: list[ast.stmt]) -> bool:
    """Return whether a handler cleans up and lets the same error go on."""
    return isinstance(body[-1], ast.Raise) and body[-1].exc is None


def _spelled(node: ast.expr) -> str:
    """Return `x` or `self.x` as written, else ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
        return f"self.{node.attr}"
    return ""


def _module_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for field in ("body", "orelse", "finalbody"):
                yield from _module_statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _module_statements(handler.body)


def _mutated_name(node: ast.AST) -> str:
    """Return the name that this node changes in place (`X.append(1)`, `X[k] = v`, `del X[k]`), else ""."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        return _spelled(node.func.value)
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return _spelled(node.value)
    return ""
