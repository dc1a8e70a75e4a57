"""All settings of fanpulse: one frozen model, read from the environment (``FANPULSE_*``)."""

import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import orjson
import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from infra.errors import SettingsError
from schemas.alerts import AlertPolicy, alert_policy
from schemas.events import KINDS
from schemas.value import ValuePolicy

PREFIX = "FANPULSE_"

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
WebhookFormat = Literal["json", "dingtalk", "wecom"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def _bad(message: str) -> PydanticCustomError:
    # The message goes in as a parameter: a brace in what the user typed must not be taken for a field.
    return PydanticCustomError("fanpulse", "{message}", {"message": message})


def _absolute(path: Path) -> Path:
    text = str(path)
    if text == ".":
        # What an empty variable becomes too: the current folder must be named.
        raise _bad("must name a directory; for the current one write its path")
    if not text.isprintable():
        raise _bad("must not contain control characters")
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError:
        raise _bad("names a home directory that cannot be found; give an absolute path") from None


def _file(path: Path) -> Path:
    path = _absolute(path)
    if not path.is_file():
        raise _bad("is not a file that can be read")
    return path


def _host_ports(value: str) -> str:
    for part in value.split(","):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise _bad(f"must be host:port[,host:port ...], such as kafka1:9092,kafka2:9092; {part!r} is not")
    return ",".join(part.strip() for part in value.split(","))


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise _bad("must be a URL such as https://clickhouse.example:8443") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _bad("must be a URL such as https://clickhouse.example:8443")
    if parts.username or parts.password:
        raise _bad("must not carry a password; use FANPULSE_CLICKHOUSE_USER and FANPULSE_CLICKHOUSE_PASSWORD")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise _bad("must end after the port; the database is FANPULSE_DATABASE")
    return value.rstrip("/")


def _base_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise _bad("must be a URL such as https://grafana.example") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _bad("must be a URL such as https://grafana.example")
    if parts.username or parts.password:
        raise _bad("must not carry a password; use FANPULSE_GRAFANA_TOKEN")
    if parts.query or parts.fragment:
        raise _bad("must end after the path")
    return value.rstrip("/")


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise _bad("must be a time zone of the IANA list, such as Asia/Shanghai or Europe/Berlin") from None
    return value


def _database(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", value):
        raise _bad("must be a name of letters, digits and _, at most 63 long, not beginning with a digit")
    return value


def _topic_prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", value):
        raise _bad("must be letters, digits, '.', '_' and '-', at most 100")
    return value


def _no_activity(value: str) -> str:
    known = {kind for kinds in KINDS.values() for kind in kinds}
    named = sorted({part.strip() for part in value.split(",") if part.strip()})
    if strange := [kind for kind in named if kind not in known]:
        near = difflib.get_close_matches(strange[0], sorted(known), n=1, cutoff=0.0)
        raise _bad(f"must be kinds of events, separated by commas; {strange[0]!r} is none, did you mean {near[0]!r}?")
    if "unfollow" not in named:
        raise _bad("must name unfollow: a fan who leaves would count as active")
    if "impression" not in named:
        raise _bad("must name impression: what a fan is shown is not written to the fan log")
    return ",".join(named)


def _value_policy(value: Any) -> Any:
    if isinstance(value, ValuePolicy):
        return value
    try:
        return ValuePolicy.model_validate_json(value) if isinstance(value, str) else ValuePolicy.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, ValuePolicy.model_fields, n=1, cutoff=0.0)[0]
            raise _bad(f"{name} is no threshold; did you mean {near}?") from None
        raise _bad(f"{name}: {first['msg']}" if name else str(first["msg"])) from None


def _alert_policy(value: Any) -> Any:
    if isinstance(value, AlertPolicy):
        return value
    try:
        changes = orjson.loads(value) if isinstance(value, str) else value
        if not isinstance(changes, dict):
            raise _bad('must be a JSON object such as {"churn_high": {"above": 0.08}}')
        return alert_policy(changes)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = [str(part) for part in first["loc"] if part not in ("kinds", "thresholds", "value")]
        raise _bad(f"{'.'.join(path)}: {first['msg']}" if path else str(first["msg"])) from None
    except orjson.JSONDecodeError as error:
        raise _bad(f"is no JSON: {error}") from None
    except ValueError as error:
        raise _bad(str(error)) from None


def _webhook_urls(value: SecretStr) -> SecretStr:
    urls = [part.strip() for part in value.get_secret_value().split(",") if part.strip()]
    for number, url in enumerate(urls, start=1):
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise _bad(f"has as number {number} what is no URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
            raise _bad(f"must be URLs such as https://example.com/hook, comma separated; number {number} is not")
        if parts.username or parts.password or parts.fragment:
            raise _bad(f"must be URLs without user, password and fragment; number {number} has one")
    if len(set(urls)) < len(urls):
        raise _bad("names a URL twice")
    return SecretStr(",".join(urls))


def _safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost")


def _hex_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2}){16,64}", text):
        raise _bad("must be 16 to 64 bytes written as hexadecimal digits (make one: openssl rand -hex 32)")
    return value


