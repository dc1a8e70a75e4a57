from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher
from pipeline.folds.ads import Ads
from pipeline.snapshot import SnapshotTable
from pipeline.verdict import Horizon, Verdicts
from schemas.events import KINDS, MAX_MICROS

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "ad_events"
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
NOW = 1_750_000_000_000

COUNTED = {"impressions": "impression", "clicks": "click", "plays": "play", "conversions": "conversion"}
MEASURES = (*COUNTED, "cost_micros", "conversion_value_micros")
KEYS = {
    "ads_minute": ("platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel"),
    "ads_people_minute": ("platform", "campaign_id", "region", "age_band", "gender"),
}
"""What a row is of, beside its minute."""

Log = list[dict[str, Any]]
Where = tuple[str, tuple[Any, ...]]
"""Table and key of a row; the minute of a key is a number, UTC milliseconds."""
Rows = dict[Where, dict[str, int]]


def reference(log: Log) -> dict[Where, list[dict[str, int]]]:
    """All states of each row, from the definitions, one event at a time: the last is the present one."""
    states: dict[Where, list[dict[str, int]]] = {}
    for event in log:
        if event["late"] or event["duplicate"]:
            continue
        added = {measure: int(event["kind"] == kind) for measure, kind in COUNTED.items()}
        added["cost_micros"] = event["cost_micros"] or 0
        added["conversion_value_micros"] = event["value_micros"] or 0
        minute = event["event_time"] - event["event_time"] % MINUTE_MS
        for table, keys in KEYS.items():
            history = states.setdefault((table, (*(event[key] for key in keys), minute)), [])
            before = history[-1] if history else dict.fromkeys(MEASURES, 0)
            new = {measure: before[measure] + added[measure] for measure in MEASURES}
            history.append({**new, "applied": event["offset"]})
    return states


def taken(fold: Ads) -> Rows:
    rows: Rows = {}
    for name, frame in fold.take().items():
        assert frame.columns == [*KEYS[name], "minute", *MEASURES, "applied"]
        assert frame.schema["minute"] == pl.Datetime("ms", "UTC")
        for row in frame.with_columns(frame["minute"].to_physical()).to_dicts():
            key = tuple(row.pop(each) for each in (*KEYS[name], "minute"))
            assert (name, key) not in rows
            rows[name, key] = row
    return rows


def stored(rows: Rows, table: SnapshotTable) -> pl.DataFrame:
    """Rows of a table as they come from storage."""
    found = [dict(zip(table.keys, key, strict=True)) | row for (name, key), row in rows.items() if name == table.name]
    types = dict.fromkeys(table.keys[:-1], pl.String) | dict.fromkeys(("minute", *MEASURES, "applied"), pl.Int64)
    return pl.DataFrame(found, schema=types).with_columns(pl.col("minute").cast(pl.Datetime("ms", "UTC")))


COLUMNS = {
    "offset": pl.Int64, "appended": pl.Int64, "event_id": pl.String, "event_time": pl.Int64, "platform": pl.String,
    "creator_id": pl.String, "region": pl.String, "age_band": pl.String, "gender": pl.String, "kind": pl.String,
    "campaign_id": pl.String, "ad_group_id": pl.String, "creative_id": pl.String, "audience": pl.String,
    "channel": pl.String, "cost_micros": pl.Int64, "value_micros": pl.Int64,
}  # fmt: skip


