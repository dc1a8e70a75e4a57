"""The twins of fan lifecycle say what its definition says, on a real ClickHouse; and verify finds what is wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client
from rig import DAY, database

from infra.settings import Settings
from pipeline.migrate import migrate
from pipeline.twin import twin

pytestmark = pytest.mark.stack

EPOCH = date(1970, 1, 1)
INTERACTIONS = ("view", "like", "comment", "live_enter", "follow")
OTHERS = {"gifts": ("gift",), "orders": ("placed", "refunded"), "ad_events": ("impression", "click")}


@dataclass(frozen=True)
class Rules:
    """What stages hang on."""

    zone: str = "Asia/Shanghai"
    interval: int = 7
    churn_after: int = 30
    no_activity: tuple[str, ...] = ("impression", "refunded", "unfollow")


@dataclass
class Pair:
    """A fan of a creator: events as (UTC ms, kind), and the local day that its partition has reached (None: none)."""

    partition: int
    platform: str
    creator_id: str
    fan: int
    as_of: date | None
    events: list[tuple[int, str]] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, str, str, int]:
        return self.partition, self.platform, self.creator_id, self.fan


def local_date(at: int, zone: str) -> date:
    return datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).date()


def beginning(day: date, zone: str) -> int:
    """The first moment of a local date, UTC ms: found by halving, since clocks may be put forward at midnight."""
    low = ((day - EPOCH).days - 2) * DAY
    high = low + 4 * DAY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if local_date(middle, zone) < day else (low, middle)
    return high


def expected_state(pair: Pair, rules: Rules) -> tuple[Any, ...] | None:
    """first_at, days, firsts, lasts, unfollows (UTC ms, 0: none), of the last 64 days; None without any."""
    actions = [at for at, kind in pair.events if kind not in rules.no_activity]
    unfollows = [at for at, kind in pair.events if kind == "unfollow"]
    if not actions and not unfollows:
        return None
    rows = []
    for day in sorted({local_date(at, rules.zone) for at in actions + unfollows}):
        own = [at for at in actions if local_date(at, rules.zone) == day]
        left = [at for at in unfollows if local_date(at, rules.zone) == day]
        if pair.as_of is None or day >= pair.as_of - timedelta(days=63):
            rows.append((day, min(own, default=0), max(own, default=0), max(left, default=0)))
    return min(actions, default=0), *([row[place] for row in rows] for place in range(4))


def stage(day: date, active: set[date], left: bool, rules: Rules) -> str:
    """The stage as of a day, by these active days."""
    if not active:
        return "none"
    gap = (day - max(active)).days
    if left or gap >= rules.churn_after:
        return "churned"
    if gap >= rules.interval:
        return "silent"
    if (day - min(active)).days < rules.interval:
        return "new"
    before = [day - timedelta(days=back) for back in range(rules.interval, 2 * rules.interval)]
    return "retained" if any(each in active for each in before) else "active"


def expected_moves(pair: Pair, rules: Rules) -> list[tuple[Any, ...]]:
    """(day, step, from, to, at in UTC ms, reason, resurrected) of all moves: day after day, each from all events."""
    actions = [at for at, kind in pair.events if kind not in rules.no_activity]
    unfollows = [at for at, kind in pair.events if kind == "unfollow"]
    if not actions:
        return []
    dates = {at: local_date(at, rules.zone) for at in actions + unfollows}

    def left(day: date) -> bool:
        gone = [at for at in unfollows if dates[at] <= day]
        return bool(gone) and not any(at > max(gone) for at in actions if dates[at] <= day)

    moves, now = [], "none"
    day = min(dates[at] for at in actions)
    last = max([*dates.values(), *([pair.as_of] if pair.as_of else [])])
    while day <= last:
        yesterday = day - timedelta(days=1)
        before = {dates[at] for at in actions if dates[at] < day}
        then = stage(day, before, left(yesterday), rules)
        if then != now:
            reason = "absent" if then in ("silent", "churned") else "aged" if now == "new" else "faded"
            moves.append((day, 0, now, then, beginning(day, rules.zone), reason, 0))
            now = then
        own = [at for at in actions if dates[at] == day]
        then = stage(day, before | {day}, False, rules) if own else now
        if then != now:
            reason = "arrived" if now == "none" else "returned"
            back = reason == "returned" and (day - max(before)).days >= rules.interval
            moves.append((day, 1, now, then, min(own), reason, int(back)))
            now = then
        gone = [at for at in unfollows if dates[at] == day]
        if gone and left(day) and now != "churned":
            moves.append((day, 2, now, "churned", max(gone), "unfollowed", 0))
            now = "churned"
        day += timedelta(days=1)
    return moves


def made_pairs(rng: Random, rules: Rules, last: date, count: int) -> list[Pair]:
    """Pairs that act on days whose distances lie at and beside the edges, unfollow before, at and after actions, and
    leave and return; their partitions have reached days before and after their last events."""
    interval, churn = rules.interval, rules.churn_after
    gaps = [1, 1, 1, 2, interval, 2 * interval, churn, 64]
    gaps += [max(gap + off, 1) for gap in (interval, 2 * interval, churn) for off in (-1, 1)]
    active = [*INTERACTIONS, *(kind for kinds in OTHERS.values() for kind in kinds)]
    reached = {partition: last - timedelta(days=rng.choice((0, 1, 5, 90))) for partition in range(1, 4)}
    pairs = []
    for number in range(count):
        partition = number % 4
        pair = Pair(partition, rng.choice(("douyin", "kuaishou")), f"c{number % 5}", 2**64 - 1 - number // 2, None)
        if partition:
            pair.as_of = reached[partition]
        day = last - timedelta(days=rng.choice((0, 1, rng.randrange(150))))
        for _ in range(rng.choice((1, 1, 2, 5, 12))):
            start = beginning(day, rules.zone)
            end = beginning(day + timedelta(days=1), rules.zone)
            times = [
                rng.choice((start, end - 1, rng.randrange(start, end))) for _ in range(rng.choice((0, 1, 1, 2, 3)))
            ]
            pair.events += [(at, rng.choice(active)) for at in times]
            if rng.random() < 0.25:
                at = rng.choice([*times, start, end - 1]) + rng.choice((-1, 0, 0, 1))
                pair.events.append((at, "unfollow"))
            day -= timedelta(days=rng.choice(gaps))
        rng.shuffle(pair.events)
        if pair.events:
            pairs.append(pair)
    return pairs


def store(client: Client, table: str, pairs: Iterable[Pair], rules: Rules) -> None:
    """A table of the events, with the columns that twins of fan tables read."""
    rows = [
        (*pair.key, at, kind, (local_date(at, rules.zone) - EPOCH).days, (pair.as_of - EPOCH).days if pair.as_of else 0)
        for pair in pairs
        for at, kind in pair.events
    ]
    frame = pl.DataFrame(
        rows,
        schema={
            "partition": pl.UInt16,
            "platform": pl.String,
            "creator_id": pl.String,
            "fan": pl.UInt64,
            "event_time": pl.Datetime("ms", "UTC"),
            "kind": pl.String,
            "day": pl.Date,
            "as_of": pl.Int32,
        },
        orient="row",
    )
    client.command(
        f"CREATE TABLE {table} (partition UInt16, platform LowCardinality(String), creator_id String, fan UInt64, "
        "event_time DateTime64(3, 'UTC'), kind LowCardinality(String), day Date, as_of Int32) "
        "ENGINE = MergeTree ORDER BY fan"
    )
    client.insert_arrow(table, frame.to_arrow())


def rows_of(client: Client, name: str, columns: str, rules: Rules) -> dict[tuple[Any, ...], list[tuple[Any, ...]]]:
    """What a twin says of the table ``made``, by pair."""
    found = client.query(
        f"SELECT partition, toString(platform), creator_id, fan, {columns} "
        f"FROM (WITH events AS (SELECT * FROM made) SELECT * FROM ({twin(name)})) ORDER BY ALL",
        parameters={
            "no_activity": list(rules.no_activity),
            "time_zone": rules.zone,
            "interval": rules.interval,
            "churn_after": rules.churn_after,
        },
    ).result_rows
    by_pair: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for row in found:
        by_pair.setdefault(tuple(row[:4]), []).append(tuple(row[4:]))
    return by_pair


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    migrate(settings)
    with database(settings) as client:
        yield client


MS = "arrayMap(each -> toUnixTimestamp64Milli(each), {0})"
STATE = f"toUnixTimestamp64Milli(first_at), days, {MS.format('firsts')}, {MS.format('lasts')}, {MS.format('unfollows')}"
MOVES = "day, step, toString(from_stage), toString(to_stage), toUnixTimestamp64Milli(at), toString(reason), resurrected"


@pytest.mark.parametrize(
    ("rules", "last"),
    [
        (Rules(), date(2026, 5, 31)),
        (Rules("Europe/Berlin"), date(2026, 4, 10)),
        (Rules("Asia/Kolkata", 3, 5), date(2026, 3, 1)),
        # Clocks there are put forward at midnight: these days begin at 01:00.
        (Rules("America/Sao_Paulo", 7, 8), date(2017, 12, 1)),
        (Rules("Asia/Beirut", 1, 2), date(2025, 4, 20)),
        (Rules("Australia/Lord_Howe", 32, 63), date(2026, 4, 20)),
        (Rules(no_activity=("unfollow",)), date(2026, 5, 31)),
        (Rules(interval=14, churn_after=20, no_activity=("unfollow", "view", "like", "gift")), date(2026, 5, 31)),
    ],
    ids=lambda value: f"{value.zone}-{value.interval}-{value.churn_after}" if isinstance(value, Rules) else None,
)
def test_the_twins_give_the_rows_of_the_definition(client: Client, rules: Rules, last: date) -> None:
    pairs = made_pairs(Random(f"{rules}"), rules, last, 1200)
    store(client, "made", pairs, rules)
    found = rows_of(client, "fan_state", STATE, rules)
    wanted = {pair.key: [state] for pair in pairs if (state := expected_state(pair, rules))}
    assert len(found) == len(wanted)
    for key, rows in wanted.items():
        assert found[key] == rows
    found = rows_of(client, "fan_transitions", MOVES, rules)
    moves = {pair.key: own for pair in pairs if (own := expected_moves(pair, rules))}
    assert set(found) == set(moves)
    for pair in pairs:
        assert found.get(pair.key, []) == moves.get(pair.key, []), pair
    seen = {(move[5], move[2], move[3]) for own in moves.values() for move in own}
    assert {reason for reason, _, _ in seen} >= {"arrived", "returned", "unfollowed", "absent"}
