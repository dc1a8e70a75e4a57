"""``fanpulse rules``: budget rules checked, read back as sentences, and tried on what was."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fanpulse.context import day, print_json, print_table, progress, settings
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from pipeline.backtest import Backtest, assumed, days, looked_at, read_newest, read_seen, read_series, with_age
from pipeline.backtest import backtest as try_out
from pipeline.rules import REASONS, Decision, Entity, Span, entities
from schemas.quantities import MINUTE_MS, show_money
from schemas.rule_files import Refused, read_campaigns, read_rules
from schemas.rule_files import template as text_of
from schemas.rules import METRICS, Rule, sentence, show

T = TypeVar("T")

rules = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The group of subcommands."""

RulesFile = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of rules.", show_default=False)]


@rules.callback()
def group() -> None:
    """Budget rules: check a file of them, try it on past days, or begin with a ready one.

    docs/rules.md has the format.

    \b
    Examples:
      fanpulse rules template e-commerce > rules.yaml
      fanpulse rules check rules.yaml
      fanpulse rules backtest rules.yaml --from 2026-01-01 --to 2026-01-14
    """


@rules.command(short_help="Check a file of rules, and read each back as a sentence.")
def check(ctx: typer.Context, file: RulesFile) -> None:
    """Check a file of rules, and read each one back as a sentence.

    Exits 2 if anything is wrong: all of it is said, with file, line, field, and what to write.

    \b
    Examples:
      fanpulse rules check rules.yaml
    """
    found = _read(file, settings(ctx).time_zone)
    for rule in found:
        typer.echo(f"{rule.id} v{rule.version}, {rule.name} ({rule.owner})\n  {sentence(rule)}")
    typer.echo(f"{file}: {len(found)} {'rule' if len(found) == 1 else 'rules'}, nothing wrong")


@rules.command(short_help="Print a ready file of rules.")
def template(
    name: Annotated[str, typer.Argument(help="e-commerce, education or local-services.", show_default=False)],
) -> None:
    """Print a ready file of rules. All of them are dry runs: they only say what they would do.

    \b
    Examples:
      fanpulse rules template local-services > rules.yaml
    """
    typer.echo(text_of(name), nl=False)


