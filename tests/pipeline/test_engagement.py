from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.folds.engagement import RECENT_MS, Engagement
from pipeline.snapshot import SnapshotTable
from pipeline.verdict import Horizon, Verdicts
from schemas.events import KINDS

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
ZONES = (
    "Asia/Shanghai",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "UTC",
)

COUNTED = {
    "plays": "view",
    "likes": "like",
    "comments": "comment",
    "shares": "share",
    "favorites": "favorite",
    "follows": "follow",
    "unfollows": "unfollow",
    "profile_visits": "profile_visit",
    "product_exposures": "product_exposure",
    "product_clicks": "product_click",
    "live_entries": "live_enter",
    "live_exits": "live_leave",
    "live_comments": "live_comment",
    "live_likes": "live_like",
    "badges_lit": "fan_badge_lit",
    "group_joins": "group_join",
    "group_leaves": "group_leave",
    "group_messages": "group_message",
    "group_votes": "group_vote",
    "group_checkins": "group_checkin",
    "welfare_claims": "group_welfare_claim",
    "group_link_clicks": "group_link_click",
    "private_messages": "dm_sent",
}
OF_CONTENT = (
    "view",
    "like",
    "comment",
    "share",
    "favorite",
    "follow",
    "unfollow",
    "profile_visit",
    "product_exposure",
    "product_click",
)

Log = list[dict[str, Any]]
Rows = dict[tuple[str, tuple[Any, ...]], dict[str, int]]
"""Rows by table and key; the bucket of a key is a number, UTC milliseconds or local days."""


def keys_of(event: dict[str, Any], zone: ZoneInfo) -> list[tuple[str, tuple[Any, ...]]]:
    """Table and key of each row that counts this event."""
    time, whose = event["event_time"], (event["platform"], event["creator_id"])
    keys = [("engagement_creator_minute", (*whose, time - time % MINUTE_MS))]
    if event["kind"] in OF_CONTENT and event["content_id"]:
        what = (*whose, event["content_id"])
        if event["appended"] - time < RECENT_MS:
            keys.append(("engagement_content_minute", (*what, time - time % MINUTE_MS)))
        keys.append(("engagement_content_hour", (*what, time - time % HOUR_MS)))
        local = datetime.fromtimestamp(time / 1000, UTC).astimezone(zone).date()
        keys.append(("engagement_content_day", (*what, (local - datetime(1970, 1, 1, tzinfo=UTC).date()).days)))
    return keys


def amounts(event: dict[str, Any]) -> dict[str, int]:
    """What an event adds to each measure of a row."""
    added = {measure: int(event["kind"] == kind) for measure, kind in COUNTED.items()}
    played = event["kind"] == "view"
    added["watch_ms"] = event["watch_ms"] if played else 0
    added["completions"] = int(played and event["watch_ms"] >= event["duration_ms"] > 0)
    added["stay_ms"] = (event["stay_ms"] or 0) if event["kind"] == "live_leave" else 0
    return added


def reference(log: Log, zone: ZoneInfo) -> dict[tuple[str, tuple[Any, ...]], list[dict[str, int]]]:
    """All states of each row, from the definitions, one event at a time: the last is the present one."""
    states: dict[tuple[str, tuple[Any, ...]], list[dict[str, int]]] = {}
    measures = {table.name: table.measures for table in Engagement.tables}
    for event in log:
        if event["late"] or event["duplicate"]:
            continue
        added = amounts(event)
        for name, key in keys_of(event, zone):
            history = states.setdefault((name, key), [dict.fromkeys(measures[name], 0)])
            new = {measure: history[-1][measure] + added[measure] for measure in measures[name]}
            history.append({**new, "applied": event["offset"]})
    return {row: history[1:] for row, history in states.items()}


def taken(fold: Engagement) -> Rows:
    rows: Rows = {}
    for name, frame in fold.take().items():
        table = next(table for table in Engagement.tables if table.name == name)
        assert frame.columns == [*table.keys, *table.measures, "applied"]
        assert frame.schema[table.bucket] == table.bucket_type
        numbers = frame.with_columns(frame[table.bucket].to_physical().cast(pl.Int64))
        for row in numbers.to_dicts():
            key = tuple(row.pop(each) for each in table.keys)
            assert (name, key) not in rows
            rows[name, key] = row
    return rows


