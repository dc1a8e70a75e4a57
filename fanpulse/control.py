"""What ``fanpulse rules`` and ``fanpulse campaigns`` share: files that are refused, plans shown, changes told."""

import getpass
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import typer
from clickhouse_connect.driver.client import Client

from fanpulse.context import progress
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline.control import PATIENCE, Change, Step, await_taken, heard_of, send
from schemas.rule_files import Refused
from schemas.yaml_file import load

T = TypeVar("T")
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who tells it. [default: your login name]", show_default=False),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def faults(read: Callable[[], T]) -> T:
    """What is read; of a file that is refused, every fault on a line of its own, and exit code 2."""
    try:
        return read()
    except Refused as refused:
        for fault in refused.faults:
            typer.echo(f"fanpulse: {fault}", err=True)
        raise typer.Exit(2) from None


def who(by: str | None) -> str:
    """Who tells a change.

    Raises:
        FanpulseError: nobody is named, and the login has no name.
    """
    try:
        name = (getpass.getuser() if by is None else by).strip()
    except (OSError, KeyError, ImportError):
        name = ""
    if not name or len(name) > 64 or not name.isprintable():
        raise FanpulseError("nobody knows who tells it: write --by and a name, of at most 64 characters")
    return name


@dataclass(frozen=True)
class Moment:
    """Writes moments in a time zone."""

    zone: str

    def __call__(self, at: datetime) -> str:
        return f"{at.astimezone(ZoneInfo(self.zone)):%Y-%m-%d %H:%M}"


_STYLES: dict[str, dict[str, Any]] = {
    "added": {"fg": "green", "bold": True},
    "changed": {"fg": "yellow", "bold": True},
    "unfinished": {"fg": "yellow", "bold": True},
    "unchanged": {"dim": True},
}


def show_plan(steps: Sequence[Step], left_alone: Collection[str], file: Path) -> None:
    """What a file would change, rule by rule or campaign by campaign; warnings come last."""
    for step in steps:
        typer.echo(f"{typer.style(step.name, bold=True)}  {typer.style(step.what, **_STYLES[step.what])}")
        for line in step.lines:
            typer.echo(f"  {line}")
    for name in sorted(left_alone):
        typer.secho(f"{name}  in force, and not in {file.name}: left alone", dim=True)
    for step in steps:
        warn(() if step.refused else step.warnings)


def warn(warnings: Sequence[str]) -> None:
    """Says what nobody should overlook."""
    for each in warnings:
        typer.secho(f"! {each}", fg="red", bold=True)


def refuse(steps: Sequence[Step], file: Path, top: str) -> None:
    """Ends the command with exit code 2 if something may not be, and says each with its line."""
    lines = load(file)
    refused = [(number, step) for number, step in enumerate(steps) if step.refused]
    for number, step in refused:
        for place, why in step.refused.items():
            error = lines.error((top, number, *place), f"{step.name}: {why}")
            typer.echo(f"fanpulse: {error.message}", err=True)
    if refused:
        typer.echo("fanpulse: nothing is sent", err=True)
        raise typer.Exit(2)


def tell(settings: Settings, client: Client, change: Change, what: str) -> None:
    """Sends a change, waits a while for workers to take it in, and says how far it is. ``what``: is sent.

    Raises:
        FanpulseError: Kafka did not take it everywhere.
    """
    sent = send(settings, change)
    wanted = heard_of(change, sent, settings.partitions)
    with progress("waiting for workers to take it in") as report:
        taken = await_taken(
            client,
            change,
            wanted,
            lambda number: report(f"waiting for workers to take it in: {number} of {len(wanted)} partitions"),
            PATIENCE,
        )
    if taken == len(wanted):
        typer.echo(f"{what}: sent, and in force")
    elif taken:
        typer.echo(
            f"{what}: sent; in {taken} of {len(wanted)} partitions it is in force, in the others once the workers that "
            "hold them have read so far"
        )
    else:
        typer.echo(
            f"{what}: sent; no worker has taken it in yet: it holds as soon as one does (fanpulse worker), and "
            "need not be sent again"
        )


def nearest(name: str, known: Collection[str]) -> str:
    """``; did you mean ...?``, if there is anything."""
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""
