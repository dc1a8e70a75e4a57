"""``fanpulse alerts``."""

import contextlib
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fanpulse.context import print_json, print_table, settings
from fanpulse.generate import duration
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from pipeline.alerting import read_alerts
from pipeline.alerts import Alert
from pipeline.webhook import webhooks

alerts = typer.Typer(rich_markup_mode=None)
"""The group of subcommands; without one it lists."""

LONGEST = 10_000 * 86_400
"""Seconds that anybody looks back at most."""
CreatorOption = Annotated[str | None, typer.Option("--creator", help="Only those of this creator.")]
SinceOption = Annotated[
    str, typer.Option("--since", metavar="7d", help="Resolved ones only if they were opened in this time.")
]
OpenOption = Annotated[bool, typer.Option("--open", help="Only open ones.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON list instead, with all figures.")]


@alerts.callback(invoke_without_command=True)
def group(
    ctx: typer.Context,
    creator: CreatorOption = None,
    since: SinceOption = "7d",
    only_open: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show alerts, open ones first and those of the last days, with figures and what to do; or try the webhooks.

    Workers look for alerts every FANPULSE_ALERT_INTERVAL seconds; docs/alerts.md says at what.

    \b
    Examples:
      fanpulse alerts
      fanpulse alerts list --creator dy_food_027 --since 30d
      fanpulse alerts --open --json | jq '.[].said'
      fanpulse alerts test
    """
    if ctx.invoked_subcommand is None:
        list_(ctx, creator, since, only_open, as_json)


@alerts.command("list", short_help="List open alerts, and those of the last days.")
def list_(
    ctx: typer.Context,
    creator: CreatorOption = None,
    since: SinceOption = "7d",
    only_open: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """List open alerts first, then those that were opened in the last days and are resolved.

    \b
    Examples:
      fanpulse alerts list --since 30d
      fanpulse alerts list --open --json
    """
    begin = datetime.now(UTC) - timedelta(seconds=min(duration(since), LONGEST))
    where = "(state = 'open' OR at >= {begin:DateTime64(3, 'UTC')}) AND ({creator:String} IN ('', creator_id))"
    with contextlib.closing(clickhouse_client(settings(ctx), "analyst")) as client:
        found = read_alerts(client, where, {"begin": begin, "creator": creator or ""})
    found = sorted((each for each in found if not only_open or each.state == "open"), key=lambda each: -each.at)
    found.sort(key=lambda each: each.state != "open")
    if as_json:
        print_json([each.message(each.state) for each in found])
    elif not found:
        typer.echo("no alert is open" + ("" if only_open else f", and none was in the last {since}"))
    elif _on_terminal():
        _show(found)
    else:
        print_table(
            ["STATE", "DAY", "UNTIL", "PLATFORM", "CREATOR", "KIND", "FOUND"],
            [
                [each.state, str(each.day), _until(each), each.platform, _whom(each), each.kind, each.said]
                for each in found
            ],
        )


@alerts.command("test", short_help="Send a test alert to the webhooks.")
def test(ctx: typer.Context) -> None:
    """Send a test alert to every webhook of FANPULSE_WEBHOOK_URLS, and say what it answers.

    Exits 1 if one does not take it.

    \b
    Examples:
      fanpulse alerts test
      FANPULSE_WEBHOOK_FORMAT=dingtalk FANPULSE_WEBHOOK_URLS=https://... fanpulse alerts test
    """
    here = settings(ctx)
    hooks = webhooks(here)
    if not hooks:
        raise FanpulseError("there is no webhook: set FANPULSE_WEBHOOK_URLS, and FANPULSE_WEBHOOK_FORMAT")
    failed = False
    for hook in hooks:
        answer = hook.post(_test_alert().message("open"))
        failed = failed or not answer.taken
        said = " ".join(part for part in (str(answer.status or ""), answer.text) if part)
        typer.echo(f"{hook.name} ({here.webhook_format}): {'taken' if answer.taken else 'not taken'}: {said}")
    if failed:
        raise typer.Exit(1)


def _test_alert() -> Alert:
    at = time.time_ns() // 1_000_000
    return Alert(
        id=f"test:{at}",
        kind="test",
        platform="douyin",
        creator_id="nobody",
        subject="",
        day=datetime.fromtimestamp(at / 1000, UTC).date(),
        state="open",
        at=at,
        title="This is a test",
        said="Nothing happened: somebody tries whether alerts arrive.",
        advice=("Nothing is to be done.",),
        figures={"churn_rate": 0.0},
        thresholds={},
    )


def _show(found: list[Alert]) -> None:
    """For a terminal."""
    console = Console(highlight=False)
    for number, each in enumerate(found):
        if number:
            console.print()
        style = "bold red" if each.state == "open" else "green"
        console.print(Text.assemble((each.state, style), "  ", (each.title, "bold"), "  ", (_whom(each), "bold cyan")))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_row("day", Text(f"{each.day} on {each.platform}"))
        grid.add_row("found", Text(each.said))
        if each.state == "resolved":
            grid.add_row("resolved", Text(each.resolved_said))
        else:
            for advice in each.advice:
                grid.add_row("do", Text(advice))
        grid.add_row("id", Text(each.id, style="dim"))
        console.print(grid)


def _whom(alert: Alert) -> str:
    return " ".join(part for part in (alert.creator_id, alert.subject) if part)


def _until(alert: Alert) -> str:
    return "-" if alert.state == "open" else str(alert.resolved_day)


def _on_terminal() -> bool:
    return sys.stdout.isatty()