def stored(rows: Rows, table: SnapshotTable) -> pl.DataFrame:
    """Rows of a table as they come from storage."""
    found = [dict(zip(table.keys, key, strict=True)) | row for (name, key), row in rows.items() if name == table.name]
    schema = {
        **dict.fromkeys(table.keys[:-1], pl.String),
        table.bucket: pl.Int64,
        **dict.fromkeys((*table.measures, "applied"), pl.Int64),
    }
    frame = pl.DataFrame(found, schema=schema)
    if table.bucket_type == pl.Date:
        frame = frame.with_columns(pl.col(table.bucket).cast(pl.Int32))
    return frame.with_columns(pl.col(table.bucket).cast(table.bucket_type))


COLUMNS = {
    "offset": pl.Int64, "appended": pl.Int64, "event_id": pl.String, "event_time": pl.Int64, "platform": pl.String,
    "creator_id": pl.String, "content_id": pl.String, "kind": pl.String, "watch_ms": pl.Int64, "duration_ms": pl.Int64,
    "stay_ms": pl.Int64,
}  # fmt: skip


def made_log(rng: Random, size: int) -> Log:
    """Events of few creators and contents over minutes or days, some round the changes of clocks."""
    start = rng.choice(
        [
            1_750_000_000_000,
            int(datetime(2025, 3, 9, 6, 50, tzinfo=UTC).timestamp() * 1000),
            int(datetime(2025, 11, 2, 3, 50, tzinfo=UTC).timestamp() * 1000),
            int(datetime(2025, 10, 4, 13, 20, tzinfo=UTC).timestamp() * 1000),
            int(datetime(2011, 12, 30, 9, 30, tzinfo=UTC).timestamp() * 1000),
        ]
    )
    pace = rng.choice([1_000, 20_000, 15 * MINUTE_MS, 3 * HOUR_MS])
    log: Log = []
    offset, now = rng.randint(0, 5), start
    for number in range(size):
        offset += rng.choice([1, 1, 1, 2, 5])
        now += rng.randint(0, pace)
        kind = rng.choice(sorted(KINDS["interactions"]) + ["view"] * 12 + ["live_leave"] * 3)
        behind = rng.choice(
            [0, 0, 0, rng.randint(0, pace), rng.randint(0, 3 * HOUR_MS), RECENT_MS, RECENT_MS - 1, 4 * DAY_MS]
        )
        content = "content_id" in KINDS["interactions"][kind].model_fields
        stays = kind == "live_leave" and rng.random() < 0.6
        log.append(
            {
                "offset": offset,
                "appended": now,
                "event_id": rng.choice(["repeat", f"e{number}", f"e{number}"]),
                "event_time": rng.choice([now - behind, start]) if rng.random() < 0.3 else now - behind,
                "platform": rng.choice(["douyin", "kuaishou"]),
                "creator_id": rng.choice("AAB"),
                "content_id": rng.choice(["u", "u", "v", "w" if kind in ("view", "like") else ""]) if content else "",
                "kind": kind,
                "watch_ms": rng.choice([0, 999, 1_000, 1_001, 604_800_000]) if kind == "view" else None,
                "duration_ms": rng.choice([0, 1_000, 604_800_000]) if kind == "view" else None,
                "stay_ms": rng.choice([0, 1, 372_000, 604_800_000]) if stays else None,
            }
        )  # fmt: skip
    return log


@dataclass
class Judged:
    frame: pl.DataFrame
    log: Log
    oldest: list[int]
    """After each event, the oldest event time that is still on time."""


def judged(log: Log, horizon: Horizon) -> Judged:
    verdicts = Verdicts(horizon)
    frames, oldest = [], []
    for event in log:
        frames.append(verdicts.judge(pl.DataFrame([event], schema=COLUMNS)))
        oldest.append(horizon.oldest(verdicts.newest))
    frame = pl.concat(frames)
    return Judged(frame, frame.to_dicts(), oldest)


def assert_states(rows: Rows, states: dict[tuple[str, tuple[Any, ...]], list[dict[str, int]]]) -> None:
    for where, row in rows.items():
        assert row in states[where], f"{where}: no state of the row has these values"


def random_horizon(rng: Random) -> Horizon:
    return Horizon(rng.choice([0, MINUTE_MS]), rng.choice([0, MINUTE_MS, HOUR_MS, 26 * HOUR_MS, 5 * DAY_MS]))


