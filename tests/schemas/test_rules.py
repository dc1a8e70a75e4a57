"""Amounts with units there and back, and the sentence that a rule reads back as."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.quantities import length, money, percent, show_money, show_ms, show_percent
from schemas.rules import METRICS, Condition, Hours, Rule, sentence, show

RAISE: dict[str, Any] = {
    "id": "cheap",
    "name": "Raise what is cheap",
    "owner": "lin",
    "level": "campaign",
    "when": ["cpm < 12.50 yuan", {"any": ["cvr > 2%", "spend >= 80% of daily_budget"]}],
    "window": {"last": "6 hours", "skip": "1 hour"},
    "guards": {"impressions": 1000, "spend": "50 yuan", "conversions": 5, "age": "2 days", "staleness": "15 minutes"},
    "hysteresis": "10%",
    "cool_down": "7 hours",
    "action": {"do": "budget", "by": "+20%", "ceiling": "5000 yuan", "daily_cap": "50%"},
    "scope": {"platforms": ["douyin"], "creators": ["a", "b"]},
    "schedule": {"days": ["fri", "mon"], "hours": "08:00-23:00"},
    "notify": ["ads-ops", "lin"],
}
PAUSE: dict[str, Any] = {
    "id": "idle",
    "name": "Pause what brings nothing",
    "owner": "lin",
    "mode": "act",
    "level": "ad_group",
    "when": ["conversions < 1"],
    "window": {"last": "1 day"},
    "most_per_day": 1,
    "action": {"do": "pause"},
    "scope": {"campaigns": ["c1"], "ad_groups": ["g1", "g2", "g3"]},
}
BID: dict[str, Any] = {
    "id": "bid",
    "name": "Bid",
    "owner": "lin",
    "mode": "notify",
    "level": "campaign",
    "when": ["cpa > target_cpa"],
    "window": {"last": "90 minutes"},
    "cool_down": "90 minutes",
    "most_per_day": 2,
    "action": {"do": "bid", "by": "-7.5%", "floor": "200000 micros"},
    "scope": {"campaigns": ["c1"]},
    "notify": "ads-ops",
}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            RAISE,
            "Every full hour on Mon and Fri from 08:00 to 23:00 (Asia/Shanghai), for every campaign of a or b on "
            "douyin: if over the last 6 hours, without the newest hour, CPM < 12.50 yuan and (CVR > 2% or spend "
            ">= 80% of daily budget), given at least 1,000 impressions, 5 conversions, 50.00 yuan spent and an "
            "age of 2 days, no later than 15 minutes, raise the daily budget by 20% up to 5,000.00 yuan and by at "
            "most 50% a day; at most 3 times a day, then rest 7 hours, and not again before the conditions have "
            "failed by 10%; tell ads-ops and lin. Dry run: it only says what it would do.",
        ),
        (
            PAUSE,
            "Every midnight (Asia/Shanghai), for ad group g1, g2 or g3 of campaign c1: if over the last day "
            "conversions < 1, pause it; at most once a day. It acts.",
        ),
        (
            BID,
            "Every minute (Asia/Shanghai), for campaign c1: if over the last 90 minutes CPA > target CPA, cut the "
            "bid by 7.5% down to 0.20 yuan; at most twice a day, then rest 90 minutes; tell ads-ops. It tells and "
            "does nothing.",
        ),
    ],
)
def test_a_rule_reads_back_as_a_sentence(rule: dict[str, Any], said: str) -> None:
    assert sentence(Rule.model_validate(rule)) == said


@pytest.mark.parametrize("rule", [RAISE, PAUSE, BID])
def test_a_rule_reads_back_as_it_was_written(rule: dict[str, Any]) -> None:
    made = Rule.model_validate(rule)
    assert Rule.model_validate(made.model_dump()) == made
    assert Rule.model_validate(made.model_dump(mode="json")) == made


@given(st.integers(0, 10**15))
def test_money_there_and_back(micros: int) -> None:
    assert money(show_money(micros)) == money(f"{micros} micros") == micros


@given(st.integers(-(10**9), 10**9), st.integers(1, 4))
def test_percent_there_and_back(parts: int, decimals: int) -> None:
    assert percent(show_percent(parts, decimals), decimals) == parts


@given(st.integers(0, 365 * 24 * 60))
def test_times_there_and_back(minutes: int) -> None:
    assert length(f"{minutes} minutes").ms == length(show_ms(minutes * 60_000)).ms == minutes * 60_000


@given(
    st.sampled_from(sorted(METRICS)),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.integers(0, 10**12),
    st.integers(1, 10**5),
)
def test_conditions_there_and_back(metric: str, operator: str, value: int, share: int) -> None:
    for other in (
        None,
        *(name for name in METRICS if name != metric and METRICS[name].measure == METRICS[metric].measure),
    ):
        right = show(metric, value) if other is None else f"{share / 100}% of {other}"
        made = Condition.model_validate(f"{metric} {operator} {right}")
        assert (made.value, made.share) == ((value, 10_000) if other is None else (0, share))
        assert Condition.model_validate(str(made)) == made


@pytest.mark.parametrize(
    ("text", "minute", "inside"),
    [("08:00-23:00", 480, True), ("08:00-23:00", 1380, False), ("22:00-02:00", 60, True), ("22:00-02:00", 120, False),
     ("22:00-24:00", 1439, True), ("22:00-02:00", 1320, True), ("08:00-23:00", 479, False)],
)  # fmt: skip
def test_hours_have_their_begin_and_not_their_end(text: str, minute: int, inside: bool) -> None:
    assert Hours.model_validate(text).has(minute) is inside
