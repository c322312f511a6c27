"""`kvctl bucket create | list`: namespaces with their own defaults."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.objects import Count
from cluster.cli.session import Session, parse_duration_s

if TYPE_CHECKING:
    from kvstore.client.client import AsyncClient

__all__ = ["bucket"]


@click.group()
def bucket() -> None:
    """Create and list buckets: namespaces with their own type and consistency."""


@bucket.command(name="create")
@click.argument("name")
@click.option(
    "--type", "kind", type=click.Choice(["register", "lww"]), default="register", show_default=True,
    help="Conflict rule of plain put and get: keep concurrent values as siblings, or the newest wins.",
)  # fmt: skip
@click.option("--r", type=Count(), help="Replicas that must answer a read. [quorum]")
@click.option("--w", type=Count(), help="Replicas that must acknowledge a write. [quorum]")
@click.option("--dw", type=Count(), help="Replicas that must have a write on disk. [quorum]")
@click.option("--pr", type=Count(), help="Owners (not fallbacks) that must answer a read.")
@click.option("--pw", type=Count(), help="Owners (not fallbacks) that must acknowledge a write.")
@click.option("--ttl", help="Values expire after this long: 90s, 10m, 1h, 7d.")
@click.pass_obj
def create(session: Session, /, name: str, kind: str, ttl: str | None, **counts: Any) -> None:
    """Create bucket NAME. Again with the same properties it does nothing; they can never be changed."""

    async def work(client: AsyncClient) -> int:
        options = {option: count for option, count in counts.items() if count is not None}
        if ttl is not None:
            options["ttl"] = timedelta(seconds=parse_duration_s(ttl))
        await client.create_bucket(name, default_type=kind, **options)
        session.show({"created": name, "type": kind}, f"bucket {name} ({kind})")
        return 0

    session.run(work)


@bucket.command(name="list")
@click.pass_obj
def list_buckets(session: Session) -> None:
    """List the buckets with what they set; a dash is the cluster's default."""

    async def work(client: AsyncClient) -> int:
        from cluster.cli.cluster_view import table
        from cluster.cli.inspect_cluster import bucket_document

        documents = [bucket_document(each) for each in (await client.topology()).buckets]
        names = ["name", "type", "r", "w", "dw", "pr", "pw", "ttl_ms"]
        rows = [
            ["-" if document[name] in (None, 0) else str(document[name]) for name in names] for document in documents
        ]
        session.show({"buckets": documents}, table([[name.upper() for name in names], *rows]))
        return 0

    session.run(work)
