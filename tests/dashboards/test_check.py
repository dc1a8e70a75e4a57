"""Every query of boards and alert rules on a real database with a small world; figures of boards are those of views."""

import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from rig import WorkerProcess, await_stored, evening, prepare

from dashboards.alerts import RULES
from dashboards.board import Board
from dashboards.boards import boards
from dashboards.check import Query, faults, options, queries, run
from dashboards.macros import ALL, expand
from generators.config import WorldConfig
from generators.produce import backfill
from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.refresh import refresh

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_DECISION = """\
INSERT INTO {table} (rule_id, platform, campaign_id, closed_at, action, {more}, decided_at, fold_version)
SELECT 'r', 'douyin', 'c1', toStartOfHour(now()), 'budget', {values}, now(), 1"""


def _world(settings: Settings, log: Path, now_ms: int) -> None:
    """Events of four days up to now, where it is evening; stored by a worker; fans rated; one decision of a rule."""
    prepare(settings)
    config = WorldConfig(
        seed=3,
        start_ms=now_ms - 4 * _DAY,
        creators=2,
        fans=300,
        partitions=settings.partitions,
        time_zone=evening(now_ms),
    )
    backfill(settings, config, config.start_ms, now_ms, 1)
    with WorkerProcess(settings, log, telemetry_interval=0.5) as worker:
        await_stored(settings, [worker], deadline=200)
        worker.stop()
    with contextlib.closing(clickhouse_client(settings)) as client:
        refresh(settings, client, datetime.fromtimestamp(now_ms / 1000, UTC))
        decision = _DECISION.format(
            table="rule_decisions", more="outcome, metrics, metric_values", values="'fired', ['cpm'], [5]"
        )
        client.command(decision)
        # The minute in which the worker read is to be over.
        earlier = "SELECT * REPLACE (at - INTERVAL 2 MINUTE AS at) FROM pipeline_metrics"
        client.command(f"INSERT INTO pipeline_metrics {earlier}")
        client.command(_DECISION.format(table="budget_actions", more="after_micros", values="1000000"))


def _figure(client: Client, board: Board, title: str, now_ms: int) -> float:
    """The newest value of a key figure as the board shows it when it opens."""
    panel = next(panel for panel in board.panels if panel.title == title)
    chosen = {name: [ALL] for name in ("platform", "creator", "campaign")} | {"window": ["60"]}
    rows = client.query(expand(panel.sql, now_ms - 6 * _HOUR, now_ms, 60, chosen)).result_rows
    return float(rows[-1][1])


def _busy(client: Client, table: str, column: str) -> int:
    """The last minute with a row of the busiest hour, UTC seconds."""
    busiest = f"SELECT toStartOfHour(minute) FROM {table} GROUP BY 1 ORDER BY sum({column}) DESC LIMIT 1"
    found = client.query(f"SELECT toUnixTimestamp(max(minute)) FROM {table} WHERE toStartOfHour(minute) = ({busiest})")
    return int(found.result_rows[0][0])


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_boards_work_on_a_database_and_say_what_views_say(settings: Settings, tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    _world(settings, tmp_path / "worker.log", now_ms)
    found = {board.uid: board for board in boards()}
    with contextlib.closing(clickhouse_client(settings, "analyst")) as client:
        values = options(client)
        assert len(values["creator"]) == 2
        assert values["campaign"]
        wrong = {}
        end_ms = int(time.time() * 1000)
        for query in queries(boards(), RULES, settings.time_zone):
            thorough = query.where in ("fanpulse-overview: Creators", "fanpulse-rules: Decisions")
            ran = run(client, query, end_ms, settings.time_zone, values, thorough)
            if ran[-1].wrong is not None:
                wrong[query.where] = (ran[-1].wrong, dict(ran[-1].chosen))
        assert wrong == {}

        _check_notices(client, values)

        ads = found["fanpulse-ads"]
        moment = _busy(client, "engagement_creator_minute", "plays")
        ((plays, rate),) = client.query(
            "SELECT sum(plays), sum(likes + comments + shares) / nullIf(sum(plays), 0) FROM engagement_rolling_at("
            f"at = fromUnixTimestamp({moment})) WHERE window = '1h'"
        ).result_rows
        board = found["fanpulse-engagement"]
        assert _figure(client, board, "Plays", moment * 1000) == plays
        assert _figure(client, board, "Engagement", moment * 1000) == pytest.approx(rate)
        moment = _busy(client, "ads_minute", "impressions")
        ((spend, cpm),) = client.query(
            "SELECT sum(cost_micros) / 1e6 AS spend, 1000 * spend / sum(impressions) FROM ads_campaign_minutes "
            f"WHERE minute >= fromUnixTimestamp({moment}) - INTERVAL 1 HOUR AND minute < fromUnixTimestamp({moment})"
        ).result_rows
        assert _figure(client, ads, "Spend", moment * 1000) == pytest.approx(spend)
        assert _figure(client, ads, "CPM", moment * 1000) == pytest.approx(cpm)


def _check_notices(client: Client, values: dict[str, list[str]]) -> None:
    def wrong(sql: str, **given: object) -> str | None:
        query = replace(Query("here", sql, _HOUR), **given)  # type: ignore[arg-type]
        return run(client, query, int(time.time() * 1000), "UTC", values)[-1].wrong

    assert wrong("SELECT 1 AS one WHERE $__timeFilter(now())") is not None
    assert "UNKNOWN_IDENTIFIER" in str(wrong("SELECT no_such FROM ads_minute WHERE $__timeFilter(minute)"))
    assert wrong("SELECT 1 FROM ads_minute WHERE minute > now() + 999") == "it shows nothing"
    assert wrong("SELECT 1 FROM ads_minute WHERE minute > now() + 999", may_be_empty=True) is None
    assert wrong("SELECT 1 FROM ads_minute WHERE minute > now() + 999", needs="dead_letters") is None
    assert "more than its 10" in str(wrong("SELECT sum(clicks) FROM ads_minute WHERE minute < now()", rows_read=10))
    assert wrong("SELECT count() FROM events_gifts", live=True) == "it reads raw_gifts, and is asked every few seconds"
    assert wrong("SELECT count() FROM events_gifts") is None
    only_one = "$__conditionalAll(creator_id IN (${creator:singlequote}), $creator)"
    assert (
        wrong(f"SELECT throwIf(count() < 2) FROM (SELECT DISTINCT creator_id FROM ads_minute WHERE {only_one})")
        is not None
    )


def test_faults_of_a_board_are_said() -> None:
    board = boards()[0]
    panel = board.panels[0]

    def said(**given: object) -> str:
        changed = replace(panel, **given)  # type: ignore[arg-type]
        return "; ".join(faults([replace(board, rows=(replace(board.rows[0], panels=(changed,)),))]))

    assert said() == ""
    assert "no unit" in said(unit="")
    assert "no description" in said(description="")
    assert "selects *" in said(sql="SELECT * FROM pipeline_lag WHERE $__timeFilter(minute)")
    assert "nothing bounds the time" in said(sql="SELECT 1 FROM pipeline_lag")
    assert "two parentheses" in said(sql="SELECT (1 + $__timeFilter(minute))")
    assert "does not offer" in said(sql="SELECT ${campaign:singlequote} WHERE $__timeFilter(minute)")
