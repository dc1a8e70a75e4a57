"""What people read of advertisements, against figures by hand and against plain sums; and the whole way there."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from rig import DAY, MINUTE, WorkerProcess, ask, await_stored, database, now_ms, prepare, send, verified

from infra.settings import Settings
from pipeline.migrate import migrate
from pipeline.repair import repair
from pipeline.verify import verify

pytestmark = [pytest.mark.stack, pytest.mark.slow]

MEASURES = ("impressions", "clicks", "plays", "conversions", "cost_micros", "conversion_value_micros")
FIGURES = (*MEASURES, "cpm_micros", "ctr", "cvr", "cpa_micros", "conversion_roas", "conversion_roi")
OF = ("platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel")
OF_PEOPLE = ("platform", "campaign_id", "region", "age_band", "gender")
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
ZONE = "Asia/Shanghai"

Row = dict[str, Any]
Found = dict[tuple[Any, ...], tuple[Any, ...]]


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client of a migrated database whose workers live in Shanghai."""
    migrate(settings)
    with database(settings) as client:
        move_to(client, ZONE, NOON)
        yield client


def move_to(client: Client, zone: str, at: datetime) -> None:
    client.insert("fan_settings", [[zone, at]], column_names=["time_zone", "written_at"])


def insert(client: Client, rows: list[Row], people: bool = False) -> None:
    """Rows, and what must not count beside each: an older version of it, and one of another definition."""
    keys = OF_PEOPLE if people else OF
    given = dict.fromkeys(OF, "x") | {"platform": "douyin", "channel": "feed"}
    given |= {"region": "", "age_band": "", "gender": "", "partition": 0, "origin": "stream"}
    columns = (*keys, "minute", "partition", "origin", *MEASURES)
    made = []
    for row in rows:
        whole = given | dict.fromkeys(MEASURES, 0) | row
        values = [whole[name] for name in columns]
        made += [[*values, 1, 20], [*values[: -len(MEASURES)], *(1 for _ in MEASURES), 1, 10]]
        made.append([*values[: -len(MEASURES)], *(7 for _ in MEASURES), 2, 30])
    table = "ads_people_minute" if people else "ads_minute"
    client.insert(table, made, column_names=[*columns, "fold_version", "applied"])


def found(client: Client, view: str, *keys: str, which: str = "1") -> Found:
    """Figures of a view by these keys; times are UTC."""
    rows = client.query(f"SELECT {', '.join((*keys, *FIGURES))} FROM {view} WHERE {which}").result_rows
    by = {tuple(_utc(value) for value in row[: len(keys)]): tuple(row[len(keys) :]) for row in rows}
    assert len(by) == len(rows), "a key has two rows"
    return by


