import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifecycle_reference import (
    EPOCH,
    Fact,
    Message,
    Move,
    Pair,
    Place,
    Reference,
    Rules,
    calendar,
    local_day,
    midnight,
)
from rig import database

from infra.settings import Settings
from pipeline import stages
from pipeline.fold import Output
from pipeline.folds import lifecycle
from pipeline.folds.lifecycle import Lifecycle, _Midnights
from pipeline.migrate import migrate
from pipeline.stages import StagePolicy

DAY_MS = 86_400_000
WORD = 2**64
ROWS = {
    "applied": pl.Int64, "source": pl.String, "offset": pl.Int64, "platform": pl.String, "creator_id": pl.String,
    "fan": pl.UInt64, "at": pl.Int64, "day": pl.Int32, "kind": pl.String,
}  # fmt: skip
STATE = {
    "platform": pl.String, "creator_id": pl.String, "fan": pl.UInt64, "first_at": pl.Datetime("ms", "UTC"),
    "days": pl.List(pl.Date), "firsts": pl.List(pl.Datetime("ms", "UTC")),
    "lasts": pl.List(pl.Datetime("ms", "UTC")), "unfollows": pl.List(pl.Datetime("ms", "UTC")), "too_old": pl.UInt32,
    "fold_version": pl.UInt16, "applied": pl.Int64,
}  # fmt: skip
TRANSITIONS = {
    "platform": pl.String, "creator_id": pl.String, "fan": pl.UInt64, "day": pl.Date, "step": pl.UInt8,
    "from_stage": pl.String, "to_stage": pl.String, "at": pl.Datetime("ms", "UTC"), "reason": pl.String,
    "resurrected": pl.UInt8, "withdrawn": pl.UInt8, "fold_version": pl.UInt16, "applied": pl.Int64,
}  # fmt: skip
ZONES = (
    ("Asia/Shanghai", date(2025, 6, 1)),
    ("Asia/Kolkata", date(2025, 6, 1)),
    ("America/New_York", date(2025, 2, 20)),
    ("America/New_York", date(2025, 10, 20)),
    ("Australia/Lord_Howe", date(2025, 9, 20)),
    ("America/Santiago", date(2025, 8, 25)),
    ("Pacific/Apia", date(2011, 12, 15)),
    ("UTC", date(2000, 1, 3)),
)
"""Half hours, clocks put forward and back, one that does so at midnight, one that left out a day."""
POLICIES = ((7, 30), (7, 30), (1, 2), (2, 3), (3, 8), (7, 8), (5, 40), (32, 63), (20, 21))

Rows = dict[Place, dict[str, Any]]


def frame(messages: Iterable[Message], time_zone: str) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for message in messages:
        for number, fact in enumerate(message.facts):
            (platform, creator, fan), at, kind = fact
            rows.append(
                {
                    "applied": message.applied, "source": "gifts", "offset": 10 * message.applied + number,
                    "platform": platform, "creator_id": creator, "fan": fan, "at": at,
                    "day": local_day(at, time_zone), "kind": kind,
                }
            )  # fmt: skip
        if message.tick is not None:
            tick = {"platform": "", "creator_id": "", "fan": 0, "at": 0, "kind": "", "day": message.tick}
            rows.append({"applied": message.applied, "source": "", "offset": -1, **tick})
    return pl.DataFrame(rows, schema=ROWS)


def ms(moment: datetime) -> int:
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def move_of(row: dict[str, Any]) -> Move:
    return Move(row["from_stage"], row["to_stage"], ms(row["at"]), row["reason"], row["resurrected"])


def place_of(row: dict[str, Any]) -> Place:
    return (row["platform"], row["creator_id"], row["fan"]), (row["day"] - EPOCH).days, row["step"]


