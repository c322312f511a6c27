"""`kvnode`: run one node until it is told to stop.

Heavy imports happen after the options are understood, so that `--help` and a mistyped option answer at once.
Exit codes: 0 clean stop, 2 unusable option, otherwise that of the error; 1 when the node had to end at once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvstore import __version__

if TYPE_CHECKING:
    from cluster.cli.config import NodeSettings
    from cluster.node import Node

__all__ = ["main"]

STARTED_S = time.monotonic()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--data", type=click.Path(), help="Directory of this node's data; made if missing. Required.")
@click.option(
    "--run-dir",
    type=click.Path(),
    help="Where this machine remembers, until it restarts, that a kill lost nothing: a tmpfs. [/dev/shm/kvnode-UID]",
)
@click.option("--listen", metavar="HOST:PORT", help="Address to serve on; port 0 takes a free one. [127.0.0.1:7400]")
@click.option("--advertise", metavar="HOST:PORT", help="Address others reach this node at. [the one it listens on]")
@click.option(
    "--lane-port", type=int, help="Port for direct lanes; 0 takes a free one, -1 offers none: all is gRPC. [0]"
)
@click.option("--join", multiple=True, metavar="HOST:PORT", help="A member of the cluster to enter. Repeatable.")
@click.option("--replace", metavar="ID", help="With --join: take the place of this dead member, for good.")
@click.option("--zone", help="Failure domain; copies of a key go to different zones where possible. [default]")
@click.option("--weight", type=int, help="Share of the data relative to the other nodes. [1]")
@click.option("--cluster-name", help="Name of the cluster when this node founds it. [dev]")
@click.option("--n", type=int, help="Copies of every key when this node founds the cluster. [3]")
@click.option("--partitions", type=int, help="Ring partitions (a power of two) when it founds the cluster. [256]")
@click.option("--max-clock-skew-ms", type=int, help="Timestamps further ahead than this are refused. [2000]")
@click.option("--record-cache-mb", type=int, help="Memory for the records used last; 0 for none. [64]")
@click.option("--join-timeout-s", type=float, help="Give up joining after this long. [30]")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with any of these options. [KVNODE_CONFIG]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[info]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[text]")
@click.option(
    "--insecure", is_flag=True, default=None, help="Serve beyond this machine without TLS and authentication."
)
@click.option(
    "--moved", is_flag=True, default=None, help="The data directory was moved here whole; the original is gone."
)
@click.version_option(__version__, prog_name="kvnode")
def main(config: str | None, **options: Any) -> None:
    """Run a node: found a cluster, or enter one with --join.

    Every option can also be an environment variable (KVNODE_LISTEN) or a key of the --config file (listen = "...").
    A flag wins over the environment, the environment over the file, the file over the default.
    """
    from kvstore.errors import KVStoreError

    flags = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        exit_code = _run(flags, config or os.environ.get("KVNODE_CONFIG"))
    except KVStoreError as error:
        print(f"kvnode: {error}", file=sys.stderr)
        exit_code = error.exit_code
    sys.exit(exit_code)


def _run(flags: dict[str, Any], config_path: str | None) -> int:
    from cluster.cli.config import read_toml, settle

    document = read_toml(_read(config_path), config_path) if config_path else {}
    settings = settle(flags, os.environ, document, source=config_path or "TOML")

    from cluster.cli.logs import set_up_logs
    from cluster.node import NodeOptions
    from cluster.real import run_node

    set_up_logs(settings.log_level, settings.log_format)
    options = NodeOptions(
        listen=settings.listen, advertise=settings.advertise, join=settings.join, replaced=settings.replace, zone=settings.zone,
        weight=settings.weight, cluster_name=settings.cluster_name, n=settings.n,
        partition_bits=settings.partition_bits, max_clock_skew_ms=settings.max_clock_skew_ms,
        join_timeout_s=settings.join_timeout_s, record_cache_bytes=settings.record_cache_mb << 20, moved=settings.moved,
    )  # fmt: skip
    run_directory = Path(settings.run_dir) if settings.run_dir is not None else None
    return run_node(
        Path(settings.data), options, lambda node: _announce(node, settings), run_directory=run_directory,
        lane_port=settings.lane_port,
    )  # fmt: skip


def _announce(node: Node, settings: NodeSettings) -> None:
    """Say on stdout that the node serves. The last line is what scripts wait for: keep `ready in` and `grpc ADDRESS`."""
    status = node.status()
    if settings.join:
        owned = next((each["partitions"] for each in status["members"] if each["node_id"] == status["node_id"]), 0)
        members = len(status["members"])
        verb = "joined" if status["boot_number"] == 1 else "member of"
        print(
            f'{verb} "{status["cluster"]}" ({members} nodes), holding {owned} of {1 << status["partition_bits"]} partitions'
        )
    print(
        f"kvnode {__version__}  node {status['node_id'][:4]}  data {settings.data}  grpc {node.address}"
        f" · ready in {time.monotonic() - STARTED_S:.1f} s · try: kvctl put hello world",
        flush=True,
    )


def _read(path: str) -> str:
    from kvstore.errors import ConfigError

    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read --config {path}: {problem}") from None


if __name__ == "__main__":
    main()
