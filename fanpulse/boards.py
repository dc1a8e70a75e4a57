"""``fanpulse boards``: show boards without a Grafana, build their files, check their queries, send them to one."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

import dashboards
from dashboards.alerts import RULES
from dashboards.boards import boards as all_boards
from dashboards.check import Ran, faults, options, queries, run
from dashboards.preview.server import serve
from dashboards.publication import FOLDER, ClickHouse, Item, changes, files, items
from dashboards.render import ZONE, as_json
from fanpulse.context import print_json, progress, settings
from fanpulse.interrupt import stopping
from infra.connect import clickhouse_address, clickhouse_client, clickhouse_login
from infra.grafana import Grafana
from infra.home import Home
from infra.settings import Settings

boards = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The group of subcommands."""

_SHOWN = 4
"""Differences of a thing that are named."""


@boards.callback()
def group() -> None:
    """Boards and alert rules: show them, build their files, check every query, send them to a Grafana: docs/boards.md.

    \b
    Examples:
      fanpulse boards preview
      fanpulse boards check
      fanpulse boards publish --dry-run
    """


@boards.command(short_help="Write the files that Grafana reads.")
def build(
    ctx: typer.Context,
    to: Annotated[Path | None, typer.Option("--to", help="Folder; default: where fanpulse keeps them.")] = None,
) -> None:
    """Write the JSON of every board, and the files that Grafana is started with. In a folder of your own local days are
    those of FANPULSE_TIME_ZONE.

    \b
    Examples:
      fanpulse boards build
      fanpulse boards build --to ./boards
    """
    folder = to or Path(dashboards.__path__[0])
    zone = settings(ctx).time_zone if to is not None else ZONE
    written = {f"json/{board.uid}.json": as_json(board, zone) for board in all_boards()}
    written |= {f"grafana/{name}": text for name, text in files(zone).items()}
    for name, text in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            typer.echo(f"wrote {path}")
    typer.echo(f"{len(written)} files in {folder}")


@boards.command(short_help="Run every query of boards and alert rules.")
def check(
    ctx: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Only as boards open, not with every choice.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object a query, instead.")] = False,
) -> None:
    """Run every query of panels, variables, annotations and alert rules as the read-only analyst: as boards open, then
    with every value of every variable, and pairs of values.

    Exits 1 if one fails, shows nothing where it should, or reads more rows than it may; or if a board has a fault.

    \b
    Examples:
      fanpulse boards check
      fanpulse boards check --quick --json | jq 'sort_by(-.took_ms)[:5]'
    """
    here = settings(ctx)
    found = list(faults(all_boards()))
    wanted = queries(all_boards(), RULES, here.time_zone)
    ran: list[list[Ran]] = []
    now_ms = int(time.time() * 1000)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client, progress("queries of boards") as say:
        values = options(client)
        for number, query in enumerate(wanted, start=1):
            say(f"{number} of {len(wanted)}: {query.where}")
            ran.append(run(client, query, now_ms, here.time_zone, values, thorough=not quick))
    found += [f"{each[-1].query.where}: {each[-1].wrong}{_chosen(each[-1])}" for each in ran if each[-1].wrong]
    if as_json:
        print_json([_as_json(each) for each in ran])
    else:
        slowest = max((one for each in ran for one in each), key=lambda one: one.took_ms)
        for line in found:
            typer.echo(line)
        typer.echo(
            f"{len(ran)} queries, run {sum(map(len, ran)):,} times; the slowest took {slowest.took_ms:.0f} ms: "
            f"{slowest.query.where}; {'nothing is wrong' if not found else f'{len(found)} faults'}"
        )
    if found:
        raise typer.Exit(1)


@boards.command(short_help="Send data source, boards and alert rules to a Grafana.")
def publish(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Send the data source with its password again, changed or not.")
    ] = False,
) -> None:
    """Send data source, folder, boards, contact point and alert rules to the Grafana of FANPULSE_GRAFANA_URL, and say
    what changes. What is as it should be is left alone.

    \b
    Examples:
      FANPULSE_GRAFANA_URL=https://grafana.example FANPULSE_GRAFANA_TOKEN=... fanpulse boards publish --dry-run
      fanpulse boards publish
    """
    here = settings(ctx)
    grafana = Grafana(here)
    contact = here.grafana_contact.get_secret_value() if here.grafana_contact is not None else None
    told = {"new": 0, "changed": 0, "unchanged": 0}
    for item in items(_clickhouse(here), here.time_zone, contact, here.grafana_runbooks):
        now = grafana.find(item.kind, item.uid)
        differs = ["all of it"] if now is None else list(changes(now, item.body))
        if password and item.secret and not differs:
            differs = ["password"]
        word = "new" if now is None else "changed" if differs else "unchanged"
        told[word] += 1
        if word != "unchanged":
            typer.echo(f"{word:9} {item.kind} {item.title}{_named(differs) if now is not None else ''}")
            if not dry_run:
                grafana.save(item.kind, item.uid, _sent(item), FOLDER, new=now is None)
    did = "would be " if dry_run else ""
    typer.echo(
        f"{grafana.url}: {told['new']} {did}new, {told['changed']} {did}changed, {told['unchanged']} as they should be"
    )
    if contact is None:
        typer.echo("alerts go to Grafana's own contact point: FANPULSE_GRAFANA_CONTACT names none")


@boards.command(short_help="Show the boards in a browser, without a Grafana.")
def preview(
    ctx: typer.Context,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of 127.0.0.1. [default: the same each time in a home]")
    ] = None,
) -> None:
    """Show the boards in a browser without a Grafana, until Ctrl-C: the same JSON and the same queries, run as the
    read-only analyst, on pages that only this machine can open.

    \b
    Examples:
      fanpulse boards preview
      fanpulse boards preview --port 3001
    """
    here = settings(ctx)
    stop = threading.Event()
    with stopping(stop), serve(here, port or preview_port(here)) as address:
        typer.echo(f"boards: {address}   Ctrl-C ends this")
        stop.wait()


def preview_port(here: Settings) -> int:
    """The port of the preview in this home, or another one while that is taken."""
    return Home(here.home).choose_ports("boards")["boards"]


def _clickhouse(here: Settings) -> ClickHouse:
    user, password = clickhouse_login(here, "analyst")
    return ClickHouse(here.grafana_clickhouse or clickhouse_address(here), here.database, user, password)


def _sent(item: Item) -> dict[str, object]:
    return dict(item.body) if item.secret is None else {**item.body, "secureJsonData": item.secret}


def _named(differs: list[str]) -> str:
    more = f" and {len(differs) - _SHOWN} more" if len(differs) > _SHOWN else ""
    return f": {', '.join(differs[:_SHOWN])}{more}"


def _chosen(ran: Ran) -> str:
    return f" ({', '.join(f'{name} {values[0]}' for name, values in ran.chosen.items())})" if ran.chosen else ""


def _as_json(ran: list[Ran]) -> dict[str, object]:
    worst = max(ran, key=lambda one: one.took_ms)
    return {
        "query": ran[0].query.where,
        "times": len(ran),
        "took_ms": round(worst.took_ms, 1),
        "rows_read": max(one.read for one in ran),
        "rows": ran[0].rows,
        "wrong": ran[-1].wrong,
    }