class Store:
    """The two tables and the Kafka topic, as they are kept: of several rows with one key the highest applied."""

    def __init__(self) -> None:
        self.transitions: Rows = {}
        self.state: dict[Pair, dict[str, Any]] = {}
        self.versions: list[dict[str, Any]] = []
        """Every row of fan_state ever stored."""
        self.records: dict[str, dict[str, Any]] = {}
        self._contents: dict[tuple[Any, int], Any] = {}

    def put(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        kept: dict[Any, dict[str, Any]] = self.transitions if table == "fan_transitions" else self.state  # type: ignore[assignment]
        for row in rows:
            key = place_of(row) if table == "fan_transitions" else (row["platform"], row["creator_id"], row["fan"])
            same = self._contents.setdefault((key, row["applied"]), row)
            assert same == row, "two rows of one key and applied differ"
            if key not in kept or row["applied"] >= kept[key]["applied"]:
                kept[key] = row
            if table == "fan_state":
                self.versions.append(row)

    def send(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            assert output.topic == "fan_transitions"
            for record in map(json.loads, output.value.split(b"\n")):
                assert (output.key, output.partition) == (record["creator_id"].encode(), None)
                old = self.records.get(record["id"])
                if old is None or record["version"] >= old["version"]:
                    self.records[record["id"]] = record

    def moves(self) -> dict[Place, Move]:
        return {place: move_of(row) for place, row in self.transitions.items() if not row["withdrawn"]}

    def sent_moves(self) -> dict[Place, Move]:
        found = {}
        for record in self.records.values():
            day = (date.fromisoformat(record["day"]) - EPOCH).days
            pair = (record["platform"], record["creator_id"], int(record["fan"]))
            assert record["id"] == ":".join([*map(str, pair), record["day"], str(record["step"])])
            if not record["withdrawn"]:
                found[pair, day, record["step"]] = Move(
                    record["from"], record["to"], record["at"], record["reason"], record["resurrected"]
                )
        return found

    def stored_state(self, rng: Random | None = None) -> pl.DataFrame:
        """Rows of fan_state as they are read; with a generator also outdated ones, in any order."""
        rows = list(self.state.values())
        if rng is not None:
            rows += rng.sample(self.versions, rng.randint(0, len(self.versions)))
            rng.shuffle(rows)
        return pl.DataFrame(rows, schema=STATE)


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of fan_state without its key, times in UTC ms."""
    return {
        "first_at": ms(row["first_at"]),
        "days": row["days"],
        **{name: [ms(time) for time in row[name]] for name in ("firsts", "lasts", "unfollows")},
        "too_old": row["too_old"],
        "applied": row["applied"],
    }


def taken(fold: Lifecycle) -> dict[str, list[dict[str, Any]]]:
    found = fold.take()
    assert list(found) == [name for name in ("fan_transitions", "fan_state") if name in found]
    for name, rows in found.items():
        assert dict(rows.schema) == (TRANSITIONS if name == "fan_transitions" else STATE)
        assert len(rows)
        assert rows["fold_version"].unique().to_list() == [1]
    return {name: rows.to_dicts() for name, rows in found.items()}


def check_rows(reference: Reference, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Every row is what is true of its key at its offset."""
    for row in rows.get("fan_transitions", []):
        pair, day, step = place_of(row)
        wanted = reference.moves_at(pair, row["applied"]).get((day, step))
        if row["withdrawn"]:
            assert wanted is None
            assert (row["from_stage"], row["reason"], row["resurrected"]) == (row["to_stage"], "", 0)
        else:
            assert move_of(row) == wanted


def check_all(reference: Reference, store: Store) -> None:
    wanted = reference.moves()
    assert store.moves() == wanted
    assert store.sent_moves() == wanted
    assert {pair: comparable(row) for pair, row in store.state.items()} == {
        pair: known.state() for pair, known in reference.pairs.items()
    }


def new_fold(rules: Rules) -> Lifecycle:
    policy = StagePolicy(interval=rules.interval, churn_after=rules.churn_after, no_activity=rules.no_activity)
    return Lifecycle(0, rules.time_zone, policy)


def made_log(rng: Random, size: int) -> tuple[Rules, list[Message]]:
    """Messages about few pairs, with events round midnight, at equal times, late, far too late, and ahead of time."""
    zone, start = rng.choice(ZONES)
    interval, churn_after = rng.choice(POLICIES)
    rules = Rules(zone, interval, churn_after, rng.choice([("unfollow",), ("unfollow", "refunded", "impression")]))
    pairs: list[Pair] = rng.sample(
        [(p, c, f) for p in ("douyin", "kuaishou") for c in ("甲", 'a":b') for f in (0, 7, WORD - 1)],
        rng.choice([1, 2, 4]),
    )
    day = (start - EPOCH).days
    as_of: int | None = None
    applied = rng.randint(0, 3)
    reach = rng.choice([0, 1, interval, 70])
    unfollows = rng.choice([0.0, 0.1, 0.4])
    ticks = rng.choice([0.1, 0.6])
    log = []
    for _ in range(size):
        applied += rng.choice([1, 1, 2, 9])
        day += rng.choice([0, 0, 0, 1, 1, interval, rng.choice([2, 3, churn_after, 2 * interval, 90])])
        facts = []
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            on = day - rng.choice([0, 0, 0, 0, 1, rng.randint(0, reach), rng.choice([0, 0, -1, 62, 63, 64, 65])])
            begin, end = midnight(on, zone), midnight(on + 1, zone)
            at = rng.choice(
                [begin, begin + 1, end - 1, (begin + end) // 2, (begin + end) // 2, rng.randrange(begin, end + 1)]
            )
            kind = "unfollow" if rng.random() < unfollows else rng.choice(["like", "gift", "refunded", "paid"])
            facts.append(Fact(rng.choice(pairs), at, kind))
        tick = None
        if rng.random() < ticks and (as_of is not None or rng.random() < 0.5):
            tick = as_of = max(as_of or 0, day - rng.choice([0, 0, 0, 1, 5]))
        log.append(Message(applied, facts, tick))
    return rules, log


def read(rules: Rules, log: Iterable[Message]) -> Reference:
    reference = Reference(rules)
    for message in log:
        reference.read(message)
    return reference


def check_any_split(rng: Random, size: int) -> None:
    rules, log = made_log(rng, size)
    reference, store, fold = read(rules, log), Store(), new_fold(rules)
    at = 0
    while at < len(log):
        step = rng.choice([1, rng.randint(1, len(log))])
        fold.apply(frame(log[at : at + step], rules.time_zone))
        at += step
        if rng.random() < 0.3:
            fold.settle(rng.choice([0, 1, None]))
        if rng.random() < 0.5:
            store.send(fold.outputs(0, 0, None))
            rows = taken(fold)
            check_rows(reference, rows)
            for table, found in rows.items():
                store.put(table, found)
    for table, found in taken(fold).items():
        store.put(table, found)
    store.send(fold.outputs(0, 0, None))
    assert fold.as_of == reference.as_of
    assert len(fold) == len(reference.pairs)
    check_all(reference, store)
    assert taken(fold) == {}
    assert fold.outputs(0, 0, None) == []


def check_crashes(rng: Random, size: int) -> None:
    """Flushes are cut off anywhere, what was sent of them may land later, and another worker goes on from the last
    checkpoint; and so on, with other splits of the log, until one comes through."""
    rules, log = made_log(rng, size)
    reference, store = read(rules, log), Store()
    checkpoint, as_of = 0, None
    late: list[tuple[str, list[dict[str, Any]]]] = []
    for life in range(rng.choice([2, 3, 6])):
        fold, at = new_fold(rules), checkpoint
        fold.restore_state(store.stored_state(rng), as_of)
        assert fold.as_of == as_of
        assert taken(fold) == {}
        last_life = life == 5
        while at < len(log):
            step = rng.choice([1, rng.randint(1, len(log))])
            fold.apply(frame(log[at : at + step], rules.time_zone))
            at = min(len(log), at + step)
            if late and rng.random() < 0.3:
                store.put(*late.pop(0))
            if rng.random() < 0.2:
                fold.settle(rng.randint(0, 3))
            if rng.random() < 0.5:
                continue
            torn = rng.random() < 0.5 and not last_life
            if torn and rng.random() < 0.1:
                break
            store.send(fold.outputs(0, 0, None))
            rows = taken(fold)
            check_rows(reference, rows)
            if torn:
                parts = list(rows.items())
                landed = rng.randint(0, len(parts))
                for table, found in parts[:landed]:
                    store.put(table, found)
                if landed < len(parts):
                    table, found = parts[landed]
                    store.put(table, rng.sample(found, rng.randint(0, len(found))))
                    # Who was thought dead may insert the rest at any time, in its order.
                    late += parts[landed:] if rng.random() < 0.5 and not late else []
                break
            for table, found in rows.items():
                store.put(table, found)
            checkpoint, as_of = at, fold.as_of
    fold = new_fold(rules)
    fold.restore_state(store.stored_state(), as_of)
    fold.apply(frame(log[checkpoint:], rules.time_zone))
    store.send(fold.outputs(0, 0, None))
    rows = taken(fold)
    check_rows(reference, rows)
    for table, found in [*rows.items(), *late]:
        store.put(table, found)
    check_all(reference, store)


@pytest.fixture(params=[False, True], ids=["", "in small pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with so little worked out at once that few pairs already make several pieces."""
    if request.param:
        monkeypatch.setattr(stages, "_CELLS", 8)
        for name in ("_TOLD_AT_ONCE", "_RESTORED_AT_ONCE", "_VERSIONS"):
            monkeypatch.setattr(lifecycle, name, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_split_of_a_short_log_gives_the_rows_of_the_definitions(pieces: None, rng: Random, size: int) -> None:
    check_any_split(rng, size)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**63))
def test_any_split_gives_the_rows_of_the_definitions(pieces: None, seed: int) -> None:
    check_any_split(Random(seed), 30)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_torn_flushes_of_a_short_log_end_in_the_same_rows(pieces: None, rng: Random, size: int) -> None:
    check_crashes(rng, size)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**63))
def test_torn_flushes_and_late_hands_end_in_the_same_rows(pieces: None, seed: int) -> None:
    check_crashes(Random(seed), 30)


class Told:
    """One fan of one creator in Shanghai, told in days and hours; what is stored in the end."""

    zone = "Asia/Shanghai"
    day0 = 20_240

    def __init__(self, interval: int = 7, churn_after: int = 30) -> None:
        self.fold = new_fold(Rules(self.zone, interval, churn_after))
        self.store = Store()
        self.applied = 0

    def at(self, day: int, hour: float = 12) -> int:
        return midnight(self.day0 + day, self.zone) + round(hour * 3_600_000)

    def tell(self, *facts: tuple[int, float, str], tick: int | None = None, fan: int = 1) -> None:
        """One message: facts by day, hour and kind."""
        self.applied += 1
        told = [Fact(("douyin", "A", fan), self.at(day, hour), kind) for day, hour, kind in facts]
        message = Message(self.applied, told, None if tick is None else self.day0 + tick)
        self.fold.apply(frame([message], self.zone))
        for table, rows in taken(self.fold).items():
            self.store.put(table, rows)

    def moves(self, fan: int = 1) -> list[tuple[int, int, str, str, str, int]]:
        found = [
            (day - self.day0, step, move.from_stage, move.to_stage, move.reason, move.resurrected)
            for ((_, _, of), day, step), move in self.store.moves().items()
            if of == fan
        ]
        return sorted(found)


def test_a_fan_who_comes_once_is_new_silent_and_churned() -> None:
    fan = Told()
    fan.tell((0, 12, "view"), tick=0)
    assert fan.moves() == [(0, 1, "none", "new", "arrived", 0)]
    fan.tell(tick=6)
    assert len(fan.moves()) == 1
    fan.tell(tick=7)
    assert fan.moves()[1:] == [(7, 0, "new", "silent", "absent", 0)]
    fan.tell(tick=29)
    assert len(fan.moves()) == 2
    fan.tell(tick=400)
    assert fan.moves()[2:] == [(30, 0, "silent", "churned", "absent", 0)]
    assert {row["at"] for row in fan.store.transitions.values() if row["step"] == 0} == {
        datetime.fromtimestamp(fan.at(day, 0) / 1000, UTC) for day in (7, 30)
    }


def test_a_fan_who_keeps_coming_ages_and_is_retained_or_active() -> None:
    fan = Told()
    for day in (0, 3, 6, 9, 20):
        fan.tell((day, 1, "view"), tick=day)
    fan.tell(tick=30)
    assert fan.moves() == [
        (0, 1, "none", "new", "arrived", 0),
        (7, 0, "new", "retained", "aged", 0),
        (16, 0, "retained", "silent", "absent", 0),
        (20, 1, "silent", "retained", "returned", 1),
        (23, 0, "retained", "active", "faded", 0),
        (27, 0, "active", "silent", "absent", 0),
    ]


def test_a_fan_who_leaves_and_returns_thrice() -> None:
    fan = Told()
    fan.tell((0, 8, "view"), (0, 9, "unfollow"), tick=0)
    fan.tell((1, 8, "view"), (1, 9, "unfollow"), (1, 10, "view"), tick=1)
    fan.tell((8, 8, "unfollow"), tick=8)
    fan.tell((10, 8, "gift"), (10, 9, "unfollow"), tick=10)
    fan.tell((40, 8, "paid"), tick=60)
    assert fan.moves() == [
        (0, 1, "none", "new", "arrived", 0),
        (0, 2, "new", "churned", "unfollowed", 0),
        (1, 1, "churned", "new", "returned", 0),
        (7, 0, "new", "retained", "aged", 0),
        (8, 0, "retained", "silent", "absent", 0),
        (8, 2, "silent", "churned", "unfollowed", 0),
        (10, 1, "churned", "retained", "returned", 1),
        (10, 2, "retained", "churned", "unfollowed", 0),
        (40, 1, "churned", "active", "returned", 1),
        (47, 0, "active", "silent", "absent", 0),
    ]


@pytest.mark.parametrize(("hour", "left"), [(11, False), (12, True), (13, True)])
def test_an_unfollow_at_the_time_of_the_action_counts_as_after_it(hour: float, left: bool) -> None:
    for order in (1, -1):
        fan = Told()
        for fact in [(0, 12, "view"), (0, hour, "unfollow")][::order]:
            fan.tell(fact, tick=0)
        assert ((0, 2, "new", "churned", "unfollowed", 0) in fan.moves()) == left


def test_without_any_action_there_is_no_fan_and_no_move() -> None:
    fan = Told()
    fan.tell((0, 12, "unfollow"), (0, 13, "refunded"), tick=100)
    assert fan.moves() == []
    [row] = fan.store.state.values()
    assert (comparable(row)["first_at"], comparable(row)["firsts"], row["too_old"]) == (0, [0], 0)
    assert comparable(row)["unfollows"] == [fan.at(0)]
    fan.tell((99, 12, "view"))
    assert fan.moves() == [(99, 1, "none", "new", "arrived", 0)]


def test_what_is_no_activity_is_nobody() -> None:
    fan = Told()
    fan.tell((0, 12, "refunded"), (0, 12, "impression"), tick=0)
    assert (fan.moves(), fan.store.state, len(fan.fold)) == ([], {}, 0)


def test_a_late_fact_takes_back_what_is_no_longer_true() -> None:
    fan = Told()
    fan.tell((0, 12, "view"), tick=0)
    fan.tell(tick=10)
    fan.tell((6, 12, "view"))
    assert fan.moves() == [(0, 1, "none", "new", "arrived", 0), (7, 0, "new", "retained", "aged", 0)]
    fan.tell((1, 12, "unfollow"), tick=31)
    assert [move[:4] for move in fan.moves()] == [
        (0, 1, "none", "new"),
        (1, 2, "new", "churned"),
        (6, 1, "churned", "new"),
        (7, 0, "new", "retained"),
        (13, 0, "retained", "silent"),
    ]
    fan.tell((-3, 12, "view"))
    assert fan.moves()[0] == (-3, 1, "none", "new", "arrived", 0)
    [row] = [row for row in fan.store.transitions.values() if row["withdrawn"] and row["step"] == 1]
    assert (row["day"], row["from_stage"], row["to_stage"]) == (calendar(fan.day0), "new", "new")


def test_a_move_between_two_messages_of_a_block_is_taken_back_too() -> None:
    """A worker stored it after the first message and died before it stored the state; its successor reads both at
    once."""
    dead, next_one = Told(), Told()
    facts = [Fact(("douyin", "A", 1), dead.at(day), "view") for day in (5, 3)]
    log = [Message(0, [], dead.day0 + 5), Message(1, facts[:1]), Message(2, facts[1:])]
    dead.fold.apply(frame(log[:2], dead.zone))
    next_one.store.put("fan_transitions", taken(dead.fold)["fan_transitions"])
    assert next_one.moves() == [(5, 1, "none", "new", "arrived", 0)]
    next_one.fold.apply(frame(log, dead.zone))
    next_one.store.put("fan_transitions", taken(next_one.fold)["fan_transitions"])
    assert next_one.moves() == [(3, 1, "none", "new", "arrived", 0)]


def test_what_lies_64_days_back_counts_no_more() -> None:
    fan = Told()
    fan.tell((0, 12, "view"), tick=63)
    fan.tell((-1, 12, "view"), (0, 11, "view"))
    [row] = fan.store.state.values()
    assert (row["too_old"], comparable(row)["firsts"]) == (1, [fan.at(0, 11)])
    fan.tell((-1, 12, "unfollow"), (-9, 12, "view"), (62, 12, "refunded"), (-20, 1, "refunded"))
    [row] = fan.store.state.values()
    assert row["too_old"] == 3
    fan.tell((-70, 1, "view"), fan=2)
    assert fan.moves(2) == []
    assert [row["too_old"] for row in fan.store.state.values()] == [3, 1]
    fan.tell((60, 1, "view"), fan=2)
    assert fan.moves(2) == [(60, 1, "none", "new", "arrived", 0)]


def test_a_fact_of_the_first_day_that_counts_knows_what_was_before() -> None:
    """Days are held as long as stages of the last 64 days hang on them, over a restart too."""
    for restored in (False, True):
        fan = Told()
        for day in (0, 1, 20, 26):
            fan.tell((day, 12, "view"), tick=day)
        fan.tell(tick=27 + 63)
        if restored:
            fold = new_fold(Rules(fan.zone))
            fold.restore_state(fan.store.stored_state(), fan.fold.as_of)
            fan.fold = fold
        fan.tell((27 + 1, 12, "view"))
        assert fan.moves()[-4:] == [
            (20, 1, "silent", "active", "returned", 1),
            (27, 0, "active", "retained", "faded", 0),
            (35, 0, "retained", "silent", "absent", 0),
            (58, 0, "silent", "churned", "absent", 0),
        ]


def test_days_that_nothing_hangs_on_are_dropped_when_the_row_is_next_written() -> None:
    fan = Told()
    fan.tell((0, 12, "view"), (1, 12, "view"), tick=0)
    fan.tell((94, 12, "view"), tick=94)
    fan.tell((94, 13, "view"))
    [row] = fan.store.state.values()
    assert row["days"] == [calendar(fan.day0 + 1), calendar(fan.day0 + 94)]
    assert comparable(row)["first_at"] == fan.at(0)


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        ("Asia/Shanghai", "2025-06-02", "2025-06-01T16:00:00"),
        ("Asia/Kathmandu", "2025-06-02", "2025-06-01T18:15:00"),
        ("America/New_York", "2025-03-10", "2025-03-10T04:00:00"),
        ("America/New_York", "2025-11-02", "2025-11-02T04:00:00"),
        ("Australia/Lord_Howe", "2025-10-06", "2025-10-05T13:00:00"),
        # Clocks go from 23:59:59 to 1:00, and on 2025-04-06 back from midnight to 23:00.
        ("America/Santiago", "2025-09-07", "2025-09-07T04:00:00"),
        ("America/Santiago", "2025-04-06", "2025-04-06T04:00:00"),
        # From 23:59 to 0:30.
        ("Africa/Monrovia", "1972-01-07", "1972-01-07T00:44:30"),
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30:00"),
        # The 30th was left out.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00"),
        ("Atlantic/Azores", "2025-10-26", "2025-10-26T00:00:00"),
    ],
)
def test_a_local_day_begins_with_its_first_moment(zone: str, day: str, begins: str) -> None:
    wanted = round(datetime.fromisoformat(begins).replace(tzinfo=UTC).timestamp() * 1000)
    number = (date.fromisoformat(day) - EPOCH).days
    found = _Midnights(zone).at(np.array([number, number + 40, number]))
    assert found[0] == found[2] == wanted == midnight(number, zone)
    assert datetime.fromtimestamp(found[1] / 1000, ZoneInfo(zone)).date() == calendar(number + 40)


