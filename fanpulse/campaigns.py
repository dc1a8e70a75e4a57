"""``fanpulse campaigns``: campaigns as the market has them, told to the rules."""

import contextlib
from datetime import UTC
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from clickhouse_connect.driver.client import Client

from fanpulse.context import print_json, print_table, settings
from fanpulse.control import ByOption, DryRunOption, JsonOption, Moment, faults, nearest, refuse, show_plan, tell, who
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from pipeline.campaign_log import CampaignChange
from pipeline.control import KnownCampaign, plan_campaigns, read_campaigns
from pipeline.rules import Key
from schemas.events import Platform
from schemas.quantities import show_money
from schemas.rule_files import read_campaigns as read_file
from schemas.written import differences, document, written

campaigns = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The group of subcommands."""


@campaigns.callback()
def group() -> None:
    """Campaigns as the market has them: budgets, bids, targets and states, which rules go by and change.

    docs/rules.md has the format of the file.

    \b
    Examples:
      fanpulse campaigns apply campaigns.yaml
      fanpulse campaigns list
      fanpulse campaigns show douyin:cmp_027_1
    """


@campaigns.command(short_help="Show what a file changes, and put it in force.")
def apply(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of campaigns.", show_default=False)],
    by: ByOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Show what the campaigns of a file change of those that are known, and send the changes to the workers.

    Where a rule has changed a budget, a bid or a state since, that is shown, and what the file says replaces it.
    Campaigns that the file has not are left alone. Sent again it changes nothing; cut off, run it again.

    \b
    Examples:
      fanpulse campaigns apply campaigns.yaml --dry-run
      fanpulse campaigns apply campaigns.yaml --by lin
    """
    here = settings(ctx)
    found = faults(lambda: read_file(file))
    name = who(by)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        known = read_campaigns(client)
        steps = plan_campaigns(found, known, Moment(here.time_zone))
        others = known.keys() - {(each.platform, each.campaign_id) for each in found}
        show_plan(steps, [str(Key(*each)) for each in others], file)
        refuse(steps, file, "campaigns")
        changed = tuple(each for each, step in zip(found, steps, strict=True) if step.what != "unchanged")
        if not changed:
            typer.echo("nothing is to be changed")
        elif dry_run:
            typer.echo("nothing is sent: a dry run")
        else:
            many = f"{len(changed)} {'campaign' if len(changed) == 1 else 'campaigns'}"
            tell(here, client, CampaignChange(here.database, name, changed), many)


