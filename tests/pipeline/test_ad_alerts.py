"""Budgets, pace and alerts of campaigns on a real ClickHouse, against plain readings of the rows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from random import Random
from statistics import fmean, stdev
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clickhouse_connect.driver.client import Client
from rig import database

from infra.settings import Settings
from pipeline.alerting import Alerter, reached_by_rules, read_alerts
from pipeline.alerts import DAY, end_of
from pipeline.checkpoint import Checkpoint, read, write
from pipeline.metrics import Metrics
from pipeline.migrate import migrate

pytestmark = pytest.mark.stack

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
YUAN = 1_000_000
ADS = (
    "platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel", "minute",
    "partition", "origin", "fold_version", "impressions", "clicks", "plays", "conversions", "cost_micros",
    "conversion_value_micros", "applied",
)  # fmt: skip


@dataclass
class Row:
    """A row of ``ads_minute``."""

    campaign: str
    group: str
    minute: datetime
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost: int = 0


@dataclass
class Told:
    """A change of a budget: of a campaign or ad group, by people or a rule."""

    campaign: str
    group: str
    at: datetime
    by: str
    daily: int | None
    total: int | None = None


@dataclass
class World:
    """Writes what workers write of campaigns."""

    settings: Settings
    client: Client
    zone: str
    rows: list[Row] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client.insert("fan_settings", [[self.zone, datetime.now(UTC)]], column_names=["time_zone", "written_at"])

    def add(self, rows: list[Row]) -> None:
        """Rows, and an older version of each that must not count."""
        self.rows += rows
        made = []
        for each in rows:
            where = ("douyin", f"dy_{each.campaign}", each.campaign, each.group, "cr", "all", "feed", each.minute)
            for applied, factor in ((20, 1), (10, 0)):
                sums = (each.impressions, each.clicks, 0, each.conversions, each.cost, 0)
                made.append([*where, 0, "stream", 1, *(value * factor for value in sums), applied])
        self.client.insert("ads_minute", made, column_names=ADS)

    def tell(self, campaign: str, at: datetime, groups: dict[str, int | None], **budgets: int | None) -> None:
        """A campaign and its ad groups' daily budgets, as people tell them."""
        said = {name: f"{micros} micros" for name, micros in budgets.items() if micros is not None}
        listed = [
            {"ad_group_id": group} | ({} if daily is None else {"daily_budget": f"{daily} micros"})
            for group, daily in groups.items()
        ]
        text = json.dumps({"campaign_id": campaign, **said} | ({"ad_groups": listed} if listed else {}))
        columns = ("platform", "campaign_id", "partition", "applied", "text", "changed_by", "changed_at")
        row = ["douyin", campaign, 0, len(self.told), text, "lin", at]
        self.client.insert("campaign_changes", [row], column_names=columns)
        self.told.append(Told(campaign, "", at, "lin", budgets.get("daily_budget"), budgets.get("total_budget")))
        self.told += [Told(campaign, group, at, "lin", daily) for group, daily in groups.items()]

    def step(self, campaign: str, group: str, at: datetime, daily: int, kind: str = "budget") -> None:
        """A rule sets a daily budget."""
        columns = ("key", "rule_id", "platform", "campaign_id", "ad_group_id", "closed_at", "action", "after_micros",
                   "decided_at", "fold_version", "applied")  # fmt: skip
        row = [f"r:{at}", "r", "douyin", campaign, group, at, kind, daily, at, 1, len(self.told)]
        self.client.insert("budget_actions", [row], column_names=columns)
        if kind == "budget":
            self.told.append(Told(campaign, group, at, "r", daily))

    def know(self, campaign: str, group: str = "", state: str = "active", **budgets: int | None) -> None:
        """The state of a campaign, as rules know it."""
        text = json.dumps({"creator_id": f"dy_{campaign}", "state": state})
        numbers = [budgets.get("daily_budget"), budgets.get("total_budget"), None, None, 0, 1]
        self.state("entity", numbers, platform="douyin", campaign_id=campaign, ad_group_id=group, text=text)

    def state(self, kind: str, numbers: list[int | None], **named: Any) -> None:
        row = {"partition": 0, "kind": kind, "numbers": numbers, "fold_version": 1, "applied": 1} | named
        self.client.insert("rule_state", [list(row.values())], column_names=list(row))

    def reach(self, at: datetime, stored: int | None = None) -> None:
        """Rules have decided up to a time, on the first so many records of ad events; so many agent ads has stored."""
        number = int(at.timestamp())
        for partition in range(self.settings.partitions):
            self.state("closed", [number * 1000], partition=partition, applied=number)
            self.state("input", [number, number * 1000, None], partition=0, source=partition, applied=number)
        made = [
            Checkpoint(
                "ads", "ad_events", partition, 1, number if stored is None else stored, number * 1000, "", "", "{}"
            )
            for partition in range(self.settings.partitions)
        ]
        write(self.client, made, number)

    # The plain readings.

    def of(self, campaign: str, begin: datetime, end: datetime, group: str = "") -> list[Row]:
        """Rows of a campaign, or of an ad group of it, from a time on and before another."""
        return [
            each
            for each in self.rows
            if each.campaign == campaign and group in ("", each.group) and begin <= each.minute < end
        ]

    def budget(self, campaign: str, at: datetime, group: str = "") -> tuple[int | None, int | None]:
        """Daily and total budget at a time."""
        daily = total = None
        for each in self.told:
            if (each.campaign, each.group) == (campaign, group) and each.at <= at:
                daily = each.daily
                total = each.total if each.by == "lin" else total
        return daily, total


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    migrate(settings)
    with database(settings) as made:
        yield made


