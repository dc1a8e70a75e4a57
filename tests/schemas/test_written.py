"""What is written is read back, and what two say differently is said field by field."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.rule_files import TEMPLATES, read_campaigns, read_rules, template
from schemas.rules import Campaign, Rule
from schemas.written import differences, document, written

LABELS = st.sampled_from(
    ["Raise", "5000000 micros", "20%", "no", "007", "1e5", "a: b # c", " - ", "粉丝", "'\"", "~", "12:30"]
)
IDS = st.sampled_from(["c1", "5", "-3", "null", "true", "a.b", "c:1", "%41", "ag_1", "2026-03-01"])
YUAN = st.integers(0, 10**12).map(lambda micros: f"{micros} micros")
CONDITIONS = st.sampled_from(["cpm < 12.50 yuan", "cvr > 2%", "spend >= 80% of daily_budget", "impressions > 12,000"])
ANY = st.lists(CONDITIONS, min_size=1, max_size=3).map(lambda choices: {"any": choices})


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


RULES = st.builds(
    lambda base, extra, do: Rule.model_validate({**base, **extra, "action": do}),
    st.fixed_dictionaries(
        {
            "id": IDS,
            "version": st.integers(1, 2**31),
            "name": LABELS,
            "owner": LABELS,
            "level": st.just("ad_group"),
            "when": st.lists(st.one_of(CONDITIONS, ANY), min_size=1, max_size=3),
            "window": st.fixed_dictionaries({"last": st.sampled_from(["60 minutes", "1 hour", "2 days"])}),
            "cool_down": st.just("3 days"),
        }
    ),
    some(
        mode=st.sampled_from(["dry_run", "act"]),
        scope=some(
            platforms=st.just(["douyin"]),
            campaigns=st.lists(IDS, min_size=1, unique=True),
            ad_groups=st.lists(IDS, min_size=1, unique=True),
        ),
        guards=some(spend=YUAN, age=st.sampled_from(["90 minutes", "2 days"]), staleness=st.just("0 minutes")),
        hysteresis=st.sampled_from(["10%", "2.5%"]),
        most_per_day=st.integers(1, 1440),
        priority=st.integers(-1000, 1000),
        schedule=some(time_zone=st.sampled_from(["UTC", "Asia/Shanghai"]), days=st.just(["mon", "tue"])),
        notify=st.lists(LABELS, min_size=1, unique=True),
    ),
    st.one_of(
        st.just({"do": "pause"}),
        st.fixed_dictionaries({"do": st.just("bid"), "by": st.just("+12.5%"), "ceiling": YUAN}),
    ),
)
STEERED = {
    "bid": "0.80 yuan",
    "target_cpa": "20 yuan",
    "bidding": {"window": {"last": "6 hours"}, "floor": "0.20 yuan", "ceiling": "5 yuan", "mode": "act"},
    "ad_groups": [{"ad_group_id": "g1", "bid": "1 yuan"}],
}
CAMPAIGNS = st.builds(
    lambda base, extra, more: Campaign.model_validate({**base, **extra, **more}),
    st.fixed_dictionaries({"campaign_id": IDS, "platform": st.just("douyin"), "creator_id": IDS}),
    some(
        state=st.sampled_from(["active", "paused"]),
        daily_budget=YUAN,
        bid=YUAN,
        target_cpa=YUAN,
        created_at=st.just(1_767_225_600_000),
        ad_groups=st.lists(
            st.builds(
                lambda name, rest: {"ad_group_id": name, **rest},
                IDS,
                some(bid=YUAN, state=st.just("ended"), daily_budget=YUAN),
            ),
            max_size=3,
            unique_by=lambda group: str(group["ad_group_id"]),
        ),
    ),
    st.sampled_from([{}, {}, STEERED]),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written") / "file.yaml"


@settings(max_examples=50)
@given(rule=RULES)
def test_a_rule_is_read_back(file: Path, rule: Rule) -> None:
    file.write_text(document("rules", rule), encoding="utf-8")
    assert read_rules(file, "Europe/Berlin") == (rule,)


@settings(max_examples=50)
@given(campaign=CAMPAIGNS)
def test_a_campaign_is_read_back(file: Path, campaign: Campaign) -> None:
    file.write_text(document("campaigns", campaign), encoding="utf-8")
    assert read_campaigns(file) == (campaign,)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_read_back(file: Path, name: str) -> None:
    file.write_text(template(name), encoding="utf-8")
    rules = read_rules(file, "UTC")
    file.write_text(document("rules", *rules), encoding="utf-8")
    assert read_rules(file, "Asia/Shanghai") == rules


PAIRS: st.SearchStrategy[tuple[Any, Any]] = st.one_of(
    st.tuples(RULES, RULES), st.tuples(CAMPAIGNS, CAMPAIGNS), CAMPAIGNS.map(lambda campaign: (campaign, campaign))
)


def in_order(model: Rule | Campaign) -> Rule | Campaign:
    """Of a campaign, the order of ad groups says nothing."""
    if isinstance(model, Rule):
        return model
    return model.model_copy(update={"ad_groups": sorted(model.ad_groups, key=lambda group: group.ad_group_id)})


@settings(max_examples=50)
@given(PAIRS)
def test_only_what_is_equal_has_no_differences(pair: tuple[Any, Any]) -> None:
    one, another = pair
    there, back = differences(one, another), differences(another, one)
    assert (there == []) == (in_order(one) == in_order(another))
    assert {(each.field, each.before, each.after) for each in there} == {
        (each.field, each.after, each.before) for each in back
    }
    assert all(each.before != each.after for each in there)


RULE: dict[str, Any] = {
    "id": "cheap",
    "name": "Raise what is cheap",
    "owner": "lin",
    "level": "campaign",
    "when": ["cpm < 10 yuan", {"any": ["cvr > 2%", "clicks > 1000"]}],
    "window": {"last": "1 hour"},
    "cool_down": "2 hours",
    "action": {"do": "budget", "by": "+20%", "ceiling": "1000 yuan"},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mode": "act"}, ["mode: dry_run -> act"]),
        (
            {"when": ["cpm < 10 yuan"]},
            ["when: cpm < 10.00 yuan, (cvr > 2% or clicks > 1,000) -> cpm < 10.00 yuan"],
        ),
        ({"scope": {"campaigns": ["c1", "c2"]}}, ["scope.campaigns: none -> c1, c2"]),
        (
            {"guards": {"spend": "50 yuan"}, "hysteresis": "10%"},
            ["guards.spend: 0.00 yuan -> 50.00 yuan", "hysteresis: none -> 10%"],
        ),
        (
            {"action": {"do": "pause"}},
            ["action.do: budget -> pause", "action.by: +20% -> none", "action.ceiling: 1,000.00 yuan -> none"],
        ),
        ({"schedule": {"time_zone": "UTC"}}, ["schedule.time_zone: Asia/Shanghai -> UTC"]),
    ],
)
def test_differences_are_said_by_field(changed: dict[str, Any], said: list[str]) -> None:
    before, after = Rule.model_validate(RULE), Rule.model_validate({**RULE, **changed})
    assert list(map(str, differences(before, after))) == said


def test_ad_groups_differ_one_by_one() -> None:
    def campaign(*groups: dict[str, Any]) -> Campaign:
        return Campaign.model_validate(
            {"campaign_id": "c1", "platform": "douyin", "creator_id": "a", "ad_groups": list(groups)}
        )

    before = campaign({"ad_group_id": "g1", "bid": "0.80 yuan"}, {"ad_group_id": "g2"})
    after = campaign({"ad_group_id": "g3", "bid": "1 yuan"}, {"ad_group_id": "g1", "bid": "0.75 yuan"})
    assert list(map(str, differences(before, after))) == [
        "ad_groups.g1.bid: 0.80 yuan -> 0.75 yuan",
        "ad_groups.g2: state active -> none",
        "ad_groups.g3: none -> state active, bid 1.00 yuan",
    ]
    assert next(map(str, differences(campaign(), before))) == "ad_groups.g1: none -> state active, bid 0.80 yuan"


def test_what_is_left_at_its_default_is_left_out() -> None:
    assert written(Campaign.model_validate({"campaign_id": "c1", "platform": "douyin", "creator_id": "a"})) == {
        "campaign_id": "c1",
        "platform": "douyin",
        "creator_id": "a",
        "state": "active",
    }
