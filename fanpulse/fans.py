"""``fanpulse fans``: the state of a creator's fans, and what to do about it."""

import contextlib
import difflib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fanpulse.context import print_json, print_table, settings
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from schemas.alerts import alert_policy
from schemas.value import holds

STAGES = ("new", "active", "retained", "silent", "churned")
TIERS = ("high", "middle", "low")
TAGS = ("active", "high_value", "iron", "potential")
FLOWS = {
    "arrived": "new fans",
    "woken": "silent, came back",
    "recovered": "churned, came back",
    "fell_silent": "fell silent",
    "stayed_away": "churned by staying away",
    "unfollowed": "churned by unfollow",
}
"""Flows of a week, with what the screen calls them."""
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Fans:
    """The fans of a creator on a platform.

    ``day`` is the local day that moves have reached (None: there are none yet), a week the 7 days that end with it.
    ``stages`` at the end of ``day`` and 7 days before; ``flows`` and ``churn_rate`` (churned in the week / fans not
    churned at its start) of the week and of the one before. ``refreshed_at`` is when tiers and tags were last brought
    up to date, UTC; ``tiers`` have fans and their contribution in millionths of a yuan.
    """

    platform: str
    creator_id: str
    day: date | None = None
    stages: dict[str, int] = field(default_factory=dict)
    stages_before: dict[str, int] = field(default_factory=dict)
    flows: dict[str, int] = field(default_factory=dict)
    flows_before: dict[str, int] = field(default_factory=dict)
    churn_rate: float | None = None
    churn_rate_before: float | None = None
    refreshed_at: datetime | None = None
    tiers: dict[str, tuple[int, int]] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    high_silent: int = 0
    advice: list[str] = field(default_factory=list)


def fans(
    ctx: typer.Context,
    creator: Annotated[str, typer.Argument(metavar="CREATOR", help="Id of the creator.", show_default=False)],
    platform: Annotated[str | None, typer.Option(help="Only this platform: douyin or kuaishou.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object a platform, instead.")] = False,
) -> None:
    """Show how the fans of a creator are: stages, what moved this week, churn and why, tiers and tags, and what to do.

    A creator who is on several platforms is shown on each. Tiers and tags are those of the last refresh.

    \b
    Examples:
      fanpulse fans dy_food_027
      fanpulse fans dy_food_027 --json | jq '.[0].stages'
    """
    here = settings(ctx)
    with contextlib.closing(clickhouse_client(here, "analyst")) as client:
        found = [read_fans(client, each, creator) for each in _platforms(client, creator, platform)]
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for number, each in enumerate(found):
        if number:
            typer.echo()
        _show(each, here.time_zone)


def read_fans(client: Client, platform: str, creator: str) -> Fans:
    """Everything that is known of a creator's fans on a platform."""
    parameters = {"platform": platform, "creator": creator}
    known = Fans(platform, creator)
    moves = client.query(_MOVES, parameters).result_rows
    if moves:
        known = _with_moves(known, client.query("SELECT max(day) FROM fan_transitions").result_rows[0][0], moves)
    refreshed_at = client.query("SELECT maxOrNull(refreshed_at) FROM fan_refreshes").result_rows[0][0]
    if refreshed_at is not None:
        tiers = {tier: (fans, micros) for tier, fans, micros in client.query(_TIERS, parameters).result_rows}
        tags = dict.fromkeys(TAGS, 0) | {row[0]: row[1] for row in client.query(_TAGS, parameters).result_rows}
        silent = client.query(_HIGH_SILENT, parameters).result_rows[0][0]
        tiers = {tier: tiers.get(tier, (0, 0)) for tier in TIERS}
        known = replace(
            known, refreshed_at=refreshed_at.replace(tzinfo=UTC), tiers=tiers, tags=tags, high_silent=silent
        )
    return replace(known, advice=advise(known))


def advise(known: Fans) -> list[str]:
    """What ``schemas/advice.json`` says of these figures, in its order; what it says of an alert is said there."""
    figures = _figures(known)
    said = []
    for text in json.loads(files("schemas").joinpath("advice.json").read_text(encoding="utf-8")):
        if all(holds(condition, figures) for condition in text["when"]):
            said.append(text["say"].format(**figures))
            if "alert" in text:
                said += alert_policy({}).kinds[text["alert"]].advise(figures)
    return said