@campaigns.command("list", short_help="List the campaigns that are known.")
def list_(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List campaigns as they are now: as they were told, with what rules made of them; and those that nobody told, of
    which only events are known.

    \b
    Examples:
      fanpulse campaigns list
      fanpulse campaigns list --json | jq '.[] | select(.told == false) | .campaign_id'
    """
    with contextlib.closing(clickhouse_client(settings(ctx), "analyst")) as client:
        found = [dict(zip(_FIELDS, row, strict=True)) for row in client.query(_LIST).result_rows]
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("no campaign is known; fanpulse campaigns apply FILE tells of some")
    else:
        header = ["PLATFORM", "CAMPAIGN", "CREATOR", "STATE", "DAILY BUDGET", "BID", "TARGET CPA", "AD GROUPS", "TOLD"]
        print_table(header, [_row(each) for each in found])


@campaigns.command(short_help="Show a campaign as it is now, and what rules did to it.")
def show(
    ctx: typer.Context,
    campaign: Annotated[
        str, typer.Argument(metavar="CAMPAIGN", help="platform:campaign, or a campaign that is on one only.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Show a campaign as it is now, as it may be written in a file; and what rules did to it last.

    \b
    Examples:
      fanpulse campaigns show douyin:cmp_027_1
    """
    here = settings(ctx)
    moment = Moment(here.time_zone)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        key = campaign_key(client, campaign)
        known = read_campaigns(client).get(key[:2])
        deeds = [list(row) for row in client.query(_DEEDS, parameters=key._asdict()).result_rows]
    names = ("closed_at", "rule_id", "ad_group_id", "action", "clamped_by", "before_micros", "after_micros")
    actions = [dict(zip(names, row, strict=True)) for row in deeds]
    if as_json:
        told = (
            {"campaign": written(known.now), "told_by": known.changed_by, "told_at": known.changed_at} if known else {}
        )
        print_json({"platform": key.platform, "campaign_id": key.campaign_id, **told, "actions": actions})
        return
    if known is None:
        typer.echo(f"{key}: nobody told of it, only its events are known; fanpulse campaigns apply FILE tells of it")
    else:
        _show(known, moment)
    if actions:
        typer.echo()
        rows = [
            [
                moment(each["closed_at"].replace(tzinfo=UTC)),
                each["rule_id"],
                each["ad_group_id"] or "-",
                _step(each),
                each["clamped_by"] or "-",
            ]
            for each in actions
        ]
        print_table(["WINDOW CLOSED", "RULE", "AD GROUP", "ACTION", "CLAMPED BY"], rows)


def campaign_key(client: Client, text: str) -> Key:
    """The campaign that a text names: ``douyin:cmp_1``, or ``cmp_1`` where it is on one platform only.

    Raises:
        FanpulseError: none is known of that name, or two are.
    """
    platform, colon, rest = text.partition(":")
    named = bool(colon) and platform in get_args(Platform)
    campaign = (rest if named else text).replace("%3A", ":").replace("%25", "%")
    found = client.query(_KNOWN, parameters={"campaign_id": campaign}).result_rows
    if named:
        found = [row for row in found if row[0] == platform]
    if len(found) == 1:
        return Key(*found[0])
    if found:
        raise FanpulseError(f"{text} is on several platforms: write {' or '.join(str(Key(*row)) for row in found)}")
    known = [str(Key(*row)) for row in client.query(_ALL).result_rows]
    # A name without its platform is compared with names without theirs.
    whole = {each if named else each.partition(":")[2]: each for each in known}
    near = get_close_matches(text, whole, n=1, cutoff=0.0)
    meant = f"; did you mean {whole[near[0]]}?" if near else ""
    raise FanpulseError(f"no campaign {text} is known{meant}" if known else "no campaign is known yet")


def group_key(client: Client, campaign: Key, ad_group: str) -> Key:
    """An ad group of a campaign.

    Raises:
        FanpulseError: none is known of that id.
    """
    groups = [row[0] for row in client.query(_GROUPS, parameters=campaign._asdict()).result_rows]
    if ad_group not in groups:
        raise FanpulseError(f"no ad group {ad_group} of {campaign} is known{nearest(ad_group, groups)}")
    return campaign._replace(ad_group_id=ad_group)


def _show(known: KnownCampaign, moment: Moment) -> None:
    key = Key(known.now.platform, known.now.campaign_id)
    typer.echo(f"{key}, told by {known.changed_by} at {moment(known.changed_at)}\n")
    typer.echo(document("campaigns", known.now), nl=False)
    for one in differences(known.told, known.now):
        deed = known.deeds.get(one.field)
        typer.echo(f"since then {one}" + (f" ({deed.said(moment)})" if deed else ""))


_FIELDS = (
    "platform",
    "campaign_id",
    "creator_id",
    "state",
    "daily_budget_micros",
    "total_budget_micros",
    "bid_micros",
    "target_cpa_micros",
    "ad_groups",
    "told",
)
_LIST = """
SELECT
    platform,
    campaign_id,
    anyLast(creator_id) AS creator,
    anyIf(state, ad_group_id = ''),
    anyIf(daily_budget_micros, ad_group_id = ''),
    anyIf(total_budget_micros, ad_group_id = ''),
    anyIf(bid_micros, ad_group_id = ''),
    anyIf(target_cpa_micros, ad_group_id = ''),
    countIf(ad_group_id != ''),
    toBool(max(told))
FROM campaigns
GROUP BY platform, campaign_id
ORDER BY platform, campaign_id
"""
_DEEDS = """
SELECT closed_at, rule_id, ad_group_id, action, clamped_by, before_micros, after_micros
FROM budget_actions FINAL
WHERE fold_version = 1 AND platform = {platform:String} AND campaign_id = {campaign_id:String}
ORDER BY closed_at DESC, ad_group_id, rule_id
LIMIT 10
"""
_KNOWN = (
    "SELECT DISTINCT platform, campaign_id FROM campaigns WHERE campaign_id = {campaign_id:String} ORDER BY platform"
)
_GROUPS = """
SELECT ad_group_id
FROM campaigns
WHERE platform = {platform:String} AND campaign_id = {campaign_id:String} AND ad_group_id != ''
ORDER BY ad_group_id
"""
_ALL = "SELECT DISTINCT platform, campaign_id FROM campaigns ORDER BY platform, campaign_id"


def _row(campaign: dict[str, Any]) -> list[str]:
    amounts = ("daily_budget_micros", "bid_micros", "target_cpa_micros")
    return [
        campaign["platform"],
        campaign["campaign_id"],
        campaign["creator_id"],
        campaign["state"] or "-",
        *("-" if campaign[name] is None else show_money(campaign[name]) for name in amounts),
        str(campaign["ad_groups"]),
        "yes" if campaign["told"] else "no, by events only",
    ]


def _step(action: dict[str, Any]) -> str:
    before, after = action["before_micros"], action["after_micros"]
    if before is None or after is None:
        return str(action["action"])
    return f"{action['action']} {show_money(before)} -> {show_money(after)}"