def check_any_split(rng: Random, size: int) -> None:
    zone = rng.choice(ZONES)
    case = judged(made_log(rng, size), random_horizon(rng))
    states = reference(case.log, ZoneInfo(zone))
    fold, rows, at = Engagement(zone), Rows(), 0
    while at < size:
        step = rng.choice([1, rng.randint(1, size)])
        fold.apply(case.frame[at : at + step])
        at = min(size, at + step)
        if rng.random() < 0.5:
            new = taken(fold)
            assert_states(new, states)
            rows.update(new)
        if rng.random() < 0.5:
            fold.evict(case.oldest[at - 1] - rng.choice([0, 0, 1, HOUR_MS]))
    rows.update(taken(fold))
    assert rows == {where: history[-1] for where, history in states.items()}


def check_crashes(rng: Random, size: int) -> None:
    """A flush lands for some rows and not for others, the worker dies, another goes on from the last checkpoint; and
    so on, with other splits of the log, until one comes through."""
    zone = rng.choice(ZONES)
    case = judged(made_log(rng, size), random_horizon(rng))
    states = reference(case.log, ZoneInfo(zone))
    table_rows: Rows = {}
    checkpoint = 0
    for life in range(rng.choice([2, 3, 5])):
        fold, at = Engagement(zone), checkpoint
        oldest = case.oldest[checkpoint - 1] if checkpoint else -(1 << 60)
        bounded = rng.random() < 0.5
        for table in rng.sample(Engagement.tables, len(Engagement.tables)):
            unit = DAY_MS if table.bucket == "day" else 1
            alive = {
                where: row
                for where, row in table_rows.items()
                if not bounded or where[1][-1] * unit + table.bucket_ms >= oldest
            }
            fold.restore(table, stored(alive, table))
        assert taken(fold) == {}
        death = size if life == 4 else rng.randint(checkpoint, size)
        while at < death:
            step = rng.choice([1, rng.randint(1, size)])
            fold.apply(case.frame[at : min(death, at + step)])
            at = min(death, at + step)
            if rng.random() < 0.4:
                fold.evict(case.oldest[at - 1] - rng.choice([0, 0, 1, HOUR_MS]))
            if rng.random() < 0.4:
                new = taken(fold)
                assert_states(new, states)
                landed = rng.random()
                torn = landed < 0.5
                if torn:
                    names = {table.name for table in Engagement.tables if rng.random() < 0.5}
                    new = {where: row for where, row in new.items() if where[0] in names or rng.random() < 0.4}
                for where, row in new.items():
                    if row["applied"] >= table_rows.get(where, row)["applied"]:
                        table_rows[where] = row
                if torn:
                    break
                checkpoint = at
                fold.evict(case.oldest[at - 1])
    fold, at = Engagement(zone), checkpoint
    for table in Engagement.tables:
        fold.restore(table, stored(table_rows, table))
    while at < size:
        step = rng.choice([1, rng.randint(1, size)])
        fold.apply(case.frame[at : at + step])
        at += step
    new = taken(fold)
    assert_states(new, states)
    for where, row in new.items():
        assert row["applied"] > table_rows.get(where, {"applied": -1})["applied"]
    table_rows.update(new)
    assert table_rows == {where: history[-1] for where, history in states.items()}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_split_of_a_short_log_gives_the_rows_of_one_event_at_a_time(rng: Random, size: int) -> None:
    check_any_split(rng, size)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63))
def test_any_split_gives_the_rows_of_one_event_at_a_time(seed: int) -> None:
    check_any_split(Random(seed), 40)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_torn_flushes_of_a_short_log_end_in_the_same_rows(rng: Random, size: int) -> None:
    check_crashes(rng, size)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63))
def test_torn_flushes_and_replays_end_in_the_same_rows(seed: int) -> None:
    check_crashes(Random(seed), 40)


def event(**changed: Any) -> dict[str, Any]:
    return {
        "offset": 0, "appended": 1_750_000_000_000, "event_id": "e", "event_time": 1_750_000_000_000,
        "platform": "douyin", "creator_id": "A", "content_id": "u", "kind": "view",
        "watch_ms": 5, "duration_ms": 5, "stay_ms": None, "late": 0,
        "duplicate": 0,
        **changed,
    }  # fmt: skip


def applied(zone: str, *events: dict[str, Any]) -> Rows:
    fold = Engagement(zone)
    fold.apply(pl.DataFrame(events, schema={**COLUMNS, "late": pl.UInt8, "duplicate": pl.UInt8}))
    return taken(fold)


