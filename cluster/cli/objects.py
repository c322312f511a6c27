"""`kvctl put | get | del | resolve`: one object at a time, the safe way round.

`put` reads first and passes what it read as the context, so that typing a command twice replaces a value instead of
making siblings. `--blind` skips that: it is what a program that never read the key would do.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.session import Session, jsonable, parse_duration_s, show_text
from kvstore.errors import InvalidArgument, NotFound, Siblings

if TYPE_CHECKING:
    from kvstore.client.client import AsyncClient
    from kvstore.client.results import GetResult, PutResult

__all__ = ["delete", "get", "put", "resolve"]

CONTEXT_SHOWN_LENGTH = 12
UNSET: Any = object()
"""Told apart from None, which is a value people may store with --json."""

bucket_option = click.option("--bucket", default="default", show_default=True, help="Namespace of the key.")
json_option = click.option("--json", "is_json_value", is_flag=True, help="The value is JSON (a number, list, map …).")


class Count(click.ParamType[Any]):
    """A consistency count: a number, or one, quorum or all."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from kvstore.client.consistency import Consistency, check_count

        word = str(value).upper()
        if word in Consistency.__members__:
            return Consistency[word]
        try:
            return check_count("a count", value)
        except InvalidArgument as error:
            return self.fail(error.message, param, ctx)


def write_options(command: Any) -> Any:
    """Add the options of every write."""
    command = click.option("--pw", type=Count(), help="Owners (not fallbacks) that must acknowledge.")(command)
    command = click.option("--dw", type=Count(), help="Replicas that must have it on disk. [quorum]")(command)
    return click.option("-w", "--w", type=Count(), help="Replicas that must acknowledge. [quorum]")(command)


def _counts(**counts: Any) -> dict[str, Any]:
    return {name: count for name, count in counts.items() if count is not None}


def _read_value(text: str | None, path: str | None, is_json_value: bool) -> Any:
    if (text is None) == (path is None):
        raise InvalidArgument("give either a VALUE or --file PATH")
    if path is not None:
        try:
            raw = Path(path).read_bytes()
        except OSError as problem:
            raise InvalidArgument(f"cannot read {path}: {problem.strerror}") from None
        return _parse_json(raw) if is_json_value else raw
    assert text is not None
    return _parse_json(text) if is_json_value else text


def _parse_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as problem:
        raise InvalidArgument(f"the value is not JSON: {problem}") from None


@click.command()
@click.argument("key")
@click.argument("value", required=False)
@bucket_option
@json_option
@click.option("--file", "path", type=click.Path(dir_okay=False), help="Take the value from a file, as bytes.")
@click.option("--ttl", help="Let it expire after this long: 90s, 10m, 1h, 7d.")
@click.option("--blind", is_flag=True, help="Do not read first: keeps what others wrote as siblings.")
@write_options
@click.pass_obj
def put(
    session: Session, key: str, value: str | None, bucket: str, is_json_value: bool, path: str | None, ttl: str | None,
    blind: bool, w: Any, dw: Any, pw: Any,
) -> None:  # fmt: skip
    """Write VALUE under KEY, replacing what is there now."""

    async def work(client: AsyncClient) -> int:
        options = _counts(w=w, dw=dw, pw=pw)
        if ttl is not None:
            options["ttl"] = timedelta(seconds=parse_duration_s(ttl))
        content = _read_value(value, path, is_json_value)
        return await _write(session, client, bucket, key, content, blind=blind, options=options)

    session.run(work)


async def _write(
    session: Session, client: AsyncClient, bucket: str, key: str, value: Any, *, blind: bool, options: dict[str, Any]
) -> int:
    objects = client.bucket(bucket)
    if not blind and (seen := await objects.get(key)).context:
        options["context"] = seen.context
    started_s = time.perf_counter()
    result = await objects.put(key, value, **options)
    _show_write(session, result, time.perf_counter() - started_s)
    return 0


def _show_write(session: Session, result: PutResult, elapsed_s: float) -> None:
    context = base64.urlsafe_b64encode(result.context).decode("ascii").rstrip("=") if result.context else None
    document = {
        "ok": True, "acked": result.acked, "needed": result.needed, "n": result.n, "durable": result.durable,
        "primaries_acked": result.primaries_acked, "siblings": result.siblings, "superseded": result.superseded,
        "elapsed_ms": round(elapsed_s * 1e3, 3), "context": context,
    }  # fmt: skip
    text = f"OK w={result.acked}/{result.n} {elapsed_s * 1e3:.1f} ms"
    if context is not None:
        text += f" context={context[:CONTEXT_SHOWN_LENGTH]}{'…' if len(context) > CONTEXT_SHOWN_LENGTH else ''}"
    if result.siblings > 1:
        text += f" · {result.siblings} siblings now: kvctl get --siblings shows them"
    if result.superseded:
        text += " · superseded: a newer value is there already"
    session.show(document, text)


