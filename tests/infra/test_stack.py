"""The real services: side by side, killed, with ports taken, without Java."""

import contextlib
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from infra import kafka
from infra.connect import (
    clickhouse_address,
    clickhouse_client,
    kafka_address,
    kafka_admin,
    kafka_options,
    kafka_producer,
)
from infra.doctor import check_machine
from infra.errors import InfraError
from infra.home import Home
from infra.settings import Settings
from infra.stack import Stack


@pytest.fixture(scope="module")
def second() -> Iterator[Stack]:
    """Another home beside the session's; its path has a space and a letter outside ASCII."""
    with tempfile.TemporaryDirectory(prefix="fanpulse zwei ü ") as path:
        other = Stack(Settings(home=Path(path)))
        yield other
        other.down()


def _kill(stack: Stack) -> None:
    for row in stack.status():
        assert row.pid is not None
        os.kill(row.pid, signal.SIGKILL)
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(row.pid).wait(10)


def test_two_homes_side_by_side_and_kill_9_loses_nothing(stack: Stack, second: Stack) -> None:
    assert [(row.service, row.state) for row in second.status()] == [("kafka", "stopped"), ("clickhouse", "stopped")]
    rows = second.up()
    assert [(row.service, row.state) for row in rows] == [("kafka", "running"), ("clickhouse", "running")]
    assert not {row.address for row in rows} & {row.address for row in stack.status()}
    assert [row.pid for row in second.up()] == [row.pid for row in rows]

    settings = second.settings
    with contextlib.closing(clickhouse_client(settings, database="system")) as client:
        client.command("CREATE DATABASE fanpulse")
        client.command("CREATE TABLE fanpulse.t (a Int64) ENGINE = MergeTree ORDER BY a")
        client.command("INSERT INTO fanpulse.t SELECT number FROM numbers(1000)")
    with contextlib.closing(kafka_admin(settings)) as admin:
        admin.create_topics([NewTopic("kept", 1, 1)])
    with contextlib.closing(kafka_producer(settings)) as producer:
        producer.send("kept", value=b"value", partition=0)
        producer.flush()

    _kill(second)
    assert [row.state for row in second.status()] == ["crashed", "crashed"]
    mends = {check.name: check.mend for check in check_machine(settings)}
    assert (mends["kafka"], mends["clickhouse"]) == ("fanpulse up", "fanpulse up")
    ports = second.home.ports()
    with socket.socket() as thief:
        # ClickHouse's own port is taken meanwhile: it moves, Kafka stays.
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", ports["clickhouse_http"]))
        thief.listen()
        assert {check.name: check.state for check in check_machine(settings)}["ports"] == "warn"
        assert [row.state for row in second.up()] == ["running", "running"]
    moved = second.home.ports()
    assert moved["clickhouse_http"] != ports["clickhouse_http"]
    assert moved["kafka"] == ports["kafka"]
    with contextlib.closing(clickhouse_client(settings)) as client:
        assert client.query("SELECT count(), sum(a) FROM t").result_rows == [(1000, 499_500)]
    with contextlib.closing(KafkaConsumer(**kafka_options(settings), group_id=None)) as consumer:
        consumer.assign([TopicPartition("kept", 0)])
        consumer.seek_to_beginning()
        assert next(consumer).value == b"value"

    assert sorted(second.down()) == ["clickhouse", "kafka"]
    assert second.down() == []
    with pytest.raises(InfraError, match="Kafka is not running in .*; start it: fanpulse up"):
        kafka_address(settings)
    with pytest.raises(InfraError, match="ClickHouse is not running"):
        clickhouse_address(settings)


def test_passwords_are_not_readable_by_others(stack: Stack) -> None:
    secrets = stack.home.secrets()
    for file in (stack.home.path / "secrets.json", stack.home.clickhouse / "users.xml"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert secrets.app_password.get_secret_value() not in (stack.home.clickhouse / "users.xml").read_text()


def test_named_services_are_used_and_not_started(stack: Stack, tmp_path: Path) -> None:
    named = Settings(
        home=tmp_path,
        kafka=kafka_address(stack.settings),
        clickhouse=clickhouse_address(stack.settings),
        clickhouse_user="app",
        clickhouse_password=stack.home.secrets().app_password,
    )
    rows = Stack(named).up()
    assert [(row.state, row.pid) for row in rows] == [("running", None), ("running", None)]
    assert "named in the settings" in rows[0].detail
    assert Stack(named).down() == []
    assert all(row.state == "running" for row in stack.status())


def test_silent_service_is_told_from_a_running_one(stack: Stack, tmp_path: Path) -> None:
    named = Settings(home=tmp_path, clickhouse="http://127.0.0.1:1", clickhouse_user="app")
    rows = {row.service: row for row in Stack(named).status()}
    assert rows["clickhouse"].state == "silent"
    assert rows["kafka"].state == "stopped"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "Java 17 or later is needed for Kafka and not installed: apt-get install openjdk-17"),
        ("echo 'openjdk version \"11.0.2\"' >&2", "is Java 11: apt-get install openjdk-17"),
        ("echo 'java version \"1.8.0_402\"' >&2", "is Java 8: apt-get install openjdk-17"),
        ("exit 1", "does not run: apt-get install openjdk-17"),
    ],
)
def test_java_missing_or_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, said: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    if script is not None:
        (tools / "java").write_text(f"#!/bin/sh\n{script}\n")
        (tools / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(InfraError, match=said) as caught:
        kafka.start_kafka(Home(tmp_path / "home"))
    assert "\n" not in caught.value.message


def test_maven_missing_or_failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="Maven is needed once.*: apt-get install maven"):
        kafka.kafka_jars()
    (tmp_path / "mvn").write_text("#!/bin/sh\necho '[INFO] x'; echo '[ERROR] Unknown host'; exit 1\n")
    (tmp_path / "mvn").chmod(0o755)
    with pytest.raises(InfraError, match=r"could not fetch Kafka's jars: \[ERROR\] Unknown host; check the network"):
        kafka.kafka_jars()
    assert not kafka.jars_directory().exists()


def test_kafka_that_cannot_start_says_why(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    (home.kafka / "data").write_text("not a directory")
    with pytest.raises(InfraError, match="kafka: cannot prepare .*data"):
        kafka.start_kafka(home)


def test_two_ups_at_once_start_one_of_each(tmp_path: Path) -> None:
    other = Stack(Settings(home=tmp_path))
    try:
        with ThreadPoolExecutor(2) as pool:
            first, again = pool.map(lambda _: other.up(), range(2))
        assert [(row.state, row.pid) for row in first] == [(row.state, row.pid) for row in again]
        assert all(row.state == "running" for row in first)
        pid = first[0].pid
        assert pid is not None
        # Stopped in its tracks: the port takes connections, nobody answers.
        os.kill(pid, signal.SIGSTOP)
        hung = other.status()[0]
        os.kill(pid, signal.SIGCONT)
        assert (hung.state, hung.pid) == ("silent", pid)
        assert "does not answer yet; if it stays so see" in hung.detail
    finally:
        other.down()
