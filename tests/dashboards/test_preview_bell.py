"""What the bell of the preview sees: rules that ring, and open alerts, each with its panel and its page."""

from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from dashboards.boards import boards
from dashboards.preview.bell import PANELS, Bell
from dashboards.preview.library import Unknown
from dashboards.preview.runbooks import names, page
from dashboards.render import panel_id
from infra.errors import InfraError
from schemas.alerts import alert_policy

_NOW_MS = 1_772_582_400_000
_HOUR_MS = 3_600_000


class _Client:
    """A ClickHouse in which the newest event is of an age, the fans of c1 churn, and these alerts are open."""

    def __init__(self, age_s: float, alerts: Sequence[Sequence[Any]] | Exception) -> None:
        self._age_s, self._alerts = age_s, alerts
        self.result_rows: Sequence[Sequence[Any]] = []
        self._rows: list[dict[str, Any]] = []

    def query(self, sql: str, settings: object) -> "_Client":
        self._rows = []
        if "alerts_now" in sql:
            if isinstance(self._alerts, Exception):
                raise self._alerts
            self.result_rows = self._alerts
        elif "freshness_seconds" in sql:
            self._rows = [{"value": self._age_s}]
        elif "fan_churn_days" in sql:
            self._rows = [{"platform": "douyin", "creator": "c 1", "value": 0.1}]
        elif "sum(lag)" in sql:
            self._rows = [{"topic": "gifts", "value": 1}]
        return self

    def named_results(self) -> list[dict[str, Any]]:
        return self._rows

    def close(self) -> None:
        """There is nothing to close."""


def _factory(client: _Client) -> Callable[[], Client]:
    return lambda: cast(Client, client)


def _alert(kind: str, subject: str = "", at_ms: int = _NOW_MS - _HOUR_MS) -> tuple[Any, ...]:
    return (kind, "douyin", "dy_1", subject, at_ms, "CPM is high", "It is dear.", ["Lower the bid."])


def _panel(link: str) -> tuple[str, dict[str, list[str]]]:
    """Title of the panel that a link leads to, and what it asks for."""
    parts = urlsplit(link)
    board = next(board for board in boards() if parts.path == f"/d/{board.uid}")
    panel = next(panel for panel in board.panels if f"panel-{panel_id(panel)}" == parts.fragment)
    return panel.title, parse_qs(parts.query)


def test_rules_that_ring_come_before_those_about_to_and_lead_to_their_panels() -> None:
    bell = Bell(_factory(_Client(5000.0, [])), "UTC")
    bell.look(_NOW_MS)
    churn, freshness = bell.seen()["rules"]
    assert (churn.state, churn.severity, churn.page) == ("alerting", "warning", "churn-high.md")
    assert churn.said == "10% of the fans of c 1 churned yesterday."
    assert _panel(churn.link) == ("Churn and return a day", {"var-platform": ["douyin"], "var-creator": ["c 1"]})
    assert (freshness.state, freshness.severity, freshness.page) == ("pending", "critical", "freshness.md")
    for minute in range(1, 6):
        bell.look(_NOW_MS + minute * 60_000)
    assert [rung.title for rung in bell.seen()["rules"]] == ["Nothing arrives", "Churn is high"]
    assert bell.seen()["rules"][0].since_ms == _NOW_MS + 300_000


def test_open_alerts_lead_to_their_panel_in_a_time_range_that_has_them() -> None:
    old_ms = _NOW_MS - 30 * _HOUR_MS
    alerts = [_alert("cpm_high", "cmp_1"), _alert("cpm_high", "cmp_1", old_ms), _alert("rule_fired", "cmp_1/stop")]
    bell = Bell(_factory(_Client(1.0, [*alerts, _alert("of_another_version")])), "UTC")
    bell.look(_NOW_MS)
    young, old, fired, strange = bell.seen()["alerts"]
    chosen = {"var-platform": ["douyin"], "var-creator": ["dy_1"], "var-campaign": ["cmp_1"]}
    assert young.labels == {"platform": "douyin", "creator": "dy_1", "campaign": "cmp_1"}
    assert (young.page, young.advice) == ("cpm-high.md", ["Lower the bid."])
    assert _panel(young.link) == ("CPM over time", chosen)
    assert _panel(old.link)[1] == chosen | {"from": [str(old_ms - _HOUR_MS)], "to": ["now"]}
    assert fired.labels["rule"] == "stop"
    assert _panel(fired.link)[0] == "Decisions"
    assert _panel(strange.link)[0] == "Open alerts and what to do"


def test_while_clickhouse_is_away_every_rule_rings_and_alerts_are_those_of_before() -> None:
    client = _Client(1.0, [_alert("cpm_high", "cmp_1")])
    away = False

    def connected() -> Client:
        if away:
            raise InfraError("ClickHouse is not running in X; start it: fanpulse up")
        return cast(Client, client)

    bell = Bell(connected, "UTC")
    assert bell.seen()["looked_ms"] is None
    bell.look(_NOW_MS)
    away = True
    bell.look(_NOW_MS + 60_000)
    seen = bell.seen()
    assert (seen["looked_ms"], seen["alerts_ms"]) == (_NOW_MS + 60_000, _NOW_MS)
    assert len(seen["alerts"]) == 1
    first = seen["rules"][0]
    assert (first.title, first.state, first.severity) == ("Nothing arrives", "error", "critical")
    assert first.said == "It cannot be asked: ClickHouse is not running in X; start it: fanpulse up"
    assert {rung.page for rung in seen["rules"] if rung.state == "error"} == {"clickhouse-away.md"}
    away = False
    bell.look(_NOW_MS + 120_000)
    assert all(rung.state != "error" for rung in bell.seen()["rules"])


def test_a_database_without_the_view_of_alerts_has_rules_all_the_same() -> None:
    refused = DatabaseError("Code: 60. DB::Exception: Unknown table alerts_now. (UNKNOWN_TABLE)")
    bell = Bell(_factory(_Client(1.0, refused)), "UTC")
    bell.look(_NOW_MS)
    assert bell.seen()["alerts_ms"] is None
    assert [rung.title for rung in bell.seen()["rules"]] == ["Churn is high"]


def test_every_kind_of_alert_has_a_panel_that_is_there() -> None:
    assert set(PANELS) == set(alert_policy({}).kinds)
    known = {(board.uid, panel.title) for board in boards() for panel in board.panels}
    assert set(PANELS.values()) <= known


def test_pages_are_those_of_the_folder_and_nothing_else() -> None:
    assert "freshness.md" in names()
    assert page("freshness.md").startswith("# Nothing arrives\n")
    for name in ("../../README.md", "freshness", "", "/etc/passwd"):
        with pytest.raises(Unknown, match="is not here"):
            page(name)
