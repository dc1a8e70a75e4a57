"""Services that go away under a worker: it waits, and goes on by itself."""

from pathlib import Path
from random import Random

import pytest
from rig import (
    DAY,
    WorkerProcess,
    ask,
    await_stored,
    events,
    now_ms,
    prepare,
    send,
    stored,
    until,
    verified,
)

from chaos.fleet import kill_service
from infra.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def test_services_away_are_waited_for(own: Stack, tmp_path: Path) -> None:
    settings = own.settings
    prepare(settings)
    now = now_ms()
    made = events(Random(1), 9000, now - DAY // 24, now)
    with WorkerProcess(settings, tmp_path / "log", fetch_bytes=20_000) as worker:
        send(settings, "interactions", made[:3000])
        until(lambda: sum(stored(settings).values()) > 300, "a first flush")
        kill_service(own, "clickhouse")
        send(settings, "interactions", made[3000:6000])
        until(lambda: "ClickHouse did not take" in worker.output(), "the worker to wait")
        own.up()
        await_stored(settings, [worker])
        verified(settings)
        worker.kill()
    assert ask(settings, "SELECT count() FROM raw_interactions FINAL") == [(6000,)]

    # Away when a worker restores its partitions; and it restores for longer than Faust waits for anything.
    kill_service(own, "clickhouse")
    with WorkerProcess(settings, tmp_path / "second") as worker:
        until(lambda: "cannot restore yet" in worker.output(), "the worker to look for ClickHouse")
        own.up()
        send(settings, "interactions", made[6000:])
        await_stored(settings, [worker])
        verified(settings)
        assert worker.stop() == 0, worker.output()
    assert ask(settings, "SELECT count() FROM raw_interactions FINAL") == [(9000,)]


@pytest.mark.long
def test_kafka_away_is_waited_for_and_does_not_hold_a_stop_up(own: Stack, tmp_path: Path) -> None:
    settings = own.settings
    prepare(settings)
    now = now_ms()
    before = int(ask(settings, "SELECT count() FROM raw_interactions FINAL")[0][0])
    made = events(Random(2), 4000, now - DAY // 24, now, first=100_000)
    with WorkerProcess(settings, tmp_path / "log", fetch_bytes=20_000) as worker:
        send(settings, "interactions", made[:2000])
        until(lambda: sum(stored(settings).values()) > before + 300, "a first flush")
        kill_service(own, "kafka")
        own.up()
        send(settings, "interactions", made[2000:3000])
        await_stored(settings, [worker])
        send(settings, "interactions", made[3000:])
        kill_service(own, "kafka")
        try:
            assert worker.stop() == 0, worker.output()
            with WorkerProcess(settings, tmp_path / "without") as another:
                assert another.ends() == 1, "the supervisor tries again"
                assert "fanpulse: Kafka is not running" in another.output()
        finally:
            own.up()
    with WorkerProcess(settings, tmp_path / "second") as worker:
        await_stored(settings, [worker])
        verified(settings)
        assert worker.stop() == 0, worker.output()
    assert ask(settings, "SELECT count() FROM raw_interactions FINAL") == [(before + 4000,)]


def test_a_stop_while_clickhouse_is_away_loses_nothing(own: Stack, tmp_path: Path) -> None:
    """It comes back while the worker ends: nothing may be stored beyond the flush that was given up."""
    settings = own.settings.model_copy(update={"database": "fanpulse_stop", "topic_prefix": "stop."})
    prepare(settings)
    now = now_ms()
    made = events(Random(3), 6000, now - DAY // 24, now)
    with WorkerProcess(settings, tmp_path / "log", fetch_bytes=5000, flush_rows=50) as worker:
        send(settings, "interactions", made[:500])
        await_stored(settings, [worker])
        kill_service(own, "clickhouse")
        send(settings, "interactions", made[500:])
        # The pause between two tries is longer by now than the time that a stop waits for a flush.
        until(lambda: "trying again in 6" in worker.output(), "a long pause")
        worker.process.terminate()
        until(lambda: "stopped without a last flush" in worker.output(), "the flush to be given up")
        own.up()
        assert worker.process.wait(60) == 0, worker.output()
    with WorkerProcess(settings, tmp_path / "second") as worker:
        await_stored(settings, [worker])
        verified(settings)
    assert ask(settings, "SELECT count() FROM raw_interactions FINAL") == [(6000,)]
