"""Clients of the Kafka and ClickHouse in use: local ones of this home, or those named in the settings."""

import functools
import re
import socket
import ssl
from typing import Any, Literal
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import get_pool_manager
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaConfigurationError, KafkaError
from urllib3 import PoolManager

from infra.clickhouse import ANALYST_USER, APP_USER
from infra.errors import InfraError
from infra.home import Home
from infra.settings import Settings

Role = Literal["app", "analyst"]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_REFUSAL = re.compile(r"Code: \d+\. DB::Exception: (.*?)(?: \(version [^)]*\).*)?$")


def kafka_address(settings: Settings) -> str:
    """Bootstrap servers in use, ``host:port[,host:port]``.

    Raises:
        InfraError: the local broker is not running.
    """
    if settings.kafka is not None:
        return settings.kafka
    port = Home(settings.home).ports().get("kafka")
    if port is None or not _listens(port):
        raise _not_running("Kafka", settings)
    return f"127.0.0.1:{port}"


def clickhouse_address(settings: Settings) -> str:
    """URL in use of ClickHouse's HTTP interface, with the port.

    Raises:
        InfraError: the local server is not running.
    """
    if settings.clickhouse is not None:
        parts = urlsplit(settings.clickhouse)
        port = parts.port or (8443 if parts.scheme == "https" else 8123)
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        return f"{parts.scheme}://{host}:{port}"
    local = Home(settings.home).ports().get("clickhouse_http")
    if local is None or not _listens(local):
        raise _not_running("ClickHouse", settings)
    return f"http://127.0.0.1:{local}"


def clickhouse_client(
    settings: Settings, role: Role = "app", database: str | None = None, timeout: float = 60.0
) -> Client:
    """A client that several threads may share (it has no session).

    Args:
        settings: which server.
        role: ``app`` migrates and writes, ``analyst`` reads and can do nothing else.
        database: the session's; None: the one of the settings; ``system``: for use before that exists.
        timeout: seconds to wait for an answer; to connect, 5.

    Raises:
        InfraError: no answer, login refused, or no such database; the line says what to do.
    """
    address = clickhouse_address(settings)
    parts = urlsplit(address)
    user, password = clickhouse_login(settings, role)
    database = settings.database if database is None else database
    loopback = parts.hostname in _LOOPBACK
    options: dict[str, Any] = {"ca_cert": str(settings.clickhouse_ca_file)} if settings.clickhouse_ca_file else {}
    if loopback and parts.scheme == "http":
        options["pool_mgr"] = _loopback_pool()
    try:
        return clickhouse_connect.get_client(
            host=parts.hostname,
            port=parts.port,
            interface=parts.scheme,
            username=user,
            password=password,
            database=database,
            compress=False if loopback else "lz4",
            connect_timeout=5,
            send_receive_timeout=timeout,
            autogenerate_session_id=False,
            client_name="fanpulse",
            **options,
        )
    except (ClickHouseError, OSError) as error:
        raise _clickhouse_refusal(settings, role, user, address, database, error) from None


