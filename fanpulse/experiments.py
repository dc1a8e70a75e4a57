"""``fanpulse experiments``: A/B tests over ad groups."""

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fanpulse.context import print_json, print_table, settings
from infra.connect import clickhouse_client
from pipeline.experiments import RATIOS, Arm, Block, Comparison, Interval, Outcome, Sums, evaluate, least
from schemas.experiments import Experiment, Experiments
from schemas.quantities import show_money
from schemas.yaml_file import load

experiments = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The group of subcommands."""

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML file of tests; docs/experiments.md has the format.")
]


@experiments.callback()
def group() -> None:
    """Compare ad groups: which arm of an A/B test is better, by how much, and whether that may be said already.

    \b
    Examples:
      fanpulse experiments check covers.yaml
      fanpulse experiments show covers.yaml
    """


@experiments.command(short_help="Check a file of tests; say each as a sentence.")
def check(file: FileArgument) -> None:
    """Check a file of tests, and say each as a sentence. Nothing is read from ClickHouse.

    Exits 2 if something is wrong, with the line where it is.

    \b
    Examples:
      fanpulse experiments check covers.yaml
    """
    for each in load(file).read(Experiments).experiments:
        typer.echo(sentence(each))


@experiments.command(short_help="Show figures, intervals and verdicts of tests.")
def show(
    ctx: typer.Context,
    file: FileArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object a test, instead.")] = False,
) -> None:
    """Show each test of a file: figures of the arms with intervals, the difference to the control, and a verdict.

    Only whole local days count: up to the day before that of the newest advertisement that is stored. Look as often as
    you like: that makes no verdict less sure.

    \b
    Examples:
      fanpulse experiments show covers.yaml
      fanpulse experiments show covers.yaml --json | jq '.[].comparisons[] | {arm, verdict}'
    """
    found = load(file).read(Experiments).experiments
    here = settings(ctx)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        read = [(each, *read_blocks(client, each, here.time_zone)) for each in found]
    outcomes = [(each, evaluate(each, blocks), unseen) for each, blocks, unseen in read]
    if as_json:
        print_json([_as_json(*each) for each in outcomes])
        return
    for number, each in enumerate(outcomes):
        if number:
            typer.echo()
        _show(*each)


def sentence(experiment: Experiment) -> str:
    """A test in words."""
    guards = _guards(experiment)
    challengers = [f"{name} ({_groups(experiment.arms[name])})" for name in experiment.challengers]
    until = f"to {experiment.last}" if experiment.last else "on"
    control = f"{experiment.control} ({_groups(experiment.arms[experiment.control])})"
    return (
        f"{experiment.id}: whether the {experiment.metric.upper()} of {_listed(challengers)} is another than that of "
        f"{control}, on {experiment.platform} from {experiment.first} {until}; nothing is said before every arm has "
        f"{guards}; of tests without a difference at most {100 * experiment.alpha:g}% ever say that there is one."
    )


def read_blocks(client: Client, experiment: Experiment, zone: str) -> tuple[list[Block], list[str]]:
    """The test's whole local days that are stored, in order; and those of its ad groups that nothing is stored of.

    A day is whole when something of a later one is stored of any advertisement.
    """
    newest = client.query(_NEWEST, {"zone": zone}).result_rows[0][0]
    end = min(newest or experiment.first, (experiment.last or date.max - timedelta(1)) + timedelta(1))
    arm_of = {group: arm for arm, groups in experiment.arms.items() for group in groups}
    parameters = {
        "platform": experiment.platform,
        "groups": sorted(arm_of),
        "begin": _midnight(experiment.first, zone),
        "end": _midnight(max(end, experiment.first), zone),
        "zone": zone,
    }
    days: dict[date, dict[str, Sums]] = {}
    seen = set()
    for group, day, *sums in client.query(_SUMS, parameters).result_rows:
        arms = days.setdefault(day, {})
        arms[arm_of[group]] = arms.get(arm_of[group], Sums()) + Sums(*sums)
        seen.add(group)
    return [Block(day, days[day]) for day in sorted(days)], sorted(arm_of.keys() - seen)


_NEWEST = "SELECT toDate(maxOrNull(minute), {zone:String}) FROM ads_minute"
_SUMS = """
SELECT
    ad_group_id,
    toDate(minute, {zone:String}) AS day,
    sum(impressions),
    sum(clicks),
    sum(conversions),
    sum(cost_micros),
    sum(conversion_value_micros)
FROM ads_minute FINAL
WHERE fold_version = 1
    AND platform = {platform:String}
    AND campaign_id IN (SELECT campaign_id FROM ads_minute WHERE has({groups:Array(String)}, ad_group_id))
    AND has({groups:Array(String)}, ad_group_id)
    AND minute >= {begin:DateTime('UTC')}
    AND minute < {end:DateTime('UTC')}
