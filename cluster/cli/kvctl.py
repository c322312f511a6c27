"""`kvctl`: everything but running a node. One small file per group of commands; this one only puts them together."""

from __future__ import annotations

import click

from cluster.cli.bench import bench
from cluster.cli.buckets import bucket
from cluster.cli.demo import demo
from cluster.cli.inspect_cluster import ring, status, topology
from cluster.cli.load import load
from cluster.cli.objects import delete, get, put, resolve
from cluster.cli.session import Session, client_url, parse_duration_s
from kvstore import __version__
from kvstore.errors import InvalidArgument

__all__ = ["main"]

NODE_DEFAULT = "kv://127.0.0.1:7400"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--node", "-n", envvar="KVCTL_URL", default=NODE_DEFAULT, show_default=True, show_envvar=True,
    help="Any nodes of the cluster: HOST:PORT, several with commas, or a kv:// URL with options.",
)  # fmt: skip
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--timeout", help="Deadline of one operation, retries included: 500ms, 2s. [the client's]")
@click.version_option(__version__, prog_name="kvctl")
@click.pass_context
def main(context: click.Context, node: str, output: str, timeout: str | None) -> None:
    """Use, inspect, load and measure a kvstore cluster.

    Exit codes: 0 ok, 1 unexpected, 2 usage, 3 not found, 4 unavailable (not applied), 5 timeout (maybe applied),
    6 precondition failed, 7 siblings, 9 unhealthy.
    """
    try:
        timeout_s = parse_duration_s(timeout) if timeout is not None else None
    except InvalidArgument as error:
        raise click.BadParameter(error.message, param_hint="--timeout") from None
    context.obj = Session(client_url(node, timeout_s), output)


for command in (put, get, delete, resolve, status, ring, topology, load, bench, demo, bucket):
    main.add_command(command)


if __name__ == "__main__":
    main()
