"""What reaches Kafka is what the world says, in its order, across stops and restarts."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from made_worlds import START_MS, config, world
from rig import evening
from typer.testing import CliRunner

import fanpulse.generate as command
from generators.market import campaigns
from generators.produce import Produced, backfill, live, remaining
from generators.progress import FILE, Progress, load_progress, open_world, save_progress
from generators.world import World
from infra.connect import kafka_address, kafka_admin, kafka_options, kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.rule_files import read_campaigns
from schemas.topics import DAY_MS, SOURCES, TOPICS

STORM = config(fans=500, duplicates=0.02, late=0.02, malformed=0.02)
Log = dict[tuple[str, int], list[tuple[bytes | None, bytes | None]]]


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings with a home and four topics of their own, on the tests' Kafka."""
    mine = Settings(
        home=tmp_path / "home", kafka=kafka_address(settings), topic_prefix=settings.topic_prefix, partitions=2
    )
    topics = [
        NewTopic(mine.topic_prefix + name, num_partitions=2, replication_factor=1, topic_configs=TOPICS[name].config())
        for name in SOURCES
    ]
    with contextlib.closing(kafka_admin(mine)) as admin:
        admin.create_topics(topics)
        yield mine
        admin.delete_topics([mine.topic_prefix + name for name in SOURCES])


def log(settings: Settings) -> Log:
    """Everything in the four topics, by topic and partition."""
    found: Log = {}
    with contextlib.closing(
        KafkaConsumer(**kafka_options(settings), enable_auto_commit=False, max_partition_fetch_bytes=8 * 2**20)
    ) as consumer:
        places = {TopicPartition(settings.topic_prefix + t, p): (t, p) for t in SOURCES for p in range(2)}
        consumer.assign(list(places))
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(list(places))
        for place in places.values():
            found[place] = []
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for tp, records in consumer.poll(timeout_ms=500, max_records=20_000).items():
                found[places[tp]] += [(record.key, record.value) for record in records]
    return found


def expected(made: World, start_ms: int, end_ms: int) -> Log:
    """What the world sends in a time, by topic and partition."""
    return {
        (topic, partition): list(zip(records.keys, records.values, strict=True))
        for partition in range(made.config.partitions)
        for topic, records in made.records(partition, start_ms, end_ms).items()
    }


@pytest.mark.stack
@pytest.mark.parametrize("processes", [1, 2])
def test_backfill_sends_every_record_of_bad_weather_in_order(own, processes):
    end = START_MS + 2 * DAY_MS
    seen: list[float] = []
    produced = backfill(own, STORM, START_MS, end, processes, lambda p: seen.append(p.fraction))
    found = log(own)
    assert found == expected(World(STORM), START_MS, end)
    assert produced.records == sum(map(len, found.values()))
    assert produced.fraction == 1.0
    assert seen == sorted(seen)
    assert produced.kinds.total() == sum(produced.labels[label] for label in ("event", "late", "duplicate"))
    assert load_progress(own.home) == Progress(config=STORM, until_ms={0: end, 1: end})
    assert backfill(own, STORM, START_MS, end, processes).records == 0


@pytest.mark.stack
def test_a_stopped_backfill_goes_on_where_it_was_and_live_after_it(own):
    end = START_MS + 4 * DAY_MS
    stop = threading.Event()
    busy = config(fans=8_000)
    first = backfill(own, busy, START_MS, end, 2, lambda _: stop.set(), stop)
    assert 0 < first.fraction < 1
    backfill(own, busy, START_MS, end, 1)
    stop.clear()
    now = iter(range(end + 3_600_000, end + 10 * 3_600_000, 1_000))
    ticks: list[int] = []

    def tick(produced: Produced) -> None:
        ticks.append(min(produced.until_ms.values()))
        if len(ticks) == 3:
            stop.set()

    live(own, busy, stop, lambda: next(now), tick)
    assert ticks == sorted(ticks)
    assert ticks[0] > end + 3_600_000
    assert log(own) == expected(World(busy), START_MS, ticks[-1])


