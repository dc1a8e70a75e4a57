"""``fanpulse repair``."""

from dataclasses import asdict
from datetime import date
from typing import Annotated

import typer

from fanpulse.context import print_json, settings
from infra.errors import FanpulseError
from pipeline.repair import repair as mend

READ_WITHIN_S = 30.0
"""Seconds that a worker has to read what a repair tells the fan log."""


def repair(
    ctx: typer.Context,
    first: Annotated[str, typer.Option("--from", help="First local day, YYYY-MM-DD.", show_default=False)],
    last: Annotated[str, typer.Option("--to", help="Last local day, YYYY-MM-DD, included.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Take events that came beyond the late horizon into the figures of their days.

    The stream stores and counts such events but leaves the figures alone; this adds them, by the same SQL that
    defines the figures. It may run beside workers, and again: the same day repaired twice is right all the same.

    \b
    Examples:
      fanpulse repair --from 2026-01-30 --to 2026-01-31
      fanpulse sql 'SELECT toDate(event_time) AS day, count() FROM raw_orders WHERE late AND NOT repaired GROUP BY 1'
    """
    done = mend(settings(ctx), _day(first), _day(last), patience=READ_WITHIN_S)
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


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise FanpulseError(f"{text!r} is no day: write it as YYYY-MM-DD") from None
