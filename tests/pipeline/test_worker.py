"""Worker processes on the real stack: whatever happens to them, tables equal what was sent."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from kafka import KafkaConsumer, TopicPartition
from rig import (
    DAY,
    MINUTE,
    WorkerProcess,
    ask,
    await_stored,
    database,
    event,
    events,
    now_ms,
    prepare,
    send,
    send_raw,
    stored,
    until,
    verified,
)

from infra.connect import kafka_options
from infra.settings import Settings
from pipeline.app import READ
from pipeline.repair import repair
from schemas.topics import SOURCES

pytestmark = [pytest.mark.stack, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"


def count(settings: Settings, table: str = "raw_interactions") -> int:
    return int(ask(settings, f"SELECT count() FROM {table} FINAL")[0][0])


def plays(settings: Settings) -> dict[str, int]:
    query = "SELECT creator_id, sum(plays) FROM engagement_creator_minute FINAL GROUP BY creator_id HAVING sum(plays)"
    return {str(creator): int(number) for creator, number in ask(settings, query)}


def plays_of(made: list[dict[str, object]]) -> dict[str, int]:
    return dict(Counter(str(each["creator_id"]) for each in made if each["kind"] == "view"))


@contextlib.contextmanager
def sending(settings: Settings, made: list[dict[str, object]], pieces: int = 20) -> Iterator[None]:
    """Sends events piece by piece beside the body, to the end."""

    def run() -> None:
        size = -(-len(made) // pieces)
        for first in range(0, len(made), size):
            send(settings, "interactions", made[first : first + size])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_every_kind_of_record_is_stored_or_a_dead_letter(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    sound = {topic: [path.read_bytes() for path in sorted((EXAMPLES / topic).glob("*.json"))] for topic in SOURCES}
    refused: dict[str, list[tuple[str, bytes | None]]] = {
        topic: [(path.stem, path.read_bytes()) for path in sorted((EXAMPLES / "refused" / topic).glob("*"))]
        for topic in SOURCES
    }
    refused["interactions"] += [("null", None), ("large", b"x" * 1_100_000), ("binary", b"\xff\x00\xfe")]
    for topic in SOURCES:
        bad, good = [value for _, value in refused[topic]], sound[topic]
        mixed = [value for pair in zip(good, bad, strict=False) for value in pair] + good[len(bad) :] + bad[len(good) :]
        send_raw(settings, topic, [(b"one fan", value) for value in mixed])

    with WorkerProcess(settings, tmp_path / "log", dead_letter_window=100_000) as worker:
        await_stored(settings, [worker])
        verified(settings)
        assert worker.stop() == 0, worker.output()

    for topic in SOURCES:
        assert count(settings, f"raw_{topic}") == len(sound[topic])
    letters = ask(settings, "SELECT topic, partition, offset, reason, value, size, null_value FROM dead_letters FINAL")
    values = [value for topic in SOURCES for _, value in refused[topic]]
    assert len(letters) == len(values)
    assert sorted(size for *_, size, _ in letters) == sorted(len(value or b"") for value in values)
    assert {null for *_, size, null in letters if size == 0} <= {0, 1}
    assert sum(null for *_, null in letters) == 1
    name = settings.topic_prefix + "dead_letters"
    consumer = KafkaConsumer(**kafka_options(settings), consumer_timeout_ms=10_000)
    with contextlib.closing(consumer):
        consumer.assign([TopicPartition(name, 0)])
        consumer.seek_to_beginning()
        records = []
        while len(records) < len(values):
            records.append(next(consumer))
    assert sorted(record.value or b"" for record in records) == sorted(value or b"" for value in values)
    sent = {(topic, partition, offset): reason for topic, partition, offset, reason, *_ in letters}
    for record in records:
        headers = {key: value.decode() for key, value in record.headers}
        where = headers["topic"], int(headers["partition"]), int(headers["offset"])
        assert sent.pop(where) == headers["reason"]
        assert record.key == ":".join(map(str, where)).encode()
        assert headers["detail"]
        assert int(headers["appended_at_ms"]) > 0
    assert sent == {}


def test_two_workers_share_and_hand_over_while_events_come(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    now = now_ms()
    made = events(Random(4), 20_000, now - DAY // 4, now)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(WorkerProcess(settings, tmp_path / "0", 0, fetch_bytes=20_000))
        until(lambda: f"restored {len(READ) * 4} partitions" in first.output(), "the first worker to have all")
        stack.enter_context(sending(settings, made, 60))
        second = stack.enter_context(WorkerProcess(settings, tmp_path / "1", 1, fetch_bytes=20_000))
        until(lambda: f"restored {len(READ) * 2} partitions" in second.output(), "the second worker to have its share")
        before = sum(stored(settings).values())
        until(lambda: sum(stored(settings).values()) > before + 1000, "both to store")
        assert first.stop() == 0, first.output()
        await_stored(settings, [second])
        verified(settings)
        assert second.stop() == 0, second.output()
    assert count(settings) == len(made)
    assert plays(settings) == plays_of(made)


@pytest.mark.long
def test_checkpoints_set_back_change_nothing(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    now = now_ms()
    made = events(Random(5), 6000, now - DAY // 8, now - 60_000)
    tables = ("raw_interactions", "engagement_creator_minute", "engagement_content_day", "engagement_content_minute")
    for part in (made[:3000], made[3000:]):
        with WorkerProcess(settings, tmp_path / "log", fetch_bytes=20_000) as worker:
            send(settings, "interactions", part)
            await_stored(settings, [worker])
            worker.kill()
    for which in ("agent = 'archive' AND topic = 'interactions'", "agent = 'engagement'", "next_offset > 0"):
        before = [
            ask(settings, f"SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM {table} FINAL") for table in tables
        ]
        with database(settings) as client:
            client.command(f"ALTER TABLE checkpoints DELETE WHERE {which}", settings={"mutations_sync": 1})
        more = events(Random(6), 500, now - 60_000, now, first=len(made))
        with WorkerProcess(settings, tmp_path / "log") as worker:
            await_stored(settings, [worker])
            after = [
                ask(settings, f"SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM {table} FINAL")
                for table in tables
            ]
            assert after == before, which
            send(settings, "interactions", more)
            await_stored(settings, [worker])
            worker.kill()
        made = made + more
        verified(settings)
        assert plays(settings) == plays_of(made), which


def test_late_events_are_counted_and_folded_by_repair_only_once(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    now = now_ms()
    on_time = events(Random(7), 2000, now - DAY // 8, now)
    old = events(Random(8), 300, now - 2 * DAY, now - DAY, first=2000)
    again = [each for each in on_time if each["event_time"] < now - DAY // 8 + 20 * MINUTE][:50]
    late = [*old, *old[:40], *again]
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", on_time)
        await_stored(settings, [worker])
        send(settings, "interactions", late)
        await_stored(settings, [worker])
        verified(settings)
        assert ask(settings, "SELECT countIf(late), countIf(late AND duplicate) FROM raw_interactions FINAL") == [
            (len(late), 0)
        ]
        assert plays(settings) == plays_of(on_time)

        days = [datetime.fromtimestamp(at / 1000, UTC).date() for at in (now - 3 * DAY, now + DAY)]
        done = repair(settings, *days, patience=60)
        verified(settings)
        assert (done.events["interactions"], done.repeats["interactions"]) == (len(old), 40 + len(again))
        assert plays(settings) == plays_of(on_time + old)

        assert repair(settings, *days, patience=60) == done
        verified(settings)
        assert plays(settings) == plays_of(on_time + old)

        # Replayed from the beginning, repaired rows stay as they are.
        worker.kill()
        with database(settings) as client:
            client.command("TRUNCATE TABLE checkpoints")
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        verified(settings)
        assert plays(settings) == plays_of(on_time + old)
        assert worker.stop() == 0, worker.output()


def test_records_that_are_all_refused_leave_a_log_to_go_on_from(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    send_raw(settings, "interactions", [(b"fan", b"nothing")] * 20)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        worker.kill()
    now = now_ms()
    made = [event(Random(9), number, now, fan_id="fan") for number in range(20)]
    send(settings, "interactions", made)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        verified(settings)
        assert worker.stop() == 0, worker.output()
    assert plays(settings) == plays_of(made)
    assert count(settings, "dead_letters") == 20


def test_too_large_a_share_of_refused_records_stops_the_worker(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    send_raw(settings, "interactions", [(b"fan", b"nothing")] * 300)
    with WorkerProcess(settings, tmp_path / "log", dead_letter_window=200) as worker:
        assert worker.ends() == 3
        assert "100% of the last records were refused" in worker.output()


def test_other_settings_are_refused_with_one_line(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    now = now_ms()
    send(settings, "interactions", events(Random(10), 10, now - MINUTE, now))
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        assert worker.stop() == 0, worker.output()
    for name, changed in {"late_horizon": 3600, "fan_key": "ab" * 32}.items():
        with WorkerProcess(settings, tmp_path / name, **{name: changed}) as worker:
            assert worker.ends() == 3
            assert "fanpulse: the figures were made with" in worker.output()
    with WorkerProcess(settings, tmp_path / "partitions", partitions=8) as worker:
        assert worker.ends() == 3
        assert "FANPULSE_PARTITIONS=8: set it to 4" in worker.output()


def test_a_second_worker_of_one_number_is_refused(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    with WorkerProcess(settings, tmp_path / "first") as worker:
        until(lambda: "restored" in worker.output(), "the worker to run")
        with WorkerProcess(settings, tmp_path / "second") as other:
            assert other.ends() == 2
            assert "worker 0 of this home is already running" in other.output()
        assert worker.stop() == 0, worker.output()