def made_log(rng: Random, size: int) -> Log:
    """Events of few campaigns over minutes or hours: any kind with any cost and value, or none."""
    pace = rng.choice([1_000, 20_000, 15 * MINUTE_MS, HOUR_MS])
    log: Log = []
    offset, now = rng.randint(0, 5), NOW
    for number in range(size):
        offset += rng.choice([1, 1, 1, 2, 5])
        now += rng.randint(0, pace)
        behind = rng.choice([0, 0, 0, rng.randint(0, pace), rng.randint(0, 3 * HOUR_MS), 4 * 24 * HOUR_MS])
        log.append(
            {
                "offset": offset,
                "appended": now,
                "event_id": rng.choice(["repeat", f"e{number}", f"e{number}"]),
                "event_time": rng.choice([now - behind, now - behind, now - behind, NOW]),
                "platform": rng.choice(["douyin", "douyin", "kuaishou"]),
                "creator_id": rng.choice("AAB"),
                "region": rng.choice(["广东", "北京", ""]),
                "age_band": rng.choice(["18-23", ""]),
                "gender": rng.choice(["female", "male", ""]),
                "kind": rng.choice(sorted(KINDS["ad_events"])),
                "campaign_id": rng.choice(["k", "k", "l"]),
                "ad_group_id": rng.choice(["g", "g", "h"]),
                "creative_id": rng.choice(["v", "v", "w"]),
                "audience": rng.choice(["18-30 岁 美食 广东", "all"]),
                "channel": rng.choice(["feed", "dou_plus"]),
                "cost_micros": rng.choice([None, 0, 1, 45_000, MAX_MICROS]),
                "value_micros": rng.choice([None, 0, 1, 89_900_000, MAX_MICROS]),
            }
        )
    return log


@dataclass
class Judged:
    frame: pl.DataFrame
    log: Log
    oldest: list[int]
    """After each event, the oldest event time that is still on time."""


def judged(rng: Random, size: int) -> Judged:
    horizon = Horizon(rng.choice([0, MINUTE_MS]), rng.choice([0, MINUTE_MS, HOUR_MS, 5 * 24 * HOUR_MS]))
    verdicts = Verdicts(horizon)
    frames, oldest = [], []
    for event in made_log(rng, size):
        frames.append(verdicts.judge(pl.DataFrame([event], schema=COLUMNS)))
        oldest.append(horizon.oldest(verdicts.newest))
    frame = pl.concat(frames)
    return Judged(frame, frame.to_dicts(), oldest)


def assert_states(rows: Rows, states: dict[Where, list[dict[str, int]]]) -> None:
    for where, row in rows.items():
        assert row in states[where], f"{where}: no state of the row has these values"


def check_any_split(rng: Random, size: int) -> None:
    case = judged(rng, size)
    states = reference(case.log)
    fold, rows, at = Ads(), Rows(), 0
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
    case = judged(rng, size)
    states = reference(case.log)
    table_rows: Rows = {}
    checkpoint = 0
    for _ in range(rng.choice([2, 3, 5])):
        fold, at = Ads(), checkpoint
        oldest = case.oldest[checkpoint - 1] if checkpoint else -(1 << 60)
        bounded = rng.random() < 0.5
        alive = {
            where: row
            for where, row in table_rows.items()
            if not bounded or where[1][-1] + where_table(where).bucket_ms >= oldest
        }
        for table in rng.sample(Ads.tables, len(Ads.tables)):
            fold.restore(table, stored(alive, table))
        assert taken(fold) == {}
        death = rng.randint(checkpoint, size)
        while at < death:
            step = rng.choice([1, rng.randint(1, size)])
            fold.apply(case.frame[at : min(death, at + step)])
            at = min(death, at + step)
            if rng.random() < 0.4:
                fold.evict(case.oldest[at - 1] - rng.choice([0, 0, 1, HOUR_MS]))
            if rng.random() < 0.4:
                new = taken(fold)
                assert_states(new, states)
                torn = rng.random() < 0.5
                if torn:
                    names = {table.name for table in Ads.tables if rng.random() < 0.5}
                    new = {where: row for where, row in new.items() if where[0] in names or rng.random() < 0.4}
                for where, row in new.items():
                    if row["applied"] >= table_rows.get(where, row)["applied"]:
                        table_rows[where] = row
                if torn:
                    break
                checkpoint = at
                fold.evict(case.oldest[at - 1])
    fold, at = Ads(), checkpoint
    for table in Ads.tables:
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


