"""What every subcommand gets from the command line: the settings, and plain ways to print."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from infra.errors import FanpulseError
from infra.settings import Settings, load


def settings(ctx: typer.Context) -> Settings:
    """The settings of this run, with ``--home`` before ``FANPULSE_HOME``.

    Raises:
        SettingsError: a setting is unknown or bad.
    """
    home: Path | None = ctx.obj
    return load(home)


def day(text: str) -> date:
    """A local day written as YYYY-MM-DD.

    Raises:
        FanpulseError: it is written otherwise.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise FanpulseError(f"{text!r} is no day: write it as YYYY-MM-DD") from None


@contextlib.contextmanager
def progress(begin: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal, on standard error, what is being done; what is yielded is told. Elsewhere it is silent."""
    with Console(stderr=True).status(begin) as status:
        yield status.update if sys.stderr.isatty() else lambda line: None


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; dates and paths as text."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns aligned by spaces: readable on a terminal, and cut by any tool."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
