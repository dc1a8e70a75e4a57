"""``fanpulse rules``: budget rules checked, tried on what was, switched on, and asked why."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fanpulse.campaigns import campaign_key, group_key
from fanpulse.context import day, print_json, print_table, progress, settings
from fanpulse.control import (
    ByOption,
    DryRunOption,
    JsonOption,
    Moment,
    faults,
    nearest,
    refuse,
    show_plan,
    tell,
    warn,
    who,
)
from fanpulse.why import as_json as as_json_of
from fanpulse.why import paragraph, summary
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline.backtest import Backtest, assumed, days, looked_at, read_newest, read_seen, read_series, with_age
from pipeline.backtest import backtest as try_out
from pipeline.campaign_log import RuleChange, Switch
from pipeline.control import KnownRule, RuleEdit, acting, plan_rules, read_history
from pipeline.control import read_rules as in_force
from pipeline.decisions import Firings, Tally, read_decisions, read_firings, read_tally
from pipeline.rules import REASONS, Decision, Entity, Key, Span, entities
from schemas.quantities import MINUTE_MS, show_money
from schemas.rule_files import read_campaigns, read_rules
from schemas.rule_files import template as text_of
from schemas.rules import METRICS, TARGET_CPA, Rule, sentence
from schemas.rules import show as show_figure
from schemas.written import differences, document, written

rules = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The group of subcommands."""

RuleId = Annotated[str, typer.Argument(metavar="RULE", help="Id of a rule in force.", show_default=False)]
RulesFile = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of rules.", show_default=False)]


@rules.callback()
def group() -> None:
    """Budget rules: check a file of them, try it on past days, apply it, and ask why a rule did not fire.

    docs/rules.md has the format.

    \b
    Examples:
      fanpulse rules template e-commerce > rules.yaml
      fanpulse rules check rules.yaml
      fanpulse rules backtest rules.yaml --from 2026-01-01 --to 2026-01-14
      fanpulse rules apply rules.yaml
      fanpulse rules why cheap-reach douyin:cmp_027_1
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
    known = None if campaigns is None else entities(faults(lambda: read_campaigns(campaigns)))
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


@rules.command(short_help="Show what a file changes, and put it in force.")
def apply(
    ctx: typer.Context,
    file: RulesFile,
    by: ByOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Show what the rules of a file change of those in force, and send the changes to the workers.

    A rule that is changed must have a higher version. Rules in force that the file has not are left alone. What is
    applied is switched on. Sent again it changes nothing; cut off, run it again. Exits 2, with nothing sent, if
    anything is wrong.

    \b
    Examples:
      fanpulse rules apply rules.yaml --dry-run
      fanpulse rules apply rules.yaml --by lin
    """
    here = settings(ctx)
    found = _read(file, here.time_zone)
    name = who(by)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        known = in_force(client)
        steps = plan_rules(found, known, here.partitions)
        show_plan(steps, known.keys() - {rule.id for rule in found}, file)
        refuse(steps, file, "rules")
        changed = tuple(rule for rule, step in zip(found, steps, strict=True) if step.what != "unchanged")
        if not changed:
            typer.echo("nothing is to be changed")
        elif dry_run:
            typer.echo("nothing is sent: a dry run")
        else:
            tell(here, client, RuleChange(here.database, name, changed), _many(len(changed)))


