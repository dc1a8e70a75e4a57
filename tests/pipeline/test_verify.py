"""verify finds what is wrong, one row of it, in every table; and repair gives what it accepts."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from rig import DAY, WorkerProcess, ask, await_stored, database, events, now_ms, prepare, send, verified

from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline.repair import repair
from pipeline.verify import verify

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SNAPSHOTS = (
    "engagement_creator_minute",
    "engagement_content_minute",
    "engagement_content_hour",
    "engagement_content_day",
)


def differing(settings: Settings) -> set[str]:
    return {each.name for each in verify(settings) if each.differ}


def change(settings: Settings, statement: str) -> None:
    with database(settings) as client:
        client.command(statement, settings={"mutations_sync": 1})


def days_from(first: int, last: int) -> tuple[date, date]:
    """The local days of two times, and one more at each end."""
    begin, end = (datetime.fromtimestamp(at / 1000, UTC).date() for at in (first, last))
    return begin - timedelta(days=1), end + timedelta(days=1)


@pytest.mark.timeout(300)
def test_one_wrong_row_in_any_table_is_found(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings)
    now = now_ms()
    made = events(Random(1), 2000, now - DAY // 12, now)
    late = events(Random(2), 50, now - 2 * DAY, now - DAY, first=2000)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", made[:1990])
        await_stored(settings, [worker])
        send(settings, "interactions", [*made[1990:], *late, made[0], late[0]])
        await_stored(settings, [worker])
        repair(settings, *days_from(now - 3 * DAY, now))
        await_stored(settings, [worker])
        assert worker.stop() == 0, worker.output()
    verified(settings)

    for changed in ("likes + 1 AS likes", "applied + 1 AS applied", "'nobody' AS creator_id"):
        assert_found(settings, SNAPSHOTS, "INSERT INTO {0} SELECT * REPLACE (" + changed + ") FROM {0} FINAL LIMIT 1")
    assert_found(settings, SNAPSHOTS, "ALTER TABLE {0} DELETE WHERE applied = (SELECT max(applied) FROM {0})")
    repaired = ("engagement_creator_minute", "engagement_content_hour", "engagement_content_day")
    assert_found(settings, repaired, "ALTER TABLE {0} DELETE WHERE origin = 'repair'")
    for column in ("late", "duplicate"):
        for row in (made[5], late[5]):
            wrong = f"UPDATE {column} = 1 - {column} WHERE event_id = '{row['event_id']}'"
            assert_found(settings, ("raw_interactions",), "ALTER TABLE {0} " + wrong)
    gone = f"ALTER TABLE raw_interactions DELETE WHERE event_id = '{made[7]['event_id']}'"
    assert_found(settings, ("engagement_creator_minute", "offsets_interactions"), gone)
    viewers = ("viewers_minute", "viewers_hour")
    assert_found(settings, viewers, "ALTER TABLE {0} DELETE WHERE creator_id = 'c1'")
    more = "arrayReduce('uniqState', [toUInt64(1)]) AS viewers"
    assert_found(settings, viewers, "INSERT INTO {0} SELECT * REPLACE (" + more + ") FROM {0} LIMIT 1")

    # An agent that has not stored anything yet is not wrong.
    assert ask(settings, "SELECT min(`offset`) FROM raw_interactions") == [(0,)]
    with kept(settings):
        for table in SNAPSHOTS:
            change(settings, f"ALTER TABLE {table} DELETE WHERE origin = 'stream'")
        change(settings, "CREATE TABLE begun AS checkpoints ENGINE = MergeTree ORDER BY tuple()")
        change(settings, "INSERT INTO begun SELECT * REPLACE (0 AS next_offset) FROM checkpoints FINAL")
        change(settings, "ALTER TABLE checkpoints DELETE WHERE agent = 'engagement'")
        change(settings, "INSERT INTO checkpoints SELECT * FROM begun WHERE agent = 'engagement'")
        assert differing(settings) == set()

    change(settings, "ALTER TABLE engagement_content_hour DELETE WHERE 1")
    for name in ("home", "database", "topic_prefix"):
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(getattr(settings, name)))
    shown = subprocess.run(
        [sys.executable, "-m", "fanpulse.cli", "verify"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1, shown.stderr
    assert "engagement_content_hour" in shown.stdout


def assert_found(settings: Settings, tables: tuple[str, ...], statement: str) -> None:
    """The statement, run for each table, makes verify find a difference there; afterwards all is as it was."""
    with kept(settings):
        for table in tables:
            change(settings, statement.format(table))
        assert differing(settings) >= set(tables), statement


@contextlib.contextmanager
def kept(settings: Settings) -> Iterator[None]:
    """Puts the tables that tests tamper with back."""
    tables = (*SNAPSHOTS, "raw_interactions", "viewers_minute", "viewers_hour")
    with database(settings) as client:
        for table in tables:
            client.command(f"CREATE TABLE kept_{table} AS {table}")
            client.command(f"ALTER TABLE kept_{table} ATTACH PARTITION ALL FROM {table}")
        try:
            yield
        finally:
            for table in tables:
                client.command(f"TRUNCATE TABLE {table}")
                client.command(f"ALTER TABLE {table} ATTACH PARTITION ALL FROM kept_{table}")
                client.command(f"DROP TABLE kept_{table} SYNC")


def test_hours_across_a_local_midnight_are_repaired_whole(settings: Settings, tmp_path: Path) -> None:
    """India is half an hour off UTC: the hour that holds its midnight belongs to two days."""
    settings = settings.model_copy(update={"time_zone": "Asia/Kolkata"})
    prepare(settings)
    now = now_ms()
    midnight = now // DAY * DAY - 3 * DAY - 330 * 60_000
    late = events(Random(3), 400, midnight - 25 * 60_000, midnight + 25 * 60_000)
    with WorkerProcess(settings, tmp_path / "log", time_zone="Asia/Kolkata") as worker:
        send(settings, "interactions", events(Random(4), 40, now - 1000, now, first=400))
        await_stored(settings, [worker])
        send(settings, "interactions", late)
        await_stored(settings, [worker])
        day = datetime.fromtimestamp((midnight + 330 * 60_000) / 1000, UTC).date()
        for each in (day - timedelta(days=1), day):
            repair(settings, each, each)
            await_stored(settings, [worker])
            verified(settings)
        assert worker.stop() == 0, worker.output()
    query = "SELECT sum(plays) FROM engagement_{} FINAL WHERE origin = 'repair'"
    wanted = sum(each["kind"] == "view" for each in late)
    for grain in ("creator_minute", "content_hour", "content_day"):
        assert ask(settings, query.format(grain)) == [(wanted,)]


@pytest.mark.parametrize("command", [verify, lambda settings: repair(settings, date(2026, 1, 1), date(2026, 1, 1))])
def test_other_settings_than_those_of_the_figures_are_refused(
    settings: Settings, tmp_path: Path, command: Callable[[Settings], object]
) -> None:
    prepare(settings)
    with pytest.raises(FanpulseError, match="nothing is stored yet"):
        command(settings)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        command(settings)
        assert worker.stop() == 0, worker.output()
    other = settings.model_copy(update={"time_zone": "Europe/Berlin"})
    with pytest.raises(FanpulseError, match="'time_zone': 'Asia/Shanghai'.* set them back") as refused:
        command(other)
    assert refused.value.exit_code == 3
