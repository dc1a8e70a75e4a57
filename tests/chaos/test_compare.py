"""What the comparison says of a sound database, and of each kind of fault in it."""

import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import polars as pl
import pytest

from chaos.campaigns import Teller
from chaos.compare import compare
from chaos.feed import Feed, Mix
from chaos.fleet import EVENTS_ONLY, Fleet, ask, database
from chaos.tally import TableResult
from chaos.truth import Sent, TruthLog
from infra.connect import kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.topics import ensure_topics
from pipeline.migrate import migrate
from pipeline.repair import repair
from schemas.topics import SOURCES, partition_for

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]

SEVERAL = (
    "SELECT partition, max(`offset`) FROM raw_interactions WHERE fan NOT IN (SELECT fan FROM raw_ad_events UNION ALL "
    "SELECT fan FROM raw_gifts UNION ALL SELECT fan FROM raw_orders) GROUP BY partition, fan HAVING count() > 1 LIMIT 1"
)
"""The last record of a fan who has several, all of them interactions."""
COUNTED = (
    "SELECT partition, `offset` FROM {} FINAL WHERE late = 0 AND duplicate = 0 ORDER BY partition, `offset` LIMIT 1"
)


def fan_state(change: str, number: int, which: str = "length(days) = 1 AND first_at > 0") -> str:
    """A row of the state of fans, changed."""
    row = f"SELECT * FROM fan_state FINAL WHERE {which} ORDER BY creator_id, platform, fan LIMIT 1 OFFSET {number}"
    return f"INSERT INTO fan_state SELECT * REPLACE ({change}) FROM ({row})"


def move(change: str, number: int, reason: str = "absent") -> str:
    """A move, changed."""
    row = (
        f"SELECT * FROM fan_transitions FINAL WHERE withdrawn = 0 AND reason = '{reason}' "
        f"ORDER BY creator_id, platform, fan, day LIMIT 1 OFFSET {number}"
    )
    return f"INSERT INTO fan_transitions SELECT * REPLACE ({change}) FROM ({row})"


