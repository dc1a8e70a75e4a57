"""``fanpulse repair``."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from fanpulse.context import day, print_json, progress, settings
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline.migrate import require_migrated
from pipeline.repair import repair as mend

READ_WITHIN_S = 30.0
"""Seconds that a worker has to read what a repair tells the fan log."""


def repair(
    ctx: typer.Context,
    first: Annotated[str, typer.Option("--from", help="First local day, YYYY-MM-DD.", show_default=False)] = "",
    last: Annotated[str, typer.Option("--to", help="Last local day, YYYY-MM-DD, included.", show_default=False)] = "",
    stages: Annotated[bool, typer.Option("--stages", help="Compute stages and moves of all fans anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Take late events into the figures of their days, or compute the stages of fans by other settings.

    The stream stores and counts events beyond the late horizon but leaves the figures alone; --from and --to add them,
    by the same SQL that defines the figures. It may run beside workers, and again: the same day repaired twice is right
    all the same.

    --stages is for a changed FANPULSE_ACTIVE_INTERVAL, FANPULSE_CHURN_AFTER or FANPULSE_NO_ACTIVITY: it writes the
    stages and moves of all fans as these settings give them for all stored events, takes back moves that are no longer
    true, in ClickHouse and on the topic fan_transitions, and computes tiers and tags anew. No worker may run meanwhile.

    \b
    Examples:
      fanpulse repair --from 2026-01-30 --to 2026-01-31
      fanpulse sql 'SELECT toDate(event_time) AS day, count() FROM raw_orders WHERE late AND NOT repaired GROUP BY 1'
      FANPULSE_CHURN_AFTER=45 fanpulse repair --stages
    """
    if stages == bool(first or last) or bool(first) != bool(last):
        raise FanpulseError("say which days (--from and --to), or --stages", exit_code=2)
    here = settings(ctx)
    require_migrated(here)
    if stages:
        _stages(here, as_json)
        return
    done = mend(here, day(first), day(last), patience=READ_WITHIN_S)
    if as_json:
        print_json(asdict(done))
        return
    for topic, events in done.events.items():
        typer.echo(f"{topic}: {events:,} late events are in the figures, {done.repeats[topic]:,} were repeats")
    if done.facts:
        follow = "are in stages and moves" if done.read else "wait for a worker: fanpulse worker"
        typer.echo(f"fan log: {done.facts:,} facts {follow}")
    for table, rows in done.rows.items():
        typer.echo(f"{table}: {rows:,} rows")


def _stages(configured: Settings, as_json: bool) -> None:
    # It reads the fan log as workers do, with Faust: half a second to import, and most commands do without it.
    from pipeline.recompute import recompute

    with progress("reading checkpoints") as report:
        done = recompute(configured, datetime.now(UTC), report)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"fans: {done.fans:,}")
    typer.echo(f"moves: {done.moves:,} new or changed, {done.withdrawn:,} withdrawn")
    typer.echo("workers may start again with these settings: fanpulse worker")