def _utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def figures(sums: dict[str, int]) -> tuple[Any, ...]:
    """Everything that follows from sums, by its definition."""
    shown, clicks, _, done, cost, value = (sums[name] for name in MEASURES)

    def nearest(part: int, whole: int) -> int | None:
        return (2 * part + whole) // (2 * whole) if whole else None

    def ratio(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return (
        *(sums[name] for name in MEASURES),
        nearest(1000 * cost, shown),
        ratio(clicks, shown),
        ratio(done, clicks),
        nearest(cost, done),
        ratio(value, cost),
        ratio(value - cost, cost),
    )


BY_HAND = {
    "whole": (
        (1000, 50, 20, 5, 20_000_000, 50_000_000),
        (20_000_000, 0.05, 0.1, 4_000_000, 2.5, 1.5),
    ),
    "rounded up from a half": ((2000, 1, 0, 2, 5, 0), (3, 0.0005, 2.0, 3, 0.0, -1.0)),
    "rounded down below it": ((3000, 3, 0, 3, 4, 2), (1, 0.001, 1.0, 1, 0.5, -0.5)),
    "cost alone": ((0, 0, 0, 0, 7, 0), (None, None, None, None, 0.0, -1.0)),
    "value alone": ((0, 0, 0, 0, 0, 7), (None, None, None, None, None, None)),
    "conversions without a click": ((10, 0, 0, 4, 0, 40), (0, 0.0, None, 0, None, None)),
    "more conversions than clicks, more clicks than impressions": ((2, 4, 9, 8, 2, 2), (1000, 2.0, 2.0, 0, 1.0, 0.0)),
    "plays alone": ((0, 0, 3, 0, 0, 0), (None, None, None, None, None, None)),
    "thousand times the cost is beyond 64 bits": (
        (10, 1, 0, 1, 9 * 10**17, 0),
        (9 * 10**19, 0.1, 1.0, 9 * 10**17, 0.0, -1.0),
    ),
}
"""Sums, and what follows from them."""


def test_figures_by_hand(client: Client) -> None:
    largest = 2**63 - 1
    assert {name: figures(dict(zip(MEASURES, sums, strict=True)))[6:] for name, (sums, _) in BY_HAND.items()} == {
        name: wanted for name, (_, wanted) in BY_HAND.items()
    }
    minute = {"minute": NOON}
    rows = [
        minute | {"campaign_id": name} | dict(zip(MEASURES, sums, strict=True)) for name, (sums, _) in BY_HAND.items()
    ]
    insert(client, rows)
    insert(client, rows, people=True)
    # What no 64 bits hold is not shown.
    wanted = {
        (name,): (*sums, None if (follows[0] or 0) > largest else follows[0], *follows[1:])
        for name, (sums, follows) in BY_HAND.items()
    }
    assert found(client, "ads_campaign_minutes", "campaign_id") == wanted
    for view in ("ads_hours", "ads_days"):
        assert found(client, view, "campaign_id", which="by = 'creative'") == wanted
    assert found(client, "ads_people", "campaign_id", which="by = 'region'") == wanted
    at = "since = '2026-03-04 12:00:00', until = '2026-03-04 12:01:00'"
    assert found(client, f"ads_by(by = 'campaign', {at})", "campaign_id") == wanted


def made(rng: Random, people: bool) -> list[Row]:
    """Rows of few values on either side of local midnights and hours, of several partitions and origins."""
    keys = OF_PEOPLE if people else OF
    rows = {}
    for _ in range(400):
        row: Row = {key: rng.choice(("a", "b")) for key in keys if key != "platform"}
        row |= {"platform": rng.choice(("douyin", "kuaishou"))}
        if not people:
            row["channel"] = rng.choice(("feed", "live"))
        row["minute"] = NOON + timedelta(minutes=rng.choice((-1, 0, 59, 60, 239, 240, 241, 1680, rng.randrange(4000))))
        row |= {"partition": rng.randrange(3), "origin": rng.choice(("stream", "repair"))}
        rows[tuple(row.values())] = row | {measure: rng.randrange(50) for measure in MEASURES}
    return list(rows.values())


def added_up(rows: list[Row], *keys: str) -> Found:
    sums: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in rows:
        own = sums.setdefault(tuple(row[key] for key in keys), dict.fromkeys(MEASURES, 0))
        for measure in MEASURES:
            own[measure] += row[measure]
    return {key: figures(own) for key, own in sums.items()}


def told_apart(rows: list[Row], zone: str, **by: str) -> list[Row]:
    """The rows once for each ``by`` (its name and the column that has its value), with ``hour``, local ``day`` and the
    local hour ``of_day``."""
    apart = []
    for row in rows:
        local = row["minute"].astimezone(ZoneInfo(zone))
        times = {"hour": row["minute"].replace(minute=0), "day": local.date(), "of_day": str(local.hour)}
        whole = row | times
        apart += [whole | {"by": name, "value": whole[column]} for name, column in by.items()]
    return apart


BY = {
    "campaign": "campaign_id",
    "ad_group": "ad_group_id",
    "creative": "creative_id",
    "audience": "audience",
    "channel": "channel",
}


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Asia/Kolkata", "UTC"])
def test_views_add_up_minutes_partitions_and_repairs(client: Client, zone: str) -> None:
    if zone != ZONE:
        move_to(client, zone, NOON + timedelta(seconds=1))
    rows = made(Random(5), people=False)
    insert(client, rows)
    campaign = ("platform", "creator_id", "campaign_id")
    assert found(client, "ads_campaign_minutes", *campaign, "minute") == added_up(rows, *campaign, "minute")
    apart = told_apart(rows, zone, **BY)
    for view, bucket in (("ads_hours", "hour"), ("ads_days", "day")):
        keys = (*campaign, "by", "value", bucket)
        assert found(client, view, *keys) == added_up(apart, *keys)
    own = [row for row in apart if (row["by"], row["creator_id"], row["value"]) == ("creative", "a", "b")]
    keys = ("platform", "campaign_id", "day")
    which = "by = 'creative' AND creator_id = 'a' AND value = 'b'"
    assert found(client, "ads_days", *keys, which=which) == added_up(own, *keys)

    people = made(Random(6), people=True)
    insert(client, people, people=True)
    keys = ("platform", "campaign_id", "by", "value", "day")
    whom = told_apart(people, zone, region="region", age_band="age_band", gender="gender")
    assert found(client, "ads_people", *keys) == added_up(whom, *keys)


def test_a_time_by_one_thing(client: Client) -> None:
    rows = made(Random(7), people=False)
    insert(client, rows)
    since, until = NOON, NOON + timedelta(minutes=240)
    within = [row for row in rows if since <= row["minute"] < until]
    assert 0 < len(within) < len(rows)
    view = f"ads_by(by = '{{}}', since = '{since:%Y-%m-%d %H:%M:%S}', until = '{until:%Y-%m-%d %H:%M:%S}')"
    for by, column in {**BY, "creator": "creator_id", "hour": "of_day"}.items():
        apart = told_apart(within, ZONE, **{by: column})
        if by not in ("campaign", "ad_group", "creative"):
            apart = [row | {"campaign_id": ""} for row in apart]
        keys = ("platform", "campaign_id", "value")
        assert found(client, view.format(by), *keys) == added_up(apart, *keys), by
    with pytest.raises(DatabaseError, match="by is one of creator, campaign, ad_group"):
        found(client, view.format("region"), "value")


def test_before_any_worker_there_are_no_rows(settings: Settings) -> None:
    """Which zone days are of is not known yet; that is no error."""
    migrate(settings)
    for view in ("ads_campaign_minutes", "ads_hours", "ads_days", "ads_people"):
        assert ask(settings, f"SELECT * FROM {view}") == []
    assert ask(settings, "SELECT * FROM ads_by(by = 'hour', since = '2026-01-01 00:00:00', until = now())") == []


def ad_events(rng: Random, count: int, start: int, until: int, first: int = 0) -> list[dict[str, Any]]:
    """Ad events in the order of their times."""
    return [
        {
            "event_id": f"a{number}",
            "event_time": start + (until - start) * number // count,
            "platform": rng.choice(("douyin", "kuaishou")),
            "fan_id": f"fan{rng.randrange(200)}",
            "creator_id": rng.choice(("c1", "c2")),
            "region": rng.choice(("广东", "北京", "")),
            "gender": rng.choice(("female", "male", None)),
            "kind": rng.choice(("impression", "impression", "impression", "click", "play", "conversion")),
            "campaign_id": rng.choice(("k1", "k2")),
            "ad_group_id": rng.choice(("g1", "g2")),
            "creative_id": rng.choice(("v1", "v2")),
            "audience": rng.choice(("18-30 岁 美食 广东", "all")),
            "channel": rng.choice(("feed", "dou_plus")),
            "cost_micros": rng.choice((None, 0, 45_000)),
            "value_micros": rng.choice((None, 0, 89_900_000)),
        }
        | ({"event_id": f"b{number}"} if first else {})
        for number in range(count)
    ]


@pytest.mark.timeout(120)
def test_the_whole_way_and_back(settings: Settings, tmp_path: Path) -> None:
    """A worker is killed, another goes on; what came late is taken in by a repair; a wrong row is found."""
    prepare(settings)
    now = now_ms()
    on_time = ad_events(Random(1), 1500, now - 30 * MINUTE, now)
    late = ad_events(Random(2), 60, now - 2 * DAY, now - DAY, first=1)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "ad_events", on_time[:900])
        await_stored(settings, [worker])
        send(settings, "ad_events", [*on_time[900:], *on_time[:50], *late, late[0]])
        worker.kill()
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        rows = verified(settings)
        assert rows["ads_minute"] > 300
        assert rows["ads_people_minute"] > 300
        assert totals(settings) == plain(on_time)
        today = datetime.fromtimestamp(now / 1000, UTC).date()
        done = repair(settings, today - timedelta(days=4), today + timedelta(days=1))
        assert (done.events["ad_events"], done.repeats["ad_events"]) == (60, 1)
        await_stored(settings, [worker])
        assert worker.stop() == 0, worker.output()
    verified(settings)
    assert totals(settings) == plain(on_time + late)
    with database(settings) as client:
        for table, wrong in (("ads_minute", "clicks + 1 AS clicks"), ("ads_people_minute", "applied + 1 AS applied")):
            client.command(f"INSERT INTO {table} SELECT * REPLACE ({wrong}) FROM {table} FINAL LIMIT 1")
    assert {each.name: each.differ for each in verify(settings) if each.differ} == {
        "ads_minute": 1,
        "ads_people_minute": 1,
    }


