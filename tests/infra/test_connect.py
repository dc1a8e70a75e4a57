"""Clients against the real servers, and what they say when there is none."""

import contextlib
import socket
from pathlib import Path

import polars as pl
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaTimeoutError

from infra.connect import (
    broker_url,
    clickhouse_address,
    clickhouse_client,
    faust_credentials,
    kafka_admin,
    kafka_options,
    kafka_producer,
)
from infra.errors import InfraError
from infra.settings import Settings
from infra.stack import Stack


def _make_database(settings: Settings) -> None:
    with contextlib.closing(clickhouse_client(settings, database="system")) as client:
        client.command(f"CREATE DATABASE {settings.database}")


def test_app_makes_everything_that_migrations_need(settings: Settings) -> None:
    _make_database(settings)
    client = clickhouse_client(settings)
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = ReplacingMergeTree ORDER BY a PARTITION BY a % 2")
    client.command(
        "CREATE TABLE u (a Int64, n AggregateFunction(uniq, String)) ENGINE = AggregatingMergeTree ORDER BY a"
    )
    client.command("CREATE MATERIALIZED VIEW m TO u AS SELECT a, uniqState(b) AS n FROM t GROUP BY a")
    client.command(f"CREATE OR REPLACE FUNCTION {settings.database}_next AS (x) -> x + 1")
    client.command(f"CREATE VIEW v AS SELECT {settings.database}_next(a) AS c FROM t FINAL")
    client.insert_arrow("t", pl.DataFrame({"a": [1, 2, 2], "b": ["x", "y", "z"]}).to_arrow())
    assert client.query("SELECT c FROM v ORDER BY c").result_rows == [(2,), (3,)]
    assert client.query("SELECT a, uniqMerge(n) FROM u GROUP BY a ORDER BY a").result_rows == [(1, 1), (2, 2)]
    client.command("ALTER TABLE t ADD COLUMN d Int8 COMMENT 'added'")
    client.command("ALTER TABLE t DELETE WHERE a = 1", settings={"mutations_sync": 1})
    client.command("OPTIMIZE TABLE t FINAL")
    client.command("TRUNCATE TABLE t")
    client.command(f"DROP FUNCTION {settings.database}_next")
    assert client.query("SELECT count() FROM system.parts WHERE database = currentDatabase()").row_count == 1
    client.close()


def test_app_is_kept_to_its_databases(settings: Settings) -> None:
    client = clickhouse_client(settings, database="system")
    for statement in (
        "CREATE DATABASE other",
        "CREATE USER fanpulse_x",
        "SELECT * FROM file('/etc/passwd', LineAsString)",
        "CREATE TABLE fanpulse_x.f (a Int8) ENGINE = File(CSV)",
    ):
        with pytest.raises(DatabaseError, match="ACCESS_DENIED"):
            client.command(statement)
    client.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (2)",
        "CREATE TABLE x (a Int8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE x (a Int8)",
        "DROP TABLE t",
        "ALTER TABLE t DELETE WHERE 1",
        "TRUNCATE TABLE t",
        "SELECT * FROM file('/etc/passwd', LineAsString)",
        "SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a Int8')",
        "SELECT * FROM remote('127.0.0.1', system.one)",
        "SELECT * FROM system.users",
        "SELECT * FROM system.processes",
        "SYSTEM SHUTDOWN",
    ],
)
def test_analyst_reads_and_does_nothing_else(settings: Settings, statement: str) -> None:
    _make_database(settings)
    with contextlib.closing(clickhouse_client(settings)) as app:
        app.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
        app.command("INSERT INTO t VALUES (1)")
    analyst = clickhouse_client(settings, "analyst")
    assert analyst.query("SELECT a FROM t").result_rows == [(1,)]
    with pytest.raises(DatabaseError, match="ACCESS_DENIED|READONLY|privileges"):
        analyst.command(statement)
    analyst.close()


def test_analyst_cannot_lift_its_limits(settings: Settings) -> None:
    analyst = clickhouse_client(settings, "analyst", database="system")
    for change in ("max_memory_usage = 0", "max_memory_usage = 900000000000", "max_execution_time = 0", "readonly = 0"):
        with pytest.raises(DatabaseError, match=r"SETTING_CONSTRAINT_VIOLATION|READONLY"):
            analyst.query(f"SELECT 1 SETTINGS {change}")
    analyst.close()


