"""``fanpulse migrate``."""

import typer

from fanpulse.context import settings
from pipeline.migrate import migrate as apply


def migrate(ctx: typer.Context) -> None:
    """Create the database and its tables and views, or bring them up to date.

    Migrations are numbered, applied once and never edited. Safe to run again at any time.

    \b
    Examples:
      fanpulse migrate
      FANPULSE_DATABASE=fanpulse_trial fanpulse migrate
    """
    here = settings(ctx)
    applied = apply(here, lambda migration: typer.echo(f"applied {migration.name}"))
    if not applied:
        typer.echo(f"database {here.database} is up to date")