def totals(settings: Settings) -> list[tuple[Any, ...]]:
    """Sums by campaign of both tables, by the views; and by local day."""
    sums = ", ".join(f"toInt64(sum({name})) AS {name}" for name in MEASURES)
    keys = "platform, campaign_id"
    found = ask(settings, f"SELECT {keys}, {sums} FROM ads_campaign_minutes GROUP BY {keys} ORDER BY {keys}")
    for view, by in (("ads_hours", "audience"), ("ads_days", "channel"), ("ads_people", "gender")):
        query = f"SELECT {keys}, {sums} FROM {view} WHERE by = '{by}' GROUP BY {keys} ORDER BY {keys}"
        assert ask(settings, query) == found, view
    days = {day for (day,) in ask(settings, "SELECT DISTINCT day FROM ads_days")}
    assert all(isinstance(day, date) for day in days)
    return found


def plain(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    sums: dict[tuple[str, str], list[int]] = {}
    kinds = ("impression", "click", "play", "conversion")
    for event in events:
        row = sums.setdefault((event["platform"], event["campaign_id"]), [0] * len(MEASURES))
        row[kinds.index(event["kind"])] += 1
        row[4] += event["cost_micros"] or 0
        row[5] += event["value_micros"] or 0
    return [(*key, *row) for key, row in sorted(sums.items())]
