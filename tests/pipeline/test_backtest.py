"""Backtests: sums of windows against plain adding, and firings counted by hand on a real ClickHouse."""

from array import array
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given
from hypothesis import strategies as st

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.backtest import (
    Seen,
    Series,
    assumed,
    backtest,
    days,
    looked_at,
    read_newest,
    read_seen,
    read_series,
    with_age,
)
from pipeline.migrate import migrate
from pipeline.rules import Entity, Key, Span, Sums
from schemas.rules import Rule

ZONE = "Asia/Shanghai"
DAY = date(2026, 1, 19)
MIDNIGHT = datetime(2026, 1, 19, tzinfo=ZoneInfo(ZONE))
BEGIN = int(MIDNIGHT.timestamp()) * 1000
HOUR, MINUTE = 3_600_000, 60_000
YUAN = 1_000_000
C1, G1, C2 = Key("douyin", "c1"), Key("douyin", "c1", "g1"), Key("kuaishou", "c2")

COLUMNS = [
    "platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel", "minute", "partition",
    "origin", "fold_version", "impressions", "clicks", "plays", "conversions", "cost_micros", "conversion_value_micros",
    "applied",
]  # fmt: skip

CHEAP = Rule.model_validate(
    {
        "id": "cheap",
        "name": "Raise what is cheap",
        "owner": "lin",
        "level": "campaign",
        "when": ["cpm < 10 yuan"],
        "window": {"last": "1 hour"},
        "guards": {"impressions": 600},
        "cool_down": "2 hours",
        "action": {"do": "budget", "by": "+20%", "ceiling": "1000 yuan", "daily_cap": "40%"},
    }
)
IDLE = Rule.model_validate(
    {
        "id": "idle",
        "name": "Pause what brings nothing",
        "owner": "lin",
        "mode": "notify",
        "notify": "ads-ops",
        "level": "ad_group",
        "when": ["conversions < 1"],
        "window": {"last": "3 hours"},
        "guards": {"spend": "100 yuan"},
        "action": {"do": "pause"},
    }
)


def row(key: Key, minutes: int, impressions: int, cost: int, **changed: Any) -> list[Any]:
    made = dict(zip(COLUMNS, [*_KEYS[key], MIDNIGHT + timedelta(minutes=minutes), 0, "stream", 1], strict=False))
    made |= {"impressions": impressions, "clicks": 0, "plays": 0, "conversions": 0, "cost_micros": cost}
    made |= {"conversion_value_micros": 0, "applied": 9}
    return [(made | changed)[name] for name in COLUMNS]


_KEYS = {C1: ["douyin", "a", "c1", "g1", "v1", "all", "feed"], C2: ["kuaishou", "b", "c2", "g9", "v9", "all", "live"]}


