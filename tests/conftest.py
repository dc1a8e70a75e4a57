"""Fixtures of all tests: one real Kafka and ClickHouse for the session, and a corner of it for each test."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.stack import Stack


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no FANPULSE_* variable but those that they set."""
    for name in list(os.environ):
        if name.upper().startswith("FANPULSE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running Kafka and ClickHouse in a home of their own, stopped and removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="fanpulse-tests-"))
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.upper().startswith("FANPULSE_"):
                environment.delenv(name)
        running = Stack(Settings(home=home))
        try:
            running.up()
            yield running
        finally:
            running.down()
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def settings(stack: Stack) -> Iterator[Settings]:
    """Settings of a database and a topic prefix that no other test uses; the database is dropped at the end."""
    name = secrets.token_hex(4)
    own = Settings(home=stack.home.path, database=f"fanpulse_{name}", topic_prefix=f"t{name}.")
    yield own
    with contextlib.closing(clickhouse_client(own, database="system")) as client:
        client.command(f"DROP DATABASE IF EXISTS {own.database} SYNC")