def test_default_user_sees_and_does_nothing(settings: Settings) -> None:
    _make_database(settings)
    with contextlib.closing(clickhouse_client(settings)) as app:
        app.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    default = Settings(
        home=settings.home, clickhouse=clickhouse_address(settings), clickhouse_user="default", database="system"
    )
    client = clickhouse_client(default)
    for statement in (
        f"SELECT * FROM {settings.database}.t",
        f"INSERT INTO {settings.database}.t VALUES (1)",
        "SELECT * FROM file('/etc/passwd', LineAsString)",
        "SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a Int8')",
        "SELECT * FROM system.users",
        "SYSTEM SHUTDOWN",
        "CREATE DATABASE fanpulse_x",
    ):
        with pytest.raises(DatabaseError, match="ACCESS_DENIED|privileges"):
            client.command(statement)
    client.close()


def test_unknown_database_says_migrate(settings: Settings) -> None:
    with pytest.raises(InfraError, match=f"no database {settings.database}; make it: fanpulse migrate"):
        clickhouse_client(settings)


def test_wrong_password_is_said(settings: Settings) -> None:
    wrong = Settings(
        home=settings.home, clickhouse=clickhouse_address(settings), clickhouse_user="app", clickhouse_password="no"
    )
    with pytest.raises(InfraError, match="refuses the login of user app; check FANPULSE_CLICKHOUSE_USER"):
        clickhouse_client(wrong, database="system")


def test_named_clickhouse_without_analyst_is_refused(tmp_path: Path) -> None:
    named = Settings(home=tmp_path, clickhouse="http://127.0.0.1:1", clickhouse_user="app")
    with pytest.raises(InfraError, match="FANPULSE_CLICKHOUSE_ANALYST_USER is not set"):
        clickhouse_client(named, "analyst")


def test_producer_and_consumer(settings: Settings) -> None:
    topic = settings.topic_prefix + "topic"
    with contextlib.closing(kafka_admin(settings)) as admin:
        admin.create_topics([NewTopic(topic, 2, 1)])
    large = b"x" * 7_000_000
    with contextlib.closing(kafka_producer(settings)) as producer:
        producer.send(topic, key=b"k", value=b"small", partition=1)
        producer.send(topic, key=b"k", value=large, partition=1, headers=[])
        producer.flush()
    with contextlib.closing(KafkaConsumer(**kafka_options(settings), group_id=None)) as consumer:
        consumer.assign([TopicPartition(topic, 1)])
        consumer.seek_to_beginning()
        records = [next(consumer), next(consumer)]
    assert [record.value for record in records] == [b"small", large]
    assert broker_url(settings) == f"kafka://{kafka_options(settings)['bootstrap_servers'][0]}"


def test_topics_do_not_come_into_being_by_themselves(settings: Settings) -> None:
    producer = kafka_producer(settings, max_block_ms=500)
    with contextlib.closing(producer), pytest.raises(KafkaTimeoutError):
        producer.send(settings.topic_prefix + "typo", b"x")
    with contextlib.closing(kafka_admin(settings)) as admin:
        assert settings.topic_prefix + "typo" not in admin.list_topics()


def test_not_started(tmp_path: Path) -> None:
    fresh = Settings(home=tmp_path)
    for connect in (clickhouse_client, kafka_producer, kafka_admin, broker_url):
        with pytest.raises(InfraError, match=r"is not running in .*; start it: fanpulse up"):
            connect(fresh)


def test_unreachable_clickhouse_that_is_named(tmp_path: Path) -> None:
    named = Settings(home=tmp_path, clickhouse="http://127.0.0.1:1", clickhouse_user="app")
    with pytest.raises(InfraError, match="ClickHouse at http://127.0.0.1:1 does not answer.*check FANPULSE_CLICKHOUSE"):
        clickhouse_client(named)


def test_both_listen_on_loopback_only(stack: Stack) -> None:
    services = ("kafka", "kafka_controller", "clickhouse_http", "clickhouse_tcp")
    ports = {service: stack.home.ports()[service] for service in services}
    others = {
        info[4][0]
        for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        if info[4][0][:4] != "127."
    }
    for port in ports.values():
        for address in others:
            with socket.socket() as sock:
                assert sock.connect_ex((str(address), port)) != 0
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", port)) == 0


def test_credentials_for_faust(tmp_path: Path) -> None:
    assert faust_credentials(Settings(home=tmp_path)) is None
    secure = Settings(
        home=tmp_path,
        kafka="k1:9093,k2:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_username="u",
        kafka_password="p",
    )
    credentials = faust_credentials(secure)
    assert (credentials.username, credentials.password, credentials.mechanism.value) == ("u", "p", "SCRAM-SHA-512")
    assert credentials.protocol.value == "SASL_SSL"
    assert broker_url(secure) == "kafka://k1:9093;kafka://k2:9093"
    assert kafka_options(secure)["sasl_plain_password"] == "p"
    tls = Settings(home=tmp_path, kafka="k1:9093", kafka_security_protocol="SSL")
    assert faust_credentials(tls).protocol.value == "SSL"
