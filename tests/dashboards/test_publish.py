"""Publishing to a Grafana: everything arrives, a second time changes nothing, and differences are named."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fake_grafana import TOKEN, FakeGrafana
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dashboards.alerts import RULES
from dashboards.boards import boards as all_boards
from dashboards.macros import used_variables
from dashboards.publication import CONTACT, SOURCE, changes, files
from fanpulse.boards import boards
from infra.errors import FanpulseError


@pytest.fixture
def grafana(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGrafana]:
    with FakeGrafana() as fake:
        for name, value in {
            "GRAFANA_URL": fake.url,
            "GRAFANA_TOKEN": TOKEN,
            "GRAFANA_CONTACT": "https://example.com/hook",
            "GRAFANA_CLICKHOUSE": "https://clickhouse.example:8443",
            "CLICKHOUSE": "http://127.0.0.1:9",
            "CLICKHOUSE_USER": "app",
            "CLICKHOUSE_ANALYST_USER": "analyst",
            "CLICKHOUSE_ANALYST_PASSWORD": "word",
        }.items():
            monkeypatch.setenv(f"FANPULSE_{name}", value)
        yield fake


def _publish(*arguments: str) -> list[str]:
    result = CliRunner().invoke(boards, ["publish", *arguments])
    if isinstance(result.exception, FanpulseError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_everything_arrives_and_a_second_time_changes_nothing(grafana: FakeGrafana) -> None:
    first = _publish()
    expected = 2 + len(all_boards()) + 2 + len(RULES)
    assert first[-1] == f"{grafana.url}: {expected} new, 0 changed, 0 as they should be"
    assert set(grafana.boards) == {board.uid for board in all_boards()}
    assert set(grafana.rules) == {rule.uid for rule in RULES}
    assert grafana.sources[SOURCE]["secureJsonData"] == {"password": "word"}
    assert grafana.sources[SOURCE]["jsonData"]["host"] == "clickhouse.example"
    assert grafana.sources[SOURCE]["jsonData"]["secure"] is True
    assert [route["receiver"] for route in grafana.policy["routes"]] == [CONTACT, "of-others"]
    assert grafana.policy["receiver"] == "grafana-default-email"

    grafana.written.clear()
    second = _publish()
    assert second == [f"{grafana.url}: 0 new, 0 changed, {expected} as they should be"]
    assert grafana.written == []


@pytest.mark.parametrize("provenance", ["", "api"])
def test_policies_stay_as_open_to_changes_as_they_were(grafana: FakeGrafana, provenance: str) -> None:
    if provenance:
        grafana.policy["provenance"] = provenance
    _publish()
    assert grafana.policy.get("provenance", "") == provenance
    assert len(grafana.policy["routes"]) == 2


def test_what_somebody_changed_is_named_and_put_back(grafana: FakeGrafana) -> None:
    _publish()
    uid = all_boards()[0].uid
    wanted = copy.deepcopy(grafana.boards[uid])
    panel = next(panel for panel in grafana.boards[uid]["panels"] if panel["title"] == "Lag")
    panel["targets"][0]["rawSql"] = "SELECT 1"
    grafana.rules["fanpulse-lag"]["for"] = "1h"
    grafana.written.clear()

    dry = _publish("--dry-run")
    assert grafana.written == []
    assert f"changed   board {all_boards()[0].title}: panels[Lag].targets[A].rawSql" in dry
    assert "changed   alert rule Figures are behind: for" in dry
    assert "0 would be new, 2 would be changed" in dry[-1]

    _publish()
    assert len(grafana.written) == 2
    assert {**grafana.boards[uid], "version": 0} == {**wanted, "version": 0}


def test_the_password_is_sent_again_when_asked_for(grafana: FakeGrafana, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish()
    monkeypatch.setenv("FANPULSE_CLICKHOUSE_ANALYST_PASSWORD", "another")
    assert "changed   data source ClickHouse: password" in _publish("--password")
    assert grafana.sources[SOURCE]["secureJsonData"] == {"password": "another"}


def test_without_a_contact_nothing_of_others_is_touched(grafana: FakeGrafana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FANPULSE_GRAFANA_CONTACT")
    before = copy.deepcopy(grafana.policy)
    assert "alerts go to Grafana's own contact point" in _publish()[-1]
    assert grafana.policy == before
    assert grafana.contacts == {}


def test_refusals_are_one_line_that_says_what_to_do(grafana: FakeGrafana, monkeypatch: pytest.MonkeyPatch) -> None:
    grafana.refuse = 403
    with pytest.raises(FanpulseError, match="give it the role Admin"):
        _publish()
    grafana.refuse = 500
    with pytest.raises(FanpulseError, match="refuses: Server Error 500"):
        _publish()
    monkeypatch.setenv("FANPULSE_GRAFANA_TOKEN", "wrong")
    with pytest.raises(FanpulseError, match="check FANPULSE_GRAFANA_TOKEN"):
        _publish()
    monkeypatch.setenv("FANPULSE_GRAFANA_URL", "http://127.0.0.1:9")
    with pytest.raises(FanpulseError, match="check FANPULSE_GRAFANA_URL"):
        _publish()
    monkeypatch.delenv("FANPULSE_GRAFANA_URL")
    with pytest.raises(FanpulseError, match="no Grafana is named"):
        _publish()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("grafana.example", "must be a URL"),
        ("https://admin:word@grafana.example", "must not carry a password"),
        ("https://grafana.example/?orgId=1", "must end after the path"),
        ("https://grafana.example:port", "must be a URL"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANPULSE_GRAFANA_URL", url)
    monkeypatch.setenv("FANPULSE_GRAFANA_TOKEN", TOKEN)
    with pytest.raises(FanpulseError, match=says) as refused:
        _publish()
    assert TOKEN not in refused.value.message


def test_an_address_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANPULSE_GRAFANA_URL", "https://grafana.example/below")
    with pytest.raises(FanpulseError, match="needs FANPULSE_GRAFANA_TOKEN"):
        _publish()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert list(changes(value, value)) == []


@given(st.dictionaries(st.text("abc", min_size=1), _VALUES, max_size=3), _VALUES)
def test_what_is_there_beside_it_is_no_difference(value: dict[str, Any], other: Any) -> None:
    assert list(changes({**value, "more": other}, value)) == []
    assert list(changes(value, {**value, "more": 1})) == ["more"]


def test_alert_rules_stand_without_variables() -> None:
    assert len({rule.uid for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert used_variables(rule.query("UTC")) == frozenset(), rule.uid
        assert rule.against.for_ is not None


def test_files_say_what_the_api_is_sent() -> None:
    alerting = yaml.safe_load(files()["alerting.yaml"])
    (group,) = alerting["groups"]
    assert [rule["uid"] for rule in group["rules"]] == [rule.uid for rule in RULES]
    for rule in group["rules"]:
        # Grafana replaces $NAME by its environment, and $$ by $.
        assert "$" not in rule["data"][0]["model"]["rawSql"].replace("$$", "")
        assert "$" not in rule["annotations"]["summary"].replace("$$", "")
