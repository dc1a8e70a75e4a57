"""``fanpulse experiments`` as a user runs it: what it reads, what it prints, and how it refuses."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client

import fanpulse.experiments as module
from fanpulse.cli import main
from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.experiments import Arm, Comparison, Interval, Shortfall, Sums
from pipeline.migrate import migrate

FIRST = date(2026, 3, 2)
FILE = """\
experiments:
  - id: covers
    name: Does another cover sell more?
    platform: douyin
    metric: cvr
    from: 2026-03-02
    control: old
    arms:
      old: [1001, "1002"]
      new: [g3]
"""
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
            main(["experiments", *arguments])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out, error

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tests.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def store(client: Client, group: str, minute: datetime, counts: tuple[int, ...] = (), **fields: Any) -> None:
    """A row of an ad group: impressions, clicks, conversions, cost and value (micros)."""
    impressions, clicks, conversions, cost, value = (*counts, *(0,) * (5 - len(counts)))
    row: dict[str, Any] = {
        "platform": "douyin",
        "creator_id": "c1",
        "campaign_id": "camp",
        "ad_group_id": group,
        "creative_id": "cr",
        "audience": "a",
        "channel": "feed",
        "minute": minute,
        "partition": 0,
        "origin": "stream",
        "fold_version": 1,
        "impressions": impressions,
        "clicks": clicks,
        "plays": 0,
        "conversions": conversions,
        "cost_micros": cost,
        "conversion_value_micros": value,
        "applied": 1,
    } | fields
    client.insert("ads_minute", [list(row.values())], column_names=list(row))


def noon(day: int) -> datetime:
    """Noon in Shanghai of a day of the test, the first being 0."""
    return datetime(2026, 3, 2, 4, tzinfo=UTC) + timedelta(day)


def fill(client: Client, days: int, lift: float) -> None:
    """So many days of three ad groups, the third of which converts better."""
    rng = np.random.default_rng(5)
    for day in range(days):
        for group, rate in (("1001", 0.02), ("1002", 0.02), ("g3", 0.02 * (1 + lift))):
            clicks = int(rng.poisson(4000 if group == "g3" else 2000))
            conversions = int(rng.binomial(clicks, rate))
            store(client, group, noon(day), (clicks * 30, clicks, conversions, clicks * 10**6, conversions * 9 * 10**7))
    store(client, "of another test", noon(days))


@pytest.mark.stack
def test_figures_and_verdict_as_json(client: Client, command: Any, file: Path) -> None:
    fill(client, 14, lift=0.4)
    code, out, error = command("show", str(file), "--json")
    assert (code, error) == (0, "")
    (one,) = json.loads(out)
    assert {name: one[name] for name in ("id", "metric", "formula", "day", "from", "to", "alpha", "control")} == {
        "id": "covers",
        "metric": "cvr",
        "formula": "conversions / clicks",
        "day": "2026-03-15",
        "from": "2026-03-02",
        "to": None,
        "alpha": 0.05,
        "control": "old",
    }
    sums = "SELECT ad_group_id = 'g3', sum(clicks), sum(conversions) FROM ads_minute GROUP BY 1, clicks = 0 ORDER BY 1"
    totals = [row for row in client.query(sums).result_rows if row[1]]
    for arm, (_, clicks, conversions) in zip(one["arms"], totals, strict=True):
        assert (arm["sums"]["clicks"], arm["sums"]["conversions"], arm["days"]) == (clicks, conversions, 14)
        assert arm["figure"] == conversions / clicks
        assert arm["interval"]["low"] < arm["figure"] < arm["interval"]["high"]
    (against,) = one["comparisons"]
    assert (against["arm"], against["verdict"]) == ("new", "better")
    assert "2026-03-08" <= against["decided"] <= "2026-03-15"
    assert 0 < against["narrowest"]["low"] < 0.008 < against["narrowest"]["high"]
    assert one["ad_groups_without_data"] == []


@pytest.mark.stack
def test_every_row_counts_as_it_should(client: Client, command: Any, file: Path) -> None:
    store(client, "1001", noon(0), (300, 10, 1, 5, 7))
    store(client, "1001", noon(0), (300, 12, 2, 6, 8), applied=2)
    store(client, "1001", noon(0), (0, 100, 0, 0, 0), origin="repair")
    store(client, "1001", noon(0), (0, 1000, 0, 0, 0), partition=1)
    store(client, "1001", noon(0), (0, 77, 7, 7, 7), fold_version=2)
    store(client, "1001", noon(0), (0, 77, 7, 7, 7), platform="kuaishou")
    store(client, "1001", noon(0), (0, 10_000, 0, 0, 0), campaign_id="another")
    # The first minute of the test's first day and the last minute before it, in Shanghai.
    store(client, "1001", datetime(2026, 3, 1, 16, 0, tzinfo=UTC), (0, 100_000, 0, 0, 0))
    store(client, "1001", datetime(2026, 3, 1, 15, 59, tzinfo=UTC), (0, 77, 7, 7, 7))
    # The last day of which something is stored is not over.
    store(client, "g3", datetime(2026, 3, 3, 15, 59, tzinfo=UTC), (0, 5, 0, 0, 0))
    store(client, "g3", datetime(2026, 3, 3, 16, 0, tzinfo=UTC), (0, 77, 0, 0, 0))
    _, out, _ = command("show", str(file), "--json")
    (one,) = json.loads(out)
    assert [arm["sums"] for arm in one["arms"]] == [
        {
            "impressions": 300,
            "clicks": 111_112,
            "conversions": 2,
            "cost_micros": 6,
            "conversion_value_micros": 8,
        },
        {"impressions": 0, "clicks": 5, "conversions": 0, "cost_micros": 0, "conversion_value_micros": 0},
    ]
    assert one["day"] == "2026-03-03"
    assert one["ad_groups_without_data"] == ["1002"]
    file.write_text(FILE.replace("from: 2026-03-02", "from: 2026-02-23\n    to: 2026-03-01"), encoding="utf-8")
    _, out, _ = command("show", str(file), "--json")
    assert json.loads(out)[0]["arms"][0]["sums"]["clicks"] == 77


@pytest.mark.stack
def test_it_is_plain_on_a_pipe(client: Client, command: Any, file: Path) -> None:
    fill(client, 3, lift=0)
    third = "      third: [g9]\n    guards: {cost: 20000.50 yuan}\n"
    file.write_text(FILE + third + FILE.removeprefix("experiments:\n").replace("covers", "again"), encoding="utf-8")
    code, out, error = command("show", str(file))
    assert (code, error) == (0, "")
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[:2] == [
        "covers: Does another cover sell more?",
        "CVR = conversions / clicks on douyin, from 2026-03-02 to 2026-03-04",
    ]
    assert re.split(r"  +", lines[2]) == [
        "ARM", "DAYS", "CLICKS", "CONVERSIONS", "CVR", "BETWEEN", "AGAINST CONTROL", "BETWEEN", "VERDICT"
    ]  # fmt: skip
    control, new, third = (re.split(r"  +", line) for line in lines[3:6])
    assert (control[0], control[1], control[5:]) == ("old", "3", ["-", "-", "-", "control"])
    cost = client.query("SELECT sum(clicks) FROM ads_minute WHERE ad_group_id = 'g3'").result_rows[0][0]
    assert new[-1] == f"not enough data: 3 of 7 days, {cost:,} of 20,000.50 yuan of cost"
    assert re.fullmatch(r"\d\.\d\d%", new[4])
    assert new[5:8] == ["-", "-", "-"]
    assert third == [
        "third", "0", "0", "0", "-", "-", "-", "-",
        "not enough data: 0 of 7 days, 0 of 1,000 clicks, 0 of 30 conversions, 0 of 20,000.50 yuan of cost",
    ]  # fmt: skip
    assert lines[6] == "nothing is stored of ad group g9 in this time"
    assert lines[7:9] == ["", "again: Does another cover sell more?"]


@pytest.mark.stack
def test_it_has_colours_on_a_terminal(
    client: Client, command: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, 14, lift=0.4)
    file.write_text(FILE.replace("cvr", "roi"), encoding="utf-8")
    monkeypatch.setattr(module, "_on_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = command("show", str(file))
    assert code == 0
    assert "\x1b[" in out
    assert re.search(r"better, since 2026-03-(08|09|1\d)", out)
    cost = client.query("SELECT sum(clicks) FROM ads_minute WHERE ad_group_id = 'g3'").result_rows[0][0]
    assert f"{cost:,}.00" in out
    assert re.search(r"\d% to \d+\.\d\d%  +\+\d+\.\d\d points  +\+\d+\.\d\d to \+\d+\.\d\d", out)
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in out.splitlines()) <= 160


@pytest.mark.stack
def test_before_anything_is_stored(client: Client, command: Any, file: Path) -> None:
    code, out, _ = command("show", str(file))
    assert code == 0
    assert "from 2026-03-02 on: no whole day is stored yet" in out
    assert "nothing is stored of ad groups 1001, 1002 and g3 in this time" in out


DAYS, CLICKS = Shortfall("days", 3, 7), Shortfall("clicks", 10, 1000)
HALF = Interval(-0.5, 0.5)


@pytest.mark.parametrize(
    ("own", "of_control", "found", "says"),
    [
        ((), (), ("better", date(2026, 3, 9), False), "better, since 2026-03-09"),
        ((), (), ("no difference shown yet", None, False), "no difference shown yet"),
        ((), (), ("no difference shown yet", None, True), "no difference shown: it changed in the course of the test"),
        ((), (), ("not enough data", None, False), "not enough data: too few days on which both ran"),
        ((CLICKS,), (), ("not enough data", None, False), "not enough data: 10 of 1,000 clicks"),
        ((), (DAYS,), ("not enough data", None, False), "not enough data: 3 of 7 days of old"),
        (
            (CLICKS,),
            (DAYS, CLICKS),
            ("not enough data", None, False),
            "not enough data: 10 of 1,000 clicks, 3 of 7 days of old",
        ),
    ],
)
def test_a_verdict_is_said_with_its_reason(
    own: tuple[Shortfall, ...], of_control: tuple[Shortfall, ...], found: Any, says: str
) -> None:
    arm, control = (Arm(name, Sums(), 9, 0.5, HALF, lacks) for name, lacks in (("new", own), ("old", of_control)))
    verdict, decided, changed = found
    assert module._verdict(arm, control, Comparison("new", 0.1, HALF, HALF, verdict, decided, changed)) == says
    assert module._verdict(control, control, None) == "control"


def test_a_test_is_said_as_a_sentence(command: Any, file: Path) -> None:
    more = "    to: 2026-03-29\n    alpha: 1%\n    guards: {days: 14, cost: 500 yuan, clicks: 0}\n"
    again = FILE.removeprefix("experiments:\n").replace("covers", "again").replace("[g3]", "[g3]\n      third: [g4]")
    file.write_text(FILE + more + again, encoding="utf-8")
    assert command("check", str(file)) == (
        0,
        "covers: whether the CVR of new (ad group g3) is another than that of old (ad groups 1001 and 1002), on douyin "
        "from 2026-03-02 to 2026-03-29; nothing is said before every arm has 14 days, 30 conversions and 500 yuan of "
        "cost; of tests without a difference at most 1% ever say that there is one.\n"
        "again: whether the CVR of new (ad group g3) and third (ad group g4) is another than that of old (ad groups "
        "1001 and 1002), on douyin from 2026-03-02 on; nothing is said before every arm has 7 days, 1,000 clicks and "
        "30 conversions; of tests without a difference at most 5% ever say that there is one.\n",
        "",
    )


@pytest.mark.parametrize("what", ["check", "show"])
def test_a_bad_file_is_one_line(command: Any, file: Path, what: str) -> None:
    file.write_text(FILE.replace("metric: cvr", "metric: cpm"), encoding="utf-8")
    code, out, error = command(what, str(file))
    assert (code, out) == (2, "")
    assert error == (f"fanpulse: {file}:5: experiments[1].metric: input should be 'ctr', 'cvr' or 'roi', not 'cpm'\n")