def test_the_stages_add_up_to_all_fans_ever_seen() -> None:
    """Moves of each fan follow on each other from none; so stages by day add up."""
    rng = Random(8)
    fan = Told(3, 9)
    seen: set[int] = set()
    for day in range(40):
        facts = [Fact(("douyin", "A", rng.randrange(60)), fan.at(day - rng.randrange(3), rng.uniform(0, 23)), "view")]
        facts += [Fact(("douyin", "A", rng.randrange(60)), fan.at(day, rng.uniform(0, 23)), "unfollow")]
        seen.add(facts[0].pair[2])
        fan.applied += 1
        fan.fold.apply(frame([Message(fan.applied, facts, fan.day0 + day)], fan.zone))
        for table, rows in taken(fan.fold).items():
            fan.store.put(table, rows)
        stage: dict[Pair, str] = {}
        for (pair, _, _), move in sorted(fan.store.moves().items(), key=lambda item: item[0][1:]):
            assert stage.get(pair, "none") == move.from_stage != move.to_stage
            stage[pair] = move.to_stage
        assert sum(Counter(stage.values()).values()) == len(seen)
        assert "none" not in stage.values()


def test_settling_in_slices_gives_the_same_rows() -> None:
    whole, sliced = Told(), Told()
    for fan in (whole, sliced):
        for number in range(50):
            fan.tell((number % 9, 12, "view"), fan=number, tick=number % 9)
        fan.fold.apply(frame([Message(100, [], fan.day0 + 70)], fan.zone))
    rounds = 1
    while not sliced.fold.settle(7):
        rounds += 1
    assert rounds == 8
    assert sliced.fold.settle()
    records = [
        {line for output in fan.fold.outputs(0, 0, None) for line in output.value.split(b"\n")}
        for fan in (whole, sliced)
    ]
    assert records[0] == records[1]
    assert len(records[0]) > 100
    for fan in (whole, sliced):
        for table, rows in taken(fan.fold).items():
            fan.store.put(table, rows)
    assert whole.store.transitions == sliced.store.transitions


