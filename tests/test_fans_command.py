"""``fanpulse fans`` and ``fanpulse refresh`` as a user runs them: what they print, and how they refuse."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

import fanpulse.fans as module
from fanpulse.cli import main
from fanpulse.fans import FLOWS, STAGES, TAGS, TIERS, Fans, advise
from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.migrate import migrate
from pipeline.refresh import refresh

NOON = datetime(2026, 1, 20, 4, tzinfo=UTC)
"""Noon of a Tuesday in Shanghai."""
TODAY = NOON.date()
DAY = timedelta(days=1)
Result = tuple[int, str, str]


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client of the migrated database."""
    migrate(settings)
    with contextlib.closing(clickhouse_client(settings)) as opened:
        yield opened


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process: exit code, standard output and error."""
    for name, value in settings.model_dump(exclude_unset=True, mode="json").items():
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out, error

    return run


def move(client: Client, creator: str, platform: str, fan: int, *steps: tuple[int, str, str]) -> None:
    """Moves of a fan: days before today, stage, reason."""
    names = ["partition", "platform", "creator_id", "fan", "day", "step", "from_stage", "to_stage", "at", "reason"]
    names += ["resurrected", "withdrawn", "fold_version", "applied"]
    rows, before = [], "none"
    for ago, stage, reason in steps:
        step = {"arrived": 1, "returned": 1, "unfollowed": 2}.get(reason, 0)
        day = TODAY - ago * DAY
        rows.append((0, platform, creator, fan, day, step, before, stage, NOON - ago * DAY, reason, 0, 0, 1, 1))
        before = stage
    client.insert("fan_transitions", rows, column_names=names)


def give(client: Client, creator: str, platform: str, fan: int, micros: int, *ago: int) -> None:
    """Gifts of a fan, days before today."""
    columns = ["partition", "offset", "appended_at", "event_id", "event_time", "platform", "fan", "creator_id", "kind"]
    rows = [(0, fan * 100 + n, NOON, f"e{fan}{n}", NOON - n * DAY, platform, fan, creator, "gift", micros) for n in ago]
    client.insert("raw_gifts", rows, column_names=[*columns, "value_micros"])


@pytest.fixture
def world(settings: Settings, client: Client) -> Client:
    """Creator c1 on two platforms, c2 on one, as of TODAY."""
    for fan in range(4):
        move(client, "c1", "douyin", fan, (20, "new", "arrived"), (13, "active", "aged"))
    move(client, "c1", "douyin", 4, (19, "new", "arrived"), (12, "silent", "absent"), (3, "active", "returned"))
    move(client, "c1", "douyin", 5, (18, "new", "arrived"), (9, "churned", "unfollowed"), (2, "new", "returned"))
    move(client, "c1", "douyin", 6, (18, "new", "arrived"), (11, "silent", "absent"))
    move(client, "c1", "douyin", 7, (40, "new", "arrived"), (33, "silent", "absent"), (6, "churned", "absent"))
    move(client, "c1", "douyin", 8, (6, "new", "arrived"))
    move(client, "c1", "douyin", 9, (0, "new", "arrived"), (0, "churned", "unfollowed"))
    move(client, "c1", "kuaishou", 1, (1, "new", "arrived"))
    move(client, "c2", "douyin", 1, (1, "new", "arrived"))
    give(client, "c1", "douyin", 6, 400_000_000, *range(9, 22))
    give(client, "c1", "douyin", 0, 1_000_000, *range(20))
    give(client, "c1", "kuaishou", 1, 0, 1)
    refresh(settings, client, NOON)
    return client


@pytest.mark.stack
def test_the_state_of_the_fans_as_json(world: Client, command: Any) -> None:
    code, out, error = command("fans", "c1", "--json")
    assert (code, error) == (0, "")
    douyin, kuaishou = json.loads(out)
    assert (douyin["platform"], kuaishou["platform"]) == ("douyin", "kuaishou")
    assert douyin["day"] == str(TODAY)
    assert datetime.now(UTC) - datetime.fromisoformat(douyin["refreshed_at"]) < DAY
    assert douyin["stages"] == {"new": 2, "active": 5, "retained": 0, "silent": 1, "churned": 2}
    assert douyin["stages_before"] == {"new": 0, "active": 4, "retained": 0, "silent": 3, "churned": 1}
    assert douyin["flows"] == {
        "arrived": 2, "woken": 1, "recovered": 1, "fell_silent": 0, "stayed_away": 1, "unfollowed": 1
    }  # fmt: skip
    assert douyin["flows_before"] == dict.fromkeys(FLOWS, 0) | {"fell_silent": 2, "unfollowed": 1}
    assert (douyin["churn_rate"], douyin["churn_rate_before"]) == (2 / 7, 1 / 8)
    assert douyin["tiers"] == {"high": [1, 5_200_000_000], "middle": [1, 20_000_000], "low": [0, 0]}
    assert douyin["tags"] == {"active": 1, "high_value": 1, "iron": 0, "potential": 1}
    assert douyin["high_silent"] == 1
    assert kuaishou["stages"]["new"] == 1
    assert kuaishou["churn_rate"] is None
    assert [line.split()[0] for line in douyin["advice"]] == ["Churn", "Most", "Hold", "Tier", "Come"]


@pytest.mark.stack
def test_it_is_plain_on_a_pipe(world: Client, command: Any) -> None:
    code, out, _ = command("fans", "c1")
    assert code == 0
    assert "\x1b" not in out
    for line in (
        "c1 on douyin: 8 fans, 2 churned, churn in 7 days 28.6% (12.5% before)",
        "silent    1     10.0%  -2",
        "churned by unfollow      1            1             +0.0%",
        "high    1     50.0%  5,200.00",
        "c1 on kuaishou: 1 fans, 0 churned, churn in 7 days - (- before)",
        "- nothing stands out",
    ):
        assert line in out.splitlines(), out
    assert re.search(r"^value as of \d{4}-\d\d-\d\d \d\d:\d\d, Asia/Shanghai$", out, re.MULTILINE)


@pytest.mark.stack
def test_it_has_colours_on_a_terminal(world: Client, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_on_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = command("fans", "c1", "--platform", "douyin")
    assert code == 0
    assert "\x1b[" in out
    assert max(len(line) for line in out.splitlines()) < 200
    assert "kuaishou" not in out


@pytest.mark.stack
def test_who_is_unknown_is_one_line(client: Client, command: Any) -> None:
    def refused(*arguments: str) -> str:
        code, out, error = command("fans", *arguments)
        assert (code, out) == (2, "")
        assert error.count("\n") == 1
        return str(error)

    assert "no fan of any creator is known yet" in refused("c1")
    move(client, "dy_food_027", "douyin", 1, (1, "new", "arrived"))
    move(client, "both", "douyin", 1, (1, "new", "arrived"))
    move(client, "both", "kuaishou", 1, (1, "new", "arrived"))
    assert "no fan of a creator dy_food_27 is known; did you mean dy_food_027?" in refused("dy_food_27")
    assert "has no fans on kuaishou, only on douyin" in refused("dy_food_027", "--platform", "kuaishou")
    assert "has no fans on x, only on douyin and kuaishou" in refused("both", "--platform", "x")


@pytest.mark.stack
def test_stages_or_values_that_are_not_there_yet(settings: Settings, client: Client, command: Any) -> None:
    move(client, "c1", "douyin", 1, (1, "new", "arrived"))
    code, out, _ = command("fans", "c1")
    assert (code, "TIER" in out) == (0, False)
    give(client, "c2", "douyin", 1, 5, 1)
    refresh(settings, client, NOON)
    code, out, _ = command("fans", "c2")
    assert (code, "STAGE" in out, "TIER" in out) == (0, False, True)
    assert "stages are not known yet" in out


@pytest.mark.stack
def test_refresh_says_what_it_did(client: Client, command: Any) -> None:
    give(client, "c1", "douyin", 1, 5, 3)
    day = str(TODAY - 3 * DAY)
    code, out, error = command("refresh")
    assert (code, error) == (0, "")
    assert f"{day}: 1 fans" in out.splitlines()
    code, out, _ = command("refresh", "--json")
    assert (code, day in json.loads(out)["days"]) == (0, False)
    code, out, _ = command("refresh", "--from", day, "--to", day, "--json")
    assert (code, json.loads(out)["days"][day]) == (0, 1)
    code, _, error = command("refresh", "--from", "yesterday")
    assert (code, error) == (2, "fanpulse: 'yesterday' is no day: write it as YYYY-MM-DD\n")
    code, _, error = command("refresh", "--from", "2026-01-02", "--to", "2026-01-01")
    assert (code, error) == (2, "fanpulse: the last day, 2026-01-01, is before the first, 2026-01-02\n")


def fans(**changed: Any) -> Fans:
    quiet: dict[str, Any] = {
        "day": date(2026, 1, 1),
        "stages": dict.fromkeys(STAGES, 100) | {"silent": 10},
        "stages_before": dict.fromkeys(STAGES, 100),
        "flows": dict.fromkeys(FLOWS, 0),
        "flows_before": dict.fromkeys(FLOWS, 0),
        "churn_rate": 0.01,
        "churn_rate_before": 0.01,
        "tiers": dict.fromkeys(TIERS, (0, 0)),
        "tags": dict.fromkeys(TAGS, 0),
    }
    return Fans("douyin", "c1", **(quiet | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stages": {"new": 3, "silent": 1, "churned": 5}}, "Silent: 1, 25% of those"),
        ({"high_silent": 3}, "Tier high and silent: 3."),
        ({"tags": {"potential": 4}}, "Come often and have spent little (tag potential): 4."),
        ({"tags": {"iron": 2}}, "Iron fans: 2."),
        ({"flows": {"arrived": 6}, "flows_before": {"arrived": 10}}, "Fewer new fans: 6 in 7 days, -40%"),
    ],
)
def test_advice_is_given_where_its_figures_say_so(changed: dict[str, Any], said: str) -> None:
    (text,) = advise(fans(**changed))
    assert text.startswith(said)


@pytest.mark.parametrize(("unfollowed", "said"), [(6, "Most of them unfollowed"), (5, "Most of them stayed away")])
def test_advice_on_churn_is_that_of_the_alert(unfollowed: int, said: str) -> None:
    flows = {"unfollowed": unfollowed, "stayed_away": 11 - unfollowed}
    lines = advise(fans(churn_rate=0.05, churn_rate_before=0.04, flows=flows))
    assert lines[0] == "Churn rose: 5.0% of the fans in 7 days, +25% against the week before."
    assert lines[1].startswith(said)
    assert len(lines) == 3


def test_advice_is_silent_where_nothing_stands_out_or_is_known() -> None:
    assert advise(fans()) == []
    assert advise(Fans("douyin", "c1")) == []
    assert advise(fans(churn_rate=0.5, churn_rate_before=None)) == []


def test_every_advice_says_when_and_what() -> None:
    texts = json.loads(files("schemas").joinpath("advice.json").read_text(encoding="utf-8"))
    assert len(texts) == 6
    assert all(set(text) - {"alert"} == {"when", "say"} and text["when"] for text in texts)
