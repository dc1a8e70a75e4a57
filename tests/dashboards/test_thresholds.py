"""One threshold for boards, Grafana's rules and alerts of the stream."""

import json
from importlib.resources import files

import pytest

from dashboards.alerts import RULES
from dashboards.thresholds import thresholds
from schemas.alerts import alert_policy


def test_what_the_stream_has_is_not_written_again() -> None:
    written = json.loads(files("dashboards").joinpath("thresholds.json").read_text("utf-8"))
    for name, entry in written.items():
        for of in entry.get("alert", {}):
            assert of not in entry, f"{name} has {of} twice"


def test_thresholds_follow_those_of_the_stream() -> None:
    limits = {kind: found.limits for kind, found in alert_policy({}).kinds.items()}
    found = thresholds()
    assert found["churn_rate"].warning == limits["churn_high"]["above"]
    assert found["churn_rate"].least == limits["churn_high"]["min_fans"]
    assert found["cpm_high"].critical == limits["cpm_high"]["above_micros"] / 1e6
    assert found["cpm_low"].critical == limits["cpm_low"]["below_micros"] / 1e6
    assert found["cvr_low"].critical == limits["cvr_low"]["below"]
    spend = limits["spend_without_conversions"]["min_cost_micros"] / 1e6
    assert found["spend_without_conversions"].critical == spend

    changed = thresholds(alert_policy({"churn_high": {"above": 0.08}}))
    assert changed["churn_rate"].limit == 0.08


@pytest.mark.parametrize("name", thresholds())
def test_colours_turn_from_good_to_bad(name: str) -> None:
    found = thresholds()[name]
    values = [value for value, _ in found.steps[1:]]
    colors = [color for _, color in found.steps]
    assert values == sorted(values)  # type: ignore[type-var]
    assert found.steps[0][0] is None
    assert (colors[0], colors[-1]) == (("green", "red") if found.worse == "above" else ("red", "green"))


def test_rules_ring_where_a_board_is_coloured() -> None:
    for rule in RULES:
        found = rule.against
        assert found.limit in [value for value, _ in found.steps], rule.uid