def _figures(known: Fans) -> dict[str, float | None]:
    """The figures that advice may ask for and name."""
    flows, before = known.flows, known.flows_before
    churned = flows.get("stayed_away", 0) + flows.get("unfollowed", 0)
    here = sum(known.stages.values()) - known.stages.get("churned", 0)
    return {
        "churn_rate": known.churn_rate,
        "churn_change": _change(known.churn_rate, known.churn_rate_before),
        "unfollowed_share": _ratio(flows.get("unfollowed", 0), churned),
        "silent": known.stages.get("silent", 0),
        "silent_share": _ratio(known.stages.get("silent", 0), here),
        "high_silent": known.high_silent,
        "potential": known.tags.get("potential", 0),
        "iron": known.tags.get("iron", 0),
        "arrived": flows.get("arrived", 0),
        "arrived_before": before.get("arrived", 0),
        "arrived_change": _change(flows.get("arrived", 0), before.get("arrived", 0)),
    }


_MOVES = """
SELECT day, toString(from_stage), toString(to_stage), toString(reason), sum(fans)
FROM fan_moves
WHERE creator_id = {creator:String} AND platform = {platform:String}
GROUP BY ALL
"""
_TIERS = """
SELECT toString(tier), count(), sum(ifNull(contribution_micros, 0))
FROM (SELECT fan, tier FROM fan_value_now WHERE creator_id = {creator:String} AND platform = {platform:String}) AS rated
LEFT JOIN
(
    SELECT fan, contribution_micros
    FROM fan_contribution
    WHERE creator_id = {creator:String} AND platform = {platform:String}
) AS paid USING (fan)
GROUP BY tier
"""
_TAGS = """
SELECT arrayJoin(tags) AS tag, count()
FROM fan_value_now
WHERE creator_id = {creator:String} AND platform = {platform:String}
GROUP BY tag
"""
_HIGH_SILENT = """
SELECT count()
FROM fan_stage_now
WHERE creator_id = {creator:String} AND platform = {platform:String} AND stage = 'silent' AND fan IN
(
    SELECT fan
    FROM fan_value_now
    WHERE creator_id = {creator:String} AND platform = {platform:String} AND tier = 'high'
)
"""
_KNOWN = """
SELECT DISTINCT platform, creator_id FROM fan_transitions
UNION DISTINCT SELECT DISTINCT platform, creator_id FROM fan_days
"""


def _platforms(client: Client, creator: str, platform: str | None) -> list[str]:
    """Where the creator has fans. FanpulseError if there, or anywhere, there are none."""
    known = client.query(_KNOWN).result_rows
    there = sorted(row[0] for row in known if row[1] == creator)
    if platform is not None:
        if there and platform not in there:
            raise FanpulseError(f"creator {creator} has no fans on {platform}, only on {' and '.join(there)}")
        there = [each for each in there if each == platform]
    if there:
        return there
    if not known:
        raise FanpulseError("no fan of any creator is known yet: start a worker (fanpulse worker) and send events")
    near = difflib.get_close_matches(creator, sorted({row[1] for row in known}), n=1, cutoff=0.0)[0]
    raise FanpulseError(f"no fan of a creator {creator} is known; did you mean {near}?")


def _with_moves(known: Fans, day: date, moves: Iterable[Any]) -> Fans:
    stages = {day: Counter[str](), day - WEEK: Counter[str](), day - 2 * WEEK: Counter[str]()}
    flows = {day: Counter[str](), day - WEEK: Counter[str]()}
    for at, former, latter, reason, count in moves:
        for end, held in stages.items():
            if at <= end:
                held[former] -= count
                held[latter] += count
        for end, moved in flows.items():
            if end - WEEK < at <= end:
                moved[_flow(former, latter, reason)] += count
    ends = list(stages)

    def rate(end: date, start: date) -> float | None:
        churned = flows[end]["stayed_away"] + flows[end]["unfollowed"]
        return _ratio(churned, sum(stages[start][stage] for stage in STAGES if stage != "churned"))

    return replace(
        known,
        day=day,
        stages={stage: stages[ends[0]][stage] for stage in STAGES},
        stages_before={stage: stages[ends[1]][stage] for stage in STAGES},
        flows={flow: flows[ends[0]][flow] for flow in FLOWS},
        flows_before={flow: flows[ends[1]][flow] for flow in FLOWS},
        churn_rate=rate(ends[0], ends[1]),
        churn_rate_before=rate(ends[1], ends[2]),
    )


