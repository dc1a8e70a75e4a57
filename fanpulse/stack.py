"""``fanpulse up``, ``down`` and ``status``."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from fanpulse.context import print_json, print_table, settings
from fanpulse.figures import read_health
from fanpulse.worker import worker_service
from infra.home import Home
from infra.settings import Settings
from infra.stack import ServiceRow, Stack


def up(ctx: typer.Context) -> None:
    """Start the local Kafka and ClickHouse, and wait until both answer.

    Nothing happens to one that runs already. A Kafka or ClickHouse named by FANPULSE_KAFKA or FANPULSE_CLICKHOUSE
    is used instead, and only asked whether it answers. Both listen on 127.0.0.1 only.

    \b
    Examples:
      fanpulse up
      fanpulse up --home ./second-stack
      FANPULSE_KAFKA=kafka1:9092 fanpulse up
    """
    _print(Stack(settings(ctx)).up())


def down(ctx: typer.Context) -> None:
    """Stop the local Kafka and ClickHouse, and the worker of a demo that was killed; their data stay.

    \b
    Examples:
      fanpulse down
      fanpulse down --home ./second-stack
    """
    here = settings(ctx)
    stopped = ["worker"] if worker_service(here, 1).stop() else []
    stopped += Stack(here).down()
    typer.echo(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def status(
    ctx: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False
) -> None:
    """Show which services run and where, and the workers of this home that answer. Exits 1 if a service does not run.

    \b
    Examples:
      fanpulse status
      fanpulse status --json | jq -r '.[] | select(.service == "kafka").address'
    """
    here = settings(ctx)
    rows = Stack(here).status()
    rows += _workers(here)
    if json:
        print_json([asdict(row) for row in rows])
    else:
        _print(rows)
    if any(row.state != "running" for row in rows):
        raise typer.Exit(1)


def _workers(here: Settings) -> list[ServiceRow]:
    """The workers of a home that answer their health address."""
    rows = []
    for name, port in sorted(Home(here.home).ports().items()):
        if name.startswith("worker-"):
            health = read_health(here, [int(name.removeprefix("worker-"))])
            if health.workers:
                lag = f"lag {health.lag:,}, {health.records:,} records read, {health.refused:,} refused"
                rows.append(ServiceRow(name, "running", f"http://127.0.0.1:{port}/health", None, None, lag))
    return rows


def _print(rows: list[ServiceRow]) -> None:
    print_table(
        ["SERVICE", "STATE", "ADDRESS", "PID", "UP FOR", "DETAIL"],
        [
            [row.service, row.state, row.address or "-", str(row.pid or "-"), _age(row.since), row.detail]
            for row in rows
        ],
    )


def _age(since: datetime | None) -> str:
    if since is None:
        return "-"
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    days, hours, minutes = seconds // 86_400, seconds % 86_400 // 3600, seconds % 3600 // 60
    return f"{days}d {hours}h" if days else f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds % 60}s"