def day_of_advertisements() -> list[list[Any]]:
    """c1: CPM is 5 yuan until six o'clock, 50 until noon; then nothing. c2: one impression before midnight."""
    rows = []
    for hour in range(12):
        cost = (5 if hour < 6 else 50) * YUAN
        rows.append(row(C1, hour * 60 + 30, 400, cost // 2))
        rows.append(row(C1, hour * 60 + 30, 500, cost // 4, partition=1))
        rows.append(row(C1, hour * 60 + 59, 100, cost - cost // 2 - cost // 4, origin="repair", creative_id="v2"))
        # A row that was written before, and one of another definition.
        rows.append(row(C1, hour * 60 + 30, 399, 7 * cost, applied=8))
        rows.append(row(C1, hour * 60 + 30, 10**6, 1, fold_version=2))
    return [*rows, row(C2, 1439, 1, 0)]


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client of a database with a day of advertisements."""
    migrate(settings)
    with closing(clickhouse_client(settings)) as opened:
        opened.insert("ads_minute", day_of_advertisements(), column_names=COLUMNS)
        yield opened


@pytest.mark.stack
def test_firings_are_those_counted_by_hand(client: Client) -> None:
    window = days(DAY, DAY, ZONE)
    assert window == (BEGIN, BEGIN + 24 * HOUR)
    assert read_newest(client) == window.end
    seen = read_seen(client)
    assert Seen(C1, "a", BEGIN + 30 * MINUTE) in seen
    assert [each.key for each in seen] == [C1, G1, C2, Key("kuaishou", "c2", "g9")]
    series = read_series(client, looked_at([CHEAP, IDLE], window))
    assert series[C1].sums(Span(BEGIN, BEGIN + HOUR)) == Sums(1000, cost=5 * YUAN)
    assert series[G1].sums(window) == Sums(12_000, cost=330 * YUAN)
    known = [
        Entity(C1, "a", daily_budget=100 * YUAN), Entity(G1, "a"), Entity(C2, "b", daily_budget=YUAN),
        Entity(Key("kuaishou", "c2", "g9"), "b"),
    ]  # fmt: skip
    result = backtest([CHEAP, IDLE], known, series, window)
    told = [
        (
            each.rule_id,
            each.entity,
            (each.closed_at - BEGIN) // HOUR,
            each.outcome,
            each.reason,
            each.before,
            each.after,
        )
        for each in result.fired
    ]
    assert told == [
        ("cheap", C1, 1, "fired", "", 100 * YUAN, 120 * YUAN),
        ("cheap", C1, 3, "clamped", "daily_cap", 120 * YUAN, 140 * YUAN),
        ("idle", G1, 8, "fired", "", None, None),
    ]
    assert result.fired[0].figures == {"cpm": 5 * YUAN}
    assert result.closings == 24
    assert (result.scope, result.evaluated) == ({"cheap": 2, "idle": 2}, {"cheap": 48, "idle": 48})
    # c1 at 2 and 4 o'clock; at 5 and 6; from 7 until noon; then, and all day c2.
    assert result.skipped["cheap"] == {"cool_down": 2, "daily_cap": 2, "conditions": 6, "guards": 12 + 24}
    assert result.guards == {"cheap": {"impressions": 36}, "idle": {"spend": 31}}
    # g1 until 7 o'clock, and from 9 on; and all day the ad group of c2.
    assert result.skipped["idle"] == {"guards": 7 + 24, "not_active": 16}


@pytest.mark.stack
def test_nothing_is_stored(settings: Settings) -> None:
    migrate(settings)
    with closing(clickhouse_client(settings, "analyst")) as client:
        assert (read_newest(client), read_seen(client), read_series(client, Span(0, BEGIN))) == (None, [], {})


MINUTES = st.dictionaries(st.integers(0, 200), st.tuples(*[st.integers(0, 10**12)] * 6), max_size=30)


def series_of(minutes: dict[int, tuple[int, ...]]) -> Series:
    rows = [minutes[minute] for minute in sorted(minutes)]
    totals = np.cumsum(np.array([(0,) * 6, *rows], np.int64), axis=0)
    return Series(array("q", sorted(minute * MINUTE for minute in minutes)), totals)


@given(MINUTES, st.integers(0, 210), st.integers(0, 210))
def test_sums_of_a_window_are_those_of_its_minutes(minutes: dict[int, tuple[int, ...]], one: int, other: int) -> None:
    start, end = min(one, other), max(one, other)
    inside = [sums for minute, sums in minutes.items() if start <= minute < end]
    wanted = Sums(*(sum(each[index] for each in inside) for index in range(6)))
    assert series_of(minutes).sums(Span(start * MINUTE, end * MINUTE)) == wanted


def test_what_is_not_known_is_guessed_from_the_figures() -> None:
    spent = Sums(cost=3 * YUAN)
    minutes = {BEGIN // MINUTE + minute: tuple(spent) for minute in (0, 1439, 1440, 2000, 2879, 2880)}
    window = days(DAY, DAY + timedelta(1), ZONE)
    seen = [Seen(C1, "a", 5), Seen(C2, "b", 6)]
    one, other = assumed(seen, {C1: series_of(minutes)}, window, ZONE)
    assert one == Entity(C1, "a", "active", daily_budget=9 * YUAN, created_at=5)
    assert other == Entity(C2, "b", "active", daily_budget=None, created_at=6)
    assert [each.created_at for each in with_age([Entity(C1, "a", created_at=1), Entity(C2, "b")], seen)] == [1, 6]


def test_windows_of_minutes_hours_and_days_close_each_in_their_time() -> None:
    minute = {"last": "30 minutes", "skip": "2 minutes"}
    made = [
        CHEAP.model_copy(update={"id": unit, "window": CHEAP.window.model_validate(window), "cool_down": 0})
        for unit, window in (("minute", minute), ("hour", {"last": "2 hours"}), ("day", {"last": "1 day"}))
    ]
    parts: list[float] = []
    window = days(DAY, DAY + timedelta(1), ZONE)
    result = backtest(made, [Entity(C1, "a")], {}, window, parts.append)
    assert result.evaluated == {"minute": 2880, "hour": 48, "day": 2}
    assert (result.closings, parts[-1]) == (2880, 1)
    assert looked_at(made, window).start == window.start - 25 * HOUR