@rules.command(short_help="Show what rules would have done on past days.")
def backtest(
    ctx: typer.Context,
    file: RulesFile,
    first: Annotated[str, typer.Option("--from", help="First local day, YYYY-MM-DD.", show_default=False)],
    last: Annotated[
        str | None, typer.Option("--to", help="Last local day, included. [default: that of the newest figures]")
    ] = None,
    campaigns: Annotated[
        Path | None,
        typer.Option(help="YAML file of campaigns: their budgets, bids and targets at the start.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Show what the rules of a file would have done on past days: when, on which figures, and why not, as if all acted.

    Figures are those that are stored; what rules would have changed does not change them. Without a file of campaigns,
    those that are stored are taken, active, each with the spend of its dearest day as daily budget, and without a bid.
    Exits 1 if no window of any rule closed for anything in its scope.

    \b
    Examples:
      fanpulse rules backtest rules.yaml --from 2026-01-01 --to 2026-01-14
      fanpulse rules backtest rules.yaml --from 2026-01-01 --campaigns campaigns.yaml
      fanpulse rules backtest rules.yaml --from 2026-01-01 --json | jq '.firings[].key'
    """
    here = settings(ctx)
    found = _read(file, here.time_zone)
    known = None if campaigns is None else entities(_faults(lambda: read_campaigns(campaigns)))
    begin, end = day(first), None if last is None else day(last)
    with (
        contextlib.closing(clickhouse_client(here, "analyst")) as client,
        progress("reading figures") as report,
    ):
        trial = _try(
            client,
            found,
            known,
            begin,
            end,
            here.time_zone,
            lambda done: report(f"{done:.0%} of the time"),
        )
    if as_json:
        print_json(_as_json(trial))
    else:
        _show(trial)
    if not trial.result.evaluated:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Trial:
    """A backtest and what it was made of. ``left_out``: campaigns with figures that the file of campaigns has not;
    ``guessed``: budgets are guessed, there was no such file."""

    rules: tuple[Rule, ...]
    window: Span
    zone: str
    result: Backtest
    left_out: int
    guessed: bool


def _try(
    client: Client,
    found: tuple[Rule, ...],
    known: Sequence[Entity] | None,
    first: date,
    last: date | None,
    zone: str,
    say: Callable[[float], None],
) -> Trial:
    newest = read_newest(client)
    if newest is None:
        raise FanpulseError("nothing is stored of any advertisement: start a worker (fanpulse worker) and send events")
    reached = _moment(newest - MINUTE_MS, zone).date()
    last = reached if last is None else last
    if last < first:
        raise FanpulseError(f"the last day, {last}, is before the first, {first}")
    whole = days(first, last, zone)
    # A window closes when its last minute is over: what is not stored yet has not happened yet.
    window = Span(whole.start, min(whole.end, newest))
    if window.end <= window.start:
        raise FanpulseError(f"nothing is stored from {first} on: the newest advertisement is of {reached}")
    seen = read_seen(client)
    series = read_series(client, looked_at(found, window))
    of_file = {each.key[:2] for each in known or ()}
    left_out = {each.key[:2] for each in seen if each.key in series} - of_file if known is not None else set()
    start = assumed(seen, series, window, zone) if known is None else with_age(known, seen)
    return Trial(found, window, zone, try_out(found, start, series, window, say), len(left_out), known is None)


def _as_json(trial: Trial) -> dict[str, Any]:
    result = trial.result
    return {
        "from": _moment(trial.window.start, trial.zone).isoformat(),
        "until": _moment(trial.window.end, trial.zone).isoformat(),
        "closings": result.closings,
        "campaigns_left_out": trial.left_out,
        "budgets_guessed": trial.guessed,
        "rules": [
            {
                "id": rule.id,
                "version": rule.version,
                "mode": rule.mode,
                "sentence": sentence(rule),
                "entities": result.scope[rule.id],
                "evaluated": result.evaluated[rule.id],
                "fired": len(_of(rule, result)),
                "clamped": sum(each.outcome == "clamped" for each in _of(rule, result)),
                "skipped": dict(result.skipped[rule.id].most_common()),
                "guards_that_failed": dict(result.guards[rule.id].most_common()),
            }
            for rule in trial.rules
        ],
        "firings": [_firing(each) for each in result.fired],
    }


def _firing(decision: Decision) -> dict[str, Any]:
    told = {
        "key": decision.key,
        "closed_at": decision.closed_at,
        "window": decision.window._asdict(),
        "rule_id": decision.rule_id,
        "rule_version": decision.rule_version,
        **decision.entity._asdict(),
        "action": decision.kind,
        "outcome": decision.outcome,
        "clamped_by": decision.reason or None,
        "figures": decision.figures,
        "guards": [guard._asdict() for guard in decision.guards],
    }
    if decision.after is not None:
        told |= {"before_micros": decision.before, "after_micros": decision.after}
    return told


def _of(rule: Rule, result: Backtest) -> list[Decision]:
    return [each for each in result.fired if each.rule_id == rule.id]


MOST_SHOWN = 50
"""Firings on a terminal; a pipe gets all."""


def _show(trial: Trial) -> None:
    """Tables with colours on a terminal, plain columns on a pipe."""
    console = Console(highlight=False) if _on_terminal() else None
    result, zone = trial.result, trial.zone
    begin, end = (f"{_moment(at, zone):%Y-%m-%d %H:%M}" for at in trial.window)
    firings = f"{len(result.fired):,} {'firing' if len(result.fired) == 1 else 'firings'}"
    closed = f"{result.closings:,} closings, {result.evaluated.total():,} decisions, {firings}"
    _line(console, f"{begin} to {end} ({zone}): {closed}", "bold")
    if trial.guessed:
        _line(
            console,
            "daily budgets are guessed: the spend of the dearest day; --campaigns names the real ones",
            "yellow",
        )
    if trial.left_out:
        many = "campaign with figures is" if trial.left_out == 1 else "campaigns with figures are"
        _line(console, f"{trial.left_out:,} {many} not in the file of campaigns: left out", "yellow")
    for rule in trial.rules:
        if not result.evaluated[rule.id]:
            _line(console, f"{rule.id}: nothing in its scope has figures, or no window closed", "yellow")
    rows = [_row(each, zone) for each in result.fired]
    shown = rows if console is None else rows[:MOST_SHOWN]
    header = ["WINDOW CLOSED", "RULE", "PLATFORM", "CAMPAIGN", "AD GROUP", "ACTION", "CLAMPED BY", "FIGURES"]
    _table(console, "what would have fired", header, shown)
    if len(shown) < len(rows):
        _line(console, f"and {len(rows) - len(shown):,} more: pipe it into a pager, or take --json", "dim")
    why = [
        [
            rule.id,
            f"{result.scope[rule.id]:,}",
            f"{result.evaluated[rule.id]:,}",
            f"{len(_of(rule, result)):,}",
            _skipped(rule, result),
        ]
        for rule in trial.rules
    ]
    _table(console, "and why not", ["RULE", "ENTITIES", "DECISIONS", "FIRED", "SKIPPED"], why)
    met = {reason for each in result.skipped.values() for reason in each}
    if met:
        _line(console, "", "")
    for reason, said in REASONS.items():
        if reason in met:
            _line(console, f"{reason}: {said}", "dim")


def _skipped(rule: Rule, result: Backtest) -> str:
    """Why it did not fire, most frequent first; of guards, which did not hold."""
    said = []
    for reason, number in result.skipped[rule.id].most_common():
        failed = result.guards[rule.id].most_common() if reason == "guards" else []
        which = f" ({', '.join(f'{name} {count:,}' for name, count in failed)})" if failed else ""
        said.append(f"{reason} {number:,}{which}")
    return ", ".join(said) or "-"


def _row(decision: Decision, zone: str) -> list[str]:
    key = decision.entity
    return [
        f"{_moment(decision.closed_at, zone):%Y-%m-%d %H:%M}",
        decision.rule_id,
        key.platform,
        key.campaign_id,
        key.ad_group_id or "-",
        _change(decision),
        decision.reason or "-",
        ", ".join(f"{name} {_figure(name, value)}" for name, value in decision.figures.items()),
    ]


def _change(decision: Decision) -> str:
    if decision.before is None or decision.after is None:
        return decision.kind
    return f"{decision.kind} {show_money(decision.before)} -> {show_money(decision.after)}"


def _figure(name: str, value: int | None) -> str:
    """Cut to what one reads: a hundredth of a fen, a hundredth of a percent."""
    if value is None:
        return "-"
    return show(name, value if METRICS[name].measure == "count" else value // 100 * 100)


def _line(console: Console | None, text: str, style: str) -> None:
    if console is None:
        typer.echo(text)
    else:
        console.print(Text(text, style=style))


def _table(console: Console | None, title: str, header: list[str], rows: list[list[str]]) -> None:
    if not rows:
        return
    if console is None:
        typer.echo(f"\n{title}")
        print_table(header, rows)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name.lower(), header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(Text(title, style="dim italic"))
    console.print(table)


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _moment(at: int, zone: str) -> datetime:
    return datetime.fromtimestamp(at // 1000, UTC).astimezone(ZoneInfo(zone))


def _read(file: Path, time_zone: str) -> tuple[Rule, ...]:
    return _faults(lambda: read_rules(file, time_zone))


def _faults(read: Callable[[], T]) -> T:
    """What is read; of a file that is refused, every fault on a line of its own, and exit code 2."""
    try:
        return read()
    except Refused as refused:
        for fault in refused.faults:
            typer.echo(f"fanpulse: {fault}", err=True)
        raise typer.Exit(2) from None