def _default_home() -> Path:
    return Path(platformdirs.user_data_dir("fanpulse", appauthor=False))


ReadableFile = Annotated[Path, AfterValidator(_file)]


class Settings(BaseSettings):
    """Every setting, read from ``FANPULSE_<NAME>``; immutable, and refused as a whole if one value is bad."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=False, hide_input_in_errors=True
    )

    home: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=_default_home, description="State directory: data, logs, pid files, passwords, ports."
    )

    kafka: Annotated[str, AfterValidator(_host_ports)] | None = Field(
        None, description="Kafka bootstrap servers, host:port[,host:port]; unset: the local broker of this home."
    )
    kafka_security_protocol: SecurityProtocol = Field("PLAINTEXT", description="How to speak to the named Kafka.")
    kafka_sasl_mechanism: SaslMechanism | None = Field(None, description="SASL mechanism of the named Kafka.")
    kafka_username: str | None = Field(None, description="SASL user of the named Kafka.")
    kafka_password: SecretStr | None = Field(None, description="SASL password of the named Kafka.")
    kafka_ca_file: ReadableFile | None = Field(
        None, description="PEM file of the authority that signed Kafka's certificate; unset: the system's."
    )

    clickhouse: Annotated[str, AfterValidator(_http_url)] | None = Field(
        None, description="ClickHouse HTTP(S) URL; unset: the local server of this home."
    )
    clickhouse_user: str | None = Field(None, description="User that migrates and writes, for the named ClickHouse.")
    clickhouse_password: SecretStr | None = Field(None, description="Its password.")
    clickhouse_analyst_user: str | None = Field(None, description="Read-only user, for the named ClickHouse.")
    clickhouse_analyst_password: SecretStr | None = Field(None, description="Its password.")
    clickhouse_ca_file: ReadableFile | None = Field(
        None, description="PEM file of the authority that signed ClickHouse's certificate; unset: the system's."
    )
    database: Annotated[str, AfterValidator(_database)] = Field(
        "fanpulse", description="ClickHouse database; on the local server its name begins with 'fanpulse'."
    )

    topic_prefix: Annotated[str, AfterValidator(_topic_prefix)] = Field(
        "", description="Put before every topic and consumer group name, so that several can share a Kafka."
    )
    partitions: int = Field(4, ge=1, le=256, description="Partitions of each topic; fixed once there is data.")
    replication: int = Field(1, ge=1, le=15, description="Replicas of each topic; 1 locally, 3 in production.")

    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        "Asia/Shanghai", description="Time zone of calendar days and hours."
    )
    allowed_lateness: int = Field(60, ge=0, le=86_400, description="Seconds that the data watermark waits.")
    late_horizon: int = Field(
        7200, ge=60, le=7 * 86_400, description="Seconds behind the watermark after which an event is late."
    )

    active_interval: int = Field(
        7, ge=1, le=32, description="Days within which a fan who acted is active, and for which a new fan is new."
    )
    churn_after: int = Field(30, ge=2, le=63, description="Days without an action after which a fan has churned.")
    no_activity: Annotated[str, AfterValidator(_no_activity)] = Field(
        "impression,refunded,unfollow", description="Kinds of events that are no action of the fan, comma separated."
    )
    click_window: int = Field(
        168,
        ge=0,
        le=2160,
        description="Hours after the click on an advertisement within which it may win a conversion.",
    )
    view_window: int = Field(24, ge=0, le=2160, description="The same after one was seen and not clicked.")
    idle_after: float = Field(
        60,
        gt=0,
        le=86_400,
        description="Seconds of quiet, with everything read, after which the wall clock moves a topic's days on.",
    )

    flush_interval: float = Field(0.5, gt=0, le=60, description="Seconds between writes to ClickHouse.")
    flush_rows: int = Field(200_000, ge=1, le=10_000_000, description="Rows that force a write before that.")
    fetch_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024, description="Bytes fetched at most per partition and request."
    )
    buffer_blocks: int = Field(16, ge=2, le=4096, description="Fetched blocks that may wait for an agent.")
    dedupe_limit: int = Field(
        50_000_000, ge=1000, description="Event ids remembered per worker; above it the worker stops and says so."
    )
    dead_letter_limit: float = Field(
        0.5, gt=0, le=1, description="Share of dead letters (0 to 1) above which the worker stops."
    )
    dead_letter_window: int = Field(10_000, ge=1, description="Records over which that share is taken.")

    refresh_interval: float = Field(
        600, ge=1, le=86_400, description="Seconds between looks at which days' fan features, tiers and tags are due."
    )
    value_policy: Annotated[ValuePolicy, NoDecode, BeforeValidator(_value_policy)] = Field(
        ValuePolicy(),
        description="Thresholds of badges, tiers and tags that are not those of [fans.md](fans.md), as JSON: "
        '`{"high_value_micros": 500000000}`.',
    )

    alert_interval: float = Field(15, ge=0.1, le=3600, description="Seconds between looks at what calls for an alert.")
    alert_policy: Annotated[AlertPolicy, NoDecode, BeforeValidator(_alert_policy)] = Field(
        alert_policy({}),
        description="Thresholds that are not those of [alerts.md](alerts.md), as JSON: "
        '`{"churn_high": {"above": 0.08}, "follower_loss": {"enabled": false}}`.',
    )
    webhook_urls: Annotated[SecretStr, AfterValidator(_webhook_urls)] | None = Field(
        None, description="URLs that alerts are posted to, comma separated. They are secrets, and shown nowhere."
    )
    webhook_format: WebhookFormat = Field("json", description="What they understand: [alerts.md](alerts.md#webhooks).")
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secrets that messages are signed with, comma separated: one a URL in their order, or one for all.",
    )
    webhook_retry: float = Field(
        24, gt=0, le=720, description="Hours after the moment that an alert speaks of in which its delivery is tried."
    )

    grafana_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        None, description="Grafana that `fanpulse boards publish` sends boards and alert rules to."
    )
    grafana_token: SecretStr | None = Field(
        None, description="Token of a service account of it, or user:password; it needs the role Admin."
    )
    grafana_clickhouse: Annotated[str, AfterValidator(_http_url)] | None = Field(
        None, description="ClickHouse HTTP(S) URL as that Grafana reaches it; unset: as fanpulse does."
    )
    grafana_contact: SecretStr | None = Field(
        None,
        description="URL that Grafana posts its alerts to; unset: its own default contact point gets them.",
    )
    grafana_runbooks: str = Field(
        "docs/runbooks/", description="What alerts say before the name of their page: where people read docs/runbooks."
    )

    fan_key: Annotated[SecretStr, AfterValidator(_hex_key)] | None = Field(
        None, description="Secret that fan ids are hashed with, hexadecimal; unset: generated in the home."
    )
    health_port: int = Field(0, ge=0, le=65_535, description="Port of health and metrics on 127.0.0.1; 0: a free one.")
    telemetry_interval: float = Field(
        10, ge=0.1, le=20, description="Seconds between the rows that a worker writes of its health."
    )
    session_timeout: float = Field(10, ge=1, le=1800, description="Seconds after which Kafka gives up a silent worker.")
    static_membership: bool = Field(
        True,
        description="Whether a worker keeps its partitions over a restart shorter than the session timeout; it is "
        "known by host name and number. False where host names repeat or number and host change at every start.",
    )
    watchdog: float = Field(60, ge=1, le=86_400, description="Seconds without progress after which a worker exits.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sasl = self.kafka_security_protocol.startswith("SASL_")
        given = {
            "FANPULSE_KAFKA_SASL_MECHANISM": self.kafka_sasl_mechanism,
            "FANPULSE_KAFKA_USERNAME": self.kafka_username,
            "FANPULSE_KAFKA_PASSWORD": self.kafka_password,
        }
        if self.kafka is None and (
            self.kafka_security_protocol != "PLAINTEXT" or any(given.values()) or self.kafka_ca_file
        ):
            raise _bad("FANPULSE_KAFKA_* says how to log in, but no Kafka is named; set FANPULSE_KAFKA=host:port")
        if sasl and (missing := [name for name, value in given.items() if not value]):
            raise _bad(f"FANPULSE_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs {', '.join(missing)}")
        if not sasl and (extra := [name for name, value in given.items() if value]):
            raise _bad(
                f"{extra[0]} is set, but FANPULSE_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} does not "
                "log in; set it to SASL_SSL or SASL_PLAINTEXT"
            )
        if self.kafka_ca_file and not self.kafka_security_protocol.endswith("SSL"):
            raise _bad("FANPULSE_KAFKA_CA_FILE needs FANPULSE_KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL")
        if self.clickhouse is None:
            users = (self.clickhouse_user, self.clickhouse_password)
            analysts = (self.clickhouse_analyst_user, self.clickhouse_analyst_password)
            if any((*users, *analysts, self.clickhouse_ca_file)):
                raise _bad(
                    "FANPULSE_CLICKHOUSE_* says how to log in, but no ClickHouse is named; "
                    "set FANPULSE_CLICKHOUSE=https://host:8443"
                )
            if not self.database.startswith("fanpulse"):
                raise _bad(
                    f"FANPULSE_DATABASE={self.database}: on the local ClickHouse its name must begin with 'fanpulse'"
                )
        elif not self.clickhouse_user:
            raise _bad("FANPULSE_CLICKHOUSE needs FANPULSE_CLICKHOUSE_USER (and FANPULSE_CLICKHOUSE_PASSWORD)")
        urls = self.webhook_urls.get_secret_value().split(",") if self.webhook_urls is not None else []
        if self.webhook_secret is not None:
            signed = len(self.webhook_secret.get_secret_value().split(","))
            if self.webhook_format == "wecom":
                raise _bad("FANPULSE_WEBHOOK_SECRET is set, but WeCom has no signature; unset it")
            if signed not in (1, len(urls)):
                raise _bad(f"FANPULSE_WEBHOOK_SECRET has {signed} secrets for {len(urls)} URLs; give one, or one a URL")
        if self.webhook_format != "json" and any(not _safe(url) for url in urls):
            raise _bad(f"FANPULSE_WEBHOOK_URLS must be https:// for {self.webhook_format}")
        if self.grafana_url is not None and self.grafana_token is None:
            raise _bad("FANPULSE_GRAFANA_URL needs FANPULSE_GRAFANA_TOKEN")
        if self.late_horizon < self.allowed_lateness:
            raise _bad(
                f"FANPULSE_LATE_HORIZON={self.late_horizon} must not be below "
                f"FANPULSE_ALLOWED_LATENESS={self.allowed_lateness}"
            )
        if self.churn_after <= self.active_interval:
            raise _bad(
                f"FANPULSE_CHURN_AFTER={self.churn_after} must be above FANPULSE_ACTIVE_INTERVAL={self.active_interval}"
            )
        if self.churn_after + math.ceil(self.late_horizon / 86_400) > 64:
            raise _bad(
                f"FANPULSE_CHURN_AFTER={self.churn_after} and the days of FANPULSE_LATE_HORIZON={self.late_horizon} "
                "must not be more than 64 days together"
            )
        return self


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.0)
            raise SettingsError(f"{name}: there is no such setting; did you mean {near[0]}? Rename or unset it.")


def _one_line(error: ValidationError, environment: Mapping[str, str]) -> str:
    first: Any = error.errors(include_url=False, include_context=True)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return f"settings: {message}"
    field = str(first["loc"][0])
    name = PREFIX + field.upper()
    given = next((value for key, value in environment.items() if key.upper() == name), None)
    info = Settings.model_fields.get(field)
    secret = info is not None and "SecretStr" in str(info.annotation)
    shown = "" if given is None or secret else f"={given}" if len(given) < 80 else f"={given[:77]}..."
    return f"{name}{shown}: {message[0].lower() + message[1:]}".replace("\n", " ")


def load(home: Path | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        home: state directory, before ``FANPULSE_HOME`` and the default.

    Raises:
        SettingsError: one line that names the variable, what is wrong with it, and what would be right.
    """
    _refuse_unknown(os.environ)
    environment: dict[str, str] = dict(os.environ)
    if home is not None:
        environment[PREFIX + "HOME"] = str(home)
    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        raise SettingsError(_one_line(error, environment)) from None
