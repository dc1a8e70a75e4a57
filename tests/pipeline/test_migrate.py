"""Migrations: each once, never edited, every table and column explained."""

import pytest
from rig import ask, database, until

from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import migrate as module
from pipeline.migrate import Migration, migrate, migrations, require_migrated

pytestmark = pytest.mark.stack


def test_a_second_run_applies_nothing(settings: Settings) -> None:
    assert migrate(settings) == migrations()
    before = ask(settings, "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()")
    assert migrate(settings) == []
    assert (
        ask(settings, "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()") == before
    )


def test_a_run_that_was_cut_off_is_taken_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements may be run again: the ledger is written after them."""
    known = migrations()
    broken = Migration(1, known[0].name, known[0].text + "\nSELECT nothing;\n")
    monkeypatch.setattr(module, "migrations", lambda: [broken, *known[1:]])
    with pytest.raises(FanpulseError, match=r"0001_raw.sql: SELECT nothing ...: ") as failed:
        migrate(settings)
    assert failed.value.exit_code == 1
    monkeypatch.setattr(module, "migrations", lambda: known)
    assert migrate(settings) == known


def test_a_command_refuses_a_database_that_is_older_than_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations()
    monkeypatch.setattr(module, "migrations", lambda: known[:-2])
    migrate(settings)
    monkeypatch.setattr(module, "migrations", lambda: known)
    with pytest.raises(FanpulseError, match=rf"it lacks {known[-2].name} and 1 more; .*: fanpulse migrate$") as failed:
        require_migrated(settings)
    assert failed.value.exit_code == 3
    migrate(settings)
    require_migrated(settings)


def test_an_edited_migration_and_a_newer_database_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations()
    migrate(settings)
    edited = [*known[:-1], Migration(known[-1].number, known[-1].name, known[-1].text + "\n")]
    for other, reason in ((edited, "was edited after it was applied"), (known[:-1], "made by a newer fanpulse")):
        monkeypatch.setattr(module, "migrations", lambda other=other: other)
        with pytest.raises(FanpulseError, match=reason) as refused:
            migrate(settings)
        assert refused.value.exit_code == 3


def test_every_table_view_and_column_has_a_comment(settings: Settings) -> None:
    migrate(settings)
    here = "database = currentDatabase() AND NOT startsWith(name, '.inner')"
    assert ask(settings, f"SELECT name FROM system.tables WHERE {here} AND comment = ''") == []
    columns = """
        SELECT table, name FROM system.columns WHERE database = currentDatabase() AND comment = '' AND table NOT IN (
            SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'MaterializedView')
    """
    # Views with a parameter cannot name their columns; the plain views over them do.
    assert {table for table, _ in ask(settings, columns)} <= {"engagement_rolling_at", "engagement_by_content_at"}
    assert int(ask(settings, "SELECT count() FROM system.tables WHERE database = currentDatabase()")[0][0]) > 15


def test_viewers_are_filled_anew_without_repeats(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of before migration 7 has counted the fan of a repeat that named another video."""
    known = migrations()
    monkeypatch.setattr(module, "migrations", lambda: known[:6])
    migrate(settings)
    columns = "partition, `offset`, appended_at, event_id, event_time, platform, fan, creator_id, content_id, kind"
    with database(settings) as client:
        for offset, video, duplicate in ((1, "v", 0), (2, "other", 1)):
            client.command(
                f"INSERT INTO raw_interactions ({columns}, duplicate) "
                f"SELECT 0, {offset}, now64(3), 'e', now64(3) - INTERVAL 1 HOUR, 'douyin', 1, 'c', '{video}', 'view', "
                f"{duplicate}"
            )
    seen = "SELECT content_id, uniqMerge(viewers) FROM viewers_{} GROUP BY content_id ORDER BY content_id"
    for grain in ("minute", "hour"):
        assert ask(settings, seen.format(grain)) == [("other", 1), ("v", 1)]
    monkeypatch.setattr(module, "migrations", lambda: known)
    migrate(settings)
    for grain in ("minute", "hour"):
        assert ask(settings, seen.format(grain)) == [("v", 1)]


def test_working_tables_of_yesterday_are_dropped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(settings)
    with database(settings) as client:
        client.command("CREATE TABLE scratch_0123abcd_raw_gifts (a UInt8) ENGINE = Null")
    names = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE 'scratch%'"
    migrate(settings)
    assert len(ask(settings, names)) == 1
    monkeypatch.setattr(module, "SCRATCH_HOURS", 0)
    until(lambda: (migrate(settings), ask(settings, names))[1] == [], "it to be dropped")
