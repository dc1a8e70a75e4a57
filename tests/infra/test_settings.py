"""Settings: every mistake is one line that names the variable and says what would be right."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.errors import SettingsError
from infra.settings import Settings, load


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.home == tmp_path
    assert (settings.partitions, settings.time_zone, settings.database) == (4, "Asia/Shanghai", "fanpulse")
    assert settings.kafka is None
    assert settings.clickhouse is None


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANPULSE_HOME", "relative/home")
    monkeypatch.setenv("FANPULSE_PARTITIONS", "12")
    monkeypatch.setenv("FANPULSE_KAFKA", "a:1, b:2")
    settings = load()
    assert settings.home == Path.cwd() / "relative" / "home"
    assert settings.partitions == 12
    assert settings.kafka == "a:1,b:2"
    assert load(Path("/elsewhere")).home == Path("/elsewhere")


def test_every_field_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load(tmp_path).partitions = 5  # type: ignore[misc]


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, fan_key="ab" * 32)
    assert "abab" not in repr(settings)


def test_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANPULSE_PARTITION", "4")
    with pytest.raises(SettingsError, match="FANPULSE_PARTITION: there is no such setting.*FANPULSE_PARTITIONS"):
        load()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PARTITIONS": "many"}, "FANPULSE_PARTITIONS=many: .*integer"),
        ({"PARTITIONS": "0"}, "FANPULSE_PARTITIONS=0: .*greater than or equal to 1"),
        ({"PARTITIONS": "257"}, "FANPULSE_PARTITIONS=257: .*less than or equal to 256"),
        ({"PARTITIONS": ""}, "FANPULSE_PARTITIONS=: .*integer"),
        ({"TIME_ZONE": "Mars/Olympus"}, "FANPULSE_TIME_ZONE=Mars/Olympus: must be a time zone"),
        ({"TIME_ZONE": "../etc/passwd"}, "FANPULSE_TIME_ZONE=../etc/passwd: must be a time zone"),
        ({"DATABASE": "a;b"}, "FANPULSE_DATABASE=a;b: must be a name"),
        ({"DATABASE": "{x}"}, r"FANPULSE_DATABASE=\{x\}: must be a name"),
        ({"DATABASE": "other"}, "FANPULSE_DATABASE=other: on the local ClickHouse"),
        ({"TOPIC_PREFIX": "a b"}, "FANPULSE_TOPIC_PREFIX=a b: must be letters"),
        ({"KAFKA": "nohost"}, "FANPULSE_KAFKA=nohost: must be host:port"),
        ({"KAFKA": "a:1,b:70000"}, "FANPULSE_KAFKA=a:1,b:70000: must be host:port.*'b:70000' is not"),
        ({"CLICKHOUSE": "ftp://x"}, "FANPULSE_CLICKHOUSE=ftp://x: must be a URL"),
        ({"CLICKHOUSE": "http://x:99999"}, "FANPULSE_CLICKHOUSE=http://x:99999: must be a URL"),
        ({"CLICKHOUSE": "http://u:p@x"}, "must not carry a password"),
        ({"CLICKHOUSE": "http://x/db"}, "must end after the port"),
        ({"CLICKHOUSE": "http://x"}, "FANPULSE_CLICKHOUSE needs FANPULSE_CLICKHOUSE_USER"),
        ({"CLICKHOUSE_USER": "x"}, "no ClickHouse is named"),
        ({"KAFKA_USERNAME": "x"}, "no Kafka is named"),
        ({"KAFKA": "a:1", "KAFKA_SECURITY_PROTOCOL": "SSH"}, "FANPULSE_KAFKA_SECURITY_PROTOCOL=SSH: .*'PLAINTEXT'"),
        ({"KAFKA": "a:1", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "needs FANPULSE_KAFKA_SASL_MECHANISM"),
        ({"KAFKA": "a:1", "KAFKA_USERNAME": "x"}, "FANPULSE_KAFKA_USERNAME is set, but"),
        ({"KAFKA": "a:1", "KAFKA_CA_FILE": "/nowhere.pem"}, "FANPULSE_KAFKA_CA_FILE=/nowhere.pem: is not a file"),
        ({"LATE_HORIZON": "60", "ALLOWED_LATENESS": "61"}, "FANPULSE_LATE_HORIZON=60 must not be below"),
        ({"DEAD_LETTER_LIMIT": "1.5"}, "FANPULSE_DEAD_LETTER_LIMIT=1.5: .*less than or equal to 1"),
        ({"FLUSH_INTERVAL": "nan"}, "FANPULSE_FLUSH_INTERVAL=nan: "),
        ({"FAN_KEY": "geheim"}, "^FANPULSE_FAN_KEY: must be 16 to 64 bytes"),
        ({"HOME": "/a\nb"}, "FANPULSE_HOME=/a b: must not contain control characters"),
    ],
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"FANPULSE_{name}", value)
    with pytest.raises(SettingsError, match=said) as caught:
        load()
    assert "\n" not in caught.value.message
    assert "geheim" not in caught.value.message
    assert caught.value.exit_code == 2
