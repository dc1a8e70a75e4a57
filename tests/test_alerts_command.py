"""``fanpulse alerts`` as a user runs it."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from fanpulse import alerts as command
from fanpulse.cli import main
from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.alerting import store
from pipeline.alerts import NEVER, Alert
from pipeline.migrate import migrate

Run = Callable[..., tuple[int, str, str]]
NOW = datetime.now(UTC)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["alerts", *arguments])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out, error

    return call


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[int], list[bytes]]]:
    """A server's URL, the statuses that it answers with, and what it was sent."""
    statuses: list[int] = []
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook/0123456789abcdef", statuses, bodies
    server.shutdown()
    thread.join()
    server.server_close()


def alert(creator: str, age: timedelta, over: bool = False) -> Alert:
    at = int((NOW - age).timestamp() * 1000)
    opened = Alert(
        id=f"churn_high:douyin:{creator}:{age.days}",
        kind="churn_high",
        platform="douyin",
        creator_id=creator,
        subject="",
        day=(NOW - age).date(),
        state="open",
        at=at,
        title="Churn is high",
        said=f"{creator} loses fans.",
        advice=("Recall them.", "Hold an event."),
        figures={"churn_rate": 0.05},
        thresholds={"above": 0.03},
    )
    if not over:
        return opened
    return replace(
        opened, state="resolved", resolved_day=date(2026, 3, 2), resolved_at=at, resolved_said="All is well."
    )


@pytest.fixture
def stored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Alert]:
    for name, value in settings.model_dump(exclude_unset=True, mode="json").items():
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))
    migrate(settings)
    made = [
        alert("old_open", timedelta(days=20)),
        alert("new_open", timedelta(hours=1)),
        alert("old_over", timedelta(days=20), over=True),
        alert("new_over", timedelta(minutes=1), over=True),
    ]
    client = clickhouse_client(settings)
    for each in made:
        if each.state == "resolved":
            store(client, replace(each, state="open", resolved_day=NEVER, resolved_at=0, resolved_said=""), NOW)
        store(client, each, NOW)
    client.close()
    return made


@pytest.mark.stack
def test_open_alerts_come_first_and_old_resolved_ones_are_left_out(run: Run, stored: list[Alert]) -> None:
    code, out, _ = run()
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["STATE", "DAY", "UNTIL", "PLATFORM", "CREATOR", "KIND", "FOUND"]
    assert [line.split()[0] for line in lines[1:]] == ["open", "open", "resolved"]
    assert [line.split()[4] for line in lines[1:]] == ["new_open", "old_open", "new_over"]
    assert run("list") == (0, out, "")
    assert "old_over" in run("list", "--since", "30d")[1]
    assert "new_over" not in run("--open")[1]
    found = json.loads(run("--json", "--creator", "new_over")[1])
    assert found == [stored[3].message("resolved")]
    assert json.loads(run("list", "--creator", "nobody", "--json")[1]) == []
    assert run("--creator", "nobody")[1] == "no alert is open, and none was in the last 7d\n"
    assert run("--creator", "new_over", "--open")[1] == "no alert is open\n"
    code, _, error = run("--since", "soon")
    assert (code, "is no duration" in error) == (2, True)


@pytest.mark.stack
def test_a_terminal_gets_the_advice(run: Run, stored: list[Alert], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    out = run()[1]
    assert "new_open loses fans." in out
    assert "Hold an event." in out
    assert "All is well." in out
    assert out.count("Recall them.") == 2
    assert stored[1].id in out


def test_the_webhooks_are_tried(
    run: Run, webhook: tuple[str, list[int], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, statuses, bodies = webhook
    code, _, error = run("test")
    assert (code, "set FANPULSE_WEBHOOK_URLS" in error) == (2, True)
    monkeypatch.setenv("FANPULSE_WEBHOOK_URLS", f"{url},{url}2")
    code, out, _ = run("test")
    assert code == 0
    assert out.count("(json): taken: 200 ok") == 2
    assert {json.loads(body)["title"] for body in bodies} == {"This is a test"}
    statuses += [200, 403]
    code, out, _ = run("test")
    assert code == 1
    assert "not taken: 403 ok" in out.splitlines()[1]
    assert "0123456789abcdef" not in out
