"""The ground truth is what Kafka holds, however the feed came to know it."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.future import Future

import chaos.feed
from chaos.feed import BrokenFeed, Feed, Mix
from chaos.oracle import Judge
from chaos.truth import BrokenTruth, Sent, TruthLog
from infra.connect import kafka_options, kafka_producer
from infra.settings import Settings
from infra.topics import ensure_topics
from schemas.topics import SOURCES, partition_for

DEADLINE = 60.0


def in_kafka(settings: Settings) -> Iterator[tuple[str, int, int, int, bytes, bytes | None]]:
    """Records of all source topics by topic, partition and offset."""
    with contextlib.closing(KafkaConsumer(**kafka_options(settings), auto_offset_reset="none")) as consumer:
        for topic in sorted(SOURCES):
            for partition in range(settings.partitions):
                here = TopicPartition(settings.topic_prefix + topic, partition)
                consumer.assign([here])
                end = consumer.end_offsets([here])[here]
                consumer.seek(here, 0)
                while consumer.position(here) < end:
                    for record in consumer.poll(1000).get(here, ()):
                        yield topic, partition, record.offset, record.timestamp, record.key, record.value


def in_truth(truth: TruthLog) -> Iterator[tuple[str, int, int, int, bytes, bytes | None]]:
    for sent in truth.records():
        yield sent.topic, sent.partition, sent.offset, sent.appended, sent.key, sent.value


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def made(offset: int, topic: str = "gifts", partition: int = 0, value: bytes | None = b"{}") -> Sent:
    return Sent(topic, partition, offset, 1_750_000_000_000 + offset, b"fan", value, "event")


def test_truth_gives_back_what_it_was_given_in_order(tmp_path: Path) -> None:
    truth = TruthLog(tmp_path / "truth")
    records = [made(n, value=None if n == 1 else b"x" * n) for n in range(5)]
    records += [made(n, "ad_events", 10) for n in range(2)] + [made(0, "ad_events", 9)]
    truth.append([records[n] for n in (3, 1, 5, 7)])
    truth.append([records[n] for n in (0, 6, 4, 2)])
    assert list(truth.records()) == [records[n] for n in (7, 5, 6, 0, 1, 2, 3, 4)]
    assert truth.count == 8
    again = TruthLog(tmp_path / "truth")
    assert again.count == 8
    again.append([made(5)])
    assert [sent.offset for sent in again.partition("gifts", 0)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("offsets", "said"),
    [((0, 2), "offset 1 is missing"), ((1,), "offset 0 is missing"), ((0, 1, 1, 2), "offset 1 is there twice")],
)
def test_truth_with_gaps_is_refused(tmp_path: Path, offsets: tuple[int, ...], said: str) -> None:
    truth = TruthLog(tmp_path)
    truth.append(map(made, offsets))
    with pytest.raises(BrokenTruth, match=said):
        list(truth.records())


def test_a_truth_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    TruthLog(tmp_path).append([made(0), made(1)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenTruth, match="in the middle of a record"):
        TruthLog(tmp_path)


@pytest.mark.stack
def test_the_truth_is_what_kafka_holds(settings: Settings, tmp_path: Path) -> None:
    ensure_topics(settings)
    truth = TruthLog(tmp_path)
    feed = Feed(settings, truth, 4000, mix=Mix(edge=0.1, malformed=0.05), seed=3)
    assert not feed.done
    feed.start()
    feed.join()
    assert feed.done
    assert feed.sent == truth.count == 4000
    assert list(in_truth(truth)) == list(in_kafka(settings))
    labels = Counter(sent.label for sent in truth.records())
    assert min(labels["event"], labels["late"], labels["duplicate"]) > 50
    assert sum(n for label, n in labels.items() if label.startswith("refused:")) > 3
    assert len(labels) > 12
    horizon = settings.late_horizon * 1000 + settings.allowed_lateness * 1000
    distances: Counter[int] = Counter()
    for topic, partition in truth.partitions():
        judge = Judge(settings.allowed_lateness * 1000, settings.late_horizon * 1000)
        for sent in truth.partition(topic, partition):
            assert partition_for(sent.key, settings.partitions) == partition
            event = judge.judge(sent).event
            if event is not None and judge.newest is not None:
                distances[event["event_time"] - (judge.newest - horizon)] += 1
    # On the horizon, a millisecond within and one beyond.
    assert min(distances[0], distances[1], distances[-1]) > 5


@pytest.mark.stack
def test_idle_topics_and_partitions_stay_idle_and_calm_is_calm(settings: Settings, tmp_path: Path) -> None:
    ensure_topics(settings)
    truth = TruthLog(tmp_path)
    calm = Mix(duplicates=0, late=0, malformed=0, edge=0, lives=0, wins=0, campaigns=0)
    mix = calm.model_copy(update={"idle_topics": frozenset({"ad_events"}), "idle_partitions": frozenset({2})})
    feed = Feed(settings, truth, 1500, mix=mix)
    feed.start()
    feed.join()
    found = Counter((topic, partition) for topic, partition, *_ in in_kafka(settings))
    assert sum(found.values()) == 1500
    assert {partition for _, partition in found} == {0, 1, 3}
    assert "ad_events" not in {topic for topic, _ in found}
    assert {sent.label for sent in truth.records()} == {"event"}
    identities = Counter(
        (e["event_id"], e["event_time"]) for e in (orjson.loads(v or b"") for *_, v in in_truth(truth))
    )
    assert max(identities.values()) == 1


@pytest.mark.stack
def test_a_feed_pauses_goes_on_and_ends_early(settings: Settings, tmp_path: Path) -> None:
    ensure_topics(settings)
    truth = TruthLog(tmp_path)
    feed = Feed(settings, truth, 1_000_000, rate=2000)
    feed.start()
    until(lambda: feed.sent > 0)
    feed.pause()
    before = -1
    while before != feed.sent:
        before = feed.sent
        time.sleep(0.5)
    feed.resume()
    until(lambda: feed.sent > before)
    feed.stop()
    feed.join()
    assert before < feed.sent == truth.count < 1_000_000
    assert list(in_truth(truth)) == list(in_kafka(settings))


class Unanswered:
    """A producer whose answers are lost from a record on: every second record reaches Kafka all the same."""

    def __init__(self, settings: Settings, after: int, **options: Any) -> None:
        self._real = kafka_producer(settings, **options)
        self._left = after

    def send(self, *args: Any) -> Any:
        self._left -= 1
        if self._left >= 0:
            return self._real.send(*args)
        if self._left % 2:
            self._real.send(*args)
        return Future().failure(KafkaTimeoutError("no answer"))

    def flush(self, timeout: float) -> None:
        self._real.flush(timeout=timeout)

    def close(self, timeout: float) -> None:
        self._real.close(timeout=timeout)


@pytest.mark.stack
def test_records_without_an_answer_are_looked_up_and_sent_again_where_they_are_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(settings)
    truth = TruthLog(tmp_path)
    producers: list[Unanswered] = []

    def connect(settings: Settings, **options: Any) -> Unanswered:
        producers.append(Unanswered(settings, 1500 if len(producers) < 2 else 1_000_000, **options))
        return producers[-1]

    monkeypatch.setattr(chaos.feed, "kafka_producer", connect)
    feed = Feed(settings, truth, 6000)
    feed.start()
    feed.join()
    assert len(producers) == 3
    assert feed.sent == truth.count == 6000
    assert list(in_truth(truth)) == list(in_kafka(settings))


@pytest.mark.stack
def test_a_record_of_someone_else_among_lost_answers_is_an_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(settings)
    stranger = kafka_producer(settings)
    for topic in SOURCES:
        for partition in range(settings.partitions):
            stranger.send(settings.topic_prefix + topic, b"{}", b"stranger", partition=partition)
    stranger.close()
    monkeypatch.setattr(chaos.feed, "kafka_producer", lambda settings, **options: Unanswered(settings, 0, **options))
    feed = Feed(settings, TruthLog(tmp_path), 100)
    feed.start()
    with pytest.raises(BrokenFeed, match="did not send it"):
        feed.join()
