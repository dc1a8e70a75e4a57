"""A/B tests: figures, intervals and verdicts of sums that are known, and what holds of all sums."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.experiments import LIFTS, SAME, blocks, experiment, spoke
from pipeline.experiments import Block, Comparison, Interval, Outcome, Shortfall, Sums, Totals, evaluate, interval
from schemas.experiments import Experiment

FIRST = date(2026, 3, 2)


def made(metric: str = "cvr", arms: Sequence[str] = ("old", "new"), **fields: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "id": "e",
            "name": "e",
            "platform": "douyin",
            "metric": metric,
            "from": FIRST,
            "arms": {arm: (f"group of {arm}",) for arm in arms},
            "control": arms[0],
            "guards": {"days": 3, "clicks": 0, "conversions": 0},
        }
        | fields
    )


def days(*sums: tuple[Sums, ...], arms: Sequence[str] = ("old", "new")) -> list[Block]:
    return [Block(FIRST + timedelta(number), dict(zip(arms, each, strict=True))) for number, each in enumerate(sums)]


def bought(clicks: int, conversions: int) -> Sums:
    return Sums(50 * clicks, clicks, conversions, 1_000_000 * clicks, 70_000_000 * conversions)


counts = st.builds(
    lambda impressions, clicks, conversions, cost, value: Sums(impressions, clicks, conversions, cost, value),
    st.integers(0, 10**6),
    st.integers(0, 10**4),
    st.integers(0, 10**3),
    st.integers(0, 10**10),
    st.integers(0, 10**11),
)
tests = st.builds(
    lambda metric, arms, several: (
        made(metric, tuple("abc"[:arms])),
        days(*(each[:arms] for each in several), arms="abc"[:arms]),
    ),
    st.sampled_from(("ctr", "cvr", "roi")),
    st.integers(2, 3),
    st.lists(st.tuples(counts, counts, counts), max_size=12),
)


def only(outcome: Outcome) -> Comparison:
    (one,) = outcome.comparisons
    return one


# What is known by hand.


def test_figures_are_ratios_of_sums() -> None:
    some = days((Sums(1000, 20, 3, 40_000_000, 60_000_000), Sums(500, 30, 2, 0, 0)), (Sums(1000, 10), Sums(500)))
    figures = {metric: [arm.figure for arm in evaluate(made(metric), some).arms] for metric in ("ctr", "cvr", "roi")}
    assert figures == {"ctr": [30 / 2000, 30 / 1000], "cvr": [3 / 30, 2 / 30], "roi": [0.5, None]}


def test_the_difference_is_taken_day_by_day() -> None:
    # The new arm has the higher share on both days, and the lower one in all, since most of its clicks came on the
    # worse day.
    outcome = evaluate(made(), days((bought(1000, 100), bought(100, 11)), (bought(100, 2), bought(1000, 30))))
    old, new = outcome.arms
    assert (old.figure, new.figure) == (102 / 1100, 41 / 1100)
    assert only(outcome).difference == pytest.approx(0.01)


def test_the_interval_is_that_of_the_formula() -> None:
    x, w = np.array([3.0, 5.0, 4.0, 9.0, 5.0, 6.0, 4.0, 7.0]), np.array([100.0, 110, 90, 210, 100, 120, 100, 140])
    totals = Totals(8, w.sum(), x.sum(), (x**2 / w).sum(), (x**2).sum(), (x * w).sum(), (w**2).sum())
    figure, unit = x.sum() / w.sum(), 105.0
    c, n = unit / (unit + w.sum()), w.sum() ** 2 / (w**2).sum()
    k = (1 / (c * 0.05**2)) ** (1 / n)
    rest = (x - figure * w) ** 2
    v = max((rest / w).sum() / w.sum(), 8 * rest.sum() / w.sum() ** 2)
    half = math.sqrt((k - 1) / (1 - c * k) * v)
    found = interval(totals, unit, 0.05)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((figure - half, figure + half))


def test_of_equal_blocks_it_is_the_mixture_of_normals_on_effects() -> None:
    # A look says that there is an effect where the Bayes factor of N(0, s^2 / u) against 0, with right Haar prior for
    # s, is 1 / alpha: then 0 is an end of the interval.
    z = np.array([1.0, 3.0, 2.0, 2.5, 0.5, 3.5, 2.0, 1.5, 2.0, 2.5])
    n, unit = len(z), 1.0
    grid = np.linspace(-12, 12, 200_001)
    # Density of z given the effect g in units of s, s integrated out, is a function of sum z and sum z^2; by its
    # logarithm on a grid of s.
    log_s = np.linspace(-3, 5, 4001)
    s = np.exp(log_s)[:, None]
    coarse = grid[::400]
    exponent = -n * log_s[:, None] - ((z**2).sum() / s**2 - 2 * coarse * z.sum() / s + n * coarse**2) / 2
    density = np.trapezoid(np.exp(exponent), log_s, axis=0)
    prior = np.sqrt(unit / (2 * math.pi)) * np.exp(-unit * coarse**2 / 2)
    factor = np.trapezoid(density * prior, coarse) / np.interp(0.0, coarse, density)
    totals = Totals(n, n, z.sum(), (z**2).sum(), (z**2).sum(), z.sum(), n)
    found = interval(totals, unit, 1 / factor)
    assert found is not None
    assert found.low == pytest.approx(0, abs=0.01)


def test_what_comes_without_clicks_belongs_to_the_day_before() -> None:
    late = days((bought(100, 4), bought(100, 5)), (bought(100, 3), bought(100, 2)), (bought(0, 2), bought(50, 1)))
    moved = days((bought(100, 4), bought(100, 5)), (bought(100, 5), bought(100, 2)), (bought(0, 0), bought(50, 1)))
    one, other = evaluate(made(), late), evaluate(made(), moved)
    assert (one.arms[0].figure, one.arms[0].days) == (9 / 200, 2)
    assert (one.arms[0].figure, only(one).difference) == (other.arms[0].figure, only(other).difference)


def test_what_comes_before_the_first_click_belongs_to_it() -> None:
    early = days((bought(0, 2), bought(10, 1)), (bought(100, 3), bought(100, 2)))
    assert evaluate(made(), early).arms[0].figure == 5 / 100


def test_arms_are_compared_on_days_on_which_both_ran() -> None:
    both = [(bought(100, 4), bought(100, 5)), (bought(100, 3), bought(120, 7))]
    alone = [(bought(900, 400), bought(0, 0))]
    assert only(evaluate(made(), days(*both, *alone))).difference == only(evaluate(made(), days(*both))).difference


def test_days_outside_are_left_out() -> None:
    some = days(*[(bought(100, 4), bought(100, 5))] * 6)
    outcome = evaluate(made(**{"from": FIRST + timedelta(1), "to": FIRST + timedelta(3)}), some)
    assert (outcome.day, outcome.arms[0].sums.clicks) == (FIRST + timedelta(3), 300)


def test_it_says_what_is_missing() -> None:
    wants = made(guards={"days": 3, "clicks": 250, "conversions": 11, "cost": "500 yuan"})
    outcome = evaluate(wants, days(*[(bought(100, 4), bought(100, 5))] * 2))
    assert outcome.arms[0].lacks == (
        Shortfall("days", 2, 3),
        Shortfall("clicks", 200, 250),
        Shortfall("conversions", 8, 11),
        Shortfall("cost", 200_000_000, 500_000_000),
    )
    assert only(outcome).verdict == "not enough data"


def test_without_a_block_there_is_nothing() -> None:
    outcome = evaluate(made(), [])
    assert outcome.day is None
    assert [arm.figure for arm in outcome.arms] == [None, None]
    assert only(outcome) == Comparison("new", None, None, None, "not enough data", None, False)


def test_days_that_do_not_differ_say_nothing_of_chance() -> None:
    outcome = evaluate(made(), days(*[(bought(100, 4), bought(100, 5))] * 20))
    assert [arm.interval for arm in outcome.arms] == [None, None]
    assert only(outcome).verdict == "not enough data"


def test_more_arms_widen_intervals_as_bonferroni_has_it() -> None:
    rng = np.random.default_rng(1)
    four = blocks(rng, SAME["CVR, three challengers"])
    two = [replace(block, sums={arm: block.sums[arm] for arm in ("a0", "a1")}) for block in four]
    many = evaluate(experiment(SAME["CVR, three challengers"], 0.03), four)
    few = evaluate(experiment(SAME["CVR"], 0.01), two)
    assert len(many.comparisons) == 3
    assert replace(only(few), arm="a1") == many.comparisons[0]


def test_a_difference_that_turns_round_is_no_verdict() -> None:
    rng = np.random.default_rng(2)
    shift = [(bought(20_000, 400 + int(rng.integers(9))), bought(20_000, 700 - 25 * day)) for day in range(40)]
    one = only(evaluate(made(), days(*shift)))
    assert (one.changed, one.verdict, one.decided) == (True, "no difference shown yet", None)


# What holds of all sums.


@settings(deadline=None)
@given(tests)
def test_intervals_contain_their_figures(test: tuple[Experiment, list[Block]]) -> None:
    outcome = evaluate(*test)
    for figure, between in [(each.figure, each.interval) for each in outcome.arms] + [
        (each.difference, each.interval) for each in outcome.comparisons
    ]:
        if between is not None:
            assert figure is not None
            assert between.low <= figure <= between.high


@settings(deadline=None)
@given(tests)
def test_what_is_left_never_widens_and_a_verdict_stays(test: tuple[Experiment, list[Block]]) -> None:
    wants, some = test
    before: dict[str, Interval] = {}
    decided: dict[str, tuple[str, date | None]] = {}
    for count in range(len(some) + 1):
        for one in evaluate(wants, some[:count]).comparisons:
            if one.changed:
                before.pop(one.arm, None)
                decided.pop(one.arm, None)
            elif one.narrowest is not None:
                assert one.arm not in before or before[one.arm].meet(one.narrowest) == one.narrowest
                before[one.arm] = one.narrowest
                if one.arm in decided:
                    assert (one.verdict, one.decided) == decided[one.arm]
                if one.verdict in ("better", "worse"):
                    decided[one.arm] = one.verdict, one.decided
            assert one.arm not in before or one.narrowest is not None


@settings(deadline=None)
@given(tests, st.integers(0, 13), st.integers(0, 20_000), st.integers(0, 2000), st.integers(0, 10**10))
def test_no_verdict_before_the_guards_are_met(
    test: tuple[Experiment, list[Block]], least_days: int, clicks: int, conversions: int, cost: int
) -> None:
    wants = test[0].model_copy(
        update={
            "guards": test[0].guards.model_copy(
                update={"days": max(3, least_days), "clicks": clicks, "conversions": conversions, "cost": cost}
            )
        }
    )
    outcome = evaluate(wants, test[1])
    arms = {arm.name: arm for arm in outcome.arms}
    for one in outcome.comparisons:
        met = all(
            arm.days >= max(3, least_days)
            and arm.sums.clicks >= clicks
            and arm.sums.conversions >= conversions
            and arm.sums.cost_micros >= cost
            for arm in (arms[one.arm], arms["a"])
        )
        if not met:
            assert (one.verdict, one.narrowest, one.decided) == ("not enough data", None, None)
    assert all(not arm.lacks or arm.interval is None for arm in outcome.arms)


@settings(deadline=None)
@given(tests)
def test_swapping_the_arms_turns_the_difference_round(test: tuple[Experiment, list[Block]]) -> None:
    wants, some = test
    assume(len(wants.arms) == 2)
    one, other = only(evaluate(wants, some)), only(evaluate(wants.model_copy(update={"control": "b"}), some))
    turned = {"better": "worse", "worse": "better"}
    assert other.verdict == turned.get(one.verdict, one.verdict)
    assert other.decided == one.decided
    assert (one.difference is None) == (other.difference is None)
    if one.difference is not None and other.difference is not None:
        assert other.difference == -one.difference
    for mine, yours in ((one.interval, other.interval), (one.narrowest, other.narrowest)):
        assert (mine is None) == (yours is None)
        if mine is not None and yours is not None:
            assert (yours.low, yours.high) == (-mine.high, -mine.low)


@settings(deadline=None)
@given(tests, st.integers(2, 1000))
def test_another_unit_of_money_changes_nothing(test: tuple[Experiment, list[Block]], factor: int) -> None:
    wants, some = test
    scaled = [
        Block(
            block.day,
            {
                arm: replace(
                    sums,
                    cost_micros=sums.cost_micros * factor,
                    conversion_value_micros=sums.conversion_value_micros * factor,
                )
                for arm, sums in block.sums.items()
            },
        )
        for block in some
    ]
    one, other = evaluate(wants, some), evaluate(wants, scaled)
    for mine, yours in zip(one.comparisons, other.comparisons, strict=True):
        assert (mine.difference is None) == (yours.difference is None)
        if mine.difference is not None:
            assert yours.difference == pytest.approx(mine.difference, rel=1e-9, abs=1e-9)
        assert (mine.interval is None) == (yours.interval is None)


@settings(deadline=None)
@given(tests)
def test_a_block_without_anything_changes_nothing(test: tuple[Experiment, list[Block]]) -> None:
    wants, some = test
    padded = [each for block in some for each in (block, Block(block.day, {}))]
    assert evaluate(wants, padded) == evaluate(wants, some)


# What is likely.


@pytest.mark.parametrize("name", ["CVR", "ROI", "CVR, the same, budgets raised to six times"])
def test_without_a_difference_few_tests_ever_speak(name: str) -> None:
    rng = np.random.default_rng(11)
    many = 200
    spoken = sum(spoke(evaluate(experiment(SAME[name]), blocks(rng, SAME[name]))) for _ in range(many))
    assert spoken <= 0.05 * many


def test_a_large_difference_is_found() -> None:
    market, _ = LIFTS["CVR"]
    rng = np.random.default_rng(12)
    found = [only(evaluate(experiment(market), blocks(rng, market, 0.3))).verdict for _ in range(40)]
    assert found.count("better") >= 38


def test_all_intervals_of_a_test_contain_the_truth() -> None:
    # What the narrowest interval covers, all cover.
    rng = np.random.default_rng(13)
    many, lift, missed = 200, 0.2, 0
    for _ in range(many):
        some = []
        for _ in range(28):
            rate = 0.02 * math.exp(rng.normal(0, 0.1))
            clicks = rng.poisson(3000, 2)
            some.append(
                (
                    bought(int(clicks[0]), int(rng.binomial(clicks[0], rate))),
                    bought(int(clicks[1]), int(rng.binomial(clicks[1], rate + lift * 0.02))),
                )
            )
        one = only(evaluate(made(guards={"days": 7}), days(*some)))
        missed += one.changed or one.narrowest is None or not one.narrowest.low <= lift * 0.02 <= one.narrowest.high
    assert missed <= 0.05 * many
