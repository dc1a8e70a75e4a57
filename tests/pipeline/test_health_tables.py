"""The views of health show exactly what happened to real workers."""

import contextlib
import os
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rig import DAY, MINUTE, WorkerProcess, ask, await_stored, ends, events, now_ms, prepare, send, send_raw, until

from chaos.fleet import kill_service
from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.stack import Stack
from pipeline.app import AGENTS, READ
from pipeline.metrics import METRICS
from schemas.topics import partition_for

MIGRATION = Path(__file__).parents[2] / "schemas" / "migrations" / "0006_health.sql"
VIEWS = re.findall(r"^CREATE OR REPLACE VIEW (\w+)$", MIGRATION.read_text(encoding="utf-8"), re.MULTILINE)


def rows(settings: Settings, query: str) -> list[dict[str, Any]]:
    """Rows of a query as the analyst."""
    with contextlib.closing(clickhouse_client(settings, "analyst")) as client:
        return list(client.query(query).named_results())


def test_views_name_metrics_and_labels_that_are_declared() -> None:
    """A renamed metric must not leave a view empty."""
    declared = {name: metric for metric in METRICS for name in metric.stored}
    sql = re.sub(r"COMMENT '(?:[^'\\]|''|\\.)*'", "", MIGRATION.read_text(encoding="utf-8"))
    named = set(re.findall(r"\bname = '(\w+)'", sql))
    for several in re.findall(r"\bname IN \(([^)]*)\)", sql):
        named |= set(re.findall(r"'(\w+)'", several))
    assert len(named) > 15
    assert named <= set(declared)
    labels = {label for metric in METRICS for label in metric.labels}
    used = set(re.findall(r"labels\['(\w+)'\]", sql))
    assert used == {"table", "reason", "code"}
    assert used | {"agent", "topic", "partition"} <= labels