@pytest.mark.stack
def test_after_a_crash_the_same_bytes_are_sent_again(own):
    end = START_MS + DAY_MS
    backfill(own, STORM, START_MS, end)
    save_progress(own.home, Progress(config=STORM, until_ms={0: end - DAY_MS // 4, 1: end}))
    backfill(own, STORM, START_MS, end)
    made = World(STORM)
    whole, again = expected(made, START_MS, end), expected(made, end - DAY_MS // 4, end)
    assert log(own) == {place: whole[place] + (again[place] if place[1] == 0 else []) for place in whole}


@pytest.mark.stack
def test_a_rate_adds_to_the_world_without_changing_it(own):
    stop = threading.Event()
    now = iter(range(START_MS + DAY_MS // 2, START_MS + DAY_MS, 500))
    calls: list[int] = []

    def tick(produced: Produced) -> None:
        calls.append(1)
        if len(calls) == 60:
            stop.set()

    fast = _NoWait(stop)
    calm = config(fans=500)
    live(own, calm, fast, lambda: next(now), tick, rate=500.0)
    found = {value for records in log(own).values() for _, value in records}
    until = remaining(own, calm, START_MS)
    natural = expected(World(calm), START_MS, min(until.values()))
    plain = {value for records in natural.values() for _, value in records}
    assert plain <= found
    assert len(found) > len(plain) + 2_000


@pytest.mark.stack
def test_what_budget_rules_do_holds_in_the_market_from_then_on_and_after_a_restart(own):
    start = time.time_ns() // 1_000_000 - 60_000
    calm = config(fans=500, start_ms=start, time_zone=evening(start))
    topic = own.topic_prefix + "budget_actions"
    declared = campaigns(World(calm), 500.0)
    with contextlib.closing(kafka_admin(own)) as admin:
        admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=1)])
    with contextlib.closing(kafka_producer(own)) as producer:
        producer.send(topic, value=b"what is no action is passed over", partition=0)
        for number, each in enumerate(declared[1:] * 2):
            action = {"id": each.campaign_id, "rule_id": "r", "campaign_id": each.campaign_id, "kind": "pause"}
            producer.send(topic, value=json.dumps(action).encode(), partition=number % 2)
        budget = declared[0].daily_budget or 0
        action = {"id": "more", "campaign_id": declared[0].campaign_id, "kind": "budget", "after": 3 * budget}
        producer.send(topic, value=json.dumps(action).encode(), partition=0)
        producer.flush()
    ticks: list[int] = []
    stop = threading.Event()

    def tick(produced: Produced) -> None:
        known = load_progress(own.home)
        if known is not None and len(known.changes) == len(declared):
            ticks.append(min(produced.until_ms.values()))
            if len(ticks) > 25:
                stop.set()

    now = itertools.count(start + 60_000, 500)
    live(own, calm, _NoWait(stop), lambda: next(now), tick, rate=500.0)
    changes = {change.id: change for change in load_progress(own.home).changes}
    assert changes.keys() == {"more", *(each.campaign_id for each in declared[1:])}
    since = max(change.at_ms for change in changes.values())
    assert start + 60_000 <= since <= ticks[0]
    # What is remembered is of the world at its natural rate, of which 500 a second are many.
    assert changes["more"].after == pytest.approx(3 * budget * World(calm).natural_rate / 500, abs=2)
    found = [json.loads(value) for (name, _), part in log(own).items() if name == "ad_events" for _, value in part]
    shown = [(each["event_time"], each["campaign_id"]) for each in found if each["kind"] == "impression"]
    assert {name for at, name in shown if at < since} - {declared[0].campaign_id}
    assert {name for at, name in shown if at >= since} == {declared[0].campaign_id}
    before = load_progress(own.home).changes
    stop.clear()
    ticks.clear()
    live(own, calm, _NoWait(stop), lambda: next(now), tick, rate=500.0)
    assert load_progress(own.home).changes == before
    found = [json.loads(value) for (name, _), part in log(own).items() if name == "ad_events" for _, value in part]
    shown = [(each["event_time"], each["campaign_id"]) for each in found if each["kind"] == "impression"]
    assert {name for at, name in shown if at >= since} == {declared[0].campaign_id}


class _NoWait:
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._event.is_set()


@pytest.mark.stack
def test_topics_that_are_missing_or_of_another_size_are_one_clear_line(own):
    elsewhere = own.model_copy(update={"topic_prefix": own.topic_prefix + "none."})
    with pytest.raises(FanpulseError, match="fanpulse topics") as missing:
        backfill(elsewhere, STORM, START_MS, START_MS + DAY_MS, 1)
    assert missing.value.exit_code == 2
    with pytest.raises(FanpulseError, match="has 2 partitions and the world 3"):
        backfill(own, config(partitions=3), START_MS, START_MS + DAY_MS, 2)


@pytest.mark.stack
def test_a_refused_record_stops_the_backfill(own):
    with contextlib.closing(kafka_admin(own)) as admin:
        admin.delete_topics([own.topic_prefix + "interactions"])
        admin.create_topics(
            [NewTopic(own.topic_prefix + "interactions", 2, 1, topic_configs={"max.message.bytes": "200"})]
        )
    with pytest.raises(FanpulseError, match="Kafka did not take a record"):
        backfill(own, config(fans=100), START_MS, START_MS + DAY_MS, 1)


@pytest.fixture
def run(own: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Runs ``generate`` with the arguments given."""
    monkeypatch.setenv("FANPULSE_KAFKA", str(own.kafka))
    monkeypatch.setenv("FANPULSE_TOPIC_PREFIX", own.topic_prefix)
    monkeypatch.setenv("FANPULSE_PARTITIONS", "2")
    app = typer.Typer()

    @app.callback()
    def root(ctx: typer.Context) -> None:
        ctx.obj = own.home

    app.command("generate")(command.generate)
    return lambda *arguments: CliRunner().invoke(app, ["generate", *arguments])


@pytest.mark.stack
def test_the_command_sends_history_and_live_and_says_what(run, own):
    listed = run("--fans", "500", "--creators", "5", "--days", "2", "--campaigns")
    assert listed.exit_code == 0, listed.output
    (own.home.parent / "campaigns.yaml").write_text(listed.stdout, encoding="utf-8")
    assert read_campaigns(own.home.parent / "campaigns.yaml") == tuple(campaigns(World(load_progress(own.home).config)))
    assert not any(log(own).values())
    done = run("--fans", "500", "--creators", "5", "--for", "2s", "--malformed", "0.01", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["records"] == said["valid"] + sum(said["malformed"].values())
    assert said["records"] == sum(len(records) for records in log(own).values())
    assert sum(said["topics"]["interactions"].values()) > 1_000
    assert set(said["seconds"]) == {"history", "live"}
    again = run("--no-live")
    assert again.exit_code == 0
    assert "history" in again.output
    other = run("--seed", "8", "--no-live")
    assert isinstance(other.exception, FanpulseError)
    assert "has seed 7, not 8" in other.exception.message


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("90", 90), ("1.5m", 90), ("2h", 7200), ("500ms", 0.5)])
def test_durations(text, seconds):
    assert command.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "1w", "soon"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(FanpulseError, match="is no duration"):
        command.duration(text)


def test_a_home_keeps_its_world(tmp_path):
    here = Settings(home=tmp_path)
    new = open_world(here, START_MS, days=3, fans=100)
    assert new.start_ms == START_MS - 3 * DAY_MS
    save_progress(tmp_path, Progress(config=new, until_ms={0: START_MS}))
    assert open_world(here, START_MS + DAY_MS, days=9) == new
    assert open_world(here, START_MS, late=0.5).late == 0.5
    for changed in ({"seed": 1}, {"fans": 101}, {"creators": 3}):
        with pytest.raises(FanpulseError, match="use another --home"):
            open_world(here, START_MS, **changed)
    with pytest.raises(FanpulseError, match="has partitions 4, not 8"):
        open_world(Settings(home=tmp_path, partitions=8), START_MS)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    (tmp_path / FILE).write_text("{")
    with pytest.raises(FanpulseError, match="cannot be read"):
        open_world(here, START_MS)


def test_a_bad_size_is_one_clear_line(tmp_path):
    with pytest.raises(FanpulseError, match=r"^fans: input should be greater than or equal to 10$"):
        open_world(Settings(home=tmp_path), START_MS, fans=1)


def test_the_natural_rate_is_about_what_is_produced():
    made = world()
    events = sum(
        len(columns)
        for partition in (0, 1)
        for columns in made.events(partition, START_MS, START_MS + 14 * DAY_MS).values()
    )
    assert events / (14 * DAY_MS / 1000) == pytest.approx(made.natural_rate, rel=0.4)
