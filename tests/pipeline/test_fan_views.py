"""What people read of the stages of fans, against plain sums over the moves."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from made_fans import Pair, Rules, expected_moves, made_pairs
from rig import database

from infra.settings import Settings
from pipeline.migrate import migrate

pytestmark = pytest.mark.stack

RULES = Rules()
STAGES = ("new", "active", "retained", "silent", "churned")
IDLE = ("silent", "churned")
Moves = list[tuple[Any, ...]]


def insert(client: Client, pairs: list[tuple[Pair, Moves]]) -> None:
    """The moves, beside them an older version of each, one withdrawn, and one of another fold version."""
    rows = []
    for pair, moves in pairs:
        for day, step, before, after, at, reason, resurrected in moves:
            when = datetime.fromtimestamp(at / 1000, UTC)
            moved = [*pair.key, day, step]
            rows.append([*moved, before, after, when, reason, resurrected, 0, 1, 8])
            rows.append([*moved, "silent", "retained", when, "faded", 0, 0, 1, 7])
            rows.append([*moved, before, after, when, reason, resurrected, 0, 2, 9])
            rows.append([*pair.key, day + timedelta(days=400), 0, "churned", "churned", when, "absent", 0, 1, 1, 8])
    client.insert("fan_transitions", rows, settings={"max_partitions_per_insert_block": 0})


def found(client: Client, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(query).result_rows]


def test_the_views_add_up_the_moves(settings: Settings) -> None:
    migrate(settings)
    made = [(pair, expected_moves(pair, RULES)) for pair in made_pairs(Random(3), RULES, date(2026, 5, 31), 500)]
    with database(settings) as client:
        for view in ("fan_moves", "fan_stage_now", "fan_stage_days", "fan_churn_days"):
            assert found(client, f"SELECT * FROM {view}") == []
        insert(client, made)

        counted = Counter(
            (pair.platform, pair.creator_id, day, step, before, after, reason, resurrected)
            for pair, moves in made
            for day, step, before, after, _, reason, resurrected in moves
        )
        rows = found(client, "SELECT * FROM fan_moves")
        assert {row[:-1]: row[-1] for row in rows} == counted
        assert len(rows) == len(counted)

        now = sorted(
            (pair.platform, pair.creator_id, pair.fan, last[3], datetime.fromtimestamp(last[4] / 1000, UTC), *last[5:])
            for pair, moves in made
            for last in moves[-1:]
        )
        columns = "platform, creator_id, fan, stage, toTimeZone(since, 'UTC') AS since, reason, resurrected"
        rows = found(client, f"SELECT {columns} FROM fan_stage_now ORDER BY ALL")
        assert [(*row[:4], row[4].replace(tzinfo=UTC), *row[5:]) for row in rows] == now

        stages, churn = expected_days(made)
        rows = found(client, "SELECT * FROM fan_stage_days")
        assert {row[:4]: row[4] for row in rows} == stages
        assert len(rows) == len(stages)
        everyone = [fans for (fans,) in found(client, "SELECT sum(fans) FROM fan_stage_days GROUP BY day ORDER BY day")]
        assert everyone == sorted(everyone), "nobody who was ever seen goes"
        rows = found(client, "SELECT * FROM fan_churn_days")
        assert {row[:3]: row[3:] for row in rows} == churn
        assert len(rows) == len(churn)
        assert any(row[-1] and row[-2] for row in rows)

        own = found(client, "SELECT * FROM fan_stage_days WHERE creator_id = 'c1' AND day > '2026-04-01' ORDER BY ALL")
        whole = found(client, "SELECT * FROM fan_stage_days ORDER BY ALL")
        assert own == [row for row in whole if row[1] == "c1" and row[2] > date(2026, 4, 1)]


def expected_days(made: list[tuple[Pair, Moves]]) -> tuple[dict[Any, int], dict[Any, tuple[Any, ...]]]:
    """Fans by creator, day and stage; and by creator and day what fan_churn_days says. A day at a time, for all
    creators up to the same."""
    stages: dict[Any, int] = {}
    churn: dict[Any, tuple[Any, ...]] = {}
    last = max(move[0] for _, moves in made for move in moves)
    for creator in {(pair.platform, pair.creator_id) for pair, moves in made if moves}:
        own = [moves for pair, moves in made if (pair.platform, pair.creator_id) == creator and moves]
        day = min(move[0] for moves in own for move in moves)
        at_start: Counter[str] = Counter()
        while day <= last:
            today = [move for moves in own for move in moves if move[0] == day]
            then = Counter([past[-1][3] for moves in own if (past := [move for move in moves if move[0] <= day])])
            stages |= {(*creator, day, stage): then[stage] for stage in STAGES}
            here = sum(fans for stage, fans in at_start.items() if stage != "churned")
            idle = sum(at_start[stage] for stage in IDLE)
            churned = sum(move[3] == "churned" for move in today)
            reasons = Counter(move[5] for move in today)
            returned = reasons["returned"]
            churn[*creator, day] = (
                *(here, churned, reasons["unfollowed"], reasons["arrived"], returned, idle),
                churned / here if here else None,
                returned / idle if idle else None,
            )
            at_start = then
            day += timedelta(days=1)
    return stages, churn
