"""The preview's server: it answers this machine's own pages, about the boards, and says clearly what it refuses."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery import gallery

from dashboards.alerts import RULES
from dashboards.preview.server import serve
from infra.errors import FanpulseError
from infra.settings import Settings

_ASKED = json.dumps({"begin": 0, "end": 60_000})
_JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server without a ClickHouse."""
    folder = tmp_path_factory.mktemp("boards")
    (folder / "gallery.json").write_text(json.dumps(gallery()))
    with serve(Settings(home=tmp_path_factory.mktemp("home")), 0, folder) as address:
        yield int(address.rstrip("/").rpartition(":")[2])


def _ask(
    port: int, path: str, body: str | None = None, method: str | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        method or ("GET" if body is None else "POST"), path, body, given if body is None else _JSON | given
    )
    response = connection.getresponse()
    content = response.read()
    connection.close()
    kind = response.headers["Content-Type"]
    return response, json.loads(content) if kind == "application/json" and content else content


def test_pages_and_boards_are_given_with_headers_that_keep_other_sites_out(port: int) -> None:
    for path in ("/", "/d/gallery?from=now-1h", "/main.js", "/style.css", "/echarts.min.js", "/api/boards"):
        response, content = _ask(port, path)
        assert response.status == 200
        assert content
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
    assert _ask(port, "/api/boards")[1] == [
        {"uid": "gallery", "title": "Gallery", "description": "Is every kind of panel drawn?", "tags": ["fanpulse"]}
    ]
    assert _ask(port, "/api/boards/gallery")[1]["uid"] == "gallery"


def test_a_page_that_has_not_changed_is_not_sent_again(port: int) -> None:
    tag = _ask(port, "/echarts.min.js")[0].headers["ETag"]
    response, content = _ask(port, "/echarts.min.js", If_None_Match=tag)
    assert (response.status, content) == (304, b"")
    response, content = _ask(port, "/main.js", method="HEAD")
    assert (response.status, content) == (200, b"")
    assert int(response.headers["Content-Length"]) > 1000


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "localhost", "[::1]:3000"])
def test_this_machine_may_ask_by_any_of_its_names(port: int, host: str) -> None:
    assert _ask(port, "/api/boards", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example.com", "example.com:80", "", "a b", "localhost@x.org"]
)
def test_a_name_that_somebody_pointed_here_is_refused(port: int, host: str) -> None:
    for path, body in (("/", None), ("/api/boards/gallery/panels/1", _ASKED)):
        response, content = _ask(port, path, body, Host=host)
        assert response.status == 421
        assert content == {"error": "ask for 127.0.0.1 or localhost"}


@pytest.mark.parametrize("origin", ["https://example.com", "null", "http://127.0.0.1:1", "http://localhost"])
def test_pages_of_other_sites_cannot_ask(port: int, origin: str) -> None:
    response, content = _ask(port, "/api/boards/gallery/panels/1", _ASKED, Origin=origin)
    assert response.status == 403
    assert "other sites" in content["error"]


def test_what_is_no_json_is_refused_so_that_no_form_can_ask(port: int) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response, _ = _ask(port, "/api/boards/gallery/panels/1", _ASKED, Content_Type=kind)
        assert response.status == 415


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/boards/x", "there is no board 'x': there are gallery"),
        ("/api/x", "there is no page /api/x"),
        ("/../server.py", "there is no page /../server.py"),
        ("/%2e%2e/server.py", "there is no page /%2e%2e/server.py"),
        ("/server.py", "there is no page /server.py"),
    ],
)
def test_unknown_pages_are_not_there(port: int, path: str, said: str) -> None:
    response, content = _ask(port, path)
    assert response.status == 404
    assert content == {"error": said}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/boards/x/panels/1", _ASKED, 404, "there is no board 'x'"),
        ("/api/boards/gallery/panels/77", _ASKED, 404, "board gallery has no panel 77"),
        ("/api/boards/gallery/panels/one", _ASKED, 404, "panels have numbers: 'one' is none"),
        ("/api/boards/gallery/variables/x", _ASKED, 404, "no variable 'x'"),
        ("/api/boards/gallery/annotations/x", _ASKED, 404, "no annotation 'x'"),
        ("/api/boards/gallery/sql", _ASKED, 404, "nothing can be asked at"),
        ("/api/boards/gallery/panels/1", "{", 400, "Invalid JSON"),
        ("/api/boards/gallery/panels/1", '{"begin": 0, "end": 1, "sql": "SELECT 1"}', 400, "sql: "),
        ("/api/boards/gallery/panels/1", '{"begin": 9000, "end": 1}', 400, "ends before it begins"),
        (
            "/api/boards/gallery/panels/2",
            '{"begin": 0, "end": 1, "variables": {"platform": ["x"]}}',
            400,
            "cannot be 'x'",
        ),
        ("/api/boards/gallery/panels/1", " " * 300_000, 413, "at most"),
    ],
)
def test_questions_that_no_board_has_are_refused(port: int, path: str, body: str, status: int, said: str) -> None:
    response, content = _ask(port, path, body)
    assert response.status == status
    assert said in content["error"]