def test_very_many_messages_about_one_fan_at_once() -> None:
    zone = "UTC"
    log = [
        Message(n, [Fact(("douyin", "A", 1), midnight(20_000 + n % 7, zone) + 50_000 - 9 * n, "view")])
        for n in range(2000)
    ]
    reference = read(Rules(zone), [*log, Message(2000, [], 20_009)])
    fold, store = new_fold(Rules(zone)), Store()
    fold.apply(frame([*log, Message(2000, [], 20_009)], zone))
    store.send(fold.outputs(0, 0, None))
    for table, rows in taken(fold).items():
        store.put(table, rows)
    check_all(reference, store)


def test_a_fact_that_is_not_on_its_day_is_refused() -> None:
    rows = frame([Message(1, [Fact(("douyin", "A", 1), 1_750_000_000_000, "view")])], "UTC")
    with pytest.raises(ValueError, match="partition 0: an event is not on the day"):
        new_fold(Rules("UTC")).apply(rows.with_columns(pl.col("day") + 5))


def test_without_rows_nothing_happens() -> None:
    fold = new_fold(Rules("UTC"))
    fold.apply(frame([], "UTC"))
    fold.restore_state(pl.DataFrame(schema=STATE), 20_000)
    assert (len(fold), fold.as_of, fold.settle(), taken(fold), fold.outputs(0, 0, None)) == (0, 20_000, True, {}, [])


