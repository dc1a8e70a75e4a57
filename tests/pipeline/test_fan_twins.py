"""The twins of fan lifecycle say what its definition says, on a real ClickHouse; and verify finds what is wrong."""

import contextlib
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from random import Random
from typing import Any

import orjson
import polars as pl
import pytest
from clickhouse_connect.driver.client import Client
from made_fans import (
    EPOCH,
    OTHERS,
    Pair,
    Rules,
    beginning,
    expected_moves,
    expected_state,
    local_date,
    made_pairs,
)
from rig import DAY, database

from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline.checkpoint import Checkpoint, parameters
from pipeline.migrate import migrate
from pipeline.twin import twin
from pipeline.verify import verify
from schemas.topics import SOURCES

pytestmark = pytest.mark.stack


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
            "earlier": 63,
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


APPLIED, AHEAD = 1000, 2000
"""Offset in the fan log of the rows that are compared, and the checkpoint: rows from there on are ahead of it."""
RULES = Rules()
LAST = date(2026, 5, 31)


def topic_of(kind: str) -> str:
    return next((topic for topic, kinds in OTHERS.items() if kind in kinds), "interactions")


def insert(client: Client, table: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    data = [[row[column] for column in columns] for row in rows]
    client.insert(table, data, column_names=columns, settings={"max_partitions_per_insert_block": 0})


def moment(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def raw_row(pair: Pair, offset: int, at: int, kind: str, **flags: int) -> dict[str, Any]:
    row: dict[str, Any] = {"partition": pair.partition, "offset": offset, "appended_at": moment(at)}
    row |= {"event_id": f"{pair.key}{at}{kind}", "event_time": moment(at), "platform": pair.platform, "fan": pair.fan}
    row |= {"creator_id": pair.creator_id, "kind": kind, "late": 0, "duplicate": 0, "repaired": 0}
    return row | flags


class Stored:
    """A database with raw events and what an agent has made of them, all as it should be."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        rng = Random(5)
        self.pairs = made_pairs(rng, RULES, LAST, 600)
        raw: dict[tuple[str, int], list[tuple[Pair, int, str]]] = {}
        late: dict[tuple[str, int], list[tuple[Pair, int, str]]] = {}
        newest = (LAST - EPOCH).days * DAY
        for pair in self.pairs:
            for at, kind in pair.events:
                # Late: far behind the newest event of its partition, which stands before it.
                into = late if rng.random() < 0.1 and at < newest - 10 * DAY else raw
                into.setdefault((topic_of(kind), pair.partition), []).append((pair, at, kind))
        states = []
        for topic in SOURCES:
            rows = []
            for partition in range(4):
                own = sorted(raw.get((topic, partition), []), key=lambda each: each[1])
                own.append((Pair(partition, "douyin", "c0", 7, None), newest, "impression"))
                rows += [raw_row(pair, offset, at, kind) for offset, (pair, at, kind) in enumerate(own)]
                repeats = [{**row, "offset": row["offset"] + 100_000, "duplicate": 1} for row in rows[-20:]]
                told = late.get((topic, partition), [])
                rows += [
                    raw_row(pair, 200_000 + n, at, kind, late=1, repaired=1) for n, (pair, at, kind) in enumerate(told)
                ]
                other = [
                    raw_row(pair, 300_000 + n, at - DAY, kind, late=1) for n, (pair, at, kind) in enumerate(told[:20])
                ]
                beyond = [raw_row(pair, 400_000 + n, newest, kind) for n, (pair, _, kind) in enumerate(own[:20])]
                rows += [*repeats, *other, *beyond]
            insert(client, f"raw_{topic}", rows)
            states += [("archive", topic, partition, 500_000, "") for partition in range(4)]
        for partition in range(4):
            as_of = next((pair.as_of for pair in self.pairs if pair.partition == partition), None)
            reached = beginning(as_of, RULES.zone) + 1 if as_of else None
            inputs = {topic: {"next": 400_000, "reached": reached} for topic in SOURCES}
            states.append(("lifecycle", "fan_facts", partition, AHEAD, orjson.dumps(inputs).decode()))
        self.checkpoints = [
            Checkpoint(agent, topic, partition, 1, next_offset, 0, "", "", parameters(settings, agent), inputs)
            for agent, topic, partition, next_offset, inputs in states
        ]
        client.insert_arrow("checkpoints", checkpoints.frame(self.checkpoints, 0).to_arrow())
        insert(client, "fan_state", self.states(*self.pairs))
        insert(client, "fan_transitions", [row for pair in self.pairs for row in self.moves(pair)])

    def states(self, *pairs: Pair, **changed: Any) -> list[dict[str, Any]]:
        """Rows of fan_state."""
        rows = []
        for pair in pairs:
            if (found := expected_state(pair, RULES)) is None:
                continue
            first_at, days, firsts, lasts, unfollows = found
            # The log tells less of last actions than the events do; and a row may hold days that are older.
            lasts = [
                max(first, left + (last > left)) for first, last, left in zip(firsts, lasts, unfollows, strict=True)
            ]
            before = [date(2025, 1, 1)] if pair.as_of else []
            row: dict[str, Any] = dict(zip(("partition", "platform", "creator_id", "fan"), pair.key, strict=True))
            row |= {"first_at": moment(first_at), "days": before + days, "too_old": 0, "fold_version": 1}
            for name, times in (("firsts", firsts), ("lasts", lasts), ("unfollows", unfollows)):
                row[name] = [moment(0)] * len(before) + [moment(at) for at in times]
            rows.append(row | {"applied": APPLIED} | changed)
        return rows

    def moves(self, pair: Pair, **changed: Any) -> list[dict[str, Any]]:
        names = ("day", "step", "from_stage", "to_stage", "at", "reason", "resurrected")
        rows = []
        for move in expected_moves(pair, RULES):
            row: dict[str, Any] = dict(zip(("partition", "platform", "creator_id", "fan"), pair.key, strict=True))
            row |= dict(zip(names, move, strict=True))
            row |= {"at": moment(row["at"]), "withdrawn": 0, "fold_version": 1, "applied": APPLIED}
            rows.append(row | changed)
        return rows

    def change(self, statement: str) -> None:
        self.client.command(statement, settings={"mutations_sync": 1})

    def spoil(self, table: str, changes: tuple[str, ...]) -> None:
        """Writes a row of another pair again for each change, as one that is more advanced."""
        chosen = {"fan_state": "days[-1] > '2026-05-01' AND partition = 2", "fan_transitions": "reason = 'arrived'"}
        rows = f"SELECT * FROM {table} FINAL WHERE {chosen[table]} ORDER BY cityHash64(*)"
        for number, change in enumerate(changes):
            replaced = f"SELECT * REPLACE ({APPLIED + 1} AS applied, {change})"
            self.change(f"INSERT INTO {table} {replaced} FROM ({rows} LIMIT 1 OFFSET {number})")

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the tables back."""
        for table in ("fan_state", "fan_transitions"):
            self.change(f"CREATE TABLE kept_{table} ENGINE = MergeTree ORDER BY fan AS SELECT * FROM {table}")
        yield
        for table in ("fan_state", "fan_transitions"):
            self.change(f"TRUNCATE TABLE {table}")
            self.change(f"INSERT INTO {table} SELECT * FROM kept_{table}")
            self.change(f"DROP TABLE kept_{table} SYNC")

    def differing(self, settings: Settings) -> dict[str, int]:
        """How many rows differ, of each line on fans."""
        return {each.name: each.differ for each in verify(settings) if each.name.startswith("fan_")}


@pytest.fixture
def figures(client: Client, settings: Settings) -> Stored:
    return Stored(client, settings)


FINE = {"fan_state": 0, "fan_transitions": 0, "fan_stages": 0, "fan_moves": 0}


def test_verify_finds_fans_as_they_should_be(figures: Stored, settings: Settings, monkeypatch: Any) -> None:
    """Repeats, late events that no repair took in and events beyond the checkpoint count nowhere; repaired ones do."""
    assert figures.differing(settings) == FINE
    monkeypatch.setattr("pipeline.fan_twins.SLICE_EVENTS", 300)
    assert figures.differing(settings) == FINE
    shown = {each.name: each.rows for each in verify(settings)}
    states = sum(expected_state(pair, RULES) is not None for pair in figures.pairs)
    assert states - 20 < shown["fan_state"] <= states
    assert shown["fan_transitions"] == sum(len(expected_moves(pair, RULES)) for pair in figures.pairs)
    assert shown["fan_stages"] == len({(pair.platform, pair.creator_id) for pair in figures.pairs})


def test_pairs_ahead_of_the_checkpoint_and_with_events_too_old_are_left_out(
    figures: Stored, settings: Settings
) -> None:
    ahead, behind, old = [pair for pair in figures.pairs if expected_moves(pair, RULES)][:3]
    wrong = {"from_stage": "silent", "to_stage": "churned"}
    insert(figures.client, "fan_state", figures.states(ahead, applied=AHEAD, first_at=moment(1)))
    insert(figures.client, "fan_transitions", figures.moves(behind, applied=AHEAD + 5, **wrong))
    insert(figures.client, "fan_state", figures.states(old, applied=APPLIED + 1, too_old=1))
    insert(figures.client, "fan_transitions", figures.moves(old, applied=APPLIED + 1, **wrong))
    assert figures.differing(settings) == FINE


def test_moves_that_were_withdrawn_or_replaced_are_not_compared(figures: Stored, settings: Settings) -> None:
    made = next(move for pair in figures.pairs for move in figures.moves(pair))
    insert(figures.client, "fan_transitions", [made | {"step": 7, "to_stage": "none", "withdrawn": 1}])
    insert(figures.client, "fan_transitions", [made | {"to_stage": "churned", "applied": APPLIED - 1}])
    assert figures.differing(settings) == FINE


WRONG = {
    "fan_state": (
        "addMilliseconds(first_at, 1) AS first_at",
        "arrayMap(each -> addMilliseconds(each, 1), firsts) AS firsts",
        "arrayMap(each -> addMilliseconds(each, 1), unfollows) AS unfollows",
        "arrayMap(each -> each + 1, days) AS days",
        "arrayMap(each -> toDateTime64(0, 3, 'UTC'), lasts) AS lasts",
        "fan - 100000 AS fan",
    ),
    "fan_transitions": (
        "addMilliseconds(at, 1) AS at",
        "'faded' AS reason",
        "1 - resurrected AS resurrected",
        "'retained' AS to_stage",
    ),
}
"""What is wrong in a row that is written again, by table."""
UNEQUAL = ("1 AS withdrawn", "fan - 100000 AS fan", "day + 1 AS day")
"""The same of rows on arrivals, such that the stages no longer add up to the fans."""


def test_every_wrong_row_is_found(figures: Stored, settings: Settings) -> None:
    with figures.kept():
        for table, changes in WRONG.items():
            figures.spoil(table, changes)
        wanted = {table: len(changes) for table, changes in WRONG.items()}
        assert figures.differing(settings) == FINE | wanted
    for change in UNEQUAL:
        with figures.kept():
            figures.spoil("fan_transitions", (change,))
            assert figures.differing(settings) == FINE | {"fan_transitions": 1, "fan_stages": 1}, change
    assert figures.differing(settings) == FINE


def test_a_missing_row_is_found(figures: Stored, settings: Settings) -> None:
    pair = "cityHash64(partition, platform, creator_id, fan)"
    for table, found in (("fan_state", {"fan_state"}), ("fan_transitions", {"fan_transitions", "fan_stages"})):
        with figures.kept():
            figures.change(f"ALTER TABLE {table} DELETE WHERE {pair} = (SELECT min({pair}) FROM {table})")
            assert {name for name, differ in figures.differing(settings).items() if differ} == found


def test_without_a_checkpoint_of_their_agent_fans_are_not_compared(client: Client, settings: Settings) -> None:
    made = [
        Checkpoint("archive", topic, partition, 1, 0, 0, "", "", parameters(settings, "archive"))
        for topic in SOURCES
        for partition in range(4)
    ]
    client.insert_arrow("checkpoints", checkpoints.frame(made, 0).to_arrow())
    assert not [each.name for each in verify(settings) if each.name.startswith("fan_")]