@pytest.mark.stack
@pytest.mark.slow
def test_views_show_what_was_sent(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    rng, now = Random(1), now_ms()
    made = events(rng, 2000, now - 90 * MINUTE, now)
    repeats = made[500:620]
    late = events(rng, 70, now - DAY, now - DAY + MINUTE, first=5000)
    refused: list[tuple[bytes, bytes | None]] = [(b"fan1", b"nothing")] * 10 + [(b"fan2", None)] * 5

    with WorkerProcess(settings, tmp_path / "log", telemetry_interval=0.3) as worker:
        send(settings, "interactions", made)
        await_stored(settings, [worker])
        send(settings, "interactions", repeats + late)
        send_raw(settings, "interactions", refused)
        await_stored(settings, [worker])
        (alive,) = until(lambda: rows(settings, "SELECT * FROM pipeline_workers WHERE alive AND partitions"), "it")
        assert alive["partitions"] == 4 * len(READ)
        assert alive["memory_bytes"] > 50_000_000
        assert alive["cpu_share"] > 0
        assert (alive["exit_code"], alive["restarts_24h"], alive["crashes_24h"]) == (None, 0, 0)
        assert worker.stop() == 0, worker.output()

    def by_partition(those: list[dict[str, Any]]) -> Counter[int]:
        return Counter(partition_for(each["fan_id"].encode(), settings.partitions) for each in those)

    dead = Counter(partition_for(key, settings.partitions) for key, _ in refused)
    until(lambda: rows(settings, "SELECT * FROM pipeline_workers WHERE exit_code = 0"), "its last rows")
    done = rows(
        settings,
        "SELECT topic, partition, sum(records) AS records, sum(events) AS events, sum(late) AS late, "
        "sum(duplicates) AS duplicates, sum(dead_letters) AS dead_letters FROM pipeline_throughput "
        "GROUP BY topic, partition HAVING records ORDER BY partition",
    )
    sent = by_partition(made + repeats + late)
    assert done == [
        {
            "topic": "interactions",
            "partition": partition,
            "records": sent[partition] + dead[partition],
            "events": sent[partition],
            "late": by_partition(late)[partition],
            "duplicates": by_partition(repeats)[partition],
            "dead_letters": dead[partition],
        }
        for partition in range(4)
    ]

    now_held = rows(settings, "SELECT * FROM pipeline_partitions ORDER BY topic, partition")
    offsets = ends(settings)
    assert {(each["topic"], each["partition"]): each["stored_offset"] for each in now_held} == offsets
    assert {each["lag"] for each in now_held} == {0}
    assert {each["worker"] for each in now_held} == {f"{os.uname().nodename}-0"}
    for each in now_held:
        if each["topic"] != "interactions":
            assert each["newest_event"] is each["watermark"] is each["delay_seconds"] is each["late_share"] is None
            continue
        own = [e["event_time"] for e in made if partition_for(e["fan_id"].encode(), 4) == each["partition"]]
        assert each["newest_event"].timestamp() * 1000 == pytest.approx(max(own), abs=1)
        assert each["watermark"].timestamp() * 1000 == pytest.approx(max(own) - MINUTE, abs=1)
        assert each["freshness_seconds"] >= 0
        assert each["delay_seconds"] > 0
        (whole,) = [row for row in done if row["partition"] == each["partition"]]
        assert (each["events_1h"], each["late_1h"], each["duplicates_1h"], each["dead_letters_1h"]) == (
            whole["events"],
            whole["late"],
            whole["duplicates"],
            whole["dead_letters"],
        )
        assert each["late_share"] == pytest.approx(whole["late"] / whole["events"])
        assert each["duplicate_share"] == pytest.approx(whole["duplicates"] / whole["events"])

    lag = rows(settings, "SELECT * FROM pipeline_lag WHERE topic = 'interactions' ORDER BY minute DESC LIMIT 4")
    assert [each["lag"] for each in lag] == [0] * 4
    assert all(each["highest_lag"] >= 0 and each["newest_event"] and each["watermark"] for each in lag)

    flushes = {
        each["agent"]: each
        for each in rows(
            settings,
            "SELECT agent, sum(flushes) AS number, sum(rows_stored) AS stored, max(slowest_seconds) AS slowest, "
            "sum(mean_seconds * flushes) / sum(flushes) AS mean FROM pipeline_flushes GROUP BY agent",
        )
    }
    # No advertisement was sent.
    assert set(flushes) == {agent.name for agent in AGENTS} - {"ads", "campaign_facts", "rules"}
    assert flushes["archive"]["stored"] == sent.total() + len(refused)
    assert all(0 < each["mean"] <= each["slowest"] and each["number"] > 0 for each in flushes.values())

    letters = rows(settings, "SELECT reason, sum(records) AS records FROM pipeline_dead_letters GROUP BY reason")
    assert {each["reason"]: each["records"] for each in letters} == {"broken_json": 10, "null_value": 5}

    landed = {name for (name,) in ask(settings, "SELECT DISTINCT name FROM pipeline_metrics")}
    assert {name for metric in METRICS for name in metric.stored} - landed == {
        "retries_total",
        "alerts_total",
        "alerts_open",
        "alert_deliveries_total",
    }
    for view in VIEWS:
        if view not in ("pipeline_retries", "pipeline_restarts"):
            assert rows(settings, f"SELECT * FROM {view} LIMIT 1"), view


@pytest.mark.stack
@pytest.mark.slow
def test_restarts_are_seen_with_how_the_process_before_ended(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    log, now = tmp_path / "log", now_ms()
    with WorkerProcess(settings, log, telemetry_interval=0.3) as worker:
        until(lambda: rows(settings, "SELECT * FROM pipeline_workers WHERE alive"), "the first one")
        worker.kill()
    # What waits for the next flush is lag without progress.
    with WorkerProcess(settings, log, telemetry_interval=0.3, flush_interval=60, watchdog=1) as worker:
        for first in range(0, 100_000, 20):
            if worker.process.poll() is not None:
                break
            send(settings, "interactions", events(Random(first), 20, now, now + 1000, first=first))
        assert worker.ends() == 1, worker.output()
        assert "leaving to be restarted" in worker.output()
    with WorkerProcess(settings, log, telemetry_interval=0.3) as worker:
        await_stored(settings, [worker])
        assert worker.stop() == 0, worker.output()
    until(lambda: rows(settings, "SELECT * FROM pipeline_workers WHERE exit_code = 0"), "its last rows")
    restarts = rows(settings, "SELECT * FROM pipeline_restarts ORDER BY started")
    assert [each["exit_code"] for each in restarts] == [None, 1]
    assert all(each["before_started"] <= each["before_last_seen"] < each["started"] for each in restarts)
    assert all(each["gap_seconds"] > 0 for each in restarts)
    (whole,) = rows(settings, "SELECT * FROM pipeline_workers")
    assert (whole["alive"], whole["exit_code"], whole["restarts_24h"], whole["crashes_24h"]) == (0, 0, 2, 2)
    ((lowest,),) = ask(settings, "SELECT min(increase) FROM pipeline_metrics")
    assert lowest >= 0


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_clickhouse_that_was_away_leaves_a_gap_and_no_wrong_figure(own: Stack, tmp_path: Path) -> None:
    settings, now = own.settings, now_ms()
    prepare(settings)
    made = events(Random(1), 3000, now - DAY // 24, now)
    with WorkerProcess(settings, tmp_path / "log", telemetry_interval=0.3) as worker:
        send(settings, "interactions", made[:1000])
        await_stored(settings, [worker])
        (before,) = until(lambda: rows(settings, "SELECT * FROM pipeline_workers WHERE alive"), "it to be seen")
        kill_service(own, "clickhouse")
        send(settings, "interactions", made[1000:])
        until(lambda: "health is not stored for now" in worker.output(), "health to wait")
        until(lambda: "ClickHouse did not take" in worker.output(), "rows to wait")
        own.up()
        await_stored(settings, [worker])
        assert worker.output().count("health is not stored for now") == 1
        assert worker.stop() == 0, worker.output()
    until(lambda: rows(settings, "SELECT * FROM pipeline_workers WHERE exit_code = 0"), "its last rows")
    (after,) = rows(settings, "SELECT * FROM pipeline_workers")
    assert after["since"] == before["since"]
    assert rows(settings, "SELECT * FROM pipeline_restarts") == []
    assert rows(settings, "SELECT sum(records) AS records FROM pipeline_throughput") == [{"records": 3000}]
    retries = rows(settings, "SELECT table, reason, tries FROM pipeline_retries")
    assert retries
    assert all(each["table"] and each["reason"] and each["tries"] > 0 for each in retries)
