"""A valid record whose row ClickHouse refuses: it alone becomes a dead letter, and no figure knows of it."""

import threading
import time
from pathlib import Path
from random import Random

import polars as pl
import pytest
from rig import DAY, MINUTE, WorkerProcess, ask, await_stored, database, events, now_ms, prepare, send, until, verified

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.migrate import migrate
from pipeline.sink import BY_CONTENT, RefusedByClickHouse, Sink

pytestmark = pytest.mark.stack

ADD = "ALTER TABLE raw_interactions ADD CONSTRAINT short CHECK ifNull(watch_ms, 0) < 39000"
DROP = "ALTER TABLE raw_interactions DROP CONSTRAINT short"


def command(settings: Settings, text: str) -> None:
    with database(settings) as client:
        client.command(text)


def test_only_the_records_that_clickhouse_refuses_become_dead_letters(settings: Settings, tmp_path: Path) -> None:
    """What was stored before the constraint came, and is read again, stays; what is refused may be sent again once
    it is gone."""
    prepare(settings)
    start = now_ms() - 60 * MINUTE
    made = events(Random(5), 3000, start, now_ms())
    made += [{**each, "event_id": f"again{index}"} for index, each in enumerate(made[::10])]
    bad = [each for each in made[1000:] if each["kind"] == "view" and each["watch_ms"] >= 39_000]
    assert len(bad) > 10
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", made[:1000])
        await_stored(settings, [worker])
        worker.kill()
    archive = "agent = 'archive' AND topic = 'interactions'"
    command(settings, f"ALTER TABLE checkpoints DELETE WHERE {archive} SETTINGS mutations_sync = 1")
    command(settings, ADD)
    with WorkerProcess(settings, tmp_path / "second") as worker:
        for index in range(1000, len(made), 400):
            send(settings, "interactions", made[index : index + 400])
            time.sleep(0.3)
        await_stored(settings, [worker])
        letters = ask(settings, "SELECT reason, detail FROM dead_letters FINAL")
        assert len(letters) == len(bad)
        assert {reason for reason, _ in letters} == {"clickhouse"}
        assert all("Constraint `short` for table" in detail and "scratch" not in detail for _, detail in letters)
        assert ask(settings, "SELECT count() FROM raw_interactions FINAL") == [(len(made) - len(bad),)]
        assert ask(settings, "SELECT sum(plays) FROM engagement_creator_minute FINAL") == [
            (sum(each["kind"] == "view" for each in made) - len(bad),)
        ]
        verified(settings)
        command(settings, DROP)
        send(settings, "interactions", bad)
        await_stored(settings, [worker])
        verified(settings)
        assert ask(settings, "SELECT count(), countIf(duplicate) FROM raw_interactions FINAL") == [(len(made), 0)]
        assert worker.stop() == 0, worker.output()


def test_a_dead_letter_of_clickhouse_stays_one_for_agents_that_have_not_read_it(
    settings: Settings, tmp_path: Path
) -> None:
    """The archive has passed it, the other agent begins before it, and ClickHouse would take it now."""
    prepare(settings)
    made = events(Random(6), 500, now_ms() - DAY // 2, now_ms())
    bad = sum(each["kind"] == "view" and each["watch_ms"] >= 39_000 for each in made)
    assert bad
    command(settings, ADD)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", made)
        await_stored(settings, [worker])
        worker.kill()
    command(settings, DROP)
    for table in ("engagement_creator_minute", "engagement_content_minute", "engagement_content_hour"):
        command(settings, f"TRUNCATE TABLE {table}")
    command(settings, "TRUNCATE TABLE engagement_content_day")
    command(settings, "ALTER TABLE checkpoints DELETE WHERE agent = 'engagement' SETTINGS mutations_sync = 1")
    with WorkerProcess(settings, tmp_path / "second") as worker:
        await_stored(settings, [worker])
        verified(settings)
        assert ask(settings, "SELECT count() FROM dead_letters FINAL") == [(bad,)]


def test_a_table_that_takes_nothing_ends_the_worker_with_what_clickhouse_says(
    settings: Settings, tmp_path: Path
) -> None:
    prepare(settings)
    command(settings, "ALTER TABLE raw_interactions ADD CONSTRAINT never CHECK partition > 1000")
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", events(Random(7), 500, now_ms() - DAY // 2, now_ms()))
        assert worker.ends() == 1
        assert "so it is the table that is wrong" in worker.output()
        assert "Constraint `never`" in worker.output()
    assert ask(settings, "SELECT count() FROM dead_letters") == [(0,)]
    assert ask(
        settings, "SELECT count() FROM system.tables WHERE name LIKE 'scratch%' AND database = currentDatabase()"
    ) == [(0,)]
    command(settings, "ALTER TABLE raw_interactions DROP CONSTRAINT never")
    with WorkerProcess(settings, tmp_path / "second") as worker:
        await_stored(settings, [worker])
        verified(settings)


def test_refused_rows_are_found_and_nothing_is_stored(settings: Settings) -> None:
    migrate(settings)
    command(
        settings,
        "CREATE TABLE scratch_numbers (n Int64, CONSTRAINT odd CHECK n % 97 != 0) ENGINE = MergeTree ORDER BY n",
    )
    own = Sink(lambda: clickhouse_client(settings), threading.Event())
    rows = pl.DataFrame({"n": range(1, 1000)})
    with pytest.raises(RefusedByClickHouse) as refused:
        own.insert("scratch_numbers", rows)
    assert refused.value.code in BY_CONTENT
    found = own.refused("scratch_numbers", rows)
    assert sorted(found) == [n - 1 for n in range(1, 1000) if n % 97 == 0]
    assert all(why.startswith("Constraint `odd` for table") for why in found.values())
    assert ask(settings, "SELECT count() FROM scratch_numbers") == [(0,)]
    until(
        lambda: len(ask(settings, "SELECT name FROM system.tables WHERE name LIKE 'scratch%'")) == 1, "the probe to go"
    )