@rules.command("list", short_help="List the rules in force.")
def list_(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the rules in force: mode, whether they are switched on, and when they fired.

    A dry run counts what it would have done. Hours are of event time, as windows close.

    \b
    Examples:
      fanpulse rules list
      fanpulse rules list --json | jq '.[] | select(.mode == "act")'
    """
    here = settings(ctx)
    moment = Moment(here.time_zone)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        known, firings = in_force(client), read_firings(client, datetime.now(UTC))
    if as_json:
        print_json([_listed(each, firings.get(rule_id), here.partitions) for rule_id, each in known.items()])
    elif not known:
        typer.echo("no rule is in force; fanpulse rules apply FILE puts some in force")
    else:
        rows = []
        for rule_id, each in known.items():
            own, rule = firings.get(rule_id), each.rule
            last, lately = (moment(own.last), f"{own.lately:,}") if own else ("-", "0")
            on = ("on" if each.enabled else "off") + ("" if each.everywhere(here.partitions) else ", not everywhere")
            rows.append([rule_id, str(rule.version), rule.mode, on, last, lately, rule.name])
        print_table(["RULE", "VERSION", "MODE", "SWITCHED", "LAST FIRING", "IN 24 H", "NAME"], rows)
        _not_everywhere(known, here.partitions)


@rules.command(short_help="Show a rule in force: as a sentence, as YAML, and its changes.")
def show(
    ctx: typer.Context,
    rule_id: RuleId,
    as_json: JsonOption = False,
) -> None:
    """Show a rule in force: as a sentence, as it may be written in a file, and who changed it when.

    \b
    Examples:
      fanpulse rules show cheap-reach
    """
    here = settings(ctx)
    moment = Moment(here.time_zone)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        known = in_force(client)
        each = _one(known, rule_id)
        history = read_history(client, rule_id)
        firings = read_firings(client, datetime.now(UTC)).get(rule_id)
    said = [_edit(before, edit) for before, edit in zip([None, *history], history, strict=False)]
    if as_json:
        changes = [
            {"at": edit.at, "by": edit.by, "version": edit.version, "enabled": edit.enabled, "said": lines}
            for edit, lines in zip(history, said, strict=True)
        ]
        print_json({**_listed(each, firings, here.partitions), "rule": written(each.rule), "changes": changes})
        return
    switched = "switched on" if each.enabled else "switched off"
    typer.echo(f"{rule_id}, version {each.rule.version}, {each.rule.mode}, {switched}\n\n{sentence(each.rule)}\n")
    typer.echo(document("rules", each.rule))
    for edit, lines in zip(history, said, strict=True):
        typer.echo(f"{moment(edit.at)}  {edit.by}: {'; '.join(lines)}")
    _not_everywhere({rule_id: each}, here.partitions)


@rules.command(short_help="Switch a rule on.")
def enable(ctx: typer.Context, rule_id: RuleId, by: ByOption = None) -> None:
    """Switch a rule on that was switched off. It goes on with what it remembers: cool-downs, firings of the day.

    \b
    Examples:
      fanpulse rules enable cheap-reach
    """
    _switch(settings(ctx), rule_id, True, who(by))


@rules.command(short_help="Switch a rule off.")
def disable(ctx: typer.Context, rule_id: RuleId, by: ByOption = None) -> None:
    """Switch a rule off: it is no longer evaluated. What it did stays done.

    \b
    Examples:
      fanpulse rules disable cheap-reach --by lin
    """
    _switch(settings(ctx), rule_id, False, who(by))


@rules.command(short_help="Show why a rule fired for a campaign, or did not.")
def why(
    ctx: typer.Context,
    rule_id: RuleId,
    campaign: Annotated[
        str,
        typer.Argument(metavar="CAMPAIGN", help="platform:campaign, or a campaign that is on one only."),
    ],
    ad_group: Annotated[
        str | None, typer.Option("--ad-group", metavar="ID", help="Only this ad group of it.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="How many decisions.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of decisions instead.")] = False,
) -> None:
    """Show the last decisions of a rule for a campaign: the window, the figures, the guards, what came out, and why.

    Exits 1 if there is no decision yet, and says what that may be.

    \b
    Examples:
      fanpulse rules why cheap-reach douyin:cmp_027_1
      fanpulse rules why pause-idle cmp_027_1 --ad-group ag_027_1_2 --last 20
    """
    here = settings(ctx)
    moment = Moment(here.time_zone)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        known = in_force(client)
        if rule_id != TARGET_CPA:
            _one(known, rule_id)
        key = campaign_key(client, campaign)
        if ad_group is not None:
            key = group_key(client, key, ad_group)
        found = read_decisions(client, rule_id, key, last, any_group=ad_group is None)
        if as_json:
            print_json([as_json_of(each) for each in found])
        elif found:
            newest = datetime.fromtimestamp(found[0].closed_at // 1000, UTC)
            tally = read_tally(client, rule_id, key, newest, any_group=ad_group is None)
            versions = {edit.version: edit.rule for edit in read_history(client, rule_id)}
            _explain(known.get(rule_id), tally, found, versions, moment)
        else:
            typer.echo(_no_decision(client, known.get(rule_id), rule_id, key))
    if not found:
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
    return show_figure(name, value if METRICS[name].measure == "count" else value // 100 * 100)


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
    return faults(lambda: read_rules(file, time_zone))


def _many(number: int) -> str:
    return f"{number} {'rule' if number == 1 else 'rules'}"


def _one(known: Mapping[str, KnownRule], rule_id: str) -> KnownRule:
    if rule_id not in known:
        raise FanpulseError(f"no rule {rule_id} is in force{nearest(rule_id, known)}")
    return known[rule_id]


def _switch(here: Settings, rule_id: str, enabled: bool, by: str) -> None:
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        each = _one(in_force(client), rule_id)
        if each.enabled == enabled and each.switched >= here.partitions:
            typer.echo(f"{rule_id} is {'on' if enabled else 'off'} already")
            return
        if enabled:
            warn(acting(each.rule))
        tell(here, client, Switch(here.database, by, rule_id, enabled), f"{rule_id} {'on' if enabled else 'off'}")


def _listed(each: KnownRule, firings: Firings | None, partitions: int) -> dict[str, Any]:
    rule = each.rule
    return {
        "id": rule.id,
        "version": rule.version,
        "mode": rule.mode,
        "enabled": each.enabled,
        "everywhere": each.everywhere(partitions),
        "last_firing": firings.last if firings else None,
        "firings_24h": firings.lately if firings else 0,
        "name": rule.name,
        "owner": rule.owner,
        "sentence": sentence(rule),
        "changed_by": each.changed_by,
        "changed_at": each.changed_at,
    }


def _not_everywhere(known: Mapping[str, KnownRule], partitions: int) -> None:
    """Says what to do about a change that has not come everywhere."""
    for rule_id, each in known.items():
        if each.having < partitions:
            typer.echo(
                f"{rule_id}: only {each.having} of {partitions} partitions have this version; if it was cut off, apply "
                "its file again"
            )
        elif each.switched < partitions:
            again = f"fanpulse rules {'enable' if each.enabled else 'disable'} {rule_id}"
            typer.echo(
                f"{rule_id}: only {each.switched} of {partitions} partitions have it so; if it was cut off: {again}"
            )


def _edit(before: RuleEdit | None, edit: RuleEdit) -> list[str]:
    """What a change changed."""
    if before is None:
        return [f"version {edit.version}"]
    said = []
    if before.rule is not None and edit.rule is not None:
        said = [str(one) for one in differences(before.rule, edit.rule)]
    if edit.enabled != before.enabled:
        said.append("switched on" if edit.enabled else "switched off")
    return said or [f"version {edit.version}"]


def _explain(
    known: KnownRule | None,
    tally: Tally,
    found: Sequence[Decision],
    versions: Mapping[int, Rule | None],
    moment: Moment,
) -> None:
    if known is not None:
        typer.echo(sentence(known.rule))
        if not known.enabled:
            typer.secho("It is switched off.", fg="yellow")
    typer.echo(summary(tally, moment))
    for each in found:
        head, *rest = paragraph(each, versions.get(each.rule_version), moment)
        typer.secho(f"\n{head}", bold=True, fg=None if each.outcome == "skipped" else "green")
        for line in rest:
            typer.echo(line)


def _no_decision(client: Client, known: KnownRule | None, rule_id: str, key: Key) -> str:
    """Why there is no decision at all."""
    said = f"{rule_id} has decided nothing of {key} yet: "
    if known is None:
        return said + "the campaign has no bidding in force, or no window has closed since"
    if not known.enabled:
        return said + f"it is switched off; fanpulse rules enable {rule_id} switches it on"
    scope = known.rule.scope
    if known.rule.level == "campaign" and key.ad_group_id:
        return said + "it is for campaigns as a whole; leave out --ad-group"
    if scope.platforms is not None and key.platform not in scope.platforms:
        return said + f"it is only for {' and '.join(scope.platforms)}"
    if scope.campaigns is not None and key.campaign_id not in scope.campaigns:
        return said + f"its scope names other campaigns ({', '.join(scope.campaigns[:5])})"
    if scope.ad_groups is not None and key.ad_group_id and key.ad_group_id not in scope.ad_groups:
        return said + f"its scope names other ad groups ({', '.join(scope.ad_groups[:5])})"
    creators = {row[0] for row in client.query(_CREATORS, parameters=key._asdict()).result_rows}
    if scope.creators is not None and not creators & set(scope.creators):
        return said + f"it is only for campaigns of {', '.join(scope.creators[:5])}"
    return said + "no window of it has closed since it is in force, or no worker runs (fanpulse worker)"


_CREATORS = """
SELECT DISTINCT creator_id
FROM campaigns
WHERE platform = {platform:String} AND campaign_id = {campaign_id:String}
"""
