"""Sums of fans that are kept, against the figures that they are sums of."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from rig import database

from infra.settings import Settings
from pipeline.fan_sums import KEPT, SUMS, count_moves, sum_features
from pipeline.migrate import migrate

pytestmark = pytest.mark.stack

NOW = datetime(2026, 5, 20, 4, tzinfo=UTC)
FIRST = date(2026, 4, 20)
DAYS = 40
MOVES = (("none", "new", "arrived"), ("new", "silent", "absent"), ("silent", "churned", "absent"))


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    migrate(settings)
    with database(settings) as client:
        yield client


def move(random: Random, applied: int) -> list[Any]:
    before, after, reason = random.choice(MOVES)
    day, fan = FIRST + timedelta(days=random.randrange(DAYS)), random.randrange(12)
    key = [fan % 4, "douyin", f"c{fan % 3}", fan, day, random.randrange(3)]
    return [*key, before, after, NOW, reason, 0, random.random() < 0.2, 1, applied]


def found(client: Client, view: str, where: str = "1") -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(f"SELECT * FROM {view} WHERE {where} ORDER BY ALL").result_rows]


def test_moves_are_those_of_the_table_whatever_is_counted_when(client: Client) -> None:
    """Days written to for the first time, again, by replays, and with rows that replace or withdraw others."""
    random, written = Random(5), []
    for step in range(16):
        if written and random.random() < 0.3:
            rows = random.sample(written, min(len(written), 20))
        else:
            rows = [move(random, step) for _ in range(random.choice((1, 5, 60)))]
        written += rows
        client.insert("fan_transitions", rows)
        assert found(client, "fan_moves") == found(client, "fan_moves_uncounted")
        for where in ("creator_id = 'c1'", "day > '2026-05-01'", "to_stage = 'new'"):
            assert found(client, "fan_moves", where) == found(client, "fan_moves_uncounted", where)
        if random.random() < 0.5:
            assert set(count_moves(client, 0)) >= {row[4] for row in rows}
            assert found(client, "fan_moves") == found(client, "fan_moves_uncounted")
    count_moves(client, 0)
    assert count_moves(client, 0) == []
    assert count_moves(client, 3600) == []
    latest = dict(client.query("SELECT day, sum(rows) FROM fan_move_writes GROUP BY day").result_rows)
    assert {(row[2], row[3]) for row in found(client, "fan_move_counts FINAL")} <= set(latest.items())


def test_a_counted_day_is_read_as_counted_until_something_is_written_to_it(client: Client) -> None:
    random = Random(6)
    client.insert("fan_transitions", [move(random, 1) for _ in range(300)])
    assert count_moves(client, 3600) == []
    days = count_moves(client, 0)
    assert len(days) == DAYS
    client.command("INSERT INTO fan_move_counts SELECT * REPLACE (fans + 100 AS fans) FROM fan_move_counts FINAL")
    assert min(row[-1] for row in found(client, "fan_moves")) > 100
    touched = move(random, 2)
    client.insert("fan_transitions", [touched])
    here = f"day = '{touched[4]}'"
    assert found(client, "fan_moves", here) == found(client, "fan_moves_uncounted", here)
    assert min(row[-1] for row in found(client, "fan_moves", f"NOT {here}")) > 100


def test_a_clock_that_is_set_back_holds_up_nothing(client: Client) -> None:
    random = Random(9)
    client.insert("fan_transitions", [move(random, 1) for _ in range(50)])
    count_moves(client, 0)
    client.command(
        "INSERT INTO fan_move_days SELECT * REPLACE (counted_at + INTERVAL 1 DAY AS counted_at) FROM fan_move_days"
    )
    client.insert("fan_transitions", [move(random, 2) for _ in range(50)])
    assert count_moves(client, 0)
    assert count_moves(client, 0) == []
    assert found(client, "fan_moves") == found(client, "fan_moves_uncounted")


def test_what_is_counted_while_something_is_written_does_not_hold(client: Client, monkeypatch: Any) -> None:
    random = Random(7)
    client.insert("fan_transitions", [move(random, 1) for _ in range(50)])
    command, late = client.command, [move(random, 2) for _ in range(50)]

    def meanwhile(text: str, *args: Any, **kwargs: Any) -> Any:
        answer = command(text, *args, **kwargs)
        if "INSERT INTO fan_move_counts" in text and late:
            client.insert("fan_transitions", late)
            late.clear()
        return answer

    monkeypatch.setattr(client, "command", meanwhile)
    count_moves(client, 0)
    assert not late
    assert found(client, "fan_moves") == found(client, "fan_moves_uncounted")


def fails(client: Client, monkeypatch: Any, part: str, call: Callable[[], Any]) -> None:
    """It ends before what contains ``part`` is done."""
    command = client.command

    def refuse(text: str, *args: Any, **kwargs: Any) -> Any:
        if part in text:
            raise OSError("the end")
        return command(text, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(client, "command", refuse)
        with pytest.raises(OSError, match="the end"):
            call()


def test_what_is_half_done_is_not_read(client: Client, monkeypatch: Any) -> None:
    random = Random(8)
    client.insert("fan_transitions", [move(random, 1) for _ in range(50)])
    fails(client, monkeypatch, "INSERT INTO fan_move_days", lambda: count_moves(client, 0))
    client.command("INSERT INTO fan_move_counts SELECT * REPLACE (fans + 100 AS fans) FROM fan_move_counts")
    assert found(client, "fan_moves") == found(client, "fan_moves_uncounted")

    day = NOW.date()
    features = {"platform": "douyin", "creator_id": "c1", "fan": 1, "actions": 2, "events": 2, "gift_micros": 5}
    client.insert("fan_days", [[*features.values(), day]], column_names=[*features, "day"])
    sum_features(client, day, NOW)
    before = found(client, "fan_activity_days")
    assert [row[2:5] for row in before] == [(day, 1, 2)]
    client.insert("fan_days", [[*(features | {"fan": 2}).values(), day]], column_names=[*features, "day"])
    fails(client, monkeypatch, "INSERT INTO fan_value_counts", lambda: sum_features(client, day, NOW))
    assert found(client, "fan_activity_days") == before
    sum_features(client, day, NOW)
    assert [row[2:5] for row in found(client, "fan_activity_days")] == [(day, 2, 4)]


def test_old_snapshots_go(client: Client) -> None:
    features = {"platform": "douyin", "creator_id": "c1", "fan": 1, "actions": 2, "events": 2}
    client.insert("fan_days", [[*features.values(), NOW.date()]], column_names=[*features, "day"])
    for _ in range(KEPT + 3):
        sum_features(client, NOW.date(), NOW)
    for table in SUMS:
        kept = client.query(f"SELECT uniqExact(snapshot) FROM {table}").result_rows[0][0]
        assert kept == (0 if table in ("fan_value_counts", "acquired_cohort_counts") else KEPT), table
    assert found(client, "fan_cohorts")[0][5] == 1
