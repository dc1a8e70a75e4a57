"""All that rings, for the bell on the pages: alert rules, judged as Grafana does, and open alerts of the stream."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from dashboards.alerts import RULES
from dashboards.boards import boards
from dashboards.check import span_ms
from dashboards.render import panel_id
from dashboards.ringing import QUERY_S, Ringing, Verdict, ask
from infra.errors import InfraError

_BEFORE_MS = 3_600_000
_OPEN = """\
SELECT kind, platform, creator_id, subject, toUnixTimestamp64Milli(at), title, said, advice
FROM alerts_now
ORDER BY at DESC, id
LIMIT 200"""
PANELS: Mapping[str, tuple[str, str]] = {
    "churn_high": ("fanpulse-lifecycle", "Churn and return a day"),
    "churn_rise": ("fanpulse-lifecycle", "Churn and return a day"),
    "reactivation_fall": ("fanpulse-lifecycle", "Churn and return a day"),
    "follower_loss": ("fanpulse-engagement", "Unfollows"),
    "cpm_high": ("fanpulse-ads", "CPM over time"),
    "cpm_low": ("fanpulse-ads", "CPM over time"),
    "cpm_rise": ("fanpulse-ads", "CPM over time"),
    "cvr_low": ("fanpulse-ads", "CTR and CVR"),
    "spend_without_conversions": ("fanpulse-ads", "Campaigns"),
    "daily_budget_gone": ("fanpulse-ads", "Budgets today"),
    "total_budget_gone": ("fanpulse-ads", "Budgets today"),
    "rule_fired": ("fanpulse-rules", "Decisions"),
}
"""Board and panel that show what an alert of the stream speaks of, by kind."""
AWAY = "clickhouse-away.md"
"""The page of what to do if rules cannot be asked."""
_OPEN_ALERTS = ("fanpulse-overview", "Open alerts and what to do")


@dataclass(frozen=True)
class Rung:
    """What rings, is about to, or is open; as pages get it.

    Attributes:
        kind: a rule of Grafana, or an alert of the stream.
        state: pending, alerting or error; an alert of the stream is open.
        severity: warning or critical.
        title: what it is called.
        labels: what it is about.
        since_ms: when the state began, or the event time that the alert speaks of; UTC ms.
        said: a sentence.
        advice: what to do, of an alert of the stream.
        panel: title of the panel that shows it.
        link: path and query of the panel in the preview.
        page: name of its page in docs/runbooks.
    """

    kind: str
    state: str
    severity: str
    title: str
    labels: Mapping[str, str]
    since_ms: int
    said: str
    advice: Sequence[str]
    panel: str
    link: str
    page: str


class Bell:
    """Looks once an interval, in a thread of its own, from its start to its end: whoever opens a page sees since when.

    Args:
        client_factory: makes a client of the analyst that gives up after a while.
        zone: time zone of local days.
        faster: what waiting times and ages of rules are divided by; 1 but for drills.
    """

    def __init__(self, client_factory: Callable[[], Client], zone: str, faster: int = 1) -> None:
        self._client_factory = client_factory
        self._zone = zone
        self._ringing = Ringing(RULES, faster)
        self._seen: dict[str, Any] = {
            "looked_ms": None,
            "alerts_ms": None,
            "every_s": self._ringing.interval_s,
            "faster": faster,
            "zone": zone,
            "rules": [],
            "alerts": [],
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def start(self) -> None:
        """Begins to look, now."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a query that is under way is not waited for longer than a moment."""
        self._ended.set()
        self._thread.join(1)

    def seen(self) -> dict[str, Any]:
        """What the last look saw: ``rules`` that ring or are about to, the worst first, and open ``alerts``, the newest
        first; each a ``Rung``. Both looks are UTC ms, or None before the first; ``alerts_ms`` stays behind while
        ClickHouse does not answer."""
        return self._seen

    def look(self, now_ms: int) -> None:
        """Looks once."""
        answers = ask(self._client_factory, RULES, now_ms, self._zone)
        verdicts = self._ringing.look(now_ms, answers)
        rules = sorted(
            (_of_rule(each, now_ms) for each in verdicts if each.state != "normal"),
            key=lambda rung: (rung.state == "pending", rung.severity != "critical"),
        )
        alerts = self._open_alerts(now_ms) if any(each.error is None for each in answers.values()) else None
        seen = self._seen | {"looked_ms": now_ms, "rules": rules}
        self._seen = seen if alerts is None else seen | {"alerts_ms": now_ms, "alerts": alerts}

    def _open_alerts(self, now_ms: int) -> list[Rung] | None:
        try:
            with contextlib.closing(self._client_factory()) as client:
                rows = client.query(_OPEN, settings={"max_execution_time": QUERY_S}).result_rows
        except (InfraError, ClickHouseError, HTTPError, OSError):
            return None
        return [_of_alert(row, now_ms) for row in rows]

    def _keep_looking(self) -> None:
        while True:
            began = time.monotonic()
            self.look(time.time_ns() // 1_000_000)
            if self._ended.wait(max(self._ringing.interval_s - (time.monotonic() - began), 0.1)):
                return


def _of_rule(verdict: Verdict, now_ms: int) -> Rung:
    rule = verdict.rule
    link = _link(rule.board, rule.panel, verdict.labels, verdict.since_ms, now_ms)
    return Rung(
        "rule",
        verdict.state,
        rule.severity,
        rule.title,
        verdict.labels,
        verdict.since_ms,
        verdict.said,
        (),
        rule.panel,
        link,
        AWAY if verdict.state == "error" else rule.page,
    )


def _of_alert(row: Sequence[Any], now_ms: int) -> Rung:
    kind, platform, creator, subject, at_ms, title, said, advice = row
    campaign, _, rule = subject.partition("/")
    labels = {"platform": platform, "creator": creator, "campaign": campaign, "rule": rule}
    labels = {name: text for name, text in labels.items() if text}
    board, panel = PANELS.get(kind, _OPEN_ALERTS)
    link = _link(board, panel, labels, at_ms, now_ms)
    page = f"{kind.replace('_', '-')}.md"
    return Rung("alert", "open", "warning", title, labels, at_ms, said, advice, panel, link, page)


def _link(uid: str, title: str, labels: Mapping[str, str], since_ms: int, now_ms: int) -> str:
    """Where a panel is in the preview, of what labels name, and of a time range that has the beginning."""
    board = next(board for board in boards() if board.uid == uid)
    panel = next(panel for panel in board.panels if panel.title == title)
    asked = {f"var-{name}": labels[name] for name in board.variables if name in labels}
    if now_ms - since_ms > span_ms(board.since):
        asked |= {"from": str(since_ms - _BEFORE_MS), "to": "now"}
    return f"/d/{uid}{'?' if asked else ''}{urlencode(asked)}#panel-{panel_id(panel)}"
