"""``fanpulse up``, ``down`` and ``status``."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from fanpulse.context import print_json, print_table, settings
from fanpulse.worker import worker_service
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
    """Show which services run and where. Exits 1 if one does not.

    \b
    Examples:
      fanpulse status
      fanpulse status --json | jq -r '.[] | select(.service == "kafka").address'
    """
    rows = Stack(settings(ctx)).status()
    if json:
        print_json([asdict(row) for row in rows])
    else:
        _print(rows)
    if any(row.state != "running" for row in rows):
        raise typer.Exit(1)


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