LEFT = "arrayExists(x -> toUnixTimestamp64Milli(x) > 0, unfollows)"
FAULTS = (
    # A row changed, lost and doubled.
    f"ALTER TABLE raw_interactions UPDATE fan = fan + 1 WHERE (partition, `offset`) = ({SEVERAL})",
    f"ALTER TABLE raw_gifts DELETE WHERE (partition, `offset`) = ({COUNTED.format('raw_gifts')})",
    "INSERT INTO raw_orders SELECT * REPLACE (`offset` + 1000000 AS `offset`) FROM raw_orders FINAL "
    "WHERE late = 0 AND duplicate = 0 LIMIT 1",
    "ALTER TABLE raw_ad_events UPDATE cost_micros = 123456789 "
    f"WHERE (partition, `offset`) = ({COUNTED.format('raw_ad_events')})",
    # A view that shows other values.
    "CREATE OR REPLACE VIEW events_interactions AS SELECT * EXCEPT (late, duplicate, repaired) "
    "REPLACE (watch_ms + 1000 AS watch_ms, 'x' AS device) FROM raw_interactions FINAL "
    "WHERE duplicate = 0 AND (late = 0 OR repaired = 1)",
    # Counts.
    "INSERT INTO engagement_creator_minute SELECT * REPLACE (plays + 1 AS plays) FROM engagement_creator_minute FINAL "
    "WHERE plays > 0 AND origin = 'stream' AND minute < now() ORDER BY minute DESC LIMIT 1",
    "INSERT INTO engagement_content_hour SELECT * REPLACE (applied + 1 AS applied) FROM engagement_content_hour FINAL "
    "LIMIT 1",
    "INSERT INTO engagement_content_day SELECT * REPLACE ('nobody' AS origin) FROM engagement_content_day LIMIT 1",
    "INSERT INTO ads_minute SELECT * REPLACE (cost_micros + 1 AS cost_micros) FROM ads_minute FINAL LIMIT 1",
    "INSERT INTO ads_people_minute SELECT * REPLACE ('nobody' AS region) FROM ads_people_minute FINAL LIMIT 1",
    "INSERT INTO viewers_hour SELECT * REPLACE ('nobody' AS content_id) FROM viewers_hour LIMIT 1",
    # Dead letters: lost, with another reason, doubled.
    "ALTER TABLE dead_letters DELETE WHERE (topic, partition, `offset`) = "
    "(SELECT topic, partition, `offset` FROM dead_letters LIMIT 1)",
    "ALTER TABLE dead_letters UPDATE reason = 'clickhouse' WHERE (topic, partition, `offset`) = "
    "(SELECT topic, partition, `offset` FROM dead_letters LIMIT 1)",
    "INSERT INTO dead_letters SELECT * REPLACE (`offset` + 1000000 AS `offset`) FROM dead_letters LIMIT 1",
    # Checkpoints: set back, set forward, lost, of an agent that nobody knows.
    "ALTER TABLE checkpoints DELETE WHERE agent = 'archive' AND topic = 'interactions' AND partition = 0",
    "INSERT INTO checkpoints SELECT * REPLACE (0 AS partition, 0 AS next_offset) FROM checkpoints FINAL "
    "WHERE agent = 'archive' AND topic = 'interactions' AND checkpoints.partition = 1",
    "INSERT INTO checkpoints SELECT * REPLACE (next_offset + 1 AS next_offset) FROM checkpoints FINAL "
    "WHERE agent = 'archive' AND topic = 'gifts' AND partition = 1",
    "ALTER TABLE checkpoints DELETE WHERE agent = 'engagement' AND partition = 3",
    "INSERT INTO checkpoints SELECT * REPLACE ('another' AS agent) FROM checkpoints FINAL LIMIT 1",
    "INSERT INTO checkpoints SELECT * REPLACE (replaceOne(inputs, '\"next\":', '\"next\":1') AS inputs) "
    "FROM checkpoints FINAL WHERE agent = 'lifecycle' AND partition = 2",
    # Fans: of the state a row of nobody, of another version, and others with each value changed.
    fan_state("'nobody' AS creator_id", 1),
    fan_state("'nobody' AS creator_id, toUInt16(2) AS fold_version", 2),
    fan_state("first_at - toIntervalMillisecond(1) AS first_at", 3),
    fan_state("arrayMap(x -> x - toIntervalMillisecond(1), firsts) AS firsts", 4),
    fan_state("arrayMap(x -> x - toIntervalMillisecond(1), lasts) AS lasts", 5),
    fan_state("arrayMap(x -> x + 1, days) AS days", 6),
    fan_state("toUInt32(1) AS too_old", 7),
    fan_state("toInt64(1000000) AS applied", 8),
    fan_state("arrayMap(x -> toDateTime64(0, 3, 'UTC'), unfollows) AS unfollows", 0, LEFT),
    fan_state(
        "arrayPopBack(days) AS days, arrayPopBack(firsts) AS firsts, arrayPopBack(lasts) AS lasts, "
        "arrayPopBack(unfollows) AS unfollows",
        0,
        f"length(days) > 1 AND NOT {LEFT}",
    ),
    fan_state("arrayPopBack(firsts) AS firsts", 1, f"length(days) > 1 AND NOT {LEFT}"),
    # Moves: one withdrawn, one of nobody, one withdrawn that moves, others with each value changed.
    move("1 AS withdrawn, to_stage AS from_stage", 0),
    move("'nobody' AS creator_id", 1),
    move("'nobody' AS creator_id, 1 AS withdrawn", 2),
    move("at + toIntervalMillisecond(1) AS at", 3),
    move("CAST('none', 'Enum8(\\'none\\' = 0)') AS from_stage", 4),
    move("CAST('none', 'Enum8(\\'none\\' = 0)') AS to_stage", 5),
    move("'aged' AS reason", 6),
    move("1 - resurrected AS resurrected", 0, "returned"),
    move("toInt64(1000000) AS applied", 7),
    move("toUInt8(0) AS step", 0, "arrived"),
    # Rules: of each table a row of nobody, or with another value.
    "INSERT INTO rule_decisions SELECT * REPLACE ('nobody' AS rule_id) FROM rule_decisions FINAL LIMIT 1",
    "INSERT INTO rule_decisions SELECT * REPLACE ([NULL, 7] AS metric_values, ['a', 'b'] AS metrics) "
    "FROM rule_decisions FINAL WHERE outcome = 'skipped' LIMIT 1",
    "INSERT INTO budget_actions SELECT * REPLACE (toUInt32(99) AS rule_version) FROM budget_actions FINAL LIMIT 1",
    "INSERT INTO rule_changes SELECT * REPLACE ('nobody' AS rule_id) FROM rule_changes LIMIT 1",
    "INSERT INTO campaign_changes SELECT * REPLACE ('nobody' AS campaign_id) FROM campaign_changes LIMIT 1",
    "INSERT INTO rule_state SELECT * REPLACE ('nobody' AS campaign_id) FROM rule_state FINAL "
    "WHERE kind = 'entity' LIMIT 1",
    "INSERT INTO rule_state SELECT * REPLACE (arrayMap(x -> x + 1, numbers) AS numbers) FROM rule_state FINAL "
    "WHERE kind = 'minute' LIMIT 1",
)

