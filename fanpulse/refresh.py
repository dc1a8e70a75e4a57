"""``fanpulse refresh``."""

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from fanpulse.context import day, print_json, progress, settings
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from pipeline.migrate import require_migrated
from pipeline.refresh import TIMEOUT
from pipeline.refresh import refresh as compute


def refresh(
    ctx: typer.Context,
    first: Annotated[
        str | None, typer.Option("--from", help="First local day, YYYY-MM-DD. [default: those that changed]")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last local day, YYYY-MM-DD, included.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Bring the daily features of fans, their tiers and tags up to date now.

    Workers do it by themselves every FANPULSE_REFRESH_INTERVAL seconds, for the local days whose events have changed.
    This does the same at once; with --from or --to it computes those days again, whether they have changed or not.
    It may run beside workers, and again.

    \b
    Examples:
      fanpulse refresh
      fanpulse refresh --from 2026-01-30 --to 2026-01-31
    """
    here = settings(ctx)
    begin, end = (None if text is None else day(text) for text in (first, last))
    if begin is not None and end is not None and end < begin:
        raise FanpulseError(f"the last day, {end}, is before the first, {begin}")
    require_migrated(here)
    with (
        contextlib.closing(clickhouse_client(here, timeout=TIMEOUT)) as client,
        progress("looking for days that changed") as report,
    ):
        done = compute(here, client, datetime.now(UTC), "refresh", begin, end, report)
    if as_json:
        print_json({name: {str(each): rows for each, rows in days.items()} for name, days in asdict(done).items()})
        return
    for each, rows in done.days.items():
        typer.echo(f"{each}: {rows:,} fans")
    changed = f"{sum(done.values.values()):,} changes"
    typer.echo(f"features of {len(done.days)} days, {changed} of tier or tags on {len(done.values)} days")
