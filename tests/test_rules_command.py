"""``fanpulse rules`` as a user runs it: what it prints, and how it refuses."""

import contextlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fanpulse import rules as command
from fanpulse.cli import main
from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.migrate import migrate
from schemas.rule_files import template

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, standard output and error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["rules", *arguments])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out, error

    return call


def test_a_file_without_faults_is_read_back(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    code, out, error = run("template", "local-services")
    assert (code, out, error) == (0, template("local-services"), "")
    file.write_text(out, encoding="utf-8")
    code, out, error = run("check", str(file))
    assert (code, error) == (0, "")
    assert out.splitlines()[0] == "town-raise-cheap-reach v1, More budget while reach is cheap (ads-buyer)"
    assert out.splitlines()[1].startswith(
        "  Every minute from 10:00 to 21:00 (Asia/Shanghai), for every campaign: if over"
    )
    assert out.splitlines()[-1] == f"{file}: 3 rules, nothing wrong"


def test_every_fault_is_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    text = template("local-services").replace("cpm < 12.50 yuan", "cpm < 12.50").replace("{do: pause}", "{do: stop}")
    file.write_text(text, encoding="utf-8")
    code, out, error = run("check", str(file))
    assert (code, out) == (2, "")
    one, other = error.splitlines()
    assert one.startswith(
        f"fanpulse: {file}:10: rules[1].when[1]: `12.50` is a bare number: is it yuan or micros? Write"
    )
    assert other.startswith(f"fanpulse: {file}:44: rules[3].action.do: `stop` must be budget, bid, pause or resume")


def test_what_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out, error = run("check", str(tmp_path / "none.yaml"))
    assert (code, out) == (2, "")
    assert error == f"fanpulse: {tmp_path / 'none.yaml'}: cannot be read: No such file or directory\n"
    (tmp_path / "bad.yaml").write_text("rules:\n  - id: [\n", encoding="utf-8")
    code, _, error = run("check", str(tmp_path / "bad.yaml"))
    assert (code, error.count("\n")) == (2, 1)
    assert f"{tmp_path / 'bad.yaml'}:3: " in error
    code, _, error = run("template", "shops")
    assert (code, error.count("\n")) == (2, 1)


RULES = """\
rules:
  - id: cheap
    name: Raise what is cheap
    owner: lin
    level: campaign
    when: [cpm < 10 yuan]
    window: {last: 1 hour}
    guards: {impressions: 600}
    cool_down: 2 hours
    action: {do: budget, by: +20%, ceiling: 1000 yuan, daily_cap: 40%}
  - id: idle
    name: Pause what brings nothing
    owner: lin
    level: ad_group
    when: [conversions < 1]
    window: {last: 3 hours}
    guards: {spend: 100 yuan}
    action: {do: pause}
"""
CAMPAIGNS = """\
campaigns:
  - {campaign_id: c1, platform: douyin, creator_id: a, daily_budget: 100 yuan, ad_groups: [{ad_group_id: g1}]}
"""
COLUMNS = [
    "platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel", "minute", "partition",
    "origin", "fold_version", "impressions", "clicks", "plays", "conversions", "cost_micros", "conversion_value_micros",
    "applied",
]  # fmt: skip
MIDNIGHT = datetime(2026, 1, 19, tzinfo=ZoneInfo("Asia/Shanghai"))


@pytest.fixture
def files(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of rules and campaigns, beside a day of advertisements: each hour 1,000 impressions,
    until six for 5 yuan, until noon for 50; and one of another campaign before midnight."""
    for name, value in settings.model_dump(exclude_unset=True, mode="json").items():
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))
    (tmp_path / "rules.yaml").write_text(RULES, encoding="utf-8")
    (tmp_path / "campaigns.yaml").write_text(CAMPAIGNS, encoding="utf-8")
    migrate(settings)
    key = ("douyin", "a", "c1", "g1", "v1", "all", "feed")
    rows = [
        (*key, MIDNIGHT + timedelta(hours=hour), 0, "stream", 1, 1000, 0, 0, 0, cost * 1_000_000, 0, hour)
        for hour, cost in enumerate([5] * 6 + [50] * 6)
    ]
    other = ("kuaishou", "b", "c2", "g9", "v1", "all", "feed", MIDNIGHT + timedelta(minutes=1439))
    rows.append((*other, 0, "stream", 1, 1, 0, 0, 0, 0, 0, 99))
    with contextlib.closing(clickhouse_client(settings)) as client:
        client.insert("ads_minute", rows, column_names=COLUMNS)
    return tmp_path


@pytest.mark.stack
def test_a_backtest_on_a_pipe(run: Run, files: Path) -> None:
    day = ("--from", "2026-01-19", "--to", "2026-01-19")
    code, out, error = run("backtest", str(files / "rules.yaml"), *day, "--campaigns", str(files / "campaigns.yaml"))
    assert (code, error) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "2026-01-19 00:00 to 2026-01-20 00:00 (Asia/Shanghai): 24 closings, 48 decisions, 3 firings",
        "1 campaign with figures is not in the file of campaigns: left out",
        "",
        "what would have fired",
        "WINDOW CLOSED RULE PLATFORM CAMPAIGN AD GROUP ACTION CLAMPED BY FIGURES",
        "2026-01-19 01:00 cheap douyin c1 - budget 100.00 yuan -> 120.00 yuan - cpm 5.00 yuan",
        "2026-01-19 03:00 cheap douyin c1 - budget 120.00 yuan -> 140.00 yuan daily_cap cpm 5.00 yuan",
        "2026-01-19 08:00 idle douyin c1 g1 pause - conversions 0",
        "",
        "and why not",
        "RULE ENTITIES DECISIONS FIRED SKIPPED",
        "cheap 1 24 2 guards 12 (impressions 12), conditions 6, cool_down 2, daily_cap 2",
        "idle 1 24 1 not_active 16, guards 7 (spend 7)",
        "",
        "not_active: it is not active, so there is nothing to change or to pause",
        "guards: a guard does not hold",
        "conditions: the conditions do not hold",
        "cool_down: it fired less than its cool-down ago",
        "daily_cap: the step goes beyond what the rule may change in a day",
    ]  # fmt: skip


@pytest.mark.stack
def test_the_documentation_shows_a_backtest_as_it_is(run: Run, files: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "rules.md").read_text(encoding="utf-8")
    (files / "campaigns.yaml").write_text(CAMPAIGNS, encoding="utf-8")
    _, out, _ = run(
        "backtest", str(files / "rules.yaml"), "--from", "2026-01-19", "--campaigns", str(files / "campaigns.yaml")
    )
    first, _, *rest = out.splitlines()
    shown = "\n".join([first, *rest])
    assert f"```text\n{shown[: shown.index('not_active: ')].rstrip()}\n```" in page


@pytest.mark.stack
def test_a_backtest_as_json(run: Run, files: Path) -> None:
    code, out, _ = run("backtest", str(files / "rules.yaml"), "--from", "2026-01-19", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["from"], told["until"]) == ("2026-01-19T00:00:00+08:00", "2026-01-20T00:00:00+08:00")
    assert (told["closings"], told["budgets_guessed"], told["campaigns_left_out"]) == (24, True, 0)
    cheap, idle = told["rules"]
    assert (cheap["mode"], cheap["entities"], cheap["evaluated"], cheap["fired"], cheap["clamped"]) == (
        "dry_run", 2, 48, 2, 1
    )  # fmt: skip
    assert cheap["skipped"] == {"guards": 36, "conditions": 6, "cool_down": 2, "daily_cap": 2}
    assert (cheap["guards_that_failed"], idle["guards_that_failed"]) == ({"impressions": 36}, {"spend": 31})
    assert idle["sentence"].startswith("Every full hour (Asia/Shanghai), for every ad group:")
    first = told["firings"][0]
    closed_at = int((MIDNIGHT + timedelta(hours=1)).timestamp()) * 1000
    assert first == {
        "key": f"cheap:douyin:c1:{closed_at}",
        "closed_at": closed_at,
        "window": {"start": closed_at - 3_600_000, "end": closed_at},
        "rule_id": "cheap",
        "rule_version": 1,
        "platform": "douyin",
        "campaign_id": "c1",
        "ad_group_id": "",
        "action": "budget",
        "outcome": "fired",
        "clamped_by": None,
        "figures": {"cpm": 5_000_000},
        "guards": [{"name": "impressions", "wants": 600, "found": 1000, "holds": True}],
        "before_micros": 330_000_000,
        "after_micros": 396_000_000,
    }


@pytest.mark.stack
def test_a_backtest_on_a_terminal(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    monkeypatch.setattr(command, "MOST_SHOWN", 2)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "180")
    code, out, _ = run("backtest", str(files / "rules.yaml"), "--from", "2026-01-19")
    assert code == 0
    assert "\x1b[" in out
    assert "daily budgets are guessed" in out
    assert "and 1 more: pipe it into a pager, or take --json" in out


@pytest.mark.stack
def test_what_a_backtest_cannot_do_is_said(run: Run, files: Path) -> None:
    rules = str(files / "rules.yaml")
    code, out, error = run("backtest", rules, "--from", "2026-01-20")
    assert (code, out) == (2, "")
    assert "the last day, 2026-01-19, is before the first, 2026-01-20" in error
    code, _, error = run("backtest", rules, "--from", "2026-01-20", "--to", "2026-01-21")
    assert (code, error) == (
        2, "fanpulse: nothing is stored from 2026-01-20 on: the newest advertisement is of 2026-01-19\n"
    )  # fmt: skip
    code, _, error = run("backtest", rules, "--from", "yesterday")
    assert (code, error) == (2, "fanpulse: 'yesterday' is no day: write it as YYYY-MM-DD\n")
    (files / "none.yaml").write_text(RULES.replace("level: campaign", "level: campaign\n    scope: {campaigns: [c7]}"))
    code, out, _ = run("backtest", str(files / "none.yaml"), "--from", "2026-01-19")
    assert (code, "cheap: nothing in its scope has figures, or no window closed" in out.splitlines()) == (0, True)
    (files / "none.yaml").write_text(RULES.replace("level:", "scope: {campaigns: [c7]}\n    level:"))
    assert run("backtest", str(files / "none.yaml"), "--from", "2026-01-19")[0] == 1
    (files / "campaigns.yaml").write_text(CAMPAIGNS.replace("100 yuan", "100"))
    code, _, error = run("backtest", rules, "--from", "2026-01-19", "--campaigns", str(files / "campaigns.yaml"))
    assert (code, error.count("\n")) == (2, 1)
    assert "campaigns.yaml:2: campaigns[1].daily_budget: `100` is a bare number: is it yuan or micros?" in error


@pytest.mark.stack
def test_without_advertisements_there_is_nothing_to_try(run: Run, files: Path, settings: Settings) -> None:
    with contextlib.closing(clickhouse_client(settings)) as client:
        client.command("TRUNCATE TABLE ads_minute")
    code, out, error = run("backtest", str(files / "rules.yaml"), "--from", "2026-01-19")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "nothing is stored of any advertisement" in error
