"""Fixtures of all tests: one real Kafka and ClickHouse for the session, and a corner of it for each test."""

import contextlib
import os
import secrets
from collections.abc import Iterator

import hypothesis
import pytest

from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.stack import Stack, temporary

# The same examples in every run; `make properties` draws others.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no FANPULSE_* variable but those that they set."""
    for name in list(os.environ):
        if name.upper().startswith("FANPULSE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running Kafka and ClickHouse in a home of their own, stopped and removed at the end."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.upper().startswith("FANPULSE_"):
                environment.delenv(name)
        with temporary("fanpulse-tests-") as running:
            yield running


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack whose services are killed."""
    with temporary("fanpulse-tests-own-") as running:
        yield running


@pytest.fixture
def settings(stack: Stack) -> Iterator[Settings]:
    """Settings of a database and a topic prefix that no other test uses; the database is dropped at the end."""
    name = secrets.token_hex(4)
    own = Settings(home=stack.home.path, database=f"fanpulse_{name}", topic_prefix=f"t{name}.")
    yield own
    with contextlib.closing(clickhouse_client(own, database="system")) as client:
        client.command(f"DROP DATABASE IF EXISTS {own.database} SYNC")