@pytest.mark.stack
def test_rows_come_back_from_clickhouse_as_they_went(settings: Settings) -> None:
    migrate(settings)
    rng = Random(3)
    rules, log = Rules("Asia/Kolkata"), []
    for applied in range(200):
        day = 20_240 + applied // 2
        at = midnight(day, rules.time_zone) + rng.randrange(DAY_MS)
        kind = rng.choice(["view", "view", "unfollow"])
        log.append(
            Message(applied, [Fact(("douyin", "甲", rng.choice([0, WORD - 1, rng.randrange(40)])), at, kind)], day)
        )
    fold, store = new_fold(rules), Store()
    fold.apply(frame(log, rules.time_zone))
    tables = fold.take()
    with database(settings) as client:
        for table, rows in tables.items():
            store.put(table, rows.to_dicts())
            stored = rows.with_columns(pl.lit(0, pl.UInt16).alias("partition"))
            client.insert_arrow(table, stored.to_arrow(compat_level=pl.CompatLevel.oldest()))
        found = pl.DataFrame(pl.from_arrow(client.query_arrow(
            "SELECT * EXCEPT (partition, fold_version) REPLACE (toString(platform) AS platform) FROM fan_state FINAL"
        )))  # fmt: skip
        moves = client.query(
            "SELECT toString(fan), toString(day), step, toString(from_stage), toString(to_stage), "
            "toUnixTimestamp64Milli(at), reason, resurrected, withdrawn, applied FROM fan_transitions FINAL"
        ).result_rows
    assert sorted(moves) == sorted(
        (str(row["fan"]), str(row["day"]), row["step"], *move_of(row), row["withdrawn"], row["applied"])
        for row in store.transitions.values()
    )
    again = new_fold(rules)
    again.restore_state(found, fold.as_of)
    more = [Message(300 + n, [Fact(("douyin", "甲", n % 40), log[-1].facts[0].at, "gift")]) for n in range(80)]
    more.append(Message(400, [], 20_500))
    for each in (fold, again):
        each.apply(frame(more, rules.time_zone))
    by = ["fan", "day", "step"]
    one, other = fold.take(), again.take()
    assert one["fan_state"].sort("fan").equals(other["fan_state"].sort("fan"))
    assert one["fan_transitions"].sort(by).equals(other["fan_transitions"].sort(by))
