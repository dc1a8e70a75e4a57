"""The writer of ``pipeline_metrics``: everything declared lands, nothing twice, and nobody waits for it."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from rig import ask, until

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.metrics import METRICS, Metrics
from pipeline.migrate import migrate
from pipeline.telemetry import COLUMNS, Telemetry

pytestmark = pytest.mark.stack


@pytest.fixture
def telemetry(settings: Settings) -> Iterator[Callable[..., Telemetry]]:
    """Makes writers of the migrated database, all of which are stopped at the end."""
    migrate(settings)
    made = []

    def start(metrics: Metrics, **options: Any) -> Telemetry:
        writer = Telemetry(settings.model_copy(update={"telemetry_interval": 0.1}), 0, metrics, **options)
        made.append(writer)
        writer.start()
        return writer

    yield start
    for writer in made:
        writer.stop(0)


class Losing:
    """A client that fails ``failures`` inserts: before they reach ClickHouse, or after, so that only the answer is
    lost."""

    def __init__(self, client: Client, failures: int, after: bool) -> None:
        self._client, self._failures, self._after = client, failures, after
        self.tokens: list[str] = []

    def insert(self, *args: Any, **options: Any) -> None:
        self.tokens.append(options["settings"]["insert_deduplication_token"])
        fails, self._failures = self._failures > 0, self._failures - 1
        if not fails or self._after:
            self._client.insert(*args, **options)
        if fails:
            raise ConnectionResetError("the answer is lost")

    def close(self) -> None:
        """It is used again."""


def finish(settings: Settings, writer: Telemetry, code: int = 5) -> None:
    """Stops a writer, and waits for its last rows also where they take longer than it may wait itself."""
    said = f"SELECT count() FROM pipeline_metrics WHERE name = 'exits_total' AND labels['code'] = '{code}'"
    before = ask(settings, said)
    writer.stop(code)
    until(lambda: ask(settings, said) > before, "its last rows")


def test_every_declared_metric_lands_with_its_labels(settings: Settings, telemetry: Callable[..., Telemetry]) -> None:
    metrics = Metrics()
    writer = telemetry(metrics)
    for metric in METRICS:
        labels = ["7" if label == "partition" else f"the {label}" for label in metric.labels]
        change = {"counter": metrics.count, "gauge": metrics.set, "histogram": metrics.observe}[metric.kind]
        change(metric.name, 2.5, *labels)
    finish(settings, writer)
    for metric in METRICS:
        rest = {label: f"the {label}" for label in metric.labels if label not in COLUMNS}
        for name in metric.stored:
            rows = ask(
                settings,
                "SELECT worker, agent, topic, partition, labels, max(value) > 0, sum(increase) > 0 "
                f"FROM pipeline_metrics WHERE name = '{name}' AND labels['code'] != '5' GROUP BY ALL",
            )
            assert rows == [
                (
                    writer.worker,
                    "the agent" if "agent" in metric.labels else "",
                    "the topic" if "topic" in metric.labels else "",
                    7 if "partition" in metric.labels else -1,
                    rest,
                    True,
                    metric.kind != "gauge" and not name.endswith("_max"),
                )
            ], name


def test_the_table_has_the_columns_that_are_written(settings: Settings) -> None:
    migrate(settings)
    query = "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'pipeline_metrics'"
    assert dict(ask(settings, query)) == COLUMNS


@pytest.mark.parametrize("after", [False, True], ids=["lost on the way", "only the answer is lost"])
def test_increases_add_up_over_failed_inserts_and_restarts(
    settings: Settings, telemetry: Callable[..., Telemetry], after: bool
) -> None:
    for run in range(2):
        metrics = Metrics()
        losing = Losing(clickhouse_client(settings), 3, after)
        writer = telemetry(metrics, connect=lambda losing=losing: losing)
        for _ in range(5):
            metrics.count("records_total", 10, "interactions", run)
            seen = len(losing.tokens)
            until(lambda losing=losing, seen=seen: len(losing.tokens) > seen, "another insert")
        finish(settings, writer)
        assert len(set(losing.tokens)) == len(losing.tokens) - 3, "what failed was sent again as it was"
    query = "SELECT partition, sum(increase), max(value), min(increase) >= 0 FROM pipeline_metrics "
    assert sorted(ask(settings, query + "WHERE name = 'records_total' GROUP BY partition")) == [
        (0, 50.0, 50.0, True),
        (1, 50.0, 50.0, True),
    ]
    twice = (
        "SELECT name FROM pipeline_metrics GROUP BY name, agent, topic, partition, labels, run, at HAVING count() > 1"
    )
    assert ask(settings, twice) == []


def test_the_seconds_of_a_process_are_its_life(settings: Settings, telemetry: Callable[..., Telemetry]) -> None:
    losing = Losing(clickhouse_client(settings), 2, after=False)
    writer = telemetry(Metrics(), connect=lambda: losing)
    until(lambda: len(losing.tokens) > 5, "some inserts")
    finish(settings, writer)
    ((covered, life),) = ask(
        settings,
        "SELECT sum(seconds), (toUnixTimestamp64Milli(max(at)) - toUnixTimestamp64Milli(any(run))) / 1000 "
        "FROM pipeline_metrics WHERE name = 'memory_bytes'",
    )
    assert covered == pytest.approx(life, abs=0.01)


def test_rows_that_are_refused_for_good_are_given_up(settings: Settings, telemetry: Callable[..., Telemetry]) -> None:
    with_table = clickhouse_client(settings)
    with_table.command("RENAME TABLE pipeline_metrics TO elsewhere")
    losing = Losing(with_table, 0, after=False)
    metrics = Metrics()
    telemetry(metrics, connect=lambda: losing)
    until(lambda: len(set(losing.tokens)) > 2, "new rows to be tried instead of the first ones")
    metrics.count("records_total", 3, "gifts", 0)
    with_table.command("RENAME TABLE elsewhere TO pipeline_metrics")
    query = "SELECT sum(increase) FROM pipeline_metrics WHERE name = 'records_total'"
    until(lambda: ask(settings, query) == [(3.0,)], "the count to be stored after all")


def test_a_clickhouse_that_never_answers_holds_nobody_up(telemetry: Callable[..., Telemetry]) -> None:
    answered = threading.Event()

    def connect() -> Client:
        answered.wait()
        raise ConnectionRefusedError

    left = []
    writer = telemetry(Metrics(), connect=connect)
    writer.leaving(lambda code, reason: left.append((code, reason)))(3, "why")
    assert left == [(3, "why")]
    answered.set()


def test_gauges_of_partitions_are_forgotten_with_them(settings: Settings, telemetry: Callable[..., Telemetry]) -> None:
    metrics = Metrics()
    metrics.set("lag", 5, "gifts", 1)
    metrics.set("partitions", 1)
    metrics.count("records_total", 5, "gifts", 1)
    writer = telemetry(metrics)
    until(lambda: ask(settings, "SELECT count() FROM pipeline_metrics WHERE name = 'lag'") > [(0,)], "a first row")
    metrics.forget_partitions()
    finish(settings, writer)
    last = "SELECT name FROM pipeline_metrics WHERE at = (SELECT max(at) FROM pipeline_metrics)"
    names = {name for (name,) in ask(settings, last)}
    assert "lag" not in names
    assert names >= {"partitions", "records_total"}


def test_a_delay_is_told_once(settings: Settings, telemetry: Callable[..., Telemetry]) -> None:
    """What was stored long ago delays nothing any more."""
    metrics = Metrics()
    metrics.set("delay_seconds", 3.5, "gifts", 1)
    metrics.set("lag", 7, "gifts", 1)
    writer = telemetry(metrics)
    seen = "SELECT countIf(name = 'lag') > {} AND countIf(name = 'delay_seconds') = {} FROM pipeline_metrics"
    until(lambda: ask(settings, seen.format(3, 1)) == [(1,)], "four looks")
    metrics.set("delay_seconds", 0.25, "gifts", 1)
    finish(settings, writer)
    assert ask(settings, "SELECT value FROM pipeline_metrics WHERE name = 'delay_seconds' ORDER BY at") == [
        (3.5,),
        (0.25,),
    ]
