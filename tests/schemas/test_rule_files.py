"""What files of rules and campaigns may say, and how they are refused: with file, line, field, and what to write."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import FanpulseError
from schemas.rule_files import TEMPLATES, Refused, read_campaigns, read_rules, template
from schemas.rules import METRICS, Action, Guards, Rule, Schedule, Scope, Window, sentence

GOOD = """\
rules:
  - id: cheap
    name: Raise what is cheap
    owner: lin
    mode: dry_run
    level: campaign
    scope: {platforms: [douyin]}
    when:
      - cpm < 12.50 yuan
      - any:
          - cvr > 2%
          - spend >= 80% of daily_budget
    window: {last: 6 hours, skip: 1 hour}
    guards: {impressions: 1000, spend: 50 yuan}
    hysteresis: 10%
    cool_down: 7 hours
    most_per_day: 2
    action:
      do: budget
      by: +20%
      ceiling: 5000 yuan
      daily_cap: 50%
    priority: 10
    schedule: {hours: 08:00-23:00}
    notify: [ads-ops]
"""


def written(path: Path, text: str) -> Path:
    file = path / "rules.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def faults(path: Path, text: str) -> list[str]:
    """What is wrong, without the name of the file."""
    file = written(path, text)
    with pytest.raises(Refused) as refused:
        read_rules(file, "Asia/Shanghai")
    assert refused.value.exit_code == 2
    assert all(fault.startswith(f"{file}:") and "\n" not in fault for fault in refused.value.faults)
    return [fault.removeprefix(f"{file}:") for fault in refused.value.faults]


def test_a_file_of_rules(tmp_path: Path) -> None:
    [rule] = read_rules(written(tmp_path, GOOD), "Asia/Shanghai")
    assert rule.scope.platforms == ("douyin",)
    assert [[str(each) for each in group] for group in rule.when] == [
        ["cpm < 12.50 yuan"],
        ["cvr > 2%", "spend >= 80% of daily_budget"],
    ]
    assert (rule.when[0][0].value, rule.when[1][0].value, rule.when[1][1].share) == (12_500_000, 20_000, 8_000)
    assert (rule.window.last, rule.window.skip) == ((6, "hour"), (1, "hour"))
    assert (rule.guards.spend, rule.cool_down, rule.hysteresis) == (50_000_000, 7 * 3_600_000, 1_000)
    assert (rule.action.by, rule.action.ceiling, rule.action.daily_cap) == (2_000, 5_000_000_000, 5_000)
    assert (rule.mode, rule.notify, rule.schedule.time_zone) == ("dry_run", ("ads-ops",), "Asia/Shanghai")
    assert Rule.model_validate(rule.model_dump()) == rule


def test_a_new_rule_is_a_dry_run_in_the_zone_of_the_settings(tmp_path: Path) -> None:
    text = GOOD.replace("    mode: dry_run\n", "").replace("    schedule: {hours: 08:00-23:00}\n", "")
    [rule] = read_rules(written(tmp_path, text), "Europe/Berlin")
    assert (rule.mode, rule.schedule.time_zone, rule.version) == ("dry_run", "Europe/Berlin", 1)


# Old text, new text, and the fault.
REFUSALS = [
    ("id: cheap", "id: 'che ap'", "2: rules[1].id: `che ap`: string should match"),
    ("id: cheap", "id: 7", "2: rules[1].id: `7` must be text; write it in quotes"),
    ("owner: lin", "owner:", "4: rules[1].owner: is empty; write it like `owner: lin`"),
    ("    owner: lin\n", "", "2: rules[1].owner: is missing; write it like `owner: lin`"),
    ("owner:", "ownr:", "2: rules[1].owner: is missing; write it like `owner: lin`"),
    ("owner: lin", "owner: lin\n    version: 0", "5: rules[1].version: `0` must be from 1 to"),
    ("mode: dry_run", "mode:", "5: rules[1].mode: is empty; write it like `mode: dry_run`"),
    ("cpm <", "CPM <", "9: rules[1].when[1]: there is no metric `CPM`; did you mean cpm?"),
    ("mode: dry_run", "mode: dry", "5: rules[1].mode: `dry` must be dry_run, notify or act"),
    ("level: campaign", "level: account", "6: rules[1].level: `account` must be campaign or ad_group"),
    ("[douyin]", "[tiktok]", "7: rules[1].scope.platforms[1]: `tiktok` must be douyin or kuaishou"),
    ("[douyin]", "[]", "7: rules[1].scope.platforms: is empty; name something, or leave it out"),
    ("[douyin]", "[douyin, douyin]", "7: rules[1].scope.platforms: names something twice"),
    ("[douyin]", "[douyin], ad_groups: [a]", "7: rules[1].scope.ad_groups: the rule is for campaigns; write `level:"),
    ("{platforms: [douyin]}", "douyin", "7: rules[1].scope: must have keys with values; write it like `scope: {plat"),
    ("cpm <", "cpmm <", "9: rules[1].when[1]: there is no metric `cpmm`; did you mean cpm? There are impressions,"),
    ("12.50 yuan", "12.50", "9: rules[1].when[1]: `12.50` is a bare number: is it yuan or micros? Write it like `12"),
    ("12.50 yuan", "12", "9: rules[1].when[1]: `12` is a bare number: is it yuan or micros? Write it like `12.50 yu"),
    ("12.50 yuan", "12.50 usd", "9: rules[1].when[1]: `12.50 usd` is not in yuan or micros; write it like `12.50 yu"),
    ("12.50 yuan", "0.1234567 yuan", "9: rules[1].when[1]: `0.1234567 yuan` has parts of a micro"),
    ("12.50 yuan", "-3 yuan", "9: rules[1].when[1]: `-3 yuan` must be from 0 to 1,000,000,000 yuan, without a sign"),
    ("12.50 yuan", "cheap yuan", "9: rules[1].when[1]: `cheap yuan` is no amount with a unit; write it like `12.50"),
    ("12.50 yuan", "²", "9: rules[1].when[1]: `²` is no amount with a unit; write it like `12.50 yuan`"),
    ("cpm < 12.50 yuan", "cpm", "9: rules[1].when[1]: `cpm` is no condition; write it like `cpm < 12.50 yuan`"),
    ("cpm < 12.50 yuan", "5", "9: rules[1].when[1]: `5` is no condition; write it like `cpm < 12.50 yuan`"),
    ("cpm < 12.50 yuan", "cpm != 12.50 yuan", "9: rules[1].when[1]: `!=` is no comparison here; write <, <=, > or >"),
    ("cpm < 12.50 yuan", "cpm = 12.50 yuan", "9: rules[1].when[1]: cpm is hardly ever equal to anything: write <,"),
    ("cpm < 12.50 yuan", "cpm < cvr", "9: rules[1].when[1]: cpm and cvr are not of one kind: a money and a rate"),
    ("cpm < 12.50 yuan", "cpm < 90% of cpm", "9: rules[1].when[1]: cpm is compared with itself; name a value"),
    ("cpm < 12.50 yuan", "clicks < 2%", "9: rules[1].when[1]: `2%` is no whole number, and clicks is a count; write"),
    ("cpm < 12.50 yuan", "cpm < 0 yuan", "9: rules[1].when[1]: `cpm < 0.00 yuan` can never hold: cpm is never below 0"),
    ("cvr > 2%", "cvr > 2", "11: rules[1].when[2].any[1]: `2` is a bare number: is it a share or percent? Write it"),
    ("cvr > 2%", "cvr > 2 yuan", "11: rules[1].when[2].any[1]: `2 yuan` is not in percent; write it like `20%`"),
    ("cvr > 2%", "cvr > 0.00001%", "11: rules[1].when[2].any[1]: `0.00001%` has more than 4 decimals"),
    ("cvr > 2%", "cvr > -2%", "11: rules[1].when[2].any[1]: cvr is never below 0%"),
    ("80% of daily_budget", "80% of dailybudget", "12: rules[1].when[2].any[2]: there is no metric `dailybudget`; d"),
    ("any:", "some:", "10: rules[1].when[2]: a group of choices is written `any:` with a list of conditions"),
    ("last: 6 hours, ", "", "13: rules[1].window.last: is missing; write it like `last: 6 hours`"),
    ("last: 6 hours", "last: today", "13: rules[1].window.last: `today` is no amount with a unit; write it like `30"),
    ("last: 6 hours", "last: 6", "13: rules[1].window.last: `6` is a bare number: is it minutes, hours or days? Wri"),
    ("last: 6 hours", "last: 6 weeks", "13: rules[1].window.last: `6 weeks` is not in minutes, hours or days; write"),
    ("last: 6 hours", "last: 1.5 hours", "13: rules[1].window.last: `1.5 hours` must be a whole number without a si"),
    ("last: 6 hours", "last: 0 hours", "13: rules[1].window.last: a window of no length never closes; write it like"),
    ("last: 6 hours", "last: 400 days", "13: rules[1].window.last: `400 days` is longer than 365 days"),
    ("{last: 6 hours, skip: 1 hour}", "{last: 91 days}", "13: rules[1].window.last: window and skip are longer than"),
    ("skip: 1 hour", "skip: 30 minutes", "13: rules[1].window.skip: 30 minutes is in another unit than 6 hours; wri"),
    ("impressions: 1000", "impressions: -1", "14: rules[1].guards.impressions: `-1` must be from 0 to"),
    ("impressions: 1000", "impressions: many", "14: rules[1].guards.impressions: `many` is no whole number"),
    ("impressions: 1000", "impresions: 1", "14: rules[1].guards.impresions: is not known here; did you mean impress"),
    ("spend: 50 yuan", "spend: 50", "14: rules[1].guards.spend: `50` is a bare number: is it yuan or micros? Write"),
    ("spend: 50 yuan", "spend: 0.5", "14: rules[1].guards.spend: `0.5` is a bare number: is it yuan or micros? Writ"),
    ("hysteresis: 10%", "hysteresis: 0%", "15: rules[1].hysteresis: `0%` must be above 0% and at most 1000%"),
    ("hysteresis: 10%", "hysteresis: 0.1", "15: rules[1].hysteresis: `0.1` is a bare number: is it a share or perce"),
    ("7 hours", "6 hours", "16: rules[1].cool_down: 6 hours is shorter than the window (6 hours, 1 hour left out):"),
    ("    cool_down: 7 hours\n", "", "2: rules[1].cool_down: 0 minutes is shorter than the window (6 hours, 1 hour"),
    ("most_per_day: 2", "most_per_day: 0", "17: rules[1].most_per_day: `0` must be from 1 to 1,440"),
    ("do: budget", "do: spend", "19: rules[1].action.do: `spend` must be budget, bid, pause or resume"),
    ("do: budget", "do: pause", "20: rules[1].action.by: a pause has no step; leave by out, or write `do: budget`"),
    ("by: +20%", "by: 20", "20: rules[1].action.by: `20` is a bare number: is it a share or percent? Write it like"),
    ("by: +20%", "by: +0%", "20: rules[1].action.by: `+0%` must be from -90% to +100%, and not 0; write it like `+2"),
    ("by: +20%", "by: -95%", "20: rules[1].action.by: `-95%` must be from -90% to +100%, and not 0"),
    ("by: +20%", "by: +0.001%", "20: rules[1].action.by: `+0.001%` has more than 2 decimals; leave out the last"),
    ("      by: +20%\n", "", "18: rules[1].action.by: is missing: by how much the budget changes; write it like `by"),
    ("      ceiling: 5000 yuan\n", "", "18: rules[1].action.ceiling: is missing: how high a budget may be raised;"),
    ("by: +20%", "by: -20%", "18: rules[1].action.floor: is missing: how low a budget may be cut; write it like `fl"),
    ("by: +20%", "by: +20%\n      floor: 5001 yuan", "21: rules[1].action.floor: 5,001.00 yuan is above the ceiling"),
    ("daily_cap: 50%", "daily_cap: 19%", "22: rules[1].action.daily_cap: 19% is below a step, +20%, so none"),
    ("priority: 10", "priority: high", "23: rules[1].priority: `high` is no whole number"),
    ("08:00-23:00", "8-23", "24: rules[1].schedule.hours: `8-23` is no part of a day; write it like `08:00-23:00`"),
    ("08:00-23:00", "08:00-25:00", "24: rules[1].schedule.hours: `08:00-25:00` is no part of a day; write it like"),
    ("08:00-23:00", "08:00-08:00", "24: rules[1].schedule.hours: `08:00-08:00` has no length; write it like"),
    ("08:00-23:00", "08:10-08:50", "24: rules[1].schedule.hours: a window of 6 hours never closes within 08:10-08:5"),
    ("{hours: 08:00-23:00}", "{days: [sunday]}", "24: rules[1].schedule.days[1]: `sunday` must be mon, tue, wed, th"),
    ("{hours: 08:00-23:00}", "{time_zone: Shanghai}", "24: rules[1].schedule.time_zone: `Shanghai` is no time zone;"),
    ("notify: [ads-ops]", "notify: []", "25: rules[1].notify: is empty; name something, or leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fault"), REFUSALS, ids=[f"{new} {line}"[:60] for _, new, line in REFUSALS])
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert GOOD.count(old) == 1
    found = faults(tmp_path, GOOD.replace(old, new))
    assert found[0].startswith(fault), found
    assert len(found) == (2 if "ownr" in new else 1), found
    if "ownr" in new:
        assert found[1].startswith("4: rules[1].ownr: is not known here; did you mean owner? There are id, version,")


def test_nobody_to_tell(tmp_path: Path) -> None:
    text = GOOD.replace("mode: dry_run", "mode: notify").replace("    notify: [ads-ops]\n", "")
    [fault] = faults(tmp_path, text)
    assert fault.startswith("2: rules[1].notify: is missing: the mode is notify and nobody is told; write it like")


def test_conditions_that_never_hold_together(tmp_path: Path) -> None:
    for old, new, fault in (
        (
            "- any:",
            "- cpm >= 12.50 yuan\n      - any:",
            "`cpm < 12.50 yuan` can never hold: `cpm >= 12.50 yuan`; change",
        ),
        (
            "- any:",
            "- impressions < 1,000\n      - any:",
            "`impressions < 1,000` can never hold: the guard wants 1,000;",
        ),
        (
            "- any:",
            "- clicks = 3\n      - clicks > 4\n      - any:",
            "`clicks = 3` can never hold: `clicks > 4`; change",
        ),
    ):
        [found] = faults(tmp_path, GOOD.replace(old, new))
        assert re.match(r"\d+: rules\[1\]\.when\[\d\]: ", found)
        assert fault in found
    for new in (
        "- cpm > 12.49 yuan\n      - any:",
        "- impressions <= 1,000\n      - any:",
        "- roi < -20%\n      - any:",
    ):
        assert read_rules(written(tmp_path, GOOD.replace("- any:", new)), "Asia/Shanghai")


def test_a_window_of_days_closes_at_midnight_only(tmp_path: Path) -> None:
    text = GOOD.replace("{last: 6 hours, skip: 1 hour}", "{last: 1 day}").replace("7 hours", "1 day")
    [fault] = faults(tmp_path, text)
    assert "a window of 1 day never closes within 08:00-23:00; one closes at every local midnight" in fault
    assert read_rules(written(tmp_path, text.replace("08:00-23:00", "22:00-02:00")), "Asia/Shanghai")


def test_all_that_is_wrong_is_said_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("cpm <", "cpmm <").replace("owner: lin", "owner: 3").replace("by: +20%", "by: 20")
    assert [fault.partition(":")[0] for fault in faults(tmp_path, text)] == ["4", "9", "20"]
    with pytest.raises(FanpulseError, match=r"rules\.yaml:4: .* \(and 2 more\)$"):
        read_rules(written(tmp_path, text), "Asia/Shanghai")


def test_an_id_is_there_once(tmp_path: Path) -> None:
    [fault] = faults(tmp_path, GOOD + GOOD.removeprefix("rules:\n"))
    assert fault == "26: rules[2].id: `cheap` is there already, in line 2; give it another one"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1: is no list of rules; write `rules:` and below it a list"),
        ("- id: a\n", "1: is no list of rules; write `rules:` and below it a list"),
        ("campaigns: []\n", "1: `rules:` is missing; write `rules:` and below it a list"),
        ("rules: []\n", "1: rules: must be a list with something in it; write `rules:` and below it a list"),
        ("rules: [1]\nmore: 1\n", "2: more: is not known here; write `rules:` and below it a list, and nothing else"),
        ("rules:\n  - cheap\n", "2: rules[1]: must have keys with values"),
    ],
)
def test_a_file_that_is_no_list_of_rules(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text) == [fault]


CAMPAIGNS = """\
campaigns:
  - campaign_id: c1
    platform: douyin
    creator_id: a
    daily_budget: 300 yuan
    total_budget: 9000 yuan
    ad_groups:
      - {ad_group_id: g1, bid: 0.80 yuan, state: paused}
      - {ad_group_id: g2}
  - campaign_id: c1
    platform: kuaishou
    creator_id: a