def _flow(former: str, latter: str, reason: str) -> str:
    if reason == "returned":
        return "recovered" if former == "churned" else "woken"
    if latter == "churned":
        return "unfollowed" if reason == "unfollowed" else "stayed_away"
    return "fell_silent" if latter == "silent" else reason


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _change(now: float | None, before: float | None) -> float | None:
    return now / before - 1 if now is not None and before else None


def _show(known: Fans, zone: str) -> None:
    """Tables with colours on a terminal, plain columns on a pipe."""
    console = Console(highlight=False) if _on_terminal() else None
    total = sum(known.stages.values())
    title = f"{known.creator_id} on {known.platform}"
    if console is None:
        typer.echo(f"{title}: {_summary(known)}")
    else:
        console.print(Text.assemble((title, "bold cyan"), "  ", _summary(known)))
    stages = [
        [stage, f"{fans:,}", _percent(_ratio(fans, total)), _signed(fans - known.stages_before[stage])]
        for stage, fans in known.stages.items()
    ]
    _table(console, f"stages at the end of {known.day}", ["STAGE", "FANS", "SHARE", "IN 7 DAYS"], stages)
    flows = [
        [
            FLOWS[flow],
            f"{fans:,}",
            f"{known.flows_before[flow]:,}",
            _percent(_change(fans, known.flows_before[flow]), "+"),
        ]
        for flow, fans in known.flows.items()
    ]
    _table(console, "moves", ["MOVE", "LAST 7 DAYS", "THE 7 BEFORE", "CHANGE"], flows)
    rated = sum(fans for fans, _ in known.tiers.values())
    tiers = [
        [tier, f"{fans:,}", _percent(_ratio(fans, rated)), f"{micros / 1e6:,.2f}"]
        for tier, (fans, micros) in known.tiers.items()
    ]
    _table(
        console,
        f"value as of {_minute(known.refreshed_at, zone)}",
        ["TIER", "FANS", "SHARE", "CONTRIBUTION (YUAN)"],
        tiers,
    )
    tags = [[tag, f"{fans:,}", _percent(_ratio(fans, rated))] for tag, fans in known.tags.items()]
    _table(console, "tags; a fan may have several", ["TAG", "FANS", "SHARE"], tags)
    _list(console, "advice", known.advice or ["nothing stands out"])


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _summary(known: Fans) -> str:
    if known.day is None:
        return "stages are not known yet: the workers have not come so far"
    here = sum(known.stages.values()) - known.stages["churned"]
    rates = f"churn in 7 days {_percent(known.churn_rate)} ({_percent(known.churn_rate_before)} before)"
    return f"{here:,} fans, {known.stages['churned']:,} churned, {rates}"


def _table(console: Console | None, title: str, header: list[str], rows: list[list[str]]) -> None:
    if not rows:
        return
    if console is None:
        typer.echo(f"\n{title}")
        print_table(header, rows)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(header):
        table.add_column(name.lower(), justify="right" if number else "left", header_style="dim", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print()
    console.print(Text(title, style="dim italic"))
    console.print(table)


def _list(console: Console | None, title: str, lines: list[str]) -> None:
    if console is None:
        typer.echo(f"\n{title}")
        for line in lines:
            typer.echo(f"- {line}")
        return
    console.print()
    console.print(Text(title, style="dim italic"))
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("•", Text(line))
    console.print(grid)


_STYLES = {
    "silent": "yellow",
    "churned": "red",
    "high": "green",
    FLOWS["unfollowed"]: "red",
    FLOWS["stayed_away"]: "red",
}


def _minute(at: datetime | None, zone: str) -> str:
    return "-" if at is None else f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}, {zone}"


def _signed(number: int) -> str:
    return f"{number:+,}"


def _percent(ratio: float | None, sign: str = "") -> str:
    return "-" if ratio is None else f"{ratio:{sign}.1%}"
