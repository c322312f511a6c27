"""`kvctl bench`: how fast is this cluster, said in a way that can be compared."""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.session import Session, parse_duration_s, quiet_collector
from kvstore.errors import ConfigError, InvalidArgument

if TYPE_CHECKING:
    from cluster.cli.bench_core import Kind
    from cluster.cli.bench_run import BenchPlan, Measured, Runner
    from kvstore.client.client import AsyncClient

__all__ = ["bench", "summarize"]

OPEN_LOOP_CONCURRENCY = 1_024
"""Operations an open loop may have outstanding; beyond it they wait, and their waiting is part of their latency."""
DURATION_DEFAULT_S = 10.0
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LATENCY_US_MAX = 3_600_000_000
FRESH_KEYS_MAX = 10_000_000
FRESH_RUNS = 99_999
"""Runs a second apart insert keys that do not overlap, up to this many each; keys have twelve digits."""
BUCKETS = {"register": "bench", "lww": "bench_lww"}


@click.command()
@click.option(
    "--workload", type=click.Choice(["a", "b", "c", "d", "e", "f", "put", "get"]), default="a", show_default=True,
    help="YCSB's mixes a-f, or put or get alone.",
)  # fmt: skip
@click.option(
    "--concurrency", type=click.IntRange(1, 65_536), help="Operations in flight. [64; open loop at most 1024]"
)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Open loop: this many operations per second are due.")
@click.option("--keys", type=click.IntRange(min=1), default=100_000, show_default=True, help="Size of the key space.")
@click.option("--value-size", type=click.IntRange(0, 1024 * 1024), default=100, show_default=True, help="Bytes.")
@click.option("--duration", help="How long to measure: 10s, 2m. [10s]")
@click.option("--operations", type=click.IntRange(min=1), help="Measure this many operations instead.")
@click.option("--warmup", default="2s", show_default=True, help="Run this long before measuring; 0 for none.")
@click.option("--distribution", type=click.Choice(["uniform", "zipfian", "latest"]), help="[the workload's own]")
@click.option("--type", "kind", type=click.Choice(["register", "lww"]), default="register", show_default=True)
@click.option(
    "--policy", type=click.Choice(["fresh", "blind", "context"]),
    help="What a put knows: a new key each, nothing, or the last context seen. [register: context; lww: blind]",
)  # fmt: skip
@click.option("--bucket", help="Bucket to use; made if missing. [bench, bench_lww]")
@click.option("--connections", type=click.IntRange(1, 64), default=1, show_default=True, help="Clients to spread over.")
@click.option("--preload/--no-preload", default=None, help="Put missing keys first. [when the workload reads]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the choice of keys and operations.")
@click.pass_obj
def bench(session: Session, /, **options: Any) -> None:
    """Measure throughput and latency: closed loop with --concurrency, open loop with --rate.

    Open-loop latency counts from when an operation was due, so a stall is seen by everything it delayed.
    """
    session.finish(lambda: _main(session, options))


def _main(session: Session, options: dict[str, Any]) -> int:
    import uvloop

    from cluster.cli.bench_core import choose_mix

    choose_mix(options["workload"])
    quiet_collector()  # the generator's pauses are not the cluster's latency
    _histogram()  # before anything is written to the cluster
    return uvloop.run(_bench(session, options))


async def _bench(session: Session, options: dict[str, Any]) -> int:
    from cluster.cli.bench_run import Runner
    from kvstore.client.client import AsyncClient

    plan = _plan(options)
    async with AsyncExitStack() as closing:
        clients = [
            await closing.enter_async_context(AsyncClient.from_url(session.url)) for _ in range(options["connections"])
        ]
        name = options["bucket"] or BUCKETS[options["kind"]]
        await _ensure_bucket(clients[0], name, options["kind"])
        runner = Runner(plan, [client.bucket(name) for client in clients])
        measured, preloaded = await _measure(runner, plan, options)
    document = {**_setting(options, plan, name), "preloaded": preloaded, **summarize(measured)}
    session.show(document, _text(document))
    return 0 if measured.operations else 1


def _plan(options: dict[str, Any]) -> BenchPlan:
    from cluster.cli.bench_core import choose_mix
    from cluster.cli.bench_run import BenchPlan

    mix, rate = choose_mix(options["workload"]), options["rate"]
    if options["duration"] and options["operations"]:
        raise InvalidArgument("give either --duration or --operations")
    bounded = options["operations"] is not None
    duration_s = None if bounded else parse_duration_s(options["duration"] or f"{DURATION_DEFAULT_S}s")
    return BenchPlan(
        mix=mix, distribution=options["distribution"] or mix.distribution, keys_count=options["keys"],
        value=os.urandom(options["value_size"]),
        policy=options["policy"] or ("context" if options["kind"] == "register" else "blind"),
        concurrency=options["concurrency"] or (64 if rate is None else OPEN_LOOP_CONCURRENCY), rate_per_s=rate,
        duration_s=duration_s, operations_max=options["operations"], seed=options["seed"],
        fresh_offset=int(time.time()) % FRESH_RUNS * FRESH_KEYS_MAX,
    )  # fmt: skip


