"""What all commands of `kvctl` share: which cluster, which output, and how an error becomes an exit code.

Exit codes are part of the interface: 0 ok, 1 unexpected, 2 usage, 3 not found, 4 unavailable (not applied), 5 timeout
(maybe applied), 6 precondition failed, 7 siblings, 8 auth (reserved), 9 unhealthy.
"""

from __future__ import annotations

import base64
import gc
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvstore.errors import InvalidArgument, KVStoreError

if TYPE_CHECKING:
    from kvstore.client.client import AsyncClient

__all__ = [
    "SCHEMA",
    "UNHEALTHY",
    "Session",
    "client_url",
    "jsonable",
    "parse_duration_s",
    "quiet_collector",
    "show_text",
]

SCHEMA = 1
"""Version of every JSON document printed here."""
UNHEALTHY = 9
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Session:
    """The options of the group, handed to every command."""

    url: str
    output: str

    def run(self, work: Callable[[AsyncClient], Awaitable[int]]) -> None:
        """Run `work` with a connected client and exit with what it returns, or with the error's exit code."""
        import uvloop

        self.finish(lambda: uvloop.run(self._with_client(work)))

    def finish(self, work: Callable[[], int]) -> None:
        """Exit with what `work` returns; an error goes to stderr (and to stdout as a document if JSON was asked for)."""
        try:
            exit_code = work()
        except KVStoreError as error:
            self.report(error)
            exit_code = error.exit_code
        except KeyboardInterrupt:
            print("kvctl: interrupted", file=sys.stderr)
            exit_code = 130
        sys.stdout.flush()
        sys.exit(exit_code)

    async def _with_client(self, work: Callable[[AsyncClient], Awaitable[int]]) -> int:
        from kvstore.client.client import AsyncClient

        async with AsyncClient.from_url(self.url) as client:
            return await work(client)

    @property
    def is_json(self) -> bool:
        """True if documents rather than text are wanted."""
        return self.output == "json"

    def show(self, document: dict[str, Any], text: str) -> None:
        """Print a result in the wanted form."""
        print(json.dumps({"schema": SCHEMA, **jsonable(document)}, ensure_ascii=False) if self.is_json else text)

    def report(self, error: KVStoreError) -> None:
        """Print an error: one line on stderr, and the document on stdout if JSON was asked for."""
        print(f"kvctl: {error}", file=sys.stderr)
        if self.is_json:
            fields = {"code": error.code, "message": error.message, "definite": error.definite, **error.details}
            print(json.dumps({"schema": SCHEMA, "error": jsonable(fields)}, ensure_ascii=False))


def quiet_collector() -> None:
    """Collect rarely, for commands with many operations: a full collection stops the loop for tens of milliseconds."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def client_url(node: str, timeout_s: float | None) -> str:
    """Return the client URL for `--node` (a URL, or HOST:PORT with commas between several) and `--timeout`."""
    url = node if "://" in node else f"kv://{node}"
    if timeout_s is None:
        return url
    scheme, _, rest = url.partition("://")
    seeds, _, query = rest.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("timeout=")]
    kept.append(f"timeout={round(timeout_s * 1000)}ms")
    return f"{scheme}://{seeds if seeds.endswith('/') else seeds + '/'}?{'&'.join(kept)}"


def parse_duration_s(text: str) -> float:
    """Read `500ms`, `2s`, `1m`, `3h`, `7d` or plain seconds."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip() or "s"
    try:
        seconds = float(number) * UNITS_S[unit]
    except (ValueError, KeyError):
        raise InvalidArgument(f"{text!r} is not a duration: write 500ms, 2s, 1m, 3h or 7d") from None
    if not 0 < seconds < float("inf"):
        raise InvalidArgument(f"a duration must be above zero: {text!r}")
    return seconds


def jsonable(value: Any) -> Any:
    """Return `value` with bytes made readable: UTF-8 text as it is, anything else as {"base64": …}."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {str(jsonable(name)): jsonable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def show_text(value: Any) -> str:
    """Return a value as people read it: text bare, everything else as JSON."""
    shown = jsonable(value)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
