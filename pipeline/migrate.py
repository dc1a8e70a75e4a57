"""Applies the numbered migrations of ``schemas/migrations`` to ClickHouse, each once, in order."""

import contextlib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings

SCRATCH_HOURS = 24
"""Working tables that are older are dropped: a verify takes minutes, a search for refused rows seconds."""
_LEDGER = """
CREATE TABLE IF NOT EXISTS migrations
(
    number UInt16 COMMENT 'Number in the name of the migration file',
    name String COMMENT 'Name of the migration file',
    digest String COMMENT 'SHA-256 of its text: an applied migration is never edited',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was applied'
)
ENGINE = ReplacingMergeTree ORDER BY number
COMMENT 'Migrations that this database has had.'
"""


@dataclass(frozen=True)
class Migration:
    """One file: its number, name, text and the SHA-256 of the text."""

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """Its statements; each ends with a semicolon at the end of a line, and stands without comment lines."""
        text = re.sub(r"^\s*--.*$", "", self.text, flags=re.MULTILINE)
        return [statement.strip() for statement in re.split(r";\s*$", text, flags=re.MULTILINE) if statement.strip()]


def migrations() -> list[Migration]:
    """All migrations, in order. ValueError if the numbers have a gap or repeat."""
    found = []
    for path in files("schemas").joinpath("migrations").iterdir():
        if re.fullmatch(r"\d{4}_\w+\.sql", path.name):
            found.append(Migration(int(path.name[:4]), path.name, path.read_text()))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations must be numbered 1, 2, 3 ...: {[migration.name for migration in found]}")
    return found


def migrate(settings: Settings, report: Callable[[Migration], None] = lambda _: None) -> list[Migration]:
    """Creates the database and applies what it has not had; returns that.

    Raises:
        InfraError: ClickHouse does not answer.
        FanpulseError: an applied migration was edited, the database is newer than this program, or one fails.
    """
    system = clickhouse_client(settings, database="system")
    try:
        system.command(f"CREATE DATABASE IF NOT EXISTS {settings.database}")
    except ClickHouseError as error:
        raise FanpulseError(f"cannot create the database {settings.database}: {_line(error)}") from None
    finally:
        system.close()
    client = clickhouse_client(settings, timeout=600)
    try:
        client.command(_LEDGER)
        done = _done(client)
        known = migrations()
        if newer := set(done) - {migration.number for migration in known}:
            raise FanpulseError(
                f"the database {settings.database} has migration {max(newer)}, which this program does not know: "
                "it was made by a newer fanpulse; update this one",
                exit_code=3,
            )
        applied = []
        for migration in known:
            if migration.number in done:
                if done[migration.number] != migration.digest:
                    raise FanpulseError(
                        f"{migration.name} was edited after it was applied to {settings.database}; "
                        "put it back and add a new migration, or start with a new home",
                        exit_code=3,
                    )
                continue
            for statement in migration.statements:
                try:
                    client.command(statement)
                except ClickHouseError as error:
                    first = statement.splitlines()[0]
                    raise FanpulseError(f"{migration.name}: {first} ...: {_line(error)}", exit_code=1) from None
            client.insert(
                "migrations",
                [[migration.number, migration.name, migration.digest]],
                column_names=["number", "name", "digest"],
            )
            report(migration)
            applied.append(migration)
        _tidy(client)
        return applied
    finally:
        client.close()


def require_migrated(settings: Settings) -> None:
    """Refuses a database that lacks tables or views of this program.

    Raises:
        InfraError: ClickHouse does not answer.
        FanpulseError: a migration has not been applied.
    """
    with contextlib.closing(clickhouse_client(settings)) as client:
        ledger = client.query("EXISTS TABLE migrations").result_rows[0][0]
        done = _done(client) if ledger else {}
    lacking = [migration.name for migration in migrations() if migration.number not in done]
    if lacking:
        raise FanpulseError(
            f"the database {settings.database} is older than this program: it lacks {lacking[0]}"
            + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
            + "; stop its workers, then: fanpulse migrate",
            exit_code=3,
        )


def _tidy(client: Client) -> None:
    """Drops working tables that a killed verify or worker left behind."""
    left = client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, '^scratch_[0-9a-f]{8}_') "
        "AND metadata_modification_time < now() - toIntervalHour({hours:UInt16})",
        parameters={"hours": SCRATCH_HOURS},
    ).result_rows
    for (name,) in left:
        client.command("DROP TABLE IF EXISTS {table:Identifier} SYNC", parameters={"table": name})


def _done(client: Client) -> dict[int, str]:
    rows = client.query("SELECT number, digest FROM migrations FINAL").result_rows
    return {int(number): str(digest) for number, digest in rows}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