def test_every_kind_is_counted_under_its_name() -> None:
    assert sorted(COUNTED.values()) == sorted(KINDS["interactions"])
    for measure, kind in COUNTED.items():
        content = "u" if "content_id" in KINDS["interactions"][kind].model_fields else ""
        rows = applied("UTC", event(kind=kind, content_id=content, watch_ms=None, duration_ms=None))
        assert {name for name, _ in rows} == (
            {table.name for table in Engagement.tables} if content else {"engagement_creator_minute"}
        )
        for row in rows.values():
            assert {name for name, value in row.items() if value and name != "applied"} == {measure}


@pytest.mark.parametrize(
    ("watched", "duration", "complete"), [(4, 5, 0), (5, 5, 1), (11, 5, 1), (0, 0, 0), (5, 0, 0), (0, 1, 0)]
)
def test_a_play_is_complete_when_all_of_a_known_length_was_watched(watched: int, duration: int, complete: int) -> None:
    rows = applied("UTC", event(watch_ms=watched, duration_ms=duration))
    assert {(row["completions"], row["watch_ms"]) for row in rows.values()} == {(complete, watched)}


def test_a_stay_counts_at_leaving_and_is_no_play() -> None:
    live = {"content_id": "", "watch_ms": None, "duration_ms": None}
    rows = applied(
        "UTC",
        event(offset=0, kind="live_enter", **live),
        event(offset=1, kind="live_leave", stay_ms=30, **live),
        event(offset=2, kind="live_leave", **live),
    )
    [row] = rows.values()
    assert (row["live_entries"], row["live_exits"], row["stay_ms"], row["watch_ms"], row["applied"]) == (1, 2, 30, 0, 2)


def test_late_events_and_repeats_are_left_out() -> None:
    assert applied("UTC", event(late=1), event(offset=1, duplicate=1)) == {}
    rows = applied("UTC", event(), event(offset=1, duplicate=1), event(offset=2, late=1))
    assert {(row["plays"], row["applied"]) for row in rows.values()} == {(1, 0)}


def test_what_came_days_after_it_happened_is_not_in_content_minutes() -> None:
    now = 1_750_000_000_000
    old = applied("UTC", event(appended=now, event_time=now - RECENT_MS))
    assert {name for name, _ in old} == {table.name for table in Engagement.tables} - {"engagement_content_minute"}
    recent = applied("UTC", event(appended=now, event_time=now - RECENT_MS + 1))
    assert {name for name, _ in recent} == {table.name for table in Engagement.tables}


@pytest.mark.parametrize(
    ("zone", "time", "day"),
    [
        ("Asia/Shanghai", "2025-06-01T15:59:59.999", "2025-06-01"),
        ("Asia/Shanghai", "2025-06-01T16:00:00.000", "2025-06-02"),
        ("Asia/Kolkata", "2025-06-01T18:29:59.999", "2025-06-01"),
        ("Asia/Kolkata", "2025-06-01T18:30:00.000", "2025-06-02"),
        ("Asia/Kathmandu", "2025-06-01T18:14:59.999", "2025-06-01"),
        ("Asia/Kathmandu", "2025-06-01T18:15:00.000", "2025-06-02"),
        ("America/New_York", "2025-03-09T04:59:59.999", "2025-03-08"),
        ("America/New_York", "2025-03-09T05:00:00.000", "2025-03-09"),
        ("America/New_York", "2025-03-10T03:59:59.999", "2025-03-09"),
        ("America/New_York", "2025-03-10T04:00:00.000", "2025-03-10"),
        ("America/New_York", "2025-11-03T04:59:59.999", "2025-11-02"),
        ("Australia/Lord_Howe", "2025-10-04T13:29:59.999", "2025-10-04"),
        ("Australia/Lord_Howe", "2025-10-05T12:59:59.999", "2025-10-05"),
        ("Australia/Lord_Howe", "2025-10-05T13:00:00.000", "2025-10-06"),
        ("Pacific/Apia", "2011-12-30T09:59:59.999", "2011-12-29"),
        ("Pacific/Apia", "2011-12-30T10:00:00.000", "2011-12-31"),
    ],
)
def test_a_day_is_the_local_day(zone: str, time: str, day: str) -> None:
    """Zones with half an hour, with a quarter, summer time of an hour and of half an hour; one left out a day."""
    at = int(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp() * 1000)
    fold = Engagement(zone)
    schema = {**COLUMNS, "late": pl.UInt8, "duplicate": pl.UInt8}
    fold.apply(pl.DataFrame([event(appended=at, event_time=at)], schema=schema))
    assert fold.take()["engagement_content_day"]["day"].cast(pl.String).to_list() == [day]