def kafka_options(settings: Settings) -> dict[str, Any]:
    """How to reach and log in to Kafka: keyword arguments for any client of kafka-python.

    Raises:
        InfraError: the local broker is not running.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": kafka_address(settings).split(","),
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_ca_file is not None:
        options["ssl_cafile"] = str(settings.kafka_ca_file)
    if settings.kafka_sasl_mechanism is not None and settings.kafka_password is not None:
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_username
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options


def kafka_producer(settings: Settings, **overrides: Any) -> KafkaProducer:
    """An idempotent producer (acks=all) tuned for throughput; messages up to 8 MiB.

    Args:
        settings: which Kafka.
        overrides: options of ``kafka.KafkaProducer``, before ours.

    Raises:
        InfraError: no answer, or login refused.
    """
    options: dict[str, Any] = {
        "client_id": "fanpulse",
        "enable_idempotence": True,
        "acks": "all",
        "linger_ms": 20,
        "batch_size": 256 * 1024,
        "compression_type": "lz4",
        "max_request_size": 8 * 1024 * 1024,
        "max_in_flight_requests_per_connection": 5,
        "allow_auto_create_topics": False,
        "bootstrap_timeout_ms": 5000,
        "metrics_enabled": False,
    }
    address = kafka_address(settings)
    try:
        return KafkaProducer(**{**kafka_options(settings), **options, **overrides})
    except KafkaConfigurationError:
        raise
    except (KafkaError, OSError) as error:
        raise _kafka_refusal(settings, address, error) from None


def kafka_admin(settings: Settings, **overrides: Any) -> KafkaAdminClient:
    """An admin client; overrides are options of ``kafka.KafkaAdminClient``.

    Raises:
        InfraError: no answer, or login refused.
    """
    options = {"client_id": "fanpulse", "bootstrap_timeout_ms": 5000}
    address = kafka_address(settings)
    try:
        return KafkaAdminClient(**{**kafka_options(settings), **options, **overrides})
    except KafkaConfigurationError:
        raise
    except (KafkaError, OSError) as error:
        raise _kafka_refusal(settings, address, error) from None


def broker_url(settings: Settings) -> str:
    """The broker URL for Faust: ``kafka://host:port;kafka://host:port``.

    Raises:
        InfraError: the local broker is not running.
    """
    return ";".join(f"kafka://{server}" for server in kafka_address(settings).split(","))


def faust_credentials(settings: Settings) -> Any:
    """``broker_credentials`` for Faust (``faust.SASLCredentials``, ``faust.SSLCredentials``), None for PLAINTEXT."""
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    # Faust takes half a second to import, and most commands do without it.
    from faust.auth import SASLCredentials, SSLCredentials

    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)
    if protocol == "SSL":
        return SSLCredentials(context)
    assert settings.kafka_password is not None
    return SASLCredentials(
        username=settings.kafka_username,
        password=settings.kafka_password.get_secret_value(),
        ssl_context=context,
        mechanism=settings.kafka_sasl_mechanism,
    )


def refusal(error: Exception) -> str | None:
    """What ClickHouse said against a query, without its version; None: it did not answer at all."""
    found = _REFUSAL.search(" ".join(str(error).split()))
    return None if found is None else found[1]


def _listens(port: int) -> bool:
    # Asked first because clients try for seconds before they give up.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@functools.cache
def _loopback_pool() -> PoolManager:
    # A pool of our own keeps a proxy of the environment out of the way to the local server.
    pool: PoolManager = get_pool_manager(maxsize=16)
    return pool


def clickhouse_login(settings: Settings, role: Role) -> tuple[str, str]:
    """User and password of a role, for the ClickHouse in use.

    Raises:
        InfraError: the settings name no such user.
    """
    if settings.clickhouse is None:
        secrets = Home(settings.home).secrets()
        if role == "app":
            return APP_USER, secrets.app_password.get_secret_value()
        return ANALYST_USER, secrets.analyst_password.get_secret_value()
    if role == "app":
        user, password = settings.clickhouse_user, settings.clickhouse_password
    else:
        user, password = settings.clickhouse_analyst_user, settings.clickhouse_analyst_password
    if user is None:
        raise InfraError(
            "FANPULSE_CLICKHOUSE_ANALYST_USER is not set: queries are run as a read-only user of the named "
            "ClickHouse; set it and FANPULSE_CLICKHOUSE_ANALYST_PASSWORD"
        )
    return user, password.get_secret_value() if password is not None else ""


def _not_running(service: str, settings: Settings) -> InfraError:
    return InfraError(f"{service} is not running in {settings.home}; start it: fanpulse up")


def _clickhouse_refusal(
    settings: Settings, role: Role, user: str, address: str, database: str, error: Exception
) -> InfraError:
    text = _short(error)
    if "UNKNOWN_DATABASE" in str(error):
        return InfraError(f"ClickHouse at {address} has no database {database}; make it: fanpulse migrate")
    if "AUTHENTICATION_FAILED" in str(error) or "REQUIRED_PASSWORD" in str(error):
        variable = "FANPULSE_CLICKHOUSE_USER" if role == "app" else "FANPULSE_CLICKHOUSE_ANALYST_USER"
        mend = "restart it: fanpulse down && fanpulse up" if settings.clickhouse is None else f"check {variable}"
        return InfraError(f"ClickHouse at {address} refuses the login of user {user}; {mend}")
    if settings.clickhouse is None:
        return InfraError(f"ClickHouse at {address} does not answer ({text}); start it: fanpulse up")
    return InfraError(f"ClickHouse at {address} does not answer ({text}); check FANPULSE_CLICKHOUSE and the network")


def _kafka_refusal(settings: Settings, address: str, error: Exception) -> InfraError:
    text = _short(error)
    if settings.kafka is None:
        return InfraError(f"Kafka at {address} does not answer ({text}); start it: fanpulse up")
    return InfraError(
        f"Kafka at {address} does not answer or refuses the login ({text}); check FANPULSE_KAFKA and "
        f"FANPULSE_KAFKA_SECURITY_PROTOCOL (now {settings.kafka_security_protocol})"
    )


def _short(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
