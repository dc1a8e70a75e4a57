"""A decision in words: everything that it rests on, with units."""

from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fanpulse.control import Moment
from fanpulse.why import as_json, details, headline, lasting, paragraph, summary
from pipeline.decisions import Tally
from pipeline.rules import REASONS, Decision, Guard, Key, Outcome, Span
from schemas.quantities import MINUTE_MS, UNIT_MS, length
from schemas.rules import Rule

HOUR = 3_600_000
CLOSED = 1_768_881_600_000
"""Noon in Shanghai, UTC ms."""
ZONE = Moment("Asia/Shanghai")
PAGE = (Path(__file__).parents[1] / "docs" / "rules.md").read_text(encoding="utf-8")
SKIPPED = Decision(
    key=f"cheap:douyin:c1:{CLOSED}",
    rule_id="cheap",
    rule_version=2,
    mode="act",
    entity=Key("douyin", "c1"),
    window=Span(CLOSED - 7 * HOUR, CLOSED - HOUR),
    closed_at=CLOSED,
    kind="budget",
    outcome="skipped",
    reason="guards",
    figures={"cpm": 12_345_678, "cvr": None, "impressions": 1234},
    guards=(
        Guard("impressions", 5000, 1234, False),
        Guard("spend", 50_000_000, 60_000_000, True),
        Guard("age", 48 * HOUR, None, False),
        Guard("staleness", 15 * MINUTE_MS, 75_500, True),
    ),
)
RULE = Rule.model_validate(
    {
        "id": "cheap",
        "name": "n",
        "owner": "o",
        "level": "campaign",
        "when": ["cpm < 12 yuan", {"any": ["cvr > 2%", "clicks > 10"]}],
        "window": {"last": "6 hours", "skip": "1 hour"},
        "cool_down": "7 hours",
        "action": {"do": "budget", "by": "+20%", "ceiling": "1000 yuan"},
    }
)


def rules_of(page: str) -> tuple[Rule, ...]:
    """The rules of the example."""
    first = page.split("```yaml\n")[1].split("```")[0]
    return tuple(map(Rule.model_validate, yaml.safe_load(first)["rules"]))


def test_a_decision_in_words() -> None:
    assert headline(SKIPPED) == "did not fire: a guard does not hold"
    assert details(SKIPPED, RULE, ZONE) == [
        ("window", "2026-01-20 05:00 to 2026-01-20 11:00"),
        ("conditions", "cpm < 12.00 yuan and (cvr > 2% or clicks > 10)"),
        ("figures", "cpm 12.345678 yuan, cvr has no figure, impressions 1,234"),
        ("guard", "impressions 1,234, wants at least 5,000: does not hold"),
        ("guard", "spend 60.00 yuan, wants at least 50.00 yuan: holds"),
        ("guard", "age not known, wants at least 2 days: does not hold"),
        ("guard", "staleness 1 minute, wants at most 15 minutes: holds"),
        ("rule", "version 2, act"),
    ]
    assert [name for name, _ in details(SKIPPED._replace(figures={}, guards=()), None, ZONE)] == ["window", "rule"]


@pytest.mark.parametrize(
    ("changed", "said", "step"),
    [
        ({"outcome": "fired", "reason": ""}, "fired", "300.00 yuan -> 360.00 yuan"),
        (
            {"outcome": "clamped", "reason": "ceiling"},
            "fired, but clamped: the step goes beyond the ceiling",
            "300.00 yuan -> 360.00 yuan",
        ),
        ({"outcome": "dry_run", "reason": ""}, "would have fired", "300.00 yuan -> 360.00 yuan"),
        (
            {"reason": "outranked", "by": "stop", "after": 300_000_000},
            "did not fire: another rule wants the same, or a pause (stop)",
            "300.00 yuan",
        ),
    ],
)
def test_what_came_out_is_said_with_the_step(changed: dict[str, object], said: str, step: str) -> None:
    decision = SKIPPED._replace(**{"before": 300_000_000, "after": 360_000_000, **changed})  # type: ignore[arg-type]
    assert headline(decision) == said
    assert dict(details(decision, RULE, ZONE))["daily budget"] == step


def test_the_documentation_shows_a_decision_as_it_is() -> None:
    (rule,) = rules_of(PAGE)
    decision = SKIPPED._replace(
        mode="dry_run",
        entity=Key("douyin", "cmp_027_1"),
        figures={"cpm": 11_800_000, "cvr": None, "daily_budget": 300_000_000, "spend": 9_440_000},
        guards=(
            Guard("impressions", 1000, 800, False),
            Guard("spend", 50_000_000, 9_440_000, False),
            Guard("age", 48 * HOUR, 76 * HOUR + 1, True),
        ),
    )
    assert "\n```text\n" + "\n".join(paragraph(decision, rule, ZONE)) + "\n```\n" in PAGE


def test_every_outcome_and_reason_has_words() -> None:
    for outcome in get_args(Outcome):
        for reason in REASONS:
            assert headline(SKIPPED._replace(outcome=outcome, reason=reason)).endswith(REASONS[reason])


def test_a_day_is_summed_up_in_a_line() -> None:
    tally = Tally(
        datetime(2026, 1, 20, 4, tzinfo=UTC),
        {("skipped", "conditions"): 1200, ("skipped", "guards"): 3, ("fired", ""): 1},
        {"impressions": 3, "spend": 0, "age": 1},
    )
    assert summary(tally, ZONE) == (
        "1,204 decisions in the 24 hours up to 2026-01-20 12:00: conditions 1,200, guards 3 (impressions 3, age 1), "
        "fired 1"
    )


def test_json_has_amounts_in_micros_and_the_words() -> None:
    told = as_json(SKIPPED)
    assert told["figures"] == {"cpm": 12_345_678, "cvr": None, "impressions": 1234}
    assert (told["said"], told["campaign_id"], told["window"]) == (
        headline(SKIPPED),
        "c1",
        {"start": CLOSED - 7 * HOUR, "end": CLOSED - HOUR},
    )


@given(st.integers(0, 365 * 24 * HOUR))
def test_a_time_is_cut_off_and_never_rounded_up(ms: int) -> None:
    said = lasting(ms)
    if said == "less than a minute":
        assert 0 < ms < MINUTE_MS
        return
    words = said.split()
    parts = [length(" ".join(words[at : at + 2])) for at in range(0, len(words), 2)]
    left_out = MINUTE_MS if len(parts) == 1 else UNIT_MS[parts[-1].unit]
    assert 0 <= ms - sum(part.ms for part in parts) < left_out


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0, "0 minutes"),
        (1, "less than a minute"),
        (51 * HOUR + MINUTE_MS, "2 days 3 hours"),
        (24 * HOUR + MINUTE_MS, "1 day 1 minute"),
        (90 * MINUTE_MS + 59_999, "1 hour 30 minutes"),
    ],
)
def test_a_time_in_its_largest_units(ms: int, said: str) -> None:
    assert lasting(ms) == said
