"""What the SQL that boards have in common says, and figures of panels that are asked of few rows, known by hand."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clickhouse_connect.driver.client import Client

from dashboards.boards import boards
from dashboards.macros import ALL, expand
from dashboards.queries import rolling, whole
from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.migrate import migrate

pytestmark = pytest.mark.stack

ZONE = ZoneInfo("Asia/Shanghai")
DAY = timedelta(days=1)
FIRST = date(2026, 3, 1)
CHOSEN = {"platform": [ALL], "creator": [ALL], "campaign": [ALL], "window": ["60"], "zone": [ZONE.key]}
Rows = list[tuple[Any, ...]]


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    migrate(settings)
    client = clickhouse_client(settings)
    yield client
    client.close()


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZONE)


def ask(client: Client, sql: str, begin: datetime, end: datetime, **chosen: list[str]) -> Rows:
    expanded = expand(sql, int(begin.timestamp() * 1000), int(end.timestamp() * 1000), 60, CHOSEN | chosen)
    return [tuple(row) for row in client.query(expanded).result_rows]


def panel(uid: str, title: str) -> str:
    (found,) = (each.sql for board in boards() if board.uid == uid for each in board.panels if each.title == title)
    return found


def put(client: Client, table: str, rows: list[dict[str, Any]]) -> None:
    client.insert(table, [list(row.values()) for row in rows], column_names=list(rows[0]))


def moved(creator: str, fans: range, day: int, before: str, after: str, reason: str, platform: str = "douyin") -> Rows:
    when = FIRST + day * DAY
    known = {"platform": platform, "creator_id": creator, "day": when, "step": 1, "from_stage": before}
    known |= {"to_stage": after, "at": midnight(when), "reason": reason, "fold_version": 1, "applied": 1}
    return [known | {"fan": fan} for fan in fans]  # type: ignore[misc]


def test_a_day_is_whole_once_it_is_over(client: Client) -> None:
    def last(end: datetime) -> date:
        days = f"SELECT max(day) FROM (SELECT toDate('2020-01-01') + number AS day FROM numbers(9999)) WHERE {whole()}"
        return ask(client, days, end, end)[0][0]  # type: ignore[no-any-return]

    assert last(midnight(FIRST) - timedelta(milliseconds=1)) == FIRST - DAY
    assert last(midnight(FIRST)) == FIRST - DAY
    assert last(midnight(FIRST) + timedelta(hours=23)) == FIRST - DAY
    before = datetime.now(ZONE).date()
    assert last(datetime.now(ZONE) + 9 * DAY) in (before - DAY, datetime.now(ZONE).date() - DAY)


def test_against_nothing_or_less_there_is_no_change(client: Client) -> None:
    client.command(
        "CREATE TABLE given (minute DateTime('UTC'), came Int64, went Int64) ENGINE = MergeTree ORDER BY minute"
    )
    now = datetime(2026, 3, 9, 12, tzinfo=UTC)
    put(
        client,
        "given",
        [
            {"minute": at - timedelta(minutes=n), "came": came, "went": went}
            for at, came, went in ((now, 12, 2), (now - timedelta(days=1), 0, 5), (now - timedelta(days=2), 5, 0))
            for n in (0, 1)
        ],
    )
    sql = rolling("given", {"came": "came", "went": "went"}, "{came} - {went}", "net", "")
    for days, change in ((0, None), (1, -2.0), (2, None)):
        *_, (_, net, found) = ask(client, sql, now - (days + 0.5) * DAY, now - days * DAY)
        assert (net, found) == ((10, -5, 5)[days], change)


def test_stages_are_beside_those_of_a_week_before_whatever_the_range_is(client: Client) -> None:
    rows: Rows = []
    for day in range(20):
        rows += moved("c1", range(2**day, 2 ** (day + 1)) if day < 9 else range(0), day, "none", "new", "arrived")
    rows += moved("c2", range(1), 19, "none", "new", "arrived")
    put(client, "fan_transitions", rows)  # type: ignore[arg-type]
    fans = {day: min(2 ** (day + 1), 512) - 1 + (day == 19) for day in range(20)}
    end = midnight(FIRST + 12 * DAY)
    for length in range(1, 13):
        found = ask(client, panel("fanpulse-lifecycle", "New"), end - length * DAY, end)
        assert [row[0].astimezone(ZONE).date() for row in found] == [
            FIRST + (12 - n) * DAY for n in range(length, -1, -1)
        ]
        for row, day in zip(found, range(12 - length, 13), strict=True):
            wanted = None if day == 12 or day < 7 else fans[day] / fans[day - 7] - 1
            assert row[1:] == (fans[day], pytest.approx(wanted) if wanted else wanted), (length, day)


def test_a_creator_on_two_platforms_is_one_line(client: Client) -> None:
    rows = moved("c1", range(10), 0, "none", "new", "arrived") + moved(
        "c1", range(3), 2, "new", "churned", "unfollowed"
    )
    rows += moved("c1", range(40), 0, "none", "new", "arrived", "kuaishou")
    rows += moved("c1", range(1), 1, "new", "churned", "unfollowed", "kuaishou")
    rows += moved("c2", range(5), 0, "none", "new", "arrived")
    put(client, "fan_transitions", rows)  # type: ignore[arg-type]
    found = ask(client, panel("fanpulse-lifecycle", "Creators"), midnight(FIRST), midnight(FIRST + 3 * DAY))
    assert found == [("c1", 49, 3, pytest.approx(3 / 49), 50, 4, 0), ("c2", 5, 0, 0.0, 5, 0, 0)]


def test_campaigns_are_those_of_the_creator_who_is_chosen(client: Client) -> None:
    at = midnight(FIRST) + timedelta(hours=12)
    for creator, cost in (("c1", 3_000_000), ("c2", 5_000_000)):
        known = {"platform": "douyin", "campaign_id": f"k{creator}", "minute": at, "cost_micros": cost}
        known |= {"impressions": cost // 1_000_000, "fold_version": 1, "applied": 1}
        put(client, "ads_minute", [known | {"creator_id": creator}])
        put(client, "ads_people_minute", [known | {"gender": "f"}])
    for creators, spent in ((["c1"], [3.0]), (["c2"], [5.0]), ([ALL], [5.0, 3.0]), (["c3"], [])):
        won, people = (
            ask(client, panel("fanpulse-ads", title), midnight(FIRST), midnight(FIRST + DAY), creator=creators)
            for title in ("What campaigns won", "People")
        )
        assert [row[1] for row in won] == spent
        assert {row[2] for row in people if row[0] == "gender"} == ({sum(spent)} if spent else set())


def test_lag_of_an_interval_is_the_most_of_its_minutes(client: Client) -> None:
    # What is older than some days is dropped.
    at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    known = {"worker": "w", "name": "lag", "topic": "orders"}
    lags = ((0, 0, 100), (0, 1, 50), (1, 0, 0), (1, 1, 10))
    put(
        client,
        "pipeline_metrics",
        [known | {"at": at + timedelta(minutes=m), "partition": p, "value": value} for m, p, value in lags],
    )
    sql = panel("fanpulse-pipeline", "Lag by topic")
    whole_day = sql.replace("$__timeInterval(minute)", "toStartOfDay(minute)")
    assert [row[1:] for row in ask(client, whole_day, at, at + timedelta(hours=1))] == [("orders", 150)]