"""


def test_a_file_of_campaigns(tmp_path: Path) -> None:
    one, other = read_campaigns(written(tmp_path, CAMPAIGNS))
    assert (one.daily_budget, one.total_budget, one.bid, one.state) == (300_000_000, 9_000_000_000, None, "active")
    assert [(each.ad_group_id, each.bid, each.state) for each in one.ad_groups] == [
        ("g1", 800_000, "paused"),
        ("g2", None, "active"),
    ]
    assert (other.platform, other.ad_groups) == ("kuaishou", ())


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("300 yuan", "300", "5: campaigns[1].daily_budget: `300` is a bare number: is it yuan or micros?"),
        ("300 yuan", "9001 yuan", "5: campaigns[1].daily_budget: 9,001.00 yuan is above the total budget, 9,000.00"),
        ("state: paused", "state: off", "8: campaigns[1].ad_groups[1].state: `off` must be active, paused or ended"),
        ("ad_group_id: g2", "ad_group_id: g1", "7: campaigns[1].ad_groups: an ad group is there twice"),
        ("ad_group_id: g2", "id: g2", "9: campaigns[1].ad_groups[2].ad_group_id: is missing; write it like `ad_grou"),
        ("kuaishou", "douyin", "10: campaigns[2].campaign_id: `c1` is there already, in line 2; give it another one"),
    ],
)  # fmt: skip
def test_a_campaign_that_is_wrong(tmp_path: Path, old: str, new: str, fault: str) -> None:
    file = written(tmp_path, CAMPAIGNS.replace(old, new))
    with pytest.raises(Refused) as refused:
        read_campaigns(file)
    assert refused.value.faults[0].startswith(f"{file}:{fault}"), refused.value.faults


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_dry_runs_that_a_user_may_begin_with(name: str, tmp_path: Path) -> None:
    rules = read_rules(written(tmp_path, template(name)), "Asia/Shanghai")
    assert len(rules) == 3
    assert {rule.mode for rule in rules} == {"dry_run"}


def test_a_template_that_is_not_there() -> None:
    with pytest.raises(FanpulseError, match="no template ecommerce; did you mean e-commerce"):
        template("ecommerce")


def test_the_example_of_the_documentation_reads_back_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    text = re.findall(r"^```yaml\n(rules:.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    [rule] = read_rules(written(tmp_path, text), "Asia/Shanghai")
    assert f"```text\n{sentence(rule)}\n```" in page


def test_every_field_and_metric_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    names = [name for model in (Rule, Scope, Window, Guards, Action, Schedule) for name in model.model_fields]
    assert [name for name in [*names, *METRICS] if f"`{name}`" not in page] == []


def test_the_campaigns_of_the_documentation_are_campaigns(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```yaml\n(campaigns:.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [campaign] = read_campaigns(written(tmp_path, text))
    assert set(re.findall(r"(\w+):", text)) - {"campaigns"} == campaign.model_fields_set | {"ad_group_id"}


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_read_or_refused_in_one_line_a_fault(tmp_path: Path, data: st.DataObject) -> None:
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        key, colon, value = lines[number].partition(": ")
        other = lines[data.draw(st.integers(0, len(lines) - 1))].partition(": ")[2]
        odd = st.sampled_from(
            ["", "[]", "{}", "{any: []}", "[[cpm < 1 yuan]]", "-1", "1.5", "true", "'", "[1, {a: b}]", other]
        )
        lines[number] = data.draw(
            st.sampled_from(["", f"{key}{colon}{data.draw(odd)}", f"  {key}{colon}{value}", value])
        )
    with contextlib.suppress(FanpulseError):
        read_rules(written(tmp_path, "\n".join(lines)), "Asia/Shanghai")
        return
    with pytest.raises(FanpulseError, match=r"^[^\n]*rules\.yaml:\d+: [^\n]*$") as refused:
        read_rules(tmp_path / "rules.yaml", "Asia/Shanghai")
    assert all("\n" not in fault for fault in getattr(refused.value, "faults", ()))


def test_long_texts_are_cut(tmp_path: Path) -> None:
    [fault] = faults(tmp_path, GOOD.replace("owner: lin", f"owner: {'l' * 5000}"))
    assert len(fault) < 600
