"""Every query of the documentation, as the analyst, on a small world that went through the whole pipeline."""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from clickhouse_connect.driver.client import Client
from pages import PAGES, RARE, ROOT, under_headings
from rig import await_stored, until

from generators.produce import backfill
from generators.progress import open_world
from infra.connect import clickhouse_address, clickhouse_client, kafka_address
from infra.settings import PREFIX, Settings
from infra.stack import Stack
from infra.topics import ensure_topics
from pipeline.migrate import migrate
from pipeline.refresh import refresh

QUERIES = {
    f"{page.relative_to(ROOT)}-{number}: {heading}": text
    for page in PAGES
    for number, (heading, text) in enumerate(under_headings(page, "sql"), start=1)
}
STORED_WITHIN_S = 60


def seen(client: Client) -> bool:
    """Whether the worker has written its health since it stored something, and what fans did."""
    queries = ("SELECT 1 FROM pipeline_flushes WHERE flushes > 0 LIMIT 1", "SELECT 1 FROM fan_moves LIMIT 1")
    return all(client.query(query).result_rows for query in queries)


def decide(client: Client) -> None:
    """Stores the decision of a rule that the pages ask for; the world has none in force."""
    row = {
        "rule_id": "cheap-reach",
        "platform": "douyin",
        "campaign_id": "cmp_027_1",
        "closed_at": datetime.now(UTC).replace(minute=0, second=0),
        "outcome": "skipped",
        "reason": "guards",
        "metrics": ["cpm"],
        "metric_values": [11_800_000],
        "guards": ["impressions"],
        "guard_wants": [1000],
        "guard_found": [800],
        "guard_holds": [0],
        "fold_version": 1,
    }
    client.insert("rule_decisions", [list(row.values())], column_names=list(row))


@pytest.fixture(scope="module")
def analyst(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The analyst's client in a database that holds two days of a world in bad weather, up to now."""
    name = secrets.token_hex(4)
    known = stack.home.secrets()
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        kafka=kafka_address(stack.settings),
        clickhouse=clickhouse_address(stack.settings),
        clickhouse_user="app",
        clickhouse_password=known.app_password,
        clickhouse_analyst_user="analyst",
        clickhouse_analyst_password=known.analyst_password,
        database=f"fanpulse_{name}",
        topic_prefix=f"docs{name}.",
        telemetry_interval=0.5,
    )
    variables = {
        PREFIX + field.upper(): value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        for field in settings.model_fields_set
        if (value := getattr(settings, field)) is not None
    }
    ensure_topics(settings)
    migrate(settings)
    now = time.time_ns() // 1_000_000
    world = open_world(settings, now, days=2, creators=20, duplicates=0.01, late=0.02, malformed=0.005)
    worker = subprocess.Popen([sys.executable, "-m", "pipeline.worker", "0"], env={**os.environ, **variables}, cwd=ROOT)
    try:
        backfill(settings, world, world.start_ms, now)
        with contextlib.closing(clickhouse_client(settings)) as client:
            await_stored(settings, deadline=STORED_WITHIN_S)
            until(lambda: seen(client), "health and moves", STORED_WITHIN_S)
            assert worker.poll() is None, "the worker has ended"
            refresh(settings, client, datetime.now(UTC))
            decide(client)
        with contextlib.closing(clickhouse_client(settings, "analyst")) as client:
            yield client
    finally:
        worker.terminate()
        worker.wait(20)
        with contextlib.closing(clickhouse_client(settings, database="system")) as client:
            client.command(f"DROP DATABASE IF EXISTS {settings.database} SYNC")


@pytest.mark.stack
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers(analyst: Client, name: str) -> None:
    result = analyst.query(QUERIES[name])
    assert result.result_rows or name.partition(": ")[2] in RARE
    assert len(set(result.column_names)) == len(result.column_names)