def _utc(moment: Any) -> Any:
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else moment


def table(client: Client, query: str) -> list[dict[str, Any]]:
    found = client.query(query)
    return [dict(zip(found.column_names, map(_utc, row), strict=True)) for row in found.result_rows]


@pytest.mark.parametrize(("zone", "now"), [("Asia/Kolkata", 10), ("America/New_York", 0)])
def test_views_of_budget_and_pace_are_a_plain_reading(settings: Settings, client: Client, zone: str, now: int) -> None:
    """In New York the day that runs has 25 hours, and has just begun."""
    rng, world, place = Random(now), World(settings, client, zone), ZoneInfo(zone)
    today = date(2026, 11, 1)
    begin, end = (datetime.fromtimestamp(end_of(today + n * DAY, place) / 1000, UTC) for n in (-1, 0))
    at = begin + now * HOUR + rng.randrange(10, 40) * MINUTE + timedelta(seconds=17)
    minutes = [begin - rng.randrange(4 * 1440) * MINUTE for _ in range(150)]
    minutes += [begin + rng.randrange(now * 60 + 10) * MINUTE for _ in range(150)]
    minutes += [begin, begin - MINUTE, at.replace(second=0), at.replace(second=0) - 59 * MINUTE]
    made = {(rng.choice("abcd"), rng.choice("gh"), minute): rng.randrange(1, 9 * YUAN) for minute in minutes}
    world.add([Row(*where, impressions=1, cost=cost) for where, cost in made.items()])
    world.tell("a", begin - 60 * HOUR, {"g": 90 * YUAN, "h": None}, daily_budget=200 * YUAN, total_budget=1200 * YUAN)
    world.step("a", "", begin - 30 * HOUR, 240 * YUAN)
    world.step("a", "", begin - HOUR, 99, kind="bid")
    world.step("a", "", begin + 5 * MINUTE, 288 * YUAN)
    world.tell("b", begin - 30 * HOUR, {}, daily_budget=1)
    world.tell("c", begin - 30 * HOUR, {}, daily_budget=YUAN, total_budget=0)
    world.tell("c", begin - 20 * HOUR, {})
    for campaign, group, state in (("a", "", "active"), ("a", "g", "active"), ("a", "h", "paused"), ("b", "", "ended"),
                                   ("c", "", "active"), ("e", "", "active"), ("f", "", "paused")):  # fmt: skip
        daily, total = world.budget(campaign, end, group)
        if campaign == "e":
            daily, total = 40 * YUAN, 80 * YUAN
        world.know(campaign, group, state, daily_budget=daily, total_budget=total)
    world.reach(at)

    days = {
        (each["campaign_id"], each["ad_group_id"], each["day"]): each
        for each in table(client, "SELECT * FROM ads_budget_days")
    }
    for (campaign, group, day), found in days.items():
        first, last = (datetime.fromtimestamp(end_of(day + n * DAY, place) / 1000, UTC) for n in (-1, 0))
        cost = sum(each.cost for each in world.of(campaign, first, last, group))
        daily, _ = world.budget(campaign, last, group)
        assert (found["cost_micros"], found["daily_budget_micros"]) == (cost, daily), (campaign, group, day)
        assert found["cost_share"] == (cost / daily if daily else None)
        assert found["creator_id"] == f"dy_{campaign}"
    wanted = {
        (each.campaign, group, each.minute.astimezone(place).date())
        for each in world.rows
        for group in ("", each.group)
    }
    assert set(days) == wanted

    pace = {(each["campaign_id"], each["ad_group_id"]): each for each in table(client, "SELECT * FROM ads_pace")}
    running = {(each.campaign, group) for each in world.rows if each.minute >= begin for group in ("", each.group)}
    assert set(pace) == running | {("a", ""), ("a", "g"), ("c", ""), ("e", "")}
    share = (at - begin) / (end - begin)
    since = max(begin, at.replace(second=0) - 59 * MINUTE)
    for (campaign, group), found in pace.items():
        cost = sum(each.cost for each in world.of(campaign, begin, end, group))
        recent = sum(each.cost for each in world.of(campaign, since, end, group))
        daily = 40 * YUAN if campaign == "e" else world.budget(campaign, end, group)[0]
        assert (found["cost_micros"], found["hour_cost_micros"], found["daily_budget_micros"]) == (cost, recent, daily)
        assert (found["day"], found["at"], found["creator_id"]) == (today, at, f"dy_{campaign}")
        assert found["expected_share"] == pytest.approx(share)
        assert found["pace"] == (pytest.approx(cost / daily / share) if daily else None)
        assert found["projected_micros"] == cost + recent * ((end - at) // MINUTE * 60 + 43) // (at - since).seconds
        if daily is None:
            assert (found["left_micros"], found["used_up_at"]) == (None, None)
            continue
        assert found["left_micros"] == daily - cost
        lasts = (daily - cost) * (at - since) / recent if recent else None
        if cost >= daily:
            assert found["used_up_at"] == at
        elif lasts is None or at + lasts >= end:
            assert found["used_up_at"] is None
        else:
            assert abs(found["used_up_at"] - (at + lasts)) <= timedelta(milliseconds=1)
    assert (pace["e", ""]["cost_micros"], pace["e", ""]["pace"], pace["e", ""]["projected_micros"]) == (0, 0, 0)

    totals = {each["campaign_id"]: each for each in table(client, "SELECT * FROM ads_total_budgets")}
    assert set(totals) == {"a", "e"}
    spent = sum(each.cost for each in world.rows if each.campaign == "a")
    found = totals["a"]
    assert (found["cost_micros"], found["left_micros"], found["week_cost_micros"]) == (
        spent,
        1200 * YUAN - spent,
        spent,
    )
    assert found["cost_share"] == spent / (1200 * YUAN)
    assert found["days_left"] == pytest.approx(max(1200 * YUAN - spent, 0) / spent * 7)
    assert (totals["e"]["cost_micros"], totals["e"]["days_left"]) == (0, None)

    changes = table(client, "SELECT * FROM ads_budget_changes WHERE campaign_id = 'a' ORDER BY applied, ad_group_id")
    assert [
        (each["ad_group_id"], each["changed_by"], each["told"], each["daily_budget_micros"]) for each in changes
    ] == [
        ("", "lin", 1, 200 * YUAN),
        ("g", "lin", 1, 90 * YUAN),
        ("h", "lin", 1, None),
        ("", "r", 0, 240 * YUAN),
        ("", "r", 0, 288 * YUAN),
    ]


def fires(world: World, campaign: str, begin: datetime, at: datetime) -> set[str]:
    """Kinds that fire at an hour of a campaign, by a plain reading of docs/alerts.md."""
    zone = ZoneInfo(world.zone)
    hour, day = world.of(campaign, begin, at), world.of(campaign, begin - 23 * HOUR, at)

    def total(rows: list[Row], name: str) -> int:
        return sum(getattr(each, name) for each in rows)

    found = set()
    shown, cost = total(hour, "impressions"), total(hour, "cost")
    cpm = 1000 * cost / shown if shown else 0.0
    if shown >= 1000 and cpm > 60 * YUAN:
        found.add("cpm_high")
    if shown >= 1000 and cost >= YUAN and cpm < 3 * YUAN:
        found.add("cpm_low")
    past = [world.of(campaign, begin - n * DAY, begin - n * DAY + HOUR) for n in range(1, 8)]
    usual = [1000 * total(each, "cost") / total(each, "impressions") for each in past if total(each, "impressions")]
    deviation = max(stdev(usual), fmean(usual) / 20) if len(usual) >= 3 else 0.0
    if shown >= 1000 and deviation and cpm >= 1.5 * fmean(usual) and cpm - fmean(usual) > 4 * deviation:
        found.add("cpm_rise")
    clicks, conversions, spent = (total(day, name) for name in ("clicks", "conversions", "cost"))
    if clicks >= 400 and conversions >= 1 and conversions / clicks < 0.005:
        found.add("cvr_low")
    if spent >= 200 * YUAN and conversions == 0:
        found.add("spend_without_conversions")
    today = begin.astimezone(zone).date()
    first, last = (datetime.fromtimestamp(end_of(today + n * DAY, zone) / 1000, UTC) for n in (-1, 0))
    running = at - begin < HOUR
    daily, most = world.budget(campaign, datetime.max.replace(tzinfo=UTC) if running else at)
    cost_today = total(world.of(campaign, first, at), "cost")
    if daily and cost_today >= 10 * YUAN and cost_today >= 0.9 * daily and (last - at) / (last - first) > 0.2:
        found.add("daily_budget_gone")
    ever = total(world.of(campaign, datetime.min.replace(tzinfo=UTC), at), "cost")
    if most and spent >= YUAN and ever >= 0.9 * most:
        found.add("total_budget_gone")
    return found


def test_alerts_of_campaigns_fire_and_end_as_a_plain_reading_says(settings: Settings, client: Client) -> None:
    """Two days of eight campaigns that go wrong in turn, looked at hour by hour, at a minute within the hour, and by
    another worker at the end."""
    rng, world = Random(3), World(settings, client, "Asia/Shanghai")
    start = datetime(2026, 3, 2, 16, tzinfo=UTC)
    rows = []
    for number in range(8):
        own = f"c{number}"
        for hour in range(-8 * 24, 48):
            begin = start + hour * HOUR
            bad = hour >= 0 and rng.random() < 0.15
            shown = rng.choice((0, 300, 900, 1500, 2000))
            price = rng.choice((2, 70, 45)) * YUAN if bad else (20 + rng.randrange(-3, 4)) * YUAN
            converts = number % 2 == 0 or hour % 30 == 0
            rows.append(
                Row(
                    own, "g", begin + rng.randrange(37) * MINUTE, shown, shown // 40, int(converts) * shown // 900,
                    shown * price // 1000,
                )
            )  # fmt: skip
    world.add(rows)
    world.tell("c0", start - HOUR, {}, daily_budget=300 * YUAN)
    world.step("c0", "", start + 14 * HOUR, 500 * YUAN)
    world.tell("c2", start - HOUR, {}, daily_budget=200 * YUAN, total_budget=4500 * YUAN)
    world.tell("c3", start + 30 * HOUR, {}, total_budget=5000 * YUAN)
    alerter = Alerter(settings, Metrics(), hooks=[])
    seen: set[tuple[str, str]] = set()
    ends: set[str] = set()
    kinds = {name for name, kind in settings.alert_policy.kinds.items() if kind.figures == "campaigns"}
    steady = kinds - {"cvr_low"}
    for hour in range(24, 48, 3):
        for at in (start + hour * HOUR, start + hour * HOUR + 37 * MINUTE):
            world.reach(at)
            for alert in alerter.decide(client):
                if alert.state == "open":
                    seen.add((alert.kind, alert.subject))
                    moment = datetime.fromtimestamp(alert.at / 1000, UTC)
                    begin = (moment - timedelta(microseconds=1)).replace(minute=0, second=0, microsecond=0)
                    assert alert.kind in fires(world, alert.subject, begin, moment), alert
                    assert begin + HOUR == moment or alert.kind in steady
                else:
                    ends.add(alert.id)
            if at.minute:
                open_now = {(each.kind, each.subject) for each in read_alerts(client, "state = 'open'")}
                begin = at.replace(minute=0)
                for number in range(8):
                    now = fires(world, f"c{number}", begin, at) & steady
                    before = fires(world, f"c{number}", begin - HOUR, begin)
                    missing = {(kind, f"c{number}") for kind in now | before} - open_now
                    assert not missing, (at, missing)
    assert {kind for kind, _ in seen} == kinds
    assert ends
    rows_now = read_alerts(client)
    assert len(rows_now) == len({each.id for each in rows_now})
    assert all(each.creator_id == f"dy_{each.subject}" for each in rows_now)
    # Who takes over finds nothing new, at the same time.
    assert Alerter(settings, Metrics(), hooks=[]).decide(client) == []
    # A day on without an event, nothing is open any more.
    world.reach(start + 73 * HOUR)
    alerter.decide(client)
    assert read_alerts(client, "state = 'open'") == []


def test_rules_that_fire_tell_once_a_day_and_not_before_all_is_stored(settings: Settings, client: Client) -> None:
    world, alerter = World(settings, client, "Asia/Shanghai"), Alerter(settings, Metrics(), hooks=[])
    start = datetime(2026, 3, 2, 16, tzinfo=UTC)

    def decide(
        rule: str, at: datetime, outcome: str, after: int | None = None, group: str = "", again: int = 1
    ) -> None:
        columns = ("rule_id", "platform", "campaign_id", "ad_group_id", "closed_at", "mode", "action", "outcome",
                   "before_micros", "after_micros", "key", "fold_version", "applied")  # fmt: skip
        mode = "notify" if outcome == "notified" else "act"
        action = "pause" if after is None else "budget"
        before = None if after is None else 300 * YUAN
        row = [rule, "douyin", "c", group, at, mode, action, outcome, before, after, f"{rule}:{group}:{at}", 1]
        client.insert("rule_decisions", [[*row, applied] for applied in range(again)], column_names=columns)

    for rule, notify in (("loud", ["ops", "lin"]), ("silent", []), ("asks", [])):
        text = json.dumps({"notify": notify} if notify else {})
        row = [rule, 0, 1, f"Rule {rule}", text, start]
        client.insert(
            "rule_changes", [row], column_names=["rule_id", "partition", "applied", "name", "text", "changed_at"]
        )
    world.know("c")
    decide("loud", start + HOUR, "fired", 360 * YUAN, again=2)
    decide("loud", start + HOUR, "skipped")
    decide("loud", start + 2 * HOUR, "dry_run", 400 * YUAN)
    decide("silent", start + HOUR, "fired", 360 * YUAN)
    decide("asks", start + 2 * HOUR, "notified", group="g")
    world.reach(start + 3 * HOUR, stored=1)
    assert reached_by_rules(client, read(client), settings.partitions) is None
    assert alerter.decide(client) == []
    world.reach(start + 3 * HOUR)
    made = alerter.decide(client)
    assert [(each.id, each.said) for each in made] == [
        (
            "rule_fired:douyin:dy_c:c/asks:2026-03-03",
            "Rule Rule asks fired for c at 02:00 on 2026-03-03: pause (ad group g, it only tells).",
        ),
        (
            "rule_fired:douyin:dy_c:c/loud:2026-03-03",
            "Rule Rule loud fired for c at 01:00 on 2026-03-03: budget from 300.00 yuan to 360.00 yuan. For ops, lin.",
        ),
    ]
    decide("loud", start + 20 * HOUR, "clamped", 400 * YUAN)
    world.reach(start + 23 * HOUR)
    assert alerter.decide(client) == []
    world.reach(start + 24 * HOUR)
    decide("loud", start + 25 * HOUR, "fired", 500 * YUAN)
    assert [
        (each.subject, each.state, each.figures, each.resolved_figures.get("firings"))
        for each in alerter.decide(client)
    ] == [
        ("c/asks", "resolved", {"firings": 1}, 1),
        ("c/loud", "resolved", made[1].figures, 2),
    ]
    world.reach(start + 26 * HOUR)
    (again,) = alerter.decide(client)
    assert (again.id[-10:], again.state, again.figures["after_micros"]) == ("2026-03-04", "open", 500 * YUAN)
    assert Alerter(settings, Metrics(), hooks=[]).decide(client) == []
