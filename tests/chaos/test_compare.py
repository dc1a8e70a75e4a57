"""What the comparison says of a sound database, and of each kind of fault in it."""

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pytest

from chaos.compare import TableResult, compare
from chaos.feed import Feed, Mix
from chaos.fleet import Fleet, database
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
    "WHERE plays > 0 AND origin = 'stream' ORDER BY minute LIMIT 1",
    "INSERT INTO engagement_content_hour SELECT * REPLACE (applied + 1 AS applied) FROM engagement_content_hour FINAL "
    "LIMIT 1",
    "INSERT INTO engagement_content_day SELECT * REPLACE ('nobody' AS origin) FROM engagement_content_day LIMIT 1",
    "INSERT INTO viewers_hour SELECT * REPLACE ('nobody' AS content_id) FROM viewers_hour LIMIT 1",
    "ALTER TABLE viewers_minute DELETE WHERE (creator_id, content_id, minute) = "
    "(SELECT creator_id, content_id, minute FROM viewers_minute ORDER BY minute DESC LIMIT 1)",
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
)

Faults = dict[str, tuple[int, int, int]]


def faults(results: list[TableResult]) -> Faults:
    """Lost, doubled and wrong of each table that has any, having seen that each fault has an example."""
    found = {each.table: (each.lost, each.doubled, each.wrong) for each in results}
    for each in results:
        assert bool(each.examples) == any(found[each.table])
    return {table: counts for table, counts in found.items() if any(counts)}


def prepare(settings: Settings) -> None:
    ensure_topics(settings)
    migrate(settings)


def command(settings: Settings, text: str) -> None:
    with database(settings) as client:
        client.command(text, settings={"mutations_sync": 1})


def test_a_sound_database_is_sound_and_every_fault_in_it_is_told(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    truth = TruthLog(tmp_path / "truth")
    feed = Feed(settings, truth, 2500, mix=Mix(edge=0.2, malformed=0.05))
    feed.start()
    with Fleet(settings, tmp_path) as fleet:
        fleet.start(0)
        feed.join()
        fleet.stored()
        fleet.stop()
    assert faults(compare(settings, truth)) == {}
    today = datetime.now(ZoneInfo(settings.time_zone)).date()
    repair(settings, today - timedelta(days=7), today + timedelta(days=2))
    assert "raw_interactions" in faults(compare(settings, truth))
    sound = compare(settings, truth, repaired=True)
    assert faults(sound) == {}
    rows = {each.table: each.rows for each in sound}
    assert sum(rows[f"kafka_{topic}"] for topic in SOURCES) == 2500
    assert sum(rows[f"raw_{topic}"] for topic in SOURCES) + rows["dead_letters"] == 2500
    assert min(rows.values()) > 0, rows

    for text in FAULTS:
        command(settings, text)
    producer = kafka_producer(settings)
    producer.send(settings.topic_prefix + "dead_letters", b"", b"gifts:0:1000000", partition=0)
    producer.send(settings.topic_prefix + "orders", b"{}", b"stranger", partition=0)
    producer.flush()
    producer.close()
    # A record that the broker is said to have taken.
    gone = [sent for sent in truth.partition("ad_events", 0) if sent.label == "event"][-1]
    end = sum(1 for _ in truth.partition("ad_events", 0))
    event = orjson.loads(gone.value or b"") | {"event_id": "never arrived"}
    truth.append([Sent("ad_events", 0, end, gone.appended, gone.key, orjson.dumps(event), "event")])

    found = faults(compare(settings, truth, repaired=True))
    for table in ("engagement_rolling_at", "engagement_rolling"):
        lost, doubled, wrong = found.pop(table)
        assert (lost, doubled, wrong > 0) == (0, 0, True)
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
        "checkpoints": (1, 1, 3),
        "engagement_creator_minute": (0, 0, 1),
        "engagement_content_hour": (0, 0, 1),
        "engagement_content_day": (0, 1, 0),
        "viewers_minute": (1, 0, 0),
        "viewers_hour": (0, 1, 0),
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
