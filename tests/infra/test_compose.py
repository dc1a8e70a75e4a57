"""The production file: readable, private, durable, and of one mind with the local stack."""

import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from infra.kafka import KAFKA_VERSION
from infra.settings import Settings

_INFRA = Path(str(files("infra")))
_TEXT = (_INFRA / "compose.yaml").read_text("utf-8")


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_TEXT)["services"]
    return found


def _grants(resource: str, user: str) -> list[str | None]:
    return [
        query.text
        for query in ElementTree.parse(_INFRA / "resources" / resource).iterfind(f"users/{user}/grants/query")
    ]


def test_published_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_three_brokers_that_lose_nothing(services: dict[str, Any]) -> None:
    brokers = [service for name, service in services.items() if name.startswith("kafka-")]
    assert len(brokers) == 3
    assert len({broker["environment"]["KAFKA_NODE_ID"] for broker in brokers}) == 3
    for broker in brokers:
        environment = broker["environment"]
        assert broker["image"] == f"apache/kafka:{KAFKA_VERSION}"
        assert environment["KAFKA_MIN_INSYNC_REPLICAS"] == 2
        assert environment["KAFKA_DEFAULT_REPLICATION_FACTOR"] == 3
        assert environment["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"] == "false"
        assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
        assert environment["KAFKA_MESSAGE_MAX_BYTES"] == environment["KAFKA_REPLICA_FETCH_MAX_BYTES"] == 8 * 1024**2


def test_settings_are_known(services: dict[str, Any]) -> None:
    known = {f"FANPULSE_{name.upper()}" for name in Settings.model_fields}
    for name in ("topics", "migrate", "worker"):
        assert set(services[name]["environment"]) <= known


def test_no_password_has_a_default() -> None:
    for name in re.findall(r"\$\{([A-Z_]*(?:PASSWORD|KEY)[A-Z_]*)", _TEXT):
        assert f"${{{name}:?" in _TEXT
        assert f"${{{name}:-" not in _TEXT


def test_everything_is_watched_and_durable(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load(_TEXT)["volumes"]
    for name, service in services.items():
        if name not in ("topics", "migrate"):
            assert "healthcheck" in service, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or (_INFRA / source).exists(), volume


@pytest.mark.parametrize("user", ["app", "analyst"])
def test_users_may_do_the_same_in_production(user: str) -> None:
    local = _grants("clickhouse-users.xml", user)
    assert local
    assert _grants("production-users.xml", user) == local
    assert len(local) == len(set(local))


def test_the_client_takes_it() -> None:
    """``docker compose config`` resolves every variable and path, and knows every key."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("there is no docker compose")
    needed = dict.fromkeys(re.findall(r"\$\{([A-Z_]+):\?", _TEXT), "x")
    done = subprocess.run(
        ["docker", "compose", "-f", str(_INFRA / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        env=os.environ | needed,
    )
    assert (done.returncode, done.stderr) == (0, "")