Faults = dict[str, tuple[int, int, int]]


def faults(results: list[TableResult]) -> Faults:
    """Lost, doubled and wrong of each table that has any, having seen that each fault has an example."""
    found = {each.table: (each.lost, each.doubled, each.wrong) for each in results}
    for each in results:
        assert bool(each.examples) == any(found[each.table])
    return {table: counts for table, counts in found.items() if any(counts)}


def told(settings: Settings) -> list[dict[str, Any]]:
    """Some moves as the topic has them."""
    query = (
        "SELECT applied, platform, creator_id, toString(fan), toString(day), step, toString(from_stage), "
        "toString(to_stage), toUnixTimestamp64Milli(at), reason, resurrected FROM fan_transitions FINAL "
        "WHERE withdrawn = 0 AND partition = 0 ORDER BY at LIMIT 5"
    )
    names = ("version", "platform", "creator_id", "fan", "day", "step", "from", "to", "at", "reason", "resurrected")
    return [
        {"id": ":".join(map(str, row[1:6])), "withdrawn": 0, **dict(zip(names, row, strict=True))}
        for row in ask(settings, query)
    ]


def fact(source: bytes, offset: int) -> bytes:
    """A message of the fan log with a fact of nobody, that begins where the log has been before."""
    columns = {"platform": "douyin", "creator_id": "nobody", "fan": 7, "at": 1_750_000_000_000, "kind": "gift"}
    types = {"offset": pl.Int64, "platform": pl.String, "creator_id": pl.String, "fan": pl.UInt64, "at": pl.Int64}
    body = io.BytesIO()
    pl.DataFrame([{"offset": offset, **columns}], schema={**types, "kind": pl.String}).write_ipc_stream(body)
    return b'{"source":"%s","start":0,"next":%d,"reached":null}\n' % (source, offset + 1) + body.getvalue()


def prepare(settings: Settings) -> None:
    ensure_topics(settings)
    migrate(settings)


def command(settings: Settings, text: str) -> None:
    with database(settings) as client:
        client.command(text, settings={"mutations_sync": 1})