GROUP BY ad_group_id, day
"""
"""Campaigns only make it faster: the table is sorted by them."""


def _midnight(day: date, zone: str) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)


def _as_json(experiment: Experiment, outcome: Outcome, unseen: list[str]) -> dict[str, Any]:
    return {
        "id": experiment.id,
        "name": experiment.name,
        "platform": experiment.platform,
        "metric": experiment.metric,
        "formula": RATIOS[experiment.metric].formula,
        "from": experiment.first,
        "to": experiment.last,
        "alpha": experiment.alpha,
        "control": experiment.control,
        "ad_groups_without_data": unseen,
        **asdict(outcome),
    }


def _show(experiment: Experiment, outcome: Outcome, unseen: list[str]) -> None:
    """A table with colours on a terminal, plain columns on a pipe."""
    console = Console(highlight=False) if _on_terminal() else None
    metric = experiment.metric.upper()
    until = f"to {outcome.day}" if outcome.day else "on: no whole day is stored yet"
    about = f"{metric} = {RATIOS[experiment.metric].formula} on {experiment.platform}, from {experiment.first} {until}"
    if console is None:
        typer.echo(f"{experiment.id}: {experiment.name}")
        typer.echo(about)
    else:
        console.print(Text.assemble((experiment.id, "bold cyan"), "  ", (experiment.name, "bold")))
        console.print(Text(about, style="dim italic"))
    counts = _COUNTS[experiment.metric]
    header = ["ARM", "DAYS", *counts, metric, "BETWEEN", "AGAINST CONTROL", "BETWEEN", "VERDICT"]
    against = {each.arm: each for each in outcome.comparisons}
    control = next(arm for arm in outcome.arms if arm.name == experiment.control)
    rows = []
    for arm in outcome.arms:
        one = against.get(arm.name)
        rows.append(
            [
                arm.name,
                str(arm.days),
                *(_count(name, arm.sums) for name in counts),
                _percent(arm.figure),
                _between(arm.interval, "%"),
                _points(one.difference) if one and one.verdict != "not enough data" else "-",
                _between(one.narrowest, "", "+") if one else "-",
                _verdict(arm, control, one),
            ]
        )
    _table(console, header, rows)
    if unseen:
        typer.echo(f"nothing is stored of {_groups(tuple(unseen))} in this time")


_COUNTS = {
    "ctr": ("IMPRESSIONS", "CLICKS"),
    "cvr": ("CLICKS", "CONVERSIONS"),
    "roi": ("CLICKS", "CONVERSIONS", "COST (YUAN)", "VALUE (YUAN)"),
}
"""Columns by metric."""


def _count(name: str, sums: Sums) -> str:
    if name == "COST (YUAN)":
        return f"{sums.cost_micros / 1e6:,.2f}"
    if name == "VALUE (YUAN)":
        return f"{sums.conversion_value_micros / 1e6:,.2f}"
    return f"{getattr(sums, name.lower()):,}"


def _verdict(arm: Arm, control: Arm, one: Comparison | None) -> str:
    """A verdict in words, with its day or with what is missing."""
    if one is None:
        return "control"
    if one.changed:
        return "no difference shown: it changed in the course of the test"
    if one.verdict != "not enough data":
        return f"{one.verdict}, since {one.decided}" if one.decided else one.verdict
    lacks = [*arm.lacks, *(each for each in control.lacks if each.of not in {own.of for own in arm.lacks})]
    if not lacks:
        return "not enough data: too few days on which both ran"
    own = len(arm.lacks)
    said = [
        f"{_amount(each.of, each.have)} of {_amount(each.of, each.want)} {_UNITS[each.of]}"
        + ("" if number < own else f" of {control.name}")
        for number, each in enumerate(lacks)
    ]
    return f"not enough data: {', '.join(said)}"


_UNITS = {"days": "days", "clicks": "clicks", "conversions": "conversions", "cost": "yuan of cost"}


def _guards(experiment: Experiment) -> str:
    wanted = least(experiment.metric, experiment.guards)
    return _listed(f"{_amount(name, want)} {_UNITS[name]}" for name, want in wanted.items() if want)


def _amount(of: str, number: int) -> str:
    return show_money(number).removesuffix(" yuan").removesuffix(".00") if of == "cost" else f"{number:,}"


def _table(console: Console | None, header: list[str], rows: list[list[str]]) -> None:
    if console is None:
        print_table(header, rows)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(header):
        left = number in (0, len(header) - 1)
        table.add_column(name.lower(), justify="left" if left else "right", header_style="dim", no_wrap=not left)
    for row in rows:
        *cells, verdict = row
        style = next((style for word, style in _STYLES.items() if verdict.startswith(word)), "dim")
        table.add_row(*(Text(cell) for cell in cells), Text(verdict, style=style))
    console.print(table)


_STYLES = {"better": "bold green", "worse": "bold red", "no difference": ""}


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2%}"


def _points(difference: float | None) -> str:
    return "-" if difference is None else f"{100 * difference:+.2f} points"


def _between(found: Interval | None, unit: str, sign: str = "") -> str:
    return "-" if found is None else f"{100 * found.low:{sign}.2f}{unit} to {100 * found.high:{sign}.2f}{unit}"


def _groups(groups: tuple[str, ...]) -> str:
    return f"ad group {groups[0]}" if len(groups) == 1 else f"ad groups {_listed(groups)}"


def _listed(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