async def _ensure_bucket(client: AsyncClient, name: str, kind: str) -> None:
    if name == "default":
        return
    existing = next((each for each in (await client.topology()).buckets if each.name == name), None)
    if existing is None:
        await client.create_bucket(name, default_type=kind)
    elif existing.default_type.name.lower() != kind:
        raise InvalidArgument(
            f"bucket {name} is {existing.default_type.name.lower()}, not {kind}: choose another --bucket"
        )


async def _measure(runner: Runner, plan: BenchPlan, options: dict[str, Any]) -> tuple[Measured, int]:
    wants_preload = options["preload"] if options["preload"] is not None else plan.mix.reads
    preloaded = 0
    if wants_preload:
        preloaded = await runner.preload(_progress(plan.keys_count))
    warmup_s = 0.0 if options["warmup"] in ("0", "0s") else parse_duration_s(options["warmup"])
    if warmup_s:
        await runner.phase(warmup_s, None)
    return await runner.phase(plan.duration_s, plan.operations_max), preloaded


def _progress(keys_count: int) -> Any:
    step = max(1, keys_count // 10)

    def say(index: int) -> None:
        if index % step == 0 and index:
            print(f"preloading: {index:,} of {keys_count:,}", file=sys.stderr, flush=True)

    return say


def _setting(options: dict[str, Any], plan: BenchPlan, bucket: str) -> dict[str, Any]:
    return {
        "workload": options["workload"], "says": plan.mix.says, "loop": "open" if plan.rate_per_s else "closed",
        "rate_target": plan.rate_per_s, "concurrency": plan.concurrency, "connections": options["connections"],
        "keys": plan.keys_count, "value_size_bytes": options["value_size"], "distribution": plan.distribution,
        "type": options["kind"], "policy": plan.policy, "bucket": bucket, "seed": plan.seed,
    }  # fmt: skip


def summarize(measured: Measured) -> dict[str, Any]:
    """Return rates, counts and percentiles (ms) of a phase, in total and by kind."""
    everything: array[int] = array("q")
    for latencies in measured.latencies_ns.values():
        everything.extend(latencies)
    kinds: dict[Kind, array[int]] = {kind: each for kind, each in measured.latencies_ns.items() if each}
    return {
        "operations": len(everything), "elapsed_s": round(measured.elapsed_s, 3),
        "per_s": round(len(everything) / measured.elapsed_s, 1) if measured.elapsed_s else 0.0,
        "errors": sum(measured.errors.values()), "errors_by_code": dict(sorted(measured.errors.items())),
        "not_found": measured.not_found, "latency_ms": _percentiles(everything),
        "by_kind": {kind.label: {"operations": len(each), **_percentiles(each)} for kind, each in kinds.items()},
    }  # fmt: skip


def _percentiles(latencies_ns: array[int]) -> dict[str, float]:
    histogram = _histogram()
    for microseconds, count in Counter(each // 1_000 for each in latencies_ns).items():
        histogram.record_value(min(max(1, microseconds), LATENCY_US_MAX), count)
    if not latencies_ns:
        return {}
    found = {f"p{each:g}": histogram.get_value_at_percentile(each) / 1e3 for each in PERCENTILES}
    return {**found, "max": max(latencies_ns) / 1e6}


def _histogram() -> Any:
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise ConfigError("kvctl bench needs hdrhistogram: pip install 'kvnode[bench]'") from None
    return HdrHistogram(1, LATENCY_US_MAX, 3)


def _text(document: dict[str, Any]) -> str:
    loop = f"{document['concurrency']} in flight"
    if document["loop"] == "open":
        loop = f"open loop, at most {document['concurrency']} in flight"
    head = (
        f"workload {document['workload']} ({document['says']}), {loop}, {document['keys']:,} keys {document['distribution']},"
        f" {document['value_size_bytes']} B values, {document['type']}, puts {document['policy']}"
    )
    target = f"target {document['rate_target']:g}/s achieved " if document["loop"] == "open" else ""
    lines = [head, f"{target}{document['per_s']:,.0f}/s  {_shown(document['latency_ms'])}  errors {document['errors']}"]
    if len(document["by_kind"]) > 1:
        lines += [
            f"  {name:<18} {each['operations']:>9,}  {_shown(each)}" for name, each in document["by_kind"].items()
        ]
    if document["errors"]:
        lines.append(
            "  errors: " + ", ".join(f"{code} {count:,}" for code, count in document["errors_by_code"].items())
        )
    if document["not_found"]:
        lines.append(f"  not found: {document['not_found']:,} reads (run with --preload)")
    return "\n".join(lines)


def _shown(percentiles: dict[str, Any]) -> str:
    names = [f"p{each:g}" for each in PERCENTILES] + ["max"]
    return "  ".join(f"{name} {percentiles[name]:.2f}" for name in names if name in percentiles) + " ms"