@pytest.mark.long
def test_a_sound_database_is_sound_and_every_fault_in_it_is_told(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    truth = TruthLog(tmp_path / "truth")
    teller = Teller(settings)
    teller.begin()
    mix = Mix(edge=0.2, malformed=0.05, history=1000, lives=0.1, campaigns=0.1)
    feed = Feed(settings, truth, 2500, mix=mix, teller=teller)
    feed.start()
    with Fleet(settings, tmp_path) as fleet:
        fleet.start(0)
        feed.join()
        fleet.stored()
        fleet.stop()
    assert faults(compare(settings, truth, told=teller.told)) == {}
    today = datetime.now(ZoneInfo(settings.time_zone)).date()
    repair(settings, today - timedelta(days=64), today + timedelta(days=2))
    assert "raw_interactions" in faults(compare(settings, truth))
    # What lifecycle has not read yet is told.
    assert {"kafka_fan_facts", "fan_state"} <= faults(compare(settings, truth, repaired=True)).keys()
    with Fleet(settings, tmp_path) as fleet:
        fleet.start(0)
        fleet.stored()
        fleet.stop()
    sound = compare(settings, truth, repaired=True, told=teller.told)
    assert faults(sound) == {}
    rows = {each.table: each.rows for each in sound}
    assert sum(rows[f"kafka_{topic}"] for topic in SOURCES) == 2500
    assert sum(rows[f"raw_{topic}"] for topic in SOURCES) + rows["dead_letters"] == 2500
    assert min(rows.values()) > 0, rows

    moves = told(settings)
    # Lost, before others are chosen: a mutation asks again for each part.
    key = "creator_id, platform, fan, partition"
    lost = ask(settings, f"SELECT {key} FROM fan_state FINAL WHERE length(days) = 1 AND first_at > 0 ORDER BY {key}")[0]
    command(settings, f"ALTER TABLE fan_state DELETE WHERE ({key}) = {lost}")
    lost = ask(
        settings, f"SELECT {key}, toString(day) FROM fan_transitions FINAL WHERE reason = 'aged' ORDER BY {key}"
    )[0]
    command(settings, f"ALTER TABLE fan_transitions DELETE WHERE ({key}, toString(day)) = {lost}")
    key = "creator_id, content_id, toString(minute)"
    lost = ask(settings, f"SELECT {key} FROM viewers_minute ORDER BY minute DESC, creator_id, content_id LIMIT 1")[0]
    command(settings, f"ALTER TABLE viewers_minute DELETE WHERE ({key}) = {lost}")
    for text in FAULTS:
        command(settings, text)
    producer = kafka_producer(settings)
    producer.send(settings.topic_prefix + "dead_letters", b"", b"gifts:0:1000000", partition=0)
    producer.send(settings.topic_prefix + "orders", b"{}", b"stranger", partition=0)

    def tell(move: dict[str, Any], **changed: Any) -> None:
        move = move | {"version": move["version"] + 1} | changed
        # After all that workers sent, as partitions are read.
        key, last = str(move["creator_id"]).encode(), settings.partitions - 1
        producer.send(settings.topic_prefix + "fan_transitions", orjson.dumps(move), key, partition=last)

    # Withdrawn, another move, another at the same version, of nobody, not of its id; and what is no move.
    tell(moves[0], withdrawn=1)
    tell(moves[1], at=1)
    tell(moves[2], reason="else", version=moves[2]["version"])
    tell(moves[3], creator_id="nobody", id=moves[3]["id"].replace(moves[3]["creator_id"], "nobody"))
    tell(moves[4], step=2)
    producer.send(settings.topic_prefix + "fan_transitions", b"[]", b"nobody", partition=0)
    # A fact that is no event, in a message that nobody has read; a gap; what is no message.
    for value in (fact(b"gifts", 10**6), b'{"source":"orders","start":1000000,"next":1000000,"reached":null}\n', b"x"):
        producer.send(settings.topic_prefix + "fan_facts", value, partition=1)
    # An action told with another content, one of nobody; a change that nobody told, and nobody has read.
    partition, key = ask(settings, "SELECT partition, key FROM budget_actions FINAL LIMIT 1")[0]
    for name in (key, "nobody"):
        record = orjson.dumps({"id": name})
        producer.send(settings.topic_prefix + "budget_actions", record, partition=partition)
    change = {
        "database": settings.database,
        "change": "switch",
        "by": "nobody",
        "rule_id": "day-raise",
        "enabled": False,
    }
    producer.send(settings.topic_prefix + "campaign_facts", orjson.dumps(change) + b"\n", partition=2)
    producer.flush()
    producer.close()
    # A record that the broker is said to have taken.
    gone = [sent for sent in truth.partition("ad_events", 0) if sent.label == "event"][-1]
    end = sum(1 for _ in truth.partition("ad_events", 0))
    event = orjson.loads(gone.value or b"") | {
        "event_id": "never arrived",
        "event_time": gone.appended,
        "kind": "click",
        "creator_id": "nobody's",
        "campaign_id": "nobody's",
    }
    truth.append([Sent("ad_events", 0, end, gone.appended, gone.key, orjson.dumps(event), "event")])

    found = faults(compare(settings, truth, repaired=True, told=teller.told))
    # What never arrived is lost, and so may be that its time was reached.
    lost, doubled, wrong = found.pop("kafka_campaign_facts")
    assert (0 < lost < 6, doubled, wrong) == (True, 1, 1)
    for table in ("engagement_rolling_at", "engagement_rolling"):
        lost, doubled, wrong = found.pop(table)
        assert (lost, doubled, wrong > 0) == (0, 0, True)
    for table in ("fan_moves", "fan_stage_now", "fan_stage_days", "fan_churn_days"):
        assert sum(found.pop(table)) > 2
    # What never arrived is lost in each. Of the faults two may have met in one fan.
    for table, most in {
        "kafka_fan_facts": (1, 2, 3),
        "fan_state": (2, 2, 9),
        "fan_transitions": (3, 2, 7),
        "kafka_fan_transitions": (2, 1, 4),
    }.items():
        assert all(0 < told <= made and told >= made - 2 for told, made in zip(found.pop(table), most, strict=True)), (
            table
        )
    assert found == {
        "kafka_orders": (0, 1, 0),
        "kafka_ad_events": (1, 0, 0),
        "kafka_dead_letters": (0, 1, 0),
        "raw_interactions": (0, 0, 1),
        "raw_gifts": (1, 0, 0),
        "raw_orders": (0, 1, 0),
        "raw_ad_events": (1, 0, 1),
        "events_interactions": (0, 0, rows["events_interactions"]),
        "events_gifts": (1, 0, 0),
        "events_orders": (0, 1, 0),
        "events_ad_events": (1, 0, 0),
        "dead_letters": (1, 1, 1),
        "checkpoints": (1, 1, 7),
        # Partition 0 lacks what never arrived, 1 an input of the messages that are none, 2 has another.
        "checkpoints_lifecycle": (0, 0, 2),
        "engagement_creator_minute": (0, 0, 1),
        "engagement_content_hour": (0, 0, 1),
        "engagement_content_day": (0, 1, 0),
        "ads_minute": (1, 0, 1),
        "ads_people_minute": (1, 1, 0),
        "viewers_minute": (1, 0, 0),
        "viewers_hour": (0, 1, 0),
        "rule_decisions": (0, 1, 1),
        "budget_actions": (0, 0, 1),
        "kafka_budget_actions": (0, 1, 1),
        "rule_changes": (0, 1, 0),
        "rules": (0, 1, 0),
        "campaign_changes": (0, 1, 0),
        "rule_state": (0, 1, 1),
        "campaigns": (0, 1, 0),
    }


def test_a_repeat_that_names_another_video_is_no_viewer_of_it(settings: Settings, tmp_path: Path) -> None:
    """Counted once, whatever else it says (schemas/README.md)."""
    prepare(settings)
    truth = TruthLog(tmp_path / "truth")
    feed = Feed(settings, truth, 100, mix=Mix(edge=0, malformed=0, duplicates=0, late=0, hours=1))
    feed.start()
    feed.join()
    play = next(sent for sent in truth.records() if sent.value is not None and b'"kind":"view"' in sent.value)
    repeat = orjson.dumps(orjson.loads(play.value or b"") | {"content_id": "another"})
    producer = kafka_producer(settings)
    where = partition_for(play.key, settings.partitions)
    taken = producer.send(settings.topic_prefix + play.topic, repeat, play.key, partition=where)
    producer.flush()
    answer = taken.get(timeout=60)
    producer.close()
    truth.append([Sent(play.topic, where, answer.offset, answer.timestamp, play.key, repeat, "duplicate")])
    with Fleet(settings, tmp_path) as fleet:
        fleet.start(0)
        fleet.stored()
        fleet.stop()
    assert faults(compare(settings, truth)) == {}


def test_a_table_that_nobody_compares_is_an_error(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    command(settings, "CREATE TABLE orders_by_hour (hour DateTime) ENGINE = MergeTree ORDER BY hour")
    with pytest.raises(FanpulseError, match=r"orders_by_hour is not compared.*NOT_COMPARED"):
        compare(settings, TruthLog(tmp_path))


def test_a_lifecycle_that_is_lost_or_behind_is_told(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    truth = TruthLog(tmp_path / "truth")
    feed = Feed(settings, truth, 800, mix=Mix(hours=1, history=400))
    feed.start()
    with Fleet(settings, tmp_path, idle_after=EVENTS_ONLY) as fleet:
        fleet.start(0)
        feed.join()
        fleet.stored()
        fleet.stop()
    assert faults(compare(settings, truth)) == {}
    # Where one lags the rest of what it stored is beyond it.
    command(settings, "ALTER TABLE checkpoints DELETE WHERE agent = 'lifecycle' AND partition IN (1, 2)")
    found = faults(compare(settings, truth))
    assert found["checkpoints_lifecycle"] == (2, 0, 0)
    assert min(found[table][2] for table in ("kafka_fan_facts", "fan_state", "fan_transitions")) > 0