def test_what_is_refused_leaves_nothing_to_be_taken_for_the_next_request(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    smuggled = "GET /api/boards HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.request("POST", "/api/boards/gallery/panels/1", smuggled, _JSON | {"Origin": "https://example.com"})
    response = connection.getresponse()
    assert (response.status, response.headers["Connection"]) == (403, "close")
    response.read()
    connection.close()


def test_nothing_can_be_changed(port: int) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        response, content = _ask(port, "/api/boards/gallery", method=method)
        assert response.status == 501
        assert "Unsupported method" in content["error"]


def test_values_that_are_written_down_are_given_without_a_database(port: int) -> None:
    _, content = _ask(port, "/api/boards/gallery/variables/window", _ASKED)
    assert content == {"options": [{"value": "1", "text": "1m"}, {"value": "60", "text": "1h"}]}


def test_a_clickhouse_that_is_away_is_said_and_how_to_start_it(port: int) -> None:
    response, content = _ask(port, "/api/boards/gallery/panels/1", _ASKED)
    assert response.status == 503
    assert "ClickHouse is not running" in content["error"]
    assert "fanpulse up" in content["error"]


def test_what_rings_is_looked_at_from_the_beginning_and_a_clickhouse_that_is_away_rings(port: int) -> None:
    end = time.monotonic() + 60
    while (seen := _ask(port, "/api/ringing")[1])["looked_ms"] is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert seen["alerts_ms"] is None
    assert (seen["every_s"], seen["faster"], seen["zone"]) == (60, 1, "Asia/Shanghai")
    assert seen["rules"][0]["title"] == "Nothing arrives"
    assert {(rung["state"], rung["page"]) for rung in seen["rules"]} == {("error", "clickhouse-away.md")}
    assert len(seen["rules"]) == len(RULES)
    assert "freshness.md" in seen["pages"]


def test_pages_of_what_to_do_are_given_as_they_are_written(port: int) -> None:
    response, content = _ask(port, "/runbooks/freshness")
    assert (response.status, response.headers.get_content_type()) == (200, "text/html")
    assert b"<script" in content
    response, content = _ask(port, "/api/runbooks/freshness.md")
    assert (response.status, content["name"]) == (200, "freshness.md")
    assert content["text"].startswith("# Nothing arrives\n")
    for name in ("x.md", "..%2Foperations.md", "%2Fetc%2Fpasswd", "freshness"):
        response, content = _ask(port, f"/api/runbooks/{name}")
        assert response.status == 404
        assert "is not here" in content["error"]


def test_a_port_that_is_taken_is_said(port: int, tmp_path: Path) -> None:
    (tmp_path / "gallery.json").write_text(json.dumps(gallery()))
    with (
        pytest.raises(FanpulseError, match=f"port {port} of 127.0.0.1: Address already in use; choose another"),
        serve(Settings(home=tmp_path), port, tmp_path),
    ):
        pass


def test_boards_have_the_local_days_of_the_settings(tmp_path: Path) -> None:
    with serve(Settings(home=tmp_path, time_zone="Europe/Berlin"), 0) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        first, *_ = _ask(port, "/api/boards")[1]
        assert first["title"] == "Operations overview"
        assert _ask(port, f"/api/boards/{first['uid']}")[1]["timezone"] == "Europe/Berlin"


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fanpulse.cli", "boards", "preview", "--home", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FANPULSE_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        assert len(_ask(port, "/api/boards")[1]) >= 7
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert json.loads((tmp_path / "ports.json").read_text())["boards"] == port