def where_table(where: Where) -> SnapshotTable:
    return next(table for table in Ads.tables if table.name == where[0])


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
        "offset": 0, "appended": NOW, "event_id": "e", "event_time": NOW, "platform": "douyin", "creator_id": "A",
        "region": "广东", "age_band": "18-23", "gender": "female", "kind": "impression", "campaign_id": "k",
        "ad_group_id": "g", "creative_id": "v", "audience": "all", "channel": "feed", "cost_micros": None,
        "value_micros": None, "late": 0, "duplicate": 0,
        **changed,
    }  # fmt: skip


def applied(*events: dict[str, Any]) -> Rows:
    fold = Ads()
    fold.apply(pl.DataFrame(events, schema={**COLUMNS, "late": pl.UInt8, "duplicate": pl.UInt8}))
    return taken(fold)


def test_every_kind_is_counted_under_its_name() -> None:
    assert sorted(COUNTED.values()) == sorted(KINDS["ad_events"])
    for measure, kind in COUNTED.items():
        rows = applied(event(kind=kind))
        assert {name for name, _ in rows} == set(KEYS)
        for row in rows.values():
            assert {name for name, value in row.items() if value and name != "applied"} == {measure}


@pytest.mark.parametrize("kind", sorted(KINDS["ad_events"]))
def test_cost_and_value_count_whatever_carries_them(kind: str) -> None:
    rows = applied(
        event(kind=kind, cost_micros=45_000, value_micros=7),
        event(kind=kind, offset=1, cost_micros=0, value_micros=0),
        event(kind=kind, offset=2),
        event(kind=kind, offset=3, cost_micros=1),
    )
    assert {(row["cost_micros"], row["conversion_value_micros"]) for row in rows.values()} == {(45_001, 7)}


def test_what_does_not_fit_together_is_counted_as_it_is() -> None:
    """Conversions without a click, cost and value without an impression, a conversion that costs and brings nothing."""
    rows = applied(
        event(kind="conversion", value_micros=9),
        event(kind="conversion", offset=1, cost_micros=5),
        event(kind="conversion", offset=2, cost_micros=0, value_micros=0),
    )
    wanted = {"impressions": 0, "clicks": 0, "plays": 0, "conversions": 3, "cost_micros": 5}
    assert list(rows.values()) == [wanted | {"conversion_value_micros": 9, "applied": 2}] * 2


def test_each_part_of_a_key_tells_rows_apart() -> None:
    for table, keys in KEYS.items():
        for key in keys:
            rows = applied(event(), event(offset=1, **{key: "other"}))
            assert sum(name == table for name, _ in rows) == 2, key
        rows = applied(event(), event(offset=1, event_time=NOW // MINUTE_MS * MINUTE_MS - 1))
        assert sum(name == table for name, _ in rows) == 2


def test_late_events_and_repeats_are_left_out() -> None:
    assert applied(event(late=1), event(offset=1, duplicate=1)) == {}
    rows = applied(event(), event(offset=1, duplicate=1), event(offset=2, late=1))
    assert {(row["impressions"], row["applied"]) for row in rows.values()} == {(1, 0)}


def test_every_example_is_counted() -> None:
    """Through the decoder, as the pipeline reads them."""
    paths = sorted(EXAMPLES.iterdir())
    values: list[bytes | None] = [path.read_bytes() for path in paths]
    block = Block("ad_events", 0, 0, len(values), np.arange(len(values)), np.full(len(values), NOW + HOUR_MS), values)
    rows = Verdicts(Horizon(MINUTE_MS, HOUR_MS)).judge(Decoder("ad_events", FanHasher(b"k")).decode(block).rows)
    assert len(rows) == len(paths) == 2 * len(COUNTED)
    fold = Ads()
    fold.apply(rows)
    found = taken(fold)
    assert found == {where: history[-1] for where, history in reference(rows.to_dicts()).items()}
    for table in KEYS:
        own = [row for (name, _), row in found.items() if name == table]
        assert [sum(row[measure] for row in own) for measure in MEASURES] == [2, 2, 2, 2, 180_000, 89_900_000]
    # The whole ones name who the fan is, the minimal ones nothing of it.
    people = {key[1:-1] for name, key in found if name == "ads_people_minute"}
    assert people == {("campaign-003", "广东", "24-30", "female"), ("campaign-003", "", "", "")}