@click.command()
@click.argument("key")
@bucket_option
@click.option("--siblings", "all_siblings", is_flag=True, help="Show every concurrent value.")
@click.option("-r", "--r", type=Count(), help="Replicas that must answer. [quorum]")
@click.option("--pr", type=Count(), help="Owners (not fallbacks) that must answer.")
@click.pass_obj
def get(session: Session, key: str, bucket: str, all_siblings: bool, r: Any, pr: Any) -> None:
    """Print the value under KEY. Exit code 3: there is none; 7: there are several."""

    async def work(client: AsyncClient) -> int:
        result = await client.bucket(bucket).get(key, **_counts(r=r, pr=pr))
        return _show_read(session, key, bucket, result, all_siblings=all_siblings)

    session.run(work)


def _show_read(session: Session, key: str, bucket: str, result: GetResult[Any], *, all_siblings: bool) -> int:
    if not result.found:
        raise NotFound(f"{key} is not in bucket {bucket}")
    if len(result.siblings) > 1 and not all_siblings:
        raise Siblings(
            f"{key} has concurrent values: kvctl get {key} --siblings shows them", count=len(result.siblings)
        )
    document: dict[str, Any] = {"key": key, "bucket": bucket, "siblings": [_sibling(each) for each in result.siblings]}
    if len(result.siblings) == 1:
        document["value"] = jsonable(result.siblings[0].value)
    if not all_siblings:
        session.show(document, show_text(result.siblings[0].value))
        return 0
    lines = [
        f"#{number} {json.dumps(jsonable(each.value), ensure_ascii=False)}  dot {each.dot}  written {each.written_at}"
        for number, each in enumerate(result.siblings, 1)
    ]
    if len(result.siblings) > 1:
        lines.append(f"resolve: kvctl resolve {key} --pick 1")
    session.show(document, "\n".join(lines))
    return 0


def _sibling(sibling: Any) -> dict[str, Any]:
    return {"value": jsonable(sibling.value), "dot": str(sibling.dot), "written_at": str(sibling.written_at)}


@click.command(name="del")
@click.argument("key")
@bucket_option
@write_options
@click.pass_obj
def delete(session: Session, key: str, bucket: str, w: Any, dw: Any, pw: Any) -> None:
    """Delete KEY: reads it, then deletes exactly what was read. Exit code 3: there was nothing."""

    async def work(client: AsyncClient) -> int:
        objects = client.bucket(bucket)
        seen = await objects.get(key)
        if not seen.found:
            raise NotFound(f"{key} is not in bucket {bucket}")
        started_s = time.perf_counter()
        result = await objects.delete(key, context=seen.context, **_counts(w=w, dw=dw, pw=pw))
        _show_write(session, result, time.perf_counter() - started_s)
        return 0

    session.run(work)


@click.command()
@click.argument("key")
@bucket_option
@json_option
@click.option("--pick", type=click.IntRange(min=1), help="Keep sibling number N as `kvctl get --siblings` counts them.")
@click.option("--value", help="Write this instead of all of them.")
@write_options
@click.pass_obj
def resolve(
    session: Session, key: str, bucket: str, is_json_value: bool, pick: int | None, value: str | None, w: Any, dw: Any,
    pw: Any,
) -> None:  # fmt: skip
    """Replace the concurrent values of KEY by one of them, or by a new value."""

    async def work(client: AsyncClient) -> int:
        if (pick is None) == (value is None):
            raise InvalidArgument("give either --pick N or --value VALUE")
        objects = client.bucket(bucket)
        seen = await objects.get(key)
        if not seen.found:
            raise NotFound(f"{key} is not in bucket {bucket}")
        kept = UNSET if pick is not None else _read_value(value, None, is_json_value)
        if pick is not None:
            if pick > len(seen.siblings):
                raise InvalidArgument(f"{key} has {len(seen.siblings)} values, there is no #{pick}")
            kept = seen.siblings[pick - 1].value
        started_s = time.perf_counter()
        result = await objects.put(key, kept, context=seen.context, **_counts(w=w, dw=dw, pw=pw))
        _show_write(session, result, time.perf_counter() - started_s)
        return 0

    session.run(work)
