"""The local ClickHouse server: its configuration, and the service that runs it."""

import hashlib
import http.client
import sys
from importlib.resources import files
from string import Template
from xml.sax.saxutils import escape

import psutil

from infra import clickhouse_server
from infra.home import Home, write_private
from infra.process import Service

APP_USER = "app"
ANALYST_USER = "analyst"
_GIB = 1024**3


def clickhouse_service(home: Home) -> Service:
    """The service of this home's ClickHouse, on the ports written down (none yet: port 0, never ready)."""
    port = home.ports().get("clickhouse_http", 0)
    return Service(
        home=home,
        name="clickhouse",
        argv=[sys.executable, "-P", clickhouse_server.__file__, str(home.clickhouse)],
        cwd=home.clickhouse,
        # Dates that clients send without a zone are UTC, whatever the machine's zone is.
        env={"TZ": "UTC", "LC_ALL": "C.UTF-8"},
        ready=lambda: _pings(port),
        timeout=60.0,
        stop_timeout=20.0,
    )


def start_clickhouse(home: Home) -> None:
    """Start ClickHouse if it does not run, and wait until it answers.

    Raises:
        InfraError: it did not come up; the line carries the end of its log.
    """
    if clickhouse_service(home).status().state != "running":
        ports = home.choose_ports("clickhouse_http", "clickhouse_tcp")
        _configure(home, ports)
    clickhouse_service(home).start()


def _configure(home: Home, ports: dict[str, int]) -> None:
    memory = min(6 * _GIB, psutil.virtual_memory().total * 6 // 10)
    secrets = home.secrets()
    values = {
        "http_port": ports["clickhouse_http"],
        "tcp_port": ports["clickhouse_tcp"],
        "log": home.logs / "clickhouse-server.log",
        "memory": memory,
        "app_memory": memory * 3 // 4,
        "analyst_memory": memory // 3,
        "app_sha256": _sha256(secrets.app_password.get_secret_value()),
        "analyst_sha256": _sha256(secrets.analyst_password.get_secret_value()),
    }
    escaped = {name: escape(str(value)) for name, value in values.items()}
    for name in ("config.xml", "users.xml"):
        template = Template((files("infra") / "resources" / f"clickhouse-{name}").read_text("utf-8"))
        write_private(home.clickhouse / name, template.substitute(escaped))


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _pings(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
